"""A download goes on where it was, whatever interrupts it, and only the signed bytes get the name."""

import fcntl
import gzip
import hashlib
import resource
import secrets
import stat

import httpx
import pytest

from cluster import downloading
from cluster.client import ClientError
from cluster.downloading import FAILURES_MAX, PIECE_BYTES, download
from domain.delivery_manifests import FileDigest
from tests.fakes.documents import delivery_manifest

HEADER = b"h" * 168
PAYLOAD = secrets.token_bytes(3 * PIECE_BYTES + 77)
MANIFEST = delivery_manifest(
    header=HEADER, payload=FileDigest(len(PAYLOAD), hashlib.sha256(PAYLOAD).hexdigest())
)


class Cut(httpx.SyncByteStream):
    """A body whose connection breaks after some bytes."""

    def __init__(self, data, keep):
        self._data, self._keep = data, keep

    def __iter__(self):
        yield self._data[: self._keep]
        if self._keep < len(self._data):
            raise httpx.ReadError("connection reset")


class Storage:
    """Answers ranges as S3 does. ``cuts`` are the bytes that each next answer sends before it breaks."""

    def __init__(self, payload=PAYLOAD):
        self.payload = payload
        self.cuts = []
        self.statuses = []
        self.ranges = []
        self.urls = []
        self.matches = []
        self.takes_ranges = True
        self.etag = '"v1"'
        self.total = None
        self.encoding = None

    def __call__(self, request):
        self.urls.append(str(request.url))
        self.ranges.append(request.headers.get("range"))
        self.matches.append(request.headers.get("if-match"))
        assert "authorization" not in request.headers
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return httpx.Response(status)
        if request.headers.get("if-match") not in (None, self.etag):
            return httpx.Response(412)
        start, status = 0, 200
        headers = {"ETag": self.etag}
        if self.takes_ranges and (span := request.headers.get("range")):
            start, status = int(span.removeprefix("bytes=").removesuffix("-")), 206
            total = self.total or len(self.payload)
            headers["Content-Range"] = f"bytes {start}-{len(self.payload) - 1}/{total}"
        body = self.payload[start:]
        headers["Content-Length"] = str(len(body))
        if self.encoding:
            headers["Content-Encoding"] = self.encoding
            headers["Content-Length"] = str(len(PAYLOAD))
        return httpx.Response(
            status, headers=headers, stream=Cut(body, self.cuts.pop(0) if self.cuts else len(body))
        )


@pytest.fixture
def storage():
    return Storage()


@pytest.fixture
def fetch(storage, tmp_path):
    waits = []

    def run(manifest=MANIFEST, renew=lambda: "http://s3.test/new", on_bytes=lambda *_: None):
        download(
            "http://s3.test/first",
            renew,
            manifest,
            tmp_path / "logline.age",
            on_bytes,
            httpx.MockTransport(storage),
            waits.append,
        )

    run.waits = waits
    return run


@pytest.fixture
def file(tmp_path):
    return tmp_path / "logline.age"


def parts(folder):
    return [path for path in folder.iterdir() if path.name.endswith(".part")]


def refused(fetch, code, **more):
    with pytest.raises(ClientError) as error:
        fetch(**more)
    assert error.value.code == code
    return error.value.text


def test_a_whole_download_is_the_header_and_the_payload(fetch, file, tmp_path):
    seen = []
    fetch(on_bytes=lambda *at: seen.append(at))
    assert file.read_bytes() == HEADER + PAYLOAD
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert seen[-1] == (len(PAYLOAD), len(PAYLOAD))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_broken_connection_goes_on_within_the_run(fetch, storage, file):
    storage.cuts = [1_000, 0, 5, 70_000]
    fetch()
    assert file.read_bytes() == HEADER + PAYLOAD
    assert storage.ranges == [None, "bytes=1000-", "bytes=1000-", "bytes=1005-", "bytes=71005-"]
    assert storage.matches == [None, *['"v1"'] * 4]


def test_a_second_run_goes_on_with_what_the_first_one_left(fetch, storage, file, tmp_path):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    text = refused(fetch, "download_failed")
    assert "100000 of" in text
    assert "run the command again" in text
    assert not file.exists()
    (left,) = parts(tmp_path)
    assert left.read_bytes() == HEADER + PAYLOAD[:100_000]
    storage.ranges.clear()
    seen = []
    fetch(on_bytes=lambda *at: seen.append(at))
    assert storage.ranges == ["bytes=100000-"]
    assert seen[0] == (100_000, len(PAYLOAD))
    assert file.read_bytes() == HEADER + PAYLOAD
    assert parts(tmp_path) == []


def test_tries_without_progress_are_bounded_and_waits_grow(fetch, storage, tmp_path):
    storage.cuts = [0] * 50
    refused(fetch, "download_failed")
    assert len(storage.ranges) == FAILURES_MAX
    assert fetch.waits == [0.5, 1.0, 2.0, 4.0]
    assert parts(tmp_path) == []  # nothing had come


def test_a_line_that_breaks_often_but_moves_arrives(fetch, storage, file):
    storage.cuts = [50_000] * 15
    fetch()
    assert file.read_bytes() == HEADER + PAYLOAD


def test_an_expired_link_is_replaced_by_a_new_one(fetch, storage, file):
    storage.cuts = [1_000]
    storage.statuses = [200, 403]
    fetch()
    assert storage.urls == ["http://s3.test/first", "http://s3.test/first", "http://s3.test/new"]
    assert file.read_bytes() == HEADER + PAYLOAD


