"""An order's state and how each event changes it. Total: ``evolve`` never refuses a stored fact."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any

from domain.orders.events import (
    DeliveryChoice,
    DeliveryKeyReleased,
    DeliveryKeysForgotten,
    Event,
    Line,
    OrderBooked,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderExpired,
    OrderLicensed,
    OrderPaid,
    OrderScreened,
    PaymentFailed,
    PaymentOpened,
    PaymentVoided,
)


class Status(StrEnum):
    """Where an order stands; the words that buyers see."""

    CREATED = "created"
    SCREENED = "screened"
    AWAITING_PAYMENT = "awaiting_payment"
    PAID = "paid"
    BOOKED = "booked"
    LICENSED = "licensed"
    DELIVERED = "delivered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.DELIVERED, Status.EXPIRED, Status.CANCELLED})


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that a decision about an order may depend on. ``seq`` counts its events."""

    order_id: str
    seq: int
    status: Status
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
    payment_error: tuple[str, str] | None = None
    failure_event_ids: frozenset[str] = frozenset()  # Stripe tells a decline more than once
    voided: bool = False
    paid_at: datetime | None = None
    booked_at: datetime | None = None
    entry_key: str | None = None
    licence_ids: tuple[str, ...] = ()
    delivery_ids: tuple[str, ...] = ()
    released_delivery_ids: frozenset[str] = frozenset()
    keys_forgotten: bool = False
    end_code: str | None = None
    end_reason: str | None = None


_FIELDS = tuple(one.name for one in fields(Order))
_read_fields = attrgetter(*_FIELDS)


def evolve(order_id: str, state: Order | None, event: Event) -> Order:
    """Apply one event. The first event of an order is always ``OrderCreated``."""
    if isinstance(event, OrderCreated):
        return Order(
            order_id=order_id,
            seq=1,
            status=Status.CREATED,
            buyer_id=event.buyer_id,
            currency=event.currency,
            lines=event.lines,
            total_minor=event.total_minor,
            delivery=event.delivery,
            payment_method=event.payment_method,
            country=event.country,
            created_at=event.at,
            updated_at=event.at,
        )
    if state is None:
        raise ValueError(f"{order_id}: {type(event).__name__} before OrderCreated")
    return Order(**{**_values(state), "seq": state.seq + 1, "updated_at": event.at, **_changes(state, event)})


def _values(state: Order) -> dict[str, Any]:
    # What dataclasses.replace does, in a sixth of its time; this runs several times per request.
    return dict(zip(_FIELDS, _read_fields(state), strict=True))


def _changes(state: Order, event: Event) -> dict[str, Any]:
    match event:
        case OrderScreened():
            return {"status": Status.SCREENED} if event.stage == "payment" else {}
        case PaymentOpened():
            return {
                "status": Status.AWAITING_PAYMENT,
                "payment_intent_id": event.payment_intent_id,
                "checkout_session_id": event.checkout_session_id,
            }
        case PaymentFailed():
            return {
                "payment_error": (event.code, event.message),
                "failure_event_ids": state.failure_event_ids | {event.stripe_event_id},
            }
        case OrderPaid():
            return {
                "status": Status.PAID,
                "payment_intent_id": event.payment_intent_id,
                "payment_error": None,
                "paid_at": event.at,
                "end_code": None,  # a payment that won against expiry revives the order
                "end_reason": None,
            }
        case OrderBooked():
            return {"status": Status.BOOKED, "entry_key": event.entry_key, "booked_at": event.at}
        case OrderLicensed():
            return {"status": Status.LICENSED, "licence_ids": event.licence_ids}
        case OrderDelivered():
            return {"status": Status.DELIVERED, "delivery_ids": event.delivery_ids}
        case DeliveryKeyReleased():
            return {"released_delivery_ids": state.released_delivery_ids | {event.delivery_id}}
        case DeliveryKeysForgotten():
            return {"keys_forgotten": True}
        case OrderExpired():
            return {"status": Status.EXPIRED, "end_code": "payment_expired"}
        case OrderCancelled():
            return {"status": Status.CANCELLED, "end_code": event.code, "end_reason": event.reason}
        case PaymentVoided():
            return {"voided": True}
        case OrderCreated():
            raise ValueError(f"{state.order_id}: created twice")


def fold(order_id: str, events: Iterable[Event]) -> Order | None:
    """Rebuild the state from the order's history, oldest first; None for no history."""
    state: Order | None = None
    for event in events:
        state = evolve(order_id, state, event)
    return state
