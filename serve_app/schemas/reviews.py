"""Bodies of reviews of flagged orders."""

from typing import Annotated, Any, Literal

from pydantic import Field

from domain.orders.state import ReviewStatus
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.dead_letters import REASON_CHARS_MAX, REASON_CHARS_MIN, REASON_PATTERN
from storage.market.reviews import Review as ReviewRow


class ReviewDecision(Request):
    """What is decided, and why; the buyer does not see the reason."""

    decision: Literal["approve", "reject"]
    reason: Annotated[
        str, Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN)
    ]


class Review(Document):
    """A flagged order whose payment is held. ``end_code``: what ended it when no person decided in time."""

    order_id: str
    status: ReviewStatus
    buyer_id: str
    currency: str
    amount_minor: int
    reasons: list[str]
    opened_at: str
    decide_by: str
    reviewer_id: str | None
    reason: str | None
    decided_at: str | None
    end_code: str | None


class ReviewPage(Document):
    """Reviews, newest order first."""

    items: list[Review]
    next_cursor: str | None


class ReviewDecided(Document):
    """What was decided, and where the order stands now."""

    order_id: str
    status: ReviewStatus
    order_status: str


def review_document(row: ReviewRow) -> dict[str, Any]:
    """Write a ``Review``."""
    return {
        "order_id": row.order_id,
        "status": row.status.value,
        "buyer_id": row.buyer_id,
        "currency": row.currency,
        "amount_minor": row.amount_minor,
        "reasons": list(row.reasons),
        "opened_at": rfc3339(row.opened_at),
        "decide_by": rfc3339(row.decide_by),
        "reviewer_id": row.reviewer_id,
        "reason": row.reason,
        "decided_at": None if row.decided_at is None else rfc3339(row.decided_at),
        "end_code": row.end_code,
    }
