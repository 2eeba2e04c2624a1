"""Refunds and disputes over HTTP: who may, what is refused with nothing written, and what Stripe tells."""

import asyncio

import orjson
import pytest

from domain.errors import DependencyError, RejectedError
from domain.orders.events import REFUND_WINDOW_S_UNGOVERNED
from tests.fakes.http_client import Client, pay, settle, signed
from tests.fakes.ingress import RECIPIENT, FakeMarket

WHY = "Bought by mistake."


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def buyer(market):
    return Client(market.app(), "buyer")


@pytest.fixture
def operator(buyer):
    return buyer.as_("operator")


@pytest.fixture
async def order_id(market, buyer):
    skus = [market.list_published(name) for name in ("logline", "tidycsv")]
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1} for sku in skus],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    placed = (await buyer.post("/v1/orders", body)).json()["id"]
    assert (await pay(market, buyer, placed, 3998)).status_code == 200
    return placed


def refund(client, order_id, key="fresh", **body):
    return client.post(f"/v1/orders/{order_id}/refunds", {"reason": WHY} | body, key=key)


async def read(client, order_id):
    return (await client.get(f"/v1/orders/{order_id}")).json()


async def tell(market, client, kind, about, event_id="evt_r"):
    body = orjson.dumps({"id": event_id, "type": kind, "data": {"object": about}})
    signature = signed(body, int(market.clock().timestamp()))
    answer = await client.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )
    await settle(market)
    return answer


def stripe_refund(amount=1999, status="succeeded", **more):
    return {
        "id": "re_9",
        "object": "refund",
        "amount": amount,
        "currency": "usd",
        "payment_intent": "pi_1",
        "status": status,
        "metadata": {},
    } | more


def stripe_dispute(status="needs_response", amount=3998, **more):
    return {
        "id": "dp_1",
        "object": "dispute",
        "amount": amount,
        "currency": "usd",
        "charge": "ch_1",
        "payment_intent": "pi_1",
        "status": status,
        "reason": "fraudulent",
        "metadata": {},
        "balance_transactions": [{"id": "txn_1", "amount": -amount, "fee": 1500, "currency": "usd"}],
    } | more


async def refuse(market, answering, status, code):
    before = market.writes()
    answer = await answering
    await settle(market)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert market.writes() == before


async def test_an_operator_refunds_an_order(market, operator, order_id):
    answer = await refund(operator, order_id)
    assert answer.status_code == 201
    document = answer.json()
    assert (document["status"], document["amount_minor"], document["origin"]) == (
        "requested",
        3998,
        "operator",
    )
    await settle(market)
    order = await read(operator, order_id)
    assert (order["status"], order["refunded_minor"]) == ("refunded", 3998)
    assert order["refunds"][0] | {"status": "succeeded"} == order["refunds"][0]
    assert {line["licence_status"] for line in order["lines"]} == {"revoked"}
    assert sum(market.gateway.refunds.values()) == 3998


async def test_refunded_licences_are_on_the_revocation_list_and_not_handed_out(market, buyer, order_id):
    line = (await read(buyer, order_id))["lines"][0]
    await refund(buyer, order_id, lines=[{"line_no": 1}])
    await settle(market)
    revoked = (await buyer.get("/v1/licences/revocations")).json()["revoked"]
    assert revoked == [line["licence_id"]]
    assert (await buyer.get(f"/v1/licences/{line['licence_id']}")).json()["status"] == "revoked"
    delivered = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    assert [one["line_no"] for one in delivered] == [2]


async def test_a_buyer_refunds_within_the_window_only(market, buyer, operator, order_id):
    assert (await refund(buyer, order_id, amount_minor=1)).status_code == 201
    await settle(market)
    market.clock.advance(REFUND_WINDOW_S_UNGOVERNED + 1)
    await refuse(market, refund(buyer, order_id), 409, "refund_window_closed")
    assert (await refund(operator, order_id)).status_code == 201


async def test_someone_elses_order_does_not_exist(market, buyer, order_id):
    await refuse(market, refund(buyer.as_("buyer2"), order_id), 404, "order_not_found")
    await refuse(market, refund(buyer.as_("seller"), order_id), 403, "role_not_allowed")


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        (409, "refund_exceeds_captured", {"amount_minor": 3999}),
        (409, "refund_exceeds_captured", {"lines": [{"line_no": 1, "amount_minor": 2000}]}),
        (422, "refund_line_unknown", {"lines": [{"line_no": 3}]}),
        (422, "refund_line_duplicate", {"lines": [{"line_no": 1}, {"line_no": 1}]}),
        (422, "refund_amount_invalid", {"lines": [{"line_no": 1}], "amount_minor": 1}),
        (422, "body_invalid", {"amount_minor": 0}),
        (422, "body_invalid", {"amount_minor": 10**12}),
        (422, "body_invalid", {"amount_minor": "5"}),
        (422, "body_invalid", {"lines": []}),
        (422, "body_invalid", {"reason": ""}),
        (422, "body_invalid", {"to": "another card"}),
    ],
)
async def test_bad_input_is_refused_with_nothing_written(market, operator, order_id, status, code, body):
    await refuse(market, refund(operator, order_id, **body), status, code)


