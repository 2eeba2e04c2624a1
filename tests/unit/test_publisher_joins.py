"""Publications that meet: callers that give up, repeat, or come with another manifest while one runs."""

import asyncio

import pytest

from actors.publisher import publication
from domain.errors import BusyError, ConflictError
from storage.market.commands import Write
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket
from tests.fakes.sellers import BUNDLE_NAME, bundle, drafted, manifest_text


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def seller(market):
    return Client(market.app(), "seller")


@pytest.fixture
def signer_gate(market):
    """Holds every seal until it is opened."""
    gate, seal = asyncio.Event(), market.signer.seal_release
    gate.reached = False

    async def held(request):
        gate.reached = True
        await gate.wait()
        return await seal(request)

    market.signer.seal_release = held
    return gate


def write(key):
    return Write("seller_1", key, key.encode())


async def started(gate):
    """Wait until a publication has reached the signer."""
    async with asyncio.timeout(5):
        while not gate.reached:
            await asyncio.sleep(0)


async def test_work_goes_on_when_its_caller_gives_up_and_a_repetition_joins_it(market, seller, signer_gate):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    publish = market.publisher.publish
    first = asyncio.create_task(publish(write("k"), draft["id"], manifest_text(data)))
    await started(signer_gate)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.create_task(publish(write("k"), draft["id"], manifest_text(data)))
    other = asyncio.create_task(publish(write("other"), draft["id"], manifest_text(data)))
    await asyncio.sleep(0)
    signer_gate.set()
    releases = await asyncio.gather(again, other)
    assert {release.state for release in releases} == {"published"}
    (versions,) = market.payloads.objects.values()
    assert len(versions) == 1, "the bundle was encrypted once for all callers"


async def test_another_manifest_does_not_join(market, seller, signer_gate):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    first = asyncio.create_task(market.publisher.publish(write("k"), draft["id"], manifest_text(data)))
    await started(signer_gate)
    with pytest.raises(ConflictError, match="publication_in_progress"):
        await market.publisher.publish(write("o"), draft["id"], manifest_text(data, description="Other."))
    signer_gate.set()
    assert (await first).state == "published"


async def test_publications_at_once_are_bounded(market, seller, signer_gate, monkeypatch):
    monkeypatch.setattr(publication, "RUNNING_MAX", 1)
    data = bundle()
    sku, draft = await drafted(market, seller, data)
    body = {"version": "1.3.0", "bundle_name": BUNDLE_NAME}
    second = (await seller.post(f"/v1/skus/{sku['id']}/releases", body)).json()
    first = asyncio.create_task(market.publisher.publish(write("k"), draft["id"], manifest_text(data)))
    await started(signer_gate)
    text = manifest_text(data, version="1.3.0")
    with pytest.raises(BusyError, match="publisher_busy"):
        await market.publisher.publish(write("o"), second["id"], text)
    signer_gate.set()
    await first
    market.uploads.put(market.catalogue.releases[second["id"]].upload_key, data)
    assert (await market.publisher.publish(write("o"), second["id"], text)).version == "1.3.0"


async def test_a_deadline_is_told_and_the_repetition_finds_it_done(market, seller, signer_gate):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    hasty = Client(market.app(deadline_s=0.05), "seller")
    path, body = f"/v1/releases/{draft['id']}/publish", manifest_text(data)
    content = b'{"manifest":' + body.encode() + b"}"
    late = await hasty.post(path, content=content, key="k")
    assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
    signer_gate.set()
    answer = await seller.post(path, content=content, key="k")
    assert (answer.status_code, answer.json()["state"]) == (200, "published")


async def test_closing_waits_for_what_runs_and_cuts_what_hangs(market, seller, signer_gate):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    task = asyncio.create_task(market.publisher.publish(write("k"), draft["id"], manifest_text(data)))
    await started(signer_gate)
    await market.publisher.close(0.01)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert market.catalogue.publications == {}


async def test_a_wrapped_key_of_another_release_does_not_open(market, seller):
    data = bundle()
    _, draft = await drafted(market, seller, data)
    await market.publisher.publish(write("k"), draft["id"], manifest_text(data))
    wrapped = market.catalogue.publications[draft["id"]].wrapped_file_key
    context = {"purpose": "release-file-key", "release_id": "rel_other"}
    with pytest.raises(Exception, match="unwrap_refused"):
        market.keys.unwrap(wrapped, context)
