"""What the ingress needs of the world: ports that actors and storage adapt and ``tests/fakes`` imitate.

Nothing here is decided. ``IngressPorts`` is all that ``build_app`` is handed, so the whole HTTP layer
runs in a test without sockets, Ray or Postgres.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

from prometheus_client.registry import Collector

from actors.orders.host import PlacedOrder, RefundReply, ReleasedKey
from actors.publisher.sealing import LicensingDocument
from domain.catalogue import Offer
from domain.orders.commands import PlaceOrder, RequestRefund
from domain.orders.ports import Idempotency, NumberedEvent, PaymentNews, StoredOrder, Turn
from domain.ownership import Challenge
from domain.proposals.documents import Kind as GovernedKind
from domain.proposals.state import Proposal, Status, Version
from domain.revocations import RevocationList
from domain.signing import KeyRecord
from storage.market.access import Principal
from storage.market.catalogue import Release, Sku
from storage.market.commands import Recorded, Write
from storage.market.dead_letters import DeadLetter, Decision, Kind
from storage.market.licences import DeliveryOwner, DeliveryRow, LicenceRow, RevocationSnapshot, Standing
from storage.market.licensing import ActivationRow, Successor, Transfer
from storage.market.order_store import OrderSummary
from storage.market.proposals import Receipt, Request
from storage.market.sales import SalesCursor, SalesDay
from storage.s3 import Link


class Orders(Protocol):
    """Runs orders, here or in hosts apart; ``deployments.local_orders``, ``deployments.placement``."""

    async def place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        """Create an order and open its payment."""

    async def receive(self, news: PaymentNews) -> str:
        """Keep and apply a verified webhook; returns its outcome."""

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        """Record and hand out the key of a released-key delivery."""

    async def refund(self, order_id: str, command: RequestRefund) -> RefundReply:
        """Record that money is to go back, and have Stripe return it."""


class OrderReads(Protocol):
    """Postgres as the authority on orders; ``storage.market.order_store``."""

    async def load(self, order_id: str) -> StoredOrder | None:
        """Read an order's history."""

    async def order_of_payment(self, payment_intent_id: str) -> str | None:
        """Find the order that a PaymentIntent has paid."""

    async def list_of_buyer(self, buyer_id: str, before: str, limit: int) -> list[OrderSummary]:
        """List a buyer's orders, newest first."""

    async def events_since(self, watched: Mapping[str, int]) -> list[NumberedEvent]:
        """Read what happened to each order after the sequence number given for it, in order."""

    def follow(self, follower: Callable[[Turn], None]) -> None:
        """Have ``follower`` called with each turn that this process commits."""

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        """Keep a verified webhook; (order is known, stored now and not a duplicate)."""


