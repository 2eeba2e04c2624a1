"""Charging: one attempt to pay a PaymentIntent, through 3-D Secure and processing to its outcome.

A decline records the failed Charge, puts the intent back to ``requires_payment_method`` and is answered by
402. The test card alone decides (``cards``). Follows
https://docs.stripe.com/payments/paymentintents/lifecycle.
"""

from urllib.parse import quote

from cluster.local.stripe import documents, payment_methods
from cluster.local.stripe.cards import Decline, card_of
from cluster.local.stripe.refusals import Document, RefusedError
from cluster.local.stripe.turn import Turn

KIND = "payment_intent"
CHARGE = "charge"
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


def settle(turn: Turn, object_id: str) -> None:
    """End the wait of an intent in ``processing``."""
    intent = turn.find(KIND, object_id)
    if intent is not None and intent["status"] == "processing":
        method = payment_methods.by_id(turn, intent["payment_method"])
        _charge(turn, intent, method, None, authenticated=False)


def succeed(turn: Turn, intent: Document, received: int) -> None:
    """Mark an intent as paid with ``received`` minor units."""
    intent["status"] = "succeeded"
    intent["amount_received"] = received
    intent["amount_capturable"] = 0
    put(turn, intent)
    turn.announce("payment_intent.succeeded", intent["id"])


def put(turn: Turn, intent: Document) -> None:
    """Store an intent, with a visit of housekeeping while it is processing."""
    due_at = turn.now + PROCESSING_S if intent["status"] == "processing" else None
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
        turn.put(CHARGE, charge, parent=intent["id"])
        turn.announce("charge.succeeded", charge["id"])
        intent["status"] = "requires_capture"
        intent["amount_capturable"] = intent["amount"]
        put(turn, intent)
        turn.announce("payment_intent.amount_capturable_updated", intent["id"])
    else:
        charge["captured"] = True
        charge["amount_captured"] = charge["amount"]
        turn.put(CHARGE, charge, parent=intent["id"])
        turn.announce("charge.succeeded", charge["id"])
        succeed(turn, intent, charge["amount"])


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
