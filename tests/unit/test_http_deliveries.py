"""Deliveries over HTTP: links are counted and on record, a joined file is made once, no stranger gets any."""

import asyncio
from datetime import timedelta

import pytest

from actors.deliveries import joining
from actors.deliveries.joining import KEPT_S, RUNNING_MAX
from actors.deliveries.upkeep import StorageUpkeep
from domain.errors import DependencyError
from storage.age.recipients import recipient_text
from storage.market.deliveries import LINKS_MAX, WINDOW_S
from tests.fakes.http_client import Client, pay
from tests.fakes.ingress import RECIPIENT, FakeMarket


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def buyer(market):
    return Client(market.app(), "buyer")


async def bought(market, buyer, name="logline"):
    """Buy; returns the order's id and its one delivery."""
    sku = market.list_published(name)
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    order_id = (await buyer.post("/v1/orders", body)).json()["id"]
    await pay(market, buyer.as_(None), order_id)
    (delivery,) = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    return order_id, delivery


def told(answer, status, code):
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text


async def test_each_listing_is_a_link_on_record(market, buyer):
    order_id, delivery = await bought(market, buyer)
    market.clock.now += timedelta(minutes=5)
    await buyer.get(f"/v1/orders/{order_id}/deliveries")
    for reader in (buyer, buyer.as_("operator")):
        answer = await reader.get(f"/v1/deliveries/{delivery['id']}/links")
        newest, first = answer.json()["items"]
        assert (newest["issued_to"], newest["order_id"], newest["kind"]) == ("buyer_ada", order_id, "payload")
        assert newest["issued_at"] > first["issued_at"] == "2026-11-24T12:00:00Z"
        assert first["expires_at"] == delivery["payload"]["expires_at"]
        assert "url" not in answer.text
        assert answer.headers["cache-control"] == "no-store"


async def test_links_are_limited_and_the_answer_says_until_when(market, buyer):
    order_id, _ = await bought(market, buyer)
    path = f"/v1/orders/{order_id}/deliveries"
    for _ in range(LINKS_MAX["payload"] - 1):
        assert (await buyer.get(path)).status_code == 200
    before = market.writes()
    refused = await buyer.get(path)
    told(refused, 429, "delivery_links_limited")
    assert 0 < int(refused.headers["retry-after"]) <= WINDOW_S
    assert market.writes() == before
    market.clock.now += timedelta(seconds=WINDOW_S)
    assert (await buyer.get(path)).status_code == 200


async def test_the_joined_file_is_header_and_payload_and_is_made_once(market, buyer):
    _, delivery = await bought(market, buyer)
    path = f"/v1/deliveries/{delivery['id']}/joined"
    first = await buyer.post(path, {}, key="once")
    assert first.status_code == 200, first.text
    ((whole,),) = market.uploads.objects.values()
    row = market.store.deliveries[delivery["id"]]
    assert whole == row.header + b"payload of logline"
    assert first.json()["bytes"] == len(whole)
    assert first.json()["file_name"] == "logline-1.0.0.tar.gz.age"
    assert f"/{delivery['id']}.age?versionId=1" in first.json()["url"]
    again = await buyer.post(path, {}, key="once")
    assert again.headers["idempotent-replayed"] == "true"
    assert (await buyer.post(path, {})).status_code == 200
    assert market.deliveries.made[delivery["id"]] == 1
    assert [one.kind for one in market.deliveries.issued].count("joined") == 3


