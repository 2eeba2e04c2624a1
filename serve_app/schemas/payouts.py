"""Bodies of payees, payout batches, payouts and statements.

Amounts are minor units from the payee's side: what we owe is positive. Who drafted and approved is shown to
operators and auditors only.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from domain.payouts.batch import Batch as BatchState
from domain.payouts.batch import BatchLine as BatchLineState
from domain.payouts.batch import BatchStatus, BatchTotals
from domain.payouts.payees import Payee as PayeeState
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.dead_letters import REASON_CHARS_MAX, REASON_CHARS_MIN, REASON_PATTERN
from storage.market.payouts import ListedPayout

Reason = Annotated[
    str, Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN)
]
PayoutStatus = Literal[
    "approved",
    "awaiting_account",
    "awaiting_balance",
    "cleared",
    "booked",
    "sent",
    "settled",
    "refused",
    "failed",
    "returned",
]
CarriedReason = Literal["negative_balance", "held_back", "below_minimum", "no_account", "account_not_ready"]


class PayeeAccount(Request):
    """The connected account at Stripe that a payee is paid to."""

    account_id: Annotated[str, Field(pattern=r"^acct_[A-Za-z0-9_]{1,100}$")]


class Payee(Document):
    """A payee. ``ready``: Stripe lets the account be paid, as of ``checked_at``."""

    id: str
    account_id: str
    ready: bool
    transfers: str
    payouts_enabled: bool
    named_at: str
    checked_at: str


class NewPayoutBatch(Request):
    """Which payouts to draft. ``period`` is a month (2026-10) or an ISO week (2026-W43) that is over."""

    period: Annotated[str, Field(min_length=7, max_length=8)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    reason: Reason


class PayoutReason(Request):
    """Why the operator does it; kept for good."""

    reason: Reason


class PayoutTerms(Document):
    """What of the governed ``platform_fees`` the batch was cut by."""

    fees_version: int
    holdback_bps: int
    holdback_days: int
    minimum_minor: int


class PayoutBatchSummary(Document):
    """A batch without its figures. ``decided_by`` approved or withdrew it."""

    id: str
    period: str
    currency: str
    status: Literal["drafted", "approved", "withdrawn"]
    terms: PayoutTerms
    cut_at: str
    drafted_by: str
    drafted_at: str
    decided_by: str | None
    decided_at: str | None
    reason: str | None


class PayoutBatch(PayoutBatchSummary):
    """A batch. ``carried_by_reason`` counts payees; ``progress`` counts payouts by status."""

    payees: int
    payouts: int
    paid_minor: int
    carried_minor: int
    held_back_minor: int
    carried_by_reason: dict[str, int]
    progress: dict[str, int]
    stuck: int


class PayoutBatchPage(Document):
    """Batches, newest first."""

    items: list[PayoutBatchSummary]
    next_cursor: str | None


class PayoutLine(Document):
    """What a batch says of one payee: paid + carried + held back = closing - returned."""

    payee_id: str
    closing_minor: int
    returned_minor: int
    sold_minor: int
    paid_minor: int
    carried_minor: int
    held_back_minor: int
    reason: CarriedReason | None
    account_id: str | None
    account_named_at: str | None


class PayoutLinePage(Document):
    """Lines by payee."""

    items: list[PayoutLine]
    next_cursor: str | None


class PayoutFailure(Document):
    """Why a payout was not sent; its balance is carried."""

    code: str
    reason: str


class Payout(Document):
    """A payout. ``approved_minor`` is the most that may be sent, ``amount_minor`` what is or was."""

    id: str
    batch_id: str
    payee_id: str
    period: str
    currency: str
    status: PayoutStatus
    approved_minor: int
    amount_minor: int
    returned_minor: int
    account_id: str
    transfer_id: str | None
    failure: PayoutFailure | None
    waiting: PayoutFailure | None = Field(description="Tried again by itself; what it waits for")
    stuck: PayoutFailure | None = Field(description="Waits for an operator, and why")
    approved_at: str
    moved_at: str


class PayoutPage(Document):
    """Payouts, newest first."""

    items: list[Payout]
    next_cursor: str | None


def payee_document(payee: PayeeState) -> dict[str, Any]:
    """Write a ``Payee``."""
    return {
        "id": payee.payee_id,
        "account_id": payee.account_id,
        "ready": payee.state.ready,
        "transfers": payee.state.transfers,
        "payouts_enabled": payee.state.payouts_enabled,
        "named_at": rfc3339(payee.named_at),
        "checked_at": rfc3339(payee.checked_at),
    }


def batch_summary(batch: BatchState) -> dict[str, Any]:
    """Write a ``PayoutBatchSummary``."""
    return {
        "id": batch.batch_id,
        "period": batch.period,
        "currency": batch.currency,
        "status": batch.status.value,
        "terms": {
            "fees_version": batch.terms.fees_version,
            "holdback_bps": batch.terms.holdback_bps,
            "holdback_days": batch.terms.holdback_days,
            "minimum_minor": batch.terms.minimum_minor,
        },
        "cut_at": rfc3339(batch.cut_at),
        "drafted_by": batch.drafted_by,
        "drafted_at": rfc3339(batch.drafted_at),
        "decided_by": batch.decided_by,
        "decided_at": None if batch.decided_at is None else rfc3339(batch.decided_at),
        "reason": batch.reason,
    }


def batch_document(
    batch: BatchState, totals: BatchTotals, progress: Mapping[str, int], stuck: int
) -> dict[str, Any]:
    """Write a ``PayoutBatch``."""
    return {
        **batch_summary(batch),
        "payees": totals.payees,
        "payouts": totals.payouts if batch.status is not BatchStatus.WITHDRAWN else 0,
        "paid_minor": totals.paid_minor,
        "carried_minor": totals.carried_minor,
        "held_back_minor": totals.held_back_minor,
        "carried_by_reason": totals.carried_by_reason,
        "progress": dict(progress),
        "stuck": stuck,
    }


def line_document(line: BatchLineState) -> dict[str, Any]:
    """Write a ``PayoutLine``."""
    figures, division = line.figures, line.division
    return {
        "payee_id": line.payee_id,
        "closing_minor": figures.closing_minor,
        "returned_minor": figures.returned_minor,
        "sold_minor": figures.sold_minor,
        "paid_minor": division.paid_minor,
        "carried_minor": division.carried_minor,
        "held_back_minor": division.held_back_minor,
        "reason": division.reason,
        "account_id": line.account_id,
        "account_named_at": None if line.account_named_at is None else rfc3339(line.account_named_at),
    }


def payout_document(listed: ListedPayout) -> dict[str, Any]:
    """Write a ``Payout``."""
    payout = listed.payout
    stuck = None
    if listed.dead_code is not None:
        stuck = {"code": listed.dead_code, "reason": listed.last_error or ""}
    return {
        "id": payout.payout_id,
        "batch_id": payout.batch_id,
        "payee_id": payout.payee_id,
        "period": payout.period,
        "currency": payout.currency,
        "status": payout.status.value,
        "approved_minor": payout.approved_minor,
        "amount_minor": payout.amount_minor,
        "returned_minor": payout.returned_minor,
        "account_id": payout.account_id,
        "transfer_id": payout.transfer_id,
        "failure": _why(payout.failure),
        "waiting": _why(payout.waiting),
        "stuck": stuck,
        "approved_at": rfc3339(payout.approved_at),
        "moved_at": rfc3339(payout.moved_at),
    }


def _why(why: tuple[str, str] | None) -> dict[str, str] | None:
    return None if why is None else {"code": why[0], "reason": why[1]}


_TIME = "2026-11-03T09:30:00Z"
_BATCH_ID = "pob_01jz3k5v8m2q9x7c4b6n0t1rwf"
EXAMPLE_ACCOUNT = {"account_id": "acct_1NV0FfGSc6c2o8mN"}
EXAMPLE_PAYEE = {
    "id": "seller_1",
    **EXAMPLE_ACCOUNT,
    "ready": True,
    "transfers": "active",
    "payouts_enabled": True,
    "named_at": _TIME,
    "checked_at": _TIME,
}
EXAMPLE_REASON = {"reason": "Compared with the statements of October."}
EXAMPLE_NEW_BATCH = {"period": "2026-10", "currency": "USD", "reason": "October's payouts."}
EXAMPLE_SUMMARY: dict[str, Any] = {
    "id": _BATCH_ID,
    "period": "2026-10",
    "currency": "USD",
    "status": "drafted",
    "terms": {"fees_version": 3, "holdback_bps": 1000, "holdback_days": 30, "minimum_minor": 5000},
    "cut_at": _TIME,
    "drafted_by": "operator_1",
    "drafted_at": _TIME,
    "decided_by": None,
    "decided_at": None,
    "reason": None,
}
EXAMPLE_BATCH: dict[str, Any] = {
    **EXAMPLE_SUMMARY,
    "payees": 2,
    "payouts": 1,
    "paid_minor": 152_010,
    "carried_minor": 310,
    "held_back_minor": 16_890,
    "carried_by_reason": {"below_minimum": 1},
    "progress": {},
    "stuck": 0,
}
EXAMPLE_APPROVED = EXAMPLE_BATCH | {
    "status": "approved",
    "decided_by": "operator_2",
    "decided_at": _TIME,
    **EXAMPLE_REASON,
    "progress": {"approved": 1},
}
EXAMPLE_WITHDRAWN = EXAMPLE_APPROVED | {"status": "withdrawn", "payouts": 0, "progress": {}}
EXAMPLE_LINE = {
    "payee_id": "seller_1",
    "closing_minor": 170_900,
    "returned_minor": 2_000,
    "sold_minor": 168_900,
    "paid_minor": 152_010,
    "carried_minor": 0,
    "held_back_minor": 16_890,
    "reason": None,
    **EXAMPLE_ACCOUNT,
    "account_named_at": _TIME,
}
EXAMPLE_PAYOUT = {
    "id": "po_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "batch_id": _BATCH_ID,
    "payee_id": "seller_1",
    "period": "2026-10",
    "currency": "USD",
    "status": "settled",
    "approved_minor": 152_010,
    "amount_minor": 152_010,
    "returned_minor": 0,
    **EXAMPLE_ACCOUNT,
    "transfer_id": "tr_1NV0FfGSc6c2o8mN",
    "failure": None,
    "waiting": None,
    "stuck": None,
    "approved_at": _TIME,
    "moved_at": _TIME,
}
