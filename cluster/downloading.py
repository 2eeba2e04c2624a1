"""Downloads a delivery's payload so that it can be interrupted anywhere and goes on from there.

What has come lies beside the final place as ``.NAME.TAG.part``: the buyer's age header, then the payload so
far. The tag is of the signed manifest's digests, so what was begun under another manifest is never gone on
with. A second run hashes what is there and asks for the rest (``Range``); the link names one version, and
``If-Match`` holds it to that within a run. An expired link is replaced by a new one. The file gets its name
only when length and SHA-256 are the manifest's; if they are not, nothing of it is kept. Refused: two
downloads of one file at once, answers that are longer or shorter than the manifest says.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from cluster.client import ClientError
from cluster.private_files import PRIVATE_FILE
from domain.delivery_manifests import DeliveryManifest

TIMEOUT_S = 30.0  # between two pieces, not for the whole
FAILURES_MAX = 5  # in a row, without a byte more than ever before
PAUSE_S, PAUSE_MAX_S = 0.5, 8.0  # before the next try, doubled each time
PIECE_BYTES = 262_144  # a read; large enough that Python's share of the time is small
OK, PARTIAL, FORBIDDEN, PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE = 200, 206, 403, 412, 416
TAG_CHARS = 12

OnBytes = Callable[[int, int], None]
"""Told ``(received, total)`` bytes of the payload as it arrives."""


def download(
    url: str,
    renew: Callable[[], str],
    manifest: DeliveryManifest,
    path: Path,
    on_bytes: OnBytes,
    transport: httpx.BaseTransport | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Fetch ``path``, the header followed by the payload at ``url``; ``renew`` gives a new link to it.

    Raises:
        ClientError: ``download_failed`` (run it again: it goes on), ``payload_altered``, ``link_expired``,
            ``fetch_running``, ``file_unwritable``.
    """
    partial = _partial_path(path, manifest)
    try:
        with _alone(partial) as file:
            _Download(file, manifest, on_bytes, pause).run(url, renew, transport)
            os.fsync(file.fileno())
            partial.replace(path)
    except _NothingKept as refused:
        partial.unlink(missing_ok=True)
        raise refused.error from None
    except OSError as error:
        raise ClientError(
            f"{path} cannot be written: {error.strerror or error}. What has come is kept: free some space or "
            "choose another place, and run the command again.",
            "file_unwritable",
        ) from error


class _NothingKept(Exception):  # noqa: N818 - says what happens to the file
    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.error = ClientError(text, code)


def _partial_path(path: Path, manifest: DeliveryManifest) -> Path:
    digests = f"{manifest.header_digest.sha256}{manifest.payload.sha256}"
    return path.with_name(f".{path.name}.{hashlib.sha256(digests.encode()).hexdigest()[:TAG_CHARS]}.part")


@contextmanager
def _alone(partial: Path) -> Iterator[IO[bytes]]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, PRIVATE_FILE), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock until now may have given the file its name.
            mine = os.fstat(file.fileno()).st_ino == partial.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise ClientError(
                f"{partial} is being written by another run. Wait for it, or stop it.", "fetch_running"
            )
        yield file