async def test_many_who_ask_at_once_share_one_join(market, buyer):
    _, delivery = await bought(market, buyer)
    path = f"/v1/deliveries/{delivery['id']}/joined"
    answers = await asyncio.gather(*(buyer.post(path, {}) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert market.deliveries.made[delivery["id"]] == 1


async def test_a_join_that_takes_long_goes_on_and_is_found_done(market, buyer, monkeypatch):
    _, delivery = await bought(market, buyer)
    path = f"/v1/deliveries/{delivery['id']}/joined"
    released = asyncio.Event()
    at_once = market.uploads.call

    async def slowly(work):
        await released.wait()
        return await at_once(work)

    monkeypatch.setattr(joining, "WAIT_S", 0.01)
    monkeypatch.setattr(market.uploads, "call", slowly)
    waiting = await buyer.post(path, {})
    told(waiting, 503, "delivery_joining")
    assert waiting.headers["retry-after"] == "3"
    assert [one.kind for one in market.deliveries.issued].count("joined") == 0
    released.set()
    await asyncio.sleep(0.05)
    assert (await buyer.post(path, {})).status_code == 200
    assert market.deliveries.made[delivery["id"]] == 1


async def test_joins_at_once_are_bounded(market, buyer, monkeypatch):
    deliveries = [(await bought(market, buyer, name))[1] for name in ("logline", "linkboard", "tidycsv")]
    never = asyncio.Event()
    monkeypatch.setattr(joining, "WAIT_S", 0.01)
    monkeypatch.setattr(market.uploads, "call", lambda _work: never.wait())
    assert len(deliveries) > RUNNING_MAX
    for delivery in deliveries[:RUNNING_MAX]:
        told(await buyer.post(f"/v1/deliveries/{delivery['id']}/joined", {}), 503, "delivery_joining")
    told(await buyer.post(f"/v1/deliveries/{deliveries[-1]['id']}/joined", {}), 503, "joiner_busy")
    await market.joiner.close(0.01)


async def test_a_join_that_failed_is_tried_again(market, buyer, monkeypatch):
    _, delivery = await bought(market, buyer)
    path = f"/v1/deliveries/{delivery['id']}/joined"
    with monkeypatch.context() as broken:

        async def down(_work):
            raise DependencyError("storage_unavailable", "down", 2)

        broken.setattr(market.uploads, "call", down)
        told(await buyer.post(path, {}), 503, "storage_unavailable")
    assert (await buyer.post(path, {})).status_code == 200


async def test_the_joined_file_goes_a_day_after_it_was_last_asked_for(market, buyer):
    _, delivery = await bought(market, buyer)
    path = f"/v1/deliveries/{delivery['id']}/joined"
    upkeep = StorageUpkeep(
        market.deliveries,
        market.releases,
        market.publications,
        market.uploads,
        market.payloads,
        market.clock,
    )
    await buyer.post(path, {})
    market.clock.now += timedelta(seconds=KEPT_S - 1)
    await buyer.post(path, {})
    market.clock.now += timedelta(seconds=KEPT_S - 1)
    assert await upkeep.once() == 0
    market.clock.now += timedelta(seconds=1)
    assert await upkeep.once() == 1
    assert market.uploads.objects == {}
    assert await upkeep.once() == 0
    assert (await buyer.post(path, {})).status_code == 200
    assert len(market.uploads.objects) == 1


async def test_a_join_that_dies_leaves_nothing_that_nobody_knows_of(market, buyer, monkeypatch):
    _, delivery = await bought(market, buyer)
    path = f"/v1/deliveries/{delivery['id']}/joined"
    with monkeypatch.context() as dying:

        async def dead(_joined):
            raise DependencyError("database_unavailable", "killed here", 2)

        dying.setattr(market.deliveries, "record_joined", dead)
        told(await buyer.post(path, {}), 503, "database_unavailable")
    assert (await buyer.post(path, {})).status_code == 200
    assert len(market.uploads.objects) == 2
    market.clock.now += timedelta(seconds=KEPT_S)
    parts = (market.deliveries, market.releases, market.publications, market.uploads, market.payloads)
    assert await StorageUpkeep(*parts, market.clock).once() == 2
    assert market.uploads.objects == {}


async def test_what_was_refunded_is_not_handed_out(market, buyer):
    order_id, delivery = await bought(market, buyer)
    answer = await buyer.as_("operator").post(f"/v1/orders/{order_id}/refunds", {"reason": "asked"})
    assert answer.status_code == 201, answer.text
    told(await buyer.post(f"/v1/deliveries/{delivery['id']}/joined", {}), 409, "licence_not_active")
    assert (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"] == []


@pytest.mark.parametrize("delivery_id", ["nonsense", "dlv_01jz3k5v8m2q9x7c4b6n0t1rwf"])
async def test_others_deliveries_do_not_exist(market, buyer, delivery_id):
    _, delivery = await bought(market, buyer)
    for stranger, of in ((buyer.as_("buyer2"), delivery["id"]), (buyer, delivery_id)):
        told(await stranger.post(f"/v1/deliveries/{of}/joined", {}), 404, "delivery_not_found")
        told(await stranger.get(f"/v1/deliveries/{of}/links"), 404, "delivery_not_found")
    told(await buyer.as_("seller").get(f"/v1/deliveries/{delivery['id']}/links"), 403, "role_not_allowed")
    assert (
        await buyer.as_("operator").post(f"/v1/deliveries/{delivery['id']}/joined", {})
    ).status_code == 403


async def test_a_browser_gets_what_opens_a_delivery(market, buyer):
    order_id, delivery = await bought(market, buyer)
    answer = await buyer.get(f"/v1/deliveries/{delivery['id']}/opening")
    opening = answer.json()
    assert opening["manifest"] == delivery["manifest"]
    assert opening["header_base64"] == delivery["header_base64"]
    assert opening["payload"] == delivery["payload"]
    assert opening["encryption"] == {
        "format": "age-encryption.org/v1",
        "nonce_bytes": 16,
        "chunk_bytes": 65_536,
        "tag_bytes": 16,
        "chunks": 1,
    }
    assert answer.headers["cache-control"] == "no-store"
    assert [one.kind for one in market.deliveries.issued] == ["payload", "payload"]
    told(await buyer.as_("buyer2").get(f"/v1/deliveries/{delivery['id']}/opening"), 404, "delivery_not_found")
    await buyer.as_("operator").post(f"/v1/orders/{order_id}/refunds", {"reason": "asked"})
    told(await buyer.get(f"/v1/deliveries/{delivery['id']}/opening"), 409, "licence_not_active")


async def test_a_yank_during_a_purchase_does_not_keep_it(market, buyer):
    """What was ordered is what is delivered; only the next order finds it off sale."""
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    order_id = (await buyer.post("/v1/orders", body)).json()["id"]
    path = f"/v1/releases/{sku.latest_release.release_id}/yank"
    assert (await buyer.as_("operator").post(path, {"reason": "Eats logs."})).is_success
    await pay(market, buyer.as_(None), order_id)
    (delivery,) = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    assert delivery["release_id"] == sku.latest_release.release_id
    told(await buyer.post("/v1/orders", body), 409, "sku_unpublished")


@pytest.mark.parametrize(
    ("recipient", "code"),
    [
        ("age1yubikey1q2w7u3vpya839jxxuq8g0sedh3d740d4xvn639sqhr95ejj8vu3hyfumptt", "recipient_invalid"),
        ("age1pq1" + "q" * 100, "recipient_invalid"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW", "recipient_invalid"),
        (RECIPIENT.upper(), "recipient_invalid"),
        (recipient_text(bytes(32)), "recipient_unsafe"),
        (recipient_text(b"\x01" + bytes(31)), "recipient_unsafe"),
        (recipient_text(b"\xee" + b"\xff" * 30 + b"\x7f"), "recipient_unsafe"),
    ],
    ids=["plugin", "hybrid", "ssh", "upper case", "zero", "low order", "not canonical"],
)
async def test_a_recipient_that_is_no_sound_x25519_key_is_refused(market, buyer, recipient, code):
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": recipient},
    }
    before = market.writes()
    told(await buyer.post("/v1/orders", body), 422, code)
    assert market.writes() == before
