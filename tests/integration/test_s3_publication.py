"""A seller publishes and a buyer buys through the whole ingress, over a real Postgres and a real S3.

Only Stripe, Finance and Ray's handles are stand-ins: the hosts, the signer, the publisher and the routes
are the product's own. What the buyer downloads is opened by an independent reader of the age format.
"""

import asyncio
import base64
import gzip
import hashlib
import io
import tarfile
import time

import httpx
import orjson
import psycopg
import pyrage
import pytest

from actors.deliveries.joining import Joiner
from actors.deliveries.upkeep import StorageUpkeep
from actors.orders.effects import Effects
from actors.orders.fulfilment import SignerFulfiller
from actors.orders.host import OrderHost
from actors.publisher.publication import Publisher
from actors.publisher.sealing import ReleaseSealer
from actors.publisher.uploads import PartUploads
from actors.signer.issuer import Issuer
from deployments.clock import draw_id, utc_now
from domain import manifests, statements
from domain.dsse import sign_all
from domain.licence_policies import OfferedPolicy
from domain.manifests import ReleaseManifest
from domain.semver import parse_version
from serve_app.app import build_app
from serve_app.ports import IngressPorts, IngressSettings
from storage.market.access import AccessTokens, Principal, register_access_tokens
from storage.market.audit_log import AuditLog
from storage.market.cases import Cases
from storage.market.catalogue import Catalogue
from storage.market.commands import Commands, Write
from storage.market.dead_letters import DeadLetters
from storage.market.deliveries import Deliveries
from storage.market.discounts import Discounts
from storage.market.fulfilment import FulfilmentReads
from storage.market.governed import GovernedTerms
from storage.market.licences import LicenceReads
from storage.market.licensing import Licensing
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.market.proposals import Governed, Proposals
from storage.market.publications import Publications
from storage.market.releases import Releases
from storage.market.reviews import Reviews
from storage.market.sales import Sales
from storage.market.signing_keys import SigningKeys, register_signing_key
from storage.market.taxes import TaxTables
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.http_client import Client, signed, stripe_event
from tests.fakes.ingress import WEBHOOK_SECRET
from tests.fakes.market_orders import FakeDirectory
from tests.fakes.orders import FakeBooks, FakeGateway
from tests.integration.seaweed_server import running

pytestmark = pytest.mark.integration

SELLER_KEYS = DevelopmentKeyFile(b"k" * 32, b"w" * 32)
PLATFORM_KEYS = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
DEADLINE_S = 20.0


class InProcessSigner:
    """The signer's actor without Ray."""

    def __init__(self):
        self._sealer = ReleaseSealer(PLATFORM_KEYS, PLATFORM_KEYS)
        self._issuer = Issuer(PLATFORM_KEYS, PLATFORM_KEYS)

    async def seal_release(self, request):
        return self._sealer.seal_release(request)

    async def sign_revocations(self, request):
        return self._sealer.sign_revocations(request)

    async def issue(self, requests):
        return self._issuer.issue(requests)

    async def unwrap_identity(self, delivery_id, wrapped):
        return self._issuer.unwrap_identity(delivery_id, wrapped)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("weed")) as started:
        yield started


@pytest.fixture(scope="module")
def migrated(migrated):
    tokens = {"seller": "seller_1", "buyer": "buyer_ada", "operator": "operator_1"}
    register_access_tokens(
        migrated.dsn_for("market_app"),
        [(hashlib.sha256(role.encode()).digest(), Principal(role, who)) for role, who in tokens.items()],
    )
    record = register(PLATFORM_KEYS.public_key, utc_now())
    register_signing_key(migrated.dsn_for("market_app"), record)
    return migrated


class Market:
    """The application, and what stands in for Stripe."""

    def __init__(self, pool, uploads, payloads):
        signer, store = InProcessSigner(), PostgresOrderStore(pool)
        self.gateway = FakeGateway()
        fulfiller = SignerFulfiller(FulfilmentReads(pool), signer.issue, signer.unwrap_identity)
        effects = Effects(self.gateway, FakeBooks(), fulfiller, utc_now, time.monotonic)
        self.host = OrderHost(store, effects, utc_now, time.monotonic)
        catalogue = Catalogue(pool)

        self.pool, self.uploads, self.payloads = pool, uploads, payloads
        parts = (catalogue, Publications(pool), uploads, payloads, signer, utc_now)
        self.publishers = (Publisher(*parts), Publisher(*parts))

        async def ready():
            return True

        self.app = build_app(
            IngressPorts(
                orders=FakeDirectory(self.host),
                reads=store,
                catalogue=catalogue,
                publisher=self.publishers[0],
                releases=Releases(pool),
                part_uploads=PartUploads(Releases(pool), uploads),
                licences=LicenceReads(pool),
                signing_keys=SigningKeys(pool),
                audit=AuditLog(pool),
                deliveries=Deliveries(pool),
                joiner=Joiner(Deliveries(pool), payloads, uploads),
                licensing=Licensing(pool),
                access=AccessTokens(pool),
                commands=Commands(pool),
                dead_letters=DeadLetters(pool),
                cases=Cases(pool),
                sales=Sales(pool),
                proposals=Proposals(pool),
                governed=Governed(pool, time.monotonic),
                discounts=Discounts(pool),
                taxes=TaxTables(pool, time.monotonic),
                tax_tables=TaxTables(pool, time.monotonic),
                payouts=None,
                reviews=Reviews(pool),
                terms=GovernedTerms(Governed(pool, time.monotonic)),
                signing=signer,
                payloads=payloads,
                uploads=uploads,
                checks={"database": ready},
                clock=utc_now,
                new_id=draw_id,
                settings=IngressSettings("http://market.test", "pk_test", (WEBHOOK_SECRET,)),
            )
        )


