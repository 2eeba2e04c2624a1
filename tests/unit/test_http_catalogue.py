"""Catalogue over HTTP: listing, sellers' keys, drafts and publication, with every refusal."""

import base64
import hashlib
import io

import orjson
import pytest

from domain import statements
from domain.dsse import Envelope, sign_all
from domain.errors import DependencyError
from domain.licence_policies import OfferedPolicy
from domain.proposals.documents import LicenceModel
from storage.age.files import decrypt
from storage.age.header import wrap_file_key
from storage.age.recipients import public_half
from storage.signing import minisig
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import verify
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket
from tests.fakes.sellers import BUNDLE_NAME, NEW_SKU, PUBLIC_KEY, SELLER_KEYS, bundle, drafted, manifest


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def seller(market):
    return Client(market.app(), "seller")


async def refuse(market, answer_of, status, code):
    before = market.writes()
    answer = await answer_of
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert market.writes() == before
    return answer.json()


async def test_a_sku_is_listed_once_and_shown_when_it_is_on_sale(market, seller):
    first = await seller.post("/v1/skus", NEW_SKU, key="k")
    assert first.status_code == 201
    sku = first.json()
    assert sku["latest_release"] is None
    assert (sku["seller_id"], sku["prices"]) == ("seller_1", {"USD": 1999})
    again = await seller.post("/v1/skus", NEW_SKU, key="k")
    assert (again.json(), again.headers["idempotent-replayed"]) == (sku, "true")
    # Not on sale yet: its seller and operators see it, nobody else does.
    for token, status in (
        ("seller", 200),
        ("operator", 200),
        ("seller2", 404),
        ("buyer", 404),
        (None, 404),
        ("bad", 404),
    ):
        for name in (sku["id"], "logline"):
            assert (await seller.as_(token).get(f"/v1/skus/{name}")).status_code == status
    assert (await seller.get("/v1/skus")).json() == {"items": [], "next_cursor": None}


async def test_the_catalogue_is_public_and_pages(market, seller):
    for number in range(5):
        market.list_published(f"tool-{number}")
    market.list_sku("not-yet")
    anyone, seen, cursor = seller.as_(None), [], ""
    while cursor is not None:
        page = (await anyone.get(f"/v1/skus?limit=2&cursor={cursor}")).json()
        seen += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [f"tool-{number}" for number in (4, 3, 2, 1, 0)]
    answer = await anyone.get("/v1/skus?limit=1000")
    assert (answer.status_code, answer.json()["code"]) == (422, "query_invalid")
    answer = await anyone.get("/v1/skus?cursor=b3JkXzAx")
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")
    assert (await anyone.get("/v1/skus/" + "x" * 500)).status_code == 404


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "Log Line"}, "sku_name_invalid"),
        ({"name": "x" * 65}, "sku_name_invalid"),
        ({"title": ""}, "sku_text_too_long"),
        ({"description": "x" * 4001}, "sku_text_too_long"),
        ({"prices": {}}, "price_invalid"),
        ({"prices": {"USD": -1}}, "price_invalid"),
        ({"tax_category": "E Book"}, "tax_category_invalid"),
        ({"prices": {"USD": 10**8}}, "price_invalid"),
        ({"prices": {"usd": 1}}, "currency_unknown"),
        ({"prices": {"USD": 19.99}}, "body_invalid"),
        ({"prices": {"USD": "1999"}}, "body_invalid"),
        ({"name": None}, "body_invalid"),
        ({"free": True}, "body_invalid"),
    ],
    ids=str,
)
async def test_a_wrong_listing_is_refused(market, seller, change, code):
    await refuse(market, seller.post("/v1/skus", NEW_SKU | change), 422, code)


async def test_a_taken_name_is_refused(market, seller):
    await seller.post("/v1/skus", NEW_SKU)
    await refuse(market, seller.as_("seller2").post("/v1/skus", NEW_SKU), 409, "sku_name_taken")


