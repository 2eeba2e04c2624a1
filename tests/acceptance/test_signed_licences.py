"""What becomes of a licence after its issue, and of the key that signed it, on the whole marketplace.

The last tests rotate the signing key and then check every order of this marketplace.
"""

import base64
import json
import re
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest

from cluster.bundles import pack
from cluster.client import MarketplaceClient
from cluster.demo.seeding import CATALOGUE, seller_key
from cluster.listing import publish_bundle, sign_manifest
from domain.dsse import sign_all
from domain.licences import PAYLOAD_TYPE as LICENCE_TYPE
from domain.licences import armour
from domain.ownership import PAYLOAD_TYPE as PROOF_TYPE
from domain.statements import PAYLOAD_TYPE as STATEMENT_TYPE
from serve_app.routes.licences import KEYS_TTL_S
from storage.signing.devfile import DevelopmentKeyFile
from tests.acceptance.conftest import key
from tests.acceptance.payments import placed, rows_of, until, until_status

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROTATED_WITHIN_S = 30.0
OWNER_KEY = DevelopmentKeyFile(b"o" * 32, b"w" * 32)


def shell_blocks(page):
    return re.findall(
        r"^```sh\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def told(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def timed_sku(market, tmp_path_factory):
    """A product that is sold for 30 days at a time."""
    folder = tmp_path_factory.mktemp("timed") / "bundle"
    shutil.copytree(CATALOGUE / "tidycsv", folder)
    about = json.loads((folder / "marketplace.json").read_text())
    about |= {"name": f"timed-{uuid4().hex[:8]}", "licence_policy": {"kind": "timed", "days": 30}}
    (folder / "marketplace.json").write_text(json.dumps(about))
    with MarketplaceClient(market.local["base_url"], market.local["tokens"]["seller"]) as client:
        return publish_bundle(client, pack(folder), seller_key(market.layout)).sku_id


@pytest.fixture
def person(market, sku_ids):
    """A buyer with a token of its own."""
    principal, token = market.new_token()
    with market.http(token=token) as client:

        def order(sku_id=sku_ids["logline"], quantity=1):
            body = {"lines": [{"sku_id": sku_id, "quantity": quantity}], "currency": "USD"}
            return placed(client, body | {"delivery": {"mode": "released_key"}})

        def pay(waiting):
            assert market.confirm(waiting).status_code == 200
            return until_status(client, waiting["id"], "delivered")

        def licence(*wanted, **more):
            delivered = pay(order(*wanted, **more))
            return client.get(f"/v1/licences/{delivered['lines'][0]['licence_id']}").json()

        yield SimpleNamespace(id=principal, token=token, http=client, order=order, pay=pay, licence=licence)


@pytest.fixture
def shell(market, person, tmp_path):
    """Run a documented block of shell as this buyer, in a folder of its own."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "marketplace").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cluster.cli "$@"\n')
    (programs / "marketplace").chmod(0o755)

    def shell(block, **environment):
        return market.run(
            *("sh", "-euc", block),
            cwd=tmp_path,
            PATH=f"{programs}:/usr/bin:/bin",
            url=market.local["base_url"],
            **({"MARKETPLACE_TOKEN": person.token} | environment),
        )

    return shell


def verify(market, armoured, **more):
    with market.http() as anybody:
        answer = anybody.post("/v1/licences/verify", json={"licence": armoured} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def act(client, method, path, body, status=None):
    answer = client.request(method, path, json=body, headers=key())
    if status is not None:
        assert answer.status_code == status, answer.text
    return answer.json()


def test_the_documented_commands_about_licences_hold_in_their_order(market, person, shell, tmp_path):
    licence = person.licence()
    (tmp_path / "logline.licence.txt").write_text(licence["armoured"])
    assert shell("marketplace buyer verify logline.licence.txt").returncode == 0
    blocks = [block.replace("lic_…", licence["id"]) for block in shell_blocks("licences.md")]
    assert len(blocks) == 3
    for block in blocks:
        done = shell(block)
        assert done.returncode == 0, (block, done.stdout, done.stderr)
    activation = f"{licence['id']}.activation.json"
    judged = shell(
        f"marketplace buyer verify logline.licence.txt --activation {activation} --fingerprint m1 --json"
    )
    assert {check["name"]: check["state"] for check in told(judged)["checks"]}["activation"] == "ok"
    assert told(shell(f"marketplace buyer deactivate {activation} --json"))["released"] is True


def test_seats_are_counted_kept_and_freed(market, person):
    licence = person.licence()
    seats = f"/v1/licences/{licence['id']}/activations"
    issued = act(person.http, "POST", seats, {"fingerprint": "m1"}, 201)
    full = act(person.http, "POST", seats, {"fingerprint": "m2"}, 409)
    assert full["code"] == "activations_full"
    activation = f"/v1/activations/{issued['seat']['id']}"
    with market.http() as machine:  # it has no token: its document is what it may renew and free
        renewed = act(machine, "PUT", f"{activation}/heartbeat", {"activation": issued["envelope"]}, 200)
        assert renewed["seat"]["heartbeat_at"] > issued["seat"]["heartbeat_at"]
        other = issued["envelope"] | {"payloadType": LICENCE_TYPE}
        refused = act(machine, "PUT", f"{activation}/heartbeat", {"activation": other}, 422)
        assert refused["code"] == "payload_type_wrong"
        assert act(machine, "PUT", f"{activation}/release", {"activation": renewed["envelope"]})["released"]
        ended = act(machine, "PUT", f"{activation}/heartbeat", {"activation": renewed["envelope"]}, 409)
        assert ended["code"] == "activation_ended"
    act(person.http, "POST", seats, {"fingerprint": "m2"}, 201)


def test_a_nonce_counts_once(market, person):
    licence = person.licence()
    path = f"/v1/licences/{licence['id']}"
    public_key = base64.b64encode(OWNER_KEY.public_key).decode()
    act(person.http, "POST", f"{path}/owner-keys", {"public_key": public_key}, 201)
    with market.http() as machine:
        asked = act(machine, "POST", f"{path}/ownership-challenges", {"purpose": "activation"}, 201)
        (proof,) = sign_all(OWNER_KEY, PROOF_TYPE, [asked["payload"].encode()])
        body = {"fingerprint": "m1", "proof": json.loads(proof.dumps())}
        act(machine, "POST", f"{path}/activations", body, 201)
        again = act(machine, "POST", f"{path}/activations", body, 409)
    assert again["code"] == "nonce_replayed"
    low_order, of_p256 = bytes(32), b"\x02" + b"\x11" * 32
    for other, code in ((low_order, "public_key_invalid"), (of_p256, "public_key_type_wrong")):
        given = {"public_key": base64.b64encode(other).decode()}
        refused = act(person.http, "POST", f"{path}/owner-keys", given, 422)
        assert refused["code"] == code


def test_a_licence_goes_to_another_buyer(market, person, shell):
    licence = person.licence()
    receiver, token = market.new_token()
    offered = told(shell(f"marketplace buyer transfer {licence['id']} --to {receiver} --json"))["transfer"]
    accept = f"marketplace buyer accept-transfer {offered['id']} --json"
    taken = told(shell(accept, MARKETPLACE_TOKEN=token))["transfer"]
    with market.http(token=token) as client:
        theirs = client.get(f"/v1/licences/{taken['new_licence_id']}").json()
        listed = client.get("/v1/licences/revocations").json()
    assert verify(market, theirs["armoured"], buyer_id=receiver)["valid"] is True
    old = verify(market, licence["armoured"])
    assert (old["valid"], old["revocation"]["status"]) == (False, "superseded")
    assert licence["id"] in listed["revoked"]
    assert theirs["id"] not in listed["revoked"]
    kinds = "SELECT kind FROM market.licence_events WHERE licence_id = %s OR licence_id = %s"
    recorded = {kind for (kind,) in rows_of(market.local, kinds, licence["id"], theirs["id"])}
    assert any("transfer" in kind for kind in recorded), recorded


def test_a_licence_is_renewed_by_the_next_purchase(market, person, timed_sku, shell):
    first, second = person.licence(timed_sku), person.licence(timed_sku)
    renewed = told(shell(f"marketplace buyer renew {second['id']} --renews {first['id']} --json"))["licence"]

    def policy(licence):
        return json.loads(base64.b64decode(licence["envelope"]["payload"]))["predicate"]

    begins = policy(renewed)
    assert policy(first)["policy"]["expires_at"] in json.dumps(begins), begins
    report = verify(market, renewed["armoured"])
    assert report["expiry"]["status"] == "not_begun"
    again = act(person.http, "POST", f"/v1/licences/{renewed['id']}/renewals", {"renews": first["id"]}, 409)
    assert again["code"] == "renewal_done"


def test_a_refund_is_on_the_list_and_older_lists_are_refused(market, person, shell, tmp_path):
    licence = person.licence()
    (tmp_path / "logline.licence.txt").write_text(licence["armoured"])
    fetch = 'curl -sf "$url/v1/licences/revocations" > {0}; '
    check = "marketplace buyer verify logline.licence.txt --offline --revocations {0} --json"
    assert shell("marketplace buyer verify logline.licence.txt").returncode == 0
    assert shell((fetch + check).format("before.json")).returncode == 0
    order_id = licence["order_id"]
    operator = market.local["tokens"]["operator"]
    reason = "--reason 'It was bought by mistake.' --json"
    told(shell(f"marketplace ops refund {order_id} {reason}", MARKETPLACE_TOKEN=operator))
    until(lambda: verify(market, licence["armoured"])["revocation"]["ok"], lambda ok: ok is False)
    done = shell((fetch + check).format("after.json"))
    assert done.returncode == 1
    states = {one["name"]: one["state"] for one in json.loads(done.stdout)["checks"]}
    assert states["licence revocation"] == "failed"
    done = shell(check.format("before.json"))
    codes = {one["name"]: one["code"] for one in json.loads(done.stdout)["checks"]}
    assert (done.returncode, codes["revocation list"]) == (1, "revocations_rolled_back")


# -- what is no document of ours ------------------------------------------------------------------------


def test_what_is_no_licence_is_told_by_its_code(market, person):
    envelope = person.licence()["envelope"]
    text = json.dumps(envelope, separators=(",", ":"))
    payload = base64.b64decode(envelope["payload"])
    more = payload.replace(b'"quantity":1', b'"quantity":9')
    assert more != payload
    spoiled = {
        "json_duplicate_key": text.replace("{", f'{{"payloadType":"{LICENCE_TYPE}",', 1),
        "json_number_invalid": text.replace("{", '{"a":NaN,', 1),
        "payload_type_wrong": text.replace(LICENCE_TYPE, "application/vnd.unknown+json"),
        "signature_invalid": text.replace(envelope["payload"], base64.b64encode(more).decode()),
    }
    for code, spoilt in spoiled.items():
        report = verify(market, armour(spoilt))
        assert (report["valid"], report["signature"]["ok"]) == (False, False), code
        assert report["signature"]["code"] == code, report["signature"]
    with market.http() as anybody:
        for body, code in (
            (b'{"licence":"x","licence":"y"}', "json_duplicate_key"),
            (b'{"licence":NaN}', "json_number_invalid"),
        ):
            answer = anybody.post(
                "/v1/licences/verify", content=body, headers={"Content-Type": "application/json"}
            )
            assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.fixture
def draft(market):
    """A draft whose bundle was uploaded and completed, with what its seller signs of it."""
    bundle = pack(CATALOGUE / "tidycsv")
    signing = seller_key(market.layout)
    name = f"draft-{uuid4().hex[:8]}"
    sku = {"name": name, "title": "T", "description": "D", "prices": {"USD": 100}}
    with market.http("seller") as seller:
        sku_id = act(seller, "POST", "/v1/skus", sku, 201)["id"]
        body = {"version": bundle.info.version, "bundle_name": bundle.file_name}
        release = act(seller, "POST", f"/v1/skus/{sku_id}/releases", body, 201)
        upload = f"/v1/releases/{release['id']}/upload"
        (part,) = act(seller, "POST", upload, {"bundle_bytes": bundle.size})["parts"]
        sent = httpx.put(part["url"], content=bundle.file.read(), timeout=20)
        etags = {"parts": [{"number": 1, "etag": sent.headers["ETag"].strip('"')}]}
        act(seller, "POST", f"{upload}/complete", etags, 200)
        manifest = sign_manifest(bundle, signing)
        statement = base64.b64decode(manifest["payload"]).replace(b'"tidycsv"', f'"{name}"'.encode())
        yield SimpleNamespace(
            seller=seller,
            release=release,
            statement=statement,
            publish=lambda kind, payload: publish(seller, release["id"], signing, kind, payload),
        )


def publish(seller, release_id, signing, kind, payload):
    (envelope,) = sign_all(signing, kind, [payload])
    body = {"manifest": json.loads(envelope.dumps())}
    return act(seller, "POST", f"/v1/releases/{release_id}/publish", body)


def test_a_manifest_or_bundle_that_is_not_as_signed_is_not_published(draft):
    twice = draft.statement.replace(b"{", b'{"_type":"x",', 1)
    no_number = draft.statement.replace(b'"size":', b'"size":NaN,"x":', 1)
    assert draft.publish(STATEMENT_TYPE, twice)["code"] == "json_duplicate_key"
    assert draft.publish(STATEMENT_TYPE, no_number)["code"] == "json_number_invalid"
    assert draft.publish("application/vnd.unknown+json", draft.statement)["code"] == "payload_type_wrong"
    behind = httpx.put(draft.release["upload"]["url"], content=b"another bundle", timeout=20)
    assert behind.is_success
    assert draft.publish(STATEMENT_TYPE, draft.statement)["code"] == "bundle_changed"


# -- the key that signs --------------------------------------------------------------------------------


@pytest.fixture
def keys(market, tmp_path):
    """``marketplace ops keys``; the root and its list are files in the test's folder."""

    def keys(verb, *arguments, rooted=False, listed=False):
        more = (*(("--root", "root.pem") if rooted else ()), *(("--list", "list.json") if listed else ()))
        return told(market.cli("ops", "keys", verb, *arguments, *more, "--json", cwd=tmp_path))

    return keys


@contextmanager
def shopping(person):
    """Buy one licence after another meanwhile; gives the list of those that were delivered."""
    bought, ending = [], threading.Event()

    def shop():
        while not ending.is_set():
            bought.append(person.licence())

    with ThreadPoolExecutor(1) as pool:
        shopper = pool.submit(shop)
        try:
            yield bought
        finally:
            ending.set()
        shopper.result(ROTATED_WITHIN_S)


def begun(market, keys):
    """Begin key lists as the runbook says; returns the id of the key that signs."""
    keys("root-init", "--root", "root.pem")
    keys("root-record", "root.public.pem")
    (recorded,) = keys("list")["items"]
    first = f"file:{market.layout.signing_key}"
    assert keys("public", first, "--out", "first.pem")["key_id"] == recorded["key_id"]
    since = recorded["not_before"][:19] + "Z"
    keys("add", "first.pem", "--since", since, rooted=True, listed=True)
    keys("activate", recorded["key_id"], rooted=True, listed=True)
    assert keys("publish", listed=True)["signs"] == recorded["key_id"]
    return recorded["key_id"]


def test_the_signing_key_is_rotated_under_running_purchases(market, person, keys, shell, tmp_path):
    before = person.licence()
    old = begun(market, keys)
    new = keys("public", market.successor, "--out", "new.pem")["key_id"]
    waiting = person.order()  # placed before the rotation, paid after it
    with shopping(person) as bought:
        keys("add", "new.pem", rooted=True, listed=True)
        keys("publish", listed=True)
        keys("activate", new, rooted=True, listed=True)
        keys("publish", listed=True)
        until(lambda: {one["key_id"] for one in bought}, lambda ids: new in ids, ROTATED_WITHIN_S)
        keys("retire", old, rooted=True, listed=True)
        keys("publish", listed=True)
    assert {one["key_id"] for one in bought} == {old, new}
    paid = person.pay(waiting)
    after = person.http.get(f"/v1/licences/{paid['lines'][0]['licence_id']}").json()
    assert after["key_id"] == new
    time.sleep(KEYS_TTL_S)  # what a replica remembers of the keys
    for licence, state in ((before, "retired"), (after, "active")):
        report = verify(market, licence["armoured"])
        assert (report["valid"], report["key"]["state"]) == (True, state)
    (tmp_path / "logline.licence.txt").write_text(before["armoured"])
    done = shell("marketplace buyer verify logline.licence.txt --trust-root root.public.pem")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_order_of_this_marketplace_holds_in_the_end(market, tmp_path):
    checked = told(market.cli("check", "--json", cwd=tmp_path))
    assert checked["violations"] == 0, checked
