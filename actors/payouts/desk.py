"""The desk: payees and their accounts, drafting a batch, and statements. Everything but sending.

A draft asks Finance for the turnover of every payee's account at three moments (now, the period's end, and
the beginning of the holdback's days), divides each balance (``domain.payouts.cut``) and records the lines.
Nothing here moves money: an approved batch's payouts are the runner's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.errors import RejectedError
from domain.money import is_currency
from domain.payouts.batch import LINES_MAX, Batch, BatchLine, BatchStatus
from domain.payouts.cut import Figures, Terms, divide
from domain.payouts.payees import AccountState, Payee, obstacle, require_account_id, require_payee_id
from domain.payouts.periods import Period, Schedule, parse_period
from domain.payouts.ports import PayoutBooks, Transfers, Turnover
from domain.payouts.refusals import refusal
from domain.payouts.statements import Statement, build_statement, sales_of
from domain.proposals.documents import Kind, PlatformFees
from storage.market.commands import Recorded, Write
from storage.market.payout_batches import PayoutBatches, PeriodLine
from storage.market.payouts import PostgresPayouts
from storage.market.proposals import Governed

STATEMENT_LINES_MAX = 50_000  # some 6 MB of CSV; fifty of Finance's pages
_TICK = timedelta(microseconds=1)  # Finance's resolution: its as-of balances include their moment
_NONE = Turnover(0, 0)


@dataclass(frozen=True, slots=True)
class PayeeStatement:
    """A payee's statement of one period; ``line`` is what its batch says, if there is one."""

    payee_id: str
    currency: str
    period: Period
    statement: Statement
    line: PeriodLine | None