async def test_a_sellers_key_is_registered(market, seller):
    answer = await seller.post("/v1/seller-keys", {"public_key": PUBLIC_KEY})
    assert answer.status_code == 201
    assert answer.json() == {"key_id": SELLER_KEYS.key_id, "seller_id": "seller_1", "state": "active"}
    await refuse(
        market,
        seller.as_("seller2").post("/v1/seller-keys", {"public_key": PUBLIC_KEY}),
        409,
        "seller_key_taken",
    )


@pytest.mark.parametrize(
    "key",
    [
        b"\x00" * 32,  # low order
        b"\x01" + b"\x00" * 31,  # the neutral element
        (2**255 - 19 + 1).to_bytes(32, "little"),  # not canonical
        b"\xff" * 32,
    ],
)
async def test_an_unsound_key_is_refused(market, seller, key):
    body = {"public_key": base64.b64encode(key).decode()}
    await refuse(market, seller.post("/v1/seller-keys", body), 422, "public_key_invalid")


@pytest.mark.parametrize("size", [0, 31, 33, 44])
async def test_a_key_of_another_kind_is_refused(market, seller, size):
    body = {"public_key": base64.b64encode(b"k" * size).decode()}
    await refuse(market, seller.post("/v1/seller-keys", body), 422, "public_key_type_wrong")


@pytest.mark.parametrize("text", ["not base64", PUBLIC_KEY[:-1], PUBLIC_KEY[:-2] + "F="])
async def test_a_key_that_is_no_canonical_base64_is_refused(market, seller, text):
    await refuse(market, seller.post("/v1/seller-keys", {"public_key": text}), 422, "public_key_invalid")


async def test_a_draft_says_where_to_put_the_bundle_and_a_repetition_says_it_afresh(market, seller):
    sku, draft = await drafted(market, seller)
    assert draft["state"] == "draft"
    assert draft["upload"]["method"] == "PUT"
    assert draft["upload"]["url"].endswith(f"{sku['id']}/{draft['id']}/{BUNDLE_NAME}")
    path, body = f"/v1/skus/{sku['id']}/releases", {"version": "1.3.0", "bundle_name": BUNDLE_NAME}
    first = (await seller.post(path, body, key="k")).json()
    market.clock.advance(7_200)
    again = await seller.post(path, body, key="k")
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["upload"]["expires_at"] > first["upload"]["expires_at"]
    assert {**again.json(), "upload": 0} == {**first, "upload": 0}
    assert "s3.test" not in repr(market.commands.bodies)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": "1.2"}, "version_invalid"),
        ({"version": "1.2.0+build"}, "version_invalid"),
        ({"version": "v1.2.0"}, "version_invalid"),
        ({"bundle_name": "../logline"}, "body_invalid"),
        ({"bundle_name": ".hidden"}, "body_invalid"),
        ({"bundle_name": "x" * 101}, "body_invalid"),
        ({"bundle_name": "name\n"}, "body_invalid"),
    ],
    ids=str,
)
async def test_a_wrong_draft_is_refused(market, seller, change, code):
    sku = (await seller.post("/v1/skus", NEW_SKU)).json()
    body = {"version": "1.2.0", "bundle_name": BUNDLE_NAME} | change
    await refuse(market, seller.post(f"/v1/skus/{sku['id']}/releases", body), 422, code)


async def test_only_the_seller_drafts_and_each_version_once(market, seller):
    sku, _ = await drafted(market, seller)
    path, body = f"/v1/skus/{sku['id']}/releases", {"version": "1.2.0", "bundle_name": BUNDLE_NAME}
    await refuse(market, seller.post(path, body), 409, "release_version_taken")
    await refuse(market, seller.as_("seller2").post(path, body), 404, "sku_not_found")
    await refuse(market, seller.post("/v1/skus/sku_x/releases", body), 404, "sku_not_found")


