"""S3 by a real server: versions are pinned, links are bounded, and nothing is left behind on failure."""

import asyncio
import base64
import hashlib
import threading
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from botocore.exceptions import ClientError

from domain.errors import BusyError, DependencyError
from storage import s3
from storage.s3 import Bucket, S3Access
from tests.integration.seaweed_server import running, utc_now

pytestmark = pytest.mark.integration

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("weed")) as started:
        yield started


@pytest.fixture
def uploads(server):
    bucket = server.bucket("uploads")
    yield bucket
    bucket.close()


@pytest.fixture
def payloads(server):
    bucket = server.bucket("payloads")
    yield bucket
    bucket.close()


def read(bucket, stored):
    body = bucket.open(stored)
    try:
        return b"".join(iter(lambda: body.read(MIB), b""))
    finally:
        body.close()


def write(bucket, key, data, chunk=MIB):
    with bucket.writer(key) as writer:
        for start in range(0, len(data), chunk):
            writer.write(memoryview(data)[start : start + chunk])
        return writer.finish()


def test_an_upload_by_link_is_found_with_its_version(uploads):
    assert uploads.newest("a/new") is None
    link = uploads.link_to_put("a/new", 60)
    for text in (b"first", b"second"):
        httpx.put(link.url, content=text).raise_for_status()
    newest = uploads.newest("a/new")
    assert (newest.size, read(uploads, newest)) == (6, b"second")


def test_a_link_is_pinned_to_its_version_whatever_is_uploaded_later(uploads):
    first = write(uploads, "pinned", b"first")
    write(uploads, "pinned", b"second")
    assert httpx.get(uploads.link_to_get("pinned", first.version_id, 60).url).content == b"first"
    assert read(uploads, first) == b"first"


