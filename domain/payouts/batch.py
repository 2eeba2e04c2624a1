"""A batch: all payouts of one period in one currency, drafted by one operator and approved by another.

A draft is a fact: its lines never change. Whoever wants other ones withdraws it and drafts anew.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain.payouts.cut import Division, Figures, Terms
from domain.payouts.events import PayoutApproved
from domain.payouts.refusals import refusal

LINES_MAX = 10_000  # some 2 MB in one statement; a second's work of Finance


class BatchStatus(StrEnum):
    """Where a batch stands; an approved one's payouts have statuses of their own."""

    DRAFTED = "drafted"
    APPROVED = "approved"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class BatchLine:
    """What the batch says of one payee. ``account_id`` is frozen: that account is paid, or none."""

    payee_id: str
    figures: Figures
    division: Division
    account_id: str | None
    account_named_at: datetime | None


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Sums over the lines; ``carried_by_reason`` counts the payees that are not paid."""

    payees: int
    payouts: int
    paid_minor: int
    carried_minor: int
    held_back_minor: int
    carried_by_reason: dict[str, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch without its lines. ``decided_by`` approved or withdrew it, for ``reason``."""

    batch_id: str
    period: str
    currency: str
    terms: Terms
    cut_at: datetime
    status: BatchStatus
    drafted_by: str
    drafted_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    reason: str | None = None


def require_approvable(batch: Batch, by: str) -> None:
    """Check that ``by`` may approve the batch.

    Raises:
        ConflictError: ``payout_batch_approved`` or ``payout_batch_withdrawn``.
        RejectedError: ``payout_own_batch``.
    """
    require_drafted(batch)
    if by == batch.drafted_by:
        raise refusal("payout_own_batch")


def require_drafted(batch: Batch) -> None:
    """Check that nobody has decided about the batch.

    Raises:
        ConflictError: ``payout_batch_approved`` or ``payout_batch_withdrawn``.
    """
    if batch.status is not BatchStatus.DRAFTED:
        raise refusal(f"payout_batch_{batch.status}")


def require_approved(batch: Batch) -> None:
    """Check that the batch's payouts may run.

    Raises:
        ConflictError: ``payout_batch_drafted`` or ``payout_batch_withdrawn``.
    """
    if batch.status is not BatchStatus.APPROVED:
        raise refusal(f"payout_batch_{batch.status}")


def approved_payout(batch: Batch, line: BatchLine, by: str, at: datetime) -> PayoutApproved:
    """Return the first event of a line's payout."""
    assert line.account_id is not None, "only a payee with an account is paid"
    return PayoutApproved(
        batch_id=batch.batch_id,
        payee_id=line.payee_id,
        currency=batch.currency,
        period=batch.period,
        account_id=line.account_id,
        amount_minor=line.division.paid_minor,
        held_back_minor=line.division.held_back_minor,
        minimum_minor=batch.terms.minimum_minor,
        approved_by=by,
        at=at,
    )
