"""What a compromise of the signing key leaves valid: what the audit log held before, and nothing else."""

import asyncio
import json
import time
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from actors.publisher.sealing import ReleaseSealer
from cluster import cli_audit, cli_buyer, cli_keys
from cluster.client import ApiError, MarketplaceClient
from domain import delivery_manifests, key_lists, licences, statements
from domain.audit import checkpoints
from domain.audit.proofs import read_proof
from domain.dsse import sign_all
from domain.licences import armour
from domain.merkle.tree import Head
from storage import migrations
from storage.market.audit_log import AuditLog
from storage.market.commands import Commands
from storage.market.licences import LicenceReads
from storage.market.licensing import Licensing
from storage.market.pool import build_pool
from storage.market.signing_keys import SigningKeys, add_root
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register
from tests.fakes.api_thread import ApiThread
from tests.fakes.audit import LocalSigner, LogWorld, commit
from tests.fakes.documents import delivery_manifest
from tests.fakes.ingress import FakeMarket
from tests.fakes.licensing import ident, record_licence

pytestmark = pytest.mark.integration

NEXT = DevelopmentKeyFile(b"n" * 32, b"w" * 32)


@pytest.fixture
def market():
    fake = FakeMarket()
    fake.clock.now = datetime.now(UTC)
    return fake


@pytest.fixture
def owner(database):
    migrations.apply(database.dsn, "storage.market", "market")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection


class Desk:
    """A platform with a root, its buyer, and a thief of the first key."""

    def __init__(self, market, owner, dsn):
        self.market, self.owner, self.dsn = market, owner, dsn
        self.signer = LocalSigner(
            dsn, market.keys, [market.key_record, register(NEXT.public_key, market.clock())]
        )

    def log(self):
        async def run():
            pool = build_pool(self.dsn, name="log", size_max=2)
            await pool.open(wait=True)
            world = LogWorld(self.dsn, pool, self.signer)
            await world.drain()
            await world.close()
            await pool.close()

        asyncio.run(run())

    def issue(self, **more):
        """Issue a licence and its delivery as an order's commit leaves them."""
        one = record_licence(self.owner, self.market, **more)
        manifest = replace(
            delivery_manifest(), delivery_id=ident("dlv"), order_id=one.order_id, licence_id=one.licence_id
        )
        (envelope,) = sign_all(
            self.market.keys, statements.PAYLOAD_TYPE, [delivery_manifests.build(manifest)]
        )
        self.owner.execute(
            "INSERT INTO market.deliveries (delivery_id, order_id, line_no, buyer_id, release_id, mode,"
            " recipient, header, manifest)"
            " VALUES (%s, %s, 1, 'buyer_ada', 'rel_1', 'recipient', 'age1', '', %s)",
            [manifest.delivery_id, one.order_id, envelope.dumps()],
        )
        self.owner.execute("UPDATE market.orders SET seq = 0 WHERE order_id = %s", [one.order_id])
        commit(self.owner, one.order_id, "order.licensed", "order.delivered")
        return one, envelope.dumps()

    def text(self, one):
        (envelope,) = sign_all(self.market.keys, licences.PAYLOAD_TYPE, [licences.build(one)])
        return envelope.dumps()


@pytest.fixture
def desk(market, owner, database, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MARKETPLACE_URL", "http://market.test")
    monkeypatch.setenv("MARKETPLACE_TOKEN", "operator")
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MARKETPLACE_IDENTITY", raising=False)
    dsn = database.dsn_for("market_app")
    pool = build_pool(dsn, name="test", size_max=2)
    ports = replace(
        market.ports(),
        licences=LicenceReads(pool),
        licensing=Licensing(pool),
        commands=Commands(pool),
        signing_keys=SigningKeys(pool),
        audit=AuditLog(pool),
        new_id=ident,
    )
    run(cli_keys, "root-init", "--root", "root.pem")
    add_root(database.dsn, cli_keys._read_public(tmp_path / "root.public.pem"))
    (tmp_path / "first.pem").write_text(public_key_pem(market.keys.public_key))
    (tmp_path / "next.pem").write_text(public_key_pem(NEXT.public_key))
    with ApiThread(market.app(ports), pool) as thread:
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: thread(request))
        since = f"{market.key_record.not_before:%Y-%m-%dT%H:%M:%SZ}"
        keys("add", "first.pem", "--since", since)
        keys("activate", market.keys.key_id)
        keys("add", "next.pem")
        keys("publish", offline=False)
        yield Desk(market, owner, dsn)


