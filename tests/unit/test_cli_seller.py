import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cluster import cli_seller
from cluster.client import MarketplaceClient
from cluster.demo.seeding import CATALOGUE
from cluster.identities import SellerKey
from cluster.uploading import upload_in_parts
from domain import manifests
from domain.dsse import Envelope, pae
from storage.signing.keys import verify
from tests.fakes.marketplace_api import BASE, SELLER, FakeMarketplace, problem


@pytest.fixture
def market(monkeypatch):
    fake = FakeMarketplace()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: fake(request))
    return fake


@pytest.fixture
def cli(market, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MARKETPLACE_URL", BASE)
    monkeypatch.setenv("MARKETPLACE_TOKEN", SELLER)
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path / "home"))
    # Nobody waits between attempts: both pauses are defaults, bound before a test could replace time.sleep.
    monkeypatch.setitem(MarketplaceClient.__init__.__kwdefaults__, "pause", lambda _seconds: None)
    others = upload_in_parts.__defaults__[:-1]
    monkeypatch.setattr(upload_in_parts, "__defaults__", (*others, lambda _seconds: None))

    def run(*arguments):
        result = CliRunner().invoke(cli_seller.app, [str(one) for one in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_release_signs_what_it_uploads_and_does_nothing_twice(cli, market, tmp_path):
    cli("keygen")
    status, out, err = cli("release", CATALOGUE / "tidycsv", "--json")
    assert status == 0, out + err
    listing = json.loads(out)
    assert listing["fresh"] is True
    (request,) = [one for one in market.requests if one.url.path.endswith("/publish")]
    envelope = Envelope.parse(json.dumps(json.loads(request.content)["manifest"]))
    key = SellerKey.load(tmp_path / "config" / "illuvrse-marketplace" / "seller-key.pem")
    message = pae(envelope.payload_type, envelope.payload)
    assert verify(key.public_key, message, envelope.signatures[0].sig)
    manifest = manifests.parse(envelope.payload)
    (upload,) = market.uploads.values()
    assert (manifest.bundle_sha256, manifest.size) == (listing["bundle_sha256"], len(upload))
    assert manifest.entry_point == "tidycsv-2.0.3/tidycsv.py"
    count = len(market.requests)
    status, out, _ = cli("release", CATALOGUE / "tidycsv", "--json")
    assert (status, json.loads(out)["fresh"]) == (0, False)
    assert len(market.requests) == count + 1  # a look; no further key is registered


def test_another_content_under_a_published_version_is_refused(cli, market, tmp_path):
    cli("keygen")
    folder = tmp_path / "tidycsv"
    shutil.copytree(CATALOGUE / "tidycsv", folder)
    assert cli("release", folder)[0] == 0
    (folder / "README.md").write_text("changed")
    status, _, err = cli("release", folder)
    assert status == 1
    assert "raise the version" in err


def test_a_dry_run_asks_nobody(cli, market):
    cli("keygen")
    status, out, _ = cli("release", CATALOGUE / "logline", "--dry-run")
    assert status == 0
    assert "logline-1.2.0.tar.gz" in out
    assert market.requests == []


def test_openssl_makes_and_reads_the_same_keys(cli, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on PATH")
    path = tmp_path / "k.pem"
    subprocess.run([openssl, "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    status, _, err = cli("release", CATALOGUE / "logline", "--key", path, "--dry-run")
    assert status == 0, err
    cli("keygen", "--out", tmp_path / "ours.pem")
    done = subprocess.run(
        [openssl, "pkey", "-in", tmp_path / "ours.pem", "-pubout"], capture_output=True, check=True
    )
    assert done.stdout == (tmp_path / "ours.public.pem").read_bytes()


def test_no_key_and_a_wrong_key_are_one_line(cli, tmp_path):
    status, _, err = cli("release", CATALOGUE / "logline")
    assert status == 1
    assert "seller keygen" in err
    (tmp_path / "wrong.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    status, _, err = cli("release", CATALOGUE / "logline", "--key", tmp_path / "wrong.pem")
    assert status == 1
    assert "Ed25519" in err


def test_a_folder_that_is_no_bundle_is_one_line(cli, tmp_path):
    status, _, err = cli("release", tmp_path / "nothing")
    assert status == 1
    assert "marketplace.json" in err


def test_list_shows_prices(cli):
    status, out, _ = cli("list")
    assert status == 0
    assert "19.99 USD" in out
    assert cli("list", "--json")[0] == 0


def test_a_lost_upload_is_repeated(cli, market, monkeypatch):
    cli("keygen")
    lost = [httpx.WriteError("lost")]

    def handle(_self, request):
        if request.method == "PUT" and lost:
            raise lost.pop()
        return market(request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle)
    assert cli("release", CATALOGUE / "linkboard")[0] == 0
    assert Path(next(iter(market.uploads))).name.startswith("rel_")


@pytest.fixture
def in_parts(monkeypatch):
    """Every bundle is large, and parts are small."""
    monkeypatch.setattr("cluster.listing.WHOLE_BYTES_MAX", 0)
    monkeypatch.setattr("domain.releases.PART_BYTES", 1_000)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


def puts(market):
    return [int(one.url.params["part"]) for one in market.requests if one.method == "PUT"]


def test_a_large_bundle_goes_up_in_parts(cli, market, in_parts):
    cli("keygen")
    status, out, err = cli("release", CATALOGUE / "tidycsv", "--json")
    assert status == 0, out + err
    (whole,) = market.uploads.values()
    assert hashlib.sha256(whole).hexdigest() == json.loads(out)["bundle_sha256"]
    assert puts(market) == list(range(1, -(-len(whole) // 1_000) + 1))


def test_an_interrupted_upload_goes_on_and_sends_no_part_twice(cli, market, in_parts, monkeypatch):
    cli("keygen")
    put, lost = market._storage, []

    def broken(request):
        if request.method == "PUT" and request.url.params.get("part") == "3":
            lost.append(request)
            raise httpx.ConnectError("no route")
        return put(request)

    with monkeypatch.context() as patch:
        patch.setattr(market, "_storage", broken)
        status, _, err = cli("release", CATALOGUE / "tidycsv")
    assert status == 1
    assert "Part 3 could not be uploaded" in err
    assert "goes on" in err
    # One of the parts that came is not what lies here: it is sent again.
    ((where, come),) = market.parts.items()
    come[2] = b"altered" + come[2][7:]
    market.requests.clear()
    assert cli("release", CATALOGUE / "tidycsv")[0] == 0
    assert 1 not in puts(market)
    assert puts(market)[:2] == [2, 3]
    assert len(market.uploads[where]) > 0


def test_a_refused_part_link_is_renewed_once(cli, market, in_parts, monkeypatch):
    cli("keygen")
    put, refusals = market._storage, [403]

    def expired(request):
        if request.method == "PUT" and refusals:
            return httpx.Response(refusals.pop())
        return put(request)

    monkeypatch.setattr(market, "_storage", expired)
    assert cli("release", CATALOGUE / "tidycsv")[0] == 0
    refusals += [403, 403]
    status, _, err = cli("release", CATALOGUE / "linkboard")
    assert (status, "answered 403" in err) == (1, True)


def test_a_release_on_another_channel_is_signed_as_such(cli, market):
    cli("keygen")
    assert cli("release", CATALOGUE / "tidycsv", "--channel", "beta")[0] == 0
    (request,) = [one for one in market.requests if one.url.path.endswith("/publish")]
    envelope = Envelope.parse(json.dumps(json.loads(request.content)["manifest"]))
    assert manifests.parse(envelope.payload).channel == "beta"
    status, _, err = cli("release", CATALOGUE / "tidycsv", "--channel", "weekly")
    assert (status, "channel_unknown" in err) == (1, True)


def test_publishing_a_large_bundle_is_waited_for(cli, market, monkeypatch):
    cli("keygen")
    waits = []
    monkeypatch.setattr("cluster.listing._publish.__defaults__", (waits.append,))
    busy = [problem(503, "request_timeout", "It goes on.") for _ in range(12)]
    route = market._sell

    def slowly(method, parts, request):
        if parts[-1] == "publish" and busy:
            return busy.pop()
        return route(method, parts, request)

    monkeypatch.setattr(market, "_sell", slowly)
    replies = market.replies
    monkeypatch.setattr(
        market, "replies", type("Forgetful", (dict,), {"__setitem__": lambda *_: None})(replies)
    )
    status, out, err = cli("release", CATALOGUE / "tidycsv", "--json")
    assert status == 0, out + err
    assert (len(waits), busy) == (2, [])
