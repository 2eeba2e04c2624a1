import json
import resource
import stat
from datetime import UTC, datetime, timedelta

import httpx
import pyrage
import pytest
from typer.testing import CliRunner

from cluster import cli_buyer
from storage.signing.keys import public_key_pem
from tests.fakes.marketplace_api import BASE, BUYER, BUYER_ID, STRIPE, FakeMarketplace, new_signer


@pytest.fixture
def market(monkeypatch):
    fake = FakeMarketplace()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: fake(request))
    return fake


@pytest.fixture
def cli(market, monkeypatch, tmp_path):
    """Run a verb; returns (status, JSON or text, errors)."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MARKETPLACE_URL", BASE)
    monkeypatch.setenv("MARKETPLACE_TOKEN", BUYER)
    monkeypatch.setenv("MARKETPLACE_STRIPE_API", STRIPE)
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MARKETPLACE_IDENTITY", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(cli_buyer.app, [str(one) for one in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def bought(cli):
    """A finished purchase: the JSON that ``buy`` printed."""
    assert cli("keygen")[0] == 0
    status, out, err = cli("buy", "logline", "--json")
    assert status == 0, out + err
    return json.loads(out)


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith(".part"))


def test_an_identity_is_private_standard_and_never_overwritten(cli, tmp_path):
    status, out, _ = cli("keygen", "--json")
    path = tmp_path / "config" / "illuvrse-marketplace" / "identity.txt"
    assert status == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().splitlines()[-1]
    assert str(pyrage.x25519.Identity.from_str(secret).to_public()) == json.loads(out)["recipient"]
    before = path.read_text()
    status, _, err = cli("keygen")
    assert (status, path.read_text()) == (1, before)
    assert "never overwritten" in err
    assert secret not in err


def test_buy_pays_receives_decrypts_and_verifies(bought, market, tmp_path):
    files = bought["files"][0]
    assert (tmp_path / files["plaintext"]).read_bytes() == market.bundle
    assert bought["ok"] is True
    assert {check["state"] for check in bought["checks"]} == {"ok"}
    assert leftovers(tmp_path) == []


def test_buy_in_words_shows_each_check(cli):
    cli("keygen")
    status, out, err = cli("buy", "logline")
    assert status == 0
    assert "licence signature" in out
    assert "order.delivered" in err


def test_a_released_key_is_kept_for_later(cli, market, tmp_path):
    status, out, err = cli("buy", "logline", "--mode", "released_key", "--json")
    assert status == 0, err
    files = json.loads(out)["files"][0]
    assert (tmp_path / files["plaintext"]).read_bytes() == market.bundle
    key = (tmp_path / files["plaintext"]).with_name("logline-1.2.0.tar.gz.key.txt")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "AGE-SECRET-KEY-1" not in out + err
    (tmp_path / files["plaintext"]).unlink()
    asked = len([one for one in market.requests if one.url.path.endswith("/key")])
    assert cli("decrypt", files["encrypted"])[0] == 0
    assert len([one for one in market.requests if one.url.path.endswith("/key")]) == asked == 1


def test_checkout_shows_the_page(cli):
    cli("keygen")
    status, _, err = cli("buy", "logline", "--checkout")
    assert status == 0
    assert f"{STRIPE}/c/pay/1" in err


def test_a_bank_that_asks_is_shown(cli):
    cli("keygen")
    status, _, err = cli("buy", "logline", "--card", "pm_card_authenticationRequired")
    assert status == 0
    assert f"{STRIPE}/3ds" in err


def test_a_declined_card_is_one_line(cli):
    cli("keygen")
    status, out, err = cli("buy", "logline", "--card", "pm_card_chargeDeclined")
    assert status == 1
    assert err.strip().splitlines()[-1].startswith("error: Not paid: Your card was declined.")
    assert "Traceback" not in out + err


def test_without_an_identity_nothing_is_bought(cli, market):
    status, _, err = cli("buy", "logline")
    assert status == 1
    assert "buyer keygen" in err
    assert market.orders == {}


def test_another_recipient_is_left_sealed(cli, tmp_path):
    other = pyrage.x25519.Identity.generate()
    (tmp_path / "them.txt").write_text(f"# a friend\n{other.to_public()}\n")
    cli("keygen")
    status, out, _ = cli("buy", "logline", "--recipient-file", "them.txt", "--json")
    assert status == 0
    files = json.loads(out)["files"][0]
    assert files["plaintext"] is None
    sealed = (tmp_path / files["encrypted"]).read_bytes()
    assert pyrage.decrypt(sealed, [other]).startswith(b"bundle of logline")


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        ("payload", "payload_altered"),
        ("cut", "payload_altered"),
        ("long", "payload_altered"),
        ("expired", "link_expired"),
        ("signer", "manifest_untrusted"),
        ("order", "manifest_mismatch"),
    ],
)
def test_what_was_tampered_with_leaves_nothing(cli, market, tmp_path, tamper, code):
    cli("keygen")
    market.tamper = tamper
    status, out, _ = cli("buy", "logline", "--json")
    assert status == 1
    assert json.loads(out)["error"]["code"] == code
    kept = [path for path in (tmp_path / "purchases").rglob("*") if path.is_file()]
    assert kept == []


def test_keys_are_pinned_at_first_use_and_a_new_one_is_refused(cli, bought, market, tmp_path):
    market.signer = new_signer()
    status, out, _ = cli("buy", "logline", "--json")
    assert status == 1
    error = json.loads(out)["error"]
    assert error["code"] == "manifest_untrusted"
    assert "--trust-key" in error["message"]
    (tmp_path / "new.pem").write_text(public_key_pem(market.signer.public_key))
    assert cli("buy", "logline", "--trust-key", "new.pem", "--json")[0] == 0


def test_a_named_key_is_all_that_counts(cli, market, tmp_path):
    cli("keygen")
    (tmp_path / "other.pem").write_text(public_key_pem(new_signer().public_key))
    status, out, _ = cli("buy", "logline", "--trust-key", "other.pem", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, "manifest_untrusted")
    (tmp_path / "junk.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    status, out, _ = cli("buy", "logline", "--trust-key", "junk.pem", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, "trust_key_invalid")


def test_fetching_again_downloads_nothing_and_mends_an_altered_file(cli, bought, market, tmp_path):
    def downloads():
        return len([one for one in market.requests if one.url.path == "/payloads/1"])

    order_id, before = bought["order"]["id"], downloads()
    assert cli("fetch", order_id)[0] == 0
    assert downloads() == before
    encrypted = tmp_path / bought["files"][0]["encrypted"]
    whole = encrypted.read_bytes()
    encrypted.write_bytes(whole[:-1])
    assert cli("fetch", order_id)[0] == 0
    assert encrypted.read_bytes() == whole


def test_fetch_before_delivery_says_what_to_do(cli, market):
    cli("keygen")
    cli("buy", "logline", "--card", "pm_card_chargeDeclined")
    status, _, err = cli("fetch", next(iter(market.orders)))
    assert status == 1
    assert "not delivered yet" in err


@pytest.mark.parametrize("where", [0, 100, -1])
def test_decrypt_refuses_an_altered_file_and_leaves_no_plaintext(cli, bought, tmp_path, where):
    files = bought["files"][0]
    encrypted, plaintext = tmp_path / files["encrypted"], tmp_path / files["plaintext"]
    plaintext.unlink()
    raw = bytearray(encrypted.read_bytes())
    raw[where] ^= 1
    encrypted.write_bytes(raw)
    status, _, err = cli("decrypt", encrypted)
    assert status == 1
    assert "altered" in err
    assert not plaintext.exists()
    assert leftovers(tmp_path) == []


def test_decrypt_with_another_identity_is_refused(cli, bought, tmp_path):
    other = tmp_path / "other" / "identity.txt"
    assert cli("keygen", "--out", other)[0] == 0
    status, _, err = cli("decrypt", bought["files"][0]["encrypted"], "--identity", other, "--out", "x")
    assert status == 1
    assert "sealed for" in err
    assert not (tmp_path / "x").exists()


def test_verify_online_and_offline(cli, bought):
    licence = bought["files"][0]["licence"]
    status, out, _ = cli("verify", licence, "--buyer-id", BUYER_ID, "--json")
    checks = {check["name"]: check["state"] for check in json.loads(out)["checks"]}
    assert status == 0
    assert set(checks.values()) == {"ok"}
    assert {"bundle", "encrypted file", "delivery manifest", "licence owner"} <= set(checks)
    status, out, _ = cli("verify", licence, "--offline", "--json")
    assert status == 0
    states = {check["name"]: check["state"] for check in json.loads(out)["checks"]}
    assert states["online"] == "skipped"


def test_offline_needs_no_marketplace_at_all(cli, bought, market, monkeypatch, tmp_path):
    (tmp_path / "platform.pem").write_text(public_key_pem(market.signer.public_key))
    monkeypatch.delenv("MARKETPLACE_URL")
    seen = len(market.requests)
    licence = bought["files"][0]["licence"]
    assert cli("verify", licence, "--offline", "--trust-key", "platform.pem")[0] == 0
    assert len(market.requests) == seen


def test_verify_fails_for_a_revoked_licence_and_says_why(cli, bought, market):
    market.revoked = True
    status, out, _ = cli("verify", bought["files"][0]["licence"])
    assert status == 1
    assert "revoked: refunded" in out


def test_verify_fails_for_another_buyer_and_an_altered_bundle(cli, bought, tmp_path):
    licence = bought["files"][0]["licence"]
    assert cli("verify", licence, "--buyer-id", "usr_other", "--offline")[0] == 1
    (tmp_path / bought["files"][0]["plaintext"]).write_bytes(b"something else")
    status, out, _ = cli("verify", licence, "--offline")
    assert status == 1
    assert "was altered or cut" in out


def test_verify_of_no_licence_is_no_traceback(cli, bought, tmp_path):
    (tmp_path / "junk.licence.txt").write_text("junk")
    assert cli("verify", "junk.licence.txt", "--offline")[0] == 1
    status, _, err = cli("verify", "absent.licence.txt", "--offline")
    assert status == 1
    assert "cannot be read" in err


def test_usage_errors_are_status_2(cli):
    assert cli("buy")[0] == 2
    assert cli("buy", "logline", "--mode", "carrier-pigeon")[0] == 2
    assert cli("buy", "logline", "--currency", "XXX")[0] == 2
    assert cli("buy", "logline", "--quantity", "0")[0] == 2


def test_no_token_says_where_to_put_one(cli, monkeypatch):
    monkeypatch.delenv("MARKETPLACE_TOKEN")
    cli("keygen")
    status, _, err = cli("buy", "logline")
    assert status == 1
    assert "MARKETPLACE_TOKEN" in err


def test_a_repeated_key_buys_once(cli, market):
    cli("keygen")
    for _ in range(2):
        assert cli("buy", "logline", "--idempotency-key", "mine")[0] == 0
    assert len(market.orders) == 1


def test_a_code_and_where_the_buyer_is_go_with_the_cart(cli, market):
    assert cli("keygen")[0] == 0
    assert cli("buy", "logline", "--discount", "spring", "--country", "DE", "--postal-code", "10115")[0] == 0
    (placed,) = [one for one in market.requests if one.url.path == "/v1/orders"]
    body = json.loads(placed.content)
    assert (body["discount_code"], body["country"], body["postal_code"]) == ("spring", "DE", "10115")


def test_a_quote_tells_discount_and_tax_and_buys_nothing(cli, market):
    quoted = {
        "currency": "EUR",
        "price_minor": 2000,
        "discount_minor": 200,
        "tax_minor": 287,
        "total_minor": 1800,
        "lines": [
            {
                "sku_name": "logline",
                "quantity": 2,
                "unit_price_minor": 1000,
                "discount_minor": 200,
                "taxes": [
                    {"jurisdiction": "DE", "rate_ppm": 190_000, "amount_minor": 287, "inclusive": True}
                ],
                "rounding_minor": 0,
                "amount_minor": 1800,
            }
        ],
    }
    market.quote = quoted
    status, out, err = cli("quote", "logline", "--quantity", "2", "--currency", "EUR", "--discount", "spring")
    assert status == 0, err
    for words in ("2 x logline", "20.00 EUR", "-2.00 EUR", "2.87 EUR included", "18.00 EUR"):
        assert words in out
    assert market.orders == {}


def seen(tmp_path):
    return tmp_path / "config" / "illuvrse-marketplace" / "revocations-seen.json"


def refused_list(status, out):
    """The code of why the revocation list does not count; the other findings are shown all the same."""
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert (status, checks["revocation list"]["state"]) == (1, "failed")
    assert (checks["licence signature"]["state"], checks["licence expiry"]["state"]) == ("ok", "ok")
    assert "licence revocation" not in checks, "nothing is concluded from it"
    return checks["revocation list"]["code"]


def test_a_revoked_licence_is_known_offline_by_a_list_from_a_file(cli, bought, market, tmp_path):
    licence = bought["files"][0]["licence"]
    (tmp_path / "list.json").write_bytes(market.revocations())
    asked = len(market.requests)
    status, out, err = cli("verify", licence, "--offline", "--revocations", "list.json")
    assert status == 0, out + err
    assert "does not name the licence" in out
    market.listed, market.list_version = [f"lic_{bought['order']['id'][4:]}"], 2
    (tmp_path / "list.json").write_bytes(market.revocations())
    status, out, _ = cli("verify", licence, "--offline", "--revocations", "list.json")
    assert status == 1
    assert "The licence was revoked" in out
    assert len(market.requests) == asked


def test_an_older_list_than_one_seen_is_refused(cli, bought, market, tmp_path):
    licence = bought["files"][0]["licence"]
    (tmp_path / "old.json").write_bytes(market.revocations())
    market.list_version = 2
    assert cli("verify", licence)[0] == 0
    assert stat.S_IMODE(seen(tmp_path).stat().st_mode) == 0o600
    remembered = seen(tmp_path).read_text()
    status, out, _ = cli("verify", licence, "--offline", "--revocations", "old.json", "--json")
    assert refused_list(status, out) == "revocations_rolled_back"
    market.listed = ["lic_x"]  # the same version says something else
    status, out, _ = cli("verify", licence, "--json")
    assert refused_list(status, out) == "revocations_forked"
    assert seen(tmp_path).read_text() == remembered
    assert leftovers(tmp_path) == []


def test_a_list_of_yesterday_is_stale(cli, bought, market, tmp_path):
    (tmp_path / "list.json").write_bytes(market.revocations(datetime.now(UTC) - timedelta(hours=25)))
    status, out, _ = cli("verify", bought["files"][0]["licence"], "--offline", "--revocations", "list.json")
    assert status == 1
    assert "out of date" in out


def test_an_altered_list_and_a_damaged_memory_are_refused(cli, bought, market, tmp_path):
    licence = bought["files"][0]["licence"]
    (tmp_path / "list.json").write_bytes(market.revocations().replace(b'"grace_days":0', b'"grace_days":9'))
    status, out, _ = cli("verify", licence, "--offline", "--revocations", "list.json", "--json")
    assert refused_list(status, out) == "revocations_untrusted"
    seen(tmp_path).write_text('{"http://market.test": {}}')
    status, out, _ = cli("verify", licence, "--json")
    assert refused_list(status, out) == "memory_damaged"


def test_without_a_list_the_marketplace_is_asked_about_the_licence_itself(cli, bought, market):
    market.revocations = lambda: b"{}"
    status, out, _ = cli("verify", bought["files"][0]["licence"], "--json")
    assert refused_list(status, out) == "field_missing"


def test_another_channel_is_asked_for(cli, market):
    cli("keygen")
    assert cli("buy", "logline", "--channel", "beta")[0] == 0
    (order,) = market.orders.values()
    assert order["body"]["lines"][0]["channel"] == "beta"


def test_verify_tells_of_a_release_that_was_taken_off_sale(cli, bought, market):
    licence = bought["files"][0]["licence"]
    market.yanked = "Eats logs."
    status, out, _ = cli("verify", licence, "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 0  # who owns it keeps it
    assert checks["online: release"]["state"] == "skipped"
    assert "Eats logs." in checks["online: release"]["reason"]
    market.yanked = ""
    status, out, _ = cli("verify", licence, "--json")
    assert {check["name"]: check["state"] for check in json.loads(out)["checks"]}["online: release"] == "ok"


def test_a_refunded_order_is_told_and_not_passed_over(cli, bought, market):
    market.withdrawn = True
    status, out, _ = cli("fetch", next(iter(market.orders)), "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, "delivery_not_found")
    assert "refunded" in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("order_id", ["../elsewhere", "/etc", "..", "", "ord/../../x", "a\x00b"])
def test_whoever_answers_does_not_choose_the_folder(cli, tmp_path, order_id):
    status, out, _ = cli("fetch", order_id, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, "order_id_invalid")
    assert not (tmp_path / "purchases").exists()


def test_a_released_key_that_is_another_deliverys_is_not_kept(cli, market, tmp_path):
    market.tamper = "released key"
    status, out, _ = cli("buy", "logline", "--mode", "released_key", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, "identity_mismatch")
    assert list(tmp_path.rglob("*.key.txt")) == []
    market.tamper = ""
    market.replies.clear()  # a key is no stored answer
    (encrypted,) = tmp_path.rglob("*.age")
    assert cli("decrypt", encrypted)[0] == 0


def test_a_folder_where_the_bundle_should_be_is_a_finding(cli, bought, tmp_path):
    files = bought["files"][0]
    (tmp_path / files["plaintext"]).unlink()
    (tmp_path / files["plaintext"]).mkdir()
    status, out, _ = cli("verify", files["licence"], "--json")
    assert status == 1
    assert {one["name"] for one in json.loads(out)["checks"] if one["state"] == "failed"} == {"bundle"}


def test_a_truncated_file_that_a_trusted_manifest_describes_leaves_no_plaintext(cli, bought, tmp_path):
    """As if its sender had signed what was cut: every chunk opens, and the last one is missing."""
    files = bought["files"][0]
    encrypted, plaintext = tmp_path / files["encrypted"], tmp_path / files["plaintext"]
    plaintext.unlink()
    encrypted.write_bytes(encrypted.read_bytes()[: -2 * 65_552])
    status, out, _ = cli("decrypt", encrypted, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (1, "payload_altered")
    assert not plaintext.exists()
    assert leftovers(tmp_path) == []


def test_a_disk_that_fills_up_while_decrypting_leaves_no_plaintext(cli, bought, tmp_path):
    files = bought["files"][0]
    plaintext = tmp_path / files["plaintext"]
    plaintext.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        status, out, _ = cli("decrypt", files["encrypted"], "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (status, json.loads(out)["error"]["code"]) == (1, "file_unwritable")
    assert not plaintext.exists()
    assert leftovers(tmp_path) == []


def test_a_link_planted_where_results_go_is_replaced_and_not_followed(cli, bought, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    files = bought["files"][0]
    for name in ("plaintext", "manifest", "licence", "encrypted"):
        (tmp_path / files[name]).unlink()
        (tmp_path / files[name]).symlink_to(victim)
    assert cli("fetch", bought["order"]["id"])[0] == 0
    assert cli("decrypt", files["encrypted"])[0] == 0
    assert victim.read_text() == "mine"
    assert not any((tmp_path / files[name]).is_symlink() for name in ("plaintext", "manifest", "encrypted"))
