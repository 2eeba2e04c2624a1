"""A fetch killed in the middle goes on from there: a real process, a real object storage, a real link."""

import hashlib
import os
import secrets
import signal
import subprocess
import sys

import httpx
import pytest

from cluster.downloading import download
from domain import delivery_manifests
from domain.delivery_manifests import FileDigest
from tests.fakes.documents import delivery_manifest
from tests.integration.seaweed_server import running

pytestmark = pytest.mark.integration
SIZE = 24 * 2**20 + 5
KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from cluster.downloading import download
from domain import delivery_manifests

def kill(received, total):
    if received >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

manifest = delivery_manifests.parse(sys.stdin.buffer.read())
download(sys.argv[1], lambda: sys.argv[1], manifest, Path(sys.argv[2]), kill)
"""


class Told(httpx.HTTPTransport):
    """Sends for real, and writes down which ranges were asked for."""

    def __init__(self):
        super().__init__()
        self.ranges = []

    def handle_request(self, request):
        self.ranges.append(request.headers.get("range"))
        return super().handle_request(request)


def test_a_killed_fetch_goes_on(tmp_path):
    payload = secrets.token_bytes(SIZE)
    manifest = delivery_manifest(payload=FileDigest(SIZE, hashlib.sha256(payload).hexdigest()))
    file = tmp_path / "logline.age"
    (tmp_path / "weed").mkdir()
    with running(tmp_path / "weed") as server:
        bucket = server.bucket("payloads")
        with bucket.writer("payload") as writer:
            writer.write(memoryview(payload))
            stored = writer.finish()
        url = bucket.link_to_get(stored.key, stored.version_id, 600).url
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_IN_THE_MIDDLE, url, str(file)],
            input=delivery_manifests.build(manifest),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert not file.exists()
        transport = Told()
        download(url, lambda: url, manifest, file, lambda *_: None, transport)
        bucket.close()
    (span,) = transport.ranges
    assert SIZE // 2 - 2**20 <= int(span.removeprefix("bytes=").removesuffix("-")) < SIZE
    assert file.read_bytes() == manifest.header + payload
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [file.name]
