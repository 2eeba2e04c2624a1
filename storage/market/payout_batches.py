"""Payees and batches of payouts in Postgres: what operators and payees write, once per idempotency key.

Each decision is one transaction under the batch's row lock, with the operator's action beside it (invariant
I12). The database refuses on its own a second batch of a period, an approval by whoever drafted it, and a
payout that is no line of an approved batch (migration 0010).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from domain.ids import derive_id
from domain.payouts.batch import (
    Batch,
    BatchLine,
    BatchStatus,
    BatchTotals,
    approved_payout,
    require_approvable,
    require_approved,
    require_drafted,
)
from domain.payouts.cut import Division, Figures, Terms
from domain.payouts.events import KIND_OF, PayoutApproved, encode_event
from domain.payouts.payees import AccountState, Payee
from domain.payouts.refusals import refusal
from storage.market.commands import Commands, Recorded, Write, parameters
from storage.market.payouts import SQL
from storage.market.pool import Pool, borrow, fetch

PAYOUT_PREFIX = "po"
APPROVALS_LOCK = 0x7061796F7574  # "payout": one advisory lock per database, in the one-part key space
LINES_PAGE = 1_000
_STANDING = "payout_batches_standing"
Connection = AsyncConnection[TupleRow]


@dataclass(frozen=True, slots=True)
class PeriodLine:
    """What the standing batch of a period says of one payee."""

    batch_id: str
    status: BatchStatus
    division: Division


class _ReplayedError(Exception):
    """The idempotency key was used before: nothing is written again."""


class PayoutBatches:
    """Raises ``DependencyError('database_unavailable')`` when down, and refusals of ``domain.payouts``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    # -- payees ------------------------------------------------------------------------------------

    async def payees(self, payee_ids: Sequence[str]) -> dict[str, Payee]:
        """Return those of the payees that have an account here."""
        rows = await fetch(self._pool, SQL["payees"], {"ids": _json(list(payee_ids))})
        return {row[0]: _payee(*row) for row in rows}

    async def name_account(
        self, write: Write, payee_id: str, account_id: str, state: AccountState, at: datetime
    ) -> Recorded | None:
        """Record a payee's account; None when this is the first time of this key.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        values = {
            "account_id": account_id,
            "transfers": state.transfers,
            "payouts_enabled": state.payouts_enabled,
            "at": at,
        }
        return await self._commands.run_once(SQL["name_account"], write, payee_id, None, values)

    async def account_in_use(self, account_id: str) -> bool:
        """Whether a payee is paid to an account, or a payout waits for it."""
        return bool(await fetch(self._pool, SQL["account_in_use"], {"account_id": account_id}))

    async def look_at_account(self, account_id: str, state: AccountState, at: datetime) -> int:
        """Record what Stripe said of an account at ``at``, unless it was asked later; counts its payees."""
        values = {
            "account_id": account_id,
            "transfers": state.transfers,
            "payouts_enabled": state.payouts_enabled,
            "at": at,
        }
        return len(await fetch(self._pool, SQL["look_at_account"], values))

    # -- batches -----------------------------------------------------------------------------------

    async def find_write(self, write: Write) -> Recorded | None:
        """Return what an equal write did before; raises RejectedError ``idempotency_key_reused``."""
        return await self._commands.find(write)

    async def standing(self, currency: str, period: str) -> bool:
        """Whether the period has a batch that was not withdrawn."""
        values = {"currency": currency, "period": period}
        return bool(await fetch(self._pool, SQL["standing_batch"], values))

    async def insert(
        self, write: Write, batch: Batch, lines: Sequence[BatchLine], action_id: str, reason: str
    ) -> Recorded | None:
        """Record a drafted batch; None when this is the first time of this key.

        Raises:
            ConflictError: ``payout_batch_exists``.
            RejectedError: ``idempotency_key_reused``.
        """
        head = {**asdict(batch.terms), **asdict(batch)}
        try:
            async with self._once(write, batch.batch_id) as connection:
                await connection.execute(SQL["insert_batch"], head)
                rows = _json([_line_row(line) for line in lines])
                await connection.execute(SQL["insert_lines"], {"batch_id": batch.batch_id, "lines": rows})
                await _act(connection, write, action_id, "payouts.draft", batch, reason)
        except _ReplayedError:
            return await self._commands.find(write)
        except psycopg.errors.UniqueViolation as taken:
            if taken.diag.constraint_name != _STANDING:
                raise
            earlier = await self._commands.find(write)  # of two equal requests at once, the second
            if earlier is None:
                raise refusal("payout_batch_exists") from None
            return earlier
        return None

    async def approve(
        self, write: Write, batch_id: str, action_id: str, reason: str, at: datetime
    ) -> Recorded | None:
        """Approve a batch and make its payouts due; None when this is the first time of this key.

        Raises:
            NotFoundError, ConflictError, RejectedError: see ``domain.payouts.batch.require_approvable``.
        """
        lines = await self.all_lines(batch_id)  # facts: what is read before the lock holds under it
        try:
            async with self._once(write, batch_id) as connection:
                await connection.execute(SQL["lock_approvals"], {"lock": APPROVALS_LOCK})
                batch = await _locked(connection, batch_id)
                require_approvable(batch, write.principal_id)
                await _decide(connection, batch_id, BatchStatus.APPROVED, write, reason, at)
                rows = _json(
                    [
                        _payout_row(batch_id, approved_payout(batch, line, write.principal_id, at))
                        for line in lines
                        if line.division.paid_minor
                    ]
                )
                await connection.execute(SQL["insert_payouts"], {"payouts": rows})
                first = {"payouts": rows, "kind": KIND_OF[PayoutApproved]}
                await connection.execute(SQL["insert_first_events"], first)
                await _act(connection, write, action_id, "payouts.approve", batch, reason)
        except _ReplayedError:
            return await self._commands.find(write)
        return None

    async def withdraw(
        self, write: Write, batch_id: str, action_id: str, reason: str, at: datetime
    ) -> Recorded | None:
        """Withdraw a drafted batch; None when this is the first time of this key.

        Raises:
            NotFoundError, ConflictError: see ``domain.payouts.batch.require_drafted``.
        """
        try:
            async with self._once(write, batch_id) as connection:
                batch = await _locked(connection, batch_id)
                require_drafted(batch)
                await _decide(connection, batch_id, BatchStatus.WITHDRAWN, write, reason, at)
                await _act(connection, write, action_id, "payouts.withdraw", batch, reason)
        except _ReplayedError:
            return await self._commands.find(write)
        return None

    async def run(self, write: Write, batch_id: str, action_id: str, reason: str) -> Recorded | None:
        """Make a batch's unfinished payouts due now, stuck ones too; None at the first time of this key.

        Raises:
            NotFoundError, ConflictError: see ``domain.payouts.batch.require_approved``.
        """
        try:
            async with self._once(write, batch_id) as connection:
                batch = await _locked(connection, batch_id)
                require_approved(batch)
                await connection.execute(SQL["run_batch"], {"batch_id": batch_id})
                await _act(connection, write, action_id, "payouts.run", batch, reason)
        except _ReplayedError:
            return await self._commands.find(write)
        return None

    async def page(self, before: str, limit: int) -> list[Batch]:
        """List batches, newest first, below the id ``before``."""
        rows = await fetch(self._pool, SQL["batches"], {"before": before, "limit": limit})
        return [_batch(*row) for row in rows]

    async def find(self, batch_id: str) -> Batch:
        """Read a batch.

        Raises:
            NotFoundError: ``payout_batch_not_found``.
        """
        rows = await fetch(self._pool, SQL["batch"], {"batch_id": batch_id})
        if not rows:
            raise refusal("payout_batch_not_found")
        return _batch(*rows[0])

    async def totals(self, batch_id: str) -> BatchTotals:
        """Sum a batch's lines up."""
        return BatchTotals(*(await fetch(self._pool, SQL["batch_totals"], {"batch_id": batch_id}))[0])

    async def progress(self, batch_id: str) -> tuple[dict[str, int], int]:
        """Return how many payouts have which status, and how many are stuck."""
        rows = await fetch(self._pool, SQL["batch_progress"], {"batch_id": batch_id})
        return {status: count for status, count, _ in rows}, sum(stuck for _, _, stuck in rows)

    async def lines(self, batch_id: str, after: str, limit: int) -> list[BatchLine]:
        """List a batch's lines by payee, above the id ``after``."""
        values = {"batch_id": batch_id, "after": after, "limit": limit}
        return [_line(*row) for row in await fetch(self._pool, SQL["lines"], values)]

    async def all_lines(self, batch_id: str) -> list[BatchLine]:
        """Read all lines of a batch, page by page."""
        found: list[BatchLine] = []
        while page := await self.lines(batch_id, found[-1].payee_id if found else "", LINES_PAGE):
            found += page
        return found

    async def line_of(self, payee_id: str, currency: str, period: str) -> PeriodLine | None:
        """Return what the standing batch of a period says of a payee."""
        values = {"payee_id": payee_id, "currency": currency, "period": period}
        rows = await fetch(self._pool, SQL["line_of"], values)
        return PeriodLine(rows[0][0], BatchStatus(rows[0][1]), Division(*rows[0][2:])) if rows else None

    @asynccontextmanager
    async def _once(self, write: Write, subject: str) -> AsyncIterator[Connection]:
        """Open a transaction that claims the idempotency key; raises ``_ReplayedError`` if that was used."""
        async with borrow(self._pool) as connection, connection.transaction():
            claimed = await connection.execute(SQL["claim_key"], parameters(write, subject))
            if not claimed.rowcount:
                raise _ReplayedError
            yield connection


