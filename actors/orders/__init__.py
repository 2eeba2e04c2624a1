"""The order's actor.

``host`` runs commands, ``effects`` does outside work, ``sweep`` finishes what a dead host left.
"""
