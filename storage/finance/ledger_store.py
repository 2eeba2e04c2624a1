"""The ledger in Postgres: post entries once, reverse and read them.

Decides whether a key is new, a replay or a conflict; the database decides races, by its unique key, and
what the books refuse: closed periods, closed or unknown accounts, second reversals.
It refuses to change or delete, and it never retries by itself: a statement whose answer was lost may
have committed, and the caller's repetition of the same key finds out (ADR 0004).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from domain.errors import MarketplaceError
from domain.ledger import Entry, EntryConflictError, Posting
from storage.finance.connections import REFUSALS, Connection, Connections
from storage.finance.refusals import refusal_of
from storage.sql import load_queries

log = logging.getLogger(__name__)

_QUERIES = load_queries("storage.finance")
_POST_ENTRIES = _QUERIES["post_entries"]
_POST_REVERSAL = _QUERIES["post_reversal"]
_ENTRIES_BY_KEYS = _QUERIES["entries_by_keys"]
_ENTRY_BY_KEY = _QUERIES["entry_by_key"]
_ENTRIES_PAGE = _QUERIES["entries_page"]
_ENTRIES_PAGE_OF_ACCOUNT = _QUERIES["entries_page_of_account"]
_ENTRIES_PAGE_OF_WINDOW = _QUERIES["entries_page_of_window"]
_ENTRIES_PAGE_OF_PREFIX = _QUERIES["entries_page_of_prefix"]
_READY = _QUERIES["ready"]


@dataclass(frozen=True, slots=True)
class PostedEntry:
    """An entry in the books. ``replayed`` tells that it was there before this request.

    ``reversed_by`` is the key of its reversal, if one was known when it was read; a posting does not ask.
    """

    entry: Entry
    entry_id: int
    posted_at: datetime
    replayed: bool
    reversed_by: str | None = None


Outcome = PostedEntry | MarketplaceError


class LedgerStore:
    """The entries. ``open`` before use, ``close`` after; ``connections`` is shared with the other stores."""

    def __init__(self, dsn: str, *, pool_max: int) -> None:
        self.connections = Connections(dsn, pool_max=pool_max)

    async def open(self) -> None:
        """Start connecting; does not wait, so that the service starts while the database is away."""
        await self.connections.open()

    async def close(self) -> None:
        """Close all connections."""
        await self.connections.close()

    async def ready(self) -> None:
        """Ask the ledger's own tables, so that missing migrations and grants count as not ready.

        Raises:
            DependencyError: ``ledger_unavailable``.
        """
        await self.connections.rows(_READY)

    async def post(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Post a batch in one transaction; returns one outcome per entry, in order.

        An outcome is a ``PostedEntry`` or the error of that entry alone: ``entry_conflict``, or what the
        books refuse (``storage.finance.refusals``). Then the rest of the batch takes several transactions.

        Raises:
            DependencyError, BusyError: the database is unavailable; what was posted is unknown.
        """
        async with self.connections.borrow() as connection:
            return await _post(connection, entries)

    async def post_reversal(self, entry: Entry) -> Outcome:
        """Post an entry whose ``reverses`` names a posted one; outcomes and errors as for ``post``."""
        async with self.connections.borrow() as connection:
            try:
                rows = await _post_batch(connection, [entry], _POST_REVERSAL)
            except REFUSALS as refused:
                return refusal_of(entry, refused)
        return _outcomes([entry], {entry.entry_key: entry}, rows)[0]

    async def entry(self, entry_key: str) -> PostedEntry | None:
        """Return the entry named ``entry_key``, or None."""
        rows = await self.connections.rows(_ENTRY_BY_KEY, (entry_key,))
        return _posted_entry(rows[0]) if rows else None

    async def entries(self, *, account: str | None, after_id: int, limit: int) -> list[PostedEntry]:
        """Return up to ``limit`` entries with greater ids, of one account or of all, in posting order."""
        rows = await (
            self.connections.rows(_ENTRIES_PAGE, (after_id, limit))
            if account is None
            else self.connections.rows(_ENTRIES_PAGE_OF_ACCOUNT, (account, after_id, limit))
        )
        return [_posted_entry(row) for row in rows]

    async def entries_in_window(
        self, account: str, currency: str, *, after: tuple[datetime, int], until: datetime, limit: int
    ) -> list[PostedEntry]:
        """Return entries of an account in a currency behind ``after`` (time, entry id), by time.

        They occurred before ``until``; each comes once, however many of its postings touch the account.
        """
        parameters = {
            "account": account,
            "currency": currency,
            "after": after[0],
            "after_id": after[1],
            "until": until,
            "limit": limit,
        }
        return [
            _posted_entry(row) for row in await self.connections.rows(_ENTRIES_PAGE_OF_WINDOW, parameters)
        ]

    async def entries_of_prefix(self, prefix: str, *, after_key: str, limit: int) -> list[PostedEntry]:
        """Return entries whose keys begin with ``prefix`` and are above ``after_key``, by key."""
        parameters = {"prefix": prefix, "after": after_key, "limit": limit}
        return [
            _posted_entry(row) for row in await self.connections.rows(_ENTRIES_PAGE_OF_PREFIX, parameters)
        ]


