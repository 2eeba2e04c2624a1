"""The Stripe gateway against the simulator as a process, through the official SDK."""

import secrets
from dataclasses import replace

import httpx
import pytest
import stripe

from domain.errors import DependencyError, RejectedError
from domain.orders.commands import RecordPaymentOpened
from domain.orders.decide import decide
from domain.orders.lines import Share
from domain.orders.ports import CapturedPayment
from domain.orders.returned import Refund
from domain.orders.state import evolve, fold
from storage.stripe_gateway import StripeGateway
from tests.fakes.carts import NOW, cart, line, order_id
from tests.fakes.stripe_process import SECRET_KEY, StripeProcess

pytestmark = pytest.mark.integration

FLAGGED_MINOR = 900_000


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    process = StripeProcess(tmp_path_factory.mktemp("stripe"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
async def gateway(simulator):
    made = StripeGateway(SECRET_KEY, simulator.url, "http://127.0.0.1:1")
    yield made
    await made.close()


@pytest.fixture
def client(simulator):
    return stripe.StripeClient(SECRET_KEY, base_addresses={"api": simulator.url})


def order(**changes):
    number = secrets.randbits(60)
    return fold(order_id(number), decide(None, cart(number, **changes)))


def opened(placed, payment):
    command = RecordPaymentOpened(payment.payment_intent_id, payment.checkout_session_id, NOW)
    for event in decide(placed, command):
        placed = evolve(placed.order_id, placed, event)
    return placed


async def test_an_intent_carries_amount_currency_and_the_order(gateway, client):
    placed = order()
    payment = await gateway.open_payment(placed)
    intent = client.v1.payment_intents.retrieve(payment.payment_intent_id)
    assert (intent.amount, intent.currency) == (1999, "usd")
    assert intent.metadata["order_id"] == placed.order_id
    assert payment.handle["client_secret"].startswith(f"{intent.id}_secret_")


async def test_repeating_names_the_same_intent(gateway):
    placed = order()
    assert await gateway.open_payment(placed) == await gateway.open_payment(placed)


async def test_checkout_shows_the_lines_on_a_hosted_page(gateway, client):
    placed = order(lines=(line(1), line(2, quantity=3)), payment_method="checkout")
    payment = await gateway.open_payment(placed)
    session = client.v1.checkout.sessions.retrieve(payment.checkout_session_id)
    assert session.amount_total == placed.total_minor == 4 * 1999
    assert session.client_reference_id == placed.order_id
    assert payment.handle["checkout_url"] == session.url


@pytest.mark.parametrize("method", ["payment_intent", "checkout"])
async def test_voiding_makes_a_payment_unpayable_however_often(gateway, client, method):
    placed = order(payment_method=method)
    payment = await gateway.open_payment(placed)
    placed = opened(placed, payment)
    assert await gateway.void_payment(placed) is None
    assert await gateway.void_payment(placed) is None
    if method == "payment_intent":
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.payment_intents.confirm(payment.payment_intent_id, {"payment_method": "pm_card_visa"})


async def test_voiding_tells_that_it_was_paid_after_all(gateway, client):
    placed = order()
    payment = await gateway.open_payment(placed)
    client.v1.payment_intents.confirm(payment.payment_intent_id, {"payment_method": "pm_card_visa"})
    captured = await gateway.void_payment(opened(placed, payment))
    assert captured == CapturedPayment(payment.payment_intent_id, 1999, "USD")


@pytest.mark.parametrize("method", ["payment_intent", "checkout"])
async def test_a_flagged_order_is_authorised_and_captured_once(simulator, gateway, client, method):
    held = await authorised(simulator, gateway, client, method)
    assert await gateway.capture_payment(held) == CapturedPayment(
        held.payment_intent_id, FLAGGED_MINOR, "USD"
    )
    assert await gateway.capture_payment(held) == CapturedPayment(
        held.payment_intent_id, FLAGGED_MINOR, "USD"
    )
    charges = client.v1.charges.list({"payment_intent": held.payment_intent_id}).data
    assert [(one.captured, one.amount_captured) for one in charges] == [(True, FLAGGED_MINOR)]


@pytest.mark.parametrize("method", ["payment_intent", "checkout"])
async def test_a_rejected_order_is_voided_and_never_captured(simulator, gateway, client, method):
    held = await authorised(simulator, gateway, client, method)
    assert await gateway.void_payment(held) is None
    with pytest.raises(RejectedError, match="capture_refused"):
        await gateway.capture_payment(held)


async def test_an_authorisation_that_lapsed_is_not_captured(simulator, gateway, client):
    held = await authorised(simulator, gateway, client, "payment_intent")
    with simulator.http() as control:
        lapsed = control.post(f"/_sim/payment_intents/{held.payment_intent_id}/lapse")
    assert lapsed.is_success
    with pytest.raises(RejectedError, match="capture_refused"):
        await gateway.capture_payment(held)


async def test_an_error_that_stripe_keeps_hides_no_capture(simulator, gateway, client):
    """Executed, and 500 is what its key answers from then on."""
    held = await authorised(simulator, gateway, client, "payment_intent")
    with simulator.http() as control:
        fault = {"path": "/v1/payment_intents/*/capture", "when": "after", "status": 500}
        assert control.post("/_sim/faults", json=fault).is_success
    with pytest.raises(DependencyError, match="payment_provider_unavailable"):
        await gateway.capture_payment(held)
    assert (await gateway.capture_payment(held)).amount_minor == FLAGGED_MINOR


async def authorised(simulator, gateway, client, method):
    placed = order(lines=(line(price_minor=FLAGGED_MINOR),), payment_method=method)
    assert placed.flagged
    payment = await gateway.open_payment(placed)
    if method == "checkout":
        card = {"number": "4242424242424242", "expiry": "12/40", "cvc": "123"}
        async with httpx.AsyncClient() as browser:
            paid = await browser.post(payment.handle["checkout_url"], data=card)
        assert paid.status_code == 303
        session = client.v1.checkout.sessions.retrieve(payment.checkout_session_id)
        payment = replace(payment, payment_intent_id=session.payment_intent)
    else:
        client.v1.payment_intents.confirm(payment.payment_intent_id, {"payment_method": "pm_card_visa"})
    intent = client.v1.payment_intents.retrieve(payment.payment_intent_id)
    assert (intent.status, intent.amount_capturable) == ("requires_capture", FLAGGED_MINOR)
    return opened(placed, payment)


async def test_a_wrong_key_is_our_fault_and_is_kept_for_a_retry(simulator):
    gateway = StripeGateway("sk_test_wrong_wrong_wrong", simulator.url, "http://127.0.0.1:1")
    with pytest.raises(DependencyError, match="payment_provider_unavailable"):
        await gateway.open_payment(order())
    await gateway.close()


async def test_what_stripe_refuses_for_good_is_a_refusal(gateway):
    """An idempotency key that was used with other parameters: repeating can never help."""
    placed = order()
    await gateway.open_payment(placed)
    with pytest.raises((RejectedError, DependencyError)):
        await gateway.open_payment(replace(placed, total_minor=5))


async def test_nobody_listening_is_an_outage(unused_tcp_port):
    gateway = StripeGateway(SECRET_KEY, f"http://127.0.0.1:{unused_tcp_port}", "http://127.0.0.1:1")
    with pytest.raises(DependencyError, match="payment_provider_unavailable"):
        await gateway.open_payment(order())
    await gateway.close()


async def test_a_refund_is_made_once_and_found_again_when_its_key_is_forgotten(gateway, client):
    placed = order()
    payment = await gateway.open_payment(placed)
    client.v1.payment_intents.confirm(payment.payment_intent_id, {"payment_method": "pm_card_visa"})
    paid = opened(placed, payment)
    asked = Refund("rfd_1", (Share(1, 500, 50),), "buyer", "buyer_ada", "why", "d", NOW)
    made = await gateway.refund(paid, asked)
    assert made.status == "succeeded"
    assert await gateway.refund(paid, asked) == made
    listed = client.v1.refunds.list({"payment_intent": payment.payment_intent_id}).data
    assert [(one.id, one.amount, one.metadata["refund_id"]) for one in listed] == [
        (made.stripe_refund_id, 500, "rfd_1")
    ]
    more = replace(asked, refund_id="rfd_2", shares=(Share(1, 1500, 150),))
    with pytest.raises(RejectedError, match="refund_refused"):
        await gateway.refund(paid, more)
