"""Keys on record in a real Postgres: the root is the owner's, lists form a chain, the first key stays."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from domain import key_lists
from domain.errors import MarketplaceError
from domain.key_list_record import ROWS_MAX
from domain.key_lists import EMPTY
from storage import migrations
from storage.market.commands import Write
from storage.market.pool import build_pool
from storage.market.signing_keys import OwnConnectionKeys, SigningKeys, add_root, register_signing_key
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.carts import NOW

pytestmark = pytest.mark.integration

ROOT = DevelopmentKeyFile(b"r" * 32, b"w" * 32)
KEYS = [DevelopmentKeyFile(bytes([number]) * 32, b"w" * 32) for number in range(1, 6)]
A, B, C, D, E = (register(one.public_key, NOW) for one in KEYS)
BODY = {"published": True}


@pytest.fixture
def migrated(market_database):
    return market_database


@pytest.fixture
async def store(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield SigningKeys(pool)
    await pool.close()


def write(key, text=""):
    return Write("operator_1", key, hashlib.sha256(text.encode()).digest())


def first():
    return key_lists.reissue(key_lists.activate(key_lists.add(EMPTY, A), A.key_id), NOW)


async def publish(store, listed, key=None, root=ROOT, now=NOW):
    text = key_lists.sign(listed, root)
    return await store.publish(write(key or f"v{listed.version}", text), text, BODY, now)


async def refused(code, awaitable):
    with pytest.raises(MarketplaceError) as told:
        await awaitable
    assert told.value.code == code, told.value


async def test_only_the_first_key_is_put_on_record_by_a_start(migrated, store):
    dsn = migrated.dsn_for("market_app")
    assert (await store.on_record()).keys == ()
    for key in (A, B, A):
        register_signing_key(dsn, key)
    assert (await store.on_record()).keys == (A,) == OwnConnectionKeys(dsn).on_record().keys


async def test_a_root_is_the_owners_to_put_in(migrated, store):
    await refused("key_root_missing", publish(store, first()))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        add_root(migrated.dsn_for("market_app"), ROOT.public_key)
    assert add_root(migrated.dsn, ROOT.public_key) == add_root(migrated.dsn, ROOT.public_key) == ROOT.key_id
    assert await publish(store, first()) is None


async def test_a_published_list_is_what_counts(migrated, store):
    dsn = migrated.dsn_for("market_app")
    register_signing_key(dsn, A)
    add_root(migrated.dsn, ROOT.public_key)
    assert await publish(store, first()) is None
    assert (await publish(store, first())).body == BODY, "a repetition is answered as before"
    listed = key_lists.reissue(key_lists.compromise(key_lists.add(first(), B), A.key_id, NOW), NOW)
    await publish(store, listed)
    record = await store.on_record()
    assert record == OwnConnectionKeys(dsn).on_record()
    assert (record.listed, record.root, record.find(A.key_id).state) == (
        listed,
        ROOT.public_key,
        "compromised",
    )
    register_signing_key(dsn, C)
    assert (await store.on_record()).find(C.key_id) is None


async def test_the_first_list_takes_over_what_has_signed(migrated, store):
    register_signing_key(migrated.dsn_for("market_app"), B)
    add_root(migrated.dsn, ROOT.public_key)
    await refused("key_list_refused", publish(store, first()))


async def test_rollbacks_other_roots_and_expired_lists_are_refused(migrated, store):
    add_root(migrated.dsn, ROOT.public_key)
    newer = key_lists.reissue(key_lists.add(first(), B), NOW)
    await publish(store, newer)
    await refused("key_list_not_newer", publish(store, first()))
    await refused("key_list_not_newer", publish(store, newer, "again"))
    await refused("key_list_signature_invalid", publish(store, key_lists.reissue(newer, NOW), root=KEYS[4]))
    forgetful = key_lists.reissue(newer, NOW)
    forgetful = type(forgetful)(3, forgetful.issued_at, forgetful.expires_at, A.key_id, (A,))
    await refused("key_list_refused", publish(store, forgetful))
    late = NOW + timedelta(days=91)
    await refused("key_list_refused", publish(store, key_lists.reissue(newer, NOW), now=late))
    assert (await store.on_record()).listed == newer


async def test_of_lists_published_at_once_one_is_taken(migrated, store):
    add_root(migrated.dsn, ROOT.public_key)
    await publish(store, first())
    rivals = [key_lists.reissue(key_lists.add(first(), key), NOW) for key in (B, C, D, E)]
    rivals = [
        type(one)(one.version + extra, one.issued_at, one.expires_at, one.signs, one.keys)
        for extra, one in enumerate(rivals)
    ]
    answers = await asyncio.gather(
        *(publish(store, one, f"rival{number}") for number, one in enumerate(rivals)), return_exceptions=True
    )
    assert [answer for answer in answers if answer is None] == [None]
    codes = {answer.code for answer in answers if answer is not None}
    assert codes <= {"key_list_not_newer", "key_list_refused"}, "a later one lacks the first one's key"


async def test_a_new_root_continues_the_list(migrated, store):
    other = DevelopmentKeyFile(b"R" * 32, b"w" * 32)
    add_root(migrated.dsn, ROOT.public_key)
    await publish(store, first())
    add_root(migrated.dsn, other.public_key)
    assert (await store.on_record()).root == ROOT.public_key, "until the new root has signed"
    following = key_lists.reissue(first(), NOW)
    await refused("key_list_signature_invalid", publish(store, following))
    await publish(store, following, root=other)
    assert (await store.on_record()).root == other.public_key


async def test_stored_lists_and_roots_are_facts(migrated, store):
    add_root(migrated.dsn, ROOT.public_key)
    await publish(store, first())
    for dsn in (migrated.dsn, migrated.dsn_for("market_app")):
        with psycopg.connect(dsn, autocommit=True) as connection:
            for table in ("key_lists", "signing_roots"):
                for statement in (
                    f"DELETE FROM market.{table}",
                    f"UPDATE market.{table} SET root_id = root_id",
                ):
                    with pytest.raises(psycopg.Error):
                        connection.execute(statement)


def forge(migrated, text, version=2, root=ROOT):
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO market.key_lists (version, follows, root_id, envelope, expires_at, published_by) "
            "VALUES (%s, %s, %s, %s, now(), 'thief')",
            (version, version - 1, root.key_id, text),
        )


async def test_a_list_that_the_serving_role_forged_takes_nobodys_place(migrated, store, caplog):
    """Whoever has the serving role's password stores rows; readers pass over what the root did not sign."""
    dsn = migrated.dsn_for("market_app")
    register_signing_key(dsn, A)
    add_root(migrated.dsn, ROOT.public_key)
    forge(migrated, "x", 1)  # before the first list, too
    assert (await store.on_record()).keys == (A,)
    await publish(store, first())
    successor = key_lists.reissue(key_lists.add(first(), C), NOW)
    thiefs = key_lists.reissue(key_lists.activate(key_lists.add(first(), B), B.key_id), NOW)
    for version in (2, 3, 2**53 - 1):
        forge(migrated, key_lists.sign(thiefs, KEYS[4]), version)
    for reader in (store.on_record, SigningKeys(store._pool).on_record):
        record = await reader()
        assert (record.listed, record.passed_over) == (first(), 4)
    assert OwnConnectionKeys(dsn).on_record() == record
    assert "4 stored key lists do not count, at positions 1, 3, 4, 5" in caplog.text
    # The true successor has its place and its version.
    assert await publish(store, successor) is None
    caplog.clear()
    assert (await store.on_record()).listed == OwnConnectionKeys(dsn).on_record().listed == successor


