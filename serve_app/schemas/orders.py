"""Bodies of orders: carts, orders, progress events, deliveries.

``client_secret`` and ``checkout_url`` let whoever has them pay: they are shown to the buyer alone, and
only while the order waits for payment.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.orders.decide import licence_id
from domain.orders.declines import advice
from domain.orders.events import (
    DeliveryKeyReleased,
    DisputeFeeChanged,
    DisputeLost,
    DisputeUpdated,
    DisputeWon,
    Event,
    EvidenceSent,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderDisputed,
    OrderLicensed,
    OrderPaid,
    OrderRefunded,
    OrderScreened,
    PaymentActionRequired,
    PaymentAuthorised,
    PaymentFailed,
    PaymentOpened,
    RefundAccepted,
    RefundFailed,
    RefundRequested,
)
from domain.orders.payments import attempts_left
from domain.orders.state import Order as OrderState
from domain.orders.state import ReviewStatus, Status
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.quotes import Cart, QuotedLine, Word, line_document, sums
from serve_app.schemas.refunds import Dispute, Refund, dispute_document, refund_document
from storage.market.order_store import OrderSummary as OrderSummaryRow

RECIPIENT_CHARS_MAX = 128  # age1… has 62 characters


class DeliveryChoice(Request):
    """``recipient`` with your age key, or ``released_key`` for a key that we release once paid."""

    mode: Word
    recipient: Annotated[str, Field(max_length=RECIPIENT_CHARS_MAX)] | None = None


class NewOrder(Cart):
    """A cart, how it is delivered, and how it is paid (which one that costs nothing is not)."""

    delivery: DeliveryChoice
    payment_method: Word = "payment_intent"


class NoBody(Request):
    """An empty object."""


LicenceStatus = Literal["active", "suspended", "revoked"]


class OrderLine(QuotedLine):
    """A line as bought; its licence and delivery once they exist."""

    licence_id: str | None
    licence_status: LicenceStatus | None = Field(description="None before there is a licence, or without one")
    delivery_id: str | None


class ChosenDelivery(Document):
    """How the order is delivered."""

    mode: str
    recipient: str | None


class PaymentFault(Document):
    """Why the last attempt to pay failed, and what to do; ``decline_code`` where it may be told."""

    code: str
    decline_code: str | None
    message: str


class NextAction(Document):
    """What the buyer's bank asks for. ``type`` is Stripe's; finish it with Stripe by the client secret."""

    type: str
    message: str


class Review(Document):
    """Why a person looks at the order before money is taken, and until when (as far as known)."""

    status: ReviewStatus | None = Field(description="None until the payment is authorised")
    reasons: list[str]
    authorised_at: str | None
    decide_by: str | None


class Payment(Document):
    """How the order is paid. ``attempts_left``: attempts that may still fail before the order ends."""

    method: str
    provider: str
    payment_intent_id: str | None
    checkout_session_id: str | None
    client_secret: str | None
    checkout_url: str | None
    publishable_key: str
    error: PaymentFault | None
    next_action: NextAction | None
    attempts_left: int


class End(Document):
    """Why the order ended without delivery."""

    code: str
    reason: str | None


class Order(Document):
    """An order."""

    id: str
    status: Status
    buyer_id: str
    currency: str
    discount_minor: int
    tax_minor: int
    total_minor: int
    lines: list[OrderLine]
    delivery: ChosenDelivery
    country: str | None
    payment: Payment
    review: Review | None
    end: End | None
    refunded_minor: int = Field(description="By refunds asked for, under way or done")
    refunds: list[Refund]
    disputes: list[Dispute]
    created_at: str
    updated_at: str
    seq: int


class OrderSummary(Document):
    """An order in a list."""

    id: str
    status: Status
    currency: str
    total_minor: int
    created_at: str
    updated_at: str


class OrderPage(Document):
    """The buyer's orders, newest first."""

    items: list[OrderSummary]
    next_cursor: str | None


class OrderEvent(BaseModel):
    """One event; further public members depend on its kind."""

    model_config = ConfigDict(extra="allow")

    order_id: str
    seq: int
    kind: str
    at: str
    status: Status


class OrderEvents(Document):
    """All events of an order so far."""

    items: list[OrderEvent]


def order_document(
    order: OrderState, handle: Mapping[str, str] | None, publishable_key: str, *, for_buyer: bool
) -> dict[str, Any]:
    """Write an ``Order``; ``handle`` is what the buyer needs to pay."""
    shown = handle if handle and for_buyer and order.status is Status.AWAITING_PAYMENT else {}
    licence_of, delivery_of = _held(order)
    end = None if order.end_code is None else {"code": order.end_code, "reason": order.end_reason}
    return {
        "id": order.order_id,
        "status": order.status.value,
        "buyer_id": order.buyer_id,
        "currency": order.currency,
        **sums(order.lines),
        "total_minor": order.total_minor,
        "lines": [
            {
                **line_document(line),
                "licence_id": licence_of.get(line.line_no),
                "licence_status": _standing(order, line.line_no) if line.line_no in licence_of else None,
                "delivery_id": delivery_of.get(line.line_no),
            }
            for line in order.lines
        ],
        "delivery": {"mode": order.delivery.mode, "recipient": order.delivery.recipient},
        "country": order.country,
        "payment": {
            "method": order.payment_method,
            "provider": "stripe",
            "payment_intent_id": order.payment_intent_id,
            "checkout_session_id": order.checkout_session_id,
            "client_secret": shown.get("client_secret"),
            "checkout_url": shown.get("checkout_url"),
            "publishable_key": publishable_key,
            "error": None if order.payment_error is None else _fault(*order.payment_error),
            "next_action": None if order.next_action is None else _next_action(order.next_action),
            "attempts_left": attempts_left(order),
        },
        "review": _review(order) if order.flagged else None,
        "end": end,
        "refunded_minor": order.refunded_minor,
        "refunds": [refund_document(one, order.currency) for one in order.refunds],
        "disputes": [dispute_document(one, order.currency) for one in order.disputes],
        "created_at": rfc3339(order.created_at),
        "updated_at": rfc3339(order.updated_at),
        "seq": order.seq,
    }