class _Download:
    """One file on its way: what is there, its running digest, and how often it went wrong."""

    def __init__(
        self,
        file: IO[bytes],
        manifest: DeliveryManifest,
        on_bytes: OnBytes,
        pause: Callable[[float], None],
    ) -> None:
        self._file = file
        self._header = manifest.header
        self._expected = manifest.payload
        self._on_bytes = on_bytes
        self._pause = pause
        self._digest = hashlib.sha256()
        self._size = 0
        self._etag: str | None = None

    def run(self, url: str, renew: Callable[[], str], transport: httpx.BaseTransport | None) -> None:
        self._take_up()
        failures, most, renewed_at = 0, self._size, -1
        # A client of its own: the marketplace's token must never go to the storage's address.
        with httpx.Client(timeout=TIMEOUT_S, transport=transport) as http:
            while self._size < self._expected.size:
                reason = self._fetch_rest(http, url)
                if reason is None:
                    continue
                if reason == "expired" and renewed_at < self._size:
                    url, renewed_at = renew(), self._size
                    continue
                failures, most = (1, self._size) if self._size > most else (failures + 1, most)
                if reason == "expired" or failures >= FAILURES_MAX:
                    raise self._given_up(reason)
                self._pause(min(PAUSE_MAX_S, PAUSE_S * 2 ** (failures - 1)))
        self._judge()

    def _take_up(self) -> None:
        """Hash what an earlier run left, or begin anew."""
        self._file.seek(0)
        if self._file.read(len(self._header)) != self._header:
            self._begin_anew()
            return
        while block := self._file.read(min(PIECE_BYTES, self._expected.size - self._size)):
            self._digest.update(block)
            self._size += len(block)
        self._file.truncate()  # what is beyond the manifest's length is nobody's
        self._on_bytes(self._size, self._expected.size)

    def _begin_anew(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(self._header)
        self._digest, self._size, self._etag = hashlib.sha256(), 0, None

    def _fetch_rest(self, http: httpx.Client, url: str) -> str | None:
        """Read on; returns why it ended too early, None when it did not."""
        headers = {"Accept-Encoding": "identity"}
        if self._size:
            headers["Range"] = f"bytes={self._size}-"
            if self._etag is not None:
                headers["If-Match"] = self._etag
        try:
            with http.stream("GET", url, headers=headers) as response:
                if response.status_code == FORBIDDEN:
                    return "expired"
                if response.status_code in (PRECONDITION_FAILED, RANGE_NOT_SATISFIABLE):
                    self._begin_anew()
                    return f"the storage answered {response.status_code}"
                if response.status_code not in (OK, PARTIAL):
                    return f"the storage answered {response.status_code}"
                self._place(response)
                # As it comes: what is compressed against our word could unpack to any length. Without a size
                # of its own: what waits to fill a piece would be lost with the connection.
                for piece in response.iter_raw():
                    self._take(piece)
        except httpx.TransportError as error:
            return str(error) or type(error).__name__
        except (httpx.InvalidURL, httpx.RequestError) as error:
            return f"the link is unusable ({error})"
        finally:
            self._file.flush()
        if self._size < self._expected.size:
            raise _NothingKept(
                f"The payload ends after {self._size} of the {self._expected.size} bytes that the manifest "
                "says. Nothing was kept; tell the operator.",
                "payload_altered",
            )
        return None

    def _place(self, response: httpx.Response) -> None:
        """See where the answer begins, and that it is of the length that was signed."""
        etag = response.headers.get("ETag")
        self._etag = etag if etag and not etag.startswith("W/") else None
        total: Any = response.headers.get("Content-Length")
        if response.status_code == PARTIAL:
            span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if span.partition("-")[0] != str(self._size):
                raise _NothingKept(
                    "The storage answered with another part than was asked for. Nothing was kept; try again.",
                    "download_failed",
                )
        elif self._size:
            self._begin_anew()  # it sends the whole
        if total not in (None, "*", str(self._expected.size)):
            raise self._of_another_length(total)

    def _take(self, piece: bytes) -> None:
        if self._size + len(piece) > self._expected.size:
            raise self._of_another_length("more")
        self._digest.update(piece)
        self._file.write(piece)
        self._size += len(piece)
        self._on_bytes(self._size, self._expected.size)

    def _of_another_length(self, size: str) -> _NothingKept:
        return _NothingKept(
            f"The payload has {size} bytes and the signed manifest says {self._expected.size}. Nothing was "
            "kept; tell the operator.",
            "payload_altered",
        )

    def _judge(self) -> None:
        if self._digest.hexdigest() != self._expected.sha256:
            raise _NothingKept(
                f"The payload is not what the signed manifest says (SHA-256 {self._digest.hexdigest()[:16]}… "
                f"instead of {self._expected.sha256[:16]}…). Nothing was kept; try again, and tell the "
                "operator if it stays.",
                "payload_altered",
            )

    def _given_up(self, reason: str) -> Exception:
        code = "link_expired" if reason == "expired" else "download_failed"
        why = "the links to it are refused" if reason == "expired" else reason
        done = f"{self._size} of {self._expected.size} bytes"
        if not self._size:
            return _NothingKept(f"The payload could not be fetched: {why}. Run the command again.", code)
        return ClientError(
            f"The payload could not be fetched: {why}. {done} are kept: run the command again to go on.",
            code,
        )
