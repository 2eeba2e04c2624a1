"""Publications that are interrupted or repeated elsewhere: encrypted once, and nothing is left behind."""

import asyncio
import errno
import gzip
import json
from datetime import timedelta

import pytest

from actors.deliveries.upkeep import STRAYS_KEPT_S, StorageUpkeep
from actors.publisher import attempts, payloads, publication
from actors.publisher.attempts import LEASE_S
from domain.errors import BusyError, ConflictError, DependencyError, RejectedError
from domain.releases import SPENT_BUNDLE_KEPT_S
from storage.market.commands import Write
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket
from tests.fakes.sellers import SELLER_KEYS, bundle, drafted, manifest, manifest_text

DATA = bundle()
TEXT = manifest_text(DATA)


@pytest.fixture
def market(monkeypatch):
    monkeypatch.setattr(attempts, "LOOK_PAUSE_S", 0.01)
    return FakeMarket()


@pytest.fixture
def seller(market):
    return Client(market.app(), "seller")


@pytest.fixture
async def draft(market, seller):
    _, made = await drafted(market, seller, DATA)
    return made["id"]


@pytest.fixture
def other(market):
    """Another process with the same stores."""
    return market.make_publisher()


def write(key="k"):
    return Write("seller_1", key, b"request")


def upkeep(market):
    parts = (market.deliveries, market.releases, market.publications, market.uploads, market.payloads)
    return StorageUpkeep(*parts, market.clock)


def upload_key(market, release_id):
    return market.catalogue.releases[release_id].upload_key


@pytest.fixture
def encrypting(monkeypatch):
    """Counts encryptions; ``fails`` are raised by the next ones, once their payload is stored."""
    real, fails, keys = payloads.encrypt, [], []

    def encrypt(bucket, key, file, file_key):
        keys.append(key)
        made = real(bucket, key, file, file_key)
        if fails:
            raise fails.pop()
        return made

    monkeypatch.setattr(payloads, "encrypt", encrypt)
    encrypt.fails, encrypt.keys = fails, keys
    return encrypt


@pytest.fixture
def database_fails_once(market, monkeypatch):
    """The publishing commit fails, after the payload was sealed."""
    real = market.publications.publish

    async def publish(*_):
        monkeypatch.setattr(market.publications, "publish", real)
        raise DependencyError("database_unavailable", "down")

    monkeypatch.setattr(market.publications, "publish", publish)


async def test_another_process_waits_and_finds_it_done(market, other, draft, encrypting, monkeypatch):
    gate, seal = asyncio.Event(), market.signer.seal_release

    async def held(request):
        await gate.wait()
        return await seal(request)

    monkeypatch.setattr(market.signer, "seal_release", held)
    first = asyncio.create_task(market.publisher.publish(write(), draft, TEXT))
    while not market.publications.attempts:
        await asyncio.sleep(0)
    second = asyncio.create_task(other.publish(write("other"), draft, TEXT))
    await asyncio.sleep(0.05)
    assert not second.done()
    with pytest.raises(ConflictError, match="publication_in_progress"):
        await market.make_publisher().publish(write("x"), draft, manifest_text(DATA, description="Other."))
    gate.set()
    assert [one.state for one in await asyncio.gather(first, second)] == ["published"] * 2
    assert len(encrypting.keys) == 1


async def test_a_caller_is_told_when_another_process_takes_long(market, other, draft, monkeypatch):
    monkeypatch.setattr(attempts, "LOOKS_MAX", 3)

    async def never(_request):
        await asyncio.Event().wait()

    monkeypatch.setattr(market.signer, "seal_release", never)
    first = asyncio.create_task(market.publisher.publish(write(), draft, TEXT))
    while not market.publications.attempts:
        await asyncio.sleep(0)
    with pytest.raises(BusyError, match="publication_running") as busy:
        await other.publish(write(), draft, TEXT)
    assert busy.value.retry_after_s == attempts.RETRY_AFTER_S
    first.cancel()


async def test_what_was_sealed_before_the_commit_failed_is_taken_over(
    market, other, draft, encrypting, database_fails_once
):
    with pytest.raises(DependencyError):
        await market.publisher.publish(write(), draft, TEXT)
    release = await other.publish(write(), draft, TEXT)
    assert release.state == "published"
    assert market.catalogue.publications[draft].payload_key == encrypting.keys[0]
    assert len(encrypting.keys) == 1


