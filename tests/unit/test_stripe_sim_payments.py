"""PaymentIntents, cards and refunds of the Stripe simulator, decided without storage."""

import orjson
import pytest

from cluster.local.stripe import charging, payment_intents, payment_methods, refunds
from cluster.local.stripe.cards import TEST_CARDS, card_by_number
from cluster.local.stripe.refusals import RefusedError
from tests.fakes.stripe_turns import StripeWorld

NEVER_KEPT = [card.number for card in TEST_CARDS if len(card.number) > 4]


@pytest.fixture
def world():
    return StripeWorld()


def create(world, more=""):
    return world.do(
        payment_intents.create,
        payment_intents.CREATE,
        "",
        f"amount=1999&currency=USD&metadata[order_id]=o1{more}",
    )


def confirm(world, intent_id, encoded="payment_method=pm_card_visa"):
    return world.do(payment_intents.confirm, payment_intents.CONFIRM, intent_id, encoded)


def capture(world, intent_id, encoded=""):
    return world.do(payment_intents.capture, payment_intents.CAPTURE, intent_id, encoded)


def cancel(world, intent_id, encoded=""):
    return world.do(payment_intents.cancel, payment_intents.CANCEL, intent_id, encoded)


def refund(world, encoded):
    return world.do(refunds.create, refunds.CREATE, "", encoded)


def typed(number, expiry="[exp_month]=12&payment_method_data[card][exp_year]=34"):
    data = "payment_method_data"
    return f"{data}[type]=card&{data}[card][number]={number}&{data}[card]{expiry}&{data}[card][cvc]=123"


def refusal(call, *arguments):
    with pytest.raises(RefusedError) as refused:
        call(*arguments)
    return refused.value


def test_create_then_confirm_succeeds_and_charges_once(world):
    intent = create(world)
    assert (intent["status"], intent["currency"], intent["amount_received"]) == (
        "requires_payment_method",
        "usd",
        0,
    )
    assert intent["client_secret"].startswith(f"{intent['id']}_secret_")
    paid = confirm(world, intent["id"])
    assert (paid["status"], paid["amount_received"], paid["metadata"]) == (
        "succeeded",
        1999,
        {"order_id": "o1"},
    )
    charge = world.stored("charge", paid["latest_charge"])
    assert (charge["captured"], charge["amount_captured"], charge["payment_intent"]) == (
        True,
        1999,
        intent["id"],
    )
    assert world.event_types() == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    assert world.events[-1]["data"]["object"] == paid
    again = refusal(confirm, world, intent["id"])
    assert (again.code, again.details["payment_intent"]["status"]) == (
        "payment_intent_unexpected_state",
        "succeeded",
    )
    assert len(world.events) == 3


def test_events_carry_the_object_of_their_moment(world):
    paid = create(world, "&payment_method=pm_card_visa&confirm=true")
    assert paid["status"] == "succeeded"
    assert world.events[0]["type"] == "payment_intent.created"
    assert world.events[0]["data"]["object"]["status"] == "requires_confirmation"


def test_create_with_a_method_waits_for_confirmation(world):
    intent = create(world, "&payment_method=pm_card_mastercard")
    assert intent["status"] == "requires_confirmation"
    assert world.stored("payment_method", intent["payment_method"])["card"]["last4"] == "4444"
    assert confirm(world, intent["id"], "")["status"] == "succeeded"


def test_confirming_without_a_method_is_refused_and_creates_nothing(world):
    assert refusal(create, world, "&confirm=true").code == "payment_intent_unexpected_state"
    assert world.source.objects == {}
    intent = create(world)
    assert refusal(confirm, world, intent["id"], "").code == "payment_intent_unexpected_state"


