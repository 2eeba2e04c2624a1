"""Catalogue, tokens, idempotency keys and licences in a real Postgres, as the serving role sees them."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from domain.errors import ConflictError, DependencyError, NotFoundError, RejectedError
from domain.ids import new_id
from domain.orders.ports import Idempotency
from storage.market.access import AccessTokens, Principal, register_access_tokens
from storage.market.catalogue import QUOTE_TTL_S, Catalogue, Publication, Release, Sku
from storage.market.commands import Commands, Recorded, Write
from storage.market.licences import LicenceReads
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.market.publications import Attempt, Publications
from storage.market.signing_keys import SigningKeys, register_signing_key
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.contracts.order_store import placed
from tests.fakes.carts import BUYER, order_id
from tests.fakes.orders import FakeMonotonic

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
BODY = {"id": "sku", "prices": {"USD": 1999}, "latest_release": None}


@pytest.fixture
def owner(migrated):
    """The owner's connection; every test starts on empty tables."""
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT string_agg(format('market.%I', tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'market' AND tablename NOT IN ('schema_migrations', 'revocation_list')"
        ).fetchone()
        connection.execute(f"TRUNCATE {tables[0]}")
        yield connection


@pytest.fixture
async def pool(migrated, owner):
    made = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await made.open(wait=True)
    yield made
    await made.close()


@pytest.fixture
def clock():
    return FakeMonotonic()


@pytest.fixture
def catalogue(pool, clock):
    return Catalogue(pool, clock)


def ident(prefix, number):
    return new_id(prefix, int(NOW.timestamp() * 1000), number.to_bytes(10))


def write(key="k", principal_id="seller_1", request=b"request"):
    return Write(principal_id, key, hashlib.sha256(request).digest())


def sku(number=1, name="logline", seller_id="seller_1", **prices):
    return Sku(
        ident("sku", number), name, "Title", "Text", seller_id, NOW, prices or {"USD": 1999, "JPY": 2980}
    )


def release(number=1, of=1, version="1.0.0"):
    sku_id = ident("sku", of)
    return Release(
        ident("rel", number), sku_id, "logline", "seller_1", version, "draft", "logline.tar.gz", f"{sku_id}/k"
    )


def publication(number=1, at=NOW):
    return Publication(
        ident("rel", number), "manifest", "countersignature", "minisig", "ab" * 32, 100, 365,
        f"payload-{number}", "v1", "cd" * 32, 132, at, b"wrapped",
    )  # fmt: skip


async def publish(catalogue, write_, wanted):
    """Publish by an attempt of its own."""
    await catalogue.register_seller_key(write("signing-key"), "key_signing", b"s" * 32, {})
    publications = Publications(catalogue._pool)
    attempt = Attempt(wanted.payload_key, b"s" * 32, "v1")
    await publications.begin(wanted.release_id, attempt, 60.0)
    return await publications.publish(write_, wanted, "key_signing")


async def listed(catalogue, number=1, name="logline", *, published=True, **prices):
    one = sku(number, name, **prices)
    await catalogue.create_sku(write(f"sku-{number}"), one, BODY)
    if published:
        await catalogue.draft_release(write(f"rel-{number}"), release(number, number), NOW, {})
        assert await publish(catalogue, write(f"pub-{number}"), publication(number))
    return one


async def test_a_listing_is_written_once_with_its_key(catalogue, owner):
    assert await catalogue.create_sku(write(), sku(), BODY) is None
    assert await catalogue.create_sku(write(), sku(2), BODY) == Recorded(ident("sku", 1), BODY)
    assert await catalogue.find("logline") == await catalogue.find(ident("sku", 1)) == sku()
    assert await catalogue.find("nothing") is None
    with pytest.raises(RejectedError, match="idempotency_key_reused"):
        await catalogue.create_sku(write(request=b"other"), sku(3, "other"), BODY)
    assert owner.execute("SELECT count(*) FROM market.skus").fetchone() == (1,)


async def test_a_taken_name_leaves_the_key_free(catalogue):
    await catalogue.create_sku(write("a"), sku(), BODY)
    with pytest.raises(ConflictError, match="sku_name_taken"):
        await catalogue.create_sku(write("b"), sku(2), BODY)
    assert await catalogue.create_sku(write("b", request=b"renamed"), sku(2, "renamed"), BODY) is None


async def test_sixteen_equal_listings_at_once_make_one(catalogue, owner):
    answers = await asyncio.gather(
        *(catalogue.create_sku(write(), sku(number), BODY) for number in range(1, 17))
    )
    assert answers.count(None) == 1
    assert len({answer.subject for answer in answers if answer}) == 1
    assert owner.execute("SELECT count(*) FROM market.skus").fetchone() == (1,)


async def test_the_same_key_of_an_order_and_of_a_listing_collide(catalogue, pool, owner):
    store = PostgresOrderStore(pool)
    await placed(store, key=Idempotency("k", b"d" * 32))
    with pytest.raises(RejectedError, match="idempotency_key_reused"):
        await catalogue.create_sku(write("k", BUYER), sku(), BODY)
    recorded = await Commands(pool).find(Write(BUYER, "k", b"d" * 32))
    assert recorded == Recorded(order_id(), None)


async def test_published_skus_are_listed_newest_first_in_pages(catalogue):
    for number in range(1, 6):
        await listed(catalogue, number, f"tool-{number}", published=number != 3)
    first = await catalogue.published("~", 2)
    assert [one.name for one in first] == ["tool-5", "tool-4"]
    rest = await catalogue.published(first[-1].sku_id, 10)
    assert [one.name for one in rest] == ["tool-2", "tool-1"]
    assert first[0].latest_release.licence_days == 365
    assert first[0].prices == {"USD": 1999, "JPY": 2980}


async def test_the_newest_release_is_what_is_sold(catalogue):
    await listed(catalogue)
    await catalogue.draft_release(write("rel-2"), release(2, 1, "1.1.0"), NOW, {})
    await publish(catalogue, write("pub-2"), publication(2, NOW + timedelta(days=1)))
    assert (await catalogue.find("logline")).latest_release.version == "1.1.0"
    assert (await catalogue.published("~", 5))[0].latest_release.version == "1.1.0"
    assert (await catalogue.offers([ident("sku", 1)], "USD"))[ident("sku", 1)].version == "1.1.0"


async def test_offers_quote_price_release_and_term(catalogue):
    await listed(catalogue, 1)
    await listed(catalogue, 2, "other", EUR=500)
    first, second = ident("sku", 1), ident("sku", 2)
    offer = (await catalogue.offers([first], "JPY"))[first]
    assert (offer.unit_price_minor, offer.currency, offer.licence_days) == (2980, "JPY", 365)
    assert (offer.release_id, offer.bundle_sha256) == (ident("rel", 1), "ab" * 32)
    with pytest.raises(RejectedError, match="currency_not_offered"):
        await catalogue.offers([first, second], "USD")
    with pytest.raises(NotFoundError, match="sku_not_found"):
        await catalogue.offers([first, ident("sku", 9)], "USD")


async def test_an_unpublished_sku_is_never_remembered_and_a_price_for_a_second(catalogue, owner, clock):
    one = await listed(catalogue, published=False)
    with pytest.raises(ConflictError, match="sku_unpublished"):
        await catalogue.offers([one.sku_id], "USD")
    await catalogue.draft_release(write("rel-1"), release(), NOW, {})
    await publish(catalogue, write("pub-1"), publication())
    assert (await catalogue.offers([one.sku_id], "USD"))[one.sku_id].unit_price_minor == 1999
    owner.execute("UPDATE market.sku_prices SET amount_minor = 1")
    assert (await catalogue.offers([one.sku_id], "USD"))[one.sku_id].unit_price_minor == 1999
    clock.now_s += QUOTE_TTL_S
    assert (await catalogue.offers([one.sku_id], "USD"))[one.sku_id].unit_price_minor == 1


async def test_a_sellers_keys_are_its_own(catalogue, owner):
    body = {"key_id": "key_1", "state": "active"}
    assert await catalogue.register_seller_key(write("a"), "key_1", b"p" * 32, body) is None
    # Again under another key: harmless, and recorded.
    assert await catalogue.register_seller_key(write("b"), "key_1", b"p" * 32, body) == Recorded(
        "key_1", body
    )
    assert await catalogue.register_seller_key(write("b"), "key_1", b"p" * 32, body) == Recorded(
        "key_1", body
    )
    with pytest.raises(ConflictError, match="seller_key_taken"):
        await catalogue.register_seller_key(write("a", "seller_2"), "key_1", b"p" * 32, body)
    assert await catalogue.seller_keys("seller_1") == {"key_1": b"p" * 32}
    assert await catalogue.seller_keys("seller_2") == {}
    owner.execute("UPDATE market.seller_keys SET state = 'retired'")
    assert await catalogue.seller_keys("seller_1") == {}
    answer = await catalogue.register_seller_key(write("c"), "key_1", b"p" * 32, body)
    assert answer == Recorded("key_1", {"key_id": "key_1", "state": "retired"})


async def test_a_seller_has_at_most_sixty_four_active_keys(catalogue):
    for number in range(64):
        await catalogue.register_seller_key(write(f"k{number}"), f"key_{number}", number.to_bytes(32), {})
    with pytest.raises(ConflictError, match="seller_keys_full"):
        await catalogue.register_seller_key(write("more"), "key_more", b"m" * 32, {})


async def test_a_version_is_drafted_once(catalogue):
    await listed(catalogue, published=False)
    assert await catalogue.draft_release(write("a"), release(), NOW, {"id": 1}) is None
    assert await catalogue.draft_release(write("a"), release(2), NOW, {"id": 2}) == Recorded(
        ident("rel", 1), {"id": 1}
    )
    with pytest.raises(ConflictError, match="release_version_taken"):
        await catalogue.draft_release(write("b"), release(3), NOW, {})
    assert await catalogue.release(ident("rel", 1)) == replace(release(), sku_name="logline")
    assert await catalogue.release(ident("rel", 9)) is None


async def test_a_release_is_published_once_and_never_changes(catalogue, pool):
    await listed(catalogue)
    stored = await catalogue.release(ident("rel", 1))
    assert (stored.state, stored.manifest, stored.payload_bytes, stored.published_at) == (
        "published",
        "manifest",
        132,
        NOW,
    )
    changed = replace(publication(), manifest="another")
    assert await publish(catalogue, write("again"), changed) is False
    assert await catalogue.release(ident("rel", 1)) == stored
    assert await Commands(pool).find(write("again")) is None
    assert await Commands(pool).find(write("pub-1")) == Recorded(ident("rel", 1), None)


async def test_a_reused_key_publishes_nothing(catalogue):
    await listed(catalogue, published=False)
    await catalogue.draft_release(write("rel-1"), release(), NOW, {})
    with pytest.raises(RejectedError, match="idempotency_key_reused"):
        await publish(catalogue, write("rel-1", request=b"publish"), publication())
    assert (await catalogue.release(ident("rel", 1))).state == "draft"


async def test_eight_publications_at_once_publish_one(catalogue):
    await listed(catalogue, published=False)
    await catalogue.draft_release(write("rel-1"), release(), NOW, {})
    answers = await asyncio.gather(
        *(
            publish(catalogue, write(f"p{n}"), replace(publication(), payload_version=f"v{n}"))
            for n in range(8)
        )
    )
    assert sorted(answers) == [False] * 7 + [True]


async def test_tokens_are_known_by_their_digest_until_revoked(pool, owner, migrated):
    access = AccessTokens(pool)
    digest = hashlib.sha256(b"token").digest()
    holder = Principal("buyer", "buyer_new")
    assert await access.principal(digest) is None
    assert await access.issue(write("k", "operator_1"), digest, holder, {"token": None}) is None
    other = hashlib.sha256(b"other").digest()
    assert await access.issue(write("k", "operator_1"), other, holder, {}) == Recorded(
        "buyer_new", {"token": None}
    )
    assert await access.principal(digest) == holder
    assert await access.principal(other) is None
    assert owner.execute("SELECT issued_by FROM market.access_tokens").fetchone() == ("operator_1",)
    owner.execute("UPDATE market.access_tokens SET revoked_at = now()")
    assert await access.principal(digest) is None
    # The settings cannot bring a revoked token back.
    register_access_tokens(migrated.dsn_for("market_app"), [(digest, holder), (other, holder)])
    register_access_tokens(migrated.dsn_for("market_app"), [(digest, holder), (other, holder)])
    assert await access.principal(digest) is None
    assert await access.principal(other) == holder


async def test_licences_and_deliveries_are_read_with_what_they_name(pool, catalogue, owner):
    await listed(catalogue)
    await placed(PostgresOrderStore(pool))
    owner.execute(
        "INSERT INTO market.licences VALUES"
        " ('lic_1', %s, 1, 'buyer_ada', 'sku', %s, 2, 'active', 'key', '{}', %s)",
        [order_id(), ident("rel", 1), NOW],
    )
    owner.execute(
        "INSERT INTO market.deliveries VALUES"
        " ('dlv_1', %s, 1, 'buyer_ada', %s, 'recipient', 'age1', 'h', '{}')",
        [order_id(), ident("rel", 1)],
    )
    reads = LicenceReads(pool)
    licence = await reads.licence("lic_1")
    assert (licence.order_id, licence.quantity, licence.status, licence.issued_at) == (
        order_id(),
        2,
        "active",
        NOW,
    )
    assert await reads.licence("lic_2") is None
    (delivery,) = await reads.deliveries(order_id())
    assert (delivery.licence_id, delivery.payload_version, delivery.file_name) == (
        "lic_1",
        "v1",
        "logline.tar.gz",
    )
    assert (delivery.header, delivery.key_expires_at) == (b"h", None)
    assert (await reads.delivery_owner("dlv_1")).buyer_id == "buyer_ada"
    assert await reads.delivery_owner("dlv_2") is None
    assert [(await reads.standing(one)).status for one in ("lic_1", "lic_2")] == ["active", None]
    assert (await reads.revocations()).revoked == []
    owner.execute("UPDATE market.licences SET status = 'revoked'")
    assert (await reads.standing("lic_1")).status == "revoked"
    assert (await reads.revocations()).revoked == ["lic_1"]


async def test_the_platforms_keys_are_read_as_recorded(pool, migrated):
    record = register(DevelopmentKeyFile(b"s" * 32, b"w" * 32).public_key, NOW)
    register_signing_key(migrated.dsn_for("market_app"), record)
    assert (await SigningKeys(pool).on_record()).keys == (record,)


async def test_a_database_that_is_down_is_reported_by_every_adapter(migrated):
    pool = build_pool("postgresql://market_app@127.0.0.1:9/market", name="down", size_max=1)
    await pool.open()
    pool.timeout = 0.05
    try:
        for work in (
            Catalogue(pool).find("x"),
            Catalogue(pool).offers([ident("sku", 1)], "USD"),
            Publications(pool).publish(write(), publication(), "key_1"),
            AccessTokens(pool).principal(b"d" * 32),
            LicenceReads(pool).standing("lic_1"),
            SigningKeys(pool).on_record(),
            Commands(pool).find(write()),
        ):
            with pytest.raises(DependencyError, match="database_unavailable"):
                await work
    finally:
        await pool.close()
