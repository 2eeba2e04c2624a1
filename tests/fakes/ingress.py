"""A whole marketplace behind the ingress, in memory: ports for ``serve_app.app.build_app``.

Orders run through the real host, decider, issuer and publisher over fake stores, so an HTTP test sees
what a buyer would see. ``FakeMarket.writes`` counts everything that was ever stored: a refused request
must leave it unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import io
import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import httpx
import orjson

from actors.orders.effects import Effects
from actors.orders.host import OrderHost, PlacedOrder, ReleasedKey
from actors.publisher.publication import Publisher
from actors.publisher.sealing import ReleaseSealer, RevocationRequest, Seal, SealRequest
from actors.signer.issuer import Issuer, IssueRequest
from domain.errors import ConflictError, RejectedError
from domain.fulfilment import RELEASED_KEY_TTL_S, ReleaseMaterial
from domain.ids import derive_id, new_id
from domain.orders.commands import PlaceOrder
from domain.orders.events import KIND_OF
from domain.orders.ports import Fulfilment, Idempotency, PaymentNews, StoredOrder
from domain.orders.state import Order, fold
from domain.signing import KeyRecord
from serve_app.app import build_app
from serve_app.ports import IngressPorts, IngressSettings
from storage.age.recipients import public_half, recipient_text
from storage.market.access import Principal
from storage.market.catalogue import Publication, Release, ReleaseSummary, Sku, _offer
from storage.market.commands import Recorded, Write, require_same
from storage.market.licences import DeliveryOwner, DeliveryRow, LicenceRow
from storage.market.order_store import EventRecord, OrderSummary
from storage.s3 import Link, StoredObject
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.orders import FakeBooks, FakeClock, FakeGateway, FakeOrderStore

WEBHOOK_SECRET = "whsec_test"
OLD_WEBHOOK_SECRET = "whsec_rotated_out"
RECIPIENT = recipient_text(public_half(b"i" * 32))
TOKENS = {
    "buyer": ("buyer", "buyer_ada"),
    "buyer2": ("buyer", "buyer_bob"),
    "seller": ("seller", "seller_1"),
    "seller2": ("seller", "seller_2"),
    "operator": ("operator", "operator_1"),
    "fraud": ("fraud", "fraud_1"),
    "auditor": ("auditor", "auditor_1"),
}


@dataclass
class FakeMonotonic:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeCommands:
    """Idempotency keys of all writes: one table, shared with the order store as in Postgres."""

    orders: FakeOrderStore
    bodies: dict[tuple[str, str], Mapping[str, Any] | None] = field(default_factory=dict)

    async def find(self, write: Write) -> Recorded | None:
        row = self.orders.commands.get((write.principal_id, write.key))
        if row is None:
            return None
        require_same(write, row[0])
        return Recorded(row[1], self.bodies.get((write.principal_id, write.key)))

    async def claim(
        self, write: Write, subject: str, body: Mapping[str, Any] | None = None
    ) -> Recorded | None:
        earlier = await self.find(write)
        if earlier is None:
            self.orders.commands[write.principal_id, write.key] = (write.request_digest, subject)
            # Through JSON, as in the database: what cannot be stored must fail here too.
            stored = None if body is None else orjson.loads(orjson.dumps(body))
            self.bodies[write.principal_id, write.key] = stored
        return earlier


@dataclass
class FakeCatalogue:
    commands: FakeCommands
    clock: FakeClock
    skus: dict[str, Sku] = field(default_factory=dict)
    keys: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)
    publications: dict[str, Publication] = field(default_factory=dict)

    async def published(self, before: str, limit: int) -> list[Sku]:
        on_sale = [sku for sku in self.skus.values() if sku.latest_release and sku.sku_id < before]
        return sorted(on_sale, key=lambda sku: sku.sku_id, reverse=True)[:limit]

    async def find(self, name_or_id: str) -> Sku | None:
        return next((s for s in self.skus.values() if name_or_id in (s.sku_id, s.name)), None)

    async def offers(self, sku_ids: Sequence[str], currency: str) -> dict[str, Any]:
        return {sku_id: _offer(sku_id, self.skus.get(sku_id), currency) for sku_id in sku_ids}

    async def create_sku(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is None:
            if await self.find(sku.name):
                raise ConflictError("sku_name_taken", "taken")
            self.skus[sku.sku_id] = sku
            await self.commands.claim(write, sku.sku_id, body)
        return earlier

    async def register_seller_key(
        self, write: Write, key_id: str, public_key: bytes, body: Mapping[str, Any]
    ) -> Recorded | None:
        if self.keys.get(key_id, (write.principal_id,))[0] != write.principal_id:
            raise ConflictError("seller_key_taken", "taken")
        earlier = await self.commands.claim(write, key_id, body)
        self.keys[key_id] = (write.principal_id, public_key)
        return earlier

    async def seller_keys(self, seller_id: str) -> dict[str, bytes]:
        return {key_id: key for key_id, (owner, key) in self.keys.items() if owner == seller_id}

    async def draft_release(
        self, write: Write, release: Release, created_at: object, body: Mapping[str, Any]
    ) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is None:
            taken = [(one.sku_id, one.version) for one in self.releases.values()]
            if (release.sku_id, release.version) in taken:
                raise ConflictError("release_version_taken", "taken")
            self.releases[release.release_id] = release
            await self.commands.claim(write, release.release_id, body)
        return earlier

    async def release(self, release_id: str) -> Release | None:
        return self.releases.get(release_id)

    async def publish(self, write: Write, publication: Publication) -> bool:
        release = self.releases[publication.release_id]
        if release.state != "draft":
            return False
        if await self.commands.claim(write, publication.release_id) is not None:
            raise RejectedError("idempotency_key_reused", "reused")
        self.publications[publication.release_id] = publication
        self.releases[release.release_id] = replace(
            release,
            state="published",
            manifest=publication.manifest,
            countersignature=publication.countersignature,
            minisig=publication.minisig,
            bundle_sha256=publication.bundle_sha256,
            bundle_bytes=publication.bundle_bytes,
            payload_sha256=publication.payload_sha256,
            payload_bytes=publication.payload_bytes,
            published_at=publication.published_at,
        )
        summary = ReleaseSummary(
            release.release_id,
            release.version,
            release.bundle_name,
            publication.bundle_sha256,
            publication.bundle_bytes,
            publication.licence_days,
            publication.published_at,
        )
        self.skus[release.sku_id] = replace(self.skus[release.sku_id], latest_release=summary)
        return True


@dataclass
class FakeBucket:
    """Versions in memory; ``call`` runs at once."""

    name: str
    clock: FakeClock
    objects: dict[str, list[bytes]] = field(default_factory=dict)

    async def call(self, work: Any) -> Any:
        return work()

    def put(self, key: str, data: bytes) -> None:
        self.objects.setdefault(key, []).append(data)

    def newest(self, key: str) -> StoredObject | None:
        versions = self.objects.get(key)
        return StoredObject(key, str(len(versions)), len(versions[-1])) if versions else None

    def open(self, stored: StoredObject) -> io.BytesIO:
        return io.BytesIO(self.objects[stored.key][int(stored.version_id) - 1])

    def writer(self, key: str) -> FakeWriter:
        return FakeWriter(self, key)

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        url = f"https://s3.test/{self.name}/{key}?versionId={version_id}"
        return Link(url, self.clock() + timedelta(seconds=lifetime_s))

    def link_to_put(self, key: str, lifetime_s: int) -> Link:
        return Link(f"https://s3.test/{self.name}/{key}", self.clock() + timedelta(seconds=lifetime_s))


class FakeWriter(contextlib.AbstractContextManager["FakeWriter"]):
    def __init__(self, bucket: FakeBucket, key: str) -> None:
        self._bucket, self._key, self._data = bucket, key, bytearray()

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: memoryview, /) -> int:
        self._data += data
        return len(data)

    def finish(self) -> StoredObject:
        self._bucket.put(self._key, bytes(self._data))
        stored = self._bucket.newest(self._key)
        assert stored is not None
        return stored


@dataclass
class FakeAccess:
    commands: FakeCommands
    holders: dict[bytes, Principal] = field(default_factory=dict)
    lookups: int = 0
    failure: Exception | None = None

    async def principal(self, token_sha256: bytes) -> Principal | None:
        self.lookups += 1
        if self.failure is not None:
            raise self.failure
        return self.holders.get(token_sha256)

    async def issue(
        self, write: Write, token_sha256: bytes, holder: Principal, body: Mapping[str, Any]
    ) -> Recorded | None:
        earlier = await self.commands.claim(write, holder.principal_id, body)
        if earlier is None:
            self.holders[token_sha256] = holder
        return earlier


@dataclass
class FakeReads:
    """The order store as the ingress reads it."""

    store: FakeOrderStore
    failure: Exception | None = None

    async def load(self, order_id: str) -> StoredOrder | None:
        if self.failure is not None:
            raise self.failure
        return await self.store.load(order_id)

    async def list_of_buyer(self, buyer_id: str, before: str, limit: int) -> list[OrderSummary]:
        summaries = []
        for order_id, row in sorted(self.store.orders.items(), reverse=True):
            order = fold(order_id, row.events)
            assert order is not None
            if row.buyer_id == buyer_id and order_id < before:
                summaries.append(
                    OrderSummary(
                        order_id,
                        order.status.value,
                        order.currency,
                        order.total_minor,
                        order.created_at,
                        order.updated_at,
                    )
                )
        return summaries[:limit]

    async def events_since(self, watched: Mapping[str, int]) -> list[EventRecord]:
        if self.failure is not None:
            raise self.failure
        records = []
        for order_id, seq in watched.items():
            row = self.store.orders.get(order_id)
            for number, event in enumerate(row.events if row else [], 1):
                if number > seq:
                    data = orjson.loads(orjson.dumps(event))
                    kind = KIND_OF[type(event)]
                    records.append(
                        EventRecord(
                            order_id, number, derive_id("evt", order_id, str(number)), kind, data, event.at
                        )
                    )
        return records

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        if self.failure is not None:
            raise self.failure
        return await self.store.store_webhook(news)


@dataclass
class FakeDirectory:
    """Orders' hosts: one real host; ``failure`` is raised instead of an answer."""

    host: OrderHost
    failure: Exception | None = None
    calls: int = 0

    async def place(self, command: PlaceOrder, idempotency_key: str, request_digest: bytes) -> PlacedOrder:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        return await self.host.place(command, Idempotency(idempotency_key, request_digest))

    async def apply_news(self, news: PaymentNews) -> None:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        await self.host.apply_news(news)

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        self.calls += 1
        return await self.host.release_key(order_id, delivery_id)


