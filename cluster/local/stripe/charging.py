"""Charging: one attempt to pay a PaymentIntent, through 3-D Secure and processing to its outcome.

A decline records the failed Charge, puts the intent back to ``requires_payment_method`` and is answered by
402. The test card alone decides (``cards``). An authorisation that is not captured in time lapses. Follows
https://docs.stripe.com/payments/paymentintents/lifecycle.
"""

from urllib.parse import quote

from cluster.local.stripe import balance_transactions, disputes, documents, kinds, payment_methods
from cluster.local.stripe.cards import Decline, card_of, card_of_charge
from cluster.local.stripe.refusals import Document, RefusedError
from cluster.local.stripe.turn import Turn

KIND = kinds.PAYMENT_INTENT
CHARGE = kinds.CHARGE
PROCESSING_S = 3  # how long ``pm_sim_processing`` takes to settle
AUTHENTICATION_FAILURE = "payment_intent_authentication_failure"
AUTHENTICATION_MESSAGE = (
    "We are unable to authenticate your payment method. Please choose a different payment method and try "
    "again."
)


def attempt(turn: Turn, intent: Document, method: Document, return_url: str | None) -> bytes:
    """Confirm ``intent`` with ``method``: authenticate first, wait, or charge.

    Raises:
        RefusedError: 402 when the card is declined; the failed attempt is kept.
    """
    card = card_of(method)
    intent["payment_method"] = method["id"]
    intent["last_payment_error"] = None
    intent["next_action"] = None
    if card.authenticates:
        token = turn.page_token(f"{intent['id']}:{method['id']}")
        url = f"{turn.base_url}/c/authenticate/{intent['id']}/{token}"
        intent["status"] = "requires_action"
        intent["next_action"] = {
            "type": "redirect_to_url",
            "redirect_to_url": {"return_url": return_url, "url": url},
        }
        put(turn, intent)
        turn.announce("payment_intent.requires_action", intent["id"])
    elif card.processes:
        intent["status"] = "processing"
        put(turn, intent)
        turn.announce("payment_intent.processing", intent["id"])
    else:
        _charge(turn, intent, method, card.decline, authenticated=False)
    return turn.changed[intent["id"]].body


def authenticate(turn: Turn, intent: Document, *, approved: bool) -> None:
    """Take the outcome of 3-D Secure for an intent in ``requires_action``.

    Raises:
        RefusedError: 402 when the card is declined after all; the failed attempt is kept.
    """
    method = payment_methods.by_id(turn, intent["payment_method"])
    intent["next_action"] = None
    if approved:
        _charge(turn, intent, method, card_of(method).decline, authenticated=True)
        return
    intent["last_payment_error"] = documents.payment_error(
        AUTHENTICATION_FAILURE, AUTHENTICATION_MESSAGE, method
    )
    _back_to_start(turn, intent)


def come_due(turn: Turn, object_id: str) -> None:
    """End the wait of an intent in ``processing``, or an authorisation that was not captured in time."""
    intent = turn.find(KIND, object_id)
    if intent is None:
        return
    if intent["status"] == "processing":
        settle(turn, object_id)
    elif intent["status"] == "requires_capture":
        lapse(turn, intent)


def settle(turn: Turn, object_id: str) -> None:
    """End the wait of an intent in ``processing``."""
    intent = turn.find(KIND, object_id)
    if intent is not None and intent["status"] == "processing":
        method = payment_methods.by_id(turn, intent["payment_method"])
        _charge(turn, intent, method, None, authenticated=False)


def lapse(turn: Turn, intent: Document) -> None:
    """End an authorisation in ``requires_capture`` whose time is over: nothing can be captured any more."""
    release(turn, intent, "charge.expired")
    cancelled(turn, intent, "expired")


def release(turn: Turn, intent: Document, event_type: str) -> None:
    """Give an authorised amount back to the cardholder; no money has moved."""
    charge = turn.require(CHARGE, intent["latest_charge"], CHARGE, "charge")
    previous = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    charge["refunded"] = True
    charge["amount_refunded"] = charge["amount"]
    turn.put(CHARGE, charge, parent=intent["id"])
    turn.announce(event_type, charge["id"], previous)


