"""Stripe's webhooks over HTTP: only what is signed now is kept, once, for an order that exists.

Keeping and applying are one commit, and the answer comes after it."""

import asyncio

import orjson
import pytest

from actors.orders.sweep import Sweep
from domain.errors import BusyError, DependencyError
from domain.orders.payments import PAYMENT_ATTEMPTS_MAX
from serve_app.ports import RateLimit
from tests.fakes.http_client import Client, settle, signed, stripe_event
from tests.fakes.ingress import OLD_WEBHOOK_SECRET, RECIPIENT, WEBHOOK_SECRET, FakeMarket


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def stripe(market):
    return Client(market.app())


@pytest.fixture
async def order_id(market, stripe):
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    return (await stripe.as_("buyer").post("/v1/orders", body)).json()["id"]


def now_s(market):
    return int(market.clock().timestamp())


async def send(market, client, event, *, signature=None, at_s=None, secret=WEBHOOK_SECRET):
    body = event if isinstance(event, bytes) else orjson.dumps(event)
    signature = signed(body, at_s or now_s(market), secret) if signature is None else signature
    headers = {"stripe_signature": signature} if signature else {}
    return await client.post("/v1/webhooks/stripe", content=body, key=None, **headers)


async def refuse(market, client, status, code, *args, **kwargs):
    before = market.writes()
    answer = await send(market, client, *args, **kwargs)
    await settle(market)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert market.writes() == before


async def test_a_payment_is_applied_before_it_is_answered(market, stripe, order_id):
    answer = await send(market, stripe, stripe_event(order_id))
    assert (answer.status_code, answer.json()) == (200, {"received": True, "outcome": "applied"})
    row = market.store.inbox["evt_1"]
    assert (row.news.amount_minor, row.news.currency) == (1999, "USD")
    assert (row.processed, row.outcome) == (True, "applied")
    await settle(market)
    assert market.store.orders[order_id].status == "delivered"


async def test_what_a_connected_account_says_pays_nothing(market, stripe, order_id):
    """A seller can make a payment to itself that names our order: signed by Stripe, and nothing of ours."""
    theirs = stripe_event(order_id) | {"account": "acct_seller"}
    answer = await send(market, stripe, theirs)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "ignored")
    assert not market.store.inbox
    assert market.store.orders[order_id].status == "awaiting_payment"


