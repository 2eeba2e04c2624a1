"""Refunds: money back from a captured Charge, in full or in part, never more than was captured.

    succeeded                  at once, for most cards
    pending → succeeded        after a moment, for ``pm_card_pendingRefund``
    succeeded → failed         after a moment, for ``pm_card_refundFail``, or by a control: the money is back
                               in the balance, and what was refunded may be refunded again

Refuses a charge whose money a dispute holds. Follows https://docs.stripe.com/api/refunds and
https://docs.stripe.com/refunds#failed-refunds.
"""

from cluster.local.stripe import balance_transactions, disputes, documents
from cluster.local.stripe.cards import card_of_charge
from cluster.local.stripe.kinds import CHARGE, PAYMENT_INTENT
from cluster.local.stripe.kinds import REFUND as KIND
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

FAILURE_REASON = "expired_or_canceled_card"  # what Stripe's test card fails with
FAILURE_REASONS = frozenset({FAILURE_REASON, "lost_or_stolen_card", "unknown"})
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
    if disputes.disputed_minor(turn, charge):
        raise RefusedError(
            400,
            f"Charge {charge['id']} has been charged back; cannot issue a refund.",
            code="charge_disputed",
            executed=True,
        )
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
    pending = card_of_charge(charge).refunds == "settle"
    refund = documents.refund(turn.new_id("re"), turn.now, charge, wanted, values, pending=pending)
    refund["balance_transaction"] = balance_transactions.of_refund(turn, refund, charge)
    _put(turn, refund, charge)
    previous = {"amount_refunded": charge["amount_refunded"]}
    charge["amount_refunded"] += wanted
    if charge["amount_refunded"] == charge["amount_captured"]:
        previous["refunded"] = charge["refunded"]
        charge["refunded"] = True
    turn.put(CHARGE, charge, parent=charge["payment_intent"])
    turn.announce("charge.refunded", charge["id"], previous)
    turn.announce("refund.created", refund["id"])
    if charge["refunded"] and charge["disputed"]:
        disputes.close_inquiries(turn, charge)
    return turn.changed[refund["id"]].body


def fail(turn: Turn, object_id: str, reason: str = FAILURE_REASON) -> Document:
    """Let a refund fail: its money comes back to the balance.

    Raises:
        RefusedError: 404, 400 for one that has failed or for a reason that cards do not have.
    """
    refund = retrieve(turn, object_id, {})
    if reason not in FAILURE_REASONS:
        raise invalid(f"reason is one of {', '.join(sorted(FAILURE_REASONS))}.", "reason")
    if refund["status"] not in {"pending", "succeeded"}:
        raise invalid(f"A refund with a status of {refund['status']} cannot fail.")
    charge = turn.require(CHARGE, refund["charge"], CHARGE, "charge")
    charge["amount_refunded"] -= refund["amount"]
    charge["refunded"] = False
    turn.put(CHARGE, charge, parent=charge["payment_intent"])
    previous = {"status": refund["status"]}
    refund.pop("pending_reason", None)
    refund["status"] = "failed"
    refund["failure_reason"] = reason
    refund["failure_balance_transaction"] = balance_transactions.of_failed_refund(turn, refund)
    _put(turn, refund, charge)
    for event_type in ("refund.updated", "charge.refund.updated", "refund.failed"):
        turn.announce(event_type, object_id, previous)
    return refund


def come_due(turn: Turn, object_id: str) -> None:
    """Let a refund take the course that its card has for refunds."""
    refund = turn.find(KIND, object_id)
    if refund is None:
        return
    if refund["status"] == "succeeded":
        fail(turn, object_id)
    elif refund["status"] == "pending":
        del refund["pending_reason"]
        refund["status"] = "succeeded"
        turn.put(KIND, refund, parent=refund["payment_intent"])
        for event_type in ("refund.updated", "charge.refund.updated"):
            turn.announce(event_type, object_id, {"status": "pending"})


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
    _put(turn, refund, turn.require(CHARGE, refund["charge"], CHARGE, "charge"))
    for event_type in ("refund.updated", "charge.refund.updated"):
        turn.announce(event_type, object_id)
    return turn.changed[object_id].body


def _put(turn: Turn, refund: Document, charge: Document) -> None:
    """Store a refund, with a visit when its card has not had its last word."""
    course = card_of_charge(charge).refunds
    waits = {("settle", "pending"), ("fail", "succeeded")}
    due_at = None
    if (course, refund["status"]) in waits:
        due_at = max(refund["created"] + turn.dials.refund_settle_s, turn.now)
    turn.put(KIND, refund, parent=refund["payment_intent"], due_at=due_at)


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
