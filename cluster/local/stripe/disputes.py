"""Disputes: a cardholder's bank takes a charge's money back, and may give it up again.

    needs_response → under_review → won | lost          the amount and a fee are withdrawn at the opening
    warning_needs_response → warning_under_review → warning_closed, or escalated to needs_response

A test card opens one when it is captured (``cards``), a control on any charge. Submitted evidence whose
``uncategorized_text`` is ``winning_evidence``, ``losing_evidence`` or ``escalate_inquiry_evidence`` decides
after a moment, as in Stripe's test mode; any other waits for a control. Without an answer in time a dispute
is lost and an inquiry closed. What disputes and refunds take together never exceeds what was captured: an
open or lost dispute forbids refunds of its charge. Follows https://docs.stripe.com/api/disputes and
https://docs.stripe.com/testing#disputes.
"""

from typing import Any

from cluster.local.stripe import balance_transactions
from cluster.local.stripe.dispute_documents import EVIDENCE_TEXTS, REASONS, dispute
from cluster.local.stripe.kinds import CHARGE
from cluster.local.stripe.kinds import DISPUTE as KIND
from cluster.local.stripe.parameters import (
    EXPAND,
    PAGE,
    Specification,
    Values,
    boolean,
    choice,
    merged_metadata,
    metadata,
    text,
)
from cluster.local.stripe.refusals import Document, RefusedError, invalid, refused_amount
from cluster.local.stripe.turn import Turn
from domain.money import format_money

EVIDENCE_CHARS_MAX = 20_000  # of one text; Stripe's limit
OPEN = frozenset({"needs_response", "warning_needs_response"})
WITHDRAWN = frozenset({"needs_response", "under_review", "lost"})  # the charge's money is not ours
REVIEWED = frozenset({"under_review", "warning_under_review"})
INQUIRIES = frozenset({"warning_needs_response", "warning_under_review"})
WINNING, LOSING, ESCALATING = "winning_evidence", "losing_evidence", "escalate_inquiry_evidence"
# What a control may decide, and from which statuses. A lost dispute may still be won.
OUTCOMES = {
    "won": WITHDRAWN,
    "lost": frozenset({"needs_response", "under_review"}),
    "warning_closed": INQUIRIES,
    "needs_response": INQUIRIES,
}


def evidence_text(raw: Any, param: str) -> str:
    """One text of evidence; the empty string removes it."""
    if not isinstance(raw, str) or len(raw) > EVIDENCE_CHARS_MAX:
        raise invalid(f"Invalid string: at most {EVIDENCE_CHARS_MAX} characters of text.", param)
    return raw


UPDATE: Specification = {
    "evidence": dict.fromkeys(EVIDENCE_TEXTS, evidence_text),
    "metadata": metadata,
    "submit": boolean,
    "intended_submission_method": choice(
        "manual", "prefer_manual", "prefer_smart_disputes", "smart_disputes"
    ),
    **EXPAND,
}
LIST: Specification = {**PAGE, "charge": text, "payment_intent": text}


