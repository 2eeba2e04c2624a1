"""What the order's actor needs of the world: ports that ``storage`` adapts and ``tests/fakes`` imitate.

Every method either does its whole work or raises; ``DependencyError`` means "not known to be done, keep
the effect", ``RejectedError`` means "will never work". All are safe to repeat: their idempotency keys are
functions of the order and the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from domain.orders.commands import PaymentTerms
from domain.orders.decide import Effect
from domain.orders.events import Event
from domain.orders.returned import Evidence, Refund
from domain.orders.state import Order


@dataclass(frozen=True, slots=True)
class IssuedLicence:
    """A signed licence of one line: what the buyer holds, ready to be stored."""

    licence_id: str
    line_no: int
    sku_id: str
    release_id: str
    quantity: int
    key_id: str
    envelope: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class SealedDelivery:
    """A delivery of one line: an age header of some 200 bytes and its signed manifest.

    ``wrapped_identity`` and ``key_ttl_s`` are set for ``released_key`` only.
    """

    delivery_id: str
    line_no: int
    release_id: str
    mode: str
    recipient: str
    header: bytes
    manifest: str
    wrapped_identity: bytes | None
    key_ttl_s: int | None


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event of an order with its number: 1..n without a gap (invariant I6)."""

    order_id: str
    seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class Turn:
    """One command's whole outcome: committed together, or not at all.

    ``fence`` is the sequence number of the state that the decision was taken on. ``due`` and ``done`` are
    the effects that start and the steps that end. ``news`` is the webhook that caused it: the commit keeps it
    in the inbox as applied, whether or not it lay there before.
    """

    order: Order
    fence: int
    events: Sequence[Event]
    due: Sequence[Effect]
    done: Sequence[str]
    payment_handle: Mapping[str, str] | None = field(default=None, repr=False)
    news: "PaymentNews | None" = None
    licences: Sequence[IssuedLicence] = ()
    deliveries: Sequence[SealedDelivery] = ()


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The buyer's key and the SHA-256 of the request that it stands for."""

    key: str
    request_digest: bytes


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order as Postgres has it: its history and the private payment handle."""

    events: Sequence[Event]
    payment_handle: Mapping[str, str] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class RecordedCommand:
    """What an idempotency key was first used for."""

    request_digest: bytes
    subject: str


@dataclass(frozen=True, slots=True)
class DueEffect:
    """An effect that a sweep claimed.

    ``attempts`` counts claims, this one included; ``unforeseen`` the failures before it that nobody foresaw.
    """

    order_id: str
    step: str
    attempts: int
    unforeseen: int = 0


@dataclass(frozen=True, slots=True)
class PaymentNews:
    """A verified webhook, reduced to what an order decides on. ``kind`` is Stripe's event type.

    ``attempts`` and ``unforeseen`` as in ``DueEffect``.
    """

    event_id: str
    order_id: str
    kind: str
    payment_intent_id: str
    amount_minor: int
    currency: str
    code: str
    message: str
    attempts: int = 0
    unforeseen: int = 0
    # Of a refund or dispute: Stripe's id and status, our refund's id from its metadata.
    object_id: str = ""
    object_status: str = ""
    refund_id: str = ""
    fee_minor: int = 0  # of a dispute, in news from before ``fees``
    # Of a declined attempt; ``code`` is then Stripe's error code.
    decline_code: str = ""
    due_by_s: int = 0  # Unix seconds; 0: not told
    # What a dispute cost so far, by balance transaction; what was given back is below zero.
    fees: tuple[tuple[str, int], ...] = ()


# Stripe's event types that say that a hosted page can no longer be paid. Its ``completed`` and
# ``async_payment_succeeded`` say less than the PaymentIntent's own events, which tell what was captured.
CHECKOUT_NEWS = frozenset({"checkout.session.expired", "checkout.session.async_payment_failed"})
# Stripe's event types about refunds and disputes. ``charge.refunded`` is read for the refund that it embeds.
REFUND_NEWS = frozenset(
    {
        "refund.created",
        "refund.updated",
        "refund.failed",
        "charge.refund.updated",
        "charge.refunded",
    }
)
DISPUTE_NEWS = frozenset(
    {
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.closed",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
    }
)


class OrderStore(Protocol):
    """Postgres, the authority."""

    async def place(self, turn: Turn, idempotency: Idempotency) -> bool:
        """Insert the order; False when the buyer's idempotency key was used before.

        Raises:
            ConflictError: ``discount_used_up``, ``free_orders_full``; nothing was written.
        """

    async def commit(self, turn: Turn) -> bool:
        """Commit under the fence; False when another host has moved the order on.

        An order that ends unpaid gives back the use of its discount code (``decide.gives_discount_back``).
        """

    async def load(self, order_id: str) -> StoredOrder | None:
        """Read an order's history."""

    async def find_command(self, principal_id: str, key: str) -> RecordedCommand | None:
        """Look an idempotency key up."""

    async def claim_due_effects(
        self, steps: Sequence[str], limit: int, lease_s: float
    ) -> Sequence[DueEffect]:
        """Claim overdue effects of these steps for ``lease_s`` seconds."""

    async def defer_effect(
        self, order_id: str, step: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        """Try an effect again after ``delay_s`` seconds."""

    async def bury_effect(self, order_id: str, step: str, code: str, error: str) -> None:
        """Make an effect a dead letter: kept with its reason, never claimed until an operator retries it."""

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        """Keep a verified webhook for a sweep; returns (order is known, stored now and no duplicate)."""

    async def claim_due_webhooks(self, limit: int, lease_s: float) -> Sequence[PaymentNews]:
        """Claim overdue inbox rows for ``lease_s`` seconds."""

    async def settle_webhook(self, news: PaymentNews, outcome: str) -> None:
        """Keep a webhook as processed; it changed nothing."""

    async def defer_webhook(
        self, event_id: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        """Try an inbox row again after ``delay_s`` seconds."""

    async def bury_webhook(self, news: PaymentNews, code: str, error: str) -> None:
        """Keep a webhook as a dead letter: its order refuses it, and money may have moved."""


class Terms(Protocol):
    """The governed documents, as far as orders need them; at most seconds behind."""

    async def payment_terms(self) -> PaymentTerms:
        """Return the terms in force; raises DependencyError when they are not known."""


@dataclass(frozen=True, slots=True)
class OpenedPayment:
    """Stripe's ids and what the buyer's browser needs (``client_secret`` or ``checkout_url``)."""

    payment_intent_id: str | None
    checkout_session_id: str | None
    handle: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CapturedPayment:
    """A payment that Stripe says has succeeded."""

    payment_intent_id: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class MadeRefund:
    """A refund that Stripe holds; ``status`` is Stripe's word for where it stands."""

    stripe_refund_id: str
    status: str


class PaymentGateway(Protocol):
    """Stripe."""

    async def send_evidence(self, order: Order, dispute_id: str, evidence: Evidence) -> str:
        """Give Stripe evidence, as a draft or for good; returns its word for where the dispute stands."""

    async def refund(self, order: Order, refund: Refund) -> MadeRefund:
        """Make a refund of the order's payment, once, however often this is asked."""

    async def open_payment(self, order: Order) -> OpenedPayment:
        """Create the PaymentIntent or Checkout Session of an order."""

    async def void_payment(self, order: Order) -> CapturedPayment | None:
        """Make an unpaid payment unpayable; returns what was captured if it was paid after all."""

    async def capture_payment(self, order: Order) -> CapturedPayment:
        """Take the money that an approved order's payment holds, once, however often this is asked."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Finance's answer: what it booked, by its own account."""

    entry_key: str
    entry_id: str
    currency: str
    postings: Sequence[tuple[str, int]]


class Books(Protocol):
    """Finance."""

    async def book(
        self, entry_key: str, currency: str, at: datetime, postings: Sequence[tuple[str, int]]
    ) -> Acknowledgement:
        """Post one balanced entry; repeating the key with the same content answers the same."""


@dataclass(frozen=True, slots=True)
class Fulfilment:
    """Everything that a booked order gives its buyer, one of each per line, in line order."""

    licences: Sequence[IssuedLicence]
    deliveries: Sequence[SealedDelivery]


class Fulfiller(Protocol):
    """The signer, with the releases' wrapped keys behind it."""

    async def fulfil(self, order: Order) -> Fulfilment:
        """Sign a licence and seal a delivery per line."""

    async def open_identity(self, order_id: str, delivery_id: str) -> tuple[str, datetime]:
        """Unwrap the age identity of a ``released_key`` delivery; with it, when it expires."""