def test_links_that_are_refused_again_are_given_up(fetch, storage):
    storage.statuses = [403] * 10
    refused(fetch, "link_expired")
    assert storage.urls == ["http://s3.test/first", "http://s3.test/new"]


def test_a_storage_without_ranges_sends_the_whole_again(fetch, storage, file):
    storage.takes_ranges = False
    storage.cuts = [100_000]
    fetch()
    assert file.read_bytes() == HEADER + PAYLOAD


def test_another_object_behind_the_link_is_begun_anew(fetch, storage, file):
    storage.cuts = [100_000]

    def replaced():
        storage.etag = '"v2"'
        return "http://s3.test/new"

    storage.statuses = [200, 403]
    fetch(renew=replaced)
    assert storage.ranges[-2:] == ["bytes=100000-", None]
    assert file.read_bytes() == HEADER + PAYLOAD


@pytest.mark.parametrize(
    "payload",
    [PAYLOAD[:-1] + bytes([PAYLOAD[-1] ^ 1]), PAYLOAD[:-1], PAYLOAD + b"x", b""],
    ids=["altered", "cut", "long", "empty"],
)
def test_what_was_not_signed_leaves_nothing(fetch, storage, file, tmp_path, payload):
    storage.payload = payload
    refused(fetch, "payload_altered")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [0, 167, 168, 50_000])
def test_what_was_left_and_altered_never_gets_the_name(fetch, storage, file, tmp_path, where):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    refused(fetch, "download_failed")
    (left,) = parts(tmp_path)
    raw = bytearray(left.read_bytes())
    raw[where] ^= 1
    left.write_bytes(raw)
    if where < len(HEADER):  # not this buyer's: begun anew
        fetch()
    else:
        refused(fetch, "payload_altered")
        assert parts(tmp_path) == []
        fetch()
    assert file.read_bytes() == HEADER + PAYLOAD


def test_what_comes_is_never_unpacked(fetch, storage, tmp_path):
    """A hostile storage may compress terabytes into a few bytes; nobody asked for that."""
    storage.payload = gzip.compress(bytes(len(PAYLOAD)))
    storage.encoding = "gzip"
    refused(fetch, "payload_altered")
    assert parts(tmp_path) == []


def test_a_length_that_is_not_told_is_fine(fetch, storage, file):
    storage.total = "*"
    storage.cuts = [1_000]
    fetch()
    assert file.read_bytes() == HEADER + PAYLOAD


def test_a_redirect_is_not_followed(fetch, storage):
    storage.statuses = [302] * 10
    assert "answered 302" in refused(fetch, "download_failed")
    assert set(storage.urls) == {"http://s3.test/first"}


@pytest.mark.parametrize("url", ["http://a\0b/", "file:///etc/passwd", "nonsense", "http://x:99999/"])
def test_a_link_that_is_none_is_told(url, tmp_path):
    def run():
        download(
            url,
            lambda: url,
            MANIFEST,
            tmp_path / "logline.age",
            lambda *_: None,
            pause=lambda _seconds: None,
        )

    refused(run, "download_failed")
    assert parts(tmp_path) == []


def test_what_was_left_of_another_manifest_is_not_gone_on_with(fetch, storage, file, tmp_path):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    refused(fetch, "download_failed")
    other = b"other" * 1_000
    storage.payload, storage.ranges = other, []
    fetch(
        manifest=delivery_manifest(
            header=HEADER, payload=FileDigest(len(other), hashlib.sha256(other).hexdigest())
        )
    )
    assert storage.ranges == [None]
    assert file.read_bytes() == HEADER + other


def test_more_than_was_asked_for_in_what_was_left_is_cut_off(fetch, storage, file, tmp_path):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    refused(fetch, "download_failed")
    (left,) = parts(tmp_path)
    left.write_bytes(HEADER + PAYLOAD + b"more")
    fetch()
    assert file.read_bytes() == HEADER + PAYLOAD


def test_killed_right_before_the_rename_nothing_is_fetched_again(fetch, storage, file, tmp_path):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    refused(fetch, "download_failed")
    (left,) = parts(tmp_path)
    left.write_bytes(HEADER + PAYLOAD)
    storage.ranges.clear()
    fetch()
    assert storage.ranges == []
    assert file.read_bytes() == HEADER + PAYLOAD
    assert parts(tmp_path) == []


def test_a_disk_that_fills_up_is_said_and_the_next_run_goes_on(fetch, storage, file, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        text = refused(fetch, "file_unwritable")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "What has come is kept" in text
    (left,) = parts(tmp_path)
    assert left.read_bytes() == (HEADER + PAYLOAD)[:300_000]
    storage.ranges.clear()
    fetch()
    assert storage.ranges == [f"bytes={300_000 - len(HEADER)}-"]
    assert file.read_bytes() == HEADER + PAYLOAD


def test_two_runs_at_once_do_not_mix(fetch, storage, tmp_path):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    refused(fetch, "download_failed")
    (left,) = parts(tmp_path)
    with left.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(fetch, "fetch_running")
    fetch()


def test_a_link_planted_in_its_place_is_not_followed(fetch, storage, tmp_path):
    storage.cuts = [100_000, *[0] * (FAILURES_MAX - 1)]
    refused(fetch, "download_failed")
    (left,) = parts(tmp_path)
    left.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    left.symlink_to(victim)
    refused(fetch, "file_unwritable")
    assert victim.read_bytes() == b"mine"


def test_a_full_disk_is_said_and_what_came_is_kept(fetch, storage, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloading.os, "fsync", full)
    assert "No space left" in refused(fetch, "file_unwritable")
    assert len(parts(tmp_path)) == 1