@pytest.fixture
async def market(migrated, s3_server):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await pool.open(wait=True)
    uploads, payloads = s3_server.bucket("uploads"), s3_server.bucket("payloads")
    made = Market(pool, uploads, payloads)
    yield made
    await made.host.close()
    await pool.close()
    uploads.close()
    payloads.close()


@pytest.fixture
def seller(market):
    return Client(market.app, "seller")


def bundle(size):
    plain = io.BytesIO()
    content = b"".join(hashlib.sha256(n.to_bytes(8)).digest() for n in range(size // 32))
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member = tarfile.TarInfo("logline/bin/logline")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), 1)


async def drafted(seller, name, data):
    """List, register, draft, upload by the link; returns (SKU, draft, body to publish it with)."""
    new_sku = {"name": name, "title": "T", "description": "", "prices": {"USD": 1999}}
    sku = (await seller.post("/v1/skus", new_sku)).json()
    key = base64.b64encode(SELLER_KEYS.public_key).decode()
    assert (await seller.post("/v1/seller-keys", {"public_key": key}, key=f"{name}-key")).status_code == 201
    file_name = f"{name}-1.0.0.tar.gz"
    draft = (
        await seller.post(f"/v1/skus/{sku['id']}/releases", {"version": "1.0.0", "bundle_name": file_name})
    ).json()
    async with httpx.AsyncClient() as plain:
        (await plain.put(draft["upload"]["url"], content=data)).raise_for_status()
    digest = hashlib.sha256(data).hexdigest()
    manifest = ReleaseManifest(
        bundle_name=file_name,
        bundle_sha256=digest,
        size=len(data),
        sku=name,
        version=parse_version("1.0.0"),
        entry_point="bin/logline",
        platform="any",
        licence_policy=OfferedPolicy(),
        description="Text.",
    )
    payload = manifests.build(manifest)
    (envelope,) = sign_all(SELLER_KEYS, statements.PAYLOAD_TYPE, [payload])
    return sku, draft, {"manifest": orjson.loads(envelope.dumps())}


async def released(seller, name, data):
    """The same, published; returns (SKU, published release, body)."""
    sku, draft, body = await drafted(seller, name, data)
    answer = await seller.post(f"/v1/releases/{draft['id']}/publish", body, key=f"{name}-publish")
    assert answer.status_code == 200, answer.text
    return sku, answer.json(), body


async def bought(market, client, sku, delivery):
    body = {"lines": [{"sku_id": sku["id"], "quantity": 1}], "currency": "USD", "delivery": delivery}
    order = (await client.post("/v1/orders", body)).json()
    event = stripe_event(
        order["id"], intent_id=order["payment"]["payment_intent_id"], event_id=draw_id("evt")
    )
    raw = orjson.dumps(event)
    hook = await client.as_(None).post(
        "/v1/webhooks/stripe", content=raw, key=None, stripe_signature=signed(raw, int(time.time()))
    )
    assert hook.json()["outcome"] == "applied"
    async with asyncio.timeout(DEADLINE_S):
        while (await client.get(f"/v1/orders/{order['id']}")).json()["status"] != "delivered":
            await asyncio.sleep(0.02)
    (item,) = (await client.get(f"/v1/orders/{order['id']}/deliveries")).json()["items"]
    async with httpx.AsyncClient() as plain:
        payload = (await plain.get(item["payload"]["url"])).raise_for_status().content
    assert hashlib.sha256(payload).hexdigest() == item["payload"]["sha256"]
    assert len(payload) == item["payload"]["bytes"]
    return order, item, base64.b64decode(item["header_base64"]) + payload


