"""A bundle's way to its buyer: sent in parts, bought, fetched, opened by others' tools and in a browser.

Where a step is cut off, a real ``marketplace`` process is killed at that byte and started again.
"""

import base64
import json
import re
import secrets
import shutil
import signal
import sys
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.config import Config

from cluster.demo.seeding import CATALOGUE
from tests.acceptance.conftest import key
from tests.acceptance.payments import placed, until_status
from tests.browser import chromium
from tests.unit.test_signing_documented_commands import BLOCKS, needs, run

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

MODULE = Path(__file__).resolve().parents[2] / "docs/vectors/open-delivery.mjs"
IDENTITY = "config/illuvrse-marketplace/identity.txt"
LARGE_BYTES = 49 * 2**20  # four parts
# `marketplace`, killed when half of the bytes have come, or telling what had come before it began.
CUT_OFF = """
import contextlib, os, signal, sys
from cluster import cli, terminal

@contextlib.contextmanager
def watched(self, title):
    def told(done, total):
        if os.environ["AT_HALF"] == "kill" and done * 2 >= total:
            os.kill(os.getpid(), signal.SIGKILL)
        with open("progress", "a") as file:
            print(done, total, file=file)
    yield told

terminal.Terminal.download = watched
cli.main()
"""


def told(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(market, tmp_path_factory):
    folder = tmp_path_factory.mktemp("goods")
    told(market.cli("buyer", "keygen", "--json", cwd=folder))
    told(market.cli("seller", "keygen", "--json", cwd=folder))
    return folder


@pytest.fixture(scope="module")
def half_way(market, home):
    """Run ``marketplace`` until it is killed half way, or whole; returns what it told of its progress."""

    def half_way(*arguments, kill):
        (home / "progress").unlink(missing_ok=True)
        command = [sys.executable, "-c", CUT_OFF, *map(str, arguments), "--json"]
        done = market.run(*command, cwd=home, AT_HALF="kill" if kill else "go on")
        assert done.returncode == (-signal.SIGKILL if kill else 0), done.stdout + done.stderr
        lines = (home / "progress").read_text().splitlines() if (home / "progress").exists() else []
        return [tuple(map(int, line.split())) for line in lines], done

    return half_way


def parts_of_uploads(market):
    """How many parts each upload that is under way has, by what the object storage says."""
    s3, local = market.local["s3"], Config(s3={"addressing_style": "path"})
    client = boto3.client(
        "s3",
        endpoint_url=s3["endpoint"],
        region_name="us-east-1",
        aws_access_key_id=s3["access_key"],
        aws_secret_access_key=s3["secret_key"],
        config=local,
    )
    bucket = s3["buckets"]["uploads"]
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [
        len(client.list_parts(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]).get("Parts", []))
        for one in uploads
    ]


@pytest.fixture(scope="module")
def goods(market, home, half_way):
    """A bundle of 49 MiB, whose upload was killed half way and then went on."""
    folder = home / "large"
    shutil.copytree(CATALOGUE / "tidycsv", folder)
    about = json.loads((folder / "marketplace.json").read_text())
    about |= {"name": f"large-{secrets.token_hex(4)}", "prices": {"USD": 900}}
    (folder / "marketplace.json").write_text(json.dumps(about))
    (folder / "model.bin").write_bytes(secrets.token_bytes(LARGE_BYTES))
    half_way("seller", "release", folder, kill=True)
    interrupted = parts_of_uploads(market)
    _, done = half_way("seller", "release", folder, kill=False)
    return {"listing": told(done), "interrupted": interrupted}


@pytest.fixture(scope="module")
def bought(market, home, goods):
    """The order of the bundle by the local buyer, paid and delivered; nothing is fetched yet."""
    (recipient,) = re.findall("age1[0-9a-z]+", (home / IDENTITY).read_text())
    with market.http("buyer") as buyer:
        order = placed(
            buyer,
            {
                "lines": [{"sku_id": goods["listing"]["sku_id"], "quantity": 1}],
                "currency": "USD",
                "delivery": {"mode": "recipient", "recipient": recipient},
            },
        )
        assert market.confirm(order).status_code == 200
        return until_status(buyer, order["id"], "delivered")


@pytest.fixture(scope="module")
def fetched(home, bought, half_way):
    """The files of the order, whose fetch was killed half way and then went on."""
    half_way("buyer", "fetch", bought["id"], kill=True)
    left = [path.name for path in (home / "purchases" / bought["id"]).iterdir()]
    progress, done = half_way("buyer", "fetch", bought["id"], kill=False)
    return {"files": told(done)["files"][0], "left": left, "progress": progress}


def test_an_upload_that_was_killed_goes_on(market, goods):
    assert goods["interrupted"] == [2]
    assert goods["listing"]["fresh"] is True
    assert parts_of_uploads(market) == []


def test_a_fetch_that_was_killed_goes_on_from_there(fetched):
    (partial,) = fetched["left"]
    assert partial.endswith(".part")
    first, total = fetched["progress"][0]
    assert total // 2 - 2**20 <= first < total
    assert fetched["progress"][-1] == (total, total)


def test_the_bundle_is_opened_and_verified_by_the_command_line(market, home, goods, fetched):
    files = fetched["files"]
    opened = told(market.cli("buyer", "decrypt", files["encrypted"], "--json", cwd=home))
    assert opened["sha256"] == goods["listing"]["bundle_sha256"]
    verified = told(market.cli("buyer", "verify", files["licence"], "--json", cwd=home))
    states = {check["name"]: check["state"] for check in verified["checks"]}
    assert {name for name, state in states.items() if state == "skipped"} == {"licence owner"}