@pytest.mark.parametrize(
    ("method", "code", "decline_code"),
    [
        ("payment_method=pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("payment_method=pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("payment_method=pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        (typed("4000000000000002"), "card_declined", "generic_decline"),
        (typed("4000 0000 0000 9995"), "card_declined", "insufficient_funds"),
    ],
)
def test_a_decline_is_recorded_and_may_be_retried(world, method, code, decline_code):
    intent = create(world)
    declined = refusal(confirm, world, intent["id"], method)
    assert (declined.status, declined.kind, declined.code) == (402, "card_error", code)
    assert declined.details["decline_code"] == decline_code
    failed = world.stored("payment_intent", intent["id"])
    assert declined.details["payment_intent"] == failed
    assert (failed["status"], failed["payment_method"]) == ("requires_payment_method", None)
    assert failed["last_payment_error"]["decline_code"] == decline_code
    assert world.stored("charge", failed["latest_charge"])["status"] == "failed"
    assert world.event_types()[-2:] == ["charge.failed", "payment_intent.payment_failed"]
    paid = confirm(world, intent["id"])
    assert (paid["status"], paid["last_payment_error"]) == ("succeeded", None)


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (typed("4242424242424241"), "incorrect_number"),
        (typed("5105105105105100"), "card_declined"),
        (typed("not a number"), "incorrect_number"),
        (
            typed("4242424242424242", "[exp_month]=13&payment_method_data[card][exp_year]=34"),
            "invalid_expiry_month",
        ),
        (
            typed("4242424242424242", "[exp_month]=1&payment_method_data[card][exp_year]=2026"),
            "invalid_expiry_year",
        ),
    ],
)
def test_cards_that_cannot_be_tried(world, method, code):
    intent = create(world)
    refused = refusal(confirm, world, intent["id"], method)
    assert (refused.status, refused.code, refused.keeps_changes) == (402, code, False)
    assert world.stored("payment_intent", intent["id"]) == intent


def test_no_card_number_is_kept_or_announced(world):
    answers = b""
    for card in NEVER_KEPT:
        intent = create(world)
        try:
            answers += orjson.dumps(confirm(world, intent["id"], typed(card)))
        except RefusedError as declined:
            answers += declined.body()
    kept = (
        answers
        + b"".join(stored.body for stored in world.source.objects.values())
        + orjson.dumps(world.events)
    )
    assert len(kept) > 1_000
    assert [card for card in NEVER_KEPT if card.encode() in kept] == []


def test_every_test_card_passes_luhn_and_is_found():
    assert [card_by_number(number, "p").number for number in NEVER_KEPT] == NEVER_KEPT


@pytest.mark.parametrize(
    "method", ["payment_method=pm_card_threeDSecure2Required", typed("4000002500003155")]
)
def test_three_d_secure_approved(world, method):
    intent = create(world)
    waiting = confirm(world, intent["id"], f"{method}&return_url=https://shop.test/back")
    assert waiting["status"] == "requires_action"
    redirect = waiting["next_action"]["redirect_to_url"]
    assert redirect["return_url"] == "https://shop.test/back"
    assert redirect["url"].startswith(f"http://sim.test/c/authenticate/{intent['id']}/token-")
    assert world.event_types()[-1] == "payment_intent.requires_action"
    turn = world.turn()
    charging.authenticate(turn, waiting, approved=True)
    world.keep(turn)
    paid = world.stored("payment_intent", intent["id"])
    assert (paid["status"], paid["next_action"]) == ("succeeded", None)
    charge = world.stored("charge", paid["latest_charge"])
    assert charge["payment_method_details"]["card"]["three_d_secure"]["result"] == "authenticated"
    address = charging.return_address(paid, "https://shop.test/back?a=1#top")
    assert address.startswith(f"https://shop.test/back?a=1&payment_intent={intent['id']}&")
    assert address.endswith("&redirect_status=succeeded#top")


