"""The audit log on a real Postgres: each fact once, one tree, and a signer that signs one history."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from actors.signer.checkpoints import HeadClaim
from domain.audit import checkpoints, entries
from domain.errors import MarketplaceError
from domain.merkle import proofs, tiles
from domain.merkle.tree import EMPTY_HEAD, GrowingTree, Head, complete, leaf_hash
from storage.market.commands import Write
from storage.market.dead_letters import DeadLetters, Decision, LetterName
from storage.market.outbox import enqueue_history
from storage.market.pool import build_pool
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.audit import LocalSigner, LogWorld, commit, new_order
from tests.fakes.carts import NOW
from tests.fakes.ingress import FakeMarket
from tests.fakes.licensing import record_licence

pytestmark = pytest.mark.integration

KEY = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
OTHER = DevelopmentKeyFile(b"t" * 32, b"w" * 32)
RECORD = [register(one.public_key, NOW) for one in (KEY, OTHER)]


@pytest.fixture
def migrated(market_database):
    return market_database


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def pool(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def world(migrated, pool):
    dsn = migrated.dsn_for("market_app")
    world = LogWorld(dsn, pool, LocalSigner(dsn, KEY, RECORD))
    yield world
    await world.close()


async def refused(code, awaitable):
    with pytest.raises(MarketplaceError) as told:
        await awaitable
    assert told.value.code == code, told.value


async def test_every_event_and_every_document_is_in_the_log_once(world, owner):
    market = FakeMarket()
    plain = new_order()
    ids = commit(owner, plain, "order.created", "order.screened")
    licence = record_licence(owner, market)
    owner.execute("UPDATE market.orders SET seq = 0 WHERE order_id = %s", [licence.order_id])
    ids += commit(owner, licence.order_id, "order.licensed", "order.delivered")
    owner.execute(
        "INSERT INTO market.deliveries (delivery_id, order_id, line_no, buyer_id, release_id, mode,"
        " recipient, header, manifest)"
        " VALUES ('dlv_1', %s, 1, 'buyer_ada', 'rel_1', 'recipient', 'age1', '', '{}')",
        [licence.order_id],
    )
    await world.drain()
    found, head = await world.whole()
    expected = {*ids, licence.licence_id, "dlv_1"}
    assert sorted(one.subject_id for one in found) == sorted(expected)
    assert [one.position for one in found] == list(range(len(found)))
    assert all(one.holds for one in found)
    order = [one.subject_id for one in found if one.subject_id in {*ids[2:], licence.licence_id, "dlv_1"}]
    assert order == [ids[2], licence.licence_id, ids[3], "dlv_1"], (
        "documents follow the event that issued them"
    )
    newest = await world.log.newest_checkpoint()
    assert newest.head == head
    origin = (await world.log.state()).origin
    opened, key = checkpoints.open_note(newest.note, [KEY.public_key], verify)
    assert (opened, key) == (checkpoints.Checkpoint(origin, head), KEY.public_key)


async def test_records_are_written_alike_by_the_database_and_by_us(world, owner):
    (event_id,) = commit(owner, order := new_order(), "order.created")
    await world.drain()
    entry = await world.log.entry(event_id)
    row = owner.execute("SELECT kind, at, data::text FROM market.order_events").fetchone()
    assert entry.record == entries.event_record(event_id, order, 1, *row)
    assert entry.digest == entries.entry_of(entry.salt, entry.record)


async def test_what_comes_again_is_not_appended_again(world, owner, pool):
    for _ in range(3):
        commit(owner, new_order(), "order.created", "order.screened")
    await world.drain()
    before = await world.whole()
    newest = await world.log.newest_checkpoint()
    await enqueue_history(pool, "")
    await world.drain()
    assert await world.whole() == before
    assert await world.log.newest_checkpoint() == newest, "nothing grew, so nothing was signed"


async def test_the_tree_grows_over_tiles_as_the_definition_says(world, owner):
    for _ in range(3):
        order = new_order()
        for _ in range(3):
            commit(owner, order, *["order.created"] * 100)
        await world.drain()
    found, head = await world.whole()
    assert (len(found), (await world.log.newest_checkpoint()).head) == (900, head)
    for size in (1, 255, 256, 257, 511, 512, 700, 900):
        tree = GrowingTree()
        for one in found[:size]:
            tree.append(leaf_hash(one.digest))
        assert await world.log.head(size) == tree.head
        proof = await world.log.consistency(size, 900)
        assert proofs.consistent(tree.head, head, proof)
        for index in {0, size // 2, size - 1}:
            proof = await world.log.inclusion(found[index], size)
            assert proof.holds(tree.head, found[index].record)
    for tile in tiles.tiles_of(900):
        leaves = [leaf_hash(one.digest) for one in found[tile.begin : tile.begin + tile.width]]
        assert await world.log.tile(tile) == tiles.joined(leaves)
        assert await world.log.bundle(tile) == [
            one.digest for one in found[tile.begin : tile.begin + tile.width]
        ]
    assert await world.log.tile(tiles.Tile(0, 3, 200)) is None
    assert await world.log.bundle(tiles.Tile(0, 4)) is None
    upper = tiles.parted(await world.log.tile(tiles.Tile(1, 0, 3)))
    assert upper == [
        complete([leaf_hash(x.digest) for x in found[n * 256 : (n + 1) * 256]]) for n in range(3)
    ]


async def test_two_levels_of_subtrees(world, owner):
    """70,000 entries put in as the owner's own facts, so that the second level is reached in seconds."""
    owner.execute(
        "INSERT INTO market.audit_entries (position, kind, subject_id, order_id, seq, digest)"
        " SELECT n, 'event', 'evt_' || n, 'ord_x', n, sha256(n::text::bytea)"
        " FROM generate_series(0, 69999) AS n"
    )
    owner.execute("SELECT market.grow_audit_log(0, 70000)")
    digests = [
        bytes(row[0]) for row in owner.execute("SELECT digest FROM market.audit_entries ORDER BY position")
    ]
    tree = GrowingTree()
    for digest in digests:
        tree.append(leaf_hash(digest))
    assert await world.log.head(70_000) == tree.head
    for size in (65_536, 65_537, 69_999):
        head = await world.log.head(size)
        assert proofs.consistent(head, tree.head, await world.log.consistency(size, 70_000))
    assert len(await world.log.tile(tiles.Tile(1, 1, 17))) == 17 * 32
    assert len(await world.log.tile(tiles.Tile(2, 0, 1))) == 32


