"""Consumers' progress in Postgres: adapter of ``domain.events.ports.ConsumerStore``.

Progress moves by compare-and-set in the transaction in which the projection writes, so two instances of a
consumer may run the same events at once and one of them wins. Rows of orders that went quiet are settled:
deleted, with the time up to which that is so on record (see ``settle`` and docs/events.md). What operators do
about parked events is in ``storage.market.dead_letters``.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from domain.events import SHARDS
from domain.events.errors import ProgressMovedError
from domain.events.ports import Advance, Failure, Progress
from domain.ids import RANDOM_BYTES, new_id
from storage.market.pool import Pool, borrow, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "consumers.sql").items()}


class PostgresConsumerStore:
    """See the port for the contract; raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool, clock: Callable[[], datetime]) -> None:
        self._pool = pool
        self._clock = clock

    async def progress(self, consumer: str, order_ids: Sequence[str]) -> Mapping[str, Progress]:
        """Look up how far the consumer is with these orders."""
        values = {"consumer": consumer, "order_ids": orjson.dumps(list(order_ids)).decode()}
        rows = await fetch(self._pool, SQL["progress"], values)
        return {order_id: Progress(*rest) for order_id, *rest in rows}

    @asynccontextmanager
    async def advancing(
        self, consumer: str, advances: Sequence[Advance]
    ) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """Open a transaction, move progress, hand the connection to the projection, commit."""
        steps = [
            {
                "order_id": advance.order_id,
                "from_seq": advance.progress.seq,
                "to_seq": advance.to_seq,
            }
            for advance in advances
        ]
        values = {"consumer": consumer, "steps": orjson.dumps(steps).decode()}
        async with borrow(self._pool) as connection, connection.transaction():
            moved = await (await connection.execute(SQL["advance"], values)).fetchone()
            if moved is None or moved[0] != len(advances):
                raise ProgressMovedError(consumer)
            yield connection

    async def record_failure(self, consumer: str, failure: Failure) -> bool:
        """Count a failure of the event after the progress, or park it; returns whether it is parked now."""
        values = {
            "consumer": consumer,
            "order_id": failure.order_id,
            "seq": failure.seq,
            "code": failure.code,
            "error": failure.error,
            "parked": failure.parked,
        }
        async with borrow(self._pool) as connection, connection.transaction():
            # Two statements: the second must see, and lock, the row that the first may have made.
            await connection.execute(SQL["begin_progress"], values)
            rows = await (await connection.execute(SQL["record_failure"], values)).fetchall()
        return bool(rows) and bool(rows[0][0])

    async def settle(self, consumer: str, quiet_s: float, limit: int, after: str) -> str | None:
        """Delete progress of orders whose events are all taken and older than ``quiet_s``, one page.

        Returns the order id after which the next page begins, None at the end. Registers the consumer at
        the first call, and begins to settle ``quiet_s`` later.
        """
        # Ids carry their time: an order younger than the cut-off cannot have been quiet for so long.
        cutoff = self._clock() - timedelta(seconds=quiet_s)
        younger = new_id("ord", int(cutoff.timestamp() * 1_000), bytes(RANDOM_BYTES))
        values = {
            "consumer": consumer,
            "quiet_s": quiet_s,
            "limit": limit,
            "after": after,
            "younger": younger,
            "shards": list(range(SHARDS)),
        }
        if not after:
            await self._run("register", {"consumer": consumer})
        rows = await fetch(self._pool, SQL["settle"], values)
        last, count = rows[0]
        return last if count == limit else None

    async def parked(self) -> Mapping[str, int]:
        """Count parked events by consumer; consumers without any are left out."""
        return dict(await fetch(self._pool, SQL["count_parked"], {}))

    async def _run(self, name: str, values: Mapping[str, Any]) -> None:
        async with borrow(self._pool) as connection:
            await connection.execute(SQL[name], values)
