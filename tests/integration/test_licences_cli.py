"""``marketplace buyer`` with licences, over HTTP on a real Postgres: what is typed, and what it prints."""

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from actors.publisher.sealing import ReleaseSealer
from cluster import cli_buyer, cli_keys
from domain.licence_policies import LicencePolicy
from domain.signing import KeyState
from storage.market.commands import Commands
from storage.market.licences import LicenceReads
from storage.market.licensing import Licensing
from storage.market.pool import build_pool
from storage.market.signing_keys import KeysOnRecord
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register
from tests.fakes.api_thread import ApiThread
from tests.fakes.ingress import FakeMarket
from tests.fakes.licensing import ident, record_licence

pytestmark = pytest.mark.integration


@pytest.fixture
def market():
    fake = FakeMarket()
    fake.clock.now = datetime.now(UTC)  # the command line goes by its own clock
    return fake


@pytest.fixture
def database(market_database):
    return market_database


@pytest.fixture
def owner(database):
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def online(market, owner, database, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MARKETPLACE_URL", "http://market.test")
    monkeypatch.setenv("MARKETPLACE_TOKEN", "buyer")
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MARKETPLACE_IDENTITY", raising=False)
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=2)
    ports = replace(
        market.ports(),
        licences=LicenceReads(pool),
        licensing=Licensing(pool),
        commands=Commands(pool),
        new_id=ident,  # the database outlives the market, whose own ids begin anew
    )
    with ApiThread(market.app(ports), pool) as thread:
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _, request: thread(request))
        yield thread


@pytest.fixture
def cli(online, monkeypatch):
    def run(*arguments, token="buyer"):
        monkeypatch.setenv("MARKETPLACE_TOKEN", token)
        result = CliRunner().invoke(cli_buyer.app, [*map(str, arguments), "--json"])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, json.loads(result.stdout)

    return run


def cut_off(monkeypatch):
    def refuse(_self, request):
        raise AssertionError(f"{request.url} was asked")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", refuse)


def states(answer):
    return {check["name"]: check["state"] for check in answer["checks"]}


def test_an_offline_file_is_judged_without_a_network(cli, owner, market, monkeypatch, tmp_path):
    one = record_licence(owner, market)
    (tmp_path / "platform.pem").write_text(public_key_pem(market.keys.public_key))
    status, answer = cli("offline", one.licence_id)
    assert status == 0
    file = tmp_path / answer["file"]
    cut_off(monkeypatch)
    trusting = ("--offline", "--trust-key", "platform.pem")
    status, answer = cli("verify", file, *trusting)
    assert (status, answer["ok"]) == (0, True)
    assert states(answer)["licence revocation"] == "ok"
    text = file.read_text()
    for at in range(60, len(text) - 60, 97):
        file.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
        assert cli("verify", file, *trusting)[0] == 1
    file.write_text(text)
    assert cli("verify", file, *trusting)[0] == 0


def test_a_file_from_before_a_newer_list_was_seen_is_refused(cli, owner, market, tmp_path):
    one, other = record_licence(owner, market), record_licence(owner, market)
    cli("offline", one.licence_id, "--out", "early.txt")
    owner.execute("UPDATE market.licences SET status = 'revoked' WHERE licence_id = %s", [other.licence_id])
    cli("offline", one.licence_id, "--out", "late.txt")
    assert cli("verify", "early.txt", "--offline", "--trust-key", pem(market, tmp_path))[0] == 0
    assert cli("verify", "late.txt", "--offline", "--trust-key", pem(market, tmp_path))[0] == 0
    status, answer = cli("verify", "early.txt", "--offline", "--trust-key", pem(market, tmp_path))
    assert (status, states(answer)["revocation list"]) == (1, "failed")
    (told,) = [check for check in answer["checks"] if check["name"] == "revocation list"]
    assert told["code"] == "revocations_rolled_back"
    assert "Unbelieved, it is version" in told["reason"]
    assert states(answer)["licence signature"] == "ok"


def test_a_list_that_was_seen_online_is_remembered_without_the_address(cli, owner, market, tmp_path):
    one = record_licence(owner, market)
    cli("offline", one.licence_id, "--out", "early.txt")
    owner.execute("UPDATE market.licences SET status = 'revoked' WHERE licence_id = %s", [one.licence_id])
    cli("offline", record_licence(owner, market).licence_id, "--out", "late.txt")
    assert cli("verify", "late.txt")[0] == 0
    status, answer = cli("verify", "early.txt", "--offline", "--trust-key", pem(market, tmp_path))
    assert (status, states(answer)["revocation list"]) == (1, "failed")


