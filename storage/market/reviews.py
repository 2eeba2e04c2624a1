"""Reviews of flagged orders, read from the orders' events: what is authorised, and what became of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.orders.payments import REVIEW_S_MAX
from domain.orders.state import ReviewStatus
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "reviews.sql").items()}
OPEN_S_MAX = REVIEW_S_MAX + 86_400  # a deadline is kept within minutes; a day is for an outage
_STATUS_OF = {
    None: ReviewStatus.OPEN,
    "order.review_approved": ReviewStatus.APPROVED,
    "order.review_rejected": ReviewStatus.REJECTED,
    "order.cancelled": ReviewStatus.ENDED,
}


@dataclass(frozen=True, slots=True)
class Review:
    """One review. ``amount_minor`` is held; ``end_code`` says what ended it when no person did."""

    order_id: str
    status: ReviewStatus
    buyer_id: str
    currency: str
    amount_minor: int
    reasons: tuple[str, ...]
    opened_at: datetime
    decide_by: datetime
    reviewer_id: str | None
    reason: str | None
    decided_at: datetime | None
    end_code: str | None


class Reviews:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, before: str, limit: int, status: ReviewStatus | None) -> list[Review]:
        """List reviews, newest order first, of orders below ``before``."""
        values = {
            "before": before,
            "limit": limit,
            "status": None if status is None else status.value,
            "open_s_max": OPEN_S_MAX,
        }
        found = []
        for row in await fetch(self._pool, SQL["reviews"], values):
            order_id, buyer_id, currency, amount_minor, reasons, opened_at, review_s, *decision = row
            kind, reviewer_id, reason, decided_at, end_code = decision
            status_now = _STATUS_OF[kind]
            ended = status_now is ReviewStatus.ENDED
            found.append(
                Review(
                    order_id,
                    status_now,
                    buyer_id,
                    currency,
                    amount_minor,
                    tuple(reasons),
                    opened_at,
                    opened_at + timedelta(seconds=review_s),
                    reviewer_id,
                    reason or None,
                    decided_at,
                    end_code if ended else None,
                )
            )
        return found