async def _locked(connection: Connection, batch_id: str) -> Batch:
    row = await (await connection.execute(SQL["lock_batch"], {"batch_id": batch_id})).fetchone()
    if row is None:
        raise refusal("payout_batch_not_found")
    return _batch(*row)


async def _decide(
    connection: Connection, batch_id: str, status: BatchStatus, write: Write, reason: str, at: datetime
) -> None:
    values = {"batch_id": batch_id, "status": status.value, "by": write.principal_id}
    await connection.execute(SQL["decide_batch"], {**values, "at": at, "reason": reason})


async def _act(
    connection: Connection, write: Write, action_id: str, action: str, batch: Batch, reason: str
) -> None:
    detail = {"period": batch.period, "currency": batch.currency}
    values = {"action_id": action_id, "principal_id": write.principal_id, "action": action}
    await connection.execute(
        SQL["insert_action"], {**values, "subject": batch.batch_id, "reason": reason, "detail": _json(detail)}
    )


def _payout_row(batch_id: str, approved: PayoutApproved) -> Mapping[str, Any]:
    payout_id = derive_id(PAYOUT_PREFIX, batch_id, approved.payee_id)
    return {"payout_id": payout_id, "data": encode_event(approved)}


def _line_row(line: BatchLine) -> Mapping[str, Any]:
    row = {**asdict(line.figures), **asdict(line.division)}
    named_at = None if line.account_named_at is None else line.account_named_at.isoformat()
    return {**row, "payee_id": line.payee_id, "account_id": line.account_id, "account_named_at": named_at}


def _batch(batch_id: str, period: str, currency: str, *row: Any) -> Batch:
    terms, (cut_at, status, *rest) = Terms(*row[:4]), row[4:]
    return Batch(batch_id, period, currency, terms, cut_at, BatchStatus(status), *rest)


def _line(payee_id: str, *row: Any) -> BatchLine:
    return BatchLine(payee_id, Figures(*row[:3]), Division(*row[3:7]), *row[7:])


def _payee(payee_id: str, account_id: str, transfers: str, enabled: bool, *named: Any) -> Payee:  # noqa: FBT001 - a row
    return Payee(payee_id, account_id, AccountState(transfers, enabled), *named)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
