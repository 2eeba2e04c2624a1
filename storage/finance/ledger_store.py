"""The ledger in Postgres: post entries once, read entries and balances.

Decides whether a key is new, a replay or a conflict; the database decides races, by its unique key.
It refuses to change or delete, and it never retries by itself: a statement whose answer was lost may
have committed, and the caller's repetition of the same key finds out (ADR 0004).

Every failure of the database or the pool is a ``DependencyError`` or ``BusyError``: nothing is known
to be posted, and the same request may be repeated.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from domain.errors import BusyError, DependencyError, MarketplaceError, RejectedError
from domain.ledger import Entry, EntryConflictError, Posting
from storage.market.pool import check_if_spoken_to
from storage.sql import load_queries

log = logging.getLogger(__name__)

POOL_TIMEOUT_S = 1.0  # longer than any healthy wait; a caller does better to hear 503 and repeat
POOL_WAITING_MAX = 256  # beyond that a waiter would time out anyway
# After this long the pool gives up, and the next request connects at once. A longer time would let the
# pool's exponential backoff delay recovery by minutes after a long outage.
POOL_RECONNECT_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 2
STATEMENT_TIMEOUT_MS = 4_000  # below the request's deadline, so that the database gives up first
IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
# Text of account names sorts below this: '{' follows 'z', and no account holds it.
_ABOVE_ALL_ACCOUNTS = "{"
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

_QUERIES = load_queries("storage.finance")
_POST_ENTRIES = _QUERIES["post_entries"]
_ENTRIES_BY_KEYS = _QUERIES["entries_by_keys"]
_ENTRY_BY_KEY = _QUERIES["entry_by_key"]
_ENTRIES_PAGE = _QUERIES["entries_page"]
_ENTRIES_PAGE_OF_ACCOUNT = _QUERIES["entries_page_of_account"]
_ACCOUNT_BALANCE = _QUERIES["account_balance"]
_BALANCES_PAGE = _QUERIES["balances_page"]
_TRIAL_BALANCE = _QUERIES["trial_balance"]
_READY = _QUERIES["ready"]


@dataclass(frozen=True, slots=True)
class PostedEntry:
    """An entry in the books. ``replayed`` tells that it was there before this request."""

    entry: Entry
    entry_id: int
    posted_at: datetime
    replayed: bool


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """Sum of an account's postings in one currency: > 0 is a debit balance."""

    account: str
    currency: str
    balance_minor: int


@dataclass(frozen=True, slots=True)
class TrialBalanceRow:
    """Debits and credits, both >= 0, of the accounts whose name starts with ``part`` (None: all)."""

    part: str | None
    debit_minor: int
    credit_minor: int
    posting_count: int


Outcome = PostedEntry | MarketplaceError


