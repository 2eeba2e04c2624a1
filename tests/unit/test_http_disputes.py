"""Disputes for operators over HTTP: what is open and until when, and evidence that is sent once."""

from datetime import timedelta

import orjson
import pytest

from domain.errors import RejectedError
from tests.fakes.http_client import Client, pay, settle, signed
from tests.fakes.ingress import RECIPIENT, FakeMarket


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def operator(market):
    return Client(market.app(), "operator")


@pytest.fixture
async def order_id(market, operator):
    buyer, sku = operator.as_("buyer"), market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    placed = (await buyer.post("/v1/orders", body)).json()["id"]
    assert (await pay(market, buyer, placed, 1999)).status_code == 200
    await tell(market, operator)
    return placed


async def tell(market, client, status="needs_response", **more):
    """Stripe's webhook about the dispute ``dp_1``."""
    due_by = int((market.clock() + timedelta(days=9)).timestamp())
    about = {
        "id": "dp_1",
        "object": "dispute",
        "amount": 1999,
        "currency": "usd",
        "charge": "ch_1",
        "payment_intent": "pi_1",
        "status": status,
        "reason": "fraudulent",
        "metadata": {},
        "balance_transactions": [{"id": "txn_1", "amount": -1999, "fee": 1500, "currency": "usd"}],
        "evidence_details": {"due_by": due_by, "submission_count": 0},
    } | more
    event = {"id": f"evt_{status}", "type": "charge.dispute.updated", "data": {"object": about}}
    body = orjson.dumps(event)
    signature = signed(body, int(market.clock().timestamp()))
    answer = await client.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )
    assert answer.status_code == 200, answer.text
    await settle(market)


def send(client, order_id, *, key="fresh", dispute="dp_1", **body):
    return client.post(f"/v1/ops/orders/{order_id}/disputes/{dispute}/evidence", body, key=key)


async def test_open_disputes_are_listed_with_their_deadlines(market, operator, order_id):
    (listed,) = (await operator.get("/v1/ops/disputes")).json()["items"]
    assert (listed["id"], listed["order_id"], listed["fee_minor"]) == ("dp_1", order_id, 1500)
    assert listed["due_by"] is not None
    assert (listed["evidence_submitted"], listed["drafts"]) == (False, 0)
    assert (await operator.as_("auditor").get("/v1/ops/disputes")).status_code == 200
    await tell(market, operator, "lost")
    assert (await operator.get("/v1/ops/disputes")).json() == {"items": [], "next_cursor": None}


async def test_a_draft_and_then_the_final_word(market, operator, order_id):
    draft = await send(operator, order_id, text="First words.")
    assert (draft.status_code, draft.json()["state"]) == (201, "sending")
    assert "First words." in draft.json()["texts"]["uncategorized_text"]
    assert "was given" not in draft.json()["texts"]["access_activity_log"]
    assert "Licences were issued" in draft.json()["texts"]["access_activity_log"]
    await settle(market)
    final = await send(operator, order_id, key="k1", text="Last words.", submit=True)
    assert final.status_code == 201
    await settle(market)
    again = await send(operator, order_id, key="k1", text="Last words.", submit=True)
    assert (again.json()["state"], again.headers["idempotent-replayed"]) == ("submitted", "true")
    assert list(market.gateway.evidence.values()) == [False, True]
    order = (await operator.get(f"/v1/orders/{order_id}")).json()
    assert (order["status"], order["disputes"][0]["stage"]) == ("disputed", "under_review")
    (listed,) = (await operator.get("/v1/ops/disputes")).json()["items"]
    assert (listed["evidence_submitted"], listed["drafts"]) == (True, 1)


async def test_what_is_refused_writes_nothing(market, operator, order_id):
    async def refused(answering, status, code):
        before = market.writes()
        answer = await answering
        await settle(market)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert market.writes() == before

    await refused(send(operator, order_id, dispute="dp_9"), 404, "dispute_not_found")
    await refused(send(operator, "ord_x"), 404, "order_not_found")
    await refused(send(operator, order_id, text="x" * 15_001), 422, "body_invalid")
    await refused(send(operator, order_id, files=1), 422, "body_invalid")
    for role in ("buyer", "seller", "auditor"):
        await refused(send(operator.as_(role), order_id), 403, "role_not_allowed")
    market.clock.advance(timedelta(days=10).total_seconds())
    await refused(send(operator, order_id), 409, "evidence_late")
    await tell(market, operator, "won")
    await refused(send(operator, order_id), 409, "dispute_closed")


async def test_what_stripe_does_not_take_is_told(market, operator, order_id):
    market.gateway.failures.append(RejectedError("evidence_refused", "Stripe: too late."))
    await send(operator, order_id, key="k1", submit=True)
    await settle(market)
    again = (await send(operator, order_id, key="k1", submit=True)).json()
    assert (again["state"], again["failure"]) == ("refused", "Stripe: too late.")
