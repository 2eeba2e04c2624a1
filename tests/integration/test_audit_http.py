"""The audit log over HTTP on a real Postgres: who sees what, and that every answer can be checked."""

import base64
from dataclasses import replace

import psycopg
import pytest

from domain.audit import checkpoints
from domain.audit.proofs import hashes_of, read_proof
from domain.merkle import tiles
from domain.merkle.proofs import consistent
from domain.merkle.tree import GrowingTree, Head, leaf_hash
from domain.orders.events import KINDS
from serve_app.schemas.orders import SHOWN_WHOLE
from storage import migrations
from storage.market.audit_log import AuditLog
from storage.market.pool import build_pool
from storage.signing.keys import register, verify
from tests.fakes.audit import LocalSigner, LogWorld, commit, new_order
from tests.fakes.carts import NOW
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket

pytestmark = pytest.mark.integration

ENTRIES = 300


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
async def pool(database):
    migrations.apply(database.dsn, "storage.market", "market")
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def world(database, pool, market):
    dsn = database.dsn_for("market_app")
    world = LogWorld(dsn, pool, LocalSigner(dsn, market.keys, [register(market.keys.public_key, NOW)]))
    yield world
    await world.close()


@pytest.fixture
def owner(database, pool):
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(market, pool):
    return Client(market.app(replace(market.ports(), audit=AuditLog(pool))))


