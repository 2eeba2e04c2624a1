"""One kept-alive HTTP/1.1 connection that posts a body and reads the status of the answer.

Written on asyncio's protocol and httptools because a delivery must cost little CPU; it follows no
redirect, keeps no cookie, and reads an answer's body only to find where it ends. Refuses answers that are
not HTTP or longer than ``ANSWER_BYTES_MAX``. One request at a time; the caller sets the time limit.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

ANSWER_BYTES_MAX = 65_536  # a webhook's answer is a word or two
PORTS = {"http": 80, "https": 443}


class PostFailedError(Exception):
    """No HTTP answer came. ``stale`` tells that a reused connection was closed before any byte of it."""

    def __init__(self, message: str, *, stale: bool = False) -> None:
        super().__init__(message)
        self.stale = stale


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and the constant part of each request."""

    host: str
    port: int
    tls: bool
    head: bytes


def target_of(url: str) -> Target:
    """Prepare the request line and constant headers of posts to ``url``."""
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.hostname or ""
    port = parts.port or PORTS[parts.scheme]
    authority = (f"[{host}]" if ":" in host else host) + ("" if port == PORTS[parts.scheme] else f":{port}")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: Stripe/1.0 (simulator)\r\n"
        "Accept: */*\r\nContent-Type: application/json; charset=utf-8\r\n"
    )
    return Target(host, port, parts.scheme == "https", head.encode())


class PostConnection(asyncio.Protocol):
    """Made by ``connect``; ``usable`` tells whether another post may be sent."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[int] | None = None
        self._status: int | None = None
        self._received = 0
        self._posts = 0
        self.usable = False

    @staticmethod
    async def connect(target: Target) -> "PostConnection":
        """Connect.

        Raises:
            PostFailedError: nobody listens, or TLS failed.
        """
        context = ssl.create_default_context() if target.tls else None
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                PostConnection, target.host, target.port, ssl=context
            )
        except OSError as error:
            raise PostFailedError(f"cannot connect: {error.strerror or type(error).__name__}") from error
        return connection

    async def post(self, target: Target, headers: bytes, body: bytes) -> int:
        """Send one request and return the answer's status.

        Raises:
            PostFailedError: the connection ended, or what came is not HTTP.
        """
        assert self._transport is not None
        assert self._answer is None, "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._status = None
        self._received = 0
        self._posts += 1
        self._transport.write(b"%bContent-Length: %d\r\n%b\r\n%b" % (target.head, len(body), headers, body))
        try:
            return await self._answer
        finally:
            if not self._answer.done() or self._answer.cancelled():
                self.close()  # given up half way: what comes later belongs to no request
            self._answer = None

    def close(self) -> None:
        """Close at once."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """Parse a piece of the answer."""
        self._received += len(data)
        if self._parser is None or self._answer is None or self._received > ANSWER_BYTES_MAX:
            self._fail("sent more than was asked for")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("did not answer in HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the waiting request: a body without a length ends here, anything else is broken off."""
        self.usable = False
        if exc is None and self._status is not None:
            self._finish(self._status)
        self._fail("closed the connection without an answer", stale=self._posts > 1 and self._received == 0)

    # -- httptools ----------------------------------------------------------------------------------------

    def on_headers_complete(self) -> None:
        """Note the status; 1xx is an interim answer, the real one follows."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        self._status = status if status >= 200 else None  # noqa: PLR2004 - the first final status

    def on_message_complete(self) -> None:
        """Hand the status over."""
        assert self._parser is not None
        if self._status is None:
            return
        if not self._parser.should_keep_alive():
            self.close()
        self._finish(self._status)

    def _finish(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def _fail(self, message: str, *, stale: bool = False) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(PostFailedError(message, stale=stale))
