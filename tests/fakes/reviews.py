"""Reviews of flagged orders, folded from the fake store's events as Postgres selects them."""

from __future__ import annotations

from datetime import timedelta

from domain.orders.commands import PaymentTerms
from domain.orders.events import OrderCancelled, PaymentAuthorised, ReviewApproved, ReviewRejected
from domain.orders.state import ReviewStatus, fold
from storage.market.reviews import Review
from tests.fakes.orders import FakeOrderStore


class FakeReviews:
    def __init__(self, store: FakeOrderStore) -> None:
        self._store = store

    async def page(self, before: str, limit: int, status: ReviewStatus | None) -> list[Review]:
        found = []
        for order_id in sorted((one for one in self._store.orders if one < before), reverse=True):
            review = self._review(order_id)
            if review is not None and status in (None, review.status):
                found.append(review)
        return found[:limit]

    def _review(self, order_id: str) -> Review | None:
        events = self._store.orders[order_id].events
        opened = next((one for one in events if isinstance(one, PaymentAuthorised)), None)
        order = fold(order_id, events)
        if opened is None or order is None or order.review is None:
            return None
        later = events[events.index(opened) + 1 :]
        end = next(
            (one for one in later if isinstance(one, ReviewApproved | ReviewRejected | OrderCancelled)), None
        )
        ended = isinstance(end, OrderCancelled)
        return Review(
            order_id,
            order.review,
            order.buyer_id,
            order.currency,
            order.total_minor,
            order.flagged_for,
            opened.at,
            opened.at + timedelta(seconds=opened.review_s),
            order.reviewer_id,
            None if end is None else end.reason,
            None if end is None else end.at,
            end.code if isinstance(end, OrderCancelled) and ended else None,
        )


class FakeTerms:
    """The governed documents; ``failure`` is raised instead of an answer."""

    def __init__(self) -> None:
        self.payment = PaymentTerms()
        self.failure: Exception | None = None

    async def payment_terms(self) -> PaymentTerms:
        if self.failure is not None:
            raise self.failure
        return self.payment
