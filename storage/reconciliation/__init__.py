"""Readers of the three sources for a reconciliation, the spool between them, and the cases it keeps.

Synchronous: a run works in a thread of its own, beside whatever serves.
"""
