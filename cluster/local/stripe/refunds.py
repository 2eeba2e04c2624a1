"""Refunds: money back from a captured Charge, in full or in part, never more than was captured.

A refund is done at once, as for test cards at Stripe. Follows https://docs.stripe.com/api/refunds.
"""

from cluster.local.stripe import documents
from cluster.local.stripe.charging import CHARGE
from cluster.local.stripe.charging import KIND as PAYMENT_INTENT
from cluster.local.stripe.parameters import (
    EXPAND,
    Specification,
    Values,
    amount,
    choice,
    merged_metadata,
    metadata,
    text,
)
from cluster.local.stripe.refusals import (
    Document,
    RefusedError,
    invalid,
    missing_parameter,
    refused_amount,
    unexpected_state,
)
from cluster.local.stripe.turn import Turn
from domain.money import format_money

KIND = "refund"
CREATE: Specification = {
    "payment_intent": text,
    "charge": text,
    "amount": amount,
    "reason": choice("duplicate", "fraudulent", "requested_by_customer"),
    "metadata": metadata,
    **EXPAND,
}
UPDATE: Specification = {"metadata": metadata, **EXPAND}


def create(turn: Turn, _object_id: str, values: Values) -> bytes:
    """Refund ``amount``, or what is left.

    Raises:
        RefusedError: 404, or 400 when nothing or less than ``amount`` is left to refund.
    """
    charge = _charge_of(turn, values)
    left = charge["amount_captured"] - charge["amount_refunded"]
    if left <= 0:
        raise RefusedError(
            400,
            f"Charge {charge['id']} has already been refunded.",
            code="charge_already_refunded",
            executed=True,
        )
    wanted = values.get("amount", left)
    if wanted > left:
        code = charge["currency"].upper()
        raise refused_amount(
            f"Refund amount ({format_money(wanted, code)}) is greater than unrefunded amount on charge "
            f"({format_money(left, code)})"
        )
    refund = documents.refund(turn.new_id("re"), turn.now, charge, wanted, values)
    turn.put(KIND, refund, parent=charge["payment_intent"])
    previous = {"amount_refunded": charge["amount_refunded"]}
    charge["amount_refunded"] += wanted
    if charge["amount_refunded"] == charge["amount_captured"]:
        previous["refunded"] = charge["refunded"]
        charge["refunded"] = True
    turn.put(CHARGE, charge, parent=charge["payment_intent"])
    turn.announce("charge.refunded", charge["id"], previous)
    turn.announce("refund.created", refund["id"])
    return turn.changed[refund["id"]].body


def retrieve(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a refund.

    Raises:
        RefusedError: 404.
    """
    return turn.require(KIND, object_id, KIND, "id")


def update(turn: Turn, object_id: str, values: Values) -> bytes:
    """Change a refund's metadata.

    Raises:
        RefusedError: 404.
    """
    refund = retrieve(turn, object_id, values)
    if "metadata" in values:
        refund["metadata"] = merged_metadata(refund["metadata"], values["metadata"])
    turn.put(KIND, refund, parent=refund["payment_intent"])
    turn.announce("refund.updated", object_id)
    return turn.changed[object_id].body


def _charge_of(turn: Turn, values: Values) -> Document:
    if "charge" in values and "payment_intent" in values:
        raise invalid("You may only specify one of these parameters: charge, payment_intent.", "charge")
    charge: Document | None
    if "charge" in values:
        charge = turn.require(CHARGE, values["charge"], CHARGE, "charge")
        intent = turn.require(PAYMENT_INTENT, charge["payment_intent"], PAYMENT_INTENT, "payment_intent")
    elif "payment_intent" in values:
        intent = turn.require(PAYMENT_INTENT, values["payment_intent"], PAYMENT_INTENT, "payment_intent")
        charge = turn.find(CHARGE, intent["latest_charge"]) if intent["latest_charge"] else None
    else:
        raise missing_parameter("charge")
    if not charge or charge["status"] != "succeeded" or not charge["captured"]:
        raise unexpected_state(
            f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.", intent
        )
    return charge
