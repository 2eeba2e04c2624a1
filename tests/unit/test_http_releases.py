"""Releases over HTTP: uploads in parts, channels, the order of versions, yanks, and revoked keys."""

import asyncio
from datetime import timedelta

import pytest

from actors import periodic
from actors.deliveries.upkeep import ORPHANS_KEPT_S, UPLOADS_KEPT_S, StorageUpkeep
from domain import releases
from domain.errors import DependencyError
from domain.releases import PART_BYTES
from tests.fakes.http_client import Client
from tests.fakes.ingress import RECIPIENT, FakeMarket
from tests.fakes.sellers import PUBLIC_KEY, SELLER_KEYS, bundle, drafted, manifest


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def seller(market):
    return Client(market.app(), "seller")


def upkeep_of(market):
    return StorageUpkeep(
        market.deliveries,
        market.releases,
        market.publications,
        market.uploads,
        market.payloads,
        market.clock,
    )


def told(answer, status, code):
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text


async def refuse(market, answer_of, status, code):
    before = market.writes()
    told(await answer_of, status, code)
    assert market.writes() == before


async def published(market, seller, sku_id, version, channel="stable", data=None):
    """Draft, upload and publish one version; returns the answer."""
    data = data or bundle(version.encode())
    name = f"logline-{version}.tar.gz"
    body = {"version": version, "bundle_name": name, "channel": channel}
    draft = await seller.post(f"/v1/skus/{sku_id}/releases", body)
    assert draft.status_code == 201, draft.text
    market.uploads.put(market.catalogue.releases[draft.json()["id"]].upload_key, data)
    signed = manifest(data, version=version, bundle_name=name, channel=channel)
    return await seller.post(f"/v1/releases/{draft.json()['id']}/publish", {"manifest": signed})


@pytest.fixture
async def sku(market, seller):
    """A SKU with 1.2.0 on stable."""
    listed, draft = await drafted(market, seller, data := bundle())
    answer = await seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": manifest(data)})
    assert answer.status_code == 200
    return listed["id"], draft["id"]


# -- channels --------------------------------------------------------------------------------------


