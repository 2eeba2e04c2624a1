"""What can happen to an order. Events are facts: past tense, complete, never edited.

They are stored as JSON, leave through the outbox and enter the audit log, so they carry no secret: no
client secret, no key, no card data. ``KINDS`` maps the stored kind to its class, both ways.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.orders.lines import DeliveryChoice, Line, Share, Tax

# What buyers were told before the window was governed.
REFUND_WINDOW_S_UNGOVERNED = 1_209_600


@dataclass(frozen=True, slots=True)
class OrderCreated:
    """The cart was accepted as quoted."""

    buyer_id: str
    currency: str
    lines: tuple[Line, ...]
    total_minor: int
    delivery: DeliveryChoice
    payment_method: str
    country: str | None
    at: datetime
    discount_id: str | None = None  # whose use the order holds
    refund_window_s: int = REFUND_WINDOW_S_UNGOVERNED


@dataclass(frozen=True, slots=True)
class OrderGranted:
    """The order costs nothing: there is nothing to pay and nothing to book."""

    at: datetime


@dataclass(frozen=True, slots=True)
class OrderScreened:
    """Policy had its say; ``stage`` is ``payment`` or ``fulfilment``, ``outcome`` ``clear`` or ``review``.

    ``review_s``: for how long an authorised payment of a flagged order may wait for a person's decision.
    """

    stage: str
    outcome: str
    reasons: tuple[str, ...]
    policy_version: str
    at: datetime
    review_s: int = 0


@dataclass(frozen=True, slots=True)
class PaymentOpened:
    """Stripe holds a PaymentIntent or Checkout Session for this order."""

    payment_intent_id: str | None
    checkout_session_id: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """One attempt was declined; ``code``, ``decline_code`` and ``message`` are Stripe's and not for buyers.

    ``domain.orders.declines`` says what buyers are told. Without a decline code that is empty; events from
    before it was kept apart have it as their ``code``.
    """

    stripe_event_id: str
    code: str
    message: str
    at: datetime
    decline_code: str = ""


@dataclass(frozen=True, slots=True)
class PaymentActionRequired:
    """The bank asks the buyer for something (3-D Secure); ``action`` is Stripe's type of next action."""

    stripe_event_id: str
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PaymentAuthorised:
    """The exact amount of a flagged order is held and not taken; a person decides within ``review_s``."""

    payment_intent_id: str
    stripe_event_id: str
    amount_minor: int
    currency: str
    review_s: int
    at: datetime


@dataclass(frozen=True, slots=True)
class ReviewApproved:
    """A person let a flagged order go on: its authorised payment is to be captured."""

    reviewer_id: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReviewRejected:
    """A person stopped a flagged order. Always followed by ``order.cancelled``."""

    reviewer_id: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderPaid:
    """Stripe's signed webhook says that the exact amount was captured."""

    payment_intent_id: str
    stripe_event_id: str
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderBooked:
    """Finance acknowledged the exact amounts under ``entry_key``."""

    entry_key: str
    entry_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderLicensed:
    """One licence per line exists; ids by line number order."""

    licence_ids: tuple[str, ...]
    key_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderDelivered:
    """One sealed delivery per line is ready to fetch; ids by line number order.

    ``key_ttl_s``: for how long the keys of a ``released_key`` delivery can be asked for; None for others.
    """

    delivery_ids: tuple[str, ...]
    at: datetime
    key_ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryKeyReleased:
    """The buyer was given the key of a ``released_key`` delivery. Recorded before it is handed out."""

    delivery_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryKeysForgotten:
    """Keys of a ``released_key`` order that nobody can ask for any more were destroyed."""

    at: datetime


@dataclass(frozen=True, slots=True)
class OrderExpired:
    """Nobody paid in time. A payment that wins the race all the same revives the order."""

    at: datetime


@dataclass(frozen=True, slots=True)
class PaymentVoided:
    """Stripe confirmed that the unpaid PaymentIntent or Session can no longer be paid."""

    at: datetime


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    """The order ended before payment; ``code`` and ``reason`` say why.

    ``voids``: a payment may be open at Stripe and is to be made unpayable.
    """

    code: str
    reason: str
    at: datetime
    voids: bool = False