class FakeSigner:
    """The signer's actor over a key in memory."""

    def __init__(self, market: FakeMarket) -> None:
        self._market = market
        self._sealer = ReleaseSealer(market.keys, market.keys)
        self._issuer = Issuer(market.keys, market.keys)
        self.failure: Exception | None = None
        self.signed_lists = 0

    async def seal_release(self, request: SealRequest) -> Seal:
        if self.failure is not None:
            raise self.failure
        return self._sealer.seal_release(request)

    async def sign_revocations(self, request: RevocationRequest) -> str:
        if self.failure is not None:
            raise self.failure
        self.signed_lists += 1
        return self._sealer.sign_revocations(request)

    async def fulfil(self, order: Order) -> Fulfilment:
        materials = tuple(self._market.material(line.release_id) for line in order.lines)
        (answer,) = await self._issuer.issue([IssueRequest(order, materials)])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def open_identity(self, order_id: str, delivery_id: str) -> tuple[str, Any]:
        delivery = self._market.store.deliveries[delivery_id]
        assert delivery.wrapped_identity is not None
        expires_at = self._market.delivered_at(order_id) + timedelta(seconds=RELEASED_KEY_TTL_S)
        if self._market.clock() >= expires_at:
            raise RejectedError("delivery_key_expired", "too late")
        return self._issuer.unwrap_identity(delivery_id, delivery.wrapped_identity), expires_at