async def test_a_line_is_refunded_once(market, operator, order_id):
    await refund(operator, order_id, lines=[{"line_no": 1}])
    await settle(market)
    again = refund(operator, order_id, lines=[{"line_no": 1}])
    await refuse(market, again, 409, "refund_line_returned")


async def test_an_unpaid_order_is_not_refundable(market, buyer, operator):
    sku = market.list_published("other")
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
    }
    unpaid = (await buyer.post("/v1/orders", body)).json()["id"]
    await refuse(market, refund(operator, unpaid), 409, "order_not_refundable")


async def test_64_clicks_are_one_refund(market, operator, order_id):
    answers = await asyncio.gather(*(refund(operator, order_id, "key-r", amount_minor=5) for _ in range(64)))
    await settle(market)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert list(market.gateway.refunds.values()) == [5]


async def test_a_key_names_one_request(market, operator, order_id):
    await refund(operator, order_id, "key-r", amount_minor=5)
    await settle(market)
    other = refund(operator, order_id, "key-r", amount_minor=6)
    await refuse(market, other, 422, "idempotency_key_reused")
    market.store.commands.clear()  # the host that answered died before it kept the key
    await refuse(market, refund(operator, order_id, "key-r", amount_minor=6), 422, "idempotency_key_reused")
    again = await refund(operator, order_id, "key-r", amount_minor=5)
    assert again.headers["idempotent-replayed"] == "true"


async def test_what_stripe_refuses_is_told_and_undone(market, operator, order_id):
    market.gateway.failures = [RejectedError("refund_refused", "Stripe: the charge is disputed")]
    await refund(operator, order_id)
    await settle(market)
    order = await read(operator, order_id)
    assert (order["status"], order["refunded_minor"]) == ("delivered", 0)
    assert order["refunds"][0]["failure"]["code"] == "refund_refused"
    assert {line["licence_status"] for line in order["lines"]} == {"active"}


async def test_while_stripe_is_down_the_refund_is_under_way(market, operator, order_id):
    market.gateway.failures = [DependencyError("payment_provider_unavailable", "down")]
    await refund(operator, order_id)
    await settle(market)
    order = await read(operator, order_id)
    assert order["status"] == "refunding"
    assert {line["licence_status"] for line in order["lines"]} == {"suspended"}


async def test_a_refund_made_in_the_dashboard_finds_its_order_by_the_payment(market, buyer, order_id):
    for number in range(3):
        about = stripe_refund()
        answer = await tell(
            market, buyer, ("refund.created", "refund.updated")[number % 2], about, f"e{number}"
        )
        assert answer.json()["outcome"] == ("no_change" if number else "applied")
    order = await read(buyer, order_id)
    assert (order["refunded_minor"], order["refunds"][0]["origin"]) == (1999, "dashboard")


async def test_a_charge_with_its_refunds_embedded_tells_the_newest(market, buyer, order_id):
    charge = {"id": "ch_1", "payment_intent": "pi_1", "refunds": {"data": [stripe_refund(500)]}}
    assert (await tell(market, buyer, "charge.refunded", charge)).json()["outcome"] == "applied"
    plain = {"id": "ch_1", "payment_intent": "pi_1", "amount_refunded": 500}
    assert (await tell(market, buyer, "charge.refunded", plain, "e2")).json()["outcome"] == "ignored"
    assert (await read(buyer, order_id))["refunded_minor"] == 500


async def test_a_refund_that_fails_is_told(market, operator, order_id):
    market.gateway.refund_status = "pending"
    made = (await refund(operator, order_id)).json()["id"]
    await settle(market)
    failed = stripe_refund(
        3998,
        "failed",
        id=f"re_{made}",
        failure_reason="lost_or_stolen_card",
        metadata={"order_id": order_id, "refund_id": made},
    )
    assert (await tell(market, operator, "refund.failed", failed)).json()["outcome"] == "applied"
    order = await read(operator, order_id)
    assert (order["status"], order["refunds"][0]["failure"]["reason"]) == ("delivered", "lost_or_stolen_card")