async def test_what_a_dead_process_left_is_begun_anew_and_deleted_a_day_later(
    market, other, draft, encrypting, monkeypatch
):
    encrypting.fails.append(DependencyError("storage_unavailable", "killed here"))

    async def dead(_payload_key):
        raise DependencyError("database_unavailable", "killed here")

    monkeypatch.setattr(market.publications, "abandon", dead)
    with pytest.raises(DependencyError, match="storage_unavailable"):
        await market.publisher.publish(write(), draft, TEXT)
    monkeypatch.setattr(attempts, "LOOKS_MAX", 1)
    with pytest.raises(BusyError, match="publication_running"):
        await other.publish(write(), draft, TEXT)
    market.clock.advance(LEASE_S)
    assert (await other.publish(write(), draft, TEXT)).state == "published"
    stray, kept = encrypting.keys
    assert set(market.payloads.objects) == {stray, kept}
    market.clock.now += timedelta(seconds=STRAYS_KEPT_S)
    assert await upkeep(market).once() == 1  # the bundle as it was uploaded
    market.clock.now += timedelta(seconds=1)
    assert await upkeep(market).once() == 1
    assert set(market.payloads.objects) == {kept}
    assert market.publications.attempts == {}


async def test_a_failure_gives_the_release_free_at_once(market, other, draft, encrypting):
    encrypting.fails.append(DependencyError("storage_unavailable", "down"))
    with pytest.raises(DependencyError):
        await market.publisher.publish(write(), draft, TEXT)
    assert (await other.publish(write(), draft, TEXT)).state == "published"


async def test_a_locked_payload_does_not_keep_others(market, draft, encrypting, monkeypatch, caplog):
    encrypting.fails.append(DependencyError("storage_unavailable", "down"))
    with pytest.raises(DependencyError):
        await market.publisher.publish(write(), draft, TEXT)
    erase = market.payloads.erase

    def locked(_key):
        raise DependencyError("storage_unavailable", "object locked")

    monkeypatch.setattr(market.payloads, "erase", locked)
    market.clock.now += timedelta(seconds=STRAYS_KEPT_S + LEASE_S + 1)
    assert await upkeep(market).once() == 0
    assert "perhaps it is locked" in caplog.text
    monkeypatch.setattr(market.payloads, "erase", erase)
    assert await upkeep(market).once() == 0  # not before another day
    market.clock.now += timedelta(seconds=STRAYS_KEPT_S + 1)
    assert await upkeep(market).once() == 1
    assert market.payloads.objects == {}


async def test_a_bundle_that_changes_after_its_check_is_not_published(market, other, draft, monkeypatch):
    """A disk that lies, or somebody with access to it: what is encrypted must be what was checked."""
    real = publication.check_archive

    def changed_behind(file, size, name):
        real(file, size, name)
        file.seek(size - 1)
        file.write(bytes([DATA[-1] ^ 1]))

    monkeypatch.setattr(publication, "check_archive", changed_behind)
    with pytest.raises(ConflictError, match="bundle_changed"):
        await market.publisher.publish(write(), draft, TEXT)
    assert market.catalogue.releases[draft].state == "draft"
    monkeypatch.setattr(publication, "check_archive", real)
    assert (await other.publish(write(), draft, TEXT)).state == "published"


async def test_without_the_signer_nothing_is_encrypted(market, draft, encrypting, monkeypatch):
    async def away(_request):
        raise DependencyError("signer_unavailable", "away", 2)

    monkeypatch.setattr(market.signer, "seal_release", away)
    with pytest.raises(DependencyError, match="signer_unavailable"):
        await market.publisher.publish(write(), draft, TEXT)
    assert (encrypting.keys, market.payloads.objects) == ([], {})


async def test_the_lease_is_extended_while_it_takes_long(market, draft, monkeypatch):
    monkeypatch.setattr(attempts, "LEASE_S", 0.04)
    extended, seal = [], market.signer.seal_release

    async def extend(payload_key, _lease_s):
        extended.append(payload_key)
        if len(extended) == 1:
            raise DependencyError("database_unavailable", "down")

    async def slow(request):
        while len(extended) < 3:
            await asyncio.sleep(0.01)
        return await seal(request)

    monkeypatch.setattr(market.publications, "extend", extend)
    monkeypatch.setattr(market.signer, "seal_release", slow)
    assert (await market.publisher.publish(write(), draft, TEXT)).state == "published"
    assert set(extended) == {market.catalogue.publications[draft].payload_key}