@dataclass
class FakeLicences:
    """Reads over the order store's licences and deliveries; ``statuses`` overrides ``active``."""

    market: FakeMarket
    statuses: dict[str, str] = field(default_factory=dict)

    def _buyer_of(self, order_id: str) -> str:
        return self.market.store.orders[order_id].buyer_id

    def _order_of(self, thing_id: str, names: str) -> str:
        for order_id, row in self.market.store.orders.items():
            order = fold(order_id, row.events)
            if order is not None and thing_id in getattr(order, names):
                return order_id
        raise AssertionError(f"nobody's {thing_id}")

    async def licence(self, licence_id: str) -> LicenceRow | None:
        issued = self.market.store.licences.get(licence_id)
        if issued is None:
            return None
        order_id = self._order_of(licence_id, "licence_ids")
        return LicenceRow(
            licence_id,
            order_id,
            issued.line_no,
            self._buyer_of(order_id),
            issued.sku_id,
            issued.release_id,
            issued.quantity,
            self.statuses.get(licence_id, "active"),
            issued.key_id,
            issued.envelope,
            issued.issued_at,
        )

    async def status(self, licence_id: str) -> str | None:
        known = licence_id in self.market.store.licences
        return self.statuses.get(licence_id, "active") if known else None

    async def revoked(self) -> list[str]:
        return sorted(one for one, status in self.statuses.items() if status == "revoked")

    async def keys(self) -> list[KeyRecord]:
        return [self.market.key_record]

    async def deliveries(self, order_id: str) -> list[DeliveryRow]:
        order = fold(order_id, self.market.store.orders[order_id].events)
        assert order is not None
        rows = []
        for delivery_id, licence_id in zip(order.delivery_ids, order.licence_ids, strict=True):
            sealed = self.market.store.deliveries[delivery_id]
            publication = self.market.catalogue.publications[sealed.release_id]
            ttl = None if sealed.key_ttl_s is None else timedelta(seconds=sealed.key_ttl_s)
            rows.append(
                DeliveryRow(
                    delivery_id,
                    sealed.line_no,
                    sealed.release_id,
                    licence_id,
                    sealed.mode,
                    sealed.recipient,
                    self.market.catalogue.releases[sealed.release_id].bundle_name,
                    sealed.header,
                    sealed.manifest,
                    publication.payload_key,
                    publication.payload_version,
                    publication.payload_bytes,
                    publication.payload_sha256,
                    self.market.store.licences[licence_id].envelope,
                    None if ttl is None else self.market.delivered_at(order_id) + ttl,
                )
            )
        return rows

    async def delivery_owner(self, delivery_id: str) -> DeliveryOwner | None:
        if delivery_id not in self.market.store.deliveries:
            return None
        order_id = self._order_of(delivery_id, "delivery_ids")
        return DeliveryOwner(order_id, self._buyer_of(order_id))