def test_a_link_is_signature_version_4_and_says_when_it_ends(uploads):
    stored = write(uploads, "dated", b"x")
    link = uploads.link_to_get("dated", stored.version_id, 60)
    query = parse_qs(urlsplit(link.url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["60"]
    assert query["versionId"] == [stored.version_id]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert 58 <= (link.expires_at - utc_now()).total_seconds() <= 60
    assert link.url not in repr(link)
    put = parse_qs(urlsplit(uploads.link_to_put("dated", 60).url).query)
    assert put["X-Amz-SignedHeaders"] == ["host"]
    assert not [name for name in put if "checksum" in name.lower()]


@pytest.mark.parametrize(
    "change", [("Expires=60", "Expires=3600"), ("/changed", "/other"), ("versionId=", "versionId=0")]
)
def test_an_altered_link_is_refused(uploads, change):
    stored = write(uploads, "changed", b"x")
    write(uploads, "other", b"secret")
    link = uploads.link_to_get("changed", stored.version_id, 60)
    assert httpx.get(link.url.replace(*change)).status_code == 403


def test_a_link_to_get_does_not_put_and_the_other_way_round(uploads):
    stored = write(uploads, "one-way", b"x")
    assert (
        httpx.put(uploads.link_to_get("one-way", stored.version_id, 60).url, content=b"y").status_code == 403
    )
    assert httpx.get(uploads.link_to_put("one-way", 60).url).status_code == 403
    assert uploads.newest("one-way") == stored


def test_nobody_reads_without_a_link(server, uploads):
    write(uploads, "private", b"x")
    assert httpx.get(f"{server.endpoint}/uploads/private").status_code == 403


@pytest.mark.parametrize("lifetime_s", [0, -5, 3_601, 604_801])
def test_a_lifetime_that_boto3_would_sign_in_silence_is_refused(uploads, lifetime_s):
    with pytest.raises(ValueError, match="lives 1 to 3600"):
        uploads.link_to_get("k", "v", lifetime_s)
    with pytest.raises(ValueError, match="lives 1 to 3600"):
        uploads.link_to_put("k", lifetime_s)


def test_a_link_without_a_version_is_refused(uploads):
    with pytest.raises(ValueError, match="pinned to a version"):
        uploads.link_to_get("k", "", 60)


@pytest.mark.parametrize("size", [0, 1, MIB, 5 * MIB - 1, 5 * MIB, 10 * MIB, 10 * MIB + 1, 27 * MIB])
def test_objects_of_every_size_arrive_whole(payloads, monkeypatch, size):
    monkeypatch.setattr(s3, "PART_BYTES", 5 * MIB)
    data = (b"%07d\n" % size) * (size // 8 + 1)
    stored = write(payloads, f"size-{size}", data[:size])
    assert stored.size == size
    assert stored == payloads.newest(f"size-{size}")
    assert hashlib.sha256(read(payloads, stored)).digest() == hashlib.sha256(data[:size]).digest()


def test_a_writer_that_fails_leaves_nothing(payloads, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 * MIB)

    def write_and_fail():
        with payloads.writer("failed") as writer:
            writer.write(memoryview(bytes(16 * MIB)))
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_and_fail()
    assert payloads.newest("failed") is None
    pending = payloads._client.list_multipart_uploads(Bucket="payloads").get("Uploads", [])
    assert [one for one in pending if one["Key"] == "failed"] == []


def test_a_writer_keeps_its_memory_bounded(payloads, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 * MIB)
    highest = 0
    with payloads.writer("bounded") as writer:
        for _ in range(30):
            writer.write(memoryview(bytes(MIB)))
            highest = max(highest, len(writer._buffer))
        writer.finish()
    assert highest <= 10 * MIB


async def test_calls_run_in_threads_and_their_number_is_bounded(uploads, monkeypatch):
    monkeypatch.setattr(s3, "CALLS_WAITING_MAX", 2)
    go = threading.Event()
    waiting = [asyncio.create_task(uploads.call(lambda: go.wait(5))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="storage_busy"):
        await uploads.call(lambda: True)
    go.set()
    assert await asyncio.gather(*waiting) == [True, True]
    assert await uploads.call(lambda: "again") == "again"


async def test_a_missing_server_is_a_dependency_that_failed(monkeypatch):
    monkeypatch.setattr(s3, "ATTEMPTS_MAX", 1)
    bucket = Bucket(S3Access("http://127.0.0.1:9", "us-east-1", "a", "s"), "uploads", utc_now)
    try:
        with pytest.raises(DependencyError, match="storage_unavailable"):
            await bucket.call(lambda: bucket.newest("k"))
        assert not bucket.reachable()
    finally:
        bucket.close()


async def test_a_wrong_secret_is_a_dependency_that_failed(server):
    bucket = Bucket(S3Access(server.endpoint, "us-east-1", "test-access", "wrong"), "uploads", utc_now)
    try:
        with pytest.raises(DependencyError, match="storage_unavailable"):
            await bucket.call(lambda: bucket.newest("k"))
    finally:
        bucket.close()


def test_a_bucket_without_versions_is_refused(server, uploads):
    uploads._client.create_bucket(Bucket="plain")
    plain = server.bucket("plain")
    try:
        with pytest.raises(DependencyError, match="storage_unversioned"):
            write(plain, "k", b"x")
        assert plain.reachable()
    finally:
        plain.close()


def test_a_missing_bucket_is_not_reachable(server):
    missing = server.bucket("no-such-bucket")
    try:
        assert not missing.reachable()
        with pytest.raises(ClientError):
            write(missing, "k", b"x")
    finally:
        missing.close()


@pytest.mark.parametrize("size", [0, 1, s3.JOIN_HEAD_BYTES, s3.JOIN_HEAD_BYTES + 1, 3 * s3.JOIN_HEAD_BYTES])
def test_a_head_and_an_object_are_joined_by_the_server(uploads, payloads, monkeypatch, size):
    monkeypatch.setattr(s3, "COPY_PART_BYTES", 6 * MIB)  # several parts of a copy
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    stored = write(payloads, f"body-{size}", body)
    write(payloads, f"body-{size}", b"a later version is not what was asked for")
    joined = uploads.join(f"joined-{size}", b"head", payloads, stored)
    assert joined.size == 4 + size
    assert read(uploads, joined) == b"head" + body
    assert uploads.newest(joined.key) == joined
    uploads.erase(joined.key)
    assert uploads.newest(joined.key) is None


def test_a_join_that_fails_leaves_nothing(uploads, payloads, monkeypatch):
    stored = write(payloads, "gone", bytes(2 * s3.JOIN_HEAD_BYTES))
    cut = s3.StoredObject(stored.key, stored.version_id, stored.size + MIB)  # longer than it is
    with pytest.raises(ClientError):
        uploads.join("joined-cut", b"head", payloads, cut)
    assert uploads.newest("joined-cut") is None
    assert not uploads._client.list_multipart_uploads(Bucket=uploads.name).get("Uploads")


def test_an_upload_in_parts_by_links_is_one_version(uploads):
    upload_id = uploads.begin_upload("parted")
    assert uploads.uploaded_parts("parted", upload_id) == []
    data = [bytes([number]) * size for number, size in ((1, 5 * MIB), (2, 5 * MIB), (3, 77))]
    for number, part in enumerate(data, 1):
        link = uploads.link_to_put_part("parted", upload_id, number, 60)
        digest = hashlib.md5(part, usedforsecurity=False)
        headers = {"Content-MD5": base64.b64encode(digest.digest()).decode()}
        answer = httpx.put(link.url, content=part, headers=headers).raise_for_status()
        assert answer.headers["ETag"].strip('"') == digest.hexdigest()
    come = uploads.uploaded_parts("parted", upload_id)
    assert [(one.number, one.size) for one in come] == [(1, 5 * MIB), (2, 5 * MIB), (3, 77)]
    assert uploads.newest("parted") is None
    stored = uploads.complete_upload("parted", upload_id, come)
    assert read(uploads, stored) == b"".join(data)
    assert uploads.newest("parted") == stored
    assert uploads.uploaded_parts("parted", upload_id) is None
    uploads.abort_upload("parted", upload_id)  # of one that is gone: no failure


def test_a_part_altered_on_its_way_is_refused(uploads):
    upload_id = uploads.begin_upload("bad-line")
    link = uploads.link_to_put_part("bad-line", upload_id, 1, 60)
    wrong = base64.b64encode(hashlib.md5(b"sent", usedforsecurity=False).digest()).decode()
    answer = httpx.put(link.url, content=b"come", headers={"Content-MD5": wrong})
    assert answer.status_code == 400
    assert uploads.uploaded_parts("bad-line", upload_id) == []
    uploads.abort_upload("bad-line", upload_id)
    assert uploads.uploaded_parts("bad-line", upload_id) is None


def test_unfinished_uploads_are_told_by_their_age(uploads):
    upload_id = uploads.begin_upload("orphan")
    now = utc_now()
    assert uploads.unfinished_uploads(now - timedelta(hours=1), 50) == []
    assert ("orphan", upload_id) in uploads.unfinished_uploads(now + timedelta(hours=1), 50)
    uploads.abort_upload("orphan", upload_id)
    assert uploads.unfinished_uploads(now + timedelta(hours=1), 50) == []


def test_erasing_takes_every_version_and_unfinished_upload_of_one_key_alone(uploads):
    for text in (b"first", b"second"):
        httpx.put(uploads.link_to_put("erased/a", 60).url, content=text).raise_for_status()
    neighbour = write(uploads, "erased/a.more", b"neighbour")
    began = uploads.begin_upload("erased/a")
    uploads.erase("erased/a")
    assert uploads.newest("erased/a") is None
    assert uploads.uploaded_parts("erased/a", began) is None
    listed = uploads._client.list_object_versions(Bucket=uploads.name, Prefix="erased/a")
    kept = [one["Key"] for one in (*listed.get("Versions", ()), *listed.get("DeleteMarkers", ()))]
    assert kept == [neighbour.key]
    assert read(uploads, neighbour) == b"neighbour"
    uploads.erase("erased/a")  # what is gone already is no failure