async def test_two_sequencers_at_once_make_one_log(world, owner, pool, migrated):
    orders = [new_order() for _ in range(40)]
    records = []
    for order in orders:
        commit(owner, order, "order.created", "order.screened")
        records.append(await world.load(order, 2))
    projections = [LogWorld(migrated.dsn_for("market_app"), pool, world.signer).consumer for _ in range(4)]
    await asyncio.gather(
        *(one.consume(part) for one in projections for part in records), return_exceptions=True
    )
    for part in records:
        assert await world.consumer.consume(part) == [None] * len(part)
    found, head = await world.whole()
    assert len(found) == len({one.subject_id for one in found}) == 80
    rivals = [LogWorld(migrated.dsn_for("market_app"), pool, world.signer).sequencer for _ in range(4)]
    answers = await asyncio.gather(*(one.once() for one in rivals), return_exceptions=True)
    assert all(one is None or one.code == "checkpoint_moved" for one in answers)
    assert (await world.log.newest_checkpoint()).head == head
    assert owner.execute("SELECT count(*) FROM market.audit_checkpoints").fetchone()[0] == 1


async def test_a_log_that_is_younger_than_its_orders_catches_up_in_pages(world, owner):
    for _ in range(600):
        commit(owner, new_order(), "order.created")
    owner.execute("DELETE FROM market.outbox")
    owner.execute("UPDATE market.audit_log SET history_after = ''")
    commit(owner, new_order(), "order.created")
    sizes = []
    while (await world.log.state()).history_after is not None:
        await world.sequencer.once()
        while await world.relay.once() or await world.waits():
            pass
        sizes.append((await world.log.state()).size)
    assert sizes[-1] == 601
    assert max(b - a for a, b in pairwise([0, *sizes])) <= 251, "a page at a time"


async def test_what_a_relay_without_the_log_published_is_found_at_the_next_start(
    world, owner, pool, migrated
):
    order, other = new_order(), new_order()
    commit(owner, order, "order.created")
    await world.drain()
    commit(owner, order, "order.screened")
    commit(owner, other, "order.created", "order.screened")
    owner.execute("DELETE FROM market.outbox")  # as a relay of an earlier build does
    await world.drain()
    assert (await world.log.state()).size == 1, "one look at a start is enough while all relays know the log"
    await world.close()
    again = LogWorld(migrated.dsn_for("market_app"), pool, world.signer)
    await again.drain()
    await again.drain()
    found, _ = await again.whole()
    assert len(found) == len({one.subject_id for one in found}) == 4
    await again.close()