class FakeMarket:
    """See the module."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.monotonic = FakeMonotonic()
        self.keys = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
        self.key_record = register(self.keys.public_key, self.clock() - timedelta(days=30))
        self.store = FakeOrderStore(self.clock)
        self.commands = FakeCommands(self.store)
        self.catalogue = FakeCatalogue(self.commands, self.clock)
        self.uploads = FakeBucket("uploads", self.clock)
        self.payloads = FakeBucket("payloads", self.clock)
        self.signer = FakeSigner(self)
        self.gateway = FakeGateway()
        effects = Effects(self.gateway, FakeBooks(), self.signer, self.clock)
        self.directory = FakeDirectory(OrderHost(self.store, effects, self.clock))
        self.reads = FakeReads(self.store)
        self.licences = FakeLicences(self)
        self.access = FakeAccess(self.commands)
        self.publisher = Publisher(self.catalogue, self.uploads, self.payloads, self.signer, self.clock)  # type: ignore[arg-type]
        self.checks: dict[str, bool] = {"database": True, "order_hosts": True, "signer": True}
        self._numbers = itertools.count(1)
        for token, (role, principal_id) in TOKENS.items():
            self.add_token(token, role, principal_id)
        self.settings = IngressSettings(
            **{
                "base_url": "http://market.test",
                "publishable_key": "pk_test",
                "webhook_secrets": (WEBHOOK_SECRET, OLD_WEBHOOK_SECRET),
                **settings,
            }
        )

    def add_token(self, token: str, role: str, principal_id: str) -> None:
        self.access.holders[hashlib.sha256(token.encode()).digest()] = Principal(role, principal_id)

    def new_id(self, prefix: str) -> str:
        number = next(self._numbers)
        return new_id(prefix, int(self.clock().timestamp() * 1000), number.to_bytes(10))

    def material(self, release_id: str) -> ReleaseMaterial:
        one = self.catalogue.publications[release_id]
        name = self.catalogue.releases[release_id].bundle_name
        return ReleaseMaterial(
            release_id,
            name,
            one.bundle_sha256,
            one.bundle_bytes,
            one.payload_sha256,
            one.payload_bytes,
            one.wrapped_file_key,
        )

    def delivered_at(self, order_id: str) -> Any:
        return self.store.orders[order_id].events[-1].at

    def check(self, name: str) -> Any:
        async def answer() -> bool:
            return self.checks[name]

        return answer

    def app(self, **options: Any) -> Any:
        ports = IngressPorts(
            orders=self.directory,
            reads=self.reads,
            catalogue=self.catalogue,
            publisher=self.publisher,
            licences=self.licences,
            access=self.access,
            commands=self.commands,
            signing=self.signer,
            payloads=self.payloads,
            uploads=self.uploads,
            checks={name: self.check(name) for name in self.checks},
            clock=self.clock,
            new_id=self.new_id,
            settings=self.settings,
        )
        return build_app(ports, monotonic=self.monotonic, **options)

    def writes(self) -> dict[str, int]:
        """Count everything stored."""
        return {
            "orders": len(self.store.orders),
            "events": sum(len(row.events) for row in self.store.orders.values()),
            "inbox": len(self.store.inbox),
            "commands": len(self.store.commands),
            "skus": len(self.catalogue.skus),
            "keys": len(self.catalogue.keys),
            "releases": len(self.catalogue.releases),
            "publications": len(self.catalogue.publications),
            "payloads": len(self.payloads.objects),
            "tokens": len(self.access.holders),
            "intents": len(self.gateway.intents),
        }

    def list_sku(
        self, name: str = "logline", seller_id: str = "seller_1", prices: dict[str, int] | None = None
    ) -> Sku:
        """Put a SKU without a release into the catalogue."""
        sku = Sku(self.new_id("sku"), name, "Title", "Text", seller_id, self.clock(), prices or {"USD": 1999})
        self.catalogue.skus[sku.sku_id] = sku
        return sku

    def list_published(self, name: str = "logline", **more: Any) -> Sku:
        """Put a SKU with a published release into the catalogue, as publication would leave it."""
        sku = self.list_sku(name, **more)
        release_id = self.new_id("rel")
        file_key, payload = b"f" * 16, b"payload of " + name.encode()
        seal = ReleaseSealer(self.keys, self.keys)._wrapper.wrap(
            file_key, {"purpose": "release-file-key", "release_id": release_id}
        )
        bundle_name = f"{name}-1.0.0.tar.gz"
        self.catalogue.releases[release_id] = Release(
            release_id, sku.sku_id, name, sku.seller_id, "1.0.0", "published", bundle_name, "k",
            manifest="{}", countersignature="{}", minisig="m", bundle_sha256="ab" * 32, bundle_bytes=100,
            payload_sha256="cd" * 32, payload_bytes=len(payload), published_at=self.clock(),
        )  # fmt: skip
        self.catalogue.publications[release_id] = Publication(
            release_id, "{}", "{}", "m", "ab" * 32, 100, None, f"{release_id}.age-payload", "v1",
            "cd" * 32, len(payload), self.clock(), seal,
        )  # fmt: skip
        summary = ReleaseSummary(release_id, "1.0.0", bundle_name, "ab" * 32, 100, None, self.clock())
        sku = self.catalogue.skus[sku.sku_id] = replace(sku, latest_release=summary)
        return sku


class Client:
    """An HTTP client of one application, speaking as ``token``; writes get a fresh key unless given one."""

    def __init__(self, app: Any, token: str | None = None) -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://market.test")
        self.token = token
        run = secrets.token_hex(4)  # a database may outlive this client and know its keys
        self._keys = (f"key-{run}-{number}" for number in itertools.count(1))

    def as_(self, token: str | None) -> Client:
        other = object.__new__(Client)
        other.http, other.token, other._keys = self.http, token, self._keys
        return other

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=self._headers(headers))

    async def post(
        self, path: str, body: Any = None, *, key: str | None = "fresh", content: Any = None, **headers: str
    ) -> httpx.Response:
        if key == "fresh":
            key = next(self._keys)
        if key is not None:
            headers["idempotency_key"] = key
        headers.setdefault("content_type", "application/json")
        data = content if content is not None else orjson.dumps(body)
        return await self.http.post(path, content=data, headers=self._headers(headers))

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            named.setdefault("authorization", f"Bearer {self.token}")
        return named


def stripe_event(
    order_id: str | None,
    amount_minor: int = 1999,
    *,
    kind: str = "payment_intent.succeeded",
    event_id: str = "evt_1",
    intent_id: str = "pi_1",
    **intent: Any,
) -> dict[str, Any]:
    """Build an event of Stripe's about a payment intent."""
    metadata = {} if order_id is None else {"order_id": order_id}
    document = {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount_minor,
        "amount_received": amount_minor if kind.endswith("succeeded") else 0,
        "currency": "usd",
        "metadata": metadata,
        "last_payment_error": None,
        **intent,
    }
    return {"id": event_id, "object": "event", "type": kind, "data": {"object": document}}


def signed(body: bytes, at_s: int, secret: str = WEBHOOK_SECRET) -> str:
    """Build a ``Stripe-Signature`` header as Stripe's documentation describes it."""
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest},v0={'0' * 64}"


async def settle(market: FakeMarket) -> None:
    """Let background work run until the host has no effect in flight."""
    tasks = market.directory.host._tasks
    for _ in range(200):
        await asyncio.sleep(0)
    while tasks:
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)


async def pay(
    market: FakeMarket, client: Client, order_id: str, amount_minor: int = 1999, **event: Any
) -> httpx.Response:
    """Send the webhook of an order's payment and wait until the order has settled."""
    intent_id = market.gateway.intents[order_id]
    body = orjson.dumps(stripe_event(order_id, amount_minor, intent_id=intent_id, **event))
    signature = signed(body, int(market.clock().timestamp()))
    answer = await client.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )
    await settle(market)
    return answer