async def test_a_reader_told_of_a_forgery_tells_it_once(migrated, store, caplog):
    add_root(migrated.dsn, ROOT.public_key)
    forge(migrated, "x")
    for _ in range(3):
        await store.on_record()
    assert caplog.text.count("do not count") == 1


async def test_a_record_that_is_full_of_forgeries_is_for_the_owner_and_harms_no_reader(migrated, store):
    add_root(migrated.dsn, ROOT.public_key)
    await publish(store, first())
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        flood = (
            "INSERT INTO market.key_lists (version, follows, root_id, envelope, expires_at, published_by) "
            "SELECT 2, 1, %s, 'x', now(), 'thief' FROM generate_series(1, %s)"
        )
        with pytest.raises(psycopg.Error):
            connection.execute(flood, (ROOT.key_id, ROWS_MAX))
        for _ in range(ROWS_MAX - 1):
            connection.execute(flood, (ROOT.key_id, 1))
    record = await store.on_record()
    assert (record.listed, record.passed_over) == (first(), ROWS_MAX - 1)
    successor = key_lists.reissue(first(), NOW)
    await refused("key_lists_full", publish(store, successor))
    with psycopg.connect(migrated.dsn) as owner:  # as in the runbook
        owner.execute("ALTER TABLE market.key_lists DISABLE TRIGGER key_lists_are_facts")
        owner.execute("DELETE FROM market.key_lists WHERE position > 1")
        owner.execute("ALTER TABLE market.key_lists ENABLE TRIGGER key_lists_are_facts")
    assert await publish(store, successor) is None
    assert (await store.on_record()).listed == successor