@pytest.fixture
async def ids(world, owner):
    order = new_order()
    found = []
    for _ in range(3):
        found += commit(owner, order, *["order.paid"] * (ENTRIES // 3))
    await world.drain()
    return found


def code(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["code"]


async def head(client, market):
    answer = await client.get("/v1/audit/checkpoint")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    checkpoint, _ = checkpoints.open_note(answer.text, [market.keys.public_key], verify)
    return checkpoint.head


async def test_an_empty_log_says_so(client, world):
    assert code(await client.get("/v1/audit/checkpoint"), 404) == "checkpoint_missing"
    assert code(await client.get("/v1/audit/tile/0/000.p/1"), 404) == "checkpoint_missing"
    assert code(await client.as_("auditor").get("/v1/audit/entries"), 404) == "checkpoint_missing"
    answer = await client.as_("operator").get("/v1/audit/checkpoints?before=2026-11-24T09:30:00Z")
    assert code(answer, 404) == "checkpoint_missing"


async def test_anybody_recomputes_the_root_from_the_tiles(client, market, ids):
    signed = await head(client, market)
    tree = GrowingTree()
    for tile in tiles.tiles_of(signed.size):
        bundle = await client.get(f"/v1/audit/tile/entries/{tile.path}")
        assert bundle.headers["content-type"] == "application/octet-stream"
        assert "immutable" in bundle.headers["cache-control"]
        hashes = (await client.get(f"/v1/audit/tile/0/{tile.path}")).content
        data, leaves = bundle.content, []
        while data:
            length = int.from_bytes(data[:2])
            leaves.append(leaf_hash(data[2 : 2 + length]))
            data = data[2 + length :]
        assert b"".join(leaves) == hashes
        for leaf in leaves:
            tree.append(leaf)
    assert (tree.head, signed.size) == (signed, ENTRIES)


@pytest.mark.parametrize(
    "path",
    [
        "0/000.p/1x", "0/002", "0/001.p/45", "0/001", "00/000", "64/000", "7/000", "-1/000", "x/000", "1/000",
        "1/000.p/2", "entries/001", "entries/000.p/256", "entries/0", "data/000",
        "0/x999/x999/x999/x999/x999/999", "0/x999999999/000",
    ],
)  # fmt: skip
async def test_tiles_that_no_checkpoint_covers_are_not_there(client, ids, path):
    assert code(await client.get(f"/v1/audit/tile/{path}"), 404) == "audit_tile_not_found"


async def test_what_is_not_under_a_checkpoint_yet_is_not_shown(client, world, owner, ids):
    (event_id,) = commit(owner, new_order(), "order.created")
    while await world.relay.once():
        pass
    assert (await world.log.state()).size == ENTRIES + 1
    assert code(await client.get(f"/v1/audit/tile/0/001.p/{ENTRIES - 255}"), 404) == "audit_tile_not_found"
    auditor = client.as_("auditor")
    assert code(await auditor.get(f"/v1/audit/proofs/{event_id}"), 409) == "audit_entry_pending"
    page = (await auditor.get("/v1/audit/entries?from=290")).json()
    assert (len(page["items"]), page["next_from"]) == (10, None)
    await world.sequencer.once()
    assert (await auditor.get(f"/v1/audit/proofs/{event_id}")).status_code == 200


async def test_a_buyer_proves_own_events_against_the_checkpoint(client, market, ids):
    signed = await head(client, market)
    for event_id in (ids[0], ids[-1]):
        body = (await client.as_("buyer").get(f"/v1/audit/proofs/{event_id}?from=7")).json()
        checkpoint, _ = checkpoints.open_note(body["checkpoint"], [market.keys.public_key], verify)
        assert checkpoint.head == signed == Head(body["proof"]["size"], base64.b64decode(body["root"]))
        assert read_proof(body["proof"]).holds(signed, body["record"])
        assert not read_proof(body["proof"]).holds(signed, body["record"] + " ")
        earlier = (await client.as_("buyer").get(f"/v1/audit/proofs/{ids[0]}?size=7")).json()
        assert earlier["checkpoint"] is None
        old = Head(7, base64.b64decode(earlier["root"]))
        assert read_proof(earlier["proof"]).holds(old, earlier["record"])
        assert body["consistency"]["from_size"] == 7
        assert consistent(old, signed, hashes_of(body["consistency"]["path"]))


async def test_who_may_see_a_fact(client, ids):
    path = f"/v1/audit/proofs/{ids[0]}"
    for role in ("buyer", "operator", "auditor"):
        assert (await client.as_(role).get(path)).status_code == 200
    assert code(await client.as_("buyer2").get(path), 404) == "audit_entry_not_found"
    assert code(await client.as_("seller").get(path), 403) == "role_not_allowed"
    assert code(await client.as_(None).get(path), 401) == "token_missing"
    assert code(await client.as_("buyer").get("/v1/audit/entries"), 403) == "role_not_allowed"
    assert code(await client.as_("auditor").get("/v1/audit/proofs/evt_none"), 404) == "audit_entry_not_found"
    assert (
        code(await client.as_("auditor").get(f"/v1/audit/proofs/{'e' * 999}"), 404) == "audit_entry_not_found"
    )


async def test_a_buyer_is_not_shown_what_the_order_does_not_tell_them(client, world, owner):
    """The bank's words, reviewers and their reasons, evidence, who earns what: records are whole."""
    order, hidden = new_order(), sorted(KINDS.keys() - SHOWN_WHOLE)
    found = commit(owner, order, *hidden, "order.delivered")
    await world.drain()
    for event_id in found[:-1]:
        path = f"/v1/audit/proofs/{event_id}"
        assert code(await client.as_("buyer").get(path), 404) == "audit_entry_not_found"
        assert (await client.as_("auditor").get(path)).status_code == 200
    assert (await client.as_("buyer").get(f"/v1/audit/proofs/{found[-1]}")).status_code == 200


@pytest.mark.parametrize("query", ["size=301", "size=-1", "size=x", "from=301", "size=5&from=6", "size=٣"])
async def test_sizes_beyond_the_log_are_refused(client, ids, query):
    assert code(await client.as_("auditor").get(f"/v1/audit/proofs/{ids[0]}?{query}"), 422) == "query_invalid"


async def test_an_erased_fact_is_gone_and_its_digest_is_not(client, owner, ids):
    before = (await client.get("/v1/audit/tile/entries/000")).content
    owner.execute("UPDATE market.audit_entries SET salt = NULL WHERE subject_id = %s", [ids[1]])
    assert (await client.get("/v1/audit/tile/entries/000")).content == before
    assert code(await client.as_("auditor").get(f"/v1/audit/proofs/{ids[1]}"), 410) == "audit_entry_erased"
    (entry,) = (await client.as_("auditor").get("/v1/audit/entries?from=1&limit=1")).json()["items"]
    assert (entry["subject_id"], entry["salt"], entry["record"]) == (ids[1], None, None)


async def test_entries_page_through_the_whole_log(client, ids):
    found, following = [], 0
    while following is not None:
        page = (await client.as_("operator").get(f"/v1/audit/entries?from={following}&limit=90")).json()
        found += page["items"]
        following = page["next_from"]
    assert [one["subject_id"] for one in found] == ids
    assert [one["position"] for one in found] == list(range(ENTRIES))
    for query in ("from=x", "limit=257", "limit=-1"):
        assert code(await client.as_("operator").get(f"/v1/audit/entries?{query}"), 422) == "query_invalid"


async def test_the_checkpoint_before_a_time(client, world, owner, ids):
    operator = client.as_("operator")
    first = (await operator.get("/v1/audit/checkpoints?before=2999-01-01T00:00:00Z")).json()
    assert (first["size"], first["note"]) == (ENTRIES, (await client.get("/v1/audit/checkpoint")).text)
    commit(owner, new_order(), "order.created")
    await world.drain()
    second = (await operator.get("/v1/audit/checkpoints?before=2999-01-01T00:00:00Z")).json()
    assert (await operator.get(f"/v1/audit/checkpoints?before={second['kept_at']}")).json() == first
    for text in ("", "2026-11-24", "2026-11-24T09:30:00", "0001-01-01T00:00:00%2B14:00", "yesterday"):
        assert code(await operator.get(f"/v1/audit/checkpoints?before={text}"), 422) == "query_invalid"
