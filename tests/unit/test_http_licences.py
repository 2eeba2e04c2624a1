"""Licences over HTTP: findings are kept apart, others' do not exist, revocations are signed."""

import base64
from datetime import timedelta

import orjson
import pytest

from domain import revocations
from domain.dsse import Envelope, pae
from domain.errors import DependencyError
from domain.licences import armour
from domain.signing import KeyState
from serve_app.routes import licences as routes
from serve_app.routes.licences import REVOCATIONS_RETRY_S, REVOCATIONS_TTL_S
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.http_client import Client, pay
from tests.fakes.ingress import RECIPIENT, FakeMarket


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app())


@pytest.fixture
async def licence(market, client):
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 2}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    order_id = (await client.as_("buyer").post("/v1/orders", body)).json()["id"]
    await pay(market, client, order_id, 3998)
    (delivery,) = (await client.as_("buyer").get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    return delivery["licence"]


async def ask(client, licence, **more):
    answer = await client.post("/v1/licences/verify", {"licence": licence, **more}, key=None)
    assert answer.status_code == 200
    return answer.json()


async def test_a_genuine_licence_is_valid_in_both_forms(client, licence):
    for form in (
        licence["armoured"],
        licence["envelope"],
        licence["armoured"].replace("\n", "\r\n"),
        f"\n {licence['armoured']}\n\n",
    ):
        report = await ask(client, form, buyer_id="buyer_ada")
        assert report["valid"] is True
        assert all(report[name]["ok"] for name in ("signature", "key", "expiry", "revocation", "ownership"))
        assert report["licence"]["id"] == licence["id"]
        assert report["licence"]["quantity"] == 2
        assert report["revocation"]["status"] == "not_revoked"
        assert report["expiry"]["status"] == "perpetual"


async def test_another_buyers_claim_is_its_own_finding(client, licence):
    report = await ask(client, licence["armoured"], buyer_id="buyer_bob")
    assert (report["valid"], report["ownership"]["status"]) == (False, "other_buyer")
    assert report["signature"]["ok"]
    assert (await ask(client, licence["armoured"]))["ownership"]["status"] == "not_asked"


@pytest.mark.parametrize("status", ["revoked", "suspended"])
async def test_a_revoked_licence_is_told_at_once(market, client, licence, status):
    market.licences.statuses[licence["id"]] = status
    report = await ask(client, licence["armoured"])
    assert (report["valid"], report["revocation"]["status"]) == (False, status)
    assert report["signature"]["ok"]
    assert report["key"]["ok"]


async def test_a_compromised_key_is_its_own_finding(market, client, licence):
    record = market.key_record
    market.key_record = type(record)(
        record.key_id, record.public_key, KeyState.COMPROMISED, record.not_before, market.clock()
    )
    market.monotonic.now_s += 10
    report = await ask(client, licence["armoured"])
    assert (report["valid"], report["key"]["state"], report["signature"]["ok"]) == (
        False,
        "compromised",
        True,
    )


async def test_a_licence_by_a_key_that_is_not_ours_is_refused(market, client, licence):
    market.key_record = register(DevelopmentKeyFile(b"o" * 32, b"w" * 32).public_key, market.clock())
    market.monotonic.now_s += 10
    report = await ask(client, licence["armoured"])
    assert (report["signature"]["ok"], report["key"]["state"], report["licence"]) == (False, "unknown", None)


async def test_an_altered_licence_is_refused_and_its_claims_are_not_shown(client, licence):
    payload = base64.b64decode(licence["envelope"]["payload"]).replace(b'"quantity":2', b'"quantity":9')
    altered = licence["envelope"] | {"payload": base64.b64encode(payload).decode()}
    report = await ask(client, altered)
    assert (report["valid"], report["signature"]["ok"], report["licence"]) == (False, False, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "nonsense",
        lambda _: "",
        lambda _: {},
        lambda _: {"payload": 1.5},
        lambda one: one["armoured"][:-40],
        lambda one: armour(one["armoured"]),
        lambda one: one["envelope"] | {"payloadType": "application/vnd.in-toto+json"},
        lambda one: one["envelope"] | {"signatures": []},
        lambda one: orjson.dumps(one["envelope"]).decode(),
    ],
)
async def test_what_is_no_licence_is_a_finding_and_no_error(client, licence, change):
    report = await ask(client, change(licence))
    assert report["valid"] is False
    assert report["signature"]["ok"] is False
    assert report["licence"] is None
    assert report["revocation"]["status"] == "unknown"


@pytest.mark.parametrize(
    "body", [{}, {"licence": 7}, {"licence": None}, {"licence": "x" * 30_000}, [], {"licence": "x", "y": 1}]
)
async def test_a_wrong_question_is_refused(client, body):
    answer = await client.post("/v1/licences/verify", body, key=None)
    assert (answer.status_code, answer.json()["code"]) == (422, "body_invalid")