async def test_a_replaced_root_that_was_stolen_names_no_key(migrated, store):
    other = DevelopmentKeyFile(b"R" * 32, b"w" * 32)
    add_root(migrated.dsn, ROOT.public_key)
    await publish(store, first())
    add_root(migrated.dsn, other.public_key)
    second = key_lists.reissue(first(), NOW)
    await publish(store, second, root=other)
    thiefs = key_lists.reissue(key_lists.activate(key_lists.add(second, B), B.key_id), NOW)
    forge(migrated, key_lists.sign(thiefs, ROOT), 3)
    assert (await store.on_record()).listed == second


async def test_the_serving_role_adds_no_second_key_where_there_is_no_root(migrated, store):
    dsn = migrated.dsn_for("market_app")
    register_signing_key(dsn, A)
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(psycopg.IntegrityError):
        connection.execute(
            "INSERT INTO market.signing_keys (key_id, public_key, state) VALUES (%s, %s, 'active')",
            (B.key_id, B.public_key),
        )
    assert (await store.on_record()).keys == (A,)


async def test_of_two_first_starts_at_once_one_key_is_on_record(migrated, store):
    dsn = migrated.dsn_for("market_app")
    await asyncio.gather(*(asyncio.to_thread(register_signing_key, dsn, key) for key in (A, B, C, D)))
    assert len((await store.on_record()).keys) == 1


async def test_lists_from_before_the_record_keep_their_order(database, monkeypatch):
    steps = migrations.load("storage.market")
    before = [step for step in steps if step.number < 16]
    monkeypatch.setattr(migrations, "load", lambda _package: before)
    migrations.apply(database.dsn, "storage.market", "market")
    add_root(database.dsn, ROOT.public_key)
    second = replace(first(), version=7)
    third = key_lists.reissue(second, NOW)
    forge(database, key_lists.sign(first(), ROOT), 1)
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        for follows, listed in ((1, second), (7, third)):
            owner.execute(
                "INSERT INTO market.key_lists (version, follows, root_id, envelope, expires_at, published_by)"
                " VALUES (%s, %s, %s, %s, now(), 'op')",
                (listed.version, follows, ROOT.key_id, key_lists.sign(listed, ROOT)),
            )
    monkeypatch.setattr(migrations, "load", lambda _package: steps)
    assert any("0016" in name for name in migrations.apply(database.dsn, "storage.market", "market"))
    record = OwnConnectionKeys(database.dsn_for("market_app")).on_record()
    assert (record.listed, record.passed_over) == (third, 0)
    # A replica of the build before, during the rollout, still publishes and reads.
    fourth = key_lists.reissue(third, NOW)
    forge(database, key_lists.sign(fourth, ROOT), 9)
    assert OwnConnectionKeys(database.dsn_for("market_app")).on_record().listed == fourth