@dataclass(frozen=True, slots=True)
class RefundRequested:
    """Money is to go back. ``origin`` is ``operator``, ``buyer`` or ``dashboard`` (made at Stripe by hand).

    ``request_digest`` is the SHA-256 of the request in hexadecimal, so that its key names one request only.
    """

    refund_id: str
    shares: tuple[Share, ...]
    origin: str
    requested_by: str
    reason: str
    request_digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RefundAccepted:
    """Stripe took the refund on: from here on the money has left what it holds for us.

    ``shares`` replace those that were asked for, of a refund that had counted as failed before.
    """

    refund_id: str
    stripe_refund_id: str
    at: datetime
    shares: tuple[Share, ...] | None = None


@dataclass(frozen=True, slots=True)
class OrderRefunded:
    """Stripe says that the refund succeeded."""

    refund_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RefundFailed:
    """The refund will not happen, or was undone. ``accepted``: Stripe had taken it on, the money is back."""

    refund_id: str
    stripe_refund_id: str | None
    accepted: bool
    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OrderDisputed:
    """The buyer's bank took money back. ``fee_minor`` is of events from before ``DisputeFeeChanged``."""

    dispute_id: str
    shares: tuple[Share, ...]
    reason: str
    stage: str
    at: datetime
    due_by: datetime | None = None  # until when evidence can be sent, as far as known
    fee_minor: int = 0


@dataclass(frozen=True, slots=True)
class DisputeUpdated:
    """An open dispute's stage or deadline changed. Fees are of events from before ``DisputeFeeChanged``."""

    dispute_id: str
    stage: str
    at: datetime
    due_by: datetime | None = None
    fee_minor: int = 0
    fee_added: bool = False


