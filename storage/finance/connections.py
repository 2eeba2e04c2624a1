"""Finance's pool of database connections, and what its failures mean.

Every failure of the database or the pool is a ``DependencyError`` or ``BusyError``: nothing is known to be
done, and the same request may be repeated. Refusals of the database (constraints, values) pass through: the
stores say what they mean. Nothing is retried here: a statement whose answer was lost may have committed.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from domain.errors import BusyError, DependencyError
from storage.market.pool import check_if_spoken_to

log = logging.getLogger(__name__)

POOL_TIMEOUT_S = 1.0  # longer than any healthy wait; a caller does better to hear 503 and repeat
POOL_WAITING_MAX = 256  # beyond that a waiter would time out anyway
# After this long the pool gives up, and the next request connects at once. A longer time would let the
# pool's exponential backoff delay recovery by minutes after a long outage.
POOL_RECONNECT_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 4_000  # below the request's deadline, so that the database gives up first
IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
_SESSION_OPTIONS = " ".join(
    f"-c {setting}"
    for setting in (
        "timezone=UTC",
        f"statement_timeout={STATEMENT_TIMEOUT_MS}",
        f"idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS}",
        # Every query here has its index. Plans are cached by the session, and one made while a table was
        # still a page long would go on scanning the whole of it.
        "enable_seqscan=off",
    )
)

Connection = psycopg.AsyncConnection[Any]
Refusal = psycopg.IntegrityError | psycopg.DataError
REFUSALS = (psycopg.IntegrityError, psycopg.DataError)


class Connections:
    """The pool. ``open`` before use, ``close`` after."""

    def __init__(self, dsn: str, *, pool_max: int) -> None:
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            dsn,
            kwargs={
                "autocommit": True,  # each request is one statement, which is its own transaction
                "options": _SESSION_OPTIONS,
                "application_name": "finance",
                "connect_timeout": CONNECT_TIMEOUT_S,
                "prepare_threshold": 1,
            },
            min_size=1,
            max_size=pool_max,
            open=False,
            name="finance",
            timeout=POOL_TIMEOUT_S,
            max_waiting=POOL_WAITING_MAX,
            reconnect_timeout=POOL_RECONNECT_TIMEOUT_S,
            check=check_if_spoken_to,
        )

    async def open(self) -> None:
        """Start connecting; does not wait, so that the service starts while the database is away."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    def stats(self) -> dict[str, int]:
        """Return the pool's counters, for metrics."""
        return self._pool.get_stats()

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Connection]:
        """Borrow a connection.

        Raises:
            DependencyError: ``ledger_unavailable``.
            BusyError: ``ledger_busy``.
            psycopg.IntegrityError, psycopg.DataError: what the database refuses.
        """
        try:
            async with self._pool.connection() as connection:
                yield connection
        except REFUSALS:
            raise
        except (TooManyRequests, psycopg.errors.LockNotAvailable):
            raise BusyError(
                "ledger_busy", "Too many requests wait for the database. Repeat this one in a second."
            ) from None
        except (PoolTimeout, PoolClosed, psycopg.Error) as failure:
            # The text may quote the statement's values; class and SQLSTATE tell operators enough.
            sqlstate = failure.sqlstate if isinstance(failure, psycopg.Error) else None
            log.warning("ledger database unavailable: %s %s", type(failure).__name__, sqlstate or "")
            raise DependencyError(
                "ledger_unavailable",
                "The ledger's database did not answer. Repeat the request with the same entry key: "
                "if it was posted, the repetition returns it.",
            ) from failure

    async def rows(
        self, query: str, parameters: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; raises as ``borrow``."""
        async with self.borrow() as connection:
            rows: list[tuple[Any, ...]] = await (await connection.execute(query, parameters)).fetchall()
        return rows
