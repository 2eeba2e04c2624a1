"""Transfers, renewals, activations, challenges in Postgres: bounds that hold however many call."""

import asyncio
import re
import secrets
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from domain.errors import MarketplaceError
from domain.ids import new_id
from domain.licence_refusals import TRANSFERS_A_DAY_MAX
from domain.ownership import OPEN_MAX, Challenge
from storage.market.commands import Write
from storage.market.licences import LicenceReads
from storage.market.licensing import Licensing, Successor
from storage.market.pool import build_pool
from storage.sql import load_queries

pytestmark = pytest.mark.integration
NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
LIFE_S = 60


def ident(prefix):
    return new_id(prefix, 1_764_000_000_000, secrets.token_bytes(10))


def write(principal="ada", key=None):
    return Write(principal, key or secrets.token_hex(8), b"d" * 32)


def successor(document_id=None):
    return Successor(document_id or ident("lic"), "key_1", "envelope", NOW)


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def pool(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=16)
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
def store(pool):
    return Licensing(pool)


@pytest.fixture
def reads(pool):
    return LicenceReads(pool)


@pytest.fixture
def licence(owner):
    return issue(owner)


def issue(owner, quantity=1, buyer="ada"):
    licence_id, order_id = ident("lic"), ident("ord")
    owner.execute(
        "INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)"
        " VALUES (%s, %s, 'delivered', 1, 'USD', 1)",
        [order_id, buyer],
    )
    owner.execute(
        "INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity,"
        " key_id, envelope, issued_at) VALUES (%s, %s, 1, %s, 'sku_1', 'rel_1', %s, 'key_1', 'e', %s)",
        [licence_id, order_id, buyer, quantity, NOW],
    )
    return licence_id


def judge(owner, licence_id, status):
    owner.execute("UPDATE market.licences SET status = %s WHERE licence_id = %s", [status, licence_id])


async def refused(code, call):
    with pytest.raises(MarketplaceError) as error:
        await call
    assert error.value.code == code


async def transfer(store, licence_id, to="bob", **more):
    transfer_id = ident("ltr")
    await store.offer_transfer(write(**more), transfer_id, licence_id, to, LIFE_S)
    return transfer_id


async def activate(store, licence_id, fingerprint="machine-1", kind="seat", name="desk", lease_s=900):
    return await store.activate(licence_id, ident("lac"), fingerprint, name, kind, lease_s)


# -- activations ---------------------------------------------------------------------------------------


async def test_of_a_hundred_at_once_ten_get_the_ten_seats(owner, store):
    licence_id = issue(owner, quantity=10)
    answers = await asyncio.gather(
        *(activate(store, licence_id, f"machine-{n}") for n in range(100)), return_exceptions=True
    )
    assert {one.code for one in answers if isinstance(one, Exception)} == {"activations_full"}
    given = {one.activation_id for one in answers if not isinstance(one, Exception)}
    assert len(given) == 10
    assert {one.activation_id for one in await store.activations(licence_id)} == given


async def test_one_machine_that_asks_a_hundred_times_at_once_has_one_seat(owner, store):
    licence_id = issue(owner, quantity=10)
    answers = await asyncio.gather(*(activate(store, licence_id) for _ in range(100)))
    assert len({one.activation_id for one in answers}) == 1
    assert len(await store.activations(licence_id)) == 1


async def test_a_released_seat_is_free_and_releasing_twice_is_harmless(store, licence):
    one = await activate(store, licence)
    await refused("activations_full", activate(store, licence, "machine-2"))
    assert not await store.release(one.activation_id, "bob")
    assert await store.release(one.activation_id, "ada")
    assert not await store.release(one.activation_id, None)
    await refused("activation_ended", store.heartbeat(one.activation_id, licence, 900))
    assert (await activate(store, licence, "machine-2")).activation_id != one.activation_id


async def test_a_lease_ends_without_a_heartbeat_and_a_seat_does_not(owner, store, licence):
    lease = await activate(store, licence, kind="lease")
    assert lease.held_until - lease.activated_at == timedelta(seconds=900)
    renewed = await store.heartbeat(lease.activation_id, licence, 1_800)
    assert renewed.held_until > lease.held_until
    owner.execute(
        "UPDATE market.licence_activations SET held_until = now() WHERE activation_id = %s",
        [lease.activation_id],
    )
    assert await store.activations(licence) == []
    await refused("activation_ended", store.heartbeat(lease.activation_id, licence, 900))
    seat = await activate(store, licence, "machine-2")
    assert seat.held_until is None
    owner.execute("UPDATE market.licence_activations SET heartbeat_at = now() - interval '1 year'")
    await refused("activations_full", activate(store, licence, "machine-3"))