async def test_documents_that_no_order_issued_are_logged_as_well(world, owner):
    market = FakeMarket()
    licence = record_licence(owner, market)
    owner.execute(
        "INSERT INTO market.licence_successors (document_id, licence_id, serial, supersedes, cause, buyer_id,"
        " key_id, envelope, issued_at)"
        " VALUES ('lic_next', %s, 2, %s, 'transfer', 'buyer_bob', 'k', '{\"e\":1}', now())",
        [licence.licence_id, licence.licence_id],
    )
    await world.sequencer.once()
    entry = await world.log.entry("lic_next")
    assert (entry.kind, entry.record, entry.holds) == ("licence", 'licence\n{"e":1}', True)
    assert owner.execute("SELECT count(*) FROM market.audit_waiting").fetchone()[0] == 0
    assert await world.log.is_party("lic_next", "buyer_bob")
    assert not await world.log.is_party("lic_next", "buyer_ada"), "handed on: it names its new owner"


async def test_nobody_rewrites_the_log(world, owner, migrated):
    commit(owner, new_order(), *["order.created"] * 257)
    await world.drain()
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as serving:
        for statement in (
            "INSERT INTO market.audit_entries VALUES (999, 'event', 'evt_x', 'ord_x', 1, NULL, sha256(''))",
            "INSERT INTO market.audit_subtrees VALUES (1, 9, sha256(''))",
            "INSERT INTO market.audit_checkpoints VALUES (9, 'k', sha256(''), 'n', now())",
            "UPDATE market.audit_entries SET salt = NULL",
            "UPDATE market.audit_log SET size = 1",
            "UPDATE market.audit_log SET origin = 'mine'",
            "DELETE FROM market.audit_entries",
            "TRUNCATE market.audit_entries",
            "SELECT market.grow_audit_log(257, 999)",
            "SELECT market.keep_checkpoint(1, 'k', sha256(''), 'n')",
            "SELECT market.keep_checkpoint(258, 'k', sha256(''), 'n')",
            "SELECT market.keep_checkpoint(257, 'k2', sha256(''), 'n')",
            'SELECT market.append_order_events(\'[{"order_id":"ord_none","first_seq":1,"last_seq":1}]\')',
        ):
            with pytest.raises(psycopg.Error):
                serving.execute(statement)
    for statement in (
        "UPDATE market.audit_entries SET digest = sha256('')",
        "UPDATE market.audit_entries SET salt = '\\x00112233445566778899aabbccddeeff'",
        "DELETE FROM market.audit_entries",
        "UPDATE market.audit_subtrees SET hash = sha256('')",
        "DELETE FROM market.audit_subtrees",
        "UPDATE market.audit_checkpoints SET at = now()",
        "UPDATE market.audit_log SET size = 3",
        "DELETE FROM market.audit_log",
    ):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            owner.execute(statement)


async def test_an_erased_fact_leaves_the_tree_whole(world, owner):
    first, second = commit(owner, new_order(), "order.created", "order.screened")
    await world.drain()
    _, head = await world.whole()
    owner.execute("UPDATE market.audit_entries SET salt = NULL WHERE subject_id = %s", [first])
    assert (await world.whole())[1] == head
    assert await world.log.inclusion(await world.log.entry(first), head.size) is None
    kept = await world.log.entry(second)
    assert (await world.log.inclusion(kept, head.size)).holds(head, kept.record)


async def test_an_audit_event_is_never_dropped(world, owner, pool):
    order = new_order()
    commit(owner, order, "order.created")
    owner.execute("INSERT INTO market.consumer_progress VALUES ('audit', %s, 0, 0)", [order])
    owner.execute(
        "INSERT INTO market.stuck_events VALUES ('audit', %s, 1, 5, 'unforeseen', 'words', now(), now())",
        [order],
    )
    letters, name = DeadLetters(pool), LetterName.parse(f"event:audit:{order}")
    for verb, outcome in (("drop", "audit_event_needed"), ("retry", None)):
        write = Write("operator_1", f"{verb}-{order}", b"d" * 32)
        decision = Decision(verb, name, f"act_{verb}", "mended")
        if outcome:
            await refused(outcome, letters.decide(write, decision, {}))
        else:
            await letters.decide(write, decision, {})
    await world.drain()
    assert (await world.log.state()).size == 1


# -- the signer ----------------------------------------------------------------------------------------


async def claim(world, size=None, since=None, **more):
    state = await world.log.state()
    head = await world.log.head(size if size is not None else state.size)
    last = since or (await world.signer.last_checkpoint()).head
    proof = await world.log.consistency(min(last.size, head.size), head.size)
    return replace(HeadClaim(state.origin, head, last, tuple(proof)), **more)


