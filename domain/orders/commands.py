"""What can be asked of an order. Each command carries its own time, fixed once by the caller's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from domain.orders.events import REFUND_WINDOW_S_UNGOVERNED
from domain.orders.lines import DeliveryChoice, Line


@dataclass(frozen=True, slots=True)
class PaymentTerms:
    """What the governed ``payment_flow`` says when an order is placed; frozen into the order (ADR 0011).

    ``reviews``: flagged orders are authorised and reviewed; otherwise they are refused. ``review_s``: for how
    long an authorisation waits for its review.
    """

    reviews: bool = True
    review_s: int = 432_000
    refund_window_s: int = REFUND_WINDOW_S_UNGOVERNED
    checkout_allowed: bool = True


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """A buyer's cart, already quoted: its lines hold their terms (``domain.terms``)."""

    order_id: str
    buyer_id: str
    currency: str
    lines: tuple[Line, ...]
    delivery: DeliveryChoice
    payment_method: str
    country: str | None
    at: datetime
    discount_id: str | None = None
    payment_terms: PaymentTerms = PaymentTerms()


@dataclass(frozen=True, slots=True)
class RecordPaymentOpened:
    """Result of ``open_payment``."""

    payment_intent_id: str | None
    checkout_session_id: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordPaymentRefused:
    """Stripe will not open a payment for this order, whatever we repeat."""

    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ConfirmPayment:
    """Verified news that the payment was captured: a webhook, or Stripe's answer to an effect."""

    payment_intent_id: str
    stripe_event_id: str
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordPaymentFailure:
    """A verified ``payment_intent.payment_failed``: one attempt was declined."""

    stripe_event_id: str
    code: str
    message: str
    at: datetime
    decline_code: str = ""


@dataclass(frozen=True, slots=True)
class NoticeActionRequired:
    """A verified ``payment_intent.requires_action``: the bank asks the buyer for something."""

    stripe_event_id: str
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NoticeAuthorisation:
    """A verified ``payment_intent.amount_capturable_updated``: money is held, not taken."""

    payment_intent_id: str
    stripe_event_id: str
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NoticePaymentCancelled:
    """A verified ``payment_intent.canceled``: by us, by hand, or an authorisation that lapsed."""

    payment_intent_id: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NoticeCheckoutEnded:
    """A verified webhook that a Checkout Session can no longer be paid; ``code`` and ``reason`` say why."""

    checkout_session_id: str
    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """The buyer does not want the order any more."""

    at: datetime


@dataclass(frozen=True, slots=True)
class DecideReview:
    """A person decides about a flagged order."""

    reviewer_id: str
    approves: bool
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EndReview:
    """The review's deadline passed, by the database's clock."""

    at: datetime


@dataclass(frozen=True, slots=True)
class RecordCaptureRefused:
    """Stripe will not capture an authorisation any more, whatever we repeat."""

    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordBooking:
    """Finance's acknowledgement; ``total_minor`` is what it says it debited to clearing."""

    entry_key: str
    entry_id: str
    currency: str
    total_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordFulfilment:
    """Licences and sealed deliveries exist for every line."""

    licence_ids: tuple[str, ...]
    delivery_ids: tuple[str, ...]
    key_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReleaseDeliveryKey:
    """The buyer asks for the key of a ``released_key`` delivery."""

    delivery_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ExpireOrder:
    """The payment deadline passed, by the database's clock."""

    at: datetime


@dataclass(frozen=True, slots=True)
class RecordPaymentVoided:
    """Result of ``void_payment``."""

    at: datetime


@dataclass(frozen=True, slots=True)
class ForgetKeys:
    """The time to ask for released keys is over, by the database's clock."""

    at: datetime


@dataclass(frozen=True, slots=True)
class RequestRefund:
    """An operator or the buyer asks for money back.

    Either ``lines`` as (line number, amount or None for all that is left of it), or ``amount_minor`` to be
    spread over all lines, or neither: everything that is left. ``origin`` is ``operator`` or ``buyer``.
    """

    refund_id: str
    lines: tuple[tuple[int, int | None], ...]
    amount_minor: int | None
    origin: str
    requested_by: str
    reason: str
    request_digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordRefund:
    """Stripe's answer to a refund of ours; ``status`` is Stripe's word for where it stands."""

    refund_id: str
    stripe_refund_id: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordRefundRefused:
    """Stripe will not make a refund of ours, whatever we repeat."""

    refund_id: str
    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NoticeRefund:
    """A verified webhook about a refund, ours (``refund_id`` from its metadata) or made in the dashboard."""

    stripe_refund_id: str
    refund_id: str
    payment_intent_id: str
    amount_minor: int
    currency: str
    status: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NoticeDispute:
    """A verified webhook about a dispute: opened, moved on or closed, as ``status`` says in its words.

    ``fees`` are (balance transaction, minor units) of all fees so far; what was given back is below zero.
    """

    dispute_id: str
    payment_intent_id: str
    amount_minor: int
    currency: str
    status: str
    reason: str
    fees: tuple[tuple[str, int], ...]
    at: datetime
    due_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class PrepareEvidence:
    """An operator wants this said to the bank; ``texts`` are by Stripe's names. ``submit`` makes it final."""

    dispute_id: str
    evidence_id: str
    texts: Mapping[str, str]
    submit: bool
    prepared_by: str
    request_digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordEvidence:
    """Stripe has evidence of ours; ``status`` is Stripe's word for where the dispute stands then."""

    evidence_id: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordEvidenceRefused:
    """Stripe will not take evidence of ours, whatever we repeat."""

    evidence_id: str
    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordReturnBooked:
    """Finance's acknowledgement of a return; ``cleared_minor`` is what it says it moved in clearing."""

    movement: str
    entry_key: str
    entry_id: str
    currency: str
    cleared_minor: int
    at: datetime


EvidenceCommand = PrepareEvidence | RecordEvidence | RecordEvidenceRefused
ReturnCommand = (
    RequestRefund
    | RecordRefund
    | RecordRefundRefused
    | NoticeRefund
    | NoticeDispute
    | RecordReturnBooked
    | EvidenceCommand
)
PaymentResult = (
    RecordPaymentOpened
    | RecordPaymentRefused
    | RecordCaptureRefused
    | EndReview
    | ExpireOrder
    | RecordPaymentVoided
)
PaymentCommand = (
    ConfirmPayment
    | RecordPaymentFailure
    | NoticeActionRequired
    | NoticeAuthorisation
    | NoticePaymentCancelled
    | NoticeCheckoutEnded
    | CancelOrder
    | DecideReview
    | PaymentResult
)
Command = (
    PlaceOrder
    | PaymentCommand
    | RecordBooking
    | RecordFulfilment
    | ReleaseDeliveryKey
    | ForgetKeys
    | ReturnCommand
)
