"""The order's decider: which events follow from a command, and which effects are then due.

Legal order::

    PlaceOrder -> created, screened            -> effect open_payment
               -> created, screened, granted   -> effect fulfil, of an order that costs nothing
    ConfirmPayment -> paid                     -> effect book
    RecordBooking -> booked                    -> effect fulfil
    RecordFulfilment -> licensed, delivered     -> timer  forget_keys (released_key only)

A command that finds its work already done returns no events: effects and webhooks repeat. What happens
between ``screened`` and ``paid`` is decided in ``payments``, what goes back afterwards in ``returns``. What
this module refuses: a licence before Finance's acknowledgement. A line that is returned before it was
licensed gets no licence: fulfilment waits while a line is suspended, and leaves out what was revoked.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from domain import policy
from domain.errors import ConflictError, DependencyError, NotFoundError, RejectedError
from domain.ids import derive_id
from domain.money import AMOUNT_MINOR_MAX, is_currency, smallest_step
from domain.orders import commands as c
from domain.orders import payments, returns
from domain.orders.booking import (
    DISPUTE,
    DISPUTE_FEE,
    DISPUTE_WON,
    REFUND,
    REFUND_REVERSAL,
    capture_entry_key,
    fee_of_dispute,
)
from domain.orders.events import (
    DeliveryKeyReleased,
    DeliveryKeysForgotten,
    DisputeFeeChanged,
    DisputeUpdated,
    DisputeWon,
    Event,
    EvidencePrepared,
    EvidenceRefused,
    EvidenceSent,
    FulfilmentEnded,
    OrderBooked,
    OrderCancelled,
    OrderCreated,
    OrderDelivered,
    OrderDisputed,
    OrderExpired,
    OrderGranted,
    OrderLicensed,
    OrderPaid,
    OrderScreened,
    PaymentAuthorised,
    PaymentOpened,
    PaymentVoided,
    RefundAccepted,
    RefundFailed,
    RefundRequested,
    ReturnBooked,
    ReviewApproved,
)
from domain.orders.lines import Line
from domain.orders.parts import is_sound, parts_of_line
from domain.orders.state import Order, Status

LINES_MAX = 50  # a cart people can read; keeps an order's events under 64 KiB
QUANTITY_MAX = 1_000  # seats per line; larger deals are negotiated, not checked out
FREE_QUANTITY_MAX = 10  # seats per line of an order that costs nothing: each is a licence that we sign
POSTINGS_MAX = 200  # of one entry at Finance: accounts that the lines' parts go to, and clearing
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
END_REVIEW = "end_review"
CAPTURE_PAYMENT = "capture_payment"
BOOK = "book"
FULFIL = "fulfil"
VOID_PAYMENT = "void_payment"
FORGET_KEYS = "forget_keys"
# Steps of which an order may have many: ``refund:<refund>``, ``evidence:<evidence>``, ``book:<movement>``.
REFUND_STEP = "refund"
EVIDENCE_STEP = "evidence"
BOOK_RETURN = "book"


def step_kind(step: str) -> str:
    """Return a step without what it is about: lanes and effects are chosen by it."""
    return step.partition(":")[0]


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
        case c.RecordBooking():
            return _booking(state, command)
        case c.RecordFulfilment():
            return _fulfilment(state, command)
        case c.ReleaseDeliveryKey():
            return _release_key(state, command)
        case c.ForgetKeys():
            forgettable = state.stage is Status.DELIVERED and not state.keys_forgotten
            return [DeliveryKeysForgotten(command.at)] if forgettable else []
        case (
            c.RequestRefund()
            | c.RecordRefund()
            | c.RecordRefundRefused()
            | c.NoticeRefund()
            | c.NoticeDispute()
            | c.RecordReturnBooked()
            | c.PrepareEvidence()
            | c.RecordEvidence()
            | c.RecordEvidenceRefused()
        ):
            return returns.decide(state, command)
        case _:
            return payments.decide(state, command)


def effects_after(event: Event) -> tuple[list[Effect], list[str]]:
    """Return the effects that become due with ``event`` and the steps that it completes."""
    match event:
        case OrderScreened(stage="payment"):
            return [Effect(OPEN_PAYMENT)], []
        case OrderGranted():
            return [Effect(FULFIL, joins=True)], [OPEN_PAYMENT]
        case OrderPaid():
            return [Effect(BOOK)], [OPEN_PAYMENT, EXPIRE, END_REVIEW, CAPTURE_PAYMENT, VOID_PAYMENT]
        case OrderBooked():
            return [Effect(FULFIL, joins=True)], [BOOK]
        case OrderDelivered():
            if event.key_ttl_s is None:
                return [], [FULFIL]
            return [Effect(FORGET_KEYS, event.key_ttl_s)], [FULFIL]
        case DeliveryKeysForgotten():
            return [], [FORGET_KEYS]
        case FulfilmentEnded():
            return [], [FULFIL]
        case _:
            return _effects_before_payment(event) or _effects_after_return(event)


def _effects_before_payment(event: Event) -> tuple[list[Effect], list[str]] | None:
    match event:
        case PaymentOpened():
            return [Effect(EXPIRE, PAYMENT_DEADLINE_S)], [OPEN_PAYMENT]
        case PaymentAuthorised():
            return [Effect(END_REVIEW, event.review_s)], [OPEN_PAYMENT, EXPIRE]
        case ReviewApproved():
            return [Effect(CAPTURE_PAYMENT)], [END_REVIEW]
        case OrderExpired():
            return [Effect(VOID_PAYMENT)], [EXPIRE]
        case OrderCancelled():
            due = [Effect(VOID_PAYMENT)] if event.voids else []
            return due, [OPEN_PAYMENT, EXPIRE, END_REVIEW, CAPTURE_PAYMENT]
        case PaymentVoided():
            return [], [VOID_PAYMENT]
        case _:
            return None


def _effects_after_return(event: Event) -> tuple[list[Effect], list[str]]:
    match event:
        case RefundRequested(origin=returns.OPERATOR | returns.BUYER):
            return [Effect(f"{REFUND_STEP}:{event.refund_id}")], []
        case RefundAccepted():
            return [_booking_of(REFUND, event.refund_id)], [f"{REFUND_STEP}:{event.refund_id}"]
        case RefundFailed():
            due = [_booking_of(REFUND_REVERSAL, event.refund_id)] if event.accepted else []
            return due, [f"{REFUND_STEP}:{event.refund_id}"]
        case OrderDisputed():
            kinds = {DISPUTE: bool(event.shares), DISPUTE_FEE: event.fee_minor > 0}
            return [_booking_of(kind, event.dispute_id) for kind, due in kinds.items() if due], []
        case DisputeUpdated(fee_added=True):
            return [_booking_of(DISPUTE_FEE, event.dispute_id)], []
        case DisputeFeeChanged():
            return [_booking_of(DISPUTE_FEE, fee_of_dispute(event.dispute_id, event.transaction_id))], []
        case DisputeWon(counted=True):
            return [_booking_of(DISPUTE_WON, event.dispute_id)], []
        case EvidencePrepared():
            return [Effect(f"{EVIDENCE_STEP}:{event.evidence_id}")], []
        case EvidenceSent() | EvidenceRefused():
            return [], [f"{EVIDENCE_STEP}:{event.evidence_id}"]
        case ReturnBooked():
            return [], [f"{BOOK_RETURN}:{event.movement}"]
        case _:
            return [], []


def _booking_of(kind: str, of_id: str) -> Effect:
    return Effect(f"{BOOK_RETURN}:{kind}:{of_id}")


def turn_effects(events: Iterable[Event]) -> tuple[list[Effect], list[str]]:
    """Return the effects that are due after all of ``events``, and the steps that they complete."""
    due: list[Effect] = []
    done: list[str] = []
    for event in events:
        starts, ends = effects_after(event)
        due = [effect for effect in due if effect.step not in ends] if ends else due
        due += starts
        done += ends
    return due, done


def gives_discount_back(events: Iterable[Event]) -> bool:
    """Whether an order that holds a use of a discount code has ended unpaid, for good.

    Not when it expires or is cancelled with a payment open: that may still win, and then the code was used.
    """
    return any(
        isinstance(event, PaymentVoided) or (isinstance(event, OrderCancelled) and not event.voids)
        for event in events
    )


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
        seats_max=max(line.quantity for line in command.lines),
    )
    verdict = policy.screen(purchase)
    payments.require_sellable(command, verdict)
    if total_minor == 0 and verdict.outcome == policy.REVIEW:
        # There is no payment to hold until somebody has looked.
        raise RejectedError("policy_blocked", " ".join(verdict.reasons))
    events: list[Event] = [
        OrderCreated(
            buyer_id=command.buyer_id,
            currency=command.currency,
            lines=command.lines,
            total_minor=total_minor,
            delivery=command.delivery,
            payment_method=command.payment_method,
            country=command.country,
            at=command.at,
            discount_id=command.discount_id,
            refund_window_s=command.payment_terms.refund_window_s,
        ),
        OrderScreened(
            "payment",
            verdict.outcome,
            verdict.reasons,
            verdict.policy_version,
            command.at,
            command.payment_terms.review_s if verdict.outcome == policy.REVIEW else 0,
        ),
    ]
    if total_minor == 0:
        events.append(OrderGranted(command.at))
    return events


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
    return _total(command)


def _total(command: c.PlaceOrder) -> int:
    for line in command.lines:
        if not is_sound(line):
            raise RejectedError("terms_unsound", f"Line {line.line_no}: its parts do not make up its amount.")
        if line.amount_minor % smallest_step(command.currency):
            raise RejectedError(
                "terms_unsound",
                f"Line {line.line_no}: Stripe does not charge {line.amount_minor} minor units of "
                f"{command.currency}.",
            )
    total_minor = sum(line.amount_minor for line in command.lines)
    if total_minor > AMOUNT_MINOR_MAX:
        raise RejectedError(
            "total_out_of_range",
            f"The total may be {AMOUNT_MINOR_MAX} minor units at most, not {total_minor}.",
        )
    if total_minor == 0 and any(line.quantity > FREE_QUANTITY_MAX for line in command.lines):
        raise RejectedError(
            "quantity_out_of_range",
            f"An order that costs nothing has at most {FREE_QUANTITY_MAX} seats in a line.",
        )
    accounts = {account for line in command.lines for account, _ in parts_of_line(line)}
    if len(accounts) >= POSTINGS_MAX:
        raise RejectedError(
            "payees_out_of_range",
            f"The cart's money would go to {len(accounts)} accounts, more than one entry takes. "
            "Buy its lines in several orders.",
        )
    return total_minor


def _booking(state: Order, command: c.RecordBooking) -> list[Event]:
    if state.stage is not Status.PAID:
        return []
    expected = (capture_entry_key(state.order_id), state.currency, state.total_minor)
    if (command.entry_key, command.currency, command.total_minor) != expected:
        raise RejectedError(
            "booking_mismatch",
            f"Finance acknowledged {command.total_minor} {command.currency} under {command.entry_key}, "
            f"expected {expected[2]} {expected[1]} under {expected[0]}.",
        )
    booked = OrderBooked(command.entry_key, command.entry_id, command.at)
    return [booked] if entitled_lines(state) else [booked, FulfilmentEnded(command.at)]


def entitled_lines(state: Order) -> tuple[Line, ...]:
    """Return the lines that get a licence: all but those that were returned first."""
    if not state.revoked_lines:
        return state.lines
    return tuple(line for line in state.lines if line.line_no not in state.revoked_lines)


def require_settled(state: Order) -> None:
    """Refuse to fulfil while it is not certain which lines the buyer keeps.

    Raises:
        DependencyError: ``fulfilment_held``; a refund of a whole line, or a dispute, is under way.
    """
    if state.suspended_lines:
        raise DependencyError(
            "fulfilment_held",
            "A refund or a dispute is under way; nothing is issued before it is decided.",
            1,
        )


def _fulfilment(state: Order, command: c.RecordFulfilment) -> list[Event]:
    if state.stage not in (Status.BOOKED, Status.GRANTED):
        return []
    require_settled(state)
    lines = entitled_lines(state)
    expected_licences = tuple(licence_id(state.order_id, line.line_no) for line in lines)
    expected_deliveries = tuple(delivery_id(state.order_id, line.line_no) for line in lines)
    if (command.licence_ids, command.delivery_ids) != (expected_licences, expected_deliveries):
        if state.revoked_lines:
            raise DependencyError(
                "fulfilment_outdated", "A line was returned while the order was licensed.", 1
            )
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
    withheld = state.suspended_lines | state.revoked_lines
    if any(command.delivery_id == delivery_id(state.order_id, line_no) for line_no in withheld):
        raise ConflictError(
            "licence_not_active", "The line was refunded or is disputed; its key is not handed out."
        )
    if command.delivery_id in state.released_delivery_ids:
        return []
    return [DeliveryKeyReleased(command.delivery_id, command.at)]
