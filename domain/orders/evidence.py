"""Evidence in a dispute: what an operator sends to the buyer's bank, and when it may still be sent.

    PrepareEvidence -> evidence_prepared             -> effect evidence:<id>
    RecordEvidence -> evidence_sent                  (submitted: the dispute is then under review)
    RecordEvidenceRefused -> evidence_refused

Drafts may be sent any number of times, up to ``EVIDENCE_MAX``; what is submitted is final, so it is
submitted once, and only while Stripe still waits for it. What the order itself can say is written in
``evidence_texts``.
"""

from typing import assert_never

from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.orders import commands as c
from domain.orders.events import DisputeUpdated, Event, EvidencePrepared, EvidenceRefused, EvidenceSent
from domain.orders.returned import Dispute, DisputeStatus, Evidence
from domain.orders.state import Order

EVIDENCE_MAX = 20  # of one dispute: drafts are cheap, histories are not
UNDER_REVIEW = "under_review"  # Stripe's word for an open dispute whose evidence is in


def decide(state: Order, command: c.EvidenceCommand) -> list[Event]:
    """Return the events that ``command`` causes, none when it was done before; raises as ``prepare``."""
    match command:
        case c.PrepareEvidence():
            return prepare(state, command)
        case c.RecordEvidence():
            return record(state, command)
        case c.RecordEvidenceRefused():
            return record_refusal(state, command)
        case _ as unreachable:
            assert_never(unreachable)


def prepare(state: Order, command: c.PrepareEvidence) -> list[Event]:
    """Decide on evidence that an operator wants to send.

    Raises:
        NotFoundError: ``dispute_not_found``.
        ConflictError: ``dispute_closed``, ``evidence_submitted``, ``evidence_late`` or ``evidence_full``.
        RejectedError: ``idempotency_key_reused``.
    """
    known = state.find_evidence(command.evidence_id)
    if known is not None:
        if known[1].request_digest != command.request_digest:
            raise RejectedError(
                "idempotency_key_reused",
                "This Idempotency-Key was used with another request. Use a new key for a new request.",
            )
        return []
    dispute = state.find_dispute(command.dispute_id)
    if dispute is None:
        raise NotFoundError("dispute_not_found", "The order has no such dispute.")
    if dispute.status is not DisputeStatus.OPEN:
        raise ConflictError("dispute_closed", f"The dispute was {dispute.status}: evidence changes nothing.")
    if dispute.stage == UNDER_REVIEW or any(one.submit and one.failure is None for one in dispute.evidence):
        raise ConflictError("evidence_submitted", "Evidence was submitted already, which can be done once.")
    if dispute.due_by is not None and command.at > dispute.due_by:
        raise ConflictError(
            "evidence_late",
            f"Evidence could be sent until {dispute.due_by.isoformat()}. The bank decides now.",
        )
    # What is submitted may be refused and sent again: it has as much room of its own.
    if len(dispute.evidence) >= (2 * EVIDENCE_MAX if command.submit else EVIDENCE_MAX):
        raise ConflictError("evidence_full", f"A dispute takes {EVIDENCE_MAX} drafts. Submit the last one.")
    return [
        EvidencePrepared(
            command.dispute_id,
            command.evidence_id,
            command.texts,
            command.submit,
            command.prepared_by,
            command.request_digest,
            command.at,
        )
    ]


def record(state: Order, command: c.RecordEvidence) -> list[Event]:
    """Record that Stripe has the evidence."""
    dispute, evidence = _require(state, command.evidence_id)
    if evidence.sent_at is not None or evidence.failure is not None:
        return []
    events: list[Event] = [
        EvidenceSent(dispute.dispute_id, evidence.evidence_id, evidence.submit, command.at)
    ]
    open_now = dispute.status is DisputeStatus.OPEN
    if open_now and dispute.stage != UNDER_REVIEW and command.status == UNDER_REVIEW:
        # What its webhook will tell again.
        events.append(DisputeUpdated(dispute.dispute_id, UNDER_REVIEW, command.at, dispute.due_by))
    return events


def record_refusal(state: Order, command: c.RecordEvidenceRefused) -> list[Event]:
    """Record that Stripe does not take the evidence, whatever we repeat."""
    dispute, evidence = _require(state, command.evidence_id)
    if evidence.sent_at is not None or evidence.failure is not None:
        return []
    return [
        EvidenceRefused(dispute.dispute_id, evidence.evidence_id, command.code, command.reason, command.at)
    ]


def _require(state: Order, evidence_id: str) -> tuple[Dispute, Evidence]:
    found = state.find_evidence(evidence_id)
    if found is None:
        raise RejectedError("evidence_unknown", f"{state.order_id} has no evidence {evidence_id}.")
    return found
