"""A payout as its events make it, and the step that is next.

                 clear            book            send            settle
    (approved) ───────► cleared ───────► booked ───────► sent ───────► settled ──► returned
         │  ▲ clear                         │ Stripe refuses              ▲ │ check: a transfer
         ▼  │                               ▼                             └─┘ reversal is booked back
    (awaiting_account) ◄─┐   reverse     refused
    (awaiting_balance) ◄─┴──────────────────┤
         │ too little owed, waited too long │
         └────────────► failed ◄────────────┘

A payout that waits has nothing booked, so that refunds meanwhile count when it is cleared again. Each try has
keys of its own: Stripe repeats a refusal under a key, and an entry that was reversed stands under its key.

Only the events of this module change it. A step may run twice, at once, anywhere: its outside calls carry
keys made of payee, currency and period, and its result is recorded under a fence, once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from domain.payouts import events as e
from domain.payouts.payees import NOT_READY

BALANCE_INSUFFICIENT = "balance_insufficient"  # Stripe's word: ours at Stripe does not cover it
WAIT_MAX = timedelta(days=5)  # less than a week, the shortest period: then the next one has the balance
PAUSE = timedelta(hours=6)  # Stripe makes money available once a day; an account's news wakes it at once


class Status(StrEnum):
    """Where a payout stands."""

    APPROVED = "approved"
    AWAITING_ACCOUNT = "awaiting_account"
    AWAITING_BALANCE = "awaiting_balance"
    CLEARED = "cleared"
    BOOKED = "booked"
    SENT = "sent"
    SETTLED = "settled"
    REFUSED = "refused"
    FAILED = "failed"
    RETURNED = "returned"


class Step(StrEnum):
    """Outside work."""

    CLEAR = "clear"
    BOOK = "book"
    SEND = "send"
    SETTLE = "settle"
    REVERSE = "reverse"
    CHECK = "check"  # look at Stripe whether the transfer was reversed


# Of Stripe's refusals of a transfer those that pass, and what is then waited for.
PASSING = {BALANCE_INSUFFICIENT: BALANCE_INSUFFICIENT, "insufficient_capabilities_for_transfer": NOT_READY}
WAITS_FOR = {NOT_READY: Status.AWAITING_ACCOUNT, BALANCE_INSUFFICIENT: Status.AWAITING_BALANCE}
WAITING = tuple(WAITS_FOR.values())
UNFINISHED = (Status.APPROVED, *WAITING, Status.CLEARED, Status.BOOKED, Status.SENT, Status.REFUSED)
_STEPS = {
    Status.APPROVED: Step.CLEAR,
    Status.AWAITING_ACCOUNT: Step.CLEAR,
    Status.AWAITING_BALANCE: Step.CLEAR,
    Status.CLEARED: Step.BOOK,
    Status.BOOKED: Step.SEND,
    Status.SENT: Step.SETTLE,
    Status.REFUSED: Step.REVERSE,
    Status.SETTLED: Step.CHECK,
    Status.RETURNED: Step.CHECK,
}


@dataclass(frozen=True, slots=True)
class Payout:
    """One payee's payout of one period in one currency; amounts in minor units.

    ``approved_minor`` is the most that may be sent, ``amount_minor`` what is (0 until it is cleared).
    ``failure`` and ``waiting`` are a code and words. ``moved_at`` is when its present step became due.
    ``waiting_since`` is when it first had to wait. ``undone_minor`` are amounts that were booked for tries
    that came to nothing, and reversed.
    """

    payout_id: str
    seq: int
    status: Status
    batch_id: str
    payee_id: str
    currency: str
    period: str
    account_id: str
    approved_minor: int
    held_back_minor: int
    minimum_minor: int
    approved_by: str
    approved_at: datetime
    moved_at: datetime
    amount_minor: int = 0
    cleared_at: datetime | None = None
    transfer_id: str | None = None
    sent_at: datetime | None = None
    failure: tuple[str, str] | None = None
    returns: tuple[e.PayoutReturned, ...] = ()
    waiting: tuple[str, str] | None = None
    waiting_since: datetime | None = None
    undone_minor: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What it is, once and for all: payee, currency and period."""
        return f"payout:{self.payee_id}:{self.currency}:{self.period}"

    @property
    def attempt_key(self) -> str:
        """The idempotency key of this try's booking and transfer."""
        return attempt_key(self.key, len(self.undone_minor) + 1)

    @property
    def returned_minor(self) -> int:
        """What came back."""
        return sum(one.amount_minor for one in self.returns)

    @property
    def finished(self) -> bool:
        """Whether nothing is due by itself."""
        return self.status not in UNFINISHED


def attempt_key(key: str, number: int) -> str:
    """Return the key of a payout's try; the first one's is the payout's own."""
    return key if number == 1 else f"{key}:{number}"


def next_step(payout: Payout) -> Step | None:
    """Return what is to be done when the payout is due."""
    return _STEPS.get(payout.status)


def evolve(payout_id: str, payout: Payout | None, event: e.Event) -> Payout:
    """Apply one event."""
    if payout is None:
        assert isinstance(event, e.PayoutApproved), "a payout begins with its approval"
        return _approved(payout_id, event)
    moved = replace(payout, seq=payout.seq + 1, moved_at=event.at)
    match event:
        case e.PayoutCleared():
            return replace(
                moved,
                status=Status.CLEARED,
                amount_minor=event.amount_minor,
                cleared_at=event.at,
                waiting=None,
            )
        case e.PayoutBooked():
            return replace(moved, status=Status.BOOKED)
        case e.PayoutSent():
            return replace(moved, status=Status.SENT, transfer_id=event.transfer_id, sent_at=event.at)
        case e.PayoutSettled():
            return replace(moved, status=Status.SETTLED)
        case e.PayoutRefused():
            return replace(moved, status=Status.REFUSED, failure=(event.code, event.detail))
        case e.PayoutWaits():
            return replace(
                moved,
                status=WAITS_FOR[event.code],
                amount_minor=0,
                cleared_at=None,
                failure=None,
                waiting=(event.code, event.detail),
                waiting_since=payout.waiting_since or event.at,
                undone_minor=_undone(payout),
            )
        case e.PayoutFailed():
            return replace(moved, status=Status.FAILED, failure=(event.code, event.detail), waiting=None)
        case e.PayoutReturned():
            returns = (*payout.returns, event)
            whole = sum(one.amount_minor for one in returns) >= payout.amount_minor
            status = Status.RETURNED if whole else payout.status
            return replace(moved, status=status, returns=returns)
        case e.PayoutApproved():
            raise AssertionError("a payout is approved once")


def fold(payout_id: str, events: Iterable[e.Event]) -> Payout:
    """Build a payout from its whole history."""
    payout: Payout | None = None
    for event in events:
        payout = evolve(payout_id, payout, event)
    assert payout is not None, "a payout has at least one event"
    return payout


def _undone(payout: Payout) -> tuple[int, ...]:
    if payout.status is Status.REFUSED:
        return (*payout.undone_minor, payout.amount_minor)
    return payout.undone_minor


def _approved(payout_id: str, event: e.PayoutApproved) -> Payout:
    return Payout(
        payout_id=payout_id,
        seq=1,
        status=Status.APPROVED,
        batch_id=event.batch_id,
        payee_id=event.payee_id,
        currency=event.currency,
        period=event.period,
        account_id=event.account_id,
        approved_minor=event.amount_minor,
        held_back_minor=event.held_back_minor,
        minimum_minor=event.minimum_minor,
        approved_by=event.approved_by,
        approved_at=event.at,
        moved_at=event.at,
    )
