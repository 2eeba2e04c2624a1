"""Flagged orders over HTTP: held, listed, approved or rejected once; and buyers who cancel in time."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from actors.orders.sweep import Sweep
from domain.errors import DependencyError
from domain.orders.decide import CAPTURE_PAYMENT
from domain.orders.ports import CapturedPayment
from tests.fakes.http_client import Client, pay, settle, signed, stripe_event
from tests.fakes.ingress import RECIPIENT, FakeMarket

TOTAL = 900_000
WHY = "Called back; a known company."


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def buyer(market):
    return Client(market.app(), "buyer")


@pytest.fixture
def operator(buyer):
    return buyer.as_("operator")


async def place(market, buyer, price_minor=TOTAL, **more):
    sku = market.list_published(f"tool-{len(market.catalogue.skus)}", prices={"USD": price_minor})
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    answer = await buyer.post("/v1/orders", body | more)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def tell(market, client, order_id, kind, event_id="evt_a", **intent):
    event = stripe_event(
        order_id, kind=kind, event_id=event_id, intent_id=market.gateway.intents[order_id], **intent
    )
    body = orjson.dumps(event)
    signature = signed(body, int(market.clock().timestamp()))
    answer = await client.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )
    await settle(market)
    return answer.json()["outcome"]


async def authorise(market, client, order_id, **more):
    kind = "payment_intent.amount_capturable_updated"
    return await tell(market, client, order_id, kind, **({"amount_capturable": TOTAL} | more))


def decide(client, order_id, decision, key="fresh", reason=WHY):
    body = {"decision": decision, "reason": reason}
    return client.post(f"/v1/ops/reviews/{order_id}/decision", body, key=key)


async def read(client, order_id):
    return (await client.get(f"/v1/orders/{order_id}")).json()


@pytest.fixture
async def held(market, buyer):
    order = await place(market, buyer)
    assert await authorise(market, buyer, order["id"]) == "applied"
    return order["id"]


async def refuse(market, answering, status, code):
    before = market.writes()
    answer = await answering
    await settle(market)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert market.writes() == before


async def test_the_buyer_is_told_why_and_by_when(market, buyer, held):
    order = await read(buyer, held)
    assert order["status"] == "in_review"
    assert order["review"]["status"] == "open"
    assert order["review"]["reasons"]
    assert order["review"]["decide_by"] == "2026-11-29T12:00:00Z"
    assert order["payment"]["client_secret"] is None, "there is nothing to pay now"
    assert not market.gateway.captures


async def test_an_approval_captures_and_the_order_goes_on(market, buyer, operator, held):
    answer = await decide(operator, held, "approve")
    assert (answer.status_code, answer.json()["status"]) == (200, "approved")
    await settle(market)
    assert market.gateway.captures == [held]
    assert (await read(buyer, held))["status"] == "delivered"
    events = (await buyer.get(f"/v1/orders/{held}/events", accept="application/json")).json()["items"]
    assert WHY not in orjson.dumps(events).decode(), "the reviewer's reason is not the buyer's"


async def test_a_rejection_voids_and_nothing_is_captured(market, buyer, operator, held):
    assert (await decide(operator, held, "reject")).json() == {
        "order_id": held,
        "status": "rejected",
        "order_status": "cancelled",
    }
    await settle(market)
    order = await read(buyer, held)
    assert (order["status"], order["end"]["code"]) == ("cancelled", "review_rejected")
    assert "Nothing was charged" in order["end"]["reason"]
    assert (market.gateway.voided, market.gateway.captures) == ({held}, [])


async def test_the_deadline_rejects_what_nobody_decided(market, buyer, operator, held):
    market.clock.advance(432_000 + 5)
    await Sweep(market.store, market.directory.host).once()
    await settle(market)
    assert (await read(buyer, held))["end"]["code"] == "review_expired"
    assert market.gateway.voided == {held}
    await refuse(market, decide(operator, held, "approve"), 409, "review_not_open")


async def test_a_lapse_at_stripe_ends_the_review(market, buyer, operator, held):
    assert await tell(market, buyer, held, "payment_intent.canceled", "evt_l") == "applied"
    assert (await read(buyer, held))["end"]["code"] == "authorisation_lapsed"
    await refuse(market, decide(operator, held, "approve"), 409, "review_not_open")


async def test_an_authorisation_that_lapsed_before_its_capture(market, buyer, operator, held):
    market.gateway.lapsed.add(held)
    await decide(operator, held, "approve")
    await settle(market)
    assert (await read(buyer, held))["end"]["code"] == "authorisation_lapsed"


async def test_a_capture_whose_answer_was_lost_is_found_by_the_next_try(market, buyer, operator, held):
    market.gateway.failures.append(DependencyError("payment_provider_unavailable", "lost"))
    await decide(operator, held, "approve")
    await settle(market)
    assert (await read(buyer, held))["status"] == "in_review"
    market.clock.advance(61)
    await Sweep(market.store, market.directory.host).once()
    await settle(market)
    assert (await read(buyer, held))["status"] == "delivered"


async def test_sixty_four_reviewers_at_once_make_one_decision(market, buyer, operator, held):
    for number in range(8):
        market.add_token(f"op{number}", "operator", f"operator_{number}")
    words = ["approve", "reject"]
    answers = await asyncio.gather(
        *(decide(buyer.as_(f"op{number % 8}"), held, words[number % 2]) for number in range(64))
    )
    await settle(market)
    won = {answer.json()["status"] for answer in answers if answer.status_code == 200}
    assert len(won) == 1
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"review_decided"}
    paid = won == {"approved"}
    assert (await read(buyer, held))["status"] == ("delivered" if paid else "cancelled")
    assert market.gateway.captures == ([held] if paid else [])


async def test_a_repetition_is_answered_the_same(market, operator, held):
    first = await decide(operator, held, "approve", key="k")
    await settle(market)
    again = await decide(operator, held, "approve", key="k")
    assert (again.status_code, again.json()["status"]) == (200, first.json()["status"])
    assert again.headers["idempotent-replayed"] == "true"
    await refuse(market, decide(operator, held, "reject", key="k"), 422, "idempotency_key_reused")


async def test_who_may_decide(market, buyer, operator, held):
    for token in ("buyer", "seller", "auditor"):
        await refuse(market, decide(buyer.as_(token), held, "approve"), 403, "role_not_allowed")
    for number, principal in enumerate(("buyer_ada", "seller_1")):
        market.add_token(f"own{number}", "operator", principal)
        await refuse(
            market, decide(buyer.as_(f"own{number}"), held, "approve"), 403, "reviewer_not_independent"
        )
    await refuse(market, decide(operator, held, "maybe"), 422, "body_invalid")
    await refuse(market, decide(operator, held, "approve", reason="x"), 422, "body_invalid")
    assert (await decide(buyer.as_("fraud"), held, "reject")).status_code == 200


async def test_what_there_is_nothing_to_decide_about(market, buyer, operator):
    small = await place(market, buyer, 1999)
    await refuse(market, decide(operator, small["id"], "approve"), 404, "review_not_found")
    flagged = await place(market, buyer)
    await refuse(market, decide(operator, flagged["id"], "approve"), 409, "review_not_open")
    await refuse(market, decide(operator, "ord_none", "approve"), 404, "order_not_found")


async def test_reviews_are_listed_by_status_and_page(market, buyer, operator):
    ids = []
    for number in range(3):
        ids.append((await place(market, buyer))["id"])
        await authorise(market, buyer, ids[-1], event_id=f"evt_{number}")
    await decide(operator, ids[1], "reject")
    await settle(market)
    first = (await operator.get("/v1/ops/reviews?status=open&limit=1")).json()
    assert [one["order_id"] for one in first["items"]] == [ids[2]]
    assert first["items"][0]["amount_minor"] == TOTAL
    rest = (await operator.get(f"/v1/ops/reviews?status=open&cursor={first['next_cursor']}")).json()
    assert ([one["order_id"] for one in rest["items"]], rest["next_cursor"]) == ([ids[0]], None)
    (rejected,) = (await operator.get("/v1/ops/reviews?status=rejected")).json()["items"]
    assert (rejected["order_id"], rejected["reviewer_id"], rejected["reason"]) == (ids[1], "operator_1", WHY)
    assert (await operator.get("/v1/ops/reviews?status=none")).json()["code"] == "query_invalid"
    assert (await buyer.get("/v1/ops/reviews")).json()["code"] == "role_not_allowed"


async def test_a_buyer_cancels_an_order_and_its_payment_is_voided(market, buyer):
    order = await place(market, buyer, 1999)
    answer = await buyer.post(f"/v1/orders/{order['id']}/cancellation", {})
    assert (answer.status_code, answer.json()["end"]["code"]) == (200, "cancelled_by_buyer")
    await settle(market)
    assert market.gateway.voided == {order["id"]}
    again = await buyer.post(f"/v1/orders/{order['id']}/cancellation", {})
    assert again.headers["idempotent-replayed"] == "true"
    await refuse(
        market,
        buyer.as_("buyer2").post(f"/v1/orders/{order['id']}/cancellation", {}),
        404,
        "order_not_found",
    )


async def test_an_order_in_review_can_be_cancelled(market, buyer, operator, held):
    assert (await buyer.post(f"/v1/orders/{held}/cancellation", {})).status_code == 200
    await settle(market)
    assert market.gateway.voided == {held}
    (ended,) = (await operator.get("/v1/ops/reviews?status=ended")).json()["items"]
    assert ended["end_code"] == "cancelled_by_buyer"


async def test_a_payment_that_wins_against_the_cancellation_counts(market, buyer):
    order = await place(market, buyer, 1999)
    intent = market.gateway.intents[order["id"]]
    market.gateway.paid[order["id"]] = CapturedPayment(intent, 1999, "USD")
    await buyer.post(f"/v1/orders/{order['id']}/cancellation", {})
    await settle(market)
    assert (await read(buyer, order["id"]))["status"] == "delivered"
    await refuse(
        market, buyer.post(f"/v1/orders/{order['id']}/cancellation", {}), 409, "order_not_cancellable"
    )


async def test_an_order_cancelled_before_its_payment_was_recorded_leaves_none_open(market, buyer):
    market.gateway.failures.append(DependencyError("payment_provider_unavailable", "lost"))
    order = await place(market, buyer, 1999)
    assert order["status"] == "screened"
    await buyer.post(f"/v1/orders/{order['id']}/cancellation", {})
    await settle(market)
    assert market.gateway.voided == {order["id"]}
    assert (await read(buyer, order["id"]))["status"] == "cancelled"


async def test_what_is_paid_cannot_be_cancelled(market, buyer):
    order = await place(market, buyer, 1999)
    await pay(market, buyer, order["id"])
    answer = await buyer.post(f"/v1/orders/{order['id']}/cancellation", {})
    assert answer.json()["code"] == "order_not_cancellable"
    assert "refund" in answer.json()["detail"]


async def test_nothing_is_sold_while_the_governed_terms_are_unknown(market, buyer):
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    market.terms.failure = DependencyError("database_unavailable", "down", 2)
    await refuse(market, buyer.post("/v1/orders", body), 503, "database_unavailable")
    market.terms.failure = None
    market.terms.payment = replace(market.terms.payment, checkout_allowed=False)
    await refuse(
        market, buyer.post("/v1/orders", body | {"payment_method": "checkout"}), 422, "checkout_not_offered"
    )


async def test_the_bank_asks_and_the_buyer_sees_it(market, buyer):
    order = await place(market, buyer, 1999)
    action = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.test/secret"}}
    kind = "payment_intent.requires_action"
    assert await tell(market, buyer, order["id"], kind, "evt_q", next_action=action) == "applied"
    shown = await read(buyer, order["id"])
    assert shown["payment"]["next_action"]["type"] == "redirect_to_url"
    assert "bank.test" not in orjson.dumps(shown).decode()
    fault = {"code": "payment_intent_authentication_failure", "message": "We are unable to authenticate."}
    kind = "payment_intent.payment_failed"
    await tell(market, buyer, order["id"], kind, "evt_f", last_payment_error=fault)
    shown = await read(buyer, order["id"])
    assert shown["payment"]["next_action"] is None
    assert "confirm it with your bank" in shown["payment"]["error"]["message"]


async def test_a_hosted_page_that_expired_ends_the_order(market, buyer):
    order = await place(market, buyer, 1999)
    session = {"id": "cs_1", "metadata": {"order_id": order["id"]}, "payment_status": "unpaid"}
    body = orjson.dumps({"id": "evt_c", "type": "checkout.session.expired", "data": {"object": session}})
    signature = signed(body, int(market.clock().timestamp()))
    answer = await buyer.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )
    assert answer.json()["outcome"] == "applied"
    assert (await read(buyer, order["id"]))["end"]["code"] == "checkout_expired"


async def test_a_capture_that_no_review_approved_is_never_asked_for(market, buyer, held):
    await market.directory.host.run_effect(held, CAPTURE_PAYMENT)
    assert market.gateway.captures == []
    assert (await read(buyer, held))["status"] == "in_review"


async def test_a_capture_by_hand_waits_for_the_review(market, buyer, operator, held):
    """Somebody captured in Stripe's dashboard: money moved, and the order says so once it is approved."""
    kind = "payment_intent.succeeded"
    outcome = await tell(market, buyer, held, kind, "evt_hand", amount_received=TOTAL)
    assert outcome == "review_undecided"
    assert market.store.inbox["evt_hand"].dead_code == "review_undecided"
    await decide(operator, held, "approve")
    await settle(market)
    assert (await read(buyer, held))["status"] == "delivered"