async def test_a_dispute_from_opening_to_the_end(market, operator, order_id):
    opened = await tell(market, operator, "charge.dispute.created", stripe_dispute(), "e1")
    assert opened.json()["outcome"] == "applied"
    order = await read(operator, order_id)
    assert (order["status"], order["disputes"][0]["stage"]) == ("disputed", "needs_response")
    assert {line["licence_status"] for line in order["lines"]} == {"suspended"}
    await refuse(market, refund(operator, order_id), 409, "order_disputed")
    again = await tell(market, operator, "charge.dispute.funds_withdrawn", stripe_dispute(), "e2")
    assert again.json()["outcome"] == "no_change"
    await tell(market, operator, "charge.dispute.closed", stripe_dispute("lost"), "e3")
    order = await read(operator, order_id)
    assert (order["status"], order["disputes"][0]["status"]) == ("dispute_lost", "lost")
    assert {line["licence_status"] for line in order["lines"]} == {"revoked"}


async def test_a_dispute_beyond_what_is_left_is_a_dead_letter(market, operator, order_id):
    await refund(operator, order_id, lines=[{"line_no": 1}])
    await settle(market)
    answer = await tell(market, operator, "charge.dispute.created", stripe_dispute())
    assert answer.json()["outcome"] == "dispute_exceeds_captured"
    assert market.store.inbox["evt_r"].dead_code == "dispute_exceeds_captured"


async def test_news_that_cannot_be_judged_yet_is_kept(market, operator, order_id):
    market.gateway.failures = [DependencyError("payment_provider_unavailable", "down")]
    await refund(operator, order_id)
    await settle(market)
    answer = await tell(market, operator, "charge.dispute.created", stripe_dispute())
    assert answer.json()["outcome"] == "stored"
    assert not market.store.inbox["evt_r"].processed


async def test_news_of_a_payment_that_nobody_knows_is_sent_again(market, buyer, order_id):
    before = market.writes()
    answer = await tell(market, buyer, "charge.dispute.created", stripe_dispute(payment_intent="pi_x"))
    assert (answer.status_code, answer.json()["code"]) == (404, "webhook_order_unknown")
    assert market.writes() == before


@pytest.mark.parametrize(
    "change",
    [{"id": "re 9"}, {"id": None}, {"amount": "5"}, {"amount": -1}, {"status": None}, {"currency": 7}],
)
async def test_a_refund_that_cannot_be_read_is_refused(market, buyer, order_id, change):
    before = market.writes()
    answer = await tell(market, buyer, "refund.created", stripe_refund(**change))
    assert (answer.status_code, answer.json()["code"]) == (400, "body_malformed")
    assert market.writes() == before


MOVE = {"id": "txn_1", "amount": -5, "fee": 1500, "currency": "usd"}


@pytest.mark.parametrize(
    "moves",
    [
        *("text", ["text"], [MOVE | {"id": "txn:1"}], [MOVE | {"id": "t" * 51}], [MOVE | {"fee": "5"}]),
        *([MOVE | {"fee": 10**12}], [MOVE] * 51),
    ],
)
async def test_a_disputes_fees_that_cannot_be_read_are_refused(market, buyer, order_id, moves):
    before = market.writes()
    dispute = stripe_dispute(balance_transactions=moves)
    answer = await tell(market, buyer, "charge.dispute.created", dispute)
    assert (answer.status_code, answer.json()["code"]) == (400, "body_malformed")
    assert market.writes() == before


async def test_a_disputes_fees_in_another_currency_or_of_nothing_are_left_out(market, operator, order_id):
    moves = [MOVE | {"currency": "eur"}, MOVE | {"id": "txn_2", "fee": 0}, MOVE | {"id": "txn_3", "fee": 7}]
    dispute = stripe_dispute(balance_transactions=moves)
    assert (await tell(market, operator, "charge.dispute.created", dispute)).status_code == 200
    listed = (await operator.get("/v1/ops/disputes")).json()["items"]
    assert [one["fee_minor"] for one in listed] == [7]


async def test_a_charge_without_a_payment_intent_is_none_of_ours(market, buyer, order_id):
    answer = await tell(market, buyer, "charge.dispute.created", stripe_dispute(payment_intent=None))
    assert answer.json()["outcome"] == "ignored"


async def test_a_refund_before_delivery_leaves_nothing_to_license(market, buyer, operator):
    async def down(_order):
        raise DependencyError("signer_unavailable", "down")

    market.signer.fulfil = down
    sku = market.list_published("slow")
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    placed = (await buyer.post("/v1/orders", body)).json()["id"]
    await pay(market, buyer, placed)
    await refund(operator, placed)
    await settle(market)
    order = await read(buyer, placed)
    assert (order["status"], order["end"]["code"]) == ("refunded", "returned_before_delivery")
    assert market.store.licences == {}
    assert not [step for of, step in market.store.effects if of == placed]
