"""Deletes what has served its time, in bounded batches: adapter of ``actors.orders.housekeeping``.

Ages are judged by the database's clock. How long a thing is kept is decided by the caller. Refused: to delete
a webhook that was not processed, whatever its age.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from storage.market.pool import ANSWER_TIMEOUT_S, Pool, borrow
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "housekeeping.sql").items()}
LOCK = 0x686F757365  # "house": one advisory lock per database, in the one-part key space
ALONE_S_MAX = ANSWER_TIMEOUT_S  # a lent connection is taken back after it, and the lock ends with that


class PostgresHousekeeping:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Yield whether no other process keeps house meanwhile; the block has ``ALONE_S_MAX`` seconds.

        The lock lies in a transaction that does nothing else: it holds no rows and keeps no vacuum back.
        """
        async with borrow(self._pool) as connection, connection.transaction():
            row = await (await connection.execute(SQL["be_alone"], {"lock": LOCK})).fetchone()
            yield row is not None and row[0]

    async def purge_commands(self, kept_days: int, limit: int) -> int:
        """Delete up to ``limit`` idempotency keys, oldest first; returns how many."""
        return await self._purge("purge_commands", kept_days, limit)

    async def purge_webhooks(self, kept_days: int, limit: int) -> int:
        """Delete up to ``limit`` processed webhooks, oldest first; returns how many."""
        return await self._purge("purge_webhooks", kept_days, limit)

    async def purge_delivery_links(self, kept_days: int, limit: int) -> int:
        """Delete up to ``limit`` records of links to deliveries, oldest first, and old counts of them."""
        return await self._purge("purge_delivery_links", kept_days, limit)

    async def _purge(self, name: str, kept_days: int, limit: int) -> int:
        async with borrow(self._pool) as connection:
            return (await connection.execute(SQL[name], {"kept_days": kept_days, "limit": limit})).rowcount
