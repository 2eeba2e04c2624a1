"""The outbox in Postgres, as one relay sees it: adapter of ``domain.events.ports.Outbox``.

One dedicated connection carries everything a relay does with the outbox. It holds session advisory locks:
one shared by all relays (membership) and one per owned shard. Postgres frees them when the session ends,
however it ends, and because reads run in the same session, a relay cannot read a shard that it has lost.
Any error ends the session: it costs a reconnect, and no ownership is ever in doubt.

Sessions of relays that hang end as well: the server drops one that is idle for ``IDLE_TIMEOUT_MS`` or whose
machine is gone (keepalives). The DSN must lead to Postgres itself, not to a pooler in transaction mode.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from domain.events.errors import SessionLostError
from domain.events.ports import EventRecord, OutboxRow, ShardLag, Span, Standing
from storage.market.pool import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "outbox.sql").items()}
LOCK_CLASS = 0x6F757462  # "outb": the first half of the two-part advisory lock keys
MEMBERSHIP = 1_000  # the second half that every relay shares; shards use their own numbers
STATEMENT_TIMEOUT_MS = 5_000  # every query here touches a bounded number of rows by an index
IDLE_TIMEOUT_MS = 15_000  # a relay speaks every half second, and while it publishes within 8 s
# Every query is a look-up by key. A plan that was made, and kept, while the tables were nearly empty must not
# turn into a scan of them when they no longer are.
PLANNER = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off"
COUNTED_MAX = 10_000  # rows per shard that are counted: beyond it the age says all there is to say
HISTORY_PAGE_MAX = 1_000  # orders queued by one statement, which holds their locks for some milliseconds


class PostgresOutbox:
    """One relay's session; see the port for the contract. Not safe for concurrent use, like a connection."""

    def __init__(self, dsn: str, *, name: str = "outbox-relay") -> None:
        self._dsn = dsn
        self._name = name
        self._connection: AsyncConnection[TupleRow] | None = None

    async def join(self) -> None:
        """Connect and become a member; an earlier session is ended first."""
        await self.leave()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                self._connection = await AsyncConnection.connect(
                    self._dsn,
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    application_name=self._name,
                    prepare_threshold=0,
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=3,
                    tcp_user_timeout=int(ANSWER_TIMEOUT_S * 1_000),
                    options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
                    f"-c idle_session_timeout={IDLE_TIMEOUT_MS} {PLANNER} "
                    "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3",
                )
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise SessionLostError(type(error).__name__) from error
        await self._fetch("join_relays", {"lock_class": LOCK_CLASS, "membership": MEMBERSHIP})

    async def leave(self) -> None:
        """Close the connection: the server frees the locks."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def standing(self) -> Standing:
        """Read the locks of all relays of this database."""
        rows = await self._fetch("standing", {"lock_class": LOCK_CLASS, "membership": MEMBERSHIP})
        return Standing(rows[0][0], frozenset(rows[0][1]))

    async def take(self, shard: int) -> bool:
        """Try the shard's lock."""
        rows = await self._fetch("take_shard", {"lock_class": LOCK_CLASS, "shard": shard})
        return bool(rows[0][0])

    async def release(self, shard: int) -> None:
        """Free the shard's lock."""
        await self._fetch("release_shard", {"lock_class": LOCK_CLASS, "shard": shard})

    async def read(
        self, shards: Sequence[int], rows_per_shard: int, without: Sequence[str]
    ) -> Sequence[OutboxRow]:
        """Read the first rows of each shard, sorted by position."""
        rows = await self._fetch(
            "read_outbox",
            {"shards": list(shards), "rows_per_shard": rows_per_shard, "without": list(without)},
        )
        return [OutboxRow(*row) for row in rows]

    async def load(self, spans: Sequence[Span]) -> Sequence[EventRecord]:
        """Load events by order and number."""
        rows = await self._fetch("load_events", {"spans": orjson.dumps(spans).decode()})
        return [EventRecord(*row) for row in rows]

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Delete published rows."""
        await self._run("delete_published", {"rows": orjson.dumps(rows).decode()})

    async def lag(self, shards: Sequence[int]) -> Sequence[ShardLag]:
        """Measure what waits; rows are counted up to ``COUNTED_MAX``."""
        rows = await self._fetch("lag", {"shards": list(shards), "counted_max": COUNTED_MAX})
        return [ShardLag(*row) for row in rows]

    async def _fetch(self, name: str, values: Mapping[str, Any]) -> list[TupleRow]:
        return await (await self._run(name, values)).fetchall()

    async def _run(self, name: str, values: Mapping[str, Any]) -> psycopg.AsyncCursor[TupleRow]:
        if self._connection is None:
            raise SessionLostError("there is none")
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._connection.execute(SQL[name], values)
        except (psycopg.Error, OSError, TimeoutError) as error:
            await self.leave()
            raise SessionLostError(f"{type(error).__name__} at {name}") from error


async def enqueue_history(pool: Pool, after: str, limit: int = HISTORY_PAGE_MAX) -> str | None:
    """Publish all events of the orders with ids above ``after`` again, one page of them.

    Returns where the next page begins, None after the last. Consumers that know the events drop them; one
    that was added later gets its history. Raises ``DependencyError``.
    """
    rows = await fetch(pool, SQL["enqueue_history"], {"after": after, "limit": min(limit, HISTORY_PAGE_MAX)})
    last, count = rows[0]
    return last if count == min(limit, HISTORY_PAGE_MAX) else None