def run(module, *arguments, status=0):
    result = CliRunner().invoke(module.app, [*arguments, "--json"])
    assert result.exit_code == status, result.output
    return result


def keys(verb, *arguments, offline=True, status=0):
    more = ["--root", "root.pem"] if offline else []
    return json.loads(run(cli_keys, verb, *arguments, *more, "--list", "list.json", status=status).output)


def verify(path, *arguments, status=0):
    told = json.loads(run(cli_buyer, "verify", str(path), *arguments, status=status).output)
    return {one["name"]: one["state"] for one in told.get("checks", ())}, told


def compromise(desk, since, *arguments):
    keys("compromise", desk.market.keys.key_id, "--since", since, "--activate", NEXT.key_id, *arguments)


def now():
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def stolen(desk, tmp_path):
    """A licence and delivery from before the theft, one from after it, and the list that says when it was."""
    before, manifest = desk.issue()
    desk.log()
    at = desk.owner.execute("SELECT max(at) FROM market.audit_checkpoints").fetchone()[0]
    since = (at + timedelta(seconds=1)).replace(microsecond=0)
    after, later = desk.issue(quantity=7)
    while now() < since + timedelta(seconds=1):
        time.sleep(0.05)
    desk.log()
    run(cli_audit, "checkpoint", "--before", since.isoformat(), "--out", "log.note")
    compromise(desk, since.isoformat(), "--log", "log.note")
    desk.since = since
    for name, one, delivery in (("before", before, manifest), ("after", after, later)):
        (tmp_path / f"{name}.licence.txt").write_text(armour(desk.text(one)))
        (tmp_path / f"{name}.delivery.json").write_text(delivery)
    return before, after


def rotate(desk):
    """Publish the list; the signer and its lists go on with the next key."""
    keys("publish", offline=False)
    desk.market.signer._sealer = ReleaseSealer(NEXT, NEXT)
    desk.market.monotonic.now_s += 100
    desk.signer.key = NEXT
    desk.log()


KEY, MANIFEST = "signing key", "delivery manifest"


def test_only_what_was_in_the_log_before_stays_valid(desk, stolen, tmp_path):
    assert verify("before.licence.txt")[0][KEY] == "ok"
    rotate(desk)
    checks, told = verify("before.licence.txt")
    assert (checks["licence signature"], checks[KEY], checks[MANIFEST]) == ("ok", "ok", "ok"), told
    checks, told = verify("after.licence.txt", status=1)
    assert (checks["licence signature"], checks[KEY], checks[MANIFEST]) == ("ok", "failed", "failed"), told


def test_an_offline_file_carries_the_proof_and_needs_nobody(desk, stolen, monkeypatch, tmp_path):
    before, after = stolen
    rotate(desk)
    verify("before.licence.txt")  # pins the root's list
    monkeypatch.setenv("MARKETPLACE_TOKEN", "buyer")
    for one in (before, after):
        run(cli_buyer, "offline", one.licence_id)

    def nobody(_, request):
        raise AssertionError(f"asked {request.url}")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", nobody)
    (tmp_path / "before.delivery.json").unlink()
    checks, told = verify(f"{before.licence_id}.offline-licence.txt", "--offline")
    assert (checks["licence signature"], checks[KEY], checks["licence revocation"]) == ("ok", "ok", "ok"), (
        told
    )
    assert "among the first" in next(one["reason"] for one in told["checks"] if one["name"] == KEY)
    checks, told = verify(f"{after.licence_id}.offline-licence.txt", "--offline", status=1)
    assert checks[KEY] == "failed", told


