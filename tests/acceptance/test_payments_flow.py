"""Payments that do not go straight, on the real marketplace: reviews, 3-D Secure, declines, cancellation."""

from uuid import uuid4

import httpx
import psycopg
import pytest

from domain.orders.payments import PAYMENT_ATTEMPTS_MAX
from tests.acceptance.payments import StripeSide, charged_once, placed, until, until_status

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


@pytest.fixture
def stripe(market):
    side = StripeSide(market.local)
    yield side
    side.http.close()


@pytest.fixture
def operator(market):
    with market.http("operator") as client:
        yield client


@pytest.fixture
def large(wish, sku_ids):
    """A cart of some 6,000 USD."""

    def make(**changes):
        return wish(lines=[{"sku_id": sku_ids["logline"], "quantity": 300}], **changes)

    return make


def key():
    return {"Idempotency-Key": str(uuid4())}


def decide(operator, order_id, decision):
    body = {"decision": decision, "reason": "Looked at it."}
    return operator.post(f"/v1/ops/reviews/{order_id}/decision", json=body, headers=key())


def held(market, buyer, body):
    order = placed(buyer, body)
    assert market.confirm(order).status_code == 200
    return until_status(buyer, order["id"], "in_review")


def pay_page(page, number="4242424242424242"):
    card = {"number": number, "expiry": "12/40", "cvc": "123"}
    with httpx.Client(timeout=20) as browser:
        return browser.post(page, data=card)


def test_a_large_order_is_held_approved_and_delivered(market, buyer, operator, large, stripe):
    order = held(market, buyer, large())
    intent = stripe.get(f"/v1/payment_intents/{order['payment']['payment_intent_id']}")
    assert (intent["status"], intent["amount_capturable"]) == ("requires_capture", order["total_minor"])
    listed = operator.get("/v1/ops/reviews", params={"status": "open"}).json()["items"]
    assert order["id"] in {one["order_id"] for one in listed}
    assert decide(operator, order["id"], "approve").status_code == 200
    done = until_status(buyer, order["id"], "delivered")
    charged_once(stripe, market.local, done, lines=1)


def test_a_rejected_order_charges_nothing(market, buyer, operator, large, stripe):
    order = held(market, buyer, large())
    assert decide(operator, order["id"], "reject").status_code == 200
    assert until_status(buyer, order["id"], "cancelled")["end"]["code"] == "review_rejected"
    path = f"/v1/payment_intents/{order['payment']['payment_intent_id']}"
    assert until(lambda: stripe.get(path), lambda one: one["status"] == "canceled")["amount_received"] == 0
    assert decide(operator, order["id"], "approve").json()["code"] == "review_decided"


def test_what_nobody_decides_is_voided_by_the_timer(market, buyer, large, stripe):
    order = held(market, buyer, large())
    with psycopg.connect(market.local["postgres_dsn"], autocommit=True) as owner:
        moved = owner.execute(
            "UPDATE market.effects SET due_at = now() WHERE order_id = %s AND step = 'end_review'",
            [order["id"]],
        )
        assert moved.rowcount == 1
    assert until_status(buyer, order["id"], "cancelled")["end"]["code"] == "review_expired"
    path = f"/v1/payment_intents/{order['payment']['payment_intent_id']}"
    until(lambda: stripe.get(path), lambda one: one["status"] == "canceled")


def test_an_authorisation_that_lapses_ends_the_order(market, buyer, operator, large, stripe):
    order = held(market, buyer, large())
    stripe.post(f"/_sim/payment_intents/{order['payment']['payment_intent_id']}/lapse")
    assert until_status(buyer, order["id"], "cancelled")["end"]["code"] == "authorisation_lapsed"
    assert decide(operator, order["id"], "approve").json()["code"] == "review_not_open"


def test_a_large_order_on_the_hosted_page(market, buyer, operator, large, stripe):
    order = placed(buyer, large(payment_method="checkout"))
    assert pay_page(order["payment"]["checkout_url"]).status_code == 303
    order = until_status(buyer, order["id"], "in_review")
    assert decide(operator, order["id"], "approve").status_code == 200
    charged_once(stripe, market.local, until_status(buyer, order["id"], "delivered"), lines=1)


def test_three_d_secure_fails_and_then_completes_on_the_same_payment(market, buyer, wish, stripe):
    order = placed(buyer, wish())
    read = f"/v1/orders/{order['id']}"
    for outcome in ("fail", "approve"):
        answer = market.confirm(order, "pm_card_threeDSecure2Required").json()
        assert answer["status"] == "requires_action"
        shown = until(lambda: buyer.get(read).json()["payment"], lambda one: one["next_action"])
        assert shown["next_action"]["type"] == "redirect_to_url"
        page = answer["next_action"]["redirect_to_url"]["url"]
        with httpx.Client(timeout=20) as browser:
            assert browser.post(page, data={"outcome": outcome}).status_code == 303
        if outcome == "fail":
            shown = until(lambda: buyer.get(read).json()["payment"], lambda one: one["error"])
            assert (shown["next_action"], shown["attempts_left"]) == (None, PAYMENT_ATTEMPTS_MAX - 1)
            assert "confirm it with your bank" in shown["error"]["message"]
    done = until_status(buyer, order["id"], "delivered")
    assert done["payment"]["payment_intent_id"] == order["payment"]["payment_intent_id"]
    charged_once(stripe, market.local, done, lines=1)