@pytest.mark.parametrize("status", ["suspended", "revoked"])
async def test_a_licence_that_does_not_hold_activates_nothing(owner, store, licence, status):
    one = await activate(store, licence)
    judge(owner, licence, status)
    await refused("licence_not_active", activate(store, licence))
    await refused("licence_not_active", store.heartbeat(one.activation_id, licence, 900))
    await refused("licence_not_found", activate(store, ident("lic")))


# -- transfers -----------------------------------------------------------------------------------------


async def test_a_transfer_puts_one_document_in_anothers_place(owner, store, reads, licence):
    seat = await activate(store, licence)
    before = await reads.list_version()
    transfer_id = await transfer(store, licence)
    new = successor()
    accepting = write("bob")
    assert await store.accept_transfer(accepting, transfer_id, new) is None
    old, now = await reads.licence(licence), await reads.licence(new.document_id)
    assert (old.status, old.buyer_id, now.status, now.buyer_id) == ("superseded", "ada", "active", "bob")
    assert (now.root_id, now.serial, now.order_id) == (licence, 2, old.order_id)
    found = await reads.revocations()
    assert licence in found.revoked
    assert new.document_id not in found.revoked
    assert found.version > before
    # Nothing of the old owner is left: seats, key, the right to hand it on.
    assert await store.activations(licence) == []
    await refused("licence_superseded", store.heartbeat(seat.activation_id, licence, 900))
    await refused("licence_superseded", transfer(store, licence, "cyd"))
    await refused("licence_superseded", activate(store, licence))
    # A repetition changes nothing and is told what was done.
    assert (await store.accept_transfer(accepting, transfer_id, successor())).subject == transfer_id
    assert (await store.transfer(transfer_id)).successor_id == new.document_id
    await refused("transfer_closed", store.accept_transfer(write("bob"), transfer_id, successor()))
    kinds = owner.execute(
        "SELECT kind, principal_id FROM market.licence_events WHERE licence_id = %s ORDER BY seq", [licence]
    ).fetchall()
    assert kinds == [("licence.transfer_offered", "ada"), ("licence.transferred", "bob")]


async def test_a_document_entered_the_record_when_its_row_did(owner, store, reads, licence):
    """What counts once the key is stolen: the database's time of exactly this text."""
    new = successor()
    await store.accept_transfer(write("bob"), await transfer(store, licence), new)
    recorded = owner.execute(
        "SELECT recorded_at FROM market.licence_successors WHERE document_id = %s", [new.document_id]
    ).fetchone()
    assert await reads.recorded_at(new.document_id, new.envelope) == recorded[0] > new.issued_at
    assert await reads.recorded_at(new.document_id, "forged") is None
    assert await reads.recorded_at(licence, new.envelope) is None


async def test_standings_asked_at_once_are_each_its_own(owner, store, reads, licence):
    other, unknown = issue(owner), ident("lic")
    judge(owner, other, "suspended")
    new = successor()
    await store.accept_transfer(write("bob"), await transfer(store, licence), new)
    asked = [licence, other, unknown, new.document_id, other]
    found = await asyncio.gather(*(reads.standing(one) for one in asked))
    assert [one.status for one in found] == ["superseded", "suspended", None, "active", "suspended"]


async def test_a_refund_after_a_transfer_revokes_what_the_new_owner_holds(owner, store, reads, licence):
    new = successor()
    await store.accept_transfer(write("bob"), await transfer(store, licence), new)
    judge(owner, licence, "suspended")
    assert (await reads.standing(new.document_id)).status == "suspended"
    assert new.document_id in (await reads.revocations()).suspended
    judge(owner, licence, "revoked")
    assert (await reads.standing(new.document_id)).status == "revoked"
    assert {licence, new.document_id} <= set((await reads.revocations()).revoked)


async def test_only_one_of_two_acceptances_and_one_of_two_offers_counts(store, licence):
    offers = await asyncio.gather(
        *(transfer(store, licence, to) for to in ("bob", "cyd")), return_exceptions=True
    )
    (transfer_id,) = [one for one in offers if isinstance(one, str)]
    assert [one.code for one in offers if not isinstance(one, str)] == ["transfer_open"]
    to = (await store.transfer(transfer_id)).to_buyer_id
    answers = await asyncio.gather(
        *(store.accept_transfer(write(to), transfer_id, successor()) for _ in range(8)),
        return_exceptions=True,
    )
    assert sorted(getattr(one, "code", "done") for one in answers) == ["done"] + 7 * ["transfer_closed"]