def cancelled(turn: Turn, intent: Document, reason: str | None) -> None:
    """Mark an intent as cancelled."""
    intent["status"] = "canceled"
    intent["canceled_at"] = turn.now
    intent["cancellation_reason"] = reason
    intent["next_action"] = None
    intent["amount_capturable"] = 0
    put(turn, intent)
    turn.announce("payment_intent.canceled", intent["id"])


def take(turn: Turn, intent: Document, charge: Document, amount: int, event_type: str) -> None:
    """Capture ``amount`` minor units of an authorised charge, announced as ``event_type``; book it."""
    card = card_of_charge(charge)
    charge["captured"] = True
    charge["amount_captured"] = amount
    charge["balance_transaction"] = balance_transactions.of_charge(
        turn, charge, amount, at_once=card.bypasses_pending
    )
    turn.put(CHARGE, charge, parent=intent["id"])
    turn.announce(event_type, charge["id"])
    intent["status"] = "succeeded"
    intent["amount_received"] = amount
    intent["amount_capturable"] = 0
    put(turn, intent)
    turn.announce("payment_intent.succeeded", intent["id"])
    if card.disputed_for is not None:
        disputes.open_on(turn, charge, amount_minor=None, reason=card.disputed_for, inquiry=card.inquires)


def put(turn: Turn, intent: Document) -> None:
    """Store an intent, with a visit of housekeeping while it is processing or waits for its capture."""
    due_at = None
    if intent["status"] == "processing":
        due_at = turn.now + PROCESSING_S
    elif intent["status"] == "requires_capture":
        charge = turn.require(CHARGE, intent["latest_charge"], CHARGE, "charge")
        due_at = charge["payment_method_details"]["card"].get("capture_before")
    turn.put(KIND, intent, due_at=due_at)


def return_address(intent: Document, return_url: str) -> str:
    """Where the browser goes after 3-D Secure: ``return_url`` with what Stripe appends."""
    address, hash_mark, fragment = return_url.partition("#")
    outcome = "succeeded" if intent["status"] in {"succeeded", "requires_capture", "processing"} else "failed"
    joint = "&" if "?" in address else "?"
    query = (
        f"payment_intent={intent['id']}&payment_intent_client_secret={quote(intent['client_secret'])}"
        f"&redirect_status={outcome}"
    )
    return f"{address}{joint}{query}{hash_mark}{fragment}"


def _charge(
    turn: Turn, intent: Document, method: Document, decline: Decline | None, *, authenticated: bool
) -> None:
    charge = documents.charge(
        turn.new_id("ch"), turn.now, intent, method, decline, authenticated=authenticated
    )
    intent["latest_charge"] = charge["id"]
    if decline is not None:
        _fail(turn, intent, method, charge, decline)
    elif intent["capture_method"] == "manual":
        details = charge["payment_method_details"]["card"]
        details["capture_before"] = turn.now + turn.dials.authorization_lifetime_s
        turn.put(CHARGE, charge, parent=intent["id"])
        turn.announce("charge.succeeded", charge["id"])
        intent["status"] = "requires_capture"
        intent["amount_capturable"] = intent["amount"]
        put(turn, intent)
        turn.announce("payment_intent.amount_capturable_updated", intent["id"])
    else:
        take(turn, intent, charge, charge["amount"], "charge.succeeded")


def _fail(turn: Turn, intent: Document, method: Document, charge: Document, decline: Decline) -> None:
    turn.put(CHARGE, charge, parent=intent["id"])
    turn.announce("charge.failed", charge["id"])
    error = documents.payment_error(
        decline.code,
        decline.message,
        method,
        decline_code=decline.decline_code,
        charge_id=charge["id"],
    )
    intent["last_payment_error"] = error
    _back_to_start(turn, intent)
    raise RefusedError(
        402,
        decline.message,
        code=decline.code,
        kind="card_error",
        executed=True,
        keeps_changes=True,
        details={
            "charge": charge["id"],
            "decline_code": decline.decline_code,
            "payment_intent": intent,
            "payment_method": method,
        },
    )


def _back_to_start(turn: Turn, intent: Document) -> None:
    intent["status"] = "requires_payment_method"
    intent["payment_method"] = None
    put(turn, intent)
    turn.announce("payment_intent.payment_failed", intent["id"])
