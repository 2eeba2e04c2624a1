"""PaymentIntents: the life of one payment, from creation to capture, refusal or cancellation.

    requires_payment_method → requires_confirmation → (requires_action | processing) → requires_capture
    → succeeded; canceled from everything but ``processing`` and ``succeeded``.

At most one Charge of an intent ever succeeds: an intent that holds one cannot be confirmed again. What a
partial capture leaves is released without a Refund object. Follows
https://docs.stripe.com/payments/paymentintents/lifecycle.
"""

from cluster.local.stripe import documents, payment_methods
from cluster.local.stripe.charging import CHARGE, KIND, attempt, cancelled, put, release, take
from cluster.local.stripe.parameters import (
    EXPAND,
    Specification,
    Values,
    amount,
    boolean,
    choice,
    currency,
    merged_metadata,
    metadata,
    text,
    texts,
    web_url,
)
from cluster.local.stripe.refusals import (
    Document,
    RefusedError,
    invalid,
    refused_amount,
    require_step,
    unexpected_state,
)
from cluster.local.stripe.turn import Turn

CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
AMENDABLE = frozenset({"requires_payment_method", "requires_confirmation"})
CANCELLABLE = CONFIRMABLE | {"requires_capture"}
PAYMENT: Specification = {"payment_method": text, "payment_method_data": payment_methods.DATA}
CREATE: Specification = {
    "amount": amount,
    "currency": currency,
    "metadata": metadata,
    "capture_method": choice("automatic", "automatic_async", "manual"),
    "confirmation_method": choice("automatic"),
    "automatic_payment_methods": {"enabled": boolean, "allow_redirects": choice("always", "never")},
    "payment_method_types": texts,
    "confirm": boolean,
    "description": text,
    "receipt_email": text,
    "return_url": web_url,
    "statement_descriptor": text,
    "statement_descriptor_suffix": text,
    "transfer_group": text,
    **PAYMENT,
    **EXPAND,
}
UPDATE: Specification = {
    "amount": amount,
    "currency": currency,
    "description": text,
    "metadata": metadata,
    "receipt_email": text,
    "transfer_group": text,
    **PAYMENT,
    **EXPAND,
}
CONFIRM: Specification = {"return_url": web_url, "client_secret": text, **PAYMENT, **EXPAND}
CAPTURE: Specification = {"amount_to_capture": amount, "metadata": metadata, **EXPAND}
CANCEL: Specification = {
    "cancellation_reason": choice("duplicate", "fraudulent", "requested_by_customer", "abandoned"),
    **EXPAND,
}


def create(turn: Turn, _object_id: str, values: Values) -> bytes:
    """Create a PaymentIntent, and confirm it when asked to.

    Raises:
        RefusedError: 400 for parameters that contradict each other, 402 when the card is declined.
    """
    automatic = values.get("automatic_payment_methods", {}).get("enabled", False)
    if automatic and "payment_method_types" in values:
        raise invalid(
            "You may only specify one of these parameters: automatic_payment_methods, payment_method_types.",
            "payment_method_types",
        )
    if values.get("payment_method_types", ["card"]) != ["card"]:
        raise invalid(
            "This Stripe simulator takes the payment method type card only.", "payment_method_types"
        )
    if "return_url" in values and not values.get("confirm"):
        raise invalid("The parameter `return_url` cannot be passed unless confirm is true.", "return_url")
    require_step(values["amount"], values["currency"])
    intent = open_intent(turn, values)
    method = _chosen_method(turn, values)
    if method is not None:
        intent["payment_method"] = method["id"]
        intent["status"] = "requires_confirmation"
    if not values.get("confirm"):
        put(turn, intent)
        turn.announce("payment_intent.created", intent["id"])
        return turn.changed[intent["id"]].body
    if method is None:
        raise _without_method(intent)
    put(turn, intent)
    turn.announce("payment_intent.created", intent["id"])
    return attempt(turn, intent, method, values.get("return_url"))


def open_intent(turn: Turn, values: Values) -> Document:
    """Make a PaymentIntent that is not stored yet."""
    intent_id = turn.new_id("pi")
    secret = turn.new_secret_id(f"{intent_id}_secret")
    return documents.payment_intent(intent_id, secret, turn.now, values)


