"""Money of an order that went back, or may: refunds and disputes as they stand, and what is left to return.

Returned is what a refund asked for, unless it failed, and what a dispute took, unless it was won. The one
bound, kept by ``domain.orders.returns`` and by the database: of a line never more is returned than it cost,
so of an order never more than was captured. Nothing is decided here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain.orders.lines import Line, Share


class RefundStatus(StrEnum):
    """``requested``: Stripe has not answered; ``pending``: it took the refund on; then how it ended."""

    REQUESTED = "requested"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class DisputeStatus(StrEnum):
    """Whether a dispute's money is still fought over."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


UNDECIDED = frozenset({RefundStatus.REQUESTED, RefundStatus.PENDING})


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund. ``failure`` is (code, reason); times are those of the events that changed it."""

    refund_id: str
    shares: tuple[Share, ...]
    origin: str
    requested_by: str
    reason: str
    request_digest: str
    requested_at: datetime
    status: RefundStatus = RefundStatus.REQUESTED
    stripe_refund_id: str | None = None
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    failure: tuple[str, str] | None = None

    @property
    def amount_minor(self) -> int:
        """What goes back, over all lines."""
        return sum(share.amount_minor for share in self.shares)

    @property
    def returns(self) -> bool:
        """Whether it counts as returned."""
        return self.status is not RefundStatus.FAILED


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an operator says to the bank. ``failure`` is (code, reason) when Stripe did not take it."""

    evidence_id: str
    texts: Mapping[str, str]
    submit: bool
    prepared_by: str
    request_digest: str
    prepared_at: datetime
    sent_at: datetime | None = None
    failure: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class DisputeFee:
    """What Stripe took for a dispute by one balance transaction; below zero when it gave it back.

    ``transaction_id`` empty: recorded before transactions were told apart.
    """

    transaction_id: str
    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Dispute:
    """One dispute. ``stage`` is Stripe's word for where an open one stands.

    ``due_by`` is until when evidence can be sent; None: not told.
    """

    dispute_id: str
    shares: tuple[Share, ...]
    reason: str
    stage: str
    opened_at: datetime
    fees: tuple[DisputeFee, ...] = ()
    status: DisputeStatus = DisputeStatus.OPEN
    closed_at: datetime | None = None
    due_by: datetime | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def amount_minor(self) -> int:
        """What the bank took, over all lines."""
        return sum(share.amount_minor for share in self.shares)

    @property
    def fee_minor(self) -> int:
        """What Stripe took for it and has not given back."""
        return sum(fee.amount_minor for fee in self.fees)

    @property
    def returns(self) -> bool:
        """Whether it counts as returned."""
        return self.status is not DisputeStatus.WON


Return = Refund | Dispute


def fees_to_record(recorded: Sequence[DisputeFee], told: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return those of Stripe's (balance transaction, amount) that a dispute has not recorded.

    A fee that was recorded before transactions were told apart stands for the first charges that make it up.
    """
    earlier_minor = sum(fee.amount_minor for fee in recorded if not fee.transaction_id)
    known = {fee.transaction_id for fee in recorded}
    missing: list[tuple[str, int]] = []
    for transaction_id, amount_minor in told:
        if 0 < amount_minor <= earlier_minor:
            earlier_minor -= amount_minor
        elif transaction_id not in known and (transaction_id or not recorded):
            missing.append((transaction_id, amount_minor))
            known.add(transaction_id)
    return missing


def shares_returned(returns: Iterable[Return]) -> Iterator[Share]:
    """Yield the shares of everything that counts as returned."""
    for one in returns:
        if one.returns:
            yield from one.shares


def left_by_line(lines: Iterable[Line], returns: Iterable[Return]) -> Mapping[int, int]:
    """Return what is left to return of each line, in minor units, by line number."""
    left = {line.line_no: line.amount_minor for line in lines}
    for share in shares_returned(returns):
        left[share.line_no] -= share.amount_minor
    return left
