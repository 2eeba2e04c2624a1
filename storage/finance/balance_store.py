"""Balances, the trial balance and statements, of any moment, in bounded time.

A figure is a sum over postings, helped by summaries that the database keeps (``migrations/0002_books.sql``):
totals at the end of closed periods, whole hours since, the rest of one hour, and what is not summed up yet.
Every figure comes from one statement, so from one snapshot. Refused: changing anything.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from domain.ledger import Movement, Summary
from storage.finance.connections import Connections
from storage.sql import load_queries

# Text of account names sorts below this: '{' follows 'z', and no account holds it.
_ABOVE_ALL_ACCOUNTS = "{"
_ALWAYS = "infinity"
_TICK = timedelta(microseconds=1)  # the database's resolution

_QUERIES = load_queries("storage.finance", "balances.sql")
_ACCOUNT_BALANCE = _QUERIES["account_balance"]
_BALANCES_PAGE = _QUERIES["balances_page"]
_TRIAL_BALANCE = _QUERIES["trial_balance"]
_STATEMENT_SUMMARY = _QUERIES["statement_summary"]
_STATEMENT_LINES = _QUERIES["statement_lines"]


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """Sums of an account's postings in one currency, both >= 0."""

    account: str
    currency: str
    debit_minor: int
    credit_minor: int

    @property
    def balance_minor(self) -> int:
        """Debits less credits."""
        return self.debit_minor - self.credit_minor


@dataclass(frozen=True, slots=True)
class TrialBalanceRow:
    """Debits and credits, both >= 0, of the accounts whose name starts with ``part`` (None: all)."""

    part: str | None
    debit_minor: int
    credit_minor: int
    posting_count: int


@dataclass(frozen=True, slots=True)
class StatementOf:
    """Whose statement and of when: from ``since`` (included) to ``until`` (excluded)."""

    account: str
    currency: str
    since: datetime
    until: datetime


class BalanceStore:
    """Reads figures through the ledger's connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def balance(self, account: str, currency: str, as_of: datetime | None) -> tuple[int, int]:
        """Return balance and number of postings of what occurred up to and including ``as_of``."""
        parameters = {"account": account, "currency": currency, "before": _behind(as_of)}
        rows = await self._connections.rows(_ACCOUNT_BALANCE, parameters)
        return int(rows[0][0]), rows[0][1]

    async def balances(
        self,
        *,
        prefix: str,
        currency: str | None,
        as_of: datetime | None,
        after: tuple[str, str],
        limit: int,
    ) -> list[AccountBalance]:
        """Return up to ``limit`` balances of the accounts below ``prefix``, after (account, currency).

        An account and currency with postings is listed whatever its balance was at ``as_of``.
        """
        parameters = {
            "lowest": max(prefix, after[0]),
            "above": prefix + _ABOVE_ALL_ACCOUNTS,
            "only": currency,
            "after_account": after[0],
            "after_currency": after[1],
            "before": _behind(as_of),
            "limit": limit,
        }
        rows = await self._connections.rows(_BALANCES_PAGE, parameters)
        return [AccountBalance(row[0], row[1], int(row[2]), int(row[3])) for row in rows]

    async def trial_balance(
        self, currency: str, as_of: datetime | None, parts_max: int
    ) -> list[TrialBalanceRow]:
        """Return the total (``part`` None) and then up to ``parts_max`` leading parts, in order."""
        parameters = {"currency": currency, "before": _behind(as_of), "limit": 1 + parts_max}
        rows = await self._connections.rows(_TRIAL_BALANCE, parameters)
        return [TrialBalanceRow(row[0], int(row[1]), int(row[2]), int(row[3])) for row in rows]

    async def summary(self, of: StatementOf) -> Summary:
        """Return the figures of a statement, of the entries that are summed up by now."""
        parameters = {
            "account": of.account,
            "currency": of.currency,
            "since": of.since,
            "until": of.until,
        }
        row = (await self._connections.rows(_STATEMENT_SUMMARY, parameters))[0]
        return Summary(int(row[0]), int(row[1]), int(row[2]), row[3], row[4])

    async def movements(
        self, of: StatementOf, *, after: tuple[datetime, int, int], through_entry_id: int, limit: int
    ) -> list[Movement]:
        """Return up to ``limit`` postings behind ``after`` (time, entry id, position), in that order."""
        parameters = {
            "account": of.account,
            "currency": of.currency,
            "after": after[0],
            "after_id": after[1],
            "after_position": after[2],
            "until": of.until,
            "through": through_entry_id,
            "limit": limit,
        }
        return [_movement(row) for row in await self._connections.rows(_STATEMENT_LINES, parameters)]


def _movement(row: tuple[Any, ...]) -> Movement:
    occurred_at, entry_id, position, entry_key, original, posted_at, description, amount_minor = row
    return Movement(
        occurred_at, (entry_id, position), entry_key, original, posted_at, description, amount_minor
    )


def _behind(as_of: datetime | None) -> str:
    """Return the instant right after ``as_of``: what occurred before it counts."""
    try:
        return _ALWAYS if as_of is None else (as_of + _TICK).isoformat()
    except OverflowError:
        return _ALWAYS