async def test_no_answer_is_given_before_the_commit(market, stripe, order_id):
    gate, commit = asyncio.Event(), market.store.commit

    async def held(turn):
        await gate.wait()
        return await commit(turn)

    market.store.commit = held
    sending = asyncio.create_task(send(market, stripe, stripe_event(order_id)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not sending.done()
    gate.set()
    assert (await sending).json()["outcome"] == "applied"


@pytest.mark.parametrize(
    "failure",
    [
        DependencyError("order_host_unavailable", "gone"),
        DependencyError("database_unavailable", "lost", 2),
        BusyError("host_full", "full"),
    ],
)
async def test_what_no_host_takes_is_stored_for_the_sweep(market, stripe, order_id, failure):
    market.directory.failure = failure
    answer = await send(market, stripe, stripe_event(order_id))
    assert (answer.status_code, answer.json()["outcome"]) == (200, "stored")
    assert not market.store.inbox["evt_1"].processed
    again = await send(market, stripe, stripe_event(order_id))
    assert (again.status_code, again.json()["outcome"]) == (200, "stored")
    market.clock.advance(10)
    assert await Sweep(market.store, market.directory.host).once() >= 1
    await settle(market)
    assert market.store.orders[order_id].status == "delivered"
    assert market.store.inbox["evt_1"].outcome == "applied"


async def test_when_nobody_can_keep_it_stripe_must_send_it_again(market, stripe, order_id):
    market.directory.failure = DependencyError("order_host_unavailable", "gone")
    market.reads.failure = DependencyError("database_unavailable", "down", 2)
    await refuse(market, stripe, 503, "database_unavailable", stripe_event(order_id))
    market.directory.failure = market.reads.failure = None
    assert (await send(market, stripe, stripe_event(order_id))).json()["outcome"] == "applied"


async def test_a_fault_of_ours_is_no_success(market, stripe, order_id):
    market.directory.failure = RuntimeError("bug")
    await refuse(market, stripe, 500, "internal_error", stripe_event(order_id))


async def test_a_duplicate_changes_nothing(market, stripe, order_id):
    await send(market, stripe, stripe_event(order_id))
    await settle(market)
    before = market.writes()
    answer = await send(market, stripe, stripe_event(order_id))
    await settle(market)
    assert answer.json()["outcome"] == "no_change"
    assert market.writes() == before
    assert market.store.inbox["evt_1"].outcome == "applied", "the first one's outcome stays"


@pytest.mark.parametrize(
    ("change", "code"),
    [({"amount_minor": 5}, "amount_mismatch"), ({"intent_id": "pi_9"}, "payment_intent_mismatch")],
)
async def test_what_the_order_refuses_is_a_dead_letter_and_answered(market, stripe, order_id, change, code):
    """Sending it again cannot help, so Stripe is told that we have it; operators see it."""
    answer = await send(market, stripe, stripe_event(order_id, **change))
    assert (answer.status_code, answer.json()["outcome"]) == (200, code)
    row = market.store.inbox["evt_1"]
    assert (row.processed, row.dead_code) == (False, code)
    assert market.store.orders[order_id].status == "awaiting_payment"
    market.clock.advance(100)
    assert await market.store.claim_due_webhooks(10, 15) == []
    good = await send(market, stripe, stripe_event(order_id, event_id="evt_2"))
    assert good.json()["outcome"] == "applied"


async def test_a_decline_reaches_the_buyer_and_the_order_stays_payable(market, stripe, order_id):
    event = stripe_event(
        order_id,
        kind="payment_intent.payment_failed",
        last_payment_error={
            "code": "card_declined",
            "decline_code": "insufficient_funds",
            "message": "No funds.",
        },
    )
    outcomes = [(await send(market, stripe, event)).json()["outcome"] for _ in range(2)]
    assert outcomes == ["applied", "no_change"]
    await settle(market)
    order = (await stripe.as_("buyer").get(f"/v1/orders/{order_id}")).json()
    assert order["status"] == "awaiting_payment"
    assert order["payment"]["error"] == {
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "message": "The card has not enough money or credit left. Pay with another card.",
    }
    assert order["payment"]["attempts_left"] == PAYMENT_ATTEMPTS_MAX - 1
    assert order["payment"]["client_secret"] == "pi_1_secret"


async def test_an_intent_that_was_cancelled_by_hand_ends_its_order(market, stripe, order_id):
    event = stripe_event(order_id, kind="payment_intent.canceled", cancellation_reason="abandoned")
    assert (await send(market, stripe, event)).json()["outcome"] == "applied"
    await settle(market)
    order = (await stripe.as_("buyer").get(f"/v1/orders/{order_id}")).json()
    assert (order["status"], order["end"]["code"]) == ("cancelled", "payment_cancelled")
    assert "abandoned" in order["end"]["reason"]


async def test_a_rotated_secret_still_counts(market, stripe, order_id):
    answer = await send(market, stripe, stripe_event(order_id), secret=OLD_WEBHOOK_SECRET)
    assert answer.json()["outcome"] == "applied"


async def test_one_of_several_signatures_is_enough(market, stripe, order_id):
    body = orjson.dumps(stripe_event(order_id))
    header = signed(body, now_s(market), "whsec_other") + "," + signed(body, now_s(market)).partition(",")[2]
    assert (await send(market, stripe, body, signature=header)).json()["outcome"] == "applied"


@pytest.mark.parametrize(
    "forge",
    [
        lambda body, at: signed(body, at, "whsec_wrong"),
        lambda body, at: signed(body + b" ", at),
        lambda body, at: signed(body, at).replace("v1=", "v0="),
        lambda body, at: signed(body, at).replace(f"t={at}", f"t={at - 1}"),
        lambda body, at: signed(body, at).replace(f"t={at},", ""),
        lambda _, at: f"t={at},v1=",
        lambda _, at: f"t={at},v1={'0' * 64}",
        lambda *_: f"t={'9' * 400},v1={'0' * 64}",
        lambda *_: "x" * 5_000,
        lambda *_: "",
    ],
)
async def test_a_forged_signature_is_refused(market, stripe, order_id, forge):
    body = orjson.dumps(stripe_event(order_id))
    signature = forge(body, now_s(market))
    await refuse(market, stripe, 400, "webhook_signature_invalid", body, signature=signature)


async def test_signatures_beyond_the_bound_are_not_tried(market, stripe, order_id):
    body = orjson.dumps(stripe_event(order_id))
    good = signed(body, now_s(market))
    padded = good.replace(",v1=", "," + "v1=0," * 20 + "v1=")
    await refuse(market, stripe, 400, "webhook_signature_invalid", body, signature=padded)


@pytest.mark.parametrize("off_s", [-301, -86_400, 301, 86_400])
async def test_an_old_or_future_signature_is_refused(market, stripe, order_id, off_s):
    event, at_s = stripe_event(order_id), now_s(market) + off_s
    await refuse(market, stripe, 400, "webhook_signature_invalid", event, at_s=at_s)


@pytest.mark.parametrize("off_s", [-300, 300])
async def test_a_signature_within_five_minutes_counts(market, stripe, order_id, off_s):
    answer = await send(market, stripe, stripe_event(order_id), at_s=now_s(market) + off_s)
    assert answer.status_code == 200


async def test_an_order_that_is_not_here_is_left_with_stripe(market, stripe):
    await refuse(market, stripe, 404, "webhook_order_unknown", stripe_event("ord_" + "0" * 26))
    market.directory.failure = DependencyError("order_host_unavailable", "gone")
    await refuse(market, stripe, 404, "webhook_order_unknown", stripe_event("ord_" + "0" * 26))


@pytest.mark.parametrize(
    "event",
    [
        stripe_event(None),
        stripe_event("ord_nonsense"),
        stripe_event("ord_" + "0" * 26, kind="charge.refunded"),
        {"id": "evt_1", "type": "invoice.paid", "data": {"object": {}}},
        stripe_event(None, metadata=None),
    ],
)
async def test_what_concerns_no_order_is_ignored(market, stripe, event):
    before = market.writes()
    answer = await send(market, stripe, event)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "ignored")
    assert market.writes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"amount_received": "1999"},
        {"amount_received": 19.99},
        {"amount_received": True},
        {"amount_received": -1},
        {"amount_received": 10**9},
        {"currency": None},
        {"currency": "dollars"},
        {"id": None},
        {"id": ""},
    ],
    ids=str,
)
async def test_a_signed_intent_of_a_wrong_form_is_refused(market, stripe, order_id, change):
    await refuse(market, stripe, 400, "body_malformed", stripe_event(order_id, **change))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"id":"evt_1"}',
        b'{"id":7,"type":"payment_intent.succeeded"}',
        b'{"id":"evt_1","type":"payment_intent.succeeded","data":[]}',
    ],
)
async def test_a_signed_body_that_is_no_event_is_refused(market, stripe, body):
    await refuse(market, stripe, 400, "body_malformed", body)


async def test_a_signed_event_that_names_a_member_twice_is_refused(market, stripe):
    await refuse(market, stripe, 400, "json_duplicate_key", b'{"id":"evt_1","id":"evt_2","type":"x"}')


async def test_a_huge_body_is_refused_before_its_signature(market, stripe):
    await refuse(market, stripe, 413, "body_too_large", b" " * (2 * 1024 * 1024))


async def test_a_burst_of_webhooks_is_not_rate_limited():
    market = FakeMarket(address_rate=RateLimit(1, 1))
    client = Client(market.app())
    answers = [await send(market, client, stripe_event(None)) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}


async def test_webhooks_are_counted_by_outcome(market, stripe, order_id):
    await send(market, stripe, stripe_event(order_id))
    await send(market, stripe, stripe_event(order_id))
    await send(market, stripe, stripe_event(order_id), signature="")
    text = (await stripe.get("/metrics")).text
    for outcome in ("applied", "no_change", "webhook_signature_invalid"):
        assert f'marketplace_webhooks_total{{outcome="{outcome}"}} 1.0' in text