@dataclass(frozen=True, slots=True)
class DisputeFeeChanged:
    """Stripe took a fee for a dispute, or gave one back: then ``amount_minor`` is below zero.

    ``transaction_id`` is the balance transaction that says so; empty: news from before they were named.
    """

    dispute_id: str
    transaction_id: str
    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class DisputeWon:
    """The bank decided for us: the disputed money is back. ``counted``: it was told of while it was gone."""

    dispute_id: str
    counted: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class DisputeLost:
    """The bank decided for the buyer: the disputed money is gone for good."""

    dispute_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EvidencePrepared:
    """An operator wants this said to the bank; ``texts`` are by Stripe's names. ``submit`` False: a draft."""

    dispute_id: str
    evidence_id: str
    texts: Mapping[str, str]
    submit: bool
    prepared_by: str
    request_digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EvidenceSent:
    """Stripe has the evidence; submitted, it is final."""

    dispute_id: str
    evidence_id: str
    submitted: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class EvidenceRefused:
    """Stripe did not take the evidence."""

    dispute_id: str
    evidence_id: str
    code: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReturnBooked:
    """Finance acknowledged an entry of money that went back, or came back. ``movement`` names it."""

    movement: str
    entry_key: str
    entry_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LicencesSuspended:
    """These lines' licences do not hold for the moment."""

    line_nos: tuple[int, ...]
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LicencesRestored:
    """These lines' suspended licences hold again."""

    line_nos: tuple[int, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class LicencesRevoked:
    """These lines' licences never hold again; a line that has none yet will get none."""

    line_nos: tuple[int, ...]
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class FulfilmentEnded:
    """Every line was returned before it was licensed: there is nothing left to deliver."""

    at: datetime


Event = (
    OrderCreated
    | OrderScreened
    | OrderGranted
    | PaymentOpened
    | PaymentFailed
    | PaymentActionRequired
    | PaymentAuthorised
    | ReviewApproved
    | ReviewRejected
    | OrderPaid
    | OrderBooked
    | OrderLicensed
    | OrderDelivered
    | DeliveryKeyReleased
    | DeliveryKeysForgotten
    | OrderExpired
    | PaymentVoided
    | OrderCancelled
    | RefundRequested
    | RefundAccepted
    | OrderRefunded
    | RefundFailed
    | OrderDisputed
    | DisputeUpdated
    | DisputeFeeChanged
    | DisputeWon
    | DisputeLost
    | EvidencePrepared
    | EvidenceSent
    | EvidenceRefused
    | ReturnBooked
    | LicencesSuspended
    | LicencesRestored
    | LicencesRevoked
    | FulfilmentEnded
)

KINDS: dict[str, type[Event]] = {
    "order.created": OrderCreated,
    "order.screened": OrderScreened,
    "order.granted": OrderGranted,
    "order.payment_opened": PaymentOpened,
    "order.payment_failed": PaymentFailed,
    "order.payment_action_required": PaymentActionRequired,
    "order.payment_authorised": PaymentAuthorised,
    "order.review_approved": ReviewApproved,
    "order.review_rejected": ReviewRejected,
    "order.paid": OrderPaid,
    "order.booked": OrderBooked,
    "order.licensed": OrderLicensed,
    "order.delivered": OrderDelivered,
    "order.delivery_key_released": DeliveryKeyReleased,
    "order.delivery_keys_forgotten": DeliveryKeysForgotten,
    "order.expired": OrderExpired,
    "order.payment_voided": PaymentVoided,
    "order.cancelled": OrderCancelled,
    "order.refund_requested": RefundRequested,
    "order.refund_accepted": RefundAccepted,
    "order.refunded": OrderRefunded,
    "order.refund_failed": RefundFailed,
    "order.disputed": OrderDisputed,
    "order.dispute_updated": DisputeUpdated,
    "order.dispute_fee_changed": DisputeFeeChanged,
    "order.dispute_won": DisputeWon,
    "order.dispute_lost": DisputeLost,
    "order.evidence_prepared": EvidencePrepared,
    "order.evidence_sent": EvidenceSent,
    "order.evidence_refused": EvidenceRefused,
    "order.return_booked": ReturnBooked,
    "order.licence_suspended": LicencesSuspended,
    "order.licence_restored": LicencesRestored,
    "order.licence_revoked": LicencesRevoked,
    "order.fulfilment_ended": FulfilmentEnded,
}
# Whoever places an order is answered when one of these has happened, and a repetition as it then was.
ANSWERED = (OrderGranted, PaymentOpened, PaymentAuthorised, OrderPaid, OrderCancelled)
KIND_OF: dict[type[Event], str] = {cls: kind for kind, cls in KINDS.items()}

_TUPLES = ("reasons", "licence_ids", "delivery_ids", "line_nos")


def decode_event(kind: str, data: Mapping[str, Any]) -> Event:
    """Rebuild an event from its stored kind and JSON object; raises KeyError for an unknown kind."""
    values = dict(data)
    values["at"] = datetime.fromisoformat(values["at"])
    if values.get("due_by") is not None:
        values["due_by"] = datetime.fromisoformat(values["due_by"])
    if kind == "order.created":
        values["lines"] = tuple(_line(line) for line in values["lines"])
        values["delivery"] = DeliveryChoice(**values["delivery"])
    elif values.get("shares") is not None:
        values["shares"] = tuple(_share(share) for share in values["shares"])
    for name in _TUPLES:
        if name in values:
            values[name] = tuple(values[name])
    return KINDS[kind](**values)


def _line(data: dict[str, Any]) -> Line:
    # Most lines have neither, and those stored before there were any have no such members.
    if data.get("taxes"):
        data = {**data, "taxes": tuple(Tax(**tax) for tax in data["taxes"])}
    elif "taxes" in data:
        data = {**data, "taxes": ()}
    if "payees" in data:
        data = {**data, "payees": tuple((payee, minor) for payee, minor in data["payees"])}
    return Line(**data)


def _share(data: dict[str, Any]) -> Share:
    values = dict(data)
    for name in ("taxes", "payees"):
        if name in values:
            values[name] = tuple(values[name])
    return Share(**values)