class LedgerStore:
    """The pool and the statements. ``open`` before use, ``close`` after."""

    def __init__(self, dsn: str, *, pool_max: int) -> None:
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]] = AsyncConnectionPool(
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

    def pool_stats(self) -> dict[str, int]:
        """Return the pool's counters, for metrics."""
        return self._pool.get_stats()

    async def ready(self) -> None:
        """Ask the ledger's own table, so that missing migrations and grants count as not ready.

        Raises:
            DependencyError: ``ledger_unavailable``.
        """
        async with self._connection() as connection:
            await connection.execute(_READY)

    async def post(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Post a batch in one transaction; returns one outcome per entry, in order.

        An outcome is a ``PostedEntry`` or the error of that entry alone: ``entry_conflict``, or
        ``entry_refused`` when a database constraint is stricter than the domain.

        Raises:
            DependencyError, BusyError: the database is unavailable; what was posted is unknown.
        """
        first_by_key = {entry.entry_key: entry for entry in reversed(entries)}
        batch = [first_by_key[key] for key in sorted(first_by_key)]
        async with self._connection() as connection:
            try:
                rows = await _post_batch(connection, batch)
            except (psycopg.IntegrityError, psycopg.DataError) as refused:
                log.warning("database refused a batch: %s", refused.sqlstate)
                if len(batch) == 1:
                    return [_refused(batch[0], refused)] * len(entries)
                return await self._post_singly(connection, entries)
        return _outcomes(entries, first_by_key, rows)

    async def entry(self, entry_key: str) -> PostedEntry | None:
        """Return the entry named ``entry_key``, or None."""
        async with self._connection() as connection:
            row = await (await connection.execute(_ENTRY_BY_KEY, (entry_key,))).fetchone()
        return None if row is None else _posted_entry(row)

    async def entries(self, *, account: str | None, after_id: int, limit: int) -> list[PostedEntry]:
        """Return up to ``limit`` entries with greater ids, of one account or of all, in posting order."""
        async with self._connection() as connection:
            cursor = await (
                connection.execute(_ENTRIES_PAGE, (after_id, limit))
                if account is None
                else connection.execute(_ENTRIES_PAGE_OF_ACCOUNT, (account, after_id, limit))
            )
            return [_posted_entry(row) for row in await cursor.fetchall()]

    async def balance(self, account: str, currency: str, as_of: datetime | None) -> tuple[int, int]:
        """Return balance and number of postings of what occurred up to and including ``as_of``."""
        async with self._connection() as connection:
            row = await (await connection.execute(_ACCOUNT_BALANCE, (account, currency, as_of))).fetchone()
        assert row is not None, "an aggregate without GROUP BY always has a row"
        return row[0], row[1]

    async def balances(self, *, prefix: str, after: tuple[str, str], limit: int) -> list[AccountBalance]:
        """Return up to ``limit`` balances of the accounts below ``prefix``, after (account, currency)."""
        bounds = (max(prefix, after[0]), prefix + _ABOVE_ALL_ACCOUNTS)
        async with self._connection() as connection:
            cursor = await connection.execute(_BALANCES_PAGE, (*bounds, *after, limit))
            return [AccountBalance(*row) for row in await cursor.fetchall()]

    async def trial_balance(
        self, currency: str, as_of: datetime | None, parts_max: int
    ) -> list[TrialBalanceRow]:
        """Return the total (``part`` None) and then up to ``parts_max`` leading parts, in order."""
        async with self._connection() as connection:
            cursor = await connection.execute(_TRIAL_BALANCE, (currency, as_of, 1 + parts_max))
            return [TrialBalanceRow(*row) for row in await cursor.fetchall()]

    async def _post_singly(
        self, connection: psycopg.AsyncConnection[Any], entries: Sequence[Entry]
    ) -> list[Outcome]:
        """One transaction each, so that a refused entry does not spoil the others of its batch."""
        outcomes: list[Outcome] = []
        for entry in entries:
            try:
                rows = await _post_batch(connection, [entry])
            except (psycopg.IntegrityError, psycopg.DataError) as refused:
                outcomes.append(_refused(entry, refused))
            else:
                outcomes += _outcomes([entry], {entry.entry_key: entry}, rows)
        return outcomes

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.IntegrityError, psycopg.DataError):
            raise
        except TooManyRequests:
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


async def _post_batch(
    connection: psycopg.AsyncConnection[Any], batch: Sequence[Entry]
) -> dict[str, tuple[Any, ...]]:
    cursor = await connection.execute(_POST_ENTRIES, (orjson.dumps([_parameter(e) for e in batch]).decode(),))
    rows = {row[0]: row for row in await cursor.fetchall()}
    if len(rows) < len(batch):
        missing = [entry.entry_key for entry in batch if entry.entry_key not in rows]
        cursor = await connection.execute(_ENTRIES_BY_KEYS, (missing,))
        rows |= {row[0]: row for row in await cursor.fetchall()}
    return rows


def _parameter(entry: Entry) -> dict[str, Any]:
    # Short names: this text is made, sent and parsed for every entry. See post_entries in queries.sql.
    return {
        "k": entry.entry_key,
        "c": entry.currency,
        "t": entry.occurred_at.isoformat(),
        "d": entry.description,
        "h": entry.content_digest.hex(),
        "n": len(entry.postings),
        "a": [posting.account for posting in entry.postings],
        "m": [posting.amount_minor for posting in entry.postings],
    }


def _outcomes(
    entries: Iterable[Entry], first_by_key: dict[str, Entry], rows: dict[str, tuple[Any, ...]]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for entry in entries:
        _, entry_id, posted_at, digest, fresh = rows[entry.entry_key]
        if digest != entry.content_digest:
            outcomes.append(EntryConflictError(entry.entry_key))
            continue
        # A key that comes twice in one batch is posted by its first occurrence and replayed by the rest.
        replayed = not (fresh and first_by_key[entry.entry_key] is entry)
        outcomes.append(PostedEntry(entry, entry_id, posted_at, replayed))
    return outcomes


def _refused(entry: Entry, error: psycopg.Error) -> RejectedError:
    constraint = error.diag.constraint_name or error.sqlstate
    return RejectedError(
        "entry_refused",
        f"The ledger's database refuses entry {entry.entry_key} ({constraint}). Nothing was posted.",
    )


def _posted_entry(row: tuple[Any, ...]) -> PostedEntry:
    entry_id, entry_key, currency, occurred_at, posted_at, description, accounts, amounts = row
    postings = tuple(Posting(*leg) for leg in zip(accounts, amounts, strict=True))
    entry = Entry(entry_key, currency, occurred_at, description, postings)
    return PostedEntry(entry, entry_id, posted_at, replayed=True)