async def test_a_release_is_published_encrypted_once_and_checkable(market, seller):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    path = f"/v1/releases/{draft['id']}/publish"
    first = await seller.post(path, {"manifest": manifest(data)}, key="k")
    release = first.json()
    assert first.status_code == 200, release
    assert release["state"] == "published"
    assert release["bundle_sha256"] == hashlib.sha256(data).hexdigest()
    assert release["bundle_bytes"] == len(data)
    # The payload opens under the wrapped file key, with a header for any recipient.
    publication = market.catalogue.publications[draft["id"]]
    (payload,) = market.payloads.objects[publication.payload_key]
    assert hashlib.sha256(payload).hexdigest() == release["payload_sha256"]
    context = {"purpose": "release-file-key", "release_id": draft["id"]}
    file_key = market.keys.unwrap(publication.wrapped_file_key, context)
    opened = io.BytesIO()
    decrypt(io.BytesIO(wrap_file_key(file_key, public_half(b"i" * 32)) + payload), b"i" * 32, opened)
    assert opened.getvalue() == data
    # The platform vouches for the same statement and for the bundle.
    countersigned = Envelope.parse(orjson.dumps(release["countersignature"]))
    assert countersigned.payload == Envelope.parse(orjson.dumps(manifest(data))).payload
    comment = minisig.check(release["minisig"], market.keys.public_key, minisig.file_digest(io.BytesIO(data)))
    assert "version:1.2.0" in comment
    assert publication.licence_days == 365
    # On sale now, and the signatures are there for anyone.
    shown = (await seller.as_(None).get("/v1/skus/logline")).json()
    assert shown["latest_release"]["id"] == draft["id"]
    assert (await seller.as_(None).get(f"/v1/releases/{draft['id']}")).json() == release
    # A repetition does nothing, under the same key or another one.
    for key in ("k", "other"):
        again = await seller.post(path, {"manifest": manifest(data)}, key=key)
        assert (again.status_code, again.json()) == (200, release)
    assert len(market.payloads.objects[publication.payload_key]) == 1
    changed = {"manifest": manifest(data, description="Another text.")}
    await refuse(market, seller.post(path, changed), 409, "release_already_published")
    await refuse(market, seller.post(path, changed, key="k"), 422, "idempotency_key_reused")