async def test_a_key_that_is_revoked_while_the_bundle_is_encrypted_publishes_nothing(
    market, draft, monkeypatch
):
    seal = market.signer.seal_release

    async def revoked_meanwhile(request):
        await market.releases.revoke_key(
            write("r"), SELLER_KEYS.key_id, "compromised", "stolen", market.clock()
        )
        return await seal(request)

    monkeypatch.setattr(market.signer, "seal_release", revoked_meanwhile)
    with pytest.raises(RejectedError, match="seller_key_revoked"):
        await market.publisher.publish(write(), draft, TEXT)
    assert market.catalogue.releases[draft].state == "draft"


async def test_publishing_the_same_again_holds_after_its_key_was_revoked(market, seller, draft):
    await market.publisher.publish(write(), draft, TEXT)
    path = f"/v1/seller-keys/{SELLER_KEYS.key_id}/revoke"
    assert (await seller.post(path, {"state": "retired", "reason": "Rotated."})).is_success
    assert (await market.publisher.publish(write("again"), draft, TEXT)).state == "published"
    with pytest.raises(ConflictError, match="release_already_published"):
        await market.publisher.publish(write("x"), draft, manifest_text(DATA, description="Other."))


async def test_a_bundle_of_another_length_is_refused_unread(market, draft, monkeypatch):
    market.uploads.put(upload_key(market, draft), DATA + b"x")
    monkeypatch.setattr(market.uploads, "opened", lambda _stored: pytest.fail("it was read"))
    with pytest.raises(Exception, match="manifest_mismatch"):
        await market.publisher.publish(write(), draft, TEXT)
    assert market.publications.attempts == {}


async def test_every_flipped_byte_of_a_sellers_manifest_is_refused(market, draft):
    data = TEXT.encode()
    assert len(data) < 4_096
    for position in range(len(data)):
        for flip in (0x01, 0x20, 0x80):
            spoilt = data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :]
            with pytest.raises(RejectedError):
                await market.publisher.publish(write(), draft, spoilt.decode("latin-1"))
    assert market.publications.attempts == {}


@pytest.mark.parametrize("keyid", ["", None], ids=["empty", "absent"])
async def test_a_sellers_tool_need_not_name_the_key(market, draft, keyid):
    envelope = json.loads(TEXT)
    del envelope["signatures"][0]["keyid"]
    if keyid is not None:
        envelope["signatures"][0]["keyid"] = keyid
    assert (await market.publisher.publish(write(), draft, json.dumps(envelope))).state == "published"


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "publisher_busy"), (errno.EIO, None)])
async def test_a_full_disk_is_told_as_such(market, draft, monkeypatch, number, code):
    def full(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(payloads, "download", full)
    with pytest.raises(BusyError if code else OSError, match=code or "no"):
        await market.publisher.publish(write(), draft, TEXT)


async def test_the_sellers_upload_goes_when_the_release_is_published(market, seller, draft):
    await market.publisher.publish(write(), draft, TEXT)
    key = upload_key(market, draft)
    market.uploads.put(key, b"by a link that still lives")
    assert await upkeep(market).once() == 0
    market.clock.now += timedelta(seconds=SPENT_BUNDLE_KEPT_S)
    assert await upkeep(market).once() == 1
    assert key not in market.uploads.objects
    assert await upkeep(market).once() == 0


async def test_a_draft_that_was_published_gives_no_more_links(market, seller):
    sku, _ = await drafted(market, seller, DATA)
    path = f"/v1/skus/{sku['id']}/releases"
    body = {"version": "1.3.0", "bundle_name": "logline-1.3.0.tar.gz"}
    made = (await seller.post(path, body, key="draft")).json()
    data = bundle(b"1.3.0")
    market.uploads.put(upload_key(market, made["id"]), data)
    signed = manifest(data, version="1.3.0", bundle_name=body["bundle_name"])
    assert (await seller.post(f"/v1/releases/{made['id']}/publish", {"manifest": signed})).is_success
    again = await seller.post(path, body, key="draft")
    assert (again.status_code, again.json()["code"]) == (409, "release_already_published")
    await seller.post(f"/v1/releases/{made['id']}/yank", {"reason": "Eats logs."})
    again = await seller.post(path, body, key="draft")
    assert "yanked (Eats logs.)" in again.json()["detail"]


async def test_an_archive_whose_name_says_another_format_is_refused(market, seller):
    data = gzip.decompress(DATA)
    _, draft = await drafted(market, seller, data)
    answer = await seller.post(f"/v1/releases/{draft['id']}/publish", {"manifest": manifest(data)})
    assert (answer.status_code, answer.json()["code"]) == (422, "bundle_unsafe")