class CatalogueStore(Protocol):
    """``storage.market.catalogue``; see there for errors."""

    async def published(self, before: str, limit: int) -> list[Sku]:
        """List SKUs on sale, newest first."""

    async def find(self, name_or_id: str) -> Sku | None:
        """Read one SKU."""

    async def offers(self, sku_ids: Sequence[str], currency: str) -> dict[str, Offer]:
        """Quote SKUs."""

    async def create_sku(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        """List a SKU."""

    async def register_seller_key(
        self, write: Write, key_id: str, public_key: bytes, body: Mapping[str, Any]
    ) -> Recorded | None:
        """Record a seller's key."""

    async def draft_release(
        self, write: Write, release: Release, created_at: datetime, body: Mapping[str, Any]
    ) -> Recorded | None:
        """Create a draft."""

    async def release(self, release_id: str) -> Release | None:
        """Read a release."""


class Publishing(Protocol):
    """``actors.publisher.publication``."""

    async def publish(self, write: Write, release_id: str, manifest_text: str) -> Release:
        """Publish a release under the seller's signed manifest."""


class LicenceStore(Protocol):
    """``storage.market.licences``."""

    async def licence(self, licence_id: str) -> LicenceRow | None:
        """Read a licence."""

    async def standing(self, licence_id: str) -> Standing:
        """Read how a licence stands."""

    async def list_version(self) -> int:
        """Read the revocation list's version."""

    async def revocations(self) -> RevocationSnapshot:
        """Read the revocation list."""

    async def keys(self) -> list[KeyRecord]:
        """List the platform's signing keys."""

    async def deliveries(self, order_id: str) -> list[DeliveryRow]:
        """List an order's deliveries."""

    async def delivery_owner(self, delivery_id: str) -> DeliveryOwner | None:
        """Find a delivery's order and buyer."""


class AccessStore(Protocol):
    """``storage.market.access``."""

    async def principal(self, token_sha256: bytes) -> Principal | None:
        """Return a token's holder."""

    async def issue(
        self, write: Write, token_sha256: bytes, holder: Principal, body: Mapping[str, Any]
    ) -> Recorded | None:
        """Record a new token."""


class CommandStore(Protocol):
    """``storage.market.commands``."""

    async def find(self, write: Write) -> Recorded | None:
        """Return what an equal write did before."""

    async def claim(self, write: Write, subject: str) -> Recorded | None:
        """Record a write that is harmless to repeat."""


class DeadLetterStore(Protocol):
    """``storage.market.dead_letters``; see there for errors."""

    async def page(
        self, kind: Kind | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[DeadLetter]:
        """List dead letters, newest first."""

    async def decide(self, write: Write, decision: Decision, body: Mapping[str, Any]) -> Recorded | None:
        """Retry or drop one, once per idempotency key."""


class SalesReads(Protocol):
    """``storage.market.sales``."""

    async def by_day(
        self,
        first_day: date,
        last_day: date,
        limit: int,
        *,
        seller_id: str | None = None,
        after: SalesCursor | None = None,
    ) -> Sequence[SalesDay]:
        """List sales by day, SKU and currency, of one seller or of all."""


class ProposalStore(Protocol):
    """``storage.market.proposals``; see there for errors."""

    async def submit(self, write: Write, request: Request) -> Receipt:
        """Propose, approve, reject or withdraw, once per idempotency key."""

    async def page(self, before: str, limit: int, status: Status | None) -> list[Proposal]:
        """List proposals without their documents, newest first."""

    async def find(self, proposal_id: str) -> Proposal | None:
        """Read one proposal."""

    async def current(self) -> list[Version]:
        """List the current versions."""

    async def versions(self, kind: GovernedKind, before: int, limit: int) -> list[Version]:
        """List a document's versions, newest first."""


class Signing(Protocol):
    """The signer's actor, as far as HTTP needs it."""

    async def sign_revocations(self, listed: RevocationList) -> str:
        """Sign the list of revoked licences; returns the envelope's text."""

    async def sign_licensing(self, document: LicensingDocument) -> str:
        """Sign what a licence needs after its issue; returns the envelope's text."""


class LicensingStore(Protocol):
    """``storage.market.licensing``; see there for errors."""

    async def offer_transfer(
        self, write: Write, transfer_id: str, document_id: str, to_buyer_id: str, life_s: int
    ) -> Recorded | None:
        """Offer a licence to another buyer."""

    async def end_transfer(self, write: Write, transfer_id: str) -> Recorded | None:
        """Withdraw or decline an offer."""

    async def accept_transfer(self, write: Write, transfer_id: str, successor: Successor) -> Recorded | None:
        """Take a licence over."""

    async def renew(
        self, write: Write, document_id: str, renewed_id: str, successor: Successor
    ) -> Recorded | None:
        """Have a licence begin where another one ends."""

    async def transfer(self, transfer_id: str) -> Transfer | None:
        """Read a transfer."""

    async def licences_of(self, buyer_id: str, before: str, limit: int) -> list[LicenceRow]:
        """List a buyer's licences."""

    async def activate(
        self, document_id: str, activation_id: str, fingerprint: str, name: str, kind: str, lease_s: int
    ) -> ActivationRow:
        """Take a seat."""

    async def heartbeat(self, activation_id: str, document_id: str, lease_s: int) -> ActivationRow:
        """Renew a seat."""

    async def release(self, activation_id: str, owner: str | None) -> bool:
        """Free a seat."""

    async def activations(self, licence_id: str) -> list[ActivationRow]:
        """List seats in use."""

    async def register_owner_key(self, write: Write, document_id: str, public_key: bytes) -> Recorded | None:
        """Record the key that proves ownership."""

    async def owner_key(self, document_id: str) -> bytes | None:
        """Read it."""

    async def challenge(self, challenge: Challenge) -> datetime:
        """Record a challenge; returns until when it may be answered."""

    async def answer(self, challenge: Challenge) -> None:
        """Use a challenge up."""


class PayloadLinks(Protocol):
    """The bucket of encrypted payloads; ``storage.s3.Bucket``."""

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        """Presign a GET of one version."""


class UploadLinks(Protocol):
    """The bucket that sellers upload to; ``storage.s3.Bucket``."""

    def link_to_put(self, key: str, lifetime_s: int) -> Link:
        """Presign a PUT."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket: ``per_s`` tokens a second, at most ``burst`` saved up."""

    per_s: float
    burst: int


@dataclass(frozen=True, slots=True)
class IngressSettings:
    """What the ingress is told.

    ``client_address_header`` (lower case) names the header in which a proxy that we trust puts the
    caller's address; None takes the connection's own.
    """

    base_url: str
    publishable_key: str
    webhook_secrets: tuple[str, ...] = field(repr=False)
    principal_rate: RateLimit = RateLimit(500, 1_000)
    address_rate: RateLimit = RateLimit(100, 200)
    client_address_header: str | None = None
    # Serve answers with the request's own X-Request-Id, which its proxy has checked or made.
    server_adds_request_id: bool = False


@dataclass(frozen=True, slots=True)
class IngressPorts:
    """The ingress's collaborators. ``checks`` answer readiness by name, each within its own deadline."""

    orders: Orders
    reads: OrderReads
    catalogue: CatalogueStore
    publisher: Publishing
    licences: LicenceStore
    licensing: LicensingStore
    access: AccessStore
    commands: CommandStore
    dead_letters: DeadLetterStore
    sales: SalesReads
    proposals: ProposalStore
    signing: Signing
    payloads: PayloadLinks
    uploads: UploadLinks
    checks: Mapping[str, Callable[[], Awaitable[bool]]]
    clock: Callable[[], datetime]
    new_id: Callable[[str], str]
    settings: IngressSettings
    collectors: Sequence[Collector] = ()
    expositions: Sequence[Callable[[], Awaitable[bytes]]] = ()
