"""The audit log against whoever has the serving role's password, or a key that was compromised."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from actors.audit.sequencer import Sequencer
from domain.audit import checkpoints
from domain.audit.checkpoints import Checkpoint
from domain.errors import DependencyError, MarketplaceError
from domain.merkle import proofs
from domain.merkle.tree import EMPTY_HEAD, GrowingTree, Head, leaf_hash
from domain.signing import KeyState
from storage.market.audit_log import AuditLog
from storage.market.outbox import enqueue_history
from storage.market.pool import build_pool
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.audit import LocalSigner, LogWorld, commit, new_order
from tests.fakes.carts import NOW
from tests.fakes.ingress import FakeMarket
from tests.fakes.licensing import record_licence

pytestmark = pytest.mark.integration

KEY, NEXT = (DevelopmentKeyFile(seed * 32, b"w" * 32) for seed in (b"s", b"t"))
RECORD = [register(one.public_key, NOW) for one in (KEY, NEXT)]
SUCCESSOR = (
    "INSERT INTO market.licence_successors (document_id, licence_id, serial, supersedes, cause, buyer_id,"
    " key_id, envelope, issued_at) VALUES (%s, %s, %s, %s, 'transfer', 'buyer_bob', 'k', '{}', now())"
)
APPEND = "SELECT market.append_order_events(%s)"
KEEP = "SELECT market.keep_checkpoint(%s, %s, %s, %s)"


@pytest.fixture
def migrated(market_database):
    return market_database


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def serving(migrated):
    """A connection with the serving role's password and nobody's good will."""
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
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


def span(order_id, first_seq, last_seq):
    return f'[{{"order_id":"{order_id}","first_seq":{first_seq},"last_seq":{last_seq}}}]'


def stuck(owner):
    return owner.execute("SELECT count(*) FROM market.stuck_events").fetchone()[0]


async def refused(code, awaitable):
    with pytest.raises(MarketplaceError) as told:
        await awaitable
    assert told.value.code == code, told.value


async def test_an_event_that_somebody_appended_before_the_relay_stops_no_order(world, owner, serving):
    order, other = new_order(), new_order()
    ids = commit(owner, order, "order.created", "order.screened")
    serving.execute(APPEND, [span(order, 2, 2)])
    serving.execute(APPEND, [span(order, 1, 2)])
    ids += commit(owner, order, "order.paid") + commit(owner, other, "order.created")
    await world.drain()
    found, head = await world.whole()
    assert sorted(one.subject_id for one in found) == sorted(ids)
    assert (stuck(owner), (await world.log.newest_checkpoint()).head) == (0, head)


async def test_what_an_event_issued_is_appended_though_the_event_was_before(world, owner, serving):
    licence = record_licence(owner, FakeMarket())
    owner.execute("UPDATE market.orders SET seq = 0 WHERE order_id = %s", [licence.order_id])
    ids = commit(owner, licence.order_id, "order.licensed", "order.delivered")
    serving.execute(APPEND, [span(licence.order_id, 2, 2)])
    owner.execute(
        "INSERT INTO market.deliveries (delivery_id, order_id, line_no, buyer_id, release_id, mode,"
        " recipient, header, manifest)"
        " VALUES ('dlv_1', %s, 1, 'buyer_ada', 'rel_1', 'recipient', 'age1', '', '{}')",
        [licence.order_id],
    )
    await world.drain()
    found, _ = await world.whole()
    assert sorted(one.subject_id for one in found) == sorted({*ids, licence.licence_id, "dlv_1"})


async def test_progress_that_was_lost_appends_nothing_twice(world, owner, serving, pool):
    order = new_order()
    commit(owner, order, "order.created", "order.screened")
    await world.drain()
    before = await world.whole()
    serving.execute("DELETE FROM market.consumer_progress WHERE consumer = 'audit'")
    await enqueue_history(pool, "")
    await world.drain()
    assert await world.whole() == before
    commit(owner, order, "order.paid")
    await world.drain()
    assert (stuck(owner), len((await world.whole())[0])) == (0, 3)


async def test_a_document_whose_id_was_taken_keeps_nothing_else_out(world, owner, serving):
    licence = record_licence(owner, FakeMarket())
    owner.execute("UPDATE market.orders SET seq = 0 WHERE order_id = %s", [licence.order_id])
    order = new_order()
    commit(owner, order, "order.licensed")
    serving.execute(
        "INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity,"
        " key_id, envelope, issued_at) VALUES ('lic_taken', %s, 1, 'm', 's', 'r', 1, 'k', '{}', now())",
        [order],
    )
    await world.drain()
    owner.execute(SUCCESSOR, ["lic_taken", licence.licence_id, 2, licence.licence_id])
    owner.execute(SUCCESSOR, ["lic_next", licence.licence_id, 3, "lic_taken"])
    await world.sequencer.once()
    found, head = await world.whole()
    assert found[-1].subject_id == "lic_next"
    assert (await world.log.newest_checkpoint()).head == head
    assert owner.execute("SELECT document_id FROM market.audit_waiting").fetchall() == [("lic_taken",)]


async def test_an_event_takes_no_documents_name(owner, serving):
    order = new_order()
    commit(owner, order, "order.created")
    serving.execute(
        "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
        " VALUES (%s, 2, 'lic_next', 'order.paid', '{}')",
        [order],
    )
    with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
        serving.execute(APPEND, [span(order, 1, 2)])


async def test_the_serving_role_dates_nothing_and_hides_nothing(world, owner, serving):
    order = new_order()
    commit(owner, order, "order.created")
    for statement in (
        "INSERT INTO market.order_events VALUES ('ord_x', 1, 'evt_x', 'order.paid', '{}', '2020-01-01')",
        "UPDATE market.audit_log SET history_after = ''",
        "SELECT FROM market.audit_log FOR UPDATE",
        "SELECT market.audit_root(1)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            serving.execute(statement)
    serving.execute("SELECT market.send_audit_history('')")
    assert (await world.log.state()).history_after is None, "the look at earlier orders is over"
    owner.execute("UPDATE market.audit_log SET history_after = 'ord_5'")
    serving.execute("SELECT market.send_audit_history('ord_4')")
    assert (await world.log.state()).history_after == "ord_5"
    serving.execute("SELECT market.send_audit_history('ord_6')")
    assert (await world.log.state()).history_after == "ord_6"


async def test_the_database_knows_every_root(world, owner):
    owner.execute(
        "INSERT INTO market.audit_entries (position, kind, subject_id, order_id, seq, digest)"
        " SELECT n, 'event', 'evt_' || n, 'ord_x', n, sha256(n::text::bytea)"
        " FROM generate_series(0, 69999) AS n"
    )
    owner.execute("SELECT market.grow_audit_log(0, 70000)")
    edges = {n + more for n in (256, 512, 65_280, 65_536, 65_792) for more in (-1, 0, 1)}
    sizes = {*range(1, 20), 700, 69_999, 70_000, *edges}
    tree = GrowingTree()
    for (digest,) in owner.execute("SELECT digest FROM market.audit_entries ORDER BY position").fetchall():
        tree.append(leaf_hash(bytes(digest)))
        if tree.size in sizes:
            (root,) = owner.execute("SELECT market.audit_root(%s)", [tree.size]).fetchone()
            assert bytes(root) == tree.root, tree.size


async def test_only_the_head_that_there_is_can_be_kept(world, owner, serving):
    commit(owner, new_order(), *["order.created"] * 5)
    while await world.relay.once() or await world.waits():
        pass
    head, origin = await world.log.head(5), (await world.log.state()).origin
    forged = Head(5, bytes(32))
    for size, root, note in (
        (5, forged.root, checkpoints.sign(Checkpoint(origin, forged), KEY)),
        (6, head.root, checkpoints.sign(Checkpoint(origin, replace(head, size=6)), KEY)),
        (5, head.root, checkpoints.sign(Checkpoint("another.log", head), KEY)),
        (5, head.root, checkpoints.sign(Checkpoint(origin, forged), KEY)),
        (5, head.root, "note"),
        (5, None, "note"),
        (None, head.root, "note"),
        (0, EMPTY_HEAD.root, checkpoints.sign(Checkpoint(origin, EMPTY_HEAD), KEY)),
    ):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            serving.execute(KEEP, [size, KEY.key_id, root, note])
    note = checkpoints.sign(Checkpoint(origin, head), KEY)
    assert serving.execute(KEEP, [5, KEY.key_id, head.root, note]).fetchone() == (True,)
    assert serving.execute(KEEP, [5, KEY.key_id, head.root, note]).fetchone() == (False,)


# -- the signer after a start ------------------------------------------------------------------------------


def forge(owner, size, key, head, origin):
    """Put a note in as the record took any before it knew the log's root."""
    note = checkpoints.sign(Checkpoint(origin, head), key)
    owner.execute(
        "INSERT INTO market.audit_checkpoints VALUES (%s, %s, %s, %s, now())",
        [size, key.key_id, head.root, note],
    )