def test_three_d_secure_failed(world):
    intent = create(world)
    waiting = confirm(world, intent["id"], "payment_method=pm_card_authenticationRequired")
    turn = world.turn()
    charging.authenticate(turn, waiting, approved=False)
    world.keep(turn)
    failed = world.stored("payment_intent", intent["id"])
    assert failed["status"] == "requires_payment_method"
    assert failed["last_payment_error"]["code"] == "payment_intent_authentication_failure"
    assert failed["latest_charge"] is None
    assert world.event_types()[-1] == "payment_intent.payment_failed"


def test_three_d_secure_approved_but_declined(world):
    method = "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"
    waiting = confirm(world, create(world)["id"], f"payment_method={method}")
    turn = world.turn()
    with pytest.raises(RefusedError) as declined:
        charging.authenticate(turn, waiting, approved=True)
    assert declined.value.details["decline_code"] == "insufficient_funds"


def test_an_intent_that_waits_for_action_needs_another_method_to_confirm(world):
    intent = create(world)
    confirm(world, intent["id"], "payment_method=pm_card_threeDSecure2Required")
    assert refusal(confirm, world, intent["id"], "").status == 400
    assert confirm(world, intent["id"])["status"] == "succeeded"


def test_processing_settles_by_itself(world):
    intent = create(world)
    assert confirm(world, intent["id"], "payment_method=pm_sim_processing")["status"] == "processing"
    due_at = world.source.objects[intent["id"]].due_at
    assert due_at == world.now_ms // 1_000 + charging.PROCESSING_S
    assert refusal(cancel, world, intent["id"]).status == 400
    world.do(payment_intents.update, payment_intents.UPDATE, intent["id"], "metadata[a]=b")
    assert world.source.objects[intent["id"]].due_at is not None
    turn = world.turn()
    charging.settle(turn, intent["id"])
    world.keep(turn)
    assert world.stored("payment_intent", intent["id"])["status"] == "succeeded"
    assert world.source.objects[intent["id"]].due_at is None


def test_manual_capture_in_full(world):
    intent = create(world, "&capture_method=manual&payment_method=pm_card_visa&confirm=true")
    assert (intent["status"], intent["amount_capturable"], intent["amount_received"]) == (
        "requires_capture",
        1999,
        0,
    )
    assert world.event_types()[-1] == "payment_intent.amount_capturable_updated"
    assert world.stored("charge", intent["latest_charge"])["captured"] is False
    done = capture(world, intent["id"])
    assert (done["status"], done["amount_capturable"], done["amount_received"]) == ("succeeded", 0, 1999)
    assert world.event_types()[-2:] == ["charge.captured", "payment_intent.succeeded"]
    assert refusal(capture, world, intent["id"]).code == "payment_intent_unexpected_state"


def test_partial_capture_bounds_what_can_be_refunded(world):
    intent = create(world, "&capture_method=manual&payment_method=pm_card_visa&confirm=true")
    too_much = refusal(capture, world, intent["id"], "amount_to_capture=2000")
    assert (too_much.status, too_much.code, too_much.param) == (400, "amount_too_large", "amount_to_capture")
    assert capture(world, intent["id"], "amount_to_capture=1500")["amount_received"] == 1500
    assert refusal(refund, world, f"payment_intent={intent['id']}&amount=1501").param == "amount"
    assert refund(world, f"payment_intent={intent['id']}")["amount"] == 1500


def test_cancelling(world):
    intent = create(world)
    gone = cancel(world, intent["id"], "cancellation_reason=abandoned")
    assert (gone["status"], gone["cancellation_reason"]) == ("canceled", "abandoned")
    assert gone["canceled_at"] == world.now_ms // 1_000
    assert world.event_types()[-1] == "payment_intent.canceled"
    assert refusal(cancel, world, intent["id"]).details["payment_intent"]["status"] == "canceled"
    assert refusal(confirm, world, intent["id"]).status == 400