async def test_a_bundle_travels_from_its_seller_to_two_buyers_keys(market, seller):
    data = bundle(300_000)
    sku, release, manifest = await released(seller, "logline", data)
    buyer = seller.as_("buyer")
    identity = pyrage.x25519.Identity.generate()
    _, item, age_file = await bought(
        market, buyer, sku, {"mode": "recipient", "recipient": str(identity.to_public())}
    )
    assert pyrage.decrypt(age_file, [identity]) == data
    order, released_item, age_file = await bought(market, buyer, sku, {"mode": "released_key"})
    answer = await buyer.post(f"/v1/deliveries/{released_item['id']}/key", {})
    key = pyrage.x25519.Identity.from_str(answer.json()["identity"])
    assert pyrage.decrypt(age_file, [key]) == data
    # One payload for both: only the headers differ.
    assert item["payload"]["sha256"] == released_item["payload"]["sha256"] == release["payload_sha256"]
    report = await seller.as_(None).post(
        "/v1/licences/verify", {"licence": item["licence"]["armoured"], "buyer_id": "buyer_ada"}, key=None
    )
    assert report.json()["valid"] is True
    listed = (await buyer.get("/v1/orders?limit=1")).json()
    assert listed["items"][0]["id"] == order["id"]
    assert listed["next_cursor"] is not None
    # A repeated publication changes nothing.
    again = await seller.post(f"/v1/releases/{release['id']}/publish", manifest, key="logline-publish")
    assert (again.json(), again.headers["idempotent-replayed"]) == (release, "true")


async def test_a_bundle_of_several_parts_is_encrypted_whole(market, seller, monkeypatch):
    monkeypatch.setattr("storage.s3.PART_BYTES", 5 * 2**20)
    data = bundle(12 * 2**20)
    sku, release, _ = await released(seller, "large", data)
    assert release["bundle_bytes"] == len(data) > 11 * 2**20
    identity = pyrage.x25519.Identity.generate()
    _, _, age_file = await bought(
        market, seller.as_("buyer"), sku, {"mode": "recipient", "recipient": str(identity.to_public())}
    )
    assert pyrage.decrypt(age_file, [identity]) == data


async def test_refused_orders_and_webhooks_write_nothing(market, seller, migrated):
    def rows():
        with psycopg.connect(migrated.dsn) as owner:
            tables = ("orders", "order_events", "effects", "inbox", "commands", "licences", "deliveries")
            return [owner.execute(f"SELECT count(*) FROM market.{one}").fetchone() for one in tables]

    before = rows()
    buyer = seller.as_("buyer")
    delivery = {"mode": "released_key"}
    for body in (
        {"lines": [{"sku_id": draw_id("sku"), "quantity": 1}], "currency": "USD", "delivery": delivery},
        {"lines": [], "currency": "USD", "delivery": delivery},
        {},
    ):
        assert (await buyer.post("/v1/orders", body)).status_code in (404, 422)
    raw = orjson.dumps(stripe_event(draw_id("ord")))
    for signature, status in ((signed(raw, int(time.time())), 404), (signed(raw, 1), 400), ("t=1,v1=0", 400)):
        answer = await buyer.as_(None).post(
            "/v1/webhooks/stripe", content=raw, key=None, stripe_signature=signature
        )
        assert answer.status_code == status
    assert rows() == before


async def test_one_joined_file_opens_with_the_buyers_key_alone(market, seller):
    data = bundle(12 * 2**20)
    sku, _, _ = await released(seller, "joined", data)
    identity = pyrage.x25519.Identity.generate()
    buyer = seller.as_("buyer")
    _, item, age_file = await bought(
        market, buyer, sku, {"mode": "recipient", "recipient": str(identity.to_public())}
    )
    joined = (await buyer.post(f"/v1/deliveries/{item['id']}/joined", {})).json()
    async with httpx.AsyncClient() as plain:
        whole = (await plain.get(joined["url"])).raise_for_status().content
    assert (whole, len(whole)) == (age_file, joined["bytes"])
    assert pyrage.decrypt(whole, [identity]) == data
    again = (await buyer.post(f"/v1/deliveries/{item['id']}/joined", {})).json()
    assert again["url"].split("?")[0] == joined["url"].split("?")[0]
    links = (await buyer.get(f"/v1/deliveries/{item['id']}/links")).json()["items"]
    assert [one["kind"] for one in links] == ["joined", "joined", "payload"]


async def test_two_replicas_encrypt_a_release_once_and_its_upload_goes(market, seller, migrated):
    data = bundle(12 * 2**20)
    sku, draft, body = await drafted(seller, "twice", data)
    text = orjson.dumps(body["manifest"]).decode()
    published = await asyncio.gather(
        *(
            publisher.publish(Write("seller_1", f"twice-{number}", b"d" * 32), draft["id"], text)
            for number, publisher in enumerate(market.publishers)
        )
    )
    assert [one.state for one in published] == ["published"] * 2
    objects = market.payloads._client.list_object_versions(Bucket="payloads", Prefix=sku["id"])
    assert len(objects["Versions"]) == 1
    upload_key = published[0].upload_key
    assert market.uploads.newest(upload_key) is not None
    upkeep = StorageUpkeep(
        Deliveries(market.pool),
        Releases(market.pool),
        Publications(market.pool),
        market.uploads,
        market.payloads,
        utc_now,
    )
    with psycopg.connect(migrated.dsn, autocommit=True) as owner:
        assert owner.execute("SELECT count(*) FROM market.publication_attempts").fetchone() == (0,)
        owner.execute("UPDATE market.bundle_uploads SET drop_after = now()")
    assert await upkeep.once() >= 1
    assert market.uploads.newest(upload_key) is None
    assert market.payloads.newest(objects["Versions"][0]["Key"]) is not None
