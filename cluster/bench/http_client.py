"""A lean HTTP/1.1 client for load generation: keep-alive, one request at a time per connection.

The generator shares the machine's cores with what it measures, so its own cost counts: a general client
spends about a millisecond of CPU on a request, this one a tenth. It parses in the protocol's own callback,
as little as possible, and speaks just enough HTTP for one known server: fixed or chunked bodies, server-sent
events, no redirects, no compression, no TLS. Everything is bounded: header block, body, stream, and time.
A reused connection that the server closed before answering is replaced once, which is safe because every
write carries an idempotency key.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

HEAD_BYTES_MAX = 32_768  # a dozen headers take 1 KB
BODY_BYTES_MAX = 4_194_304  # an order with its lines takes 2 KB
REQUEST_TIMEOUT_S = 20.0  # twice the server's own deadline
OK = 200
_BODILESS = frozenset({204, 304})
_CHUNK_LINE_BYTES_MAX = 256
_END_OF_HEAD = b"\r\n\r\n"


class HttpError(Exception):
    """The answer is not HTTP as this client speaks it, or the connection ended in it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response. ``head`` is its header block in lower case, as bytes."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> str:
        """Return a header's value in lower case, empty when absent; ``name`` is lower case."""
        return _field(self.head, name).decode("latin-1")


def _field(head: bytes, name: bytes) -> bytes:
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


class _Exchange(asyncio.Protocol):
    """One connection's reading side: collects one answer at a time and resolves its future."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.began = False  # whether a byte of the current answer has come
        self._buffer = b""
        self._waiter: asyncio.Future[Answer] | None = None
        self._on_body: Callable[[bytes], None] | None = None
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._head = b""
        self._left = -1  # of a fixed body or of the chunk under way; -1 before the head
        self._chunked = False
        self._in_trailer = False
        self._chunk_ends = False  # the CRLF after a chunk's data is due
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.began = False

    def expect(
        self, on_body: Callable[[bytes], None] | None, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[Answer]:
        """Expect an answer; ``on_body`` gets the pieces of a successful body instead of the answer."""
        self._reset()
        self._on_body = on_body
        self._waiter = loop.create_future()
        return self._waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the base class."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        """See the base class."""
        self.lost = True
        where = "within" if self.began else "before"
        self._fail(HttpError(f"the connection ended {where} an answer"), exc)

    def data_received(self, data: bytes) -> None:
        """See the base class."""
        if self._waiter is None or self._waiter.done():
            self._abort()  # nobody asked for this
            return
        self.began = True
        self._buffer = self._buffer + data if self._buffer else data
        try:
            if self._parse():
                self._finish()
        except HttpError as error:
            self._fail(error, None)
            self._abort()

    def _parse(self) -> bool:
        if not self._head and not self._parse_head():
            return False
        return self._parse_chunks() if self._chunked else self._parse_fixed()

    def _parse_head(self) -> bool:
        end = self._buffer.find(_END_OF_HEAD)
        if end > HEAD_BYTES_MAX or (end < 0 and len(self._buffer) > HEAD_BYTES_MAX):
            raise HttpError("the header block is too long")
        if end < 0:
            return False
        self._head = self._buffer[:end].lower()
        self._buffer = self._buffer[end + 4 :]
        status = self._head[9:12]
        if not self._head.startswith(b"http/1.") or not status.isdigit():
            raise HttpError("the answer is not HTTP/1.x")
        self._status = int(status)
        if self._status in _BODILESS:
            self._left = 0
        elif _field(self._head, b"transfer-encoding") == b"chunked":
            self._chunked = True
            self._left = 0
        else:
            length = _field(self._head, b"content-length")
            if not length.isdigit() or int(length) > BODY_BYTES_MAX:
                raise HttpError("the answer has no usable length")
            self._left = int(length)
        return True

    def _parse_fixed(self) -> bool:
        self._take(self._left)
        return self._left == 0

    def _parse_chunks(self) -> bool:
        """Chunked transfer coding (RFC 9112, section 7.1); trailers are read and dropped."""
        while True:
            if self._left:
                self._take(self._left)
                if self._left:
                    return False
                self._chunk_ends = True
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > _CHUNK_LINE_BYTES_MAX:
                    raise HttpError("a chunk has no size")
                return False
            line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
            if self._in_trailer:
                if not line:
                    return True
            elif self._chunk_ends:
                if line:
                    raise HttpError("a chunk does not end where it says")
                self._chunk_ends = False
            else:
                self._left = _chunk_size(line)
                self._in_trailer = self._left == 0
                if self._body_bytes + self._left > BODY_BYTES_MAX:
                    raise HttpError("the answer is too long")

    def _take(self, count: int) -> None:
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        if not piece:
            return
        self._left -= len(piece)
        self._body_bytes += len(piece)
        if self._on_body is not None and self._status == OK:
            self._on_body(piece)
        else:
            self._body.append(piece)

    def _finish(self) -> None:
        waiter = self._waiter
        self._waiter = None
        assert waiter is not None, "somebody waits for what is parsed"
        if self._buffer or _field(self._head, b"connection") == b"close":
            self._abort()
        waiter.set_result(Answer(self._status, self._head, b"".join(self._body)))

    def _fail(self, error: HttpError, cause: Exception | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            error.__cause__ = cause
            waiter.set_exception(error)

    def _abort(self) -> None:
        self.lost = True
        if self.transport is not None:
            self.transport.abort()


def _chunk_size(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    try:
        size = int(digits or b"x", 16)
    except ValueError:
        size = -1
    if size < 0:
        raise HttpError("a chunk has no size")
    return size


class HttpConnection:
    """One keep-alive connection to one origin. Not for concurrent use."""

    def __init__(self, origin: str) -> None:
        parts = urlsplit(origin)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("the load generator speaks plain http to a host")
        self._host, self._port = parts.hostname, parts.port or 80
        self._host_header = f"Host: {self._host}:{self._port}\r\n"
        self._exchange: _Exchange | None = None

    async def request(
        self,
        method: str,
        path: str,
        headers: str = "",
        body: bytes = b"",
        timeout_s: float = REQUEST_TIMEOUT_S,
        on_body: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Send a request and read the whole answer.

        ``headers`` are complete lines, each ending in CRLF. ``on_body`` gets the body of a 200 piece by
        piece as it comes, and the answer's own is then empty: for server-sent events.

        Raises:
            HttpError, OSError, TimeoutError: the connection is closed; the next call opens another.
        """
        length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._host_header}{headers}{length}\r\n".encode("ascii")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._send(head + body, on_body)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._exchange is not None and self._exchange.transport is not None:
            self._exchange.transport.abort()
        self._exchange = None

    async def _send(self, message: bytes, on_body: Callable[[bytes], None] | None) -> Answer:
        loop = asyncio.get_running_loop()
        exchange = self._exchange
        if exchange is not None and not exchange.lost:
            try:
                return await self._ask(exchange, message, on_body, loop)
            except HttpError:
                # Only a connection that ended in silence is worth another try.
                if exchange.began or not exchange.lost:
                    raise
        _, exchange = await loop.create_connection(_Exchange, self._host, self._port)
        self._exchange = exchange
        return await self._ask(exchange, message, on_body, loop)

    async def _ask(
        self,
        exchange: _Exchange,
        message: bytes,
        on_body: Callable[[bytes], None] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> Answer:
        assert exchange.transport is not None, "it is connected"
        waiter = exchange.expect(on_body, loop)
        exchange.transport.write(message)
        return await waiter
