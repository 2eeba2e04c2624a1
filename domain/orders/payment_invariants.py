"""What must hold of an order before it is paid, whoever stored it: reviews and attempts (I1, I2, I12).

A part of ``domain.orders.invariants``, which gathers the facts. It is held apart from the decider on purpose:
whether a capture was allowed is derived here once more, from the sequence of events alone.
"""

from collections.abc import Iterator, Sequence

from domain.orders.events import (
    KIND_OF,
    Event,
    OrderCancelled,
    OrderPaid,
    OrderScreened,
    PaymentAuthorised,
    PaymentFailed,
    ReviewApproved,
    ReviewRejected,
)
from domain.orders.payments import PAYMENT_ATTEMPTS_MAX
from domain.orders.state import Order
from domain.policy import REVIEW

Found = Iterator[tuple[str, str]]
_ONCE = (PaymentAuthorised, ReviewApproved, ReviewRejected)


def check_before_payment(order: Order, events: Sequence[Event]) -> Found:
    """Check what happened between screening and payment."""
    declined = sum(isinstance(event, PaymentFailed) for event in events)
    if declined > PAYMENT_ATTEMPTS_MAX:
        yield "I2", f"{declined} attempts to pay were declined; {PAYMENT_ATTEMPTS_MAX} may be"
    reviewed = [event for event in events if isinstance(event, _ONCE)]
    flagged = any(isinstance(event, OrderScreened) and event.outcome == REVIEW for event in events)
    if not flagged:
        for one in reviewed:
            yield "I12", f"{KIND_OF[type(one)]} of an order that was not flagged"
        return
    yield from _decided_once(reviewed)
    approved = rejected = False
    for event in events:
        match event:
            case PaymentAuthorised():
                if (event.amount_minor, event.currency) != (order.total_minor, order.currency):
                    total = f"{order.total_minor} {order.currency}"
                    yield (
                        "I1",
                        f"{event.amount_minor} {event.currency} were authorised for a total of {total}",
                    )
            case ReviewApproved():
                approved = True
            case ReviewRejected():
                rejected = True
            case OrderPaid():
                if rejected:
                    yield "I1", "was captured after a review had rejected it"
                elif not approved:
                    yield "I1", "is flagged, and was captured though no review had approved it"
            case _:
                pass
    if rejected and not any(isinstance(event, OrderCancelled) for event in events):
        yield "I9", "was rejected, and is not cancelled"


def _decided_once(reviewed: Sequence[Event]) -> Found:
    kinds = [type(event) for event in reviewed]
    for kind in _ONCE:
        if kinds.count(kind) > 1:
            yield "I12", f"has {kinds.count(kind)} events {KIND_OF[kind]}"
    if ReviewApproved in kinds and ReviewRejected in kinds:
        yield "I12", "was both approved and rejected"
    if kinds and kinds[0] is not PaymentAuthorised:
        yield "I12", "was reviewed before its payment was authorised"
