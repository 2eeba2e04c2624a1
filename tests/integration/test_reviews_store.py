"""Reviews on Postgres: the list that operators see is what the orders' events say, however it was decided."""

from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from domain.orders import commands as c
from domain.orders.state import ReviewStatus
from storage.market.governed import GovernedTerms
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.market.proposals import Governed
from storage.market.reviews import Reviews
from tests.contracts.order_store import placed, turn_of
from tests.fakes.carts import BUYER, NOW, line

pytestmark = pytest.mark.integration
TOTAL = 900_000


@pytest.fixture
def migrated(market_database):
    return market_database


@pytest.fixture
async def pool(migrated):
    made = build_pool(migrated.dsn_for("market_app"), name="test", size_max=2)
    await made.open(wait=True)
    yield made
    await made.close()


async def held(store, number, *commands):
    terms = c.PaymentTerms(review_s=7_200)
    order = await placed(store, number, lines=(line(price_minor=TOTAL),), payment_terms=terms)
    authorised = c.NoticeAuthorisation(f"pi_{number}", f"evt_{number}", TOTAL, "USD", NOW)
    for command in (c.RecordPaymentOpened(f"pi_{number}", None, NOW), authorised, *commands):
        turn = turn_of(order, command, number=number)
        assert await store.commit(turn)
        order = turn.order
    return order.order_id


async def test_each_review_is_listed_as_it_stands(pool, migrated):
    store, reviews = PostgresOrderStore(pool), Reviews(pool)
    approve = c.DecideReview("operator_1", approves=True, reason="Known.", at=NOW)
    open_id = await held(store, 1)
    approved_id = await held(store, 2, approve)
    rejected_id = await held(store, 3, replace(approve, approves=False, reason="Stolen."))
    ended_id = await held(store, 4, c.CancelOrder(NOW))
    paid_id = await held(store, 5, approve, c.ConfirmPayment("pi_5", "evt_p", TOTAL, "USD", NOW))
    await placed(store, 6)

    async def ids(status):
        return [one.order_id for one in await reviews.page("~", 10, status)]

    assert await ids(None) == [paid_id, ended_id, rejected_id, approved_id, open_id]
    assert await ids(ReviewStatus.OPEN) == [open_id]
    assert await ids(ReviewStatus.APPROVED) == [paid_id, approved_id]
    assert await ids(ReviewStatus.ENDED) == [ended_id]
    (rejected,) = await reviews.page("~", 10, ReviewStatus.REJECTED)
    assert (rejected.reviewer_id, rejected.reason, rejected.end_code) == ("operator_1", "Stolen.", None)
    assert (rejected.buyer_id, rejected.amount_minor, len(rejected.reasons)) == (BUYER, TOTAL, 2)
    assert rejected.decide_by - rejected.opened_at == timedelta(hours=2)
    assert rejected.decided_at is not None
    assert [one.order_id for one in await reviews.page(ended_id, 1, None)] == [rejected_id]
    assert (await reviews.page("~", 10, ReviewStatus.ENDED))[0].end_code == "cancelled_by_buyer"
    with psycopg.connect(migrated.dsn) as owner:
        due = owner.execute(
            "SELECT step, due_at - now() BETWEEN interval '1 hour 59 min' AND interval '2 hours'"
            " FROM market.effects WHERE order_id = %s",
            [open_id],
        ).fetchall()
    assert due == [("end_review", True)], "the deadline that is shown is the timer's"


async def test_the_terms_in_force_are_the_governed_ones(pool):
    terms = GovernedTerms(Governed(pool, lambda: 0.0))
    assert await terms.payment_terms() == c.PaymentTerms(
        reviews=True, review_s=432_000, refund_window_s=2_592_000, checkout_allowed=True
    )