async def _post(connection: Connection, entries: Sequence[Entry]) -> list[Outcome]:
    first_by_key = {entry.entry_key: entry for entry in reversed(entries)}
    batch = [first_by_key[key] for key in sorted(first_by_key)]
    try:
        rows = await _post_batch(connection, batch, _POST_ENTRIES)
    except REFUSALS as refused:
        if len(batch) == 1:
            log.info("database refused an entry: %s", refused.sqlstate)
            return [refusal_of(batch[0], refused)] * len(entries)
    else:
        return _outcomes(entries, first_by_key, rows)
    # By halves: a refused entry costs its batch a few transactions more, and not one for each neighbour.
    middle = len(entries) // 2
    return [*await _post(connection, entries[:middle]), *await _post(connection, entries[middle:])]


async def _post_batch(
    connection: Connection, batch: Sequence[Entry], query: str
) -> dict[str, tuple[Any, ...]]:
    cursor = await connection.execute(query, (orjson.dumps([_parameter(e) for e in batch]).decode(),))
    rows = {row[0]: row for row in await cursor.fetchall()}
    if len(rows) < len(batch):
        missing = [entry.entry_key for entry in batch if entry.entry_key not in rows]
        cursor = await connection.execute(_ENTRIES_BY_KEYS, (missing,))
        rows |= {row[0]: row for row in await cursor.fetchall()}
    return rows


def _parameter(entry: Entry) -> dict[str, Any]:
    # Short names: this text is made, sent and parsed for every entry. See post_entries in queries.sql.
    parameter = {
        "k": entry.entry_key,
        "c": entry.currency,
        "t": entry.occurred_at.isoformat(),
        "d": entry.description,
        "h": entry.content_digest.hex(),
        "n": len(entry.postings),
        "a": [posting.account for posting in entry.postings],
        "m": [posting.amount_minor for posting in entry.postings],
    }
    if entry.original_occurred_at is not None:
        parameter["o"] = entry.original_occurred_at.isoformat()
    if entry.reverses is not None:
        parameter["r"] = entry.reverses
    return parameter


def _outcomes(
    entries: Iterable[Entry], first_by_key: dict[str, Entry], rows: dict[str, tuple[Any, ...]]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for entry in entries:
        _, entry_id, posted_at, digest, fresh, occurred_at, original_occurred_at = rows[entry.entry_key]
        if digest != entry.content_digest:
            outcomes.append(EntryConflictError(entry.entry_key))
            continue
        # A key that comes twice in one batch is posted by its first occurrence and replayed by the rest.
        replayed = not (fresh and first_by_key[entry.entry_key] is entry)
        if not fresh and occurred_at != entry.occurred_at:
            # Equal content, booked late: the answer tells the dates that the books have.
            entry = replace(entry, occurred_at=occurred_at, original_occurred_at=original_occurred_at)  # noqa: PLW2901 - its own dates, not another entry
        outcomes.append(PostedEntry(entry, entry_id, posted_at, replayed))
    return outcomes


def _posted_entry(row: tuple[Any, ...]) -> PostedEntry:
    entry_id, key, currency, occurred_at, posted_at, description, original, reverses, reversed_by = row[:9]
    postings = tuple(Posting(*leg) for leg in zip(*row[9:], strict=True))
    entry = Entry(key, currency, occurred_at, description, postings, original, reverses)
    return PostedEntry(entry, entry_id, posted_at, replayed=True, reversed_by=reversed_by)