@pytest.mark.parametrize("status", ["suspended", "revoked"])
async def test_nothing_is_handed_over_while_money_may_go_back(owner, store, licence, status):
    transfer_id = await transfer(store, licence)
    judge(owner, licence, status)
    await refused("licence_not_active", store.accept_transfer(write("bob"), transfer_id, successor()))
    await refused("licence_not_active", transfer(store, licence, "cyd"))


async def test_who_may_offer_accept_and_end(store, licence):
    await refused("licence_not_found", transfer(store, licence, "cyd", principal="bob"))
    await refused("transfer_to_self", transfer(store, licence, "ada"))
    transfer_id = await transfer(store, licence)
    await refused("transfer_not_found", store.accept_transfer(write("ada"), transfer_id, successor()))
    await refused("transfer_not_found", store.accept_transfer(write("cyd"), transfer_id, successor()))
    await refused("transfer_not_found", store.end_transfer(write("cyd"), transfer_id))
    await store.end_transfer(write("bob"), transfer_id)
    assert (await store.transfer(transfer_id)).status == "declined"
    second = await transfer(store, licence)
    await store.end_transfer(write("ada"), second)
    await refused("transfer_closed", store.accept_transfer(write("bob"), second, successor()))


async def test_an_offer_ends_by_itself(owner, store, licence):
    transfer_id = await transfer(store, licence)
    owner.execute(
        "UPDATE market.licence_transfers SET expires_at = now() WHERE transfer_id = %s", [transfer_id]
    )
    assert (await store.transfer(transfer_id)).status == "expired"
    await refused("transfer_closed", store.accept_transfer(write("bob"), transfer_id, successor()))
    await transfer(store, licence, "cyd")


async def test_operators_may_forbid_transfers(owner, store, licence):
    transfer_id = await transfer(store, licence)
    with owner.transaction():
        owner.execute("ALTER TABLE market.governed_versions DISABLE TRIGGER ALL")
        owner.execute("UPDATE market.governed_versions SET document = document WHERE kind = 'licence_model'")
        ((text,),) = owner.execute(
            "SELECT document FROM market.governed_versions WHERE kind = 'licence_model'"
        ).fetchall()
    forbidding = text.removesuffix("}") + ',"transfers_forbidden":true}'
    change = (
        "UPDATE market.governed_versions SET document = %(text)s,"
        " document_sha256 = encode(sha256(convert_to(%(text)s, 'UTF8')), 'hex') WHERE kind = 'licence_model'"
    )
    owner.execute(change, {"text": forbidding})
    try:
        await refused("transfers_forbidden", store.accept_transfer(write("bob"), transfer_id, successor()))
        await refused("transfers_forbidden", transfer(store, licence))
    finally:
        owner.execute(change, {"text": text})
        owner.execute("ALTER TABLE market.governed_versions ENABLE TRIGGER ALL")
    await store.accept_transfer(write("bob"), transfer_id, successor())


async def test_a_licence_has_a_bounded_number_of_documents(store, licence):
    document_id, holder, to = licence, "ada", "bob"
    for _ in range(49):
        transfer_id = ident("ltr")
        await store.offer_transfer(write(holder), transfer_id, document_id, to, LIFE_S)
        new = successor()
        await store.accept_transfer(write(to), transfer_id, new)
        document_id, holder, to = new.document_id, to, holder
    transfer_id = ident("ltr")
    await store.offer_transfer(write(holder), transfer_id, document_id, to, LIFE_S)
    await refused("licence_full", store.accept_transfer(write(to), transfer_id, successor()))


