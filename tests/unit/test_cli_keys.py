"""``marketplace ops keys``, and what a buyer then believes: files, one publication, a root that is pinned."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from cluster import cli_buyer, cli_keys, trust
from cluster.client import ClientError
from cluster.verification import check_key_list
from domain import key_lists
from domain.licence_verification import CLOCK_SKEW
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, verify
from tests.fakes.marketplace_api import BASE, BUYER, STRIPE, FakeMarketplace, new_signer

LONG_AGO = "2026-01-01T00:00:00Z"


@pytest.fixture
def market(monkeypatch):
    fake = FakeMarketplace()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: fake(request))
    return fake


@pytest.fixture
def run(market, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MARKETPLACE_URL", BASE)
    monkeypatch.setenv("MARKETPLACE_TOKEN", BUYER)
    monkeypatch.setenv("MARKETPLACE_STRIPE_API", STRIPE)
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    for name in ("MARKETPLACE_IDENTITY", "MARKETPLACE_ROOT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(app, *arguments):
        result = CliRunner().invoke(app, [str(one) for one in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout + result.stderr

    return call


@pytest.fixture
def keys(run):
    def call(*arguments):
        return run(cli_keys.app, *arguments)

    assert call("root-init")[0] == 0
    return call


def pem(folder, keys):
    path = folder / f"{keys.key_id}.pem"
    path.write_text(public_key_pem(keys.public_key))
    return path


def root_of(folder):
    return trust.root_from_file(folder / "config" / "illuvrse-marketplace" / "root-key.public.pem")


def list_of(folder):
    text = (folder / "config" / "illuvrse-marketplace" / "key-list.json").read_text()
    return key_lists.open_list(text, root_of(folder), verify), text


def publish(market, folder):
    listed, text = list_of(folder)
    market.key_list = {
        "version": listed.version,
        "issued_at": "",
        "expires_at": "",
        "signs": listed.signs,
        "root_public_key": root_public(folder),
        "envelope": json.loads(text),
    }


def root_public(folder):
    return b64encode(root_of(folder)).decode()


def test_a_whole_rotation_is_files_and_needs_no_network(keys, market, tmp_path):
    old, new = new_signer(), new_signer()
    assert keys("add", pem(tmp_path, old), "--since", LONG_AGO)[0] == 0
    assert keys("activate", old.key_id)[0] == 0
    assert keys("add", pem(tmp_path, new))[0] == 0
    assert keys("activate", new.key_id)[0] == 0
    status, out = keys("retire", old.key_id, "--json")
    assert status == 0
    listed, _ = list_of(tmp_path)
    assert json.loads(out)["version"] == listed.version == 5
    assert (listed.signs, listed.find(old.key_id).state) == (new.key_id, "retired")
    assert market.requests == []


def test_a_compromise_names_its_time_and_successor(keys, tmp_path):
    old, new = new_signer(), new_signer()
    for one in (old, new):
        keys("add", pem(tmp_path, one), "--since", LONG_AGO)
    keys("activate", old.key_id)
    assert keys("compromise", "--without-log", old.key_id, "--since", "yesterday")[0] == 1
    assert keys("compromise", "--without-log", old.key_id, "--since", "2026-11-01T10:00:00")[0] == 1
    assert (
        keys(
            "compromise",
            "--without-log",
            old.key_id,
            "--since",
            "2026-11-01T10:00:00Z",
            "--activate",
            new.key_id,
        )[0]
        == 0
    )
    listed, _ = list_of(tmp_path)
    assert listed.signs == new.key_id
    assert listed.find(old.key_id).compromised_at == datetime(2026, 11, 1, 10, tzinfo=UTC)


def test_refusals_change_no_file(keys, tmp_path):
    old = new_signer()
    assert "There is no list" in keys("activate", old.key_id)[1]
    keys("add", pem(tmp_path, old), "--since", LONG_AGO)
    before = list_of(tmp_path)
    for arguments in (
        ("add", pem(tmp_path, old)),
        ("activate", "key_0000000000000000"),
        ("add", __file__),
        ("retire", "key_0000000000000000"),
    ):
        assert keys(*arguments)[0] == 1, arguments
    assert list_of(tmp_path) == before
    assert keys("root-init")[0] == 1, "a root is never overwritten"


def test_a_key_of_another_kind_is_told_from_what_is_no_key(keys, tmp_path):
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    file = tmp_path / "other.pem"
    file.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for code in ("public_key_type_wrong", "public_key_invalid"):
        status, out = keys("add", file, "--since", LONG_AGO, "--json")
        assert (status, json.loads(out)["error"]["code"]) == (1, code)
        file.write_text("no key")


def test_a_root_that_others_can_read_is_refused(keys, tmp_path):
    path = tmp_path / "config" / "illuvrse-marketplace" / "root-key.pem"
    path.chmod(0o640)
    status, out = keys("add", pem(tmp_path, new_signer()))
    assert status == 1
    assert "chmod 600" in out


def test_a_list_of_another_root_is_not_changed(keys, tmp_path):
    keys("add", pem(tmp_path, new_signer()))
    assert keys("root-init", "--root", tmp_path / "other.pem")[0] == 0
    status, out = keys("add", pem(tmp_path, new_signer()), "--root", tmp_path / "other.pem")
    assert status == 1
    assert "another root" in out


def test_a_backends_public_key_is_fetched_to_be_listed(keys, tmp_path):
    made = DevelopmentKeyFile.create(tmp_path / "dev.json")
    assert keys("public", f"file:{tmp_path / 'dev.json'}", "--out", tmp_path / "new.pem")[0] == 0
    assert (tmp_path / "new.pem").read_text() == public_key_pem(made.public_key)
    assert keys("public", "https://example.com", "--out", tmp_path / "x.pem")[0] == 1


# -- buyers ------------------------------------------------------------------------------------------


@pytest.fixture
def bought(run, market, keys, tmp_path):
    """A purchase by a marketplace that shows a list in which its key signs."""
    keys("add", pem(tmp_path, market.signer), "--since", LONG_AGO)
    keys("activate", market.signer.key_id)
    publish(market, tmp_path)
    assert run(cli_buyer.app, "keygen")[0] == 0
    status, out = run(cli_buyer.app, "buy", "logline", "--json")
    assert status == 0, out
    licence = json.loads(out[out.index("{") :])["files"][0]["licence"]

    def verify_again(*more):
        return run(cli_buyer.app, "verify", licence, *more)

    return verify_again


def test_the_first_contact_pins_the_root_and_rotation_needs_nobody(bought, keys, market, tmp_path):
    status, out = bought()
    assert status == 0, out
    assert "key list" in out
    new = new_signer()
    keys("add", pem(tmp_path, new))
    keys("activate", new.key_id)
    keys("retire", market.signer.key_id)
    publish(market, tmp_path)
    status, out = bought()
    assert status == 0, out
    assert "what it signed stays valid" in out
    assert bought("--offline")[0] == 0, "the newer list was kept"


def test_a_replayed_list_is_refused(bought, keys, market, tmp_path):
    older = market.key_list
    keys("compromise", "--without-log", market.signer.key_id, "--since", LONG_AGO)
    publish(market, tmp_path)
    assert bought()[0] == 1, "its key is compromised"
    market.key_list = older
    status, out = bought()
    assert status == 1
    assert "replaying" in out
    assert bought("--offline")[0] == 1, "what is pinned has not been rolled back"


def test_a_list_by_another_root_is_refused(bought, run, keys, market, tmp_path):
    forged = tmp_path / "forged"
    options = ("--root", forged.with_suffix(".pem"), "--list", forged.with_suffix(".json"))
    run(cli_keys.app, "root-init", "--root", forged.with_suffix(".pem"))
    run(cli_keys.app, "add", pem(tmp_path, new_signer()), *options)
    market.key_list |= {"envelope": json.loads(forged.with_suffix(".json").read_text())}
    status, out = bought()
    assert status == 1
    assert "--trust-root" in out
    named = bought("--trust-root", forged.with_name("forged.public.pem"))
    assert named[0] == 1, "under that root the licence's key is unknown"


def test_a_named_root_is_believed_from_the_first_contact(bought, tmp_path):
    (tmp_path / "config" / "illuvrse-marketplace" / trust.PINS_NAME).unlink()
    root = tmp_path / "config" / "illuvrse-marketplace" / "root-key.public.pem"
    status, out = bought("--trust-root", root, "--json")
    assert status == 0
    assert "that you named" in out


def test_who_pinned_keys_before_there_was_a_root_names_it_where_it_is_asked_for(run, keys, market, tmp_path):
    assert run(cli_buyer.app, "keygen")[0] == 0
    status, out = run(cli_buyer.app, "buy", "logline", "--json")
    assert status == 0, out
    order_id = json.loads(out[out.index("{") :])["order"]["id"]
    keys("add", pem(tmp_path, market.signer), "--since", LONG_AGO)
    market.signer = new_signer()
    keys("add", pem(tmp_path, market.signer), "--since", LONG_AGO)
    keys("activate", market.signer.key_id)
    publish(market, tmp_path)
    fetch = ("fetch", order_id, "--out", "again")
    status, out = run(cli_buyer.app, *fetch)
    assert status == 1
    assert "--trust-root FILE" in out
    root = tmp_path / "config" / "illuvrse-marketplace" / "root-key.public.pem"
    status, out = run(cli_buyer.app, *fetch, "--trust-root", root)
    assert status == 0, out
    assert run(cli_buyer.app, *fetch)[0] == 0, "the root is pinned now"


def test_after_a_compromise_the_platforms_record_decides(bought, keys, market, tmp_path):
    market.list_signer = new_signer()
    keys("add", pem(tmp_path, market.list_signer))
    since = ("--since", "2026-12-01T00:00:00Z")
    assert (
        keys(
            "compromise",
            "--without-log",
            market.signer.key_id,
            *since,
            "--activate",
            market.list_signer.key_id,
        )[0]
        == 0
    )
    publish(market, tmp_path)
    market.recorded_at = "2026-11-24T09:30:00.5Z"
    assert "entered the platform's record" in bought()[1]
    market.recorded_at = "2026-12-24T09:30:00Z"
    assert "is compromised" in bought()[1]
    told = bought("--offline")[1]
    assert told.count("is compromised, and nothing") == 2, "of the licence, and of the delivery manifest"
    assert "Either it was forged" not in told


def test_a_revocation_list_by_a_compromised_key_is_refused(bought, keys, market, tmp_path):
    keys("compromise", "--without-log", market.signer.key_id, "--since", "2026-12-01T00:00:00Z")
    publish(market, tmp_path)
    status, out = bought("--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (status, checks["revocation list"]["state"]) == (1, "failed")
    assert checks["revocation list"]["code"] == "revocations_untrusted"
    assert "Unbelieved, it is version" in checks["revocation list"]["reason"]
    assert "it does not name this licence" in checks["revocation list"]["reason"]
    # The other findings are there all the same.
    assert checks["licence signature"]["state"] == "ok"
    assert (checks["signing key"]["state"], checks["licence expiry"]["state"]) == ("failed", "ok")


def test_a_list_that_is_out_of_date_is_said(bought, market, tmp_path):
    folder = tmp_path / "config" / "illuvrse-marketplace"
    later = datetime.now(UTC) + key_lists.LIFE_DEFAULT + CLOCK_SKEW + timedelta(days=1)
    trusted = trust.pinned(folder, BASE, None, later)
    (check,) = check_key_list(trusted, later)
    assert check.state == "failed"
    assert "out of date" in check.reason


def test_damaged_pins_are_told(bought, tmp_path):
    path = tmp_path / "config" / "illuvrse-marketplace" / trust.PINS_NAME
    pins = json.loads(path.read_text())
    pins[BASE]["key_list"] = pins[BASE]["key_list"].replace('"payload":"e', '"payload":"f')
    path.write_text(json.dumps(pins))
    with pytest.raises(ClientError, match="not to be trusted"):
        trust.pinned(path.parent, BASE, None, datetime.now(UTC))
