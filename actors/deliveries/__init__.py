"""Deliveries beyond the order's own commit.

joining    one age file out of header and payload, inside S3, for clients that want a single link
upkeep     what lies in S3 and has served its time is deleted
"""
