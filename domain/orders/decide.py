"""The order's decider: which events follow from a command, and which effects are then due.

Legal order::

    PlaceOrder -> created, screened            -> effect open_payment
    RecordPaymentOpened -> awaiting_payment    -> timer  expire
    ConfirmPayment -> paid                     -> effect book
    RecordBooking -> booked                    -> effect fulfil
    RecordFulfilment -> licensed, delivered     -> timer  forget_keys (released_key only)
    ExpireOrder -> expired                     -> effect void_payment

Payment wins over expiry: a capture that arrives after ``expired`` revives the order, because the buyer's
money is real. A command that finds its work already done returns no events: effects and webhooks repeat.
What this module refuses: a second charge, a wrong amount, a licence before Finance's acknowledgement.
Refunds and disputes are not decided here yet.
"""

from dataclasses import dataclass
from typing import assert_never

from domain import policy
from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.ids import derive_id
from domain.money import AMOUNT_MINOR_MAX, is_currency
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key
from domain.orders.events import (
    DeliveryKeyReleased,
    DeliveryKeysForgotten,
    Event,
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
from domain.orders.state import Order, Status

LINES_MAX = 50  # a cart people can read; keeps an order's events under 64 KiB
QUANTITY_MAX = 1_000  # seats per line; larger deals are negotiated, not checked out
PAYMENT_DEADLINE_S = 1_800  # long enough for 3-D Secure and a lost card, short enough to hold no price
RELEASED_KEY_TTL_S = 86_400  # a released key can be asked for during one day after delivery
DELIVERY_MODES = ("recipient", "released_key")
PAYMENT_METHODS = ("payment_intent", "checkout")


@dataclass(frozen=True, slots=True)
class Effect:
    """A durable to-do. ``(order_id, step)`` is its identity and its idempotency key.

    ``delay_s`` is how long from the commit, by the database's clock, until it is due: zero means that
    the grain runs it right after the commit and a sweep only picks it up if that grain died. ``joins``: its
    work moves nothing outside and may be done before the commit that makes it due, to join that commit.
    """

    step: str
    delay_s: int = 0
    joins: bool = False


OPEN_PAYMENT = "open_payment"
EXPIRE = "expire"
BOOK = "book"
FULFIL = "fulfil"
VOID_PAYMENT = "void_payment"
FORGET_KEYS = "forget_keys"


def decide(state: Order | None, command: c.Command) -> list[Event]:
    """Return the events that ``command`` causes; an empty list when it was done before.

    Raises:
        RejectedError: the command is wrong whatever the state.
        ConflictError: the state does not allow it now.
        NotFoundError: there is no such order.
    """
    if isinstance(command, c.PlaceOrder):
        return [] if state is not None else _place(command)
    if state is None:
        raise NotFoundError("order_not_found", "There is no such order.")
    match command:
        case c.RecordPaymentOpened():
            return _payment_opened(state, command)
        case c.RecordPaymentRefused():
            if state.status is not Status.SCREENED:
                return []
            return [OrderCancelled(command.code, command.reason, command.at)]
        case c.ConfirmPayment():
            return _confirm_payment(state, command)
        case c.RecordPaymentFailure():
            return _payment_failure(state, command)
        case c.RecordBooking():
            return _booking(state, command)
        case c.RecordFulfilment():
            return _fulfilment(state, command)
        case c.ReleaseDeliveryKey():
            return _release_key(state, command)
        case c.ExpireOrder():
            if state.status is not Status.AWAITING_PAYMENT:
                return []
            return [OrderExpired(command.at)]
        case c.RecordPaymentVoided():
            voidable = state.status is Status.EXPIRED and not state.voided
            return [PaymentVoided(command.at)] if voidable else []
        case c.ForgetKeys():
            forgettable = state.status is Status.DELIVERED and not state.keys_forgotten
            return [DeliveryKeysForgotten(command.at)] if forgettable else []
        case _ as unreachable:
            assert_never(unreachable)


def effects_after(event: Event) -> tuple[list[Effect], list[str]]:
    """Return the effects that become due with ``event`` and the steps that it completes."""
    match event:
        case OrderScreened(stage="payment", outcome="clear"):
            return [Effect(OPEN_PAYMENT)], []
        case PaymentOpened():
            return [Effect(EXPIRE, PAYMENT_DEADLINE_S)], [OPEN_PAYMENT]
        case OrderPaid():
            return [Effect(BOOK)], [OPEN_PAYMENT, EXPIRE, VOID_PAYMENT]
        case OrderBooked():
            return [Effect(FULFIL, joins=True)], [BOOK]
        case OrderDelivered():
            if event.key_ttl_s is None:
                return [], [FULFIL]
            return [Effect(FORGET_KEYS, event.key_ttl_s)], [FULFIL]
        case DeliveryKeysForgotten():
            return [], [FORGET_KEYS]
        case OrderExpired():
            return [Effect(VOID_PAYMENT)], [EXPIRE]
        case OrderCancelled():
            return [], [OPEN_PAYMENT]
        case PaymentVoided():
            return [], [VOID_PAYMENT]
        case _:
            return [], []


def licence_id(order_id: str, line_no: int) -> str:
    """Id of the one licence of a line: derived, so a repeated effect cannot make a second one."""
    return derive_id("lic", order_id, f"licence:{line_no}")


def delivery_id(order_id: str, line_no: int) -> str:
    """Id of the one delivery of a line."""
    return derive_id("dlv", order_id, f"delivery:{line_no}")


def _place(command: c.PlaceOrder) -> list[Event]:
    total_minor = _validated_total(command)
    purchase = policy.Purchase(
        buyer_id=command.buyer_id,
        seller_ids=tuple(line.seller_id for line in command.lines),
        currency=command.currency,
        total_minor=total_minor,
        country=command.country,
    )
    verdict = policy.screen(purchase)
    if verdict.outcome != "clear":
        raise RejectedError("policy_blocked", " ".join(verdict.reasons))
    return [
        OrderCreated(
            buyer_id=command.buyer_id,
            currency=command.currency,
            lines=command.lines,
            total_minor=total_minor,
            delivery=command.delivery,
            payment_method=command.payment_method,
            country=command.country,
            at=command.at,
        ),
        OrderScreened("payment", verdict.outcome, verdict.reasons, verdict.policy_version, command.at),
    ]


def _validated_total(command: c.PlaceOrder) -> int:
    if not 1 <= len(command.lines) <= LINES_MAX:
        raise RejectedError(
            "lines_out_of_range", f"An order has 1 to {LINES_MAX} lines, not {len(command.lines)}."
        )
    if not is_currency(command.currency):
        raise RejectedError("currency_unknown", f"{command.currency!r} is not an accepted ISO 4217 code.")
    for line in command.lines:
        if not 1 <= line.quantity <= QUANTITY_MAX:
            raise RejectedError(
                "quantity_out_of_range",
                f"Line {line.line_no}: the quantity must be 1 to {QUANTITY_MAX}, not {line.quantity}.",
            )
    if command.delivery.mode not in DELIVERY_MODES:
        raise RejectedError("delivery_mode_unknown", f"Delivery modes are {', '.join(DELIVERY_MODES)}.")
    if (command.delivery.recipient is not None) != (command.delivery.mode == "recipient"):
        raise RejectedError(
            "recipient_mismatch",
            "Give an age recipient with delivery mode 'recipient', and none with 'released_key'.",
        )
    if command.payment_method not in PAYMENT_METHODS:
        raise RejectedError("payment_method_unknown", f"Payment methods are {', '.join(PAYMENT_METHODS)}.")
    total_minor = sum(line.amount_minor for line in command.lines)
    if not 1 <= total_minor <= AMOUNT_MINOR_MAX:
        raise RejectedError(
            "total_out_of_range",
            f"The total must be 1 to {AMOUNT_MINOR_MAX} minor units, not {total_minor}.",
        )
    return total_minor


def _payment_opened(state: Order, command: c.RecordPaymentOpened) -> list[Event]:
    if state.status is not Status.SCREENED:
        return []
    return [PaymentOpened(command.payment_intent_id, command.checkout_session_id, command.at)]


def _confirm_payment(state: Order, command: c.ConfirmPayment) -> list[Event]:
    if state.paid_at is not None:
        if state.payment_intent_id == command.payment_intent_id:
            return []  # the same capture, told again
        raise ConflictError(
            "second_charge",
            f"Order is already paid by {state.payment_intent_id}; {command.payment_intent_id} must be "
            "returned.",
        )
    if state.status is Status.CANCELLED:
        raise ConflictError("order_cancelled", "A cancelled order was paid; the payment must be returned.")
    # A webhook can beat our own record of the PaymentIntent; Checkout only names it once it is paid.
    if state.payment_intent_id not in (None, command.payment_intent_id):
        raise RejectedError(
            "payment_intent_mismatch",
            f"Order expects {state.payment_intent_id}, the webhook names {command.payment_intent_id}.",
        )
    if (command.amount_minor, command.currency) != (state.total_minor, state.currency):
        raise RejectedError(
            "amount_mismatch",
            f"Order totals {state.total_minor} {state.currency}, Stripe captured "
            f"{command.amount_minor} {command.currency}.",
        )
    return [
        OrderPaid(
            command.payment_intent_id,
            command.stripe_event_id,
            command.amount_minor,
            command.currency,
            command.at,
        )
    ]


def _payment_failure(state: Order, command: c.RecordPaymentFailure) -> list[Event]:
    if state.status is not Status.AWAITING_PAYMENT:
        return []  # late news of an attempt that no longer matters
    if command.stripe_event_id in state.failure_event_ids:
        return []
    return [PaymentFailed(command.stripe_event_id, command.code, command.message, command.at)]


def _booking(state: Order, command: c.RecordBooking) -> list[Event]:
    if state.status is not Status.PAID:
        return []
    expected = (capture_entry_key(state.order_id), state.currency, state.total_minor)
    if (command.entry_key, command.currency, command.total_minor) != expected:
        raise RejectedError(
            "booking_mismatch",
            f"Finance acknowledged {command.total_minor} {command.currency} under {command.entry_key}, "
            f"expected {expected[2]} {expected[1]} under {expected[0]}.",
        )
    return [OrderBooked(command.entry_key, command.entry_id, command.at)]


def _fulfilment(state: Order, command: c.RecordFulfilment) -> list[Event]:
    if state.status is not Status.BOOKED:
        return []
    expected_licences = tuple(licence_id(state.order_id, line.line_no) for line in state.lines)
    expected_deliveries = tuple(delivery_id(state.order_id, line.line_no) for line in state.lines)
    if (command.licence_ids, command.delivery_ids) != (expected_licences, expected_deliveries):
        raise RejectedError("fulfilment_mismatch", "Every line takes exactly its one licence and delivery.")
    return [
        OrderLicensed(command.licence_ids, command.key_id, command.at),
        OrderDelivered(
            command.delivery_ids,
            command.at,
            RELEASED_KEY_TTL_S if state.delivery.mode == "released_key" else None,
        ),
    ]


def _release_key(state: Order, command: c.ReleaseDeliveryKey) -> list[Event]:
    if command.delivery_id not in state.delivery_ids:
        raise NotFoundError("delivery_not_found", "This order has no such delivery, or not yet.")
    if state.delivery.mode != "released_key":
        raise ConflictError(
            "delivery_has_recipient", "This delivery was encrypted to your own key; there is none to release."
        )
    if state.keys_forgotten:
        raise RejectedError("delivery_key_expired", "The time to ask for this key is over; it was destroyed.")
    if command.delivery_id in state.released_delivery_ids:
        return []
    return [DeliveryKeyReleased(command.delivery_id, command.at)]
