"""Serve deployments and their wiring: plain actor classes become deployments here, and only here.

``settings`` is what they are told, ``placement`` how they are reached, ``backends`` binds them.
"""
