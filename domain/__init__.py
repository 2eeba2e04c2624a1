"""The marketplace's rules, pure: orders, money, policy, licences, manifests, ledger.

This package imports the standard library alone: no clock, no I/O, no Ray, no asyncio. Time, ids and
randomness arrive as arguments. ``tests/architecture`` proves it.
"""
