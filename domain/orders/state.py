"""An order's state and how each event changes it. Total: ``evolve`` never refuses a stored fact."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any

from domain.orders.events import (
    REFUND_WINDOW_S_UNGOVERNED,
    DeliveryKeyReleased,
    DeliveryKeysForgotten,
    DisputeFeeChanged,
    DisputeLost,
    DisputeUpdated,
    DisputeWon,
    Event,
    EvidencePrepared,
    EvidenceRefused,
    EvidenceSent,
    FulfilmentEnded,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
    OrderBooked,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderDisputed,
    OrderExpired,
    OrderGranted,
    OrderLicensed,
    OrderPaid,
    OrderRefunded,
    OrderScreened,
    PaymentActionRequired,
    PaymentAuthorised,
    PaymentFailed,
    PaymentOpened,
    PaymentVoided,
    RefundAccepted,
    RefundFailed,
    RefundRequested,
    ReturnBooked,
    ReviewApproved,
    ReviewRejected,
)
from domain.orders.lines import DeliveryChoice, Line
from domain.orders.returned import (
    UNDECIDED,
    Dispute,
    DisputeFee,
    DisputeStatus,
    Evidence,
    Refund,
    RefundStatus,
)
from domain.policy import REVIEW


class Status(StrEnum):
    """Where an order stands; the words that buyers see."""

    CREATED = "created"
    SCREENED = "screened"
    GRANTED = "granted"
    AWAITING_PAYMENT = "awaiting_payment"
    IN_REVIEW = "in_review"
    PAID = "paid"
    BOOKED = "booked"
    LICENSED = "licensed"
    DELIVERED = "delivered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUNDING = "refunding"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"


class ReviewStatus(StrEnum):
    """Where a flagged order's review stands; ``ended``: something else decided before a person did."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    ENDED = "ended"