def test_declines_say_what_to_do_and_are_bounded(market, buyer, wish, stripe):
    order = placed(buyer, wish())
    read = f"/v1/orders/{order['id']}"
    cards = {
        "pm_card_chargeDeclinedStolenCard": "generic_decline",
        "pm_card_chargeDeclinedFraudulent": "generic_decline",
        "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
        "pm_card_chargeDeclinedExpiredCard": "expired_card",
    }
    for failed, (card, shown) in enumerate(cards.items(), 1):
        assert market.confirm(order, card).status_code == 402
        left = PAYMENT_ATTEMPTS_MAX - failed
        payment = until(
            lambda: buyer.get(read).json()["payment"], lambda one, left=left: one["attempts_left"] == left
        )
        assert payment["error"]["decline_code"] == shown
        assert payment["client_secret"], "the same payment can be tried again"
    events = buyer.get(f"{read}/events", headers={"Accept": "application/json"}).text
    assert "stolen" not in events
    assert "fraud" not in events
    for _ in range(PAYMENT_ATTEMPTS_MAX - len(cards)):
        assert market.confirm(order, "pm_card_chargeDeclined").status_code == 402
    ended = until_status(buyer, order["id"], "cancelled")
    assert ended["end"]["code"] == "payment_attempts_exhausted"
    path = f"/v1/payment_intents/{order['payment']['payment_intent_id']}"
    until(lambda: stripe.get(path), lambda one: one["status"] == "canceled")


def test_the_hosted_page_declines_and_then_pays(market, buyer, wish, stripe):
    order = placed(buyer, wish(payment_method="checkout"))
    page = order["payment"]["checkout_url"]
    assert pay_page(page, "4000000000009995").status_code == 402
    read = f"/v1/orders/{order['id']}"
    error = until(lambda: buyer.get(read).json()["payment"]["error"], bool)
    assert error["decline_code"] == "insufficient_funds"
    assert pay_page(page).status_code == 303
    charged_once(stripe, market.local, until_status(buyer, order["id"], "delivered"), lines=1)


def test_a_hosted_page_that_is_closed_ends_the_order(buyer, wish, stripe):
    order = placed(buyer, wish(payment_method="checkout"))
    stripe.post(f"/v1/checkout/sessions/{order['payment']['checkout_session_id']}/expire")
    assert until_status(buyer, order["id"], "cancelled")["end"]["code"] == "checkout_expired"


@pytest.mark.parametrize("method", ["payment_intent", "checkout"])
def test_a_buyer_cancels_and_the_payment_is_void(market, buyer, wish, stripe, method):
    order = placed(buyer, wish(payment_method=method))
    answer = buyer.post(f"/v1/orders/{order['id']}/cancellation", json={}, headers=key())
    assert (answer.status_code, answer.json()["end"]["code"]) == (200, "cancelled_by_buyer")
    if method == "payment_intent":
        path = f"/v1/payment_intents/{order['payment']['payment_intent_id']}"
        until(lambda: stripe.get(path), lambda one: one["status"] == "canceled")
        assert market.confirm(order).status_code == 400
    else:
        path = f"/v1/checkout/sessions/{order['payment']['checkout_session_id']}"
        until(lambda: stripe.get(path), lambda one: one["status"] == "expired")


def test_the_command_line_reviews_and_cancels(market, buyer, large, wish, tmp_path):
    order = held(market, buyer, large())
    listed = market.cli("ops", "reviews", "--status", "open", "--json", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert order["id"] in listed.stdout
    done = market.cli("ops", "approve-order", order["id"], "--reason", "Known company.", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    until_status(buyer, order["id"], "delivered")
    late = market.cli("ops", "reject-order", order["id"], "--reason", "Too late.", cwd=tmp_path)
    assert late.returncode == 1
    assert "review_decided" in late.stderr + late.stdout
    token = {"MARKETPLACE_TOKEN": buyer.headers["authorization"].removeprefix("Bearer ")}
    other = placed(buyer, wish())
    cancelled = market.cli("buyer", "cancel", other["id"], cwd=tmp_path, **token)
    assert cancelled.returncode == 0, cancelled.stderr
    assert buyer.get(f"/v1/orders/{other['id']}").json()["status"] == "cancelled"