async def test_a_new_release_is_what_buyers_are_quoted(market, seller):
    market.list_published("other")
    data = bundle()
    sku, draft = await drafted(market, seller, data)
    body = {
        "lines": [{"sku_id": sku["id"], "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
    }
    await refuse(market, seller.as_("buyer").post("/v1/orders", body), 409, "sku_unpublished")
    await seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": manifest(data)})
    order = (await seller.as_("buyer").post("/v1/orders", body)).json()
    assert (order["lines"][0]["release_id"], order["lines"][0]["version"]) == (draft["id"], "1.2.0")


@pytest.mark.parametrize(
    ("sign", "code"),
    [
        (
            lambda data: manifest(data, keys=DevelopmentKeyFile(b"x" * 32, b"w" * 32)),
            "manifest_signature_invalid",
        ),
        (lambda data: manifest(data, payload_type="application/json"), "payload_type_wrong"),
        (
            lambda data: manifest(data) | {"payload": manifest(bundle(b"x"))["payload"]},
            "manifest_signature_invalid",
        ),
        (lambda data: manifest(data) | {"signatures": []}, "manifest_invalid"),
        (
            lambda data: manifest(data) | {"signatures": manifest(data)["signatures"] * 2},
            "manifest_signature_invalid",
        ),
        (lambda data: manifest(data) | {"extra": 1}, "manifest_invalid"),
        (lambda _: {}, "manifest_invalid"),
        (lambda _: manifest(bundle(b"other")), "manifest_mismatch"),
        (lambda data: manifest(data, sku="another"), "manifest_mismatch"),
        (lambda data: manifest(data, version="1.2.1"), "manifest_mismatch"),
        (lambda data: manifest(data, bundle_name="other.tar.gz"), "manifest_mismatch"),
        (lambda data: manifest(data, size=len(data) + 1), "manifest_mismatch"),
    ],
)
async def test_a_wrong_manifest_publishes_nothing(market, seller, sign, code):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    request = seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": sign(data)})
    await refuse(market, request, 422, code)


async def test_another_signed_statement_is_no_release_manifest(market, seller):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    payload = statements.Statement((statements.Subject("a", "0" * 64),), "urn:other", {}).build()
    (envelope,) = sign_all(SELLER_KEYS, statements.PAYLOAD_TYPE, [payload])
    request = seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": orjson.loads(envelope.dumps())})
    problem = await refuse(market, request, 422, "manifest_invalid")
    assert "predicate_type_wrong" in problem["detail"]


async def test_a_missing_or_unsafe_bundle_publishes_nothing(market, seller):
    _, draft = await drafted(market, seller)
    path, data = f"/v1/releases/{draft['id']}/publish", bundle(name="../evil")
    await refuse(market, seller.post(path, {"manifest": manifest(data)}), 409, "bundle_not_uploaded")
    market.uploads.put(market.catalogue.releases[draft["id"]].upload_key, data)
    await refuse(market, seller.post(path, {"manifest": manifest(data)}), 422, "bundle_unsafe")
    # A second upload mends it: publication takes the newest version.
    mended = bundle()
    market.uploads.put(market.catalogue.releases[draft["id"]].upload_key, mended)
    assert (await seller.post(path, {"manifest": manifest(mended)})).status_code == 200


async def test_anothers_release_does_not_exist(market, seller):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    for client, release_id in (
        (seller.as_("seller2"), draft["id"]),
        (seller, "rel_" + "0" * 26),
        (seller, "x"),
    ):
        request = client.post(f"/v1/releases/{release_id}/publish", {"manifest": manifest(data)})
        await refuse(market, request, 404, "release_not_found")
    # A draft is not shown to anyone.
    answer = await seller.get(f"/v1/releases/{draft['id']}")
    assert (answer.status_code, answer.json()["code"]) == (404, "release_not_found")


async def test_a_signer_that_is_away_publishes_nothing_and_a_repetition_does(market, seller):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    path = f"/v1/releases/{draft['id']}/publish"
    market.signer.failure = DependencyError("signer_unavailable", "replaced", 1)
    answer = await seller.post(path, {"manifest": manifest(data)}, key="k")
    assert (answer.status_code, answer.json()["code"]) == (503, "signer_unavailable")
    assert market.catalogue.publications == {}
    market.signer.failure = None
    assert (await seller.post(path, {"manifest": manifest(data)}, key="k")).status_code == 200


def test_the_sellers_signature_in_the_example_is_verified_by_libsodium():
    envelope = Envelope.parse(orjson.dumps(manifest(bundle())))
    assert verify(
        SELLER_KEYS.public_key,
        b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(envelope.payload), envelope.payload),
        envelope.signatures[0].sig,
    )


@pytest.mark.parametrize("policy", [OfferedPolicy(activation="seats"), OfferedPolicy(days=401)], ids=str)
async def test_only_licences_that_the_operators_allow_are_published(market, seller, policy):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    path = f"/v1/releases/{draft['id']}/publish"
    market.catalogue.model = LicenceModel(("perpetual", "timed"), 400, 0)
    body = {"manifest": manifest(data, licence_policy=policy)}
    await refuse(market, seller.post(path, body), 422, "licence_policy_not_allowed")
    market.catalogue.model = LicenceModel(("seats", "timed"), 401, 0)
    assert (await seller.post(path, body)).status_code == 200
    assert market.catalogue.publications[draft["id"]].licence_activation == policy.activation
    # What is published stays so, whatever is allowed later.
    market.catalogue.model = LicenceModel(("perpetual",), 1, 0)
    assert (await seller.post(path, body)).status_code == 200
