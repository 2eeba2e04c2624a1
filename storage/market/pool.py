"""One bounded pool of Postgres connections per process.

Autocommit: every named query is a whole transaction in one statement, so a commit costs one round trip.
Statements are prepared at first use. ``NullPool`` and pgbouncer are not supported (docs/limits.md).
"""

import asyncio
import select
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from domain.errors import BusyError, DependencyError

CONNECT_TIMEOUT_S = 5  # a database that does not answer by then is down
WAIT_TIMEOUT_S = 5.0  # queueing longer than this for a connection only moves the failure later
STATEMENT_TIMEOUT_MS = 5_000  # every query here is an index look-up or one insert
RECONNECT_TIMEOUT_S = 2.0
LOCK_TIMEOUT_MS = 1_000  # commits hold rows for milliseconds; whoever holds one longer must not stop the rest
IDLE_TRANSACTION_TIMEOUT_MS = 10_000  # a host stopped inside a transaction must not hold its locks
# Above the server's own statement timeout: it is for a server that is stopped or cut off and says nothing.
ANSWER_TIMEOUT_S = WAIT_TIMEOUT_S + 3.0
WAITING_MAX = 512  # beyond this callers get 503 at once instead of a place in an endless queue

# Beside lost connections: a failover to a read-only standby (InternalError) and a plan that a migration
# made stale (NotSupportedError). The connection or the next try cures each of them.
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    psycopg.NotSupportedError,
    PoolTimeout,
    TooManyRequests,
)

Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]


async def check_if_spoken_to(connection: AsyncConnection[TupleRow]) -> None:
    """Check a connection only when its idle socket has something to read.

    An idle Postgres connection is silent: bytes, or an end of file, mean that the server went away or
    sent a notice. Asking the kernel costs 2 µs; psycopg's own check is a round trip on every checkout,
    which measured as half of all statements of an order.
    """
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    if poller.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def _configure(connection: AsyncConnection[TupleRow]) -> None:
    connection.prepare_threshold = 0
    set_json_loads(
        orjson.loads, connection
    )  # psycopg's default takes five times as long for an order's events


def build_pool(dsn: str, *, name: str, size_max: int) -> Pool:
    """Make a closed pool; open it with ``await pool.open()`` inside the event loop that uses it."""
    return AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=size_max,
        timeout=WAIT_TIMEOUT_S,
        max_waiting=WAITING_MAX,
        name=name,
        open=False,
        configure=_configure,
        check=check_if_spoken_to,
        # After this long the pool gives up and the next request connects at once; the default, five
        # minutes of exponential backoff, would delay recovery after an outage.
        reconnect_timeout=RECONNECT_TIMEOUT_S,
        kwargs={
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": name,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": int(ANSWER_TIMEOUT_S * 1_000),
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} "
            f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_TIMEOUT_MS} "
            f"-c lock_timeout={LOCK_TIMEOUT_MS} "
            # Planning the order statements costs three times their execution, and their plans never differ.
            "-c plan_cache_mode=force_generic_plan "
            # They are planned while tables may be empty, and kept: a scan chosen then grows with them.
            "-c enable_seqscan=off",
        },
    )


@asynccontextmanager
async def borrow(pool: Pool) -> AsyncIterator[AsyncConnection[TupleRow]]:
    """Borrow a connection; a lost or missing database becomes ``database_unavailable``.

    Nothing more is known then: a statement under way may even have committed. Callers drop what they
    assumed and read again.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S), pool.connection() as connection:
            yield connection
    except (*_UNAVAILABLE, TimeoutError) as error:
        raise _unavailable() from error


async def fetch(pool: Pool, query: bytes, values: Mapping[str, Any]) -> list[TupleRow]:
    """Run one statement and return its rows.

    Raises:
        DependencyError: ``database_unavailable``.
        BusyError: ``order_contended``; somebody holds a row of it for too long, nothing was written.
    """
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            # Without the pool's context manager: in autocommit mode there is nothing to commit or roll back.
            connection = await pool.getconn()
            try:
                return await (await connection.execute(query, values)).fetchall()
            finally:
                await pool.putconn(connection)
    except psycopg.errors.LockNotAvailable as error:
        raise BusyError(
            "order_contended", "Somebody else holds this at the moment. Try again shortly."
        ) from error
    except (*_UNAVAILABLE, TimeoutError) as error:
        raise _unavailable() from error


def _unavailable() -> DependencyError:
    return DependencyError(
        "database_unavailable", "The database did not answer; nothing is lost. Try again shortly.", 2
    )
