"""Which event follows from a step's result: pure, and empty when the payout has moved on meanwhile.

Results are what the outside world answered; they are harmless to repeat. What is impossible (a reversal of
more than was sent) is refused, because money then moved that the payout cannot explain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.errors import RejectedError
from domain.payouts import events as e
from domain.payouts.cut import BALANCE_SHORT, clear
from domain.payouts.payees import NOT_READY, AccountState
from domain.payouts.state import PASSING, WAIT_MAX, Payout, Status


@dataclass(frozen=True, slots=True)
class Standing:
    """Right before it is sent: the payee's account at Stripe, and what Finance says we owe now."""

    account: AccountState
    owed_minor: int


@dataclass(frozen=True, slots=True)
class Booked:
    """Finance acknowledged the booking, the settlement or the reversal."""

    entry_id: str


@dataclass(frozen=True, slots=True)
class Sent:
    """Stripe made the transfer, of exactly this amount, at this time by its clock."""

    transfer_id: str
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Refused:
    """Stripe will not make the transfer."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reversed:
    """A transfer reversal that Finance has booked back."""

    reversal_id: str
    amount_minor: int
    entry_id: str


Result = Standing | Booked | Sent | Refused | Reversed


def decide(payout: Payout, result: Result, at: datetime) -> Sequence[e.Event]:
    """Return the events that record a step's result.

    Raises:
        RejectedError: ``payout_over_returned``.
    """
    match result, payout.status:
        case Standing(), (Status.APPROVED | Status.AWAITING_ACCOUNT | Status.AWAITING_BALANCE):
            return _judge(payout, result, at)
        case Booked(), Status.CLEARED:
            return [e.PayoutBooked(result.entry_id, at)]
        case Sent(), Status.BOOKED:
            return [e.PayoutSent(result.transfer_id, result.made_at, at)]
        case Booked(), Status.SENT:
            return [e.PayoutSettled(result.entry_id, at)]
        case Refused(), (Status.APPROVED | Status.AWAITING_ACCOUNT | Status.AWAITING_BALANCE):
            return [e.PayoutFailed(result.code, result.detail, at)]
        case Refused(), Status.BOOKED:
            return [e.PayoutRefused(result.code, result.detail, at)]
        case Booked(), Status.REFUSED:
            assert payout.failure is not None, "a refusal has its reason"
            code, detail = payout.failure
            if code in PASSING:
                return _wait(payout, PASSING[code], detail, at)
            return [e.PayoutFailed(*payout.failure, at)]
        case Reversed(), (Status.SETTLED | Status.RETURNED):
            return _returned(payout, result, at)
        case _:
            return []


def _judge(payout: Payout, standing: Standing, at: datetime) -> Sequence[e.Event]:
    if not standing.account.ready:
        return _wait(payout, NOT_READY, "Stripe does not let the account be paid at the moment.", at)
    amount_minor = clear(
        payout.approved_minor,
        payout.held_back_minor,
        payout.minimum_minor,
        standing.owed_minor,
        payout.currency,
    )
    if not amount_minor:
        words = f"Only {standing.owed_minor} minor units were owed when it was to be sent."
        return [e.PayoutFailed(BALANCE_SHORT, words, at)]
    return [e.PayoutCleared(amount_minor, at)]


def _wait(payout: Payout, code: str, detail: str, at: datetime) -> Sequence[e.Event]:
    """Wait, wait on, or give up after ``WAIT_MAX``."""
    if payout.waiting_since is not None and at >= payout.waiting_since + WAIT_MAX:
        return [e.PayoutFailed(code, detail, at)]
    waits_on = payout.waiting is not None and payout.waiting[0] == code
    return [] if waits_on else [e.PayoutWaits(code, detail, at)]


def _returned(payout: Payout, result: Reversed, at: datetime) -> Sequence[e.Event]:
    if any(one.reversal_id == result.reversal_id for one in payout.returns):
        return []
    if payout.returned_minor + result.amount_minor > payout.amount_minor:
        raise RejectedError(
            "payout_over_returned", f"{payout.key}: more was reversed at Stripe than had been sent."
        )
    return [e.PayoutReturned(result.reversal_id, result.amount_minor, result.entry_id, at)]