def test_a_thief_gains_nothing_by_dating_back_or_by_the_platforms_word(desk, stolen, tmp_path):
    before, _ = stolen
    rotate(desk)
    forged = desk.text(replace(before, quantity=999))  # the stolen key, an id and a date from before
    (tmp_path / "forged.licence.txt").write_text(armour(forged))
    checks, told = verify("forged.licence.txt", status=1)
    assert (checks["licence signature"], checks[KEY]) == ("ok", "failed"), told
    # Who holds the database says that it was on record long ago: its word counts no more.
    desk.owner.execute("SET session_replication_role = replica")
    desk.owner.execute(
        "UPDATE market.licences SET envelope = %s WHERE licence_id = %s", [forged, before.licence_id]
    )
    answer = json.loads(run(cli_buyer, "verify", "forged.licence.txt", status=1).output)
    assert {one["name"]: one["state"] for one in answer["checks"]}[KEY] == "failed"
    checks, told = verify("before.licence.txt")
    assert checks[KEY] == "ok", "and takes no proof from the licence that it replaced"
    with MarketplaceClient("http://market.test") as client:
        assert client.verify_licence(armour(forged))["key"]["log_proof"] is None, "nor tells its salt"
        assert client.verify_licence(armour(desk.text(before)))["key"]["log_proof"] is not None


def test_a_proof_that_was_altered_on_its_way_is_refused(desk, stolen, tmp_path):
    rotate(desk)
    thread = httpx.HTTPTransport.handle_request.__closure__[0].cell_contents
    for old, new in ((b'"position":', b'"position":1'), (b'"path":[', b'"path":["' + b"A" * 43 + b'=",')):
        thread.tampering = [(old, new)]
        checks, told = verify("before.licence.txt", status=1)
        assert (checks[KEY], checks[MANIFEST]) == ("failed", "failed"), told


def test_a_list_must_name_the_log_as_it_was(desk, stolen, tmp_path):
    sound = (tmp_path / "list.json").read_bytes()
    first = desk.owner.execute("SELECT min(size), max(size) FROM market.audit_checkpoints").fetchone()
    assert first[0] < first[1]
    start = json.loads(run(cli_keys, "list", "--out", "list.json").output)["list"]["version"]
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    run(cli_audit, "checkpoint", "--before", later, "--out", "later.note")
    for arguments in (("--log", "later.note"), ("--without-log",), ("--nothing-logged",)):
        run(cli_keys, "list", "--out", "list.json")
        compromise(desk, desk.since.isoformat(), *arguments)
        assert keys("publish", offline=False, status=1)["error"]["code"] == "key_list_refused", arguments
    (tmp_path / "list.json").write_bytes(sound)
    assert keys("publish", offline=False)["version"] > start
    # From then on the head only gets shorter.
    compromise(desk, desk.since.isoformat(), "--log", "later.note")
    listed = json.loads((tmp_path / "list.json").read_bytes())
    assert key_lists.parse(b64decode(listed["payload"])).find(desk.market.keys.key_id).log.size == first[0]


def test_a_compromise_says_what_it_knows_of_the_log(desk, tmp_path):
    for arguments in ((), ("--without-log", "--nothing-logged")):
        answer = CliRunner().invoke(
            cli_keys.app,
            ["compromise", "key_x", "--since", "2026-11-01T10:00:00Z", "--root", "root.pem", *arguments],
        )
        assert answer.exit_code == 2
    (tmp_path / "forged.note").write_text(
        checkpoints.sign(
            checkpoints.Checkpoint("o", Head(9, bytes(32))), DevelopmentKeyFile(b"x" * 32, b"w" * 32)
        )
    )
    told = keys(
        "compromise",
        desk.market.keys.key_id,
        "--since",
        "2026-11-01T10:00:00Z",
        "--log",
        "forged.note",
        status=1,
    )
    assert told["error"]["code"] == "checkpoint_untrusted"


def test_documents_are_proven_to_whoever_holds_them(desk, tmp_path):
    one, manifest = desk.issue()
    desk.log()
    with MarketplaceClient("http://market.test") as client:
        for text in (desk.text(one), manifest):
            found = client.document_log_proof(text, 4)
            assert read_proof(found["proof"]).size == 4
    for text, code in (
        (desk.text(replace(one, quantity=5)), "audit_entry_not_found"),
        ("{}", "audit_entry_not_found"),
        (desk.text(replace(one, licence_id=ident("lic"))), "audit_entry_not_found"),
    ):
        with MarketplaceClient("http://market.test") as client, pytest.raises(ApiError) as told:
            client.document_log_proof(text, 4)
        assert told.value.code == code
    with MarketplaceClient("http://market.test") as client, pytest.raises(ApiError) as told:
        client.document_log_proof(manifest, 999)
    assert told.value.code == "query_invalid"
