"""Bodies of refunds and disputes, as operators and buyers see them.

Who asked for a refund is told by role only; the name stays in the order's history.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from domain.money import AMOUNT_MINOR_MAX
from domain.orders.decide import LINES_MAX
from domain.orders.returned import Dispute as DisputeState
from domain.orders.returned import Refund as RefundState
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.dead_letters import REASON_CHARS_MAX, REASON_CHARS_MIN, REASON_PATTERN

AmountMinor = Annotated[int, Field(ge=1, le=AMOUNT_MINOR_MAX)]


class RefundLine(Request):
    """A line, and how much of it; all that is left when no amount is given."""

    line_no: Annotated[int, Field(ge=1, le=LINES_MAX)]
    amount_minor: AmountMinor | None = None


class NewRefund(Request):
    """What to return: these lines, or an amount spread over all lines, or everything that is left."""

    lines: Annotated[list[RefundLine], Field(min_length=1, max_length=LINES_MAX)] | None = None
    amount_minor: AmountMinor | None = None
    reason: Annotated[
        str, Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN)
    ]


class ReturnedLine(Document):
    """A line's part of what goes back."""

    line_no: int
    amount_minor: int


class RefundFailure(Document):
    """Why a refund did not happen."""

    code: str
    reason: str


class Refund(Document):
    """A refund. ``origin``: who asked for it, or ``dashboard`` when it was made at Stripe by hand."""

    id: str
    status: Literal["requested", "pending", "succeeded", "failed"]
    amount_minor: int
    currency: str
    lines: list[ReturnedLine]
    origin: Literal["operator", "buyer", "dashboard"]
    reason: str
    stripe_refund_id: str | None
    failure: RefundFailure | None
    requested_at: str
    ended_at: str | None


class Dispute(Document):
    """A dispute, by Stripe's id. ``stage`` is Stripe's word for where it stands."""

    id: str
    status: Literal["open", "won", "lost"]
    stage: str
    amount_minor: int
    currency: str
    reason: str
    opened_at: str
    closed_at: str | None


def refund_document(refund: RefundState, currency: str) -> dict[str, Any]:
    """Write a ``Refund``."""
    return {
        "id": refund.refund_id,
        "status": refund.status.value,
        "amount_minor": refund.amount_minor,
        "currency": currency,
        "lines": [{"line_no": share.line_no, "amount_minor": share.amount_minor} for share in refund.shares],
        "origin": refund.origin,
        "reason": refund.reason,
        "stripe_refund_id": refund.stripe_refund_id,
        "failure": None
        if refund.failure is None
        else {"code": refund.failure[0], "reason": refund.failure[1]},
        "requested_at": rfc3339(refund.requested_at),
        "ended_at": None if refund.ended_at is None else rfc3339(refund.ended_at),
    }


def dispute_document(dispute: DisputeState, currency: str) -> dict[str, Any]:
    """Write a ``Dispute``."""
    return {
        "id": dispute.dispute_id,
        "status": dispute.status.value,
        "stage": dispute.stage,
        "amount_minor": dispute.amount_minor,
        "currency": currency,
        "reason": dispute.reason,
        "opened_at": rfc3339(dispute.opened_at),
        "closed_at": None if dispute.closed_at is None else rfc3339(dispute.closed_at),
    }
