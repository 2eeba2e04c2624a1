"""What the three sources tell of one order, and what is said of a difference between them.

Amounts are minor units. Refuses to interpret: Stripe's words are kept as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from domain.orders.booking import CLEARING, moves_own_money
from domain.orders.ledger_invariants import LedgerEntry
from domain.orders.ports import PaymentNews
from domain.orders.state import Order
from domain.payouts.invariants import is_payout_entry

CHARGE, REFUND, DISPUTE = "charge", "refund", "dispute"


@dataclass(frozen=True, slots=True)
class StripeObject:
    """A charge, refund or dispute that moved Stripe's balance, as it stands now.

    ``amount_minor`` is what was captured, refunded or disputed, in the currency of the payment;
    ``returned_minor`` what a charge has given back by refunds. ``fee_minor`` is what Stripe took for it so
    far, in the currency that it settles in; ``fees`` are a dispute's in the payment's currency, by balance
    transaction. ``at`` is when it first moved money. ``refund_id`` is ours, from its metadata.
    """

    object_id: str
    kind: str
    payment_intent_id: str
    amount_minor: int
    currency: str
    status: str
    at: datetime
    fee_minor: int = 0
    fee_currency: str = ""
    returned_minor: int = 0
    refund_id: str = ""
    reason: str = ""
    fees: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Booked:
    """An entry of Finance's. ``undone``: it was reversed or is a reversal; the two come to nothing."""

    entry_key: str
    currency: str
    postings: Sequence[tuple[str, int]]
    occurred_at: datetime
    undone: bool = False


def is_loose(entry: Booked | LedgerEntry) -> bool:
    """Whether an entry that names no order is nobody's, though it moves what Stripe holds for us.

    Payouts explain theirs; what people book between Stripe and our own accounts takes nothing from anybody.
    """
    touches = any(account == CLEARING for account, _ in entry.postings)
    explained = is_payout_entry(entry.entry_key) or moves_own_money(entry.postings)
    return touches and not entry.undone and not explained


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one order. ``order`` None: there is no such order, whatever the others say.

    ``licences`` are statuses by line number. ``waiting`` are webhooks about the order that nobody has
    applied: (event id, Stripe's object or payment, whether it was given up).
    """

    order_id: str
    order: Order | None
    objects: Sequence[StripeObject]
    entries: Sequence[Booked]
    licences: Mapping[int, str] = field(default_factory=dict)
    waiting: Sequence[tuple[str, str, bool]] = ()


class Kind(StrEnum):
    """What differs. The words of metrics, of the API and of docs/reconciliation.md."""

    CAPTURE_NOT_RECORDED = "capture_not_recorded"
    CAPTURE_MISSING_AT_STRIPE = "capture_missing_at_stripe"
    CAPTURE_DIFFERS = "capture_differs"
    CAPTURED_TWICE = "captured_twice"
    CAPTURE_WITHOUT_ORDER = "capture_without_order"
    NOT_BOOKED = "not_booked"
    BOOKED_TWICE = "booked_twice"
    BOOKED_DIFFERENTLY = "booked_differently"
    BOOKED_WITHOUT_ORDER = "booked_without_order"
    REFUND_NOT_RECORDED = "refund_not_recorded"
    REFUND_MISSING_AT_STRIPE = "refund_missing_at_stripe"
    REFUND_DIFFERS = "refund_differs"
    DISPUTE_NOT_RECORDED = "dispute_not_recorded"
    DISPUTE_MISSING_AT_STRIPE = "dispute_missing_at_stripe"
    DISPUTE_DIFFERS = "dispute_differs"
    FEE_DIFFERS = "fee_differs"
    LICENCE_WITHOUT_PAYMENT = "licence_without_payment"
    PAID_WITHOUT_LICENCE = "paid_without_licence"
    TRANSFER_WITHOUT_PAYOUT = "transfer_without_payout"
    PAYOUT_WITHOUT_TRANSFER = "payout_without_transfer"
    TRANSFER_DIFFERS = "transfer_differs"
    WEBHOOK_ENDPOINT_DISABLED = "webhook_endpoint_disabled"
    EVENTS_UNDELIVERED = "events_undelivered"


@dataclass(frozen=True, slots=True)
class TellOrder:
    """A fix: have the order decide on news that it never got, through the inbox like a webhook."""

    news: PaymentNews


@dataclass(frozen=True, slots=True)
class Post:
    """A fix: post an entry that is missing, under its own key. Harmless to repeat."""

    entry_key: str
    currency: str
    at: datetime
    postings: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Reverse:
    """A fix: undo an entry that nothing explains, in full and once."""

    entry_key: str


@dataclass(frozen=True, slots=True)
class Rebook:
    """A fix: undo an entry of wrong amounts, post the right ones under its key with ``:corrected``."""

    wrong_key: str
    right: Post


Fix = TellOrder | Post | Reverse | Rebook


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: its identity is kind, order and ``subject``, Stripe's object, an entry's key or a line.

    ``expected_minor`` is what the other sources make one expect, ``actual_minor`` what there is. ``at`` is
    when the money moved, by whoever says so. ``fix`` None: a person has to decide.
    """

    kind: Kind
    order_id: str
    subject: str
    at: datetime
    currency: str
    expected_minor: int | None
    actual_minor: int | None
    detail: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What a comparison found: differences, and processing fees that Finance may not have yet."""

    differences: Sequence[Difference]
    fees: Sequence[Post]