def test_cancelling_an_authorisation_releases_it(world):
    intent = create(world, "&capture_method=manual&payment_method=pm_card_visa&confirm=true")
    assert cancel(world, intent["id"])["amount_capturable"] == 0
    charge = world.stored("charge", intent["latest_charge"])
    assert (charge["refunded"], charge["amount_captured"]) == (True, 0)
    assert world.event_types()[-2:] == ["charge.refunded", "payment_intent.canceled"]
    assert refusal(refund, world, f"payment_intent={intent['id']}").status == 400


def test_cancelling_what_succeeded_is_refused(world):
    intent = create(world, "&payment_method=pm_card_visa&confirm=true")
    assert refusal(cancel, world, intent["id"]).details["payment_intent"]["status"] == "succeeded"


def test_updating(world):
    intent = create(world)
    update = payment_intents.update, payment_intents.UPDATE, intent["id"]
    changed = world.do(*update, "amount=2500&metadata[order_id]=&metadata[b]=2&description=Two")
    assert (changed["amount"], changed["metadata"], changed["description"]) == (2500, {"b": "2"}, "Two")
    confirm(world, intent["id"])
    assert world.do(*update, "metadata[late]=yes")["metadata"] == {"b": "2", "late": "yes"}
    assert refusal(world.do, *update, "amount=1").code == "payment_intent_unexpected_state"


def test_refunds_never_exceed_what_was_captured(world):
    intent = create(world, "&payment_method=pm_card_visa&confirm=true")
    first = refund(world, f"payment_intent={intent['id']}&amount=500&reason=requested_by_customer")
    assert (first["status"], first["amount"], first["charge"]) == ("succeeded", 500, intent["latest_charge"])
    assert world.event_types()[-2:] == ["charge.refunded", "refund.created"]
    refunded = world.events[-2]["data"]
    assert (refunded["object"]["amount_refunded"], refunded["object"]["refunded"]) == (500, False)
    assert refunded["previous_attributes"] == {"amount_refunded": 0}
    over = refusal(refund, world, f"charge={intent['latest_charge']}&amount=1500")
    assert (over.status, over.param) == (400, "amount")
    assert "15.00 USD" in over.message
    assert refund(world, f"charge={intent['latest_charge']}")["amount"] == 1499
    assert world.events[-2]["data"]["previous_attributes"] == {"amount_refunded": 500, "refunded": False}
    assert world.stored("charge", intent["latest_charge"])["refunded"] is True
    assert refusal(refund, world, f"payment_intent={intent['id']}").code == "charge_already_refunded"


def test_refunds_need_a_successful_charge(world):
    intent = create(world)
    for encoded, status in (
        (f"payment_intent={intent['id']}", 400),
        ("payment_intent=pi_none", 404),
        ("charge=ch_none", 404),
        ("amount=5", 400),
        (f"payment_intent={intent['id']}&charge=ch_1", 400),
    ):
        assert refusal(refund, world, encoded).status == status


def test_payment_methods_can_be_made_first(world):
    encoded = "type=card&card[number]=5555555555554444&card[exp_month]=4&card[exp_year]=2031&card[cvc]=999"
    encoded += "&billing_details[name]=Ada&billing_details[address][city]=Paris"
    method = world.do(payment_methods.create, payment_methods.CREATE, "", encoded)
    assert (method["card"]["brand"], method["card"]["exp_year"]) == ("mastercard", 2031)
    assert method["billing_details"]["address"]["city"] == "Paris"
    assert confirm(world, create(world)["id"], f"payment_method={method['id']}")["status"] == "succeeded"


def test_unknown_methods_and_intents_are_missing(world):
    intent = create(world)
    assert refusal(confirm, world, intent["id"], "payment_method=pm_none").code == "resource_missing"
    assert refusal(confirm, world, "pi_none").code == "resource_missing"
    assert (
        refusal(
            confirm, world, intent["id"], f"payment_method=pm_card_visa&{typed('4242424242424242')}"
        ).status
        == 400
    )