def test_a_file_is_stale_after_a_day(cli, owner, market, tmp_path):
    market.clock.now -= timedelta(hours=25)
    one = record_licence(owner, market)
    cli("offline", one.licence_id, "--out", "old.txt")
    status, answer = cli("verify", "old.txt", "--offline", "--trust-key", pem(market, tmp_path))
    assert (status, states(answer)["licence revocation"]) == (1, "failed")
    assert "out of date" in json.dumps(answer)


def pem(market, tmp_path):
    path = tmp_path / "platform.pem"
    path.write_text(public_key_pem(market.keys.public_key))
    return path


def test_a_licence_goes_from_one_buyer_to_another(cli, owner, market, tmp_path):
    one = record_licence(owner, market)
    _, offered = cli("transfer", one.licence_id, "--to", "buyer_bob")
    transfer_id = offered["transfer"]["id"]
    assert cli("accept-transfer", transfer_id)[1]["error"]["code"] == "transfer_not_found"
    status, taken = cli("accept-transfer", transfer_id, token="buyer2")
    assert status == 0
    mine = [row["id"] for row in cli("licences", token="buyer2")[1]["licences"]]
    assert mine == [taken["transfer"]["new_licence_id"]]
    assert cli("licences")[1]["licences"] == []
    second = record_licence(owner, market)
    _, offered = cli("transfer", second.licence_id, "--to", "buyer_bob")
    assert (
        cli("end-transfer", offered["transfer"]["id"], token="buyer2")[1]["transfer"]["status"] == "declined"
    )


def test_a_machine_is_activated_by_token_and_by_key(cli, owner, market, tmp_path):
    one = record_licence(owner, market, quantity=1)
    status, issued = cli("activate", one.licence_id, "--fingerprint", "m1", "--name", "build-7")
    assert status == 0
    file = tmp_path / issued["file"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    cli("offline", one.licence_id, "--out", "here.txt")
    judging = ("verify", "here.txt", "--offline", "--trust-key", pem(market, tmp_path), "--activation", file)
    for machine, state in (("m1", "ok"), ("m2", "failed")):
        assert states(cli(*judging, "--fingerprint", machine)[1])["activation"] == state
    assert cli("activate", one.licence_id, "--fingerprint", "m2")[1]["error"]["code"] == "activations_full"
    assert cli("deactivate", file)[1]["released"] is True
    assert not file.exists()
    status, registered = cli("owner-key", one.licence_id)
    assert status == 0
    key = registered["file"]
    assert stat.S_IMODE((tmp_path / key).stat().st_mode) == 0o600
    assert cli("activate", one.licence_id, "--fingerprint", "m2", "--key", key, token="nobody")[0] == 0
    status, proof = cli("prove", one.licence_id, "--key", key, token="nobody")
    assert (status, proof["proof"]["payloadType"]) == (0, "application/vnd.illuvrse.ownership-proof.v1+json")


def test_a_licence_that_demands_an_activation_says_so(cli, owner, market, tmp_path):
    one = record_licence(owner, market, policy=LicencePolicy(activation="seats"))
    cli("offline", one.licence_id, "--out", "here.txt")
    answer = cli("verify", "here.txt", "--offline", "--trust-key", pem(market, tmp_path))[1]
    assert states(answer)["activation"] == "skipped"


def test_a_licence_is_renewed(cli, owner, market):
    now = market.clock().replace(microsecond=0)
    old = record_licence(owner, market, policy=LicencePolicy(now + timedelta(days=5)))
    new = record_licence(owner, market, policy=LicencePolicy(now + timedelta(days=30)))
    status, answer = cli("renew", new.licence_id, "--renews", old.licence_id)
    assert status == 0
    assert {row["id"] for row in cli("licences")[1]["licences"]} == {old.licence_id, answer["licence"]["id"]}


def test_operators_reissue_licences_of_a_stolen_key(cli, owner, market, monkeypatch):
    ids = [record_licence(owner, market).licence_id for _ in range(2)]
    new = DevelopmentKeyFile(b"n" * 32, b"w" * 32)
    stolen = replace(market.key_record, state=KeyState.COMPROMISED, compromised_at=market.clock())
    market.signing_keys.published = KeysOnRecord(
        (stolen, register(new.public_key, market.key_record.not_before))
    )
    market.signer._sealer = ReleaseSealer(new, new)
    monkeypatch.setenv("MARKETPLACE_TOKEN", "operator")
    for _ in range(2):  # a repetition is told what was made
        result = CliRunner().invoke(
            cli_keys.app, ["reissue", *ids, "--reason", "Stolen on Monday.", "--json"]
        )
        assert result.exit_code == 0, result.output
        made = json.loads(result.stdout)["reissued"]
    assert list(made) == ids
    held = {row["id"]: row for row in cli("licences")[1]["licences"]}
    assert set(held) == set(made.values())
    assert {row["key_id"] for row in held.values()} == {new.key_id}