def retrieve(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a dispute.

    Raises:
        RefusedError: 404.
    """
    return turn.require(KIND, object_id, KIND, "dispute")


def open_on(
    turn: Turn, charge: Document, *, amount_minor: int | None, reason: str, inquiry: bool
) -> Document:
    """Dispute ``amount_minor`` of a captured charge, or what is left of it.

    Raises:
        RefusedError: 400 when nothing or less than that is left, or for a reason that Stripe does not have.
    """
    if reason not in REASONS:
        raise invalid(f"Invalid reason: must be one of {', '.join(REASONS)}", "reason")
    left = charge["amount_captured"] - charge["amount_refunded"] - disputed_minor(turn, charge)
    wanted = left if amount_minor is None else amount_minor
    if charge["status"] != "succeeded" or not 0 < wanted <= left:
        code = charge["currency"].upper()
        raise refused_amount(
            f"Dispute amount ({format_money(wanted, code)}) is not within what is left of the charge "
            f"({format_money(left, code)})."
        )
    opened = dispute(
        turn.new_id("dp"), turn.now, charge, wanted, reason, turn.now + turn.dials.dispute_response_s
    )
    charge["disputed"] = True
    turn.put(CHARGE, charge, parent=charge["payment_intent"])
    if inquiry:
        opened["status"] = "warning_needs_response"
        opened["is_charge_refundable"] = True
        opened["payment_method_details"]["card"]["case_type"] = "inquiry"
        _put(turn, opened)
        turn.announce("charge.dispute.created", opened["id"])
    else:
        withdrawn = balance_transactions.of_dispute(turn, opened)
        _put(turn, opened)
        turn.announce("charge.dispute.created", opened["id"])
        _add_transaction(turn, opened, withdrawn, "charge.dispute.funds_withdrawn")
    return opened


def update(turn: Turn, object_id: str, values: Values) -> bytes:
    """Stage or submit evidence (submitted unless ``submit`` is false), and change metadata.

    Raises:
        RefusedError: 404, 400 when evidence comes too late.
    """
    disputed = retrieve(turn, object_id, values)
    evidence = values.get("evidence")
    submits = values.get("submit", evidence is not None)
    if (evidence is not None or submits) and disputed["status"] not in OPEN:
        raise RefusedError(
            400,
            f"Evidence cannot be changed or submitted: this dispute has a status of {disputed['status']}.",
            executed=True,
        )
    previous: Document = {}
    if evidence:
        previous["evidence"] = {name: disputed["evidence"][name] for name in evidence}
        disputed["evidence"] |= {name: value or None for name, value in evidence.items()}
        disputed["evidence_details"]["has_evidence"] = any(disputed["evidence"][n] for n in EVIDENCE_TEXTS)
    if "metadata" in values:
        previous["metadata"] = disputed["metadata"]
        disputed["metadata"] = merged_metadata(disputed["metadata"], values["metadata"])
    if "intended_submission_method" in values:
        disputed["intended_submission_method"] = values["intended_submission_method"]
    if submits:
        previous["status"] = disputed["status"]
        disputed["status"] = disputed["status"].replace("needs_response", "under_review")
        disputed["evidence_details"]["submission_count"] += 1
        disputed["evidence_details"]["submission_method"] = "manual"
    _put(turn, disputed)
    turn.announce("charge.dispute.updated", object_id, previous)
    return turn.changed[object_id].body


def close(turn: Turn, object_id: str, values: Values) -> bytes:
    """Give a dispute up: it is lost; an inquiry is closed.

    Raises:
        RefusedError: 404, 400 when it is not waiting for a response.
    """
    disputed = retrieve(turn, object_id, values)
    if disputed["status"] not in OPEN:
        raise RefusedError(
            400, f"This dispute cannot be closed: it has a status of {disputed['status']}.", executed=True
        )
    _end(turn, disputed, "warning_closed" if disputed["status"] in INQUIRIES else "lost")
    return turn.changed[object_id].body


def decide(turn: Turn, object_id: str, outcome: str) -> Document:
    """Decide a dispute as the bank: ``won``, ``lost``, ``warning_closed``, or ``needs_response`` to escalate.

    Raises:
        RefusedError: 404, 400 for an outcome that the dispute's status does not allow.
    """
    disputed = retrieve(turn, object_id, {})
    if outcome not in OUTCOMES:
        raise invalid(f"outcome is one of {', '.join(OUTCOMES)}.", "outcome")
    if disputed["status"] not in OUTCOMES[outcome]:
        raise invalid(f"A dispute with a status of {disputed['status']} cannot become {outcome}.", "outcome")
    if outcome == "needs_response":
        _escalate(turn, disputed)
    else:
        _end(turn, disputed, outcome)
    return disputed


def change_fee(turn: Turn, object_id: str, fee_minor: int) -> Document:
    """Take another fee for a dispute that took money, or give some back: below zero.

    Raises:
        RefusedError: 404, 400 for an inquiry or when more would be given back than was taken.
    """
    disputed = retrieve(turn, object_id, {})
    taken = sum(booked["fee"] for booked in disputed["balance_transactions"])
    if not disputed["balance_transactions"] or taken + fee_minor < 0:
        raise invalid(f"{taken} minor units were taken for this dispute.", "amount")
    booked = balance_transactions.of_dispute_fee(turn, disputed, fee_minor)
    _add_transaction(turn, disputed, booked, "charge.dispute.updated")
    return disputed


def come_due(turn: Turn, object_id: str) -> None:
    """Do what time does: decide by the evidence, or end what was not answered."""
    disputed = turn.find(KIND, object_id)
    if disputed is None:
        return
    inquiry = disputed["status"] in INQUIRIES
    if disputed["status"] in OPEN:
        disputed["evidence_details"]["past_due"] = True
        _end(turn, disputed, "warning_closed" if inquiry else "lost")
    elif disputed["status"] in REVIEWED:
        evidence = disputed["evidence"]["uncategorized_text"]
        if inquiry and evidence == ESCALATING:
            _escalate(turn, disputed)
        elif evidence in {WINNING, LOSING}:
            outcome = "won" if evidence == WINNING else "lost"
            _end(turn, disputed, "warning_closed" if inquiry else outcome)


def disputed_minor(turn: Turn, charge: Document) -> int:
    """Return how much of a charge open or lost disputes hold, in minor units; inquiries hold nothing."""
    if not charge["disputed"]:
        return 0
    return sum(
        found["amount"]
        for found in turn.children(KIND, charge["payment_intent"])
        if found["charge"] == charge["id"] and found["status"] in WITHDRAWN
    )


def close_inquiries(turn: Turn, charge: Document) -> None:
    """A full refund settles what the cardholder asked about."""
    for found in list(turn.children(KIND, charge["payment_intent"])):
        if found["charge"] == charge["id"] and found["status"] in INQUIRIES:
            _end(turn, found, "warning_closed")


def _escalate(turn: Turn, disputed: Document) -> None:
    charge = turn.require(CHARGE, disputed["charge"], CHARGE, "charge")
    left = charge["amount_captured"] - charge["amount_refunded"] - disputed_minor(turn, charge)
    if left <= 0:
        _end(turn, disputed, "warning_closed")
        return
    previous = {"status": disputed["status"], "is_charge_refundable": True}
    disputed["amount"] = min(disputed["amount"], left)
    disputed["status"] = "needs_response"
    disputed["is_charge_refundable"] = False
    disputed["payment_method_details"]["card"]["case_type"] = "chargeback"
    disputed["evidence_details"]["due_by"] = turn.now + turn.dials.dispute_response_s
    withdrawn = balance_transactions.of_dispute(turn, disputed)
    _put(turn, disputed)
    turn.announce("charge.dispute.updated", disputed["id"], previous)
    _add_transaction(turn, disputed, withdrawn, "charge.dispute.funds_withdrawn")


def _end(turn: Turn, disputed: Document, status: str) -> None:
    previous = {"status": disputed["status"]}
    disputed["status"] = status
    disputed["is_charge_refundable"] = status != "lost"
    _put(turn, disputed)
    turn.announce("charge.dispute.closed", disputed["id"], previous)
    if status == "won":
        reinstated = balance_transactions.of_won_dispute(turn, disputed)
        _add_transaction(turn, disputed, reinstated, "charge.dispute.funds_reinstated")


def _add_transaction(turn: Turn, disputed: Document, booked: Document, event_type: str) -> None:
    if disputed["balance_transaction"] is None:
        disputed["balance_transaction"] = booked["id"]
    disputed["balance_transactions"].append(booked)
    _put(turn, disputed)
    turn.announce(event_type, disputed["id"])


def _put(turn: Turn, disputed: Document) -> None:
    """Store a dispute, with a visit when time will decide it."""
    due_at = None
    if disputed["status"] in OPEN:
        due_at = disputed["evidence_details"]["due_by"]
    elif disputed["status"] in REVIEWED:
        decisive = {WINNING, LOSING} | ({ESCALATING} if disputed["status"] in INQUIRIES else set())
        if disputed["evidence"]["uncategorized_text"] in decisive:
            due_at = turn.now + turn.dials.dispute_decision_s
    turn.put(KIND, disputed, parent=disputed["payment_intent"], due_at=due_at)
