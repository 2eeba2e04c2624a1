"""Keys on record in a real Postgres: the root is the owner's, lists form a chain, the first key stays."""

import asyncio
import hashlib
from datetime import timedelta

import psycopg
import pytest

from domain import key_lists
from domain.errors import DependencyError, MarketplaceError
from domain.key_lists import EMPTY
from storage.market.commands import Write
from storage.market.pool import build_pool
from storage.market.signing_keys import SigningKeys, add_root, read_on_record, register_signing_key
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
    assert (await store.on_record()).keys == (A,) == read_on_record(dsn).keys


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
    assert record == read_on_record(dsn)
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
    await refused("key_list_signature_invalid", publish(store, key_lists.reissue(newer, NOW), root=KEYS[0]))
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


async def test_a_list_that_the_serving_role_forged_is_not_believed(migrated, store):
    add_root(migrated.dsn, ROOT.public_key)
    await publish(store, first())
    forged = key_lists.sign(
        key_lists.reissue(key_lists.activate(key_lists.add(first(), B), B.key_id), NOW), KEYS[1]
    )
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        connection.execute(
            "INSERT INTO market.key_lists (version, follows, root_id, envelope, expires_at, published_by) "
            "VALUES (2, 1, %s, %s, now(), 'thief')",
            (ROOT.key_id, forged),
        )
    with pytest.raises(DependencyError, match="key_list_damaged"):
        await store.on_record()
    with pytest.raises(DependencyError, match="key_list_damaged"):
        read_on_record(migrated.dsn_for("market_app"))