async def test_own_licences_are_shown_and_others_do_not_exist(client, licence):
    path = f"/v1/licences/{licence['id']}"
    shown = (await client.as_("buyer").get(path)).json()
    assert (shown["armoured"], shown["status"]) == (licence["armoured"], "active")
    for token in ("operator", "auditor"):
        assert (await client.as_(token).get(path)).json() == shown
    for token, asked in (
        ("buyer2", path),
        ("buyer", "/v1/licences/lic_" + "0" * 26),
        ("buyer", "/v1/licences/x"),
    ):
        answer = await client.as_(token).get(asked)
        assert (answer.status_code, answer.json()["code"]) == (404, "licence_not_found")


async def test_the_revocation_list_is_signed_and_made_once_a_minute(market, client):
    market.licences.statuses |= {"lic_b": "revoked", "lic_a": "revoked", "lic_c": "suspended"}
    for _ in range(3):
        document = (await client.get("/v1/licences/revocations")).json()
    assert market.signer.signed_lists == 1
    assert (document["revoked"], document["suspended"]) == (["lic_a", "lic_b"], ["lic_c"])
    envelope = Envelope.parse(orjson.dumps(document["envelope"]))
    assert envelope.payload_type == revocations.PAYLOAD_TYPE
    message = pae(envelope.payload_type, envelope.payload)
    assert verify(market.keys.public_key, message, envelope.signatures[0].sig)
    signed = orjson.loads(envelope.payload)
    assert signed["revoked_sha256"] == revocations.ids_sha256(document["revoked"])
    assert {name: signed[name] for name in ("version", "issued_at", "expires_at")} == {
        name: document[name] for name in ("version", "issued_at", "expires_at")
    }
    # Every change has its own version, and is told at once: a restoration as well.
    market.licences.statuses["lic_c"] = "active"
    later = (await client.get("/v1/licences/revocations")).json()
    assert later["version"] > document["version"]
    assert (later["revoked"], later["suspended"]) == (["lic_a", "lic_b"], [])
    trusted = {market.keys.key_id: market.keys.public_key}
    raw = (await client.get("/v1/licences/revocations")).content
    assert revocations.open_document(raw, trusted, verify).version == later["version"]


async def test_ten_thousand_revocations_are_signed_too(market, client):
    market.licences.statuses |= {f"lic_{number:026d}": "revoked" for number in range(10_000)}
    document = (await client.get("/v1/licences/revocations")).json()
    assert len(document["revoked"]) == 10_000


async def test_a_list_that_fills_up_is_told_in_time(market, client, caplog, monkeypatch):
    monkeypatch.setattr(routes, "LISTED_WARNING", 2)
    market.licences.statuses |= {"lic_a": "revoked", "lic_b": "suspended"}
    await client.get("/v1/licences/revocations")
    assert "at 100000 it is refused" not in caplog.text
    market.licences.statuses["lic_c"] = "revoked"
    await client.get("/v1/licences/revocations")
    assert "names 3 licences, and at 100000 it is refused" in caplog.text


async def test_without_the_signer_there_is_no_list_and_no_lie(market, client):
    market.signer.failure = DependencyError("signer_unavailable", "replaced", 1)
    answer = await client.get("/v1/licences/revocations")
    assert (answer.status_code, answer.json()["code"]) == (503, "signer_unavailable")
    market.signer.failure = None
    market.monotonic.now_s += REVOCATIONS_RETRY_S
    assert (await client.get("/v1/licences/revocations")).status_code == 200


async def test_while_nobody_signs_the_list_that_says_the_same_is_shown_and_no_older_one(market, client):
    shown = (await client.get("/v1/licences/revocations")).content
    market.signer.failure = DependencyError("signer_unavailable", "replaced", 1)
    for passed_s in (REVOCATIONS_TTL_S, 3_600, 22 * 3_600):
        market.monotonic.now_s += passed_s
        answer = await client.get("/v1/licences/revocations")
        assert (answer.status_code, answer.content) == (200, shown)
    market.monotonic.now_s += 3_600  # now it has ended
    assert (await client.get("/v1/licences/revocations")).status_code == 503


async def test_a_change_while_nobody_signs_is_not_hidden_by_the_list_before(market, client):
    await client.get("/v1/licences/revocations")
    market.signer.failure = DependencyError("signer_unavailable", "replaced", 1)
    market.licences.statuses["lic_a"] = "revoked"
    asked = market.signer.asked_lists
    for _ in range(3):
        assert (await client.get("/v1/licences/revocations")).status_code == 503
    assert market.signer.asked_lists == asked + 1, (
        "a signer that has just failed is not asked by every reader"
    )
    market.signer.failure = None
    market.monotonic.now_s += REVOCATIONS_RETRY_S
    assert (await client.get("/v1/licences/revocations")).json()["revoked"] == ["lic_a"]


async def test_the_platforms_keys_are_public(market, client):
    (key,) = (await client.get("/v1/keys")).json()["items"]
    assert base64.b64decode(key["public_key"]) == market.keys.public_key
    assert key["key_id"] == market.keys.key_id
    assert key["pem"].startswith("-----BEGIN PUBLIC KEY-----")
    assert "minisign public key" in key["minisign"]
    assert (key["state"], key["algorithm"], key["compromised_at"]) == ("active", "ed25519", None)
    assert key["not_before"] == f"{market.clock() - timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}"