async def test_facts_are_append_only_and_the_serving_role_writes_none(owner, migrated, store, licence):
    await store.accept_transfer(write("bob"), await transfer(store, licence), successor())
    for statement in (
        "UPDATE market.licence_successors SET buyer_id = 'eve'",
        "DELETE FROM market.licence_events",
    ):
        with pytest.raises(psycopg.errors.IntegrityError):
            owner.execute(statement)
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as serving:
        for statement in (
            "DELETE FROM market.licence_activations",
            "UPDATE market.licence_transfers SET to_buyer_id = 'eve'",
            "INSERT INTO market.licence_owner_keys SELECT 'lic', 'lic', 'x', 'eve', now()",
            "DELETE FROM market.ownership_challenges",
            "SELECT market.hold_document('x', NULL)",
            "SELECT market.claim_command('x', 'x', 'x', 'x')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                serving.execute(statement)


# -- renewals ------------------------------------------------------------------------------------------


async def test_a_renewal_is_done_once_and_by_the_owner_of_both(owner, store, reads):
    old, bought, others = issue(owner), issue(owner), issue(owner, buyer="bob")
    await refused("licence_not_found", store.renew(write(), bought, others, successor()))
    await refused("licence_not_found", store.renew(write("bob"), bought, old, successor()))
    new = successor()
    renewing = write()
    assert await store.renew(renewing, bought, old, new) is None
    assert (await reads.standing(old)).status == "active"
    assert (await reads.standing(bought)).status == "superseded"
    assert (await store.renew(renewing, bought, old, new)).subject == new.document_id
    await refused("renewal_done", store.renew(write(), new.document_id, old, successor()))


@pytest.mark.parametrize("status", ["suspended", "revoked"])
async def test_a_refund_under_way_is_waited_for_and_its_outcome_counts(migrated, owner, store, status):
    """The order's commit holds the licence: what is asked meanwhile sees what it says, not what was."""
    old, bought, handed = issue(owner), issue(owner), issue(owner)
    transfer_id = await transfer(store, handed)
    with psycopg.connect(migrated.dsn) as refund:
        for licence_id in (old, handed):
            judge(refund, licence_id, status)
        asked = [
            asyncio.create_task(one)
            for one in (
                store.renew(write(), bought, old, successor()),
                store.accept_transfer(write("bob"), transfer_id, successor()),
                activate(store, old),
                store.register_owner_key(write(), old, b"k" * 32),
            )
        ]
        await asyncio.sleep(0.3)
        assert not any(one.done() for one in asked)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [one.code for one in answers] == ["licence_not_active"] * 4


async def test_two_renewals_in_a_circle_do_not_wait_for_each_other(owner, store):
    one, two = issue(owner), issue(owner)
    await asyncio.gather(
        store.renew(write(), one, two, successor()), store.renew(write(), two, one, successor()),
        return_exceptions=True,
    )  # fmt: skip
    ((count,),) = owner.execute(
        "SELECT count(*) FROM market.licence_successors WHERE licence_id IN (%s, %s)", [one, two]
    ).fetchall()
    assert count == 1  # the second found its old licence replaced


async def test_what_is_mine_is_listed_once(owner, store):
    mine = [issue(owner, buyer="eve") for _ in range(3)]
    given, kept = mine[0], mine[1:]
    new = successor()
    transfer_id = ident("ltr")
    await store.offer_transfer(write("eve"), transfer_id, given, "dan", LIFE_S)
    await store.accept_transfer(write("dan"), transfer_id, new)
    assert [one.licence_id for one in await store.licences_of("eve", "~", 10)] == sorted(kept, reverse=True)
    assert [one.licence_id for one in await store.licences_of("dan", "~", 10)] == [new.document_id]
    first = await store.licences_of("eve", "~", 1)
    assert [one.licence_id for one in await store.licences_of("eve", first[0].licence_id, 10)] == [min(kept)]


# -- ownership -----------------------------------------------------------------------------------------


def challenge(document_id, purpose="ownership"):
    return Challenge(document_id, secrets.token_hex(32), purpose)


async def test_a_challenge_is_answered_once_however_many_answer(store, licence):
    await refused("owner_key_missing", store.challenge(challenge(licence)))
    await store.register_owner_key(write(), licence, b"k" * 32)
    assert await store.owner_key(licence) == b"k" * 32
    one = challenge(licence)
    await store.challenge(one)
    answers = await asyncio.gather(*(store.answer(one) for _ in range(20)), return_exceptions=True)
    assert sorted(getattr(answer, "code", "proven") for answer in answers) == 19 * ["nonce_replayed"] + [
        "proven"
    ]


async def test_a_challenge_is_bound_to_its_licence_and_purpose_and_five_minutes(owner, store, licence):
    other = issue(owner)
    await store.register_owner_key(write(), licence, b"k" * 32)
    one = challenge(licence)
    await store.challenge(one)
    await refused("nonce_unknown", store.answer(Challenge(other, one.nonce, one.purpose)))
    await refused("nonce_unknown", store.answer(Challenge(licence, one.nonce, "activation")))
    await refused("nonce_unknown", store.answer(challenge(licence)))
    owner.execute("UPDATE market.ownership_challenges SET expires_at = now() WHERE used_at IS NULL")
    await refused("nonce_expired", store.answer(one))
    ((stored,),) = owner.execute(
        "SELECT count(*) FROM market.ownership_challenges WHERE nonce_sha256 = %s", [bytes.fromhex(one.nonce)]
    ).fetchall()
    assert stored == 0  # hashed


async def test_strangers_challenges_push_each_other_out_and_keep_nobody_from_asking(owner, store, licence):
    await store.register_owner_key(write(), licence, b"k" * 32)
    owner.execute("DELETE FROM market.ownership_challenges")
    first = challenge(licence)
    await store.challenge(first)
    for _ in range(OPEN_MAX // 16):
        await asyncio.gather(*(store.challenge(challenge(licence)) for _ in range(16)))
    mine = challenge(licence)
    await store.challenge(mine)
    count = "SELECT count(*) FROM market.ownership_challenges"
    assert owner.execute(count).fetchone() == (OPEN_MAX,)
    await refused("nonce_unknown", store.answer(first))
    await store.answer(mine)
    await refused("nonce_replayed", store.answer(mine))
    owner.execute("DELETE FROM market.ownership_challenges WHERE used_at IS NOT NULL")
    owner.execute("UPDATE market.ownership_challenges SET expires_at = now() - interval '2 days'")
    for _ in range(11):  # a hundred old ones go with each
        await store.challenge(challenge(licence))
    assert owner.execute(count).fetchone() == (11,)


async def test_an_answer_is_not_taken_back_by_the_serving_role(migrated, store, licence):
    await store.register_owner_key(write(), licence, b"k" * 32)
    one = challenge(licence)
    await store.challenge(one)
    await store.answer(one)
    with (
        psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as serving,
        pytest.raises(psycopg.errors.IntegrityError),
    ):
        serving.execute("UPDATE market.ownership_challenges SET used_at = NULL")
    await refused("nonce_replayed", store.answer(one))


async def test_a_buyer_does_not_fill_the_revocation_list_by_handing_licences_to_and_fro(owner, store):
    licence_id = issue(owner, buyer="gus")
    for _ in range(TRANSFERS_A_DAY_MAX):
        await store.end_transfer(write("gus"), await transfer(store, licence_id, principal="gus"))
    await refused("transfers_many", transfer(store, licence_id, principal="gus"))
    owner.execute("UPDATE market.licence_transfers SET offered_at = now() - interval '1 day'")
    await transfer(store, licence_id, principal="gus")


async def test_a_new_key_ends_what_was_asked_under_the_old_one(store, licence):
    await refused("licence_not_found", store.register_owner_key(write("bob"), licence, b"k" * 32))
    await store.register_owner_key(write(), licence, b"k" * 32)
    one = challenge(licence)
    await store.challenge(one)
    await store.register_owner_key(write(), licence, b"n" * 32)
    await refused("nonce_unknown", store.answer(one))
    await store.accept_transfer(write("bob"), await transfer(store, licence), new := successor())
    assert await store.owner_key(new.document_id) is None


# -- plans ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "name", "values"),
    [
        ("licences.sql", "licence", {"licence_id": "lic"}),
        ("licences.sql", "licence_standings", {"licence_ids": ["lic", "other"]}),
        ("licences.sql", "licence_recorded_at", {"licence_id": "lic", "envelope": "{}"}),
        ("licensing.sql", "documents_of_buyer", {"buyer_id": "ada", "before": "~", "limit": 10}),
        ("licensing.sql", "documents", {"document_ids": ["lic_1", "lic_2"]}),
        ("licensing.sql", "activations", {"licence_id": "lic", "limit": 10}),
        ("licensing.sql", "owner_key", {"document_id": "lic"}),
    ],
)
def test_no_read_goes_through_all_licences(migrated, queries, name, values):
    with psycopg.connect(migrated.dsn_for("market_app"), options="-c enable_seqscan=off") as serving:
        query = load_queries("storage.market", queries)[name]
        plan = "\n".join(row[0] for row in serving.execute(f"EXPLAIN {query}", values).fetchall())
    lines = [line.strip() for line in plan.splitlines()]
    scans = [at for at, line in enumerate(lines) if re.search(r"Scan .*(on|using) (licence|orders)", line)]
    bitmaps = "Bitmap Heap"  # its condition stands with the index that it asks
    whole = [lines[at] for at in scans if bitmaps not in lines[at] and "Index Cond" not in lines[at + 1]]
    assert whole == [], plan
