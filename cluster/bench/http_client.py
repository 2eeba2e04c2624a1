"""A lean HTTP/1.1 client for load generation: keep-alive, one request at a time per connection.

The generator shares the machine's cores with what it measures, so its own cost counts: a general client
spends about a millisecond of CPU on a request, this one about a tenth. It speaks just enough HTTP for one
known server: fixed or chunked bodies, server-sent events, no redirects, no compression, no TLS.
Everything is bounded: header block, body, event line, and time. A reused connection that the server
closed before answering is replaced once, which is safe because every write carries an idempotency key.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

HEAD_BYTES_MAX = 32_768  # a dozen headers take 1 KB
BODY_BYTES_MAX = 4_194_304  # an order with its lines takes 2 KB
REQUEST_TIMEOUT_S = 20.0  # twice the server's own deadline
_BODILESS = frozenset({204, 304})


class HttpError(Exception):
    """The answer is not HTTP as this client speaks it, or the connection ended in it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpConnection:
    """One keep-alive connection to one origin. Not for concurrent use."""

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("the load generator speaks plain http to a host")
        self._host, self._port = parts.hostname, parts.port or 80
        self._host_header = f"Host: {self._host}:{self._port}\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        path: str,
        headers: str = "",
        body: bytes = b"",
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Answer:
        """Send a request and read the whole answer.

        ``headers`` are complete lines, each ending in CRLF.

        Raises:
            HttpError, OSError, TimeoutError: the connection is closed; the next call opens another.
        """
        try:
            async with asyncio.timeout(timeout_s):
                status, fields = await self._begin(method, path, headers, body)
                data = b"".join([chunk async for chunk in self._body(status, fields)])
        except BaseException:
            self.close()
            raise
        self._end(fields)
        return Answer(status, fields, data)

    async def events(
        self, path: str, headers: str = "", timeout_s: float = REQUEST_TIMEOUT_S
    ) -> AsyncIterator[bytes]:
        """Yield the ``data`` of each server-sent event; leave the loop to close the connection.

        Raises:
            HttpError: also when the status is not 200. OSError, TimeoutError.
        """
        whole = False
        fields: Mapping[str, str] = {}
        try:
            async with asyncio.timeout(timeout_s):
                status, fields = await self._begin(
                    "GET", path, f"{headers}Accept: text/event-stream\r\n", b""
                )
                rest = b""
                async for chunk in self._body(status, fields):
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > HEAD_BYTES_MAX:
                        raise HttpError("an event line is too long")
                    if status != 200:  # noqa: PLR2004 - the one status that carries events
                        continue
                    for line in lines:
                        if line.startswith(b"data:"):
                            yield line[5:].strip()
                if status != 200:  # noqa: PLR2004 - same
                    raise HttpError(f"status {status}")
                whole = True
        finally:
            if whole:
                self._end(fields)
            else:
                self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer is not None:
            with contextlib.suppress(OSError, RuntimeError):
                self._writer.close()
        self._reader = self._writer = None

    async def _begin(self, method: str, path: str, headers: str, body: bytes) -> tuple[int, dict[str, str]]:
        length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._host_header}{headers}{length}\r\n".encode("ascii")
        reused = self._writer is not None
        try:
            return await self._exchange(head + body)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            began = isinstance(error, asyncio.IncompleteReadError) and bool(error.partial)
            if not reused or began:
                raise HttpError("the connection ended before an answer") from error
        try:
            return await self._exchange(head + body)
        except asyncio.IncompleteReadError as error:
            raise HttpError("the connection ended before an answer") from error

    async def _exchange(self, message: bytes) -> tuple[int, dict[str, str]]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(
                self._host, self._port, limit=HEAD_BYTES_MAX
            )
        assert self._reader is not None
        self._writer.write(message)
        try:
            block = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise HttpError("the header block is too long") from error
        first, *lines = block[:-4].decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise HttpError("the answer is not HTTP/1.x")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return int(rest[:3]), fields

    async def _body(self, status: int, fields: Mapping[str, str]) -> AsyncIterator[bytes]:
        assert self._reader is not None
        reader = self._reader
        try:
            if status in _BODILESS:
                return
            if fields.get("transfer-encoding", "").lower() == "chunked":
                async for chunk in _chunks(reader):
                    yield chunk
                return
            length = fields.get("content-length", "")
            if not length.isdigit() or int(length) > BODY_BYTES_MAX:
                raise HttpError("the answer has no usable length")
            yield await reader.readexactly(int(length))
        except asyncio.IncompleteReadError as error:
            raise HttpError("the connection ended within an answer") from error

    def _end(self, fields: Mapping[str, str]) -> None:
        if fields.get("connection", "").lower() == "close":
            self.close()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Chunked transfer coding (RFC 9112, section 7.1); trailers are read and dropped."""
    total = 0
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";", 1)[0].strip() or b"x", 16)
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise HttpError("a chunk has no size") from error
        total += size
        if size < 0 or total > BODY_BYTES_MAX:
            raise HttpError("the answer is too long")
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return
        data = await reader.readexactly(size + 2)
        if data[-2:] != b"\r\n":
            raise HttpError("a chunk does not end where it says")
        yield data[:-2]