async def test_a_note_with_a_false_signature_is_passed_over_at_a_start(world, owner, serving):
    commit(owner, new_order(), "order.created")
    await world.drain()
    commit(owner, new_order(), "order.created")
    while await world.relay.once() or await world.waits():
        pass
    head, origin = await world.log.head(2), (await world.log.state()).origin
    text = checkpoints.sign(Checkpoint(origin, head), KEY).rpartition(" ")[0]
    false = base64.b64encode(checkpoints.key_hash(origin, KEY.public_key) + bytes(64)).decode()
    serving.execute(KEEP, [2, KEY.key_id, head.root, f"{text} {false}\n"])
    world.signer.restart()
    assert (await world.signer.last_checkpoint()).head.size == 1
    commit(owner, new_order(), "order.created")
    await world.drain()
    newest = await world.log.newest_checkpoint()
    assert checkpoints.open_note(newest.note, [KEY.public_key], verify)[0].head.size == 3


async def test_a_compromised_key_begins_no_second_history(world, owner):
    commit(owner, new_order(), "order.created")
    await world.drain()
    kept, origin = await world.log.newest_checkpoint(), (await world.log.state()).origin
    commit(owner, new_order(), "order.created")
    await world.drain()
    forge(owner, 99, KEY, Head(99, bytes(32)), origin)
    known = replace(
        RECORD[0],
        state=KeyState.COMPROMISED,
        compromised_at=datetime.now(UTC).replace(microsecond=0) - timedelta(days=1),
        log=kept.head,
    )
    world.signer.record, world.signer.key = [known, RECORD[1]], NEXT
    world.signer.restart()
    assert (await world.signer.last_checkpoint()).head == kept.head, "what the root has signed for"
    world.signer.record = [replace(known, log=None), RECORD[1]]
    world.signer.restart()
    assert (await world.signer.last_checkpoint()).head == EMPTY_HEAD
    world.signer.record = [known, RECORD[1]]
    world.signer.restart()
    owner.execute("SET session_replication_role = replica")
    owner.execute("DELETE FROM market.audit_checkpoints WHERE size = 99")
    await world.sequencer.once()
    newest = await world.log.newest_checkpoint()
    assert (newest.key_id, newest.head.size) == (NEXT.key_id, 2)
    proof = await world.log.consistency(1, 2)
    assert proofs.consistent(kept.head, newest.head, proof)
    world.signer.restart()
    assert (await world.signer.last_checkpoint()).head == newest.head


