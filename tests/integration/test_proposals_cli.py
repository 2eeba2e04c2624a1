"""``marketplace ops``: operators with key files change the fees, over HTTP, on a real Postgres."""

import json

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from cluster import cli_ops
from storage.market.pool import build_pool
from storage.market.proposals import Proposals
from tests.fakes.api_thread import ApiThread
from tests.fakes.ingress import FakeMarket

pytestmark = pytest.mark.integration
NAMES = ("ada", "bob", "cyd")


@pytest.fixture
def database(market_database):
    return market_database


@pytest.fixture
def database_migrated(database, monkeypatch, tmp_path):
    monkeypatch.setenv("MARKET_OWNER_DSN", database.dsn)
    monkeypatch.setenv("MARKET_DSN", database.dsn_for("market_app"))
    monkeypatch.setenv("FINANCE_DSN", database.dsn_for("market_app"))
    monkeypatch.setenv("MARKETPLACE_URL", "http://market.test")
    monkeypatch.setenv("MARKETPLACE_TOKEN", "operator")
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    return database


@pytest.fixture
def api(database_migrated, monkeypatch):
    pool = build_pool(database_migrated.dsn_for("market_app"), name="test", size_max=2)
    market = FakeMarket()
    market.proposals = Proposals(pool)
    with ApiThread(market.app(), pool) as thread:
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: thread(request))
        yield thread.tampering


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, typed=None):
        result = CliRunner().invoke(cli_ops.app, list(arguments), input=typed)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    def answered(*arguments):
        status, out, err = run(*arguments, "--json")
        assert status == 0, out + err
        return json.loads(out)

    run.json = answered
    return run


@pytest.fixture
def keys(cli):
    """Three operators' key files."""
    for name in NAMES:
        cli.json("operator-keygen", "--out", f"{name}.pem")
    return [part for name in NAMES for part in ("--operator", f"{name}={name}.public.pem")]


def refused(answer):
    status, out, err = answer
    assert status == 1, out + err
    return err or json.loads(out)["error"]["code"]


def test_operators_change_the_fees(cli, keys, api, tmp_path, database_migrated):
    genesis = cli.json("operators", "init", *keys, "--threshold", "2")["hash"]
    assert "There are operators" in refused(cli("operators", "init", *keys, "--threshold", "2"))
    status, out, _ = cli("governed", "platform_fees")
    fees = json.loads(out)
    assert (status, fees["fee_bps"]) == (0, 1_000)
    (tmp_path / "fees.json").write_text(json.dumps({**fees, "fee_bps": 850}))
    propose = ["propose", "platform_fees", "fees.json", "--reason", "Eight and a half.", "--key", "ada.pem"]
    assert "Nothing was signed" in refused(cli(*propose, typed="n\n"))
    assert refused(cli(*propose, "--json")) == "not_confirmed"
    status, out, _ = cli(*propose, typed="y\n")
    assert status == 0
    assert '-  "fee_bps": 1000,' in out
    assert '+  "fee_bps": 850,' in out
    (listed,) = cli.json("proposals", "list", "--status", "open")["items"]
    name = listed["id"]
    assert refused(cli("approve", name, "--key", "ada.pem", "--yes", "--json")) == "approval_own_proposal"
    status, out, _ = cli("approve", name, "--key", "bob.pem", "--yes")
    assert (status, "1 of 2 approvals" in out) == (0, True)
    done = cli.json("approve", name, "--key", "cyd.pem", "--yes")
    assert (done["status"], done["version"]) == ("applied", 2)
    assert cli.json("governed", "platform_fees")["document"]["fee_bps"] == 850
    assert cli("proposals", "show", name)[1].count("approve by operator_1") == 2
    assert refused(cli("reject", name, "--key", "bob.pem", "--yes", "--reason", "Late.", "--json")) == (
        "proposal_applied"
    )
    found = cli.json("proposals", "verify", "--operators-genesis", genesis)
    assert (found["ok"], found["versions"], found["signatures"]) == (True, 7, 3)
    assert found["current"]["platform_fees"]["version"] == 2
    assert cli("proposals", "verify", "--operators-genesis", "0" * 64)[0] == 1
    with psycopg.connect(database_migrated.dsn, autocommit=True) as owner:
        owner.execute("ALTER TABLE market.proposal_votes DISABLE TRIGGER USER")
        owner.execute("UPDATE market.proposal_votes SET envelope = replace(envelope, 'A', 'B')")
    status, out, _ = cli("proposals", "verify")
    assert (status, "platform_fees 2" in out) == (1, True)


