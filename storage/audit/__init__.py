"""Reads for the invariant checker: Postgres (orders, Finance) page by page, Stripe's charges in full.

Only reads, by roles that may read; nothing here is on the path of an order.
"""
