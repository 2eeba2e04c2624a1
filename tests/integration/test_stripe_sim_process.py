"""The Stripe simulator as a process, driven by the official SDK and by HTTP."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import stripe

from tests.fakes.stripe_process import PUBLISHABLE_KEY, SECRET_KEY, StripeProcess, WebhookInbox, wait_until

pytestmark = pytest.mark.integration

INTENT = {"amount": 1999, "currency": "usd", "metadata": {"order_id": "ord_1"}}
VISA = {"payment_method": "pm_card_visa"}
SESSION = {
    "mode": "payment",
    "client_reference_id": "ord_1",
    "success_url": "https://shop.test/done?s={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://shop.test/back",
    "line_items": [
        {
            "quantity": 2,
            "price_data": {"currency": "usd", "unit_amount": 1000, "product_data": {"name": "<i>Tool</i>"}},
        }
    ],
    "payment_intent_data": {"metadata": {"order_id": "ord_1"}},
}
GOOD_CARD = {"number": "4242 4242 4242 4242", "expiry": "12 / 34", "cvc": "123"}


@pytest.fixture(scope="module")
def inbox():
    started = WebhookInbox().start()
    yield started
    started.close()


@pytest.fixture(scope="module")
def simulator(tmp_path_factory, inbox):
    process = StripeProcess(tmp_path_factory.mktemp("stripe") / "data", inbox.url).start()
    yield process
    assert process.stop() == 0
    assert process.log_path.read_text() == ""


@pytest.fixture
def client(simulator):
    return simulator.client()


@pytest.fixture
def http(simulator):
    with simulator.http() as session:
        yield session


@pytest.fixture
def faults(http):
    yield lambda **fault: http.post("/_sim/faults", json=fault).raise_for_status()
    http.delete("/_sim/faults").raise_for_status()


def deliveries(http, **query):
    return http.get("/_sim/deliveries", params=query).raise_for_status().json()["data"]


def events_about(inbox, object_id):
    return [event.type for event in inbox.events() if event.data.object["id"] == object_id]


def test_a_payment_by_the_sdk(client):
    intent = client.v1.payment_intents.create({**INTENT, "automatic_payment_methods": {"enabled": True}})
    assert (intent.status, intent.amount, intent.metadata["order_id"]) == (
        "requires_payment_method",
        1999,
        "ord_1",
    )
    assert intent.last_response.headers["Request-Id"].startswith("req_")
    paid = client.v1.payment_intents.confirm(intent.id, VISA)
    assert (paid.status, paid.amount_received) == ("succeeded", 1999)
    charge = client.v1.charges.retrieve(paid.latest_charge)
    assert (charge.paid, charge.payment_method_details.card.last4) == (True, "4242")
    expanded = client.v1.payment_intents.retrieve(intent.id, {"expand": ["latest_charge", "payment_method"]})
    assert (expanded.latest_charge.id, expanded.payment_method.card.brand) == (charge.id, "visa")
    refund = client.v1.refunds.create({"payment_intent": intent.id, "amount": 999})
    assert (refund.status, client.v1.charges.retrieve(charge.id).amount_refunded) == ("succeeded", 999)
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount"):
        client.v1.refunds.create({"charge": charge.id, "amount": 1001})
    client.v1.refunds.create({"charge": charge.id})
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.refunds.create({"charge": charge.id})
    assert refused.value.code == "charge_already_refunded"
    assert [r.amount for r in client.v1.refunds.list({"charge": charge.id}).data] == [1000, 999]


# The SDK's HTTPXClient passes its form to httpx as ``data=``, which httpx calls deprecated.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
async def test_a_payment_by_the_async_sdk(simulator):
    transport = stripe.HTTPXClient(timeout=10)
    client = stripe.StripeClient(SECRET_KEY, base_addresses={"api": simulator.url}, http_client=transport)
    intents = await asyncio.gather(*(client.v1.payment_intents.create_async(INTENT) for _ in range(10)))
    paid = await asyncio.gather(*(client.v1.payment_intents.confirm_async(i.id, VISA) for i in intents))
    assert {intent.status for intent in paid} == {"succeeded"}
    assert len({intent.latest_charge for intent in paid}) == 10
    await transport.close_async()


def test_manual_capture_and_cancellation(client):
    held = client.v1.payment_intents.create({**INTENT, **VISA, "capture_method": "manual", "confirm": True})
    assert (held.status, held.amount_capturable) == ("requires_capture", 1999)
    captured = client.v1.payment_intents.capture(held.id, {"amount_to_capture": 1500})
    assert (captured.status, captured.amount_received) == ("succeeded", 1500)
    other = client.v1.payment_intents.create({**INTENT, **VISA, "capture_method": "manual", "confirm": True})
    assert (
        client.v1.payment_intents.cancel(other.id, {"cancellation_reason": "abandoned"}).status == "canceled"
    )
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.payment_intents.capture(other.id)
    assert refused.value.code == "payment_intent_unexpected_state"


def test_declines_are_card_errors(client):
    intent = client.v1.payment_intents.create(INTENT)
    with pytest.raises(stripe.CardError) as declined:
        client.v1.payment_intents.confirm(
            intent.id, {"payment_method": "pm_card_chargeDeclinedInsufficientFunds"}
        )
    error = declined.value.error
    assert (declined.value.code, error.decline_code) == ("card_declined", "insufficient_funds")
    assert error.payment_intent.id == intent.id
    assert client.v1.payment_intents.retrieve(intent.id).last_payment_error.charge == error.charge
    typed = {
        "type": "card",
        "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034, "cvc": "123"},
    }
    assert client.v1.payment_intents.confirm(intent.id, {"payment_method_data": typed}).status == "succeeded"


def test_three_d_secure_page(client):
    for answer, status, word in (
        ("approve", "succeeded", "succeeded"),
        ("fail", "requires_payment_method", "failed"),
    ):
        intent = client.v1.payment_intents.create(INTENT)
        waiting = client.v1.payment_intents.confirm(
            intent.id,
            {"payment_method": "pm_card_threeDSecure2Required", "return_url": "https://shop.test/back?o=1"},
        )
        page = waiting.next_action.redirect_to_url.url
        shown = httpx.get(page)
        assert (shown.status_code, "19.99 USD" in shown.text) == (200, True)
        assert shown.headers["content-security-policy"].endswith("form-action 'self' https://shop.test")
        assert httpx.post(page, data={"outcome": "maybe"}).status_code == 400
        back = httpx.post(page, data={"outcome": answer})
        assert back.status_code == 303
        assert back.headers["location"].startswith(f"https://shop.test/back?o=1&payment_intent={intent.id}&")
        assert back.headers["location"].endswith(f"redirect_status={word}")
        assert client.v1.payment_intents.retrieve(intent.id).status == status
        assert httpx.post(page, data={"outcome": "approve"}).status_code in {404, 409}
        assert client.v1.payment_intents.retrieve(intent.id).status == status
        assert httpx.get(page[:-3] + "000").status_code == 404


def test_processing_settles(client):
    intent = client.v1.payment_intents.create(
        {**INTENT, "payment_method": "pm_sim_processing", "confirm": True}
    )
    assert intent.status == "processing"
    wait_until(lambda: client.v1.payment_intents.retrieve(intent.id).status == "succeeded")


def test_checkout_page(client, inbox):
    session = client.v1.checkout.sessions.create(SESSION)
    page = httpx.get(session.url)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "&lt;i&gt;Tool&lt;/i&gt;" in page.text
    assert "20.00 USD" in page.text
    assert page.headers["cache-control"] == "no-store"
    declined = httpx.post(session.url, data={**GOOD_CARD, "number": "4000000000000002"})
    assert (declined.status_code, "Your card was declined." in declined.text) == (402, True)
    assert "4000000000000002" not in declined.text
    for wrong, why in (
        ({"number": "4242"}, "number is incorrect"),
        ({"expiry": "1"}, "incomplete"),
        ({"cvc": "x"}, "security"),
    ):
        refused = httpx.post(session.url, data=GOOD_CARD | wrong)
        assert (refused.status_code, why in refused.text) == (402, True)
    paid = httpx.post(session.url, data=GOOD_CARD)
    assert (paid.status_code, paid.headers["location"]) == (303, f"https://shop.test/done?s={session.id}")
    done = client.v1.checkout.sessions.retrieve(session.id)
    assert (done.status, done.payment_status) == ("complete", "paid")
    intent = client.v1.payment_intents.retrieve(done.payment_intent)
    assert (intent.status, intent.amount, intent.metadata["order_id"]) == ("succeeded", 2000, "ord_1")
    assert "has been paid" in httpx.post(session.url, data=GOOD_CARD).text
    assert len(client.v1.charges.list({"payment_intent": intent.id}).data) == 2
    assert wait_until(lambda: events_about(inbox, session.id)) == ["checkout.session.completed"]
    lines = client.v1.checkout.sessions.line_items.list(session.id).data
    assert [(line.description, line.quantity) for line in lines] == [("<i>Tool</i>", 2)]


def test_checkout_page_with_three_d_secure(client):
    session = client.v1.checkout.sessions.create(SESSION)
    card = {**GOOD_CARD, "number": "4000 0027 6000 3184"}
    challenge = httpx.post(session.url, data=card).headers["location"]
    failed = httpx.post(challenge, data={"outcome": "fail"})
    assert failed.headers["location"] == session.url
    assert "unable to authenticate" in httpx.get(session.url).text
    challenge = httpx.post(session.url, data=card).headers["location"]
    approved = httpx.post(challenge, data={"outcome": "approve"})
    assert approved.headers["location"] == f"https://shop.test/done?s={session.id}"
    assert client.v1.checkout.sessions.retrieve(session.id).status == "complete"


def test_expired_sessions(client, inbox):
    session = client.v1.checkout.sessions.create(SESSION)
    assert client.v1.checkout.sessions.expire(session.id).status == "expired"
    assert "expired" in httpx.get(session.url).text
    assert httpx.post(session.url, data=GOOD_CARD).status_code == 200
    assert client.v1.checkout.sessions.retrieve(session.id).payment_intent is None
    assert wait_until(lambda: events_about(inbox, session.id)) == ["checkout.session.expired"]
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.expire(session.id)
    assert httpx.get(session.url + "0").status_code == 404


def test_lists_page_through(client):
    before = int(time.time())
    made = [client.v1.payment_intents.create(INTENT).id for _ in range(5)]
    page = client.v1.payment_intents.list({"limit": 2})
    assert ([intent.id for intent in page.data], page.has_more) == ([made[4], made[3]], True)
    rest = client.v1.payment_intents.list({"limit": 3, "starting_after": made[3], "created": {"gte": before}})
    assert [intent.id for intent in rest.data] == [made[2], made[1], made[0]]
    walked = [intent.id for intent in client.v1.payment_intents.list({"limit": 2}).auto_paging_iter()]
    assert walked[:5] == made[::-1]
    assert len(walked) == len(set(walked))


def test_update_and_events(client):
    intent = client.v1.payment_intents.create(INTENT)
    assert client.v1.payment_intents.update(intent.id, {"metadata": {"a": "b"}}).metadata["a"] == "b"
    newest = client.v1.events.list({"type": "payment_intent.created", "limit": 1}).data[0]
    assert newest.data.object["id"] == intent.id
    event = client.v1.events.retrieve(newest.id)
    assert (event.type, event.api_version) == ("payment_intent.created", "2026-10-28.endive")
    assert event.request.id.startswith("req_")


@pytest.mark.parametrize("key", ["sk_test_wrong_0000000000", "sk_test_", PUBLISHABLE_KEY])
def test_wrong_keys_are_refused(simulator, key):
    with pytest.raises(stripe.AuthenticationError) as refused:
        simulator.client(key).v1.payment_intents.create(INTENT)
    assert refused.value.http_status == 401
    assert key not in str(refused.value)


def test_authentication_by_http(simulator):
    address = f"{simulator.url}/v1/payment_intents"
    assert httpx.get(address).status_code == 401
    assert httpx.get(address).headers["www-authenticate"].startswith("Bearer")
    assert httpx.get(address, auth=(SECRET_KEY, "")).status_code == 200
    assert httpx.get(address, headers={"Authorization": "Basic %%%"}).status_code == 401
    assert httpx.get(f"{simulator.url}/_sim/deliveries").status_code == 401
    publishable = {"Authorization": f"Bearer {PUBLISHABLE_KEY}"}
    assert httpx.get(f"{simulator.url}/_sim/deliveries", headers=publishable).status_code == 403
    assert httpx.get(f"{simulator.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{simulator.url}/elsewhere").status_code == 404


def test_the_publishable_key_needs_the_client_secret(simulator, client):
    intent = client.v1.payment_intents.create(INTENT)
    browser = simulator.client(PUBLISHABLE_KEY)
    secret = {"client_secret": intent.client_secret}
    shown = browser.v1.payment_intents.retrieve(intent.id, secret)
    assert (shown.id, "metadata" in shown, "latest_charge" in shown) == (intent.id, False, False)
    for wrong in ({}, {"client_secret": f"{intent.id}_secret_x"}):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            browser.v1.payment_intents.retrieve(intent.id, wrong)
        assert refused.value.code == "resource_missing"
    pay = {**VISA, **secret}, {"idempotency_key": f"{intent.id}:browser"}
    assert browser.v1.payment_intents.confirm(intent.id, *pay).status == "succeeded"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.payment_intents.confirm(intent.id, *pay)
    origin = {"Origin": "https://shop.test"}
    preflight = httpx.options(f"{simulator.url}/v1/payment_intents/{intent.id}", headers=origin)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")


def test_errors_are_stripes(client, http):
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.payment_intents.retrieve("pi_none")
    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.payment_intents.create({**INTENT, "customer": "cus_1"})
    assert (refused.value.code, refused.value.param) == ("parameter_unknown", "customer")
    assert http.get("/v1/customers").status_code == 404
    assert http.post("/v1/payment_intents", content=b"a" * 300_000).status_code == 413


def test_idempotent_replays(client):
    options = {"idempotency_key": "order-1:open"}
    first = client.v1.payment_intents.create(INTENT, options)
    client.v1.payment_intents.confirm(first.id, VISA)
    again = client.v1.payment_intents.create(INTENT, options)
    assert (again.id, again.status) == (first.id, "requires_payment_method")
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    with pytest.raises(stripe.IdempotencyError):
        client.v1.payment_intents.create({**INTENT, "amount": 5}, options)


def test_declines_replay_and_mistakes_do_not(client):
    intent = client.v1.payment_intents.create(INTENT)
    options = {"idempotency_key": f"{intent.id}:pay"}
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            client.v1.payment_intents.confirm(
                intent.id, {"payment_method": "pm_card_chargeDeclined"}, options
            )
    assert len(client.v1.charges.list({"payment_intent": intent.id}).data) == 1
    options = {"idempotency_key": f"{intent.id}:mend"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.payment_intents.create({**INTENT, "currency": "xyz"}, options)
    assert client.v1.payment_intents.create(INTENT, options).id


def test_a_key_in_use_is_a_conflict(client, http, faults):
    options = {"idempotency_key": "slow-1"}
    faults(method="POST", path_prefix="/v1/payment_intents", delay_ms=1_500, when="before")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.v1.payment_intents.create, INTENT, options)
        wait_until(lambda: not http.get("/_sim/faults").json()["data"])  # it has struck: the key is in use
        with pytest.raises(stripe.APIError) as conflict:
            client.v1.payment_intents.create(INTENT, options)
        assert (conflict.value.http_status, conflict.value.error.code) == (409, "idempotency_key_in_use")
        assert client.v1.payment_intents.retrieve(slow.result(10).id).id == slow.result().id
    assert client.v1.payment_intents.create(INTENT, options).id == slow.result().id


def test_a_failure_after_execution_is_what_replays(client, faults):
    options = {"idempotency_key": "lost-1"}
    order = {**INTENT, "metadata": {"order_id": "lost-1"}}
    faults(method="POST", path_prefix="/v1/payment_intents", status=500, when="after")
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            client.v1.payment_intents.create(order, options)
        assert failed.value.http_status == 500
    made = [
        i for i in client.v1.payment_intents.list({"limit": 10}).data if i.metadata["order_id"] == "lost-1"
    ]
    assert len(made) == 1


def test_a_failure_before_execution_leaves_nothing(client, faults):
    options = {"idempotency_key": "edge-1"}
    order = {**INTENT, "metadata": {"order_id": "edge-1"}}
    faults(method="POST", path_prefix="/v1/payment_intents", status=503, when="before", times=1)
    with pytest.raises(stripe.APIError):
        client.v1.payment_intents.create(order, options)
    assert client.v1.payment_intents.create(order, options).metadata["order_id"] == "edge-1"
    made = [
        i for i in client.v1.payment_intents.list({"limit": 10}).data if i.metadata["order_id"] == "edge-1"
    ]
    assert len(made) == 1


def test_webhooks_are_signed_and_about_each_step(client, inbox):
    intent = client.v1.payment_intents.create({**INTENT, **VISA, "confirm": True})
    wait_until(
        lambda: {"payment_intent.created", "payment_intent.succeeded"} <= set(events_about(inbox, intent.id))
    )
    wait_until(lambda: "charge.succeeded" in events_about(inbox, intent.latest_charge))


def test_webhooks_are_retried_until_accepted(client, inbox, http):
    http.post("/_sim/webhooks/pause").raise_for_status()
    intent = client.v1.payment_intents.create(INTENT)
    event = client.v1.events.list({"type": "payment_intent.created", "limit": 1}).data[0]
    assert (event.data.object["id"], event.pending_webhooks) == (intent.id, 1)
    wait_until(lambda: not [d for d in deliveries(http, state="pending") if d["event"] != event.id])
    inbox.answers.extend([500, 302])
    http.post("/_sim/webhooks/resume").raise_for_status()
    done = wait_until(lambda: [d for d in deliveries(http, event=event.id) if d["state"] == "delivered"])
    assert [attempt["status"] for attempt in done[0]["log"]] == [500, 302, 200]
    assert events_about(inbox, intent.id) == ["payment_intent.created"] * 3
    assert client.v1.events.retrieve(event.id).pending_webhooks == 0


def test_webhooks_held_back_and_sent_again(client, inbox, http):
    http.post("/_sim/webhooks/pause").raise_for_status()
    intent = client.v1.payment_intents.create(INTENT)
    event = client.v1.events.list({"limit": 1}).data[0]
    assert [d["attempts"] for d in deliveries(http, event=event.id)] == [0]
    http.post("/_sim/webhooks/resume").raise_for_status()
    wait_until(lambda: len(events_about(inbox, intent.id)) == 1)
    assert http.post(f"/_sim/events/{event.id}/resend").json()["deliveries"] == 1
    wait_until(lambda: len(events_about(inbox, intent.id)) == 2)
    assert http.post("/_sim/events/evt_none/resend").status_code == 404


def test_endpoints_made_over_the_api(client):
    other = WebhookInbox().start()
    try:
        endpoint = client.v1.webhook_endpoints.create(
            {"url": other.url, "enabled_events": ["charge.refunded"]}
        )
        assert endpoint.secret.startswith("whsec_")
        listed = client.v1.webhook_endpoints.list().data
        assert [shown.id for shown in listed] == [endpoint.id, "we_environment"]
        assert "secret" not in listed[0]
        intent = client.v1.payment_intents.create({**INTENT, **VISA, "confirm": True})
        client.v1.refunds.create({"payment_intent": intent.id})
        wait_until(lambda: other.received)
        (event,) = other.events(endpoint.secret)
        assert (event.type, event.data.object["payment_intent"]) == ("charge.refunded", intent.id)
        assert client.v1.webhook_endpoints.delete(endpoint.id).deleted
        assert [shown.id for shown in client.v1.webhook_endpoints.list().data] == ["we_environment"]
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.webhook_endpoints.delete("we_environment")
    finally:
        other.close()