def test_a_rejection_and_a_withdrawal(cli, keys, api, tmp_path):
    cli.json("operators", "init", *keys, "--threshold", "1")
    flow = cli.json("governed", "payment_flow")["document"]
    (tmp_path / "flow.json").write_text(json.dumps({**flow, "checkout_allowed": False}))

    def propose():
        return cli.json(
            "propose", "payment_flow", "flow.json", "--reason", "Cards only.", "--key", "ada.pem", "--yes"
        )["id"]

    name = propose()
    assert cli.json("withdraw", name, "--reason", "Too early.", "--key", "ada.pem", "--yes")["status"] == (
        "withdrawn"
    )
    name = propose()
    for key, status in (("bob.pem", "open"), ("cyd.pem", "rejected")):
        assert cli.json("reject", name, "--reason", "No.", "--key", key, "--yes")["status"] == status


def test_a_server_that_shows_another_document_gets_no_signature(cli, keys, api, tmp_path):
    cli.json("operators", "init", *keys, "--threshold", "1")
    fees = cli.json("governed", "platform_fees")["document"]
    (tmp_path / "fees.json").write_text(json.dumps({**fees, "fee_bps": 9_000}))
    name = cli.json(
        "propose", "platform_fees", "fees.json", "--reason", "Greed.", "--key", "ada.pem", "--yes"
    )["id"]
    api.append((b'"fee_bps":9000', b'"fee_bps":900'))
    assert refused(cli("approve", name, "--key", "bob.pem", "--yes", "--json")) == "hash_mismatch"
    assert cli.json("proposals", "list")["items"][0]["approvals"] == 0


def test_key_files_are_private_and_documents_sound(cli, keys, api, tmp_path):
    (tmp_path / "fees.json").write_text('{"fee_bps": 1, "fee_bps": 2}')
    propose = ["propose", "platform_fees", "fees.json", "--reason", "Why not.", "--json", "--yes"]
    assert refused(cli(*propose, "--key", "ada.pem")) == "json_duplicate_key"
    (tmp_path / "fees.json").write_text("{}")
    assert refused(cli(*propose, "--key", "ada.pem")) == "proposal_document_invalid"
    assert refused(cli(*propose, "--key", "none.pem")) == "operator_key_missing"
    (tmp_path / "ada.pem").chmod(0o640)
    assert refused(cli(*propose, "--key", "ada.pem")) == "operator_key_exposed"
    (tmp_path / "link.pem").symlink_to(tmp_path / "bob.pem")
    assert refused(cli(*propose, "--key", "link.pem")) == "operator_key_invalid"
    (tmp_path / "bob.pem").write_text("nothing")
    assert refused(cli(*propose, "--key", "bob.pem")) == "operator_key_invalid"
    assert refused(cli("operator-keygen", "--out", "cyd.pem", "--json")) == "file_exists"


def test_the_first_operators_need_the_owner_and_a_threshold_within_reach(
    cli, keys, database_migrated, monkeypatch
):
    init = ["operators", "init", *keys, "--json", "--threshold"]
    assert refused(cli(*init, "3")) == "proposal_document_invalid"
    assert (
        refused(cli("operators", "init", "--operator", "ada", "--threshold", "1", "--json"))
        == "operator_invalid"
    )
    monkeypatch.setenv("MARKET_OWNER_DSN", database_migrated.dsn_for("market_app"))
    assert refused(cli(*init, "1")) == "database_refused"