def test_openssl_age_and_minisign_agree_by_the_documented_commands(market, home, bought, goods):
    if missing := needs("".join(BLOCKS)):
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = home / "by-hand"
    folder.mkdir()
    with market.http("buyer") as buyer:
        (delivery,) = buyer.get(f"/v1/orders/{bought['id']}/deliveries").json()["items"]
        release = buyer.get(f"/v1/releases/{goods['listing']['release_id']}").json()
        platform = buyer.get("/v1/keys").json()["items"][0]
    name = delivery["file_name"]
    payload = httpx.get(delivery["payload"]["url"], timeout=60)
    assert payload.status_code == 200
    folder.joinpath("licence.txt").write_text(delivery["licence"]["armoured"])
    folder.joinpath("delivery.json").write_text(json.dumps(delivery["manifest"], separators=(",", ":")))
    folder.joinpath(f"{name}.age-payload").write_bytes(payload.content)
    folder.joinpath(f"{name}.minisig").write_text(release["minisig"])
    folder.joinpath("platform.pem").write_text(platform["pem"])
    folder.joinpath("minisign.pub").write_text(platform["minisign"])
    shutil.copy(home / IDENTITY, folder / "key.txt")
    for block in BLOCKS:
        done = run(folder, block.replace("logline-1.2.0.tar.gz", name))
        assert done.returncode == 0, (block, done.stderr)


def test_one_joined_file_opens_with_age_alone(market, home, bought):
    if shutil.which("age") is None:
        pytest.skip("there is no age here")
    with market.http("buyer") as buyer:
        (delivery,) = buyer.get(f"/v1/orders/{bought['id']}/deliveries").json()["items"]
        joined = buyer.post(f"/v1/deliveries/{delivery['id']}/joined", json={}, headers=key()).json()
    script = f"curl -sf '{joined['url']}' | age -d -i {IDENTITY} | sha256sum"
    done = run(home, script)
    manifest = json.loads(base64.b64decode(delivery["manifest"]["payload"]))["predicate"]
    assert done.stdout.split() == [manifest["plaintext"]["sha256"], "-"]


@pytest.fixture(scope="module")
def page(market, tmp_path_factory):
    """A page of the marketplace's own origin."""
    if chromium.program() is None:
        pytest.skip("there is no Chromium here")
    with chromium.running(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser.open(f"{market.local['base_url']}/livez")


IN_PAGE = """
const {{ openDelivery }} = await import("data:text/javascript;base64," + module);
const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
const call = async (method, path) => {{
  const headers = {{ Authorization: `Bearer ${{token}}`, "Idempotency-Key": crypto.randomUUID() }};
  const answer = await fetch(path, {{ method, headers }});
  if (!answer.ok) throw new Error(`${{path}} answered ${{answer.status}}: ${{await answer.text()}}`);
  return answer.json();
}};
const opening = await call("GET", `/v1/deliveries/${{delivery}}/opening`);
{body}
"""


def script(body):
    return IN_PAGE.format(body=body)


def test_a_page_of_the_marketplace_opens_a_live_delivery(market, buyer, wish, page):
    order = placed(buyer, wish())
    assert market.confirm(order).status_code == 200
    until_status(buyer, order["id"], "delivered")
    (delivery,) = buyer.get(f"/v1/orders/{order['id']}/deliveries").json()["items"]
    platform = buyer.get("/v1/keys").json()["items"][0]
    given = {
        "module": base64.b64encode(MODULE.read_bytes()).decode(),
        "token": buyer.headers["Authorization"].removeprefix("Bearer "),
        "delivery": delivery["id"],
        "platform": platform["public_key"],
    }
    opened = page.run(
        script(
            "const { identity } = await call('POST', `/v1/deliveries/${delivery}/key`);"
            "const answer = await fetch(opening.payload.url), chunks = [];"
            "const manifest = await openDelivery("
            "  opening, answer.body, identity, [bytes(platform)], (one) => chunks.push(one));"
            "const digest = await crypto.subtle.digest('SHA-256', await new Blob(chunks).arrayBuffer());"
            "return [manifest.delivery_id, btoa(String.fromCharCode(...new Uint8Array(digest)))];"
        ),
        **given,
    )
    manifest = json.loads(base64.b64decode(delivery["manifest"]["payload"]))["predicate"]
    assert opened == [
        delivery["id"],
        base64.b64encode(bytes.fromhex(manifest["plaintext"]["sha256"])).decode(),
    ]
    # A range of the version with this ETag: for these headers the browser asks the storage first.
    ranged = page.run(
        script(
            "const whole = await fetch(opening.payload.url);"
            "const headers = { Range: 'bytes=16-31', 'If-Match': whole.headers.get('ETag') };"
            "const part = await fetch(opening.payload.url, { headers });"
            "return [part.status, part.headers.get('Content-Range'), (await part.arrayBuffer()).byteLength];"
        ),
        **given,
    )
    assert ranged == [206, f"bytes 16-31/{delivery['payload']['bytes']}", 16]
    with pytest.raises(chromium.PageError, match="Failed to fetch"):
        page.run(
            script("return (await fetch(opening.payload.url, { method: 'PUT', body: 'x' })).status;"), **given
        )