# Where nothing more is to come unless somebody wants it.
TERMINAL = frozenset(
    {
        Status.DELIVERED,
        Status.EXPIRED,
        Status.CANCELLED,
        Status.REFUNDED,
        Status.DISPUTE_WON,
        Status.DISPUTE_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that a decision about an order may depend on. ``seq`` counts its events.

    ``stage`` is how far the sale itself has come, whatever was returned of it; ``status`` tells both.
    """

    order_id: str
    seq: int
    stage: Status
    buyer_id: str
    currency: str
    lines: tuple[Line, ...]
    total_minor: int
    delivery: DeliveryChoice
    payment_method: str
    country: str | None
    created_at: datetime
    updated_at: datetime
    payment_intent_id: str | None = None
    checkout_session_id: str | None = None
    refund_window_s: int = REFUND_WINDOW_S_UNGOVERNED
    payment_error: tuple[str, str] | None = None  # Stripe's code and decline code; see domain.orders.declines
    failure_event_ids: frozenset[str] = frozenset()  # Stripe tells a decline more than once
    next_action: str | None = None  # what the bank asks of the buyer, by Stripe's type
    action_event_ids: frozenset[str] = frozenset()
    flagged_for: tuple[str, ...] = ()
    review_s: int = 0
    review: ReviewStatus | None = None  # None before the payment is authorised, or without a flag
    reviewer_id: str | None = None
    authorised_at: datetime | None = None
    voids: bool = False  # it was cancelled while a payment may have been open
    voided: bool = False
    paid_at: datetime | None = None
    booked_at: datetime | None = None  # of a granted order: since when there is nothing to book
    entry_key: str | None = None
    licence_ids: tuple[str, ...] = ()
    delivery_ids: tuple[str, ...] = ()
    released_delivery_ids: frozenset[str] = frozenset()
    keys_forgotten: bool = False
    end_code: str | None = None
    end_reason: str | None = None
    refunds: tuple[Refund, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    booked_returns: frozenset[str] = frozenset()  # movements that Finance acknowledged
    suspended_lines: frozenset[int] = frozenset()
    revoked_lines: frozenset[int] = frozenset()
    discount_id: str | None = None

    @property
    def status(self) -> Status:
        """Where the order stands: its stage, unless money went back or is fought over."""
        if not self.refunds and not self.disputes:
            return self.stage
        disputes = {one.status for one in self.disputes}
        if DisputeStatus.OPEN in disputes:
            return Status.DISPUTED
        if any(one.status in UNDECIDED for one in self.refunds):
            return Status.REFUNDING
        if self.refunds and self.refunded_minor == self.total_minor:
            return Status.REFUNDED
        if DisputeStatus.LOST in disputes:
            return Status.DISPUTE_LOST
        if DisputeStatus.WON in disputes and self.stage is Status.DELIVERED:
            return Status.DISPUTE_WON
        return self.stage

    @property
    def flagged(self) -> bool:
        """Whether its payment is only authorised until a person has approved it."""
        return bool(self.flagged_for)

    @property
    def to_void(self) -> bool:
        """Whether a payment of it may still be open at Stripe and must not be."""
        ended = self.stage is Status.EXPIRED or (self.stage is Status.CANCELLED and self.voids)
        return ended and not self.voided and self.paid_at is None

    @property
    def refunded_minor(self) -> int:
        """What refunds return: asked for, under way, or done."""
        return sum(one.amount_minor for one in self.refunds if one.returns)

    @property
    def disputed_minor(self) -> int:
        """What disputes hold: open or lost."""
        return sum(one.amount_minor for one in self.disputes if one.returns)

    @property
    def returned_minor(self) -> int:
        """Never more than was captured."""
        if not self.refunds and not self.disputes:
            return 0
        return self.refunded_minor + self.disputed_minor

    def find_refund(self, refund_id: str) -> Refund | None:
        """Return a refund by our id."""
        return next((one for one in self.refunds if one.refund_id == refund_id), None)

    def find_dispute(self, dispute_id: str) -> Dispute | None:
        """Return a dispute by Stripe's id."""
        return next((one for one in self.disputes if one.dispute_id == dispute_id), None)

    def find_evidence(self, evidence_id: str) -> tuple[Dispute, Evidence] | None:
        """Return evidence by our id, with its dispute."""
        for dispute in self.disputes:
            for evidence in dispute.evidence:
                if evidence.evidence_id == evidence_id:
                    return dispute, evidence
        return None


_FIELDS = tuple(one.name for one in fields(Order))
_read_fields = attrgetter(*_FIELDS)


def evolve(order_id: str, state: Order | None, event: Event) -> Order:
    """Apply one event. The first event of an order is always ``OrderCreated``."""
    if isinstance(event, OrderCreated):
        return Order(
            order_id=order_id,
            seq=1,
            stage=Status.CREATED,
            buyer_id=event.buyer_id,
            currency=event.currency,
            lines=event.lines,
            total_minor=event.total_minor,
            delivery=event.delivery,
            payment_method=event.payment_method,
            country=event.country,
            created_at=event.at,
            updated_at=event.at,
            discount_id=event.discount_id,
            refund_window_s=event.refund_window_s,
        )
    if state is None:
        raise ValueError(f"{order_id}: {type(event).__name__} before OrderCreated")
    return Order(**{**_values(state), "seq": state.seq + 1, "updated_at": event.at, **_changes(state, event)})


def _values(state: Order) -> dict[str, Any]:
    # What dataclasses.replace does, in a sixth of its time; this runs several times per request.
    return dict(zip(_FIELDS, _read_fields(state), strict=True))


def _changes(state: Order, event: Event) -> dict[str, Any]:
    match event:
        case OrderGranted():
            return {"stage": Status.GRANTED, "booked_at": event.at}
        case OrderPaid():
            return {
                "stage": Status.PAID,
                "payment_intent_id": event.payment_intent_id,
                "payment_error": None,
                "next_action": None,
                "paid_at": event.at,
                "end_code": None,  # a payment that won against expiry revives the order
                "end_reason": None,
            }
        case OrderBooked():
            return {"stage": Status.BOOKED, "entry_key": event.entry_key, "booked_at": event.at}
        case OrderLicensed():
            return {"stage": Status.LICENSED, "licence_ids": event.licence_ids}
        case OrderDelivered():
            return {"stage": Status.DELIVERED, "delivery_ids": event.delivery_ids}
        case DeliveryKeyReleased():
            return {"released_delivery_ids": state.released_delivery_ids | {event.delivery_id}}
        case DeliveryKeysForgotten():
            return {"keys_forgotten": True}
        case OrderCreated():
            raise ValueError(f"{state.order_id}: created twice")
        case _:
            found = _before_payment(state, event)
            return _returns(state, event) if found is None else found


def _before_payment(state: Order, event: Event) -> dict[str, Any] | None:
    match event:
        case OrderScreened():
            if event.stage != "payment":
                return {}
            flagged_for = event.reasons if event.outcome == REVIEW else ()
            return {"stage": Status.SCREENED, "flagged_for": flagged_for, "review_s": event.review_s}
        case PaymentOpened():
            return {
                "stage": Status.AWAITING_PAYMENT,
                "payment_intent_id": event.payment_intent_id,
                "checkout_session_id": event.checkout_session_id,
            }
        case PaymentFailed():
            return {
                "payment_error": (event.code, event.decline_code),
                "failure_event_ids": state.failure_event_ids | {event.stripe_event_id},
                "next_action": None,
            }
        case PaymentActionRequired():
            return {
                "next_action": event.action,
                "action_event_ids": state.action_event_ids | {event.stripe_event_id},
            }
        case PaymentAuthorised():
            return {
                "stage": Status.IN_REVIEW,
                "payment_intent_id": event.payment_intent_id,
                "payment_error": None,
                "next_action": None,
                "review": ReviewStatus.OPEN,
                "authorised_at": event.at,
            }
        case ReviewApproved():
            return {"review": ReviewStatus.APPROVED, "reviewer_id": event.reviewer_id}
        case ReviewRejected():
            return {"review": ReviewStatus.REJECTED, "reviewer_id": event.reviewer_id}
        case OrderExpired():
            return {"stage": Status.EXPIRED, "end_code": "payment_expired", "next_action": None}
        case OrderCancelled():
            return {
                "stage": Status.CANCELLED,
                "end_code": event.code,
                "end_reason": event.reason,
                "voids": event.voids,
                "next_action": None,
                "review": ReviewStatus.ENDED if state.review is ReviewStatus.OPEN else state.review,
            }
        case PaymentVoided():
            return {"voided": True}
        case _:
            return None


def _returns(state: Order, event: Event) -> dict[str, Any]:
    match event:
        case RefundRequested():
            refund = Refund(
                event.refund_id,
                event.shares,
                event.origin,
                event.requested_by,
                event.reason,
                event.request_digest,
                event.at,
            )
            return {"refunds": (*state.refunds, refund)}
        case RefundAccepted() | OrderRefunded() | RefundFailed():
            return {"refunds": _refunds(state, event)}
        case OrderDisputed():
            fees = (DisputeFee("", event.fee_minor, event.at),) if event.fee_minor else ()
            dispute = Dispute(
                event.dispute_id, event.shares, event.reason, event.stage, event.at, fees, due_by=event.due_by
            )
            return {"disputes": (*state.disputes, dispute)}
        case DisputeUpdated() | DisputeFeeChanged() | DisputeWon() | DisputeLost():
            return {"disputes": _disputes(state, event)}
        case EvidencePrepared() | EvidenceSent() | EvidenceRefused():
            return {"disputes": _with_evidence(state, event)}
        case ReturnBooked():
            return {"booked_returns": state.booked_returns | {event.movement}}
        case LicencesSuspended():
            return {"suspended_lines": state.suspended_lines | set(event.line_nos)}
        case LicencesRestored():
            return {"suspended_lines": state.suspended_lines - set(event.line_nos)}
        case LicencesRevoked():
            line_nos = set(event.line_nos)
            return {
                "suspended_lines": state.suspended_lines - line_nos,
                "revoked_lines": state.revoked_lines | line_nos,
            }
        case FulfilmentEnded():
            return {"stage": Status.CANCELLED, "end_code": "returned_before_delivery"}
        case _:
            raise AssertionError(f"{type(event).__name__} changes nothing")


def _refunds(state: Order, event: RefundAccepted | OrderRefunded | RefundFailed) -> tuple[Refund, ...]:
    def changed(refund: Refund) -> Refund:
        match event:
            case RefundAccepted():
                return replace(
                    refund,
                    status=RefundStatus.PENDING,
                    stripe_refund_id=event.stripe_refund_id,
                    accepted_at=event.at,
                    ended_at=None,
                    failure=None,
                    shares=refund.shares if event.shares is None else event.shares,
                )
            case OrderRefunded():
                return replace(refund, status=RefundStatus.SUCCEEDED, ended_at=event.at)
            case RefundFailed():
                return replace(
                    refund,
                    status=RefundStatus.FAILED,
                    stripe_refund_id=event.stripe_refund_id,
                    ended_at=event.at,
                    failure=(event.code, event.reason),
                )

    return tuple(changed(one) if one.refund_id == event.refund_id else one for one in state.refunds)


def _disputes(
    state: Order, event: DisputeUpdated | DisputeFeeChanged | DisputeWon | DisputeLost
) -> tuple[Dispute, ...]:
    def changed(dispute: Dispute) -> Dispute:
        match event:
            case DisputeUpdated():
                fees = dispute.fees
                if event.fee_added:
                    fees = (*fees, DisputeFee("", event.fee_minor, event.at))
                return replace(dispute, stage=event.stage, fees=fees, due_by=event.due_by or dispute.due_by)
            case DisputeFeeChanged():
                fee = DisputeFee(event.transaction_id, event.amount_minor, event.at)
                return replace(dispute, fees=(*dispute.fees, fee))
            case DisputeWon():
                return replace(dispute, status=DisputeStatus.WON, stage="won", closed_at=event.at)
            case DisputeLost():
                return replace(dispute, status=DisputeStatus.LOST, stage="lost", closed_at=event.at)

    return tuple(changed(one) if one.dispute_id == event.dispute_id else one for one in state.disputes)


def _with_evidence(
    state: Order, event: EvidencePrepared | EvidenceSent | EvidenceRefused
) -> tuple[Dispute, ...]:
    def changed(evidence: Evidence) -> Evidence:
        if evidence.evidence_id != event.evidence_id:
            return evidence
        if isinstance(event, EvidenceRefused):
            return replace(evidence, failure=(event.code, event.reason))
        return replace(evidence, sent_at=event.at)

    def in_dispute(dispute: Dispute) -> Dispute:
        if dispute.dispute_id != event.dispute_id:
            return dispute
        if isinstance(event, EvidencePrepared):
            prepared = Evidence(
                event.evidence_id,
                event.texts,
                event.submit,
                event.prepared_by,
                event.request_digest,
                event.at,
            )
            return replace(dispute, evidence=(*dispute.evidence, prepared))
        return replace(dispute, evidence=tuple(changed(one) for one in dispute.evidence))

    return tuple(in_dispute(one) for one in state.disputes)


def fold(order_id: str, events: Iterable[Event]) -> Order | None:
    """Rebuild the state from the order's history, oldest first; None for no history."""
    state: Order | None = None
    for event in events:
        state = evolve(order_id, state, event)
    return state
