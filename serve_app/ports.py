"""What the ingress needs of the world: ports that actors and storage adapt and ``tests/fakes`` imitate.

Nothing here is decided. ``IngressPorts`` is all that ``build_app`` is handed, so the whole HTTP layer
runs in a test without sockets, Ray or Postgres.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Protocol

from prometheus_client.registry import Collector

from actors.orders.host import ActedOrder, EvidenceReply, PlacedOrder, RefundReply, ReleasedKey
from actors.payouts.desk import PayoutDesk
from actors.publisher.uploads import UploadState
from domain.catalogue import Offer
from domain.orders.commands import CancelOrder, DecideReview, PlaceOrder, PrepareEvidence, RequestRefund
from domain.orders.ports import Idempotency, NumberedEvent, PaymentNews, StoredOrder, Terms, Turn
from domain.orders.state import ReviewStatus
from domain.pricing.discounts import Discount
from domain.pricing.taxes import TaxCalculator, TaxTable
from domain.proposals.documents import Kind as GovernedKind
from domain.proposals.state import Proposal, Status, Version
from domain.reconciliation.cases import Case, CaseStatus
from serve_app.licence_ports import AuditReads, LicenceStore, LicensingStore, Signing, SigningKeyStore
from storage.market.access import Principal
from storage.market.cases import CaseDecision, RunRow
from storage.market.catalogue import PriceList, Release, ReleaseSummary, Sku
from storage.market.commands import Recorded, Write
from storage.market.dead_letters import DeadLetter, Decision, Kind
from storage.market.deliveries import IssuedLink
from storage.market.discounts import DiscountRow
from storage.market.order_store import OrderSummary
from storage.market.proposals import Governing, Receipt, Request
from storage.market.releases import SellerKey
from storage.market.reviews import Review
from storage.market.sales import SalesCursor, SalesDay
from storage.market.taxes import TaxTableVersion
from storage.s3 import Link, StoredObject


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

    async def act(self, order_id: str, command: CancelOrder | DecideReview) -> ActedOrder:
        """Take a buyer's or a reviewer's decision about an order."""

    async def prepare_evidence(self, order_id: str, command: PrepareEvidence) -> EvidenceReply:
        """Record what is said to the bank in a dispute, and have Stripe take it."""


class OrderReads(Protocol):
    """Postgres as the authority on orders; ``storage.market.order_store``."""

    async def load(self, order_id: str) -> StoredOrder | None:
        """Read an order's history."""

    async def order_of_payment(self, payment_intent_id: str) -> str | None:
        """Find the order that a PaymentIntent has paid."""

    async def disputed(
        self, before: tuple[datetime, str, str] | None, limit: int
    ) -> list[tuple[str, str, datetime]]:
        """List disputes of orders that are disputed: (order, dispute, when), the newest first."""

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

    async def offers(
        self, sku_ids: Sequence[str], currency: str, channels: Mapping[str, str] | None = None
    ) -> dict[str, Offer]:
        """Quote SKUs, each on its channel."""

    async def create_sku(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        """List a SKU."""

    async def set_prices(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        """Put a price list in force."""

    async def price_lists(self, sku_id: str, before: int, limit: int) -> list[PriceList]:
        """List price lists, newest first."""

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


class ReleaseStore(Protocol):
    """``storage.market.releases``; see there for errors."""

    async def heads(self, sku_id: str) -> dict[str, ReleaseSummary]:
        """Return the newest published release of each channel."""

    async def yank(self, write: Write, release_id: str, reason: str, at: datetime) -> Recorded | None:
        """Yank a published release."""

    async def expect_bundle(self, release_id: str, kept_s: int) -> None:
        """Say that a bundle may be uploaded for a draft; it is kept that long unless it is published."""

    async def seller_keys(self, seller_id: str) -> list[SellerKey]:
        """List a seller's keys."""

    async def seller_key(self, seller_id: str, key_id: str) -> SellerKey | None:
        """Read one of a seller's keys."""

    async def revoke_key(
        self, write: Write, key_id: str, state: str, reason: str, at: datetime
    ) -> Recorded | None:
        """Revoke a seller's key."""


class PartedUploads(Protocol):
    """``actors.publisher.uploads``."""

    async def begin(self, release: Release, bundle_bytes: int) -> UploadState:
        """Begin an upload, or tell how the one that was begun stands."""

    async def complete(self, release: Release, etags: Mapping[int, str]) -> str:
        """Make the bundle of its parts; returns the version."""


class Publishing(Protocol):
    """``actors.publisher.publication``."""

    async def publish(self, write: Write, release_id: str, manifest_text: str) -> Release:
        """Publish a release under the seller's signed manifest."""


class DeliveryStore(Protocol):
    """``storage.market.deliveries``; see there for errors."""

    async def take_links(
        self, order_id: str, delivery_ids: Sequence[str], issued_to: str, kind: str, expires_at: datetime
    ) -> None:
        """Count and record one link to each delivery, or none at all."""

    async def links(self, delivery_id: str) -> list[IssuedLink]:
        """List the links to a delivery, newest first."""


class Joining(Protocol):
    """``actors.deliveries.joining``."""

    async def joined(self, delivery_id: str, header: bytes, payload: StoredObject) -> StoredObject:
        """Return the object that holds header and payload, making it if need be."""


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


class CaseStore(Protocol):
    """``storage.market.cases``; see there for errors."""

    async def page(
        self, status: CaseStatus | None, kind: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[Case]:
        """List reconciliation cases, the one opened last first."""

    async def find(self, case_id: str) -> Case | None:
        """Read one case."""

    async def decide(self, write: Write, decision: CaseDecision, body: Mapping[str, Any]) -> Recorded | None:
        """Close a case or ask for its fix, once per idempotency key."""

    async def runs(self, before: str, limit: int) -> list[RunRow]:
        """List reconciliations, newest first."""


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


class ReviewReads(Protocol):
    """``storage.market.reviews``."""

    async def page(self, before: str, limit: int, status: ReviewStatus | None) -> list[Review]:
        """List reviews, newest order first."""


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


class GovernedReads(Protocol):
    """``storage.market.proposals.Governed``: the documents in force, as of the last few seconds."""

    async def current(self, kind: GovernedKind) -> Governing:
        """Return the current version."""


class DiscountStore(Protocol):
    """``storage.market.discounts``; see there for errors."""

    async def create(
        self,
        write: Write,
        discount: Discount,
        created_at: datetime,
        body: Mapping[str, Any],
        *,
        action_id: str,
        reason: str,
    ) -> Recorded | None:
        """Make a code."""

    async def end(
        self,
        write: Write,
        discount_id: str,
        body: Mapping[str, Any],
        *,
        by_operator: bool,
        action_id: str,
        reason: str,
    ) -> Recorded | None:
        """End a code."""

    async def find_code(self, code: str) -> DiscountRow | None:
        """Read a code."""

    async def find(self, discount_id: str) -> DiscountRow | None:
        """Read a code by its id."""

    async def page(self, seller_id: str | None, before: str, limit: int) -> list[DiscountRow]:
        """List codes, newest first."""


class TaxTableStore(Protocol):
    """``storage.market.taxes``; see there for errors."""

    async def current(self) -> TaxTableVersion:
        """Read the table in force."""

    async def replace(
        self,
        write: Write,
        table: TaxTable,
        base_version: int,
        body: Mapping[str, Any],
        *,
        action_id: str,
        reason: str,
    ) -> Recorded | None:
        """Put a table in force."""


class PayloadLinks(Protocol):
    """The bucket of encrypted payloads; ``storage.s3.Bucket``."""

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        """Presign a GET of one version."""


class UploadLinks(Protocol):
    """The bucket that sellers upload to, and that holds joined deliveries; ``storage.s3.Bucket``."""

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        """Presign a GET of one version."""

    def link_to_put(self, key: str, lifetime_s: int) -> Link:
        """Presign a PUT."""

    def link_to_put_part(self, key: str, upload_id: str, number: int, lifetime_s: int) -> Link:
        """Presign a PUT of one part."""


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
    """The ingress's collaborators. ``checks`` answer readiness by name, each within its own deadline.

    A failure of a ``deferrable`` one is shown and takes nothing from readiness: orders are accepted, and what
    needs that part waits for it.
    """

    orders: Orders
    reads: OrderReads
    catalogue: CatalogueStore
    publisher: Publishing
    releases: ReleaseStore
    part_uploads: PartedUploads
    licences: LicenceStore
    signing_keys: SigningKeyStore
    audit: AuditReads
    deliveries: DeliveryStore
    joiner: Joining
    licensing: LicensingStore
    access: AccessStore
    commands: CommandStore
    dead_letters: DeadLetterStore
    cases: CaseStore
    sales: SalesReads
    proposals: ProposalStore
    governed: GovernedReads
    discounts: DiscountStore
    taxes: TaxCalculator
    tax_tables: TaxTableStore
    payouts: PayoutDesk
    reviews: ReviewReads
    terms: Terms
    signing: Signing
    payloads: PayloadLinks
    uploads: UploadLinks
    checks: Mapping[str, Callable[[], Awaitable[bool]]]
    clock: Callable[[], datetime]
    new_id: Callable[[str], str]
    settings: IngressSettings
    deferrable: frozenset[str] = frozenset()
    collectors: Sequence[Collector] = ()
    expositions: Sequence[Callable[[], Awaitable[bytes]]] = ()