def retrieve(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a PaymentIntent.

    Raises:
        RefusedError: 404.
    """
    return turn.require(KIND, object_id, KIND, "intent")


def update(turn: Turn, object_id: str, values: Values) -> bytes:
    """Change what may still be changed: metadata always, amount and method before confirmation.

    Raises:
        RefusedError: 404, or 400 when the intent's state does not allow the change.
    """
    intent = retrieve(turn, object_id, values)
    early = [name for name in ("amount", "currency", *PAYMENT) if name in values]
    if early and intent["status"] not in AMENDABLE:
        raise unexpected_state(
            f"This PaymentIntent's {early[0]} could not be updated because it has a status of "
            f"{intent['status']}. Only a PaymentIntent with one of the following statuses may be updated: "
            "requires_payment_method, requires_confirmation.",
            intent,
        )
    for name in ("amount", "currency", "description", "receipt_email", "transfer_group"):
        if name in values:
            intent[name] = values[name]
    if "metadata" in values:
        intent["metadata"] = merged_metadata(intent["metadata"], values["metadata"])
    method = _chosen_method(turn, values)
    if method is not None:
        intent["payment_method"] = method["id"]
        intent["status"] = "requires_confirmation"
    put(turn, intent)
    return turn.changed[object_id].body


def confirm(turn: Turn, object_id: str, values: Values) -> bytes:
    """Try to pay.

    Raises:
        RefusedError: 404, 400 for a wrong state, 402 when the card is declined.
    """
    intent = retrieve(turn, object_id, values)
    status = intent["status"]
    method = _chosen_method(turn, values)
    if status not in CONFIRMABLE or (status == "requires_action" and method is None):
        done = "already succeeded after being previously confirmed"
        reason = done if status == "succeeded" else f"a status of {status}"
        raise unexpected_state(f"You cannot confirm this PaymentIntent because it has {reason}.", intent)
    if method is None:
        if intent["payment_method"] is None:
            raise _without_method(intent)
        method = payment_methods.by_id(turn, intent["payment_method"])
    return attempt(turn, intent, method, values.get("return_url"))


def capture(turn: Turn, object_id: str, values: Values) -> bytes:
    """Capture an authorised payment, in full or in part; the rest is released.

    Raises:
        RefusedError: 404, 400 for a wrong state or too large an amount.
    """
    intent = retrieve(turn, object_id, values)
    if intent["status"] != "requires_capture":
        raise unexpected_state(
            "This PaymentIntent could not be captured because it has a status of "
            f"{intent['status']}. Only a PaymentIntent with a status of requires_capture may be captured.",
            intent,
        )
    captured: int = values.get("amount_to_capture") or intent["amount_capturable"]
    if captured > intent["amount_capturable"]:
        raise refused_amount(
            "The provided amount_to_capture is greater than the capturable amount of this PaymentIntent.",
            "amount_too_large",
            "amount_to_capture",
        )
    charge = turn.require(CHARGE, intent["latest_charge"], CHARGE, "charge")
    if "metadata" in values:
        intent["metadata"] = merged_metadata(intent["metadata"], values["metadata"])
    take(turn, intent, charge, captured, "charge.captured")
    return turn.changed[object_id].body


def cancel(turn: Turn, object_id: str, values: Values) -> bytes:
    """Cancel; an uncaptured authorisation is released, which Stripe reports as ``charge.refunded``.

    Raises:
        RefusedError: 404, 400 for a wrong state.
    """
    intent = retrieve(turn, object_id, values)
    if intent["status"] not in CANCELLABLE:
        raise unexpected_state(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a "
            "PaymentIntent with one of the following statuses may be canceled: requires_payment_method, "
            "requires_capture, requires_confirmation, requires_action.",
            intent,
        )
    close(turn, intent, values.get("cancellation_reason"))
    return turn.changed[object_id].body


def close(turn: Turn, intent: Document, reason: str | None) -> None:
    """Cancel an intent whose state allows it."""
    if intent["status"] == "requires_capture":
        release(turn, intent, "charge.refunded")
    cancelled(turn, intent, reason)


def _chosen_method(turn: Turn, values: Values) -> Document | None:
    if "payment_method" in values and "payment_method_data" in values:
        raise invalid(
            "You may only specify one of payment_method, payment_method_data.", "payment_method_data"
        )
    if "payment_method_data" in values:
        return payment_methods.from_data(turn, values["payment_method_data"], "payment_method_data")
    if "payment_method" in values:
        return payment_methods.by_id(turn, values["payment_method"])
    return None


def _without_method(intent: Document) -> RefusedError:
    return unexpected_state(
        "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update "
        "the PaymentIntent with a payment method and then confirm it again, or confirm it again directly "
        "with a payment method.",
        intent,
    )