def _fault(code: str, decline_code: str) -> dict[str, Any]:
    told = advice(code, decline_code)
    return {"code": told.code, "decline_code": told.decline_code, "message": told.message}


def _next_action(action: str) -> dict[str, Any]:
    return {"type": action, "message": "Your bank asks you to confirm the payment. Go on at Stripe."}


def _review(order: OrderState) -> dict[str, Any]:
    at = order.authorised_at
    return {
        "status": None if order.review is None else order.review.value,
        "reasons": list(order.flagged_for),
        "authorised_at": None if at is None else rfc3339(at),
        "decide_by": None if at is None else rfc3339(at + timedelta(seconds=order.review_s)),
    }


def _held(order: OrderState) -> tuple[Mapping[int, str], Mapping[int, str]]:
    """Return the licence and the delivery of each line that has them: one returned early has none."""
    if len(order.licence_ids) == len(order.lines):
        line_nos = [line.line_no for line in order.lines]
    else:
        issued = set(order.licence_ids)
        line_nos = [
            line.line_no for line in order.lines if licence_id(order.order_id, line.line_no) in issued
        ]
    return (
        dict(zip(line_nos, order.licence_ids, strict=False)),
        dict(zip(line_nos, order.delivery_ids, strict=False)),
    )


def _standing(order: OrderState, line_no: int) -> str:
    if line_no in order.revoked_lines:
        return "revoked"
    return "suspended" if line_no in order.suspended_lines else "active"


def summary_document(row: OrderSummaryRow) -> dict[str, Any]:
    """Write an ``OrderSummary``."""
    return {
        "id": row.order_id,
        "status": row.status,
        "currency": row.currency,
        "total_minor": row.total_minor,
        "created_at": rfc3339(row.created_at),
        "updated_at": rfc3339(row.updated_at),
    }


def event_document(order: OrderState, kind: str, event: Event) -> dict[str, Any]:
    """Write an ``OrderEvent``; ``order`` is the state right after it."""
    return {
        "order_id": order.order_id,
        "seq": order.seq,
        "kind": kind,
        "at": rfc3339(event.at),
        "status": order.status.value,
        **_public_data(event),
    }


# Kinds whose stored data a buyer may see whole, as the audit log's proof shows it. Of every other one
# ``_public_data`` leaves something out: who decided and why, what the bank said or is told, who earns what.
SHOWN_WHOLE = frozenset(
    {
        "order.granted",
        "order.paid",
        "order.licensed",
        "order.delivered",
        "order.delivery_key_released",
        "order.delivery_keys_forgotten",
        "order.expired",
        "order.payment_voided",
        "order.refunded",
        "order.fulfilment_ended",
        "order.licence_restored",
    }
)


def _public_data(event: Event) -> dict[str, Any]:
    """What a buyer may see of an event: listed here or not shown."""
    match event:
        case OrderCreated():
            return {"currency": event.currency, "total_minor": event.total_minor, "lines": len(event.lines)}
        case OrderScreened():
            return {"stage": event.stage, "outcome": event.outcome, "reasons": list(event.reasons)}
        case PaymentOpened():
            return {
                "payment_intent_id": event.payment_intent_id,
                "checkout_session_id": event.checkout_session_id,
            }
        case PaymentFailed():
            return _fault(event.code, event.decline_code)
        case PaymentActionRequired():
            return {"next_action": _next_action(event.action)}
        case OrderPaid() | PaymentAuthorised():
            return {
                "payment_intent_id": event.payment_intent_id,
                "amount_minor": event.amount_minor,
                "currency": event.currency,
            }
        case OrderLicensed():
            return {"licence_ids": list(event.licence_ids), "key_id": event.key_id}
        case OrderDelivered():
            return {"delivery_ids": list(event.delivery_ids)}
        case DeliveryKeyReleased():
            return {"delivery_id": event.delivery_id}
        case OrderCancelled():
            return {"code": event.code, "reason": event.reason}
        case _:
            return _public_return(event)


def _public_return(event: Event) -> dict[str, Any]:
    match event:
        case RefundRequested():
            amount_minor = sum(share.amount_minor for share in event.shares)
            return {"refund_id": event.refund_id, "amount_minor": amount_minor, "origin": event.origin}
        case RefundAccepted() | OrderRefunded():
            return {"refund_id": event.refund_id}
        case RefundFailed():
            return {"refund_id": event.refund_id, "code": event.code, "reason": event.reason}
        case OrderDisputed():
            amount_minor = sum(share.amount_minor for share in event.shares)
            return {"dispute_id": event.dispute_id, "amount_minor": amount_minor, "reason": event.reason}
        case DisputeUpdated():
            return {"dispute_id": event.dispute_id, "stage": event.stage}
        case DisputeFeeChanged() | DisputeWon() | DisputeLost():
            return {"dispute_id": event.dispute_id}
        case EvidenceSent():
            return {"dispute_id": event.dispute_id, "submitted": event.submitted}
        case LicencesSuspended() | LicencesRestored() | LicencesRevoked():
            return {"line_nos": list(event.line_nos)}
        case _:
            return {}