async def test_the_signer_signs_only_what_continues(world, owner):
    commit(owner, new_order(), *["order.created"] * 10)
    await world.drain()
    commit(owner, new_order(), *["order.created"] * 5)
    while await world.relay.once():
        pass
    sign, signed = world.signer.sign_checkpoint, (await world.signer.last_checkpoint()).head
    assert signed.size == 10
    good = await claim(world)
    spoilt = Head(15, bytes(32))
    await refused("checkpoint_inconsistent", sign(replace(good, head=spoilt)))
    await refused("checkpoint_inconsistent", sign(replace(good, proof=good.proof[:-1])))
    await refused("checkpoint_inconsistent", sign(await claim(world, size=9)))
    await refused("checkpoint_inconsistent", sign(replace(good, head=Head(10, bytes(32)), proof=())))
    await refused("checkpoint_inconsistent", sign(replace(good, origin="another.log")))
    await refused("checkpoint_moved", sign(await claim(world, since=EMPTY_HEAD)))
    await refused("checkpoint_moved", sign(await claim(world, since=await world.log.head(5))))
    world.signer.restart()
    await refused("checkpoint_inconsistent", sign(replace(good, head=spoilt)))
    await refused("checkpoint_moved", sign(await claim(world, since=EMPTY_HEAD)))
    note = (await sign(good)).note
    assert checkpoints.read(note).head == good.head
    await refused("checkpoint_moved", sign(good))
    assert (await world.log.newest_checkpoint()).head.size == 10, "signed and lost on the way"
    await world.sequencer.once()
    assert (await world.log.newest_checkpoint()).note == note


async def test_a_new_key_signs_the_head_that_the_old_one_signed(world, owner):
    commit(owner, new_order(), "order.created")
    await world.drain()
    world.signer.key = OTHER
    await world.sequencer.once()
    newest = await world.log.newest_checkpoint()
    assert newest.key_id == OTHER.key_id
    checkpoints.open_note(newest.note, [OTHER.public_key], verify)
    await world.sequencer.once()
    assert owner.execute("SELECT count(*) FROM market.audit_checkpoints").fetchone()[0] == 2


async def test_a_checkpoint_on_record_that_is_not_ours_stops_signing(world, owner):
    commit(owner, new_order(), "order.created")
    while await world.relay.once():
        pass
    head = await world.log.head(1)
    forged = checkpoints.sign(
        checkpoints.Checkpoint((await world.log.state()).origin, head),
        DevelopmentKeyFile(b"x" * 32, b"w" * 32),
    )
    await world.log.keep_checkpoint(head, "key_x", forged)
    await refused("checkpoint_record_damaged", world.sequencer.once())


async def test_checkpoints_are_found_by_time(world, owner):
    assert await world.log.checkpoint_before(datetime.now(UTC)) is None
    sizes = []
    for _ in range(3):
        commit(owner, new_order(), "order.created")
        await world.drain()
        sizes.append(await world.log.newest_checkpoint())
    for earlier, later in pairwise(sizes):
        assert await world.log.checkpoint_before(later.at) == earlier
    assert await world.log.checkpoint_before(sizes[-1].at + timedelta(microseconds=1)) == sizes[-1]
    assert await world.log.checkpoint_of_size(2) == sizes[1]


# -- faults --------------------------------------------------------------------------------------------

RELAYING = Path(__file__).with_name("audit_process.py")


def start(dsn):
    return subprocess.Popen([sys.executable, str(RELAYING), dsn], cwd=RELAYING.parents[2])


async def test_a_sequencer_that_is_killed_amid_appends_leaves_no_gap_no_duplicate_and_no_fork(
    world, owner, migrated
):
    dsn = migrated.dsn_for("market_app")
    heads, ids = [EMPTY_HEAD], []
    for round_no in range(6):
        for _ in range(60):
            ids += commit(owner, new_order(), *["order.created"] * 10)
        process = start(dsn)
        try:
            before = (await world.log.state()).size
            for _ in range(400):
                await asyncio.sleep(0.02)
                if (await world.log.state()).size > before + 20 * round_no:
                    break
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
        if newest := await world.log.newest_checkpoint():
            heads.append(newest.head)
    assert (await world.log.state()).size > 0
    for _ in range(100):  # Postgres frees the dead relay's shards when it has seen it go
        await world.drain()
        if (await world.log.state()).size == len(ids):
            break
        await asyncio.sleep(0.1)
    found, head = await world.whole()
    assert [one.position for one in found] == list(range(len(ids)))
    assert sorted(one.subject_id for one in found) == sorted(ids)
    assert all(one.holds for one in found)
    for old in heads:
        assert proofs.consistent(old, head, await world.log.consistency(old.size, head.size))