class PayoutDesk:
    """One per process; make it inside the event loop that uses it. ``now`` is aware, in UTC."""

    def __init__(
        self,
        batches: PayoutBatches,
        payouts: PostgresPayouts,
        books: PayoutBooks,
        transfers: Transfers,
        governed: Governed,
        now: Callable[[], datetime],
        *,
        schedule: Schedule = Schedule.MONTH,
    ) -> None:
        self.batches = batches
        self.payouts = payouts
        self._books = books
        self._transfers = transfers
        self._governed = governed
        self._now = now
        self._schedule = schedule

    async def name_account(self, write: Write, payee_id: str, account_id: str) -> tuple[Payee, bool]:
        """Make ``account_id`` the payee's account, as Stripe sees it now; (payee, was it a repetition).

        Raises:
            RejectedError: ``payee_id_invalid``, ``payee_account_unknown``, ``idempotency_key_reused``.
            DependencyError: ``payment_provider_unavailable``.
        """
        state = await self._transfers.account(require_account_id(account_id))
        earlier = await self.batches.name_account(
            write, require_payee_id(payee_id), account_id, state, self._now()
        )
        return await self.payee(payee_id), earlier is not None

    async def look_at_account(self, account_id: str) -> bool:
        """Ask Stripe about an account that changed, record it, wake what waits; False when it is nobody's.

        Raises:
            DependencyError: ``payment_provider_unavailable``; nothing was changed.
        """
        if not await self.batches.account_in_use(account_id):
            return False
        asked_at = self._now()  # before the answer: of two looks at once the later one counts
        try:
            state = await self._transfers.account(account_id)
        except RejectedError:  # its owner has cut the connection
            state = AccountState("inactive", payouts_enabled=False)
        await self.batches.look_at_account(account_id, state, asked_at)
        await self.payouts.wake(account_id)
        return True

    async def payee(self, payee_id: str) -> Payee:
        """Return a payee; raises NotFoundError ``payee_not_found``."""
        found = (await self.batches.payees([payee_id])).get(payee_id)
        if found is None:
            raise refusal("payee_not_found")
        return found

    async def draft(
        self, write: Write, batch_id: str, action_id: str, period_name: str, currency: str, reason: str
    ) -> Recorded | None:
        """Draft the batch of a period that is over; None when this is the first time of this key.

        Raises:
            RejectedError: ``payout_period_invalid``, ``currency_unknown``, ``idempotency_key_reused``.
            ConflictError: ``payout_period_open``, ``payout_batch_exists``, ``payout_nothing_due``,
                ``payout_batch_too_large``.
            DependencyError: Finance or the database is down; nothing was drafted.
        """
        period = parse_period(period_name, self._schedule)
        _require_currency(currency)
        now = self._now()
        earlier = await self.batches.find_write(write)
        if earlier is not None:
            return earlier
        if now < period.ends_at:
            raise refusal("payout_period_open")
        if await self.batches.standing(currency, period.name):
            raise refusal("payout_batch_exists")
        terms = await self._terms(currency)
        lines = await self._lines(period, currency, terms, now)
        if not lines:
            raise refusal("payout_nothing_due")
        batch = Batch(
            batch_id, period.name, currency, terms, now, BatchStatus.DRAFTED, write.principal_id, now
        )
        return await self.batches.insert(write, batch, lines, action_id, reason)

    async def statement(self, payee_id: str, currency: str, period_name: str) -> PayeeStatement:
        """Return a payee's statement of a period, which may still run.

        Raises:
            RejectedError: ``payout_period_invalid``, ``currency_unknown``, ``payee_id_invalid``,
                ``payout_statement_too_large``.
            DependencyError: Finance or the database is down.
        """
        period = parse_period(period_name)
        _require_currency(currency)
        history = await self._books.history(
            require_payee_id(payee_id), currency, period.starts_at, period.ends_at, STATEMENT_LINES_MAX
        )
        gross_minor = await self.payouts.gross_sold(sales_of(history), payee_id)
        line = await self.batches.line_of(payee_id, currency, period.name)
        return PayeeStatement(payee_id, currency, period, build_statement(history, gross_minor), line)

    async def _terms(self, currency: str) -> Terms:
        version, fees = await self._governed.current(Kind.PLATFORM_FEES)
        assert isinstance(fees, PlatformFees), "a kind has one class of documents"
        minimum_minor = fees.payout_minimum_minor.get(currency, 0)
        return Terms(version, fees.holdback_bps, fees.holdback_days, minimum_minor)

    async def _lines(self, period: Period, currency: str, terms: Terms, now: datetime) -> Sequence[BatchLine]:
        at_end = await self._turnover(currency, period.ends_at - _TICK)
        until_now = await self._turnover(currency, now)
        before = at_end  # nothing is held back: nothing of what was sold counts
        if terms.holdback_bps and terms.holdback_days:
            opened_at = period.ends_at - timedelta(days=terms.holdback_days)
            before = await self._turnover(currency, opened_at - _TICK)
        figures = {
            payee_id: _figures(at_end.get(payee_id, _NONE), later, before.get(payee_id, _NONE))
            for payee_id, later in until_now.items()
        }
        due = {
            payee_id: one for payee_id, one in figures.items() if one.closing_minor or one.balance_minor < 0
        }
        if len(due) > LINES_MAX:
            raise refusal("payout_batch_too_large")
        payees = await self.batches.payees(list(due))
        return [_line(payee_id, one, terms, currency, payees.get(payee_id)) for payee_id, one in due.items()]

    async def _turnover(self, currency: str, as_of: datetime) -> Mapping[str, Turnover]:
        return {payee_id: one async for payee_id, one in self._books.payables(currency, as_of)}


def _figures(at_end: Turnover, until_now: Turnover, before: Turnover) -> Figures:
    return Figures(
        closing_minor=at_end.credit_minor - at_end.debit_minor,
        returned_minor=max(0, until_now.debit_minor - at_end.debit_minor),
        sold_minor=max(0, at_end.credit_minor - before.credit_minor),
    )


def _line(payee_id: str, figures: Figures, terms: Terms, currency: str, payee: Payee | None) -> BatchLine:
    division = divide(figures, terms, currency, obstacle(payee))
    if payee is None:
        return BatchLine(payee_id, figures, division, None, None)
    return BatchLine(payee_id, figures, division, payee.account_id, payee.named_at)


def _require_currency(currency: str) -> None:
    if not is_currency(currency):
        raise RejectedError("currency_unknown", "Give an accepted ISO 4217 code in capitals, such as USD.")
