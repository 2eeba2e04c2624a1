"""Bodies of open disputes and of evidence, for operators."""

from typing import Annotated, Any, Literal

from pydantic import Field

from domain.orders.returned import Dispute as DisputeState
from domain.orders.returned import Evidence as EvidenceState
from domain.orders.state import Order
from serve_app.schemas.base import Document, Request, rfc3339

TEXT_CHARS_MAX = 15_000  # with what the order adds within Stripe's 20,000 characters of one text


class NewEvidence(Request):
    """The operator's words, beside what the order says by itself. ``submit`` makes it final."""

    text: Annotated[str, Field(max_length=TEXT_CHARS_MAX)] = ""
    submit: bool = False


class EvidenceSent(Document):
    """Evidence on record. ``texts`` are by Stripe's names."""

    id: str
    dispute_id: str
    state: Literal["sending", "draft", "submitted", "refused"]
    submit: bool
    texts: dict[str, str]
    due_by: str | None
    prepared_at: str
    sent_at: str | None
    failure: str | None


class OpenDispute(Document):
    """An open dispute. ``due_by`` is until when evidence can be sent."""

    id: str
    order_id: str
    stage: str
    amount_minor: int
    currency: str
    fee_minor: int
    reason: str
    opened_at: str
    due_by: str | None
    evidence_submitted: bool
    drafts: int


class OpenDisputePage(Document):
    """Open disputes, the one opened last first."""

    items: list[OpenDispute]
    next_cursor: str | None


def evidence_document(dispute: DisputeState, evidence: EvidenceState) -> dict[str, Any]:
    """Write ``EvidenceSent``."""
    state = "sending"
    if evidence.failure is not None:
        state = "refused"
    elif evidence.sent_at is not None:
        state = "submitted" if evidence.submit else "draft"
    return {
        "id": evidence.evidence_id,
        "dispute_id": dispute.dispute_id,
        "state": state,
        "submit": evidence.submit,
        "texts": dict(evidence.texts),
        "due_by": None if dispute.due_by is None else rfc3339(dispute.due_by),
        "prepared_at": rfc3339(evidence.prepared_at),
        "sent_at": None if evidence.sent_at is None else rfc3339(evidence.sent_at),
        "failure": None if evidence.failure is None else evidence.failure[1],
    }


def open_dispute_document(order: Order, dispute: DisputeState) -> dict[str, Any]:
    """Write an ``OpenDispute``."""
    standing = [one for one in dispute.evidence if one.failure is None]
    return {
        "id": dispute.dispute_id,
        "order_id": order.order_id,
        "stage": dispute.stage,
        "amount_minor": dispute.amount_minor,
        "currency": order.currency,
        "fee_minor": dispute.fee_minor,
        "reason": dispute.reason,
        "opened_at": rfc3339(dispute.opened_at),
        "due_by": None if dispute.due_by is None else rfc3339(dispute.due_by),
        "evidence_submitted": any(one.submit for one in standing),
        "drafts": sum(not one.submit for one in standing),
    }
