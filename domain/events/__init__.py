"""Order events on their way out: which shard of the outbox an order's events travel in.

All events of one order share a shard, a shard has one relay at a time, and so each order's events leave in
order. The function is part of the database's contents: changing it, or ``SHARDS``, needs an empty outbox.
"""

import zlib

SHARDS = 16  # relays that can work at once; more would only shrink the batches of a small installation


def shard_of(order_id: str) -> int:
    """Return the outbox shard of an order: 0 to ``SHARDS`` - 1, the same in every process and build."""
    return zlib.crc32(order_id.encode()) % SHARDS