async def test_buyers_get_the_newest_of_stable_and_see_the_other_channels(market, seller, sku):
    sku_id, _ = sku
    market.clock.advance(1)
    beta = (await published(market, seller, sku_id, "2.0.0-beta.1", "beta")).json()
    assert beta["channel"] == "beta"
    shown = (await seller.as_(None).get(f"/v1/skus/{sku_id}")).json()
    assert shown["latest_release"]["version"] == "1.2.0"
    heads = (await seller.as_(None).get(f"/v1/skus/{sku_id}/channels")).json()["items"]
    assert [(one["channel"], one["version"]) for one in heads] == [
        ("stable", "1.2.0"),
        ("beta", "2.0.0-beta.1"),
    ]
    assert heads[1]["release_id"] == beta["id"]
    body = {
        "lines": [{"sku_id": sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    order = (await seller.as_("buyer").post("/v1/orders", body)).json()
    assert order["lines"][0]["version"] == "1.2.0"
    body["lines"][0]["channel"] = "beta"
    order = (await seller.as_("buyer").post("/v1/orders", body)).json()
    assert order["lines"][0]["version"] == "2.0.0-beta.1"
    body["lines"][0]["channel"] = "nightly"
    told(await seller.as_("buyer").post("/v1/orders", body), 409, "sku_unpublished")
    body["lines"][0]["channel"] = "weekly"
    told(await seller.as_("buyer").post("/v1/orders", body), 422, "channel_unknown")


async def test_within_a_channel_versions_only_rise(market, seller, sku):
    sku_id, release_id = sku
    market.clock.advance(1)
    for version in ("1.1.9", "1.2.0-rc.1"):
        told(await published(market, seller, sku_id, version), 409, "version_not_newer")
    # Another channel has an order of its own.
    assert (await published(market, seller, sku_id, "1.0.0", "beta")).status_code == 200
    # A yanked version still counts.
    await seller.post(f"/v1/releases/{release_id}/yank", {"reason": "broken"})
    told(await published(market, seller, sku_id, "1.1.8"), 409, "version_not_newer")
    assert (await published(market, seller, sku_id, "1.2.1")).status_code == 200


async def test_the_signed_channel_is_the_drafts(market, seller, sku):
    sku_id, _ = sku
    body = {"version": "1.3.0", "bundle_name": "logline-1.3.0.tar.gz", "channel": "beta"}
    draft = (await seller.post(f"/v1/skus/{sku_id}/releases", body)).json()
    data = bundle(b"1.3")
    market.uploads.put(market.catalogue.releases[draft["id"]].upload_key, data)
    signed = manifest(data, version="1.3.0", bundle_name="logline-1.3.0.tar.gz")
    request = seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": signed})
    await refuse(market, request, 422, "manifest_mismatch")


async def test_an_unknown_channel_is_refused(market, seller, sku):
    body = {"version": "1.3.0", "bundle_name": "x.tar.gz", "channel": "weekly"}
    await refuse(market, seller.post(f"/v1/skus/{sku[0]}/releases", body), 422, "channel_unknown")
    for name in ("none", "x" * 200):
        await refuse(market, seller.get(f"/v1/skus/{name}/channels"), 404, "sku_not_found")


# -- yanks -----------------------------------------------------------------------------------------


async def test_a_yanked_release_is_not_sold_and_is_still_shown_with_its_reason(market, seller, sku):
    sku_id, release_id = sku
    market.clock.advance(1)
    await published(market, seller, sku_id, "1.3.0")
    newest = market.catalogue.skus[sku_id].latest_release.release_id
    path = f"/v1/releases/{newest}/yank"
    answer = await seller.post(path, {"reason": "Eats logs."}, key="k")
    assert answer.status_code == 200
    assert answer.json()["state"] == "yanked"
    assert answer.json()["yanked"] == {"at": "2026-11-24T12:00:01Z", "reason": "Eats logs."}
    # The release before it is on sale again.
    shown = (await seller.as_(None).get(f"/v1/skus/{sku_id}")).json()
    assert shown["latest_release"]["id"] == release_id
    assert (await seller.as_(None).get(f"/v1/releases/{newest}")).json()["yanked"]["reason"] == "Eats logs."
    # Again, under the same key and under another, by anyone who may: nothing changes.
    again = await seller.post(path, {"reason": "Eats logs."}, key="k")
    assert (again.json(), again.headers["idempotent-replayed"]) == (answer.json(), "true")
    told(await seller.post(path, {"reason": "Another."}, key="k"), 422, "idempotency_key_reused")
    other = await seller.as_("operator").post(path, {"reason": "Another reason."})
    assert other.json()["yanked"]["reason"] == "Eats logs."


async def test_with_its_only_release_yanked_a_sku_is_off_sale(market, seller, sku):
    sku_id, release_id = sku
    assert (await seller.as_("operator").post(f"/v1/releases/{release_id}/yank", {"reason": "x"})).is_success
    body = {
        "lines": [{"sku_id": sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    await refuse(market, seller.as_("buyer").post("/v1/orders", body), 409, "sku_unpublished")
    assert (await seller.as_(None).get("/v1/skus")).json()["items"] == []


async def test_who_may_yank_what(market, seller, sku):
    _, release_id = sku
    path, reason = f"/v1/releases/{release_id}/yank", {"reason": "x"}
    await refuse(market, seller.as_("seller2").post(path, reason), 404, "release_not_found")
    await refuse(market, seller.as_("buyer").post(path, reason), 403, "role_not_allowed")
    await refuse(market, seller.post("/v1/releases/nonsense/yank", reason), 404, "release_not_found")
    for wrong in ({}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "force": True}):
        await refuse(market, seller.post(path, wrong), 422, "body_invalid")
    body = {"version": "9.0.0", "bundle_name": "x.tar.gz"}
    draft = (await seller.post(f"/v1/skus/{sku[0]}/releases", body)).json()
    path = f"/v1/releases/{draft['id']}/yank"
    await refuse(market, seller.post(path, reason), 409, "release_not_published")


# -- sellers' keys -----------------------------------------------------------------------------------


async def test_a_revoked_key_signs_nothing_more_and_what_it_signed_stays(market, seller, sku):
    sku_id, release_id = sku
    path = f"/v1/seller-keys/{SELLER_KEYS.key_id}/revoke"
    answer = await seller.post(path, {"state": "retired", "reason": "Rotated."}, key="k")
    assert answer.json()["state"] == "retired"
    market.clock.advance(1)
    told(await published(market, seller, sku_id, "1.3.0"), 422, "seller_key_revoked")
    assert (await seller.as_(None).get(f"/v1/releases/{release_id}")).json()["state"] == "published"
    (listed,) = (await seller.get("/v1/seller-keys")).json()["items"]
    assert (listed["state"], listed["reason"]) == ("retired", "Rotated.")
    assert (await seller.post(path, {"state": "retired", "reason": "Rotated."}, key="k")).headers[
        "idempotent-replayed"
    ] == "true"
    # Retired may turn out to be compromised, and nothing goes back.
    worse = await seller.post(path, {"state": "compromised", "reason": "Found in a repository."})
    assert (worse.json()["state"], worse.json()["reason"]) == ("compromised", "Found in a repository.")
    back = await seller.post(path, {"state": "retired", "reason": "Never mind."})
    assert back.json() == worse.json()
    await seller.post("/v1/seller-keys", {"public_key": PUBLIC_KEY})
    told(await published(market, seller, sku_id, "1.4.0"), 422, "seller_key_revoked")


async def test_only_ones_own_key_is_revoked(market, seller, sku):
    path, body = f"/v1/seller-keys/{SELLER_KEYS.key_id}/revoke", {"state": "retired", "reason": "x"}
    await refuse(market, seller.as_("seller2").post(path, body), 404, "seller_key_not_found")
    await refuse(market, seller.as_("operator").post(path, body), 403, "role_not_allowed")
    await refuse(market, seller.post("/v1/seller-keys/none/revoke", body), 404, "seller_key_not_found")
    await refuse(market, seller.post(path, {**body, "state": "active"}), 422, "body_invalid")
    assert (await seller.as_("seller2").get("/v1/seller-keys")).json()["items"] == []


# -- uploads in parts ---------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(releases, "PART_BYTES", 100)


async def begun(seller, draft, size, **more):
    return await seller.post(f"/v1/releases/{draft['id']}/upload", {"bundle_bytes": size, **more})


def put(market, draft, number, data):
    release = market.catalogue.releases[draft["id"]]
    upload = market.releases.begun[draft["id"]][0]
    return market.uploads.put_part(release.upload_key, upload.upload_id, number, data)


async def test_a_bundle_comes_in_parts_and_is_published(market, seller, small_parts):
    _, draft = await drafted(market, seller)
    data = bundle()
    state = (await begun(seller, draft, len(data))).json()
    sizes = [one["bytes"] for one in state["parts"]]
    assert (sum(sizes), set(sizes[:-1]), state["next_part"]) == (len(data), {100}, None)
    assert all(one["etag"] is None and "partNumber=" in one["url"] for one in state["parts"])
    sent = [{"number": 1, "etag": put(market, draft, 1, data[:100])}]
    # Asking again tells what has come.
    resumed = (await begun(seller, draft, len(data))).json()
    assert [one["etag"] for one in resumed["parts"]] == [sent[0]["etag"], *[None] * (len(sizes) - 1)]
    path = f"/v1/releases/{draft['id']}/upload/complete"
    told(await seller.post(path, {"parts": sent}), 409, "upload_incomplete")
    for number in range(2, len(sizes) + 1):
        part = data[100 * (number - 1) : 100 * number]
        sent.append({"number": number, "etag": f'"{put(market, draft, number, part)}"'})
    done = await seller.post(path, {"parts": sent}, key="done")
    assert done.json() == {"release_id": draft["id"], "bundle_version": "1"}
    again = await seller.post(path, {"parts": sent}, key="done")
    assert (again.json(), again.headers["idempotent-replayed"]) == (done.json(), "true")
    answer = await seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": manifest(data)})
    assert answer.status_code == 200, answer.text
    told(await begun(seller, draft, 10), 409, "release_already_published")


async def test_parts_that_are_not_what_was_sent_are_refused(market, seller, small_parts):
    _, draft = await drafted(market, seller)
    await begun(seller, draft, 250)
    etags = [put(market, draft, number, bytes(size)) for number, size in ((1, 100), (2, 100), (3, 50))]
    path = f"/v1/releases/{draft['id']}/upload/complete"
    parts = [{"number": number, "etag": etag} for number, etag in enumerate(etags, 1)]
    wrong = [
        parts[:2],
        [*parts[:2], {"number": 3, "etag": "0" * 32}],
        [parts[0], parts[2]],
    ]
    for one in wrong:
        await refuse(market, seller.post(path, {"parts": one}), 409, "upload_incomplete")
    put(market, draft, 2, bytes(99))  # of another length
    await refuse(market, seller.post(path, {"parts": parts}), 409, "upload_incomplete")
    put(market, draft, 2, bytes(100))
    put(market, draft, 4, b"more than was announced")
    await refuse(market, seller.post(path, {"parts": parts}), 409, "upload_incomplete")


async def test_an_upload_that_was_completed_by_a_process_that_died_is_taken_as_it_is(
    market, seller, small_parts, monkeypatch
):
    _, draft = await drafted(market, seller)
    data = bundle()
    await begun(seller, draft, len(data))
    numbers = range(1, len(releases.parts_of(len(data))) + 1)
    parts = [{"number": n, "etag": put(market, draft, n, data[100 * (n - 1) : 100 * n])} for n in numbers]
    path = f"/v1/releases/{draft['id']}/upload/complete"
    with monkeypatch.context() as dying:

        async def dead(*_):
            raise DependencyError("database_unavailable", "killed here", 1)

        dying.setattr(market.releases, "complete_upload", dead)
        told(await seller.post(path, {"parts": parts}), 503, "database_unavailable")
    done = await seller.post(path, {"parts": parts})
    assert done.json() == {"release_id": draft["id"], "bundle_version": "1"}
    answer = await seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": manifest(data)})
    assert answer.status_code == 200, answer.text


async def test_another_length_begins_anew(market, seller, small_parts):
    _, draft = await drafted(market, seller)
    await begun(seller, draft, 250)
    put(market, draft, 1, bytes(100))
    state = (await begun(seller, draft, 350)).json()
    assert [one["etag"] for one in state["parts"]] == [None] * 4
    assert len(market.uploads.parts) == 1


async def test_a_long_list_of_parts_comes_in_pages(market, seller, small_parts):
    _, draft = await drafted(market, seller)
    first = (await begun(seller, draft, 15_001)).json()
    assert (first["parts_total"], len(first["parts"]), first["next_part"]) == (151, 100, 101)
    last = (await begun(seller, draft, 15_001, first_part=101)).json()
    assert (last["parts"][-1]["number"], last["parts"][-1]["bytes"], last["next_part"]) == (151, 1, None)
    told(await begun(seller, draft, 15_001, first_part=152), 422, "upload_part_unknown")


async def test_a_wrong_upload_is_refused(market, seller):
    _, draft = await drafted(market, seller)
    for size in (0, -1, 8 * 2**30 + 1):
        await refuse(market, begun(seller, draft, size), 422, "bundle_size_invalid")
    await refuse(market, begun(seller.as_("seller2"), draft, 1), 404, "release_not_found")
    path = f"/v1/releases/{draft['id']}/upload/complete"
    parts = {"parts": [{"number": 1, "etag": "x"}]}
    await refuse(market, seller.post(path, parts), 409, "upload_missing")
    for wrong in ({"parts": []}, {"parts": [{"number": 0, "etag": "x"}]}, {}):
        await refuse(market, seller.post(path, wrong), 422, "body_invalid")


async def test_what_is_uploaded_after_completion_is_refused(market, seller, small_parts):
    _, draft = await drafted(market, seller)
    data = bundle()
    await begun(seller, draft, len(data))
    numbers = range(1, len(releases.parts_of(len(data))) + 1)
    parts = [{"number": n, "etag": put(market, draft, n, data[100 * (n - 1) : 100 * n])} for n in numbers]
    path = f"/v1/releases/{draft['id']}/upload/complete"
    assert (await seller.post(path, {"parts": parts})).is_success
    market.uploads.put(market.catalogue.releases[draft["id"]].upload_key, bundle(b"another"))
    request = seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": manifest(data)})
    await refuse(market, request, 409, "bundle_changed")


async def test_an_abandoned_upload_is_dropped_after_a_week(market, seller, small_parts):
    _, draft = await drafted(market, seller)
    await begun(seller, draft, 250)
    upkeep = upkeep_of(market)
    market.clock.now += timedelta(seconds=UPLOADS_KEPT_S)
    assert await upkeep.once() == 0
    market.clock.now += timedelta(seconds=1)
    assert await upkeep.once() == 1
    assert (market.uploads.parts, market.releases.begun) == ({}, {})
    assert (await begun(seller, draft, 250)).is_success


async def test_what_a_dead_process_began_is_dropped_after_longer_than_anything_on_record(market):
    upkeep = upkeep_of(market)
    market.payloads.begin_upload("rel/a.age-payload")
    market.uploads.begin_upload("sku/a.tar")
    market.clock.now += timedelta(seconds=ORPHANS_KEPT_S)
    assert await upkeep.once() == 0
    market.clock.now += timedelta(seconds=1)
    assert await upkeep.once() == 2
    assert (market.payloads.parts, market.uploads.parts) == ({}, {})


async def test_upkeep_goes_on_after_a_failure(market, monkeypatch, caplog):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)
        await real_sleep(0)

    real_sleep = asyncio.sleep
    monkeypatch.setattr(periodic.asyncio, "sleep", sleep)
    failures = [DependencyError("database_unavailable", "down"), RuntimeError("a bug")]

    async def expired(_limit):
        if failures:
            raise failures.pop(0)
        return []

    monkeypatch.setattr(market.deliveries, "expired_joined", expired)
    upkeep = upkeep_of(market)
    upkeep.start()
    while len(waited) < 4:
        await real_sleep(0)
    assert upkeep.alive
    await upkeep.stop()
    assert not upkeep.alive
    assert failures == []
    assert "storage upkeep" in caplog.text


def test_the_largest_bundle_fits_its_parts():
    sizes = releases.parts_of(8 * 2**30)
    assert (len(sizes), set(sizes)) == (512, {PART_BYTES})
    assert len(sizes) <= releases.PARTS_MAX