async def test_checkpoints_that_nobody_on_record_signed_stop_signing(world, owner):
    commit(owner, new_order(), "order.created")
    await world.drain()
    world.signer.record = [RECORD[1]]
    world.signer.restart()
    await refused("checkpoint_record_damaged", world.signer.last_checkpoint())


# -- the sequencer -----------------------------------------------------------------------------------------


class _FailingLog(AuditLog):
    async def append_waiting_documents(self, limit: int = 0) -> int:
        raise DependencyError("database_unavailable", "no")


async def test_what_is_in_the_log_is_signed_for_whatever_else_fails(world, owner, pool):
    commit(owner, new_order(), "order.created")
    while await world.relay.once() or await world.waits():
        pass
    await refused("database_unavailable", Sequencer(_FailingLog(pool), world.signer).once())
    assert (await world.log.newest_checkpoint()).head == await world.log.head(1)


async def test_a_database_behind_what_was_signed_is_told(world, owner):
    commit(owner, new_order(), "order.created")
    await world.drain()
    commit(owner, new_order(), "order.created")
    await world.drain()
    owner.execute("SET session_replication_role = replica")  # as a restore does
    owner.execute("DELETE FROM market.audit_entries WHERE position = 1")
    owner.execute("DELETE FROM market.audit_checkpoints WHERE size = 2")
    owner.execute("UPDATE market.audit_log SET size = 1")
    await refused("checkpoint_inconsistent", world.sequencer.once())
    commit(owner, new_order(), "order.created", "order.paid")
    while await world.relay.once() or await world.waits():
        pass
    await refused("checkpoint_inconsistent", world.sequencer.once())
