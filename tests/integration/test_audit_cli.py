"""``marketplace audit`` over HTTP on a real Postgres: a log that was rewritten, cut or damaged is found."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from cluster import cli_audit, log_memory
from domain.audit import checkpoints
from domain.audit.checkpoints import Checkpoint
from domain.merkle.tree import Head
from storage import migrations
from storage.market.audit_log import AuditLog
from storage.market.pool import build_pool
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register
from tests.fakes.api_thread import ApiThread
from tests.fakes.audit import LocalSigner, LogWorld, commit, new_order
from tests.fakes.carts import NOW
from tests.fakes.ingress import FakeMarket

pytestmark = pytest.mark.integration


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


@pytest.fixture
def log(owner, database, market):
    """Records events and has them logged."""
    dsn = database.dsn_for("market_app")

    def record(count):
        async def run():
            pool = build_pool(dsn, name="log", size_max=2)
            await pool.open(wait=True)
            world = LogWorld(
                dsn, pool, LocalSigner(dsn, market.keys, [register(market.keys.public_key, NOW)])
            )
            await world.drain()
            await world.close()
            await pool.close()

        ids, order = [], new_order()
        for start in range(0, count, 100):
            ids += commit(owner, order, *["order.expired"] * min(100, count - start))
        asyncio.run(run())
        return ids

    return record


@pytest.fixture
def online(market, owner, database, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MARKETPLACE_URL", "http://market.test")
    monkeypatch.setenv("MARKETPLACE_TOKEN", "auditor")
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=2)
    with ApiThread(market.app(replace(market.ports(), audit=AuditLog(pool))), pool) as thread:
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: thread(request))
        yield thread


def run(*arguments, status=0):
    result = CliRunner().invoke(cli_audit.app, [*arguments, "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.output.strip().splitlines()[-1])


def failure(*arguments):
    return run(*arguments, status=1)["error"]["code"]


def test_the_whole_log_is_verified_and_remembered(online, log, tmp_path):
    assert failure("verify") == "checkpoint_missing"
    log(300)
    first = run("verify")
    assert (first["size"], first["since"]) == (300, 0)
    log(300)
    second = run("verify")
    assert (second["size"], second["since"]) == (600, 300)
    memory = tmp_path / "config" / "illuvrse-marketplace" / "log-seen.json"
    assert memory.stat().st_mode & 0o777 == 0o600
    seen = log_memory.recall(memory.parent, "http://market.test")
    log_memory.remember(memory.parent, "http://market.test", replace(seen, head=Head(1, bytes(32))))
    assert log_memory.recall(memory.parent, "http://market.test") == seen, "it never goes back"
    memory.write_text("{")
    assert failure("verify") == "memory_damaged"


def test_a_log_that_was_rewritten_or_cut_is_found(online, log, tmp_path):
    log(300)
    seen = run("verify")
    folder = tmp_path / "config" / "illuvrse-marketplace"
    (folder / "log-seen.json").unlink()
    for checkpoint, code in (
        (Checkpoint(seen["origin"], Head(301, bytes(32))), "log_rolled_back"),
        (Checkpoint(seen["origin"], Head(250, bytes(32))), "log_forked"),
        (Checkpoint(seen["origin"], Head(300, bytes(32))), "log_forked"),
        (Checkpoint("another.log", Head(250, bytes(32))), "log_forked"),
    ):
        log_memory.remember(folder, "http://market.test", checkpoint)
        assert failure("verify") == code
        (folder / "log-seen.json").unlink()
    assert run("verify")["size"] == 300


def test_entries_and_tiles_that_were_altered_are_found(online, log, owner, tmp_path):
    log(300)
    note = run("verify")["checkpoint"]
    for name, (old, new) in {
        "checkpoint_untrusted": (b"\n300\n", b"\n299\n"),
        "checkpoint_invalid": ("—".encode(), b"-"),
    }.items():
        online.tampering = [(old, new)]
        assert failure("verify") == name
    digest = bytes(owner.execute("SELECT digest FROM market.audit_entries WHERE position = 7").fetchone()[0])
    tile = bytes(owner.execute("SELECT hash FROM market.audit_subtrees").fetchone()[0])
    for spoilt in (
        (digest, bytes(32)),
        (tile, bytes(32)),
        (digest, digest[:-1]),
        (b"\x00\x20" + digest, b"\x00\x21" + digest),
    ):
        online.tampering = [spoilt]
        (tmp_path / "config" / "illuvrse-marketplace" / "log-seen.json").unlink(missing_ok=True)
        assert failure("verify") == "log_damaged"
    online.tampering = []
    assert run("verify")["checkpoint"] == note


def test_a_proof_is_a_file_that_needs_no_network(online, log, market, monkeypatch, tmp_path):
    ids = log(10)
    monkeypatch.setenv("MARKETPLACE_TOKEN", "buyer")
    found = run("prove", ids[3])
    path = tmp_path / found["file"]
    assert (found["position"], found["size"]) == (3, 10)
    (tmp_path / "platform.pem").write_text(public_key_pem(market.keys.public_key))
    (tmp_path / "other.pem").write_text(public_key_pem(DevelopmentKeyFile(b"x" * 32, b"w" * 32).public_key))

    def nobody(_, request):
        raise AssertionError(f"asked {request.url}")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", nobody)
    told = run("verify", str(path), "--trust-key", "platform.pem")
    assert told["record"].split("\n")[:2] == ["event", ids[3]]
    assert run("verify", str(path))["position"] == 3, "by the keys that were pinned"
    assert failure("verify", str(path), "--trust-key", "other.pem") == "checkpoint_untrusted"
    path.write_bytes(path.read_bytes().replace(b"order.expired", b"order.granted"))
    assert failure("verify", str(path), "--trust-key", "platform.pem") == "log_proof_wrong"


def test_a_proof_and_an_export_of_another_log_than_was_seen_are_refused(online, log, market, owner, tmp_path):
    ids = log(10)
    seen = run("verify")
    log(5)
    folder = tmp_path / "config" / "illuvrse-marketplace"
    assert run("prove", ids[3])["size"] == 15
    for size, code in ((10, "log_forked"), (15, "log_forked"), (16, "log_rolled_back")):
        (folder / "log-seen.json").unlink()
        log_memory.remember(folder, "http://market.test", Checkpoint(seen["origin"], Head(size, bytes(32))))
        assert failure("prove", ids[3], "--out", "proof.json") == code
        assert failure("export", "--out", "log.jsonl") == code
    assert not list(tmp_path.glob("proof.json")) + list(tmp_path.glob("*log.jsonl*"))


def test_a_wrong_proof_is_not_written(online, log, tmp_path):
    ids = log(10)
    online.tampering = [(b"order.expired", b"order.granted")]
    assert failure("prove", ids[3]) == "log_proof_wrong"
    assert failure("prove", "evt_none") == "audit_entry_not_found"
    assert not list(tmp_path.glob("*.log-proof.json"))


def test_the_export_holds_every_fact(online, log, owner, tmp_path):
    ids = log(300)
    owner.execute("UPDATE market.audit_entries SET salt = NULL WHERE position = 5")
    told = run("export", "--out", "log.jsonl")
    assert (told["size"], told["erased"]) == (300, 1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines()]
    assert [line["subject_id"] for line in lines] == ids
    assert (lines[5]["record"], lines[6]["record"].split("\n")[2][:4]) == (None, "ord_")
    (tmp_path / "log.jsonl").unlink()
    online.tampering = [(b"order.expired", b"order.granted")]
    assert failure("export", "--out", "log.jsonl") == "log_damaged"
    assert not list(tmp_path.glob("*log.jsonl*")), "nothing half-written is left"


def test_a_checkpoint_of_a_time_is_carried_as_a_file(online, log, market, monkeypatch, tmp_path):
    log(3)
    monkeypatch.setenv("MARKETPLACE_TOKEN", "operator")
    told = run("checkpoint", "--before", "2999-01-01T00:00:00Z", "--out", "log.note")
    opened = checkpoints.read((tmp_path / "log.note").read_text())
    assert opened.head.size == told["size"] == 3
    assert failure("checkpoint", "--before", "2000-01-01T00:00:00Z", "--out", "x") == "checkpoint_missing"
