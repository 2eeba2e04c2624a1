"""The key list over HTTP: published under the root alone, and what verification makes of it."""

import json
from base64 import b64decode
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest

from domain import key_lists, licences
from domain.dsse import sign_all
from domain.errors import DependencyError
from domain.key_lists import EMPTY
from domain.licences import armour
from domain.signing import KeyState
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.http_client import Client, pay
from tests.fakes.ingress import RECIPIENT, FakeMarket

ROOT = DevelopmentKeyFile(b"r" * 32, b"w" * 32)
NEXT = DevelopmentKeyFile(b"n" * 32, b"w" * 32)


@pytest.fixture
def market():
    made = FakeMarket()
    made.signing_keys.root = ROOT.public_key
    return made


@pytest.fixture
def client(market):
    return Client(market.app())


def first_list(market):
    key = replace(market.key_record, not_before=market.key_record.not_before.replace(microsecond=0))
    listed = key_lists.activate(key_lists.add(EMPTY, key), key.key_id)
    return key_lists.reissue(listed, market.clock())


async def publish(client, listed, root=ROOT, token="operator", **more):
    body = {"envelope": json.loads(key_lists.sign(listed, root))}
    return await client.as_(token).post("/v1/ops/key-lists", body, **more)


async def test_without_a_root_there_is_no_list(market, client):
    market.signing_keys.root = None
    answer = await client.get("/v1/keys/list")
    assert (answer.status_code, answer.json()["code"]) == (404, "key_list_missing")
    answer = await publish(client, first_list(market))
    assert (answer.status_code, answer.json()["code"]) == (409, "key_root_missing")


async def test_a_published_list_is_shown_byte_for_byte(market, client):
    listed = first_list(market)
    assert (await publish(client, listed)).json() == {"published": True}
    shown = (await client.get("/v1/keys/list")).json()
    assert (shown["version"], shown["signs"]) == (1, market.keys.key_id)
    text = orjson.dumps(shown["envelope"], option=orjson.OPT_SORT_KEYS).decode()
    assert text == key_lists.sign(listed, ROOT)
    (key,) = (await client.get("/v1/keys")).json()["items"]
    assert (key["key_id"], key["state"]) == (market.keys.key_id, "active")


async def test_a_repetition_is_answered_and_a_rollback_refused(market, client):
    listed = first_list(market)
    for _ in range(2):
        assert (await publish(client, listed, key="one")).status_code == 200
    answer = await publish(client, listed)
    assert (answer.status_code, answer.json()["code"]) == (409, "key_list_not_newer")


@pytest.mark.parametrize(
    ("root", "token", "status", "code"),
    [
        (NEXT, "operator", 422, "key_list_signature_invalid"),
        (ROOT, "seller", 403, "role_not_allowed"),
        (ROOT, "auditor", 403, "role_not_allowed"),
    ],
)
async def test_only_the_root_signs_and_only_operators_publish(market, client, root, token, status, code):
    answer = await publish(client, first_list(market), root, token)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert market.signing_keys.published is None


OTHER_KIND = {"payload": "", "payloadType": "application/vnd.other+json", "signatures": [{"sig": "cw=="}]}


@pytest.mark.parametrize(
    ("code", "envelope"),
    [
        ("key_list_invalid", {}),
        ("key_list_invalid", {"payload": 1}),
        ("key_list_invalid", {"payload": "", "x": 1.5}),
        ("key_list_invalid", {"payloadType": "x"}),
        ("payload_type_wrong", OTHER_KIND),
    ],
)
async def test_what_is_no_list_is_refused(market, client, code, envelope):
    answer = await client.as_("operator").post("/v1/ops/key-lists", {"envelope": envelope})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def bought(market, client):
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


async def verified(client, armoured):
    return (await client.post("/v1/licences/verify", {"licence": armoured}, key=None)).json()


async def test_old_licences_verify_after_a_rotation(market, client):
    licence = await bought(market, client)
    listed = key_lists.add(
        first_list(market), register(NEXT.public_key, market.clock().replace(microsecond=0))
    )
    listed = key_lists.activate(listed, NEXT.key_id)
    listed = key_lists.retire(listed, market.keys.key_id)
    await publish(client, listed)
    report = await verified(client, licence["armoured"])
    assert (report["valid"], report["key"]["state"]) == (True, "retired")


async def test_after_a_compromise_only_what_was_on_record_before_holds(market, client):
    licence = await bought(market, client)
    since = market.clock().replace(microsecond=0) + timedelta(hours=1)
    await publish(client, key_lists.compromise(first_list(market), market.keys.key_id, since))
    report = await verified(client, licence["armoured"])
    assert (report["valid"], report["key"]["state"]) == (True, "compromised_later")
    assert report["key"]["recorded_at"] is not None
    # The thief signs another text under an id that is on record, dated before the theft.
    payload = licence["envelope"]["payload"]

    stolen = licences.parse(b64decode(payload))
    (forged,) = sign_all(market.keys, licences.PAYLOAD_TYPE, [licences.build(replace(stolen, quantity=999))])
    report = await verified(client, armour(forged.dumps()))
    assert report["signature"]["ok"] is True, "it is the platform's own key"
    assert (report["valid"], report["key"]["state"], report["key"]["recorded_at"]) == (
        False,
        "compromised",
        None,
    )


async def test_after_an_earlier_compromise_nothing_holds(market, client):
    licence = await bought(market, client)
    since = market.clock().replace(microsecond=0) - timedelta(hours=1)
    await publish(client, key_lists.compromise(first_list(market), market.keys.key_id, since))
    report = await verified(client, licence["armoured"])
    assert (report["valid"], report["key"]["state"]) == (False, KeyState.COMPROMISED.value)


async def test_after_a_compromise_no_list_by_that_key_is_shown_again(market, client):
    """Nobody believes it; not even while nobody else signs."""
    await client.get("/v1/licences/revocations")
    market.signer.failure = DependencyError("signer_unavailable", "replaced", 1)
    since = market.clock().replace(microsecond=0)
    assert (await client.get("/v1/licences/revocations")).status_code == 200
    await publish(client, key_lists.compromise(first_list(market), market.keys.key_id, since))
    answer = await client.get("/v1/licences/revocations")
    assert (answer.status_code, answer.json()["code"]) == (503, "signer_unavailable")
