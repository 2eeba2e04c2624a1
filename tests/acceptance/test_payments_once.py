"""Sixty-four of everything at once, on the real marketplace: one charge, booking and licence per line."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.payments import StripeSide, charged_once, placed, rows_of, until, until_status

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]
MANY = 64


@pytest.fixture
def stripe(market):
    side = StripeSide(market.local)
    yield side
    side.http.close()


@pytest.fixture
def cart(wish, sku_ids):
    return wish(lines=[{"sku_id": sku_ids[name], "quantity": 1} for name in ("logline", "tidycsv")])


def at_once(work):
    with ThreadPoolExecutor(MANY) as pool:
        return list(pool.map(work, range(MANY)))


def test_sixty_four_clicks_confirmations_and_webhooks(market, buyer, cart, stripe):
    key = str(uuid4())
    clicks = at_once(lambda _: buyer.post("/v1/orders", json=cart, headers={"Idempotency-Key": key}))
    assert {one.status_code for one in clicks} <= {201, 409}
    assert {one.json()["code"] for one in clicks if one.status_code == 409} <= {"idempotency_in_progress"}
    order = placed(buyer, cart, key)
    assert {one.json()["id"] for one in clicks if one.status_code == 201} == {order["id"]}
    assert len(buyer.get("/v1/orders").json()["items"]) == 1

    stripe.post("/_sim/webhooks/pause")
    try:
        confirmed = Counter(one.status_code for one in at_once(lambda _: market.confirm(order)))
        assert confirmed[200] >= 1
        event = stripe.event("payment_intent.succeeded", order["id"])
        body, headers = stripe.signed(event)

        def deliver(_number):
            with market.http() as http:
                return http.post("/v1/webhooks/stripe", content=body, headers=headers)

        told = at_once(deliver)
    finally:
        stripe.post("/_sim/webhooks/resume")
    assert {one.status_code for one in told} == {200}
    assert Counter(one.json()["outcome"] for one in told) == {"applied": 1, "no_change": MANY - 1}
    done = until_status(buyer, order["id"], "delivered")
    charged_once(stripe, market.local, done, lines=2)
    query = "SELECT outcome FROM market.inbox WHERE order_id = %s AND kind = 'payment_intent.succeeded'"
    assert rows_of(market.local, query, order["id"]) == [("applied",)]


def test_sixty_four_purchases_of_one_buyer_at_once_are_sixty_four(market, buyer, wish, stripe):
    orders = at_once(lambda _: placed(buyer, wish()))
    assert len({one["id"] for one in orders}) == MANY
    assert {one.status_code for one in at_once(lambda number: market.confirm(orders[number]))} == {200}
    for order in orders:
        charged_once(stripe, market.local, until_status(buyer, order["id"], "delivered"), lines=1)


def test_sixty_four_reviewers_and_the_buyer_at_once(market, buyer, wish, sku_ids, stripe):
    body = wish(lines=[{"sku_id": sku_ids["logline"], "quantity": 300}])
    order = placed(buyer, body)
    assert market.confirm(order).status_code == 200
    until_status(buyer, order["id"], "in_review")
    path = f"/v1/ops/reviews/{order['id']}/decision"

    with market.http("operator") as one, market.http("operator2") as two:

        def act(number):
            headers = {"Idempotency-Key": str(uuid4())}
            if number % 8 == 0:
                return buyer.post(f"/v1/orders/{order['id']}/cancellation", json={}, headers=headers)
            decision = {"decision": ("approve", "reject")[number % 2], "reason": "Seen by a person."}
            return (one, two)[number // 2 % 2].post(path, json=decision, headers=headers)

        answers = at_once(act)
    read = f"/v1/orders/{order['id']}"
    done = until(lambda: buyer.get(read).json(), lambda one: one["status"] in ("delivered", "cancelled"))
    codes = {one.json()["code"] for one in answers if one.status_code != 200}
    assert codes <= {"review_decided", "review_not_open", "order_not_cancellable"}
    won = {
        "cancelled by the buyer" if "id" in one.json() else one.json()["status"]
        for one in answers
        if one.status_code == 200
    }
    assert len(won) == 1, won
    if done["status"] == "delivered":
        charged_once(stripe, market.local, done, lines=1)
    else:
        path = f"/v1/payment_intents/{order['payment']['payment_intent_id']}"
        assert (
            until(lambda: stripe.get(path), lambda one: one["status"] == "canceled")["amount_received"] == 0
        )


def test_a_webhook_for_two_replicas_at_once_and_its_browser(market, buyer, wish, stripe):
    """The browser's return, the webhook and its repetition: whichever is first, it is one payment."""
    order = placed(buyer, wish())
    assert market.confirm(order).status_code == 200
    body, headers = stripe.signed(stripe.event("payment_intent.succeeded", order["id"]))
    answers = at_once(
        lambda number: (
            httpx.post(
                f"{market.local['base_url']}/v1/webhooks/stripe", content=body, headers=headers, timeout=20
            )
            if number % 2
            else buyer.get(f"/v1/orders/{order['id']}")
        )
    )
    assert {one.status_code for one in answers} == {200}
    charged_once(stripe, market.local, until_status(buyer, order["id"], "delivered"), lines=1)
