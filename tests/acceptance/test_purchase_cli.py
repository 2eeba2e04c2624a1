"""Buyers and sellers at the command line, against the real marketplace."""

import json
import shutil
import subprocess

import pyrage
import pytest

from cluster.bundles import pack
from cluster.demo.seeding import BUNDLES, CATALOGUE

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]


def told(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def home(market, tmp_path):
    told(market.cli("buyer", "keygen", "--json", cwd=tmp_path))
    return tmp_path


def test_a_purchase_from_keygen_to_a_verified_bundle(market, home):
    bought = told(market.cli("buyer", "buy", "logline", "--json", cwd=home))
    data = pack(CATALOGUE / "logline").file.read()
    files = bought["files"][0]
    assert (home / files["plaintext"]).read_bytes() == data
    secret = (home / "config/illuvrse-marketplace/identity.txt").read_text().splitlines()[-1]
    identity = pyrage.x25519.Identity.from_str(secret)
    assert pyrage.decrypt((home / files["encrypted"]).read_bytes(), [identity]) == data
    verified = told(market.cli("buyer", "verify", files["licence"], "--json", cwd=home))
    states = {check["name"]: check["state"] for check in verified["checks"]}
    assert states.pop("licence owner") == "skipped"
    assert set(states.values()) == {"ok"}


def test_a_bought_bundle_runs(market, home):
    files = told(market.cli("buyer", "buy", "tidycsv", "--currency", "EUR", "--json", cwd=home))["files"][0]
    shutil.unpack_archive(home / files["plaintext"], home / "unpacked", filter="data")
    table = home / "t.csv"
    table.write_text("a;b\n1 ;2\n")
    entry = home / "unpacked" / "tidycsv-2.0.3" / "tidycsv.py"
    done = subprocess.run([entry, table], capture_output=True, text=True, check=True)
    assert done.stdout == "a,b\n1,2\n"


def test_a_released_key_opens_the_delivery_later_too(market, home):
    bought = told(
        market.cli("buyer", "buy", "linkboard", "--mode", "released_key", "--quantity", 3, "--json", cwd=home)
    )
    assert bought["order"]["total_minor"] == 2700
    files = bought["files"][0]
    (home / files["plaintext"]).unlink()
    again = told(market.cli("buyer", "decrypt", files["encrypted"], "--json", cwd=home))
    assert again["sha256"] == pack(CATALOGUE / "linkboard").sha256


def test_a_zero_decimal_currency(market, home):
    bought = told(market.cli("buyer", "buy", "logline", "--currency", "JPY", "--json", cwd=home))
    assert (bought["order"]["total_minor"], bought["order"]["currency"]) == (2980, "JPY")


def test_a_declined_card_is_said_in_one_line(market, home):
    done = market.cli("buyer", "buy", "logline", "--card", "pm_card_chargeDeclined", cwd=home)
    assert done.returncode == 1
    assert "Your card was declined" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_bundle_is_said_in_one_line(market, home):
    done = market.cli("buyer", "buy", "nothing-like-it", "--json", cwd=home)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "sku_not_found"


def test_the_catalogue_lists_the_bundles_and_seeding_again_changes_nothing(market, tmp_path):
    items = told(market.cli("seller", "list", "--json", cwd=tmp_path))["items"]
    assert set(BUNDLES) <= {item["name"] for item in items}
    before = market.rows()
    key = market.layout.keys / "demo-seller-key.pem"
    again = told(market.cli("seller", "release", CATALOGUE / "logline", "--key", key, "--json", cwd=tmp_path))
    assert again["fresh"] is False
    assert market.rows() == before


def test_a_seller_releases_a_new_bundle_and_a_buyer_gets_it(market, home):
    folder = home / "mine"
    shutil.copytree(CATALOGUE / "tidycsv", folder)
    document = json.loads((folder / "marketplace.json").read_text())
    (folder / "marketplace.json").write_text(json.dumps(document | {"name": f"mine-{home.name[-1]}x"}))
    told(market.cli("seller", "keygen", "--json", cwd=home))
    listing = told(market.cli("seller", "release", folder, "--json", cwd=home))
    assert listing["fresh"] is True
    bought = told(market.cli("buyer", "buy", listing["name"], "--json", cwd=home))
    assert bought["files"][0]["sha256"] == listing["bundle_sha256"]


def test_the_demo_holds_against_a_running_marketplace(market, tmp_path):
    done = market.cli("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in ("licence checked by openssl", "delivery opened by pyrage", "Finance agrees"):
        assert f"✓ {step}" in done.stdout


def test_the_benchmark_prints_one_json_object_last(market, tmp_path):
    done = market.cli("bench", "http", "--seconds", 2, "--buyers", 2, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["delivered"] > 0
    assert result["acknowledged_not_delivered"] == []
    assert {"ingress", "signer", "postgres", "finance"} <= set(result["cpu_ms_per_op"])
    assert result["baseline"]["per_s"] > 0
