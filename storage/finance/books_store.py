"""Accounts, closed periods and the upkeep of summaries.

The database decides: declaring is an insert, closing is a function of its own that waits for the postings
under way (``migrations/0002_books.sql``). Refused: reopening, and any change of an account but its closing.
"""

from dataclasses import dataclass
from typing import Any

import psycopg

from domain.errors import ConflictError, NotFoundError
from domain.ledger import Account, ClosedPeriod, Kind, Period
from storage.finance.connections import Connections
from storage.sql import load_queries

_QUERIES = load_queries("storage.finance", "books.sql")
_DECLARE_ACCOUNT = _QUERIES["declare_account"]
_ACCOUNT_BY_NAME = _QUERIES["account_by_name"]
_CLOSE_ACCOUNT = _QUERIES["close_account"]
_CLOSE_PERIOD = _QUERIES["close_period"]
_CLOSED_PERIODS_PAGE = _QUERIES["closed_periods_page"]
_BACKLOG = _QUERIES["backlog"]
_SETTLE = _QUERIES["settle"]
_SUM_UP = _QUERIES["sum_up"]
_CARRY_FORWARD = _QUERIES["carry_forward"]

SUM_UP_IDS_MAX = 20_000  # ids per transaction: some 0.2 s of work, far below the statement timeout


@dataclass(frozen=True, slots=True)
class Declared:
    """An account as it stands after a declaration; ``fresh`` when this declaration made it."""

    account: Account
    fresh: bool


class BooksStore:
    """Administers the books through the ledger's connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def declare(self, name: str, kind: Kind, currency: str | None) -> Declared:
        """Declare an account, or return it when it exists with the same kind and currency.

        Raises:
            ConflictError: ``account_conflict``, it exists with another kind or currency.
        """
        fresh = await self._connections.rows(_DECLARE_ACCOUNT, (name, kind.value, currency))
        account = _account(fresh[0]) if fresh else await self.account(name)
        if (account.kind, account.currency) != (kind, currency):
            raise ConflictError(
                "account_conflict",
                f"Account {name} exists: {account.kind}, in {account.currency or 'any currency'}. Accounts "
                "are not changed; close it and declare another.",
            )
        return Declared(account, bool(fresh))

    async def account(self, name: str) -> Account:
        """Return an account.

        Raises:
            NotFoundError: ``account_unknown``.
        """
        return _found(await self._connections.rows(_ACCOUNT_BY_NAME, (name,)))

    async def close_account(self, name: str) -> Account:
        """Close an account for good; closing it again changes nothing.

        Raises:
            NotFoundError: ``account_unknown``.
            ConflictError: ``account_not_empty``, it has a balance.
            BusyError: ``ledger_busy``, postings under way did not end in time.
        """
        try:
            return _found(await self._connections.rows(_CLOSE_ACCOUNT, (name,)))
        except psycopg.errors.CheckViolation as refused:
            raise ConflictError(
                "account_not_empty",
                f"Account {name} has a balance in {refused.diag.message_detail}. Post it to where it "
                "belongs, then close the account.",
            ) from None

    async def close_period(self, period: Period, by: str) -> ClosedPeriod:
        """Close a month and all before it; closing it again changes nothing and returns the first closing.

        Raises:
            ConflictError: ``period_not_over``, by the database's clock.
            BusyError: ``ledger_busy``, postings under way did not end in time.
        """
        try:
            rows = await self._connections.rows(_CLOSE_PERIOD, (period.first_day, by))
        except psycopg.errors.CheckViolation:
            raise ConflictError(
                "period_not_over", f"Period {period} is not over. Close it after its last day, in UTC."
            ) from None
        return _closed_period(rows[0])

    async def closed_periods(self, *, before: Period | None, limit: int) -> list[ClosedPeriod]:
        """Return up to ``limit`` closings of months before ``before``, the latest first."""
        month = None if before is None else before.first_day
        rows = await self._connections.rows(_CLOSED_PERIODS_PAGE, (month, limit))
        return [_closed_period(row) for row in rows]

    async def backlog(self) -> int:
        """Return about how many entries are not summed up yet."""
        return int((await self._connections.rows(_BACKLOG))[0][0])

    async def settle(self) -> None:
        """Note up to which entry nothing can appear any more; waits for the postings under way.

        Raises:
            BusyError: ``ledger_busy``, they did not end within a second.
        """
        await self._connections.rows(_SETTLE)

    async def sum_up(self) -> int:
        """Add settled entries to the summaries, up to ``SUM_UP_IDS_MAX`` ids; returns how many are left."""
        return int((await self._connections.rows(_SUM_UP, (SUM_UP_IDS_MAX,)))[0][0])

    async def carry_forward(self) -> bool:
        """Write the balances of one closed period that lacks them; False when there was none to write."""
        return bool((await self._connections.rows(_CARRY_FORWARD))[0][0])


def _found(rows: list[tuple[Any, ...]]) -> Account:
    if not rows:
        raise NotFoundError(
            "account_unknown",
            "There is no such account. It is opened by its first posting if the chart of accounts has it, "
            "or else declared by a finance administrator.",
        )
    return _account(rows[0])


def _account(row: tuple[Any, ...]) -> Account:
    name, kind, currency, declared, opened_at, closed_at = row
    return Account(name, Kind(kind), currency, declared, opened_at, closed_at)


def _closed_period(row: tuple[Any, ...]) -> ClosedPeriod:
    return ClosedPeriod(Period(row[0]), row[1], row[2])
