"""One HTTP exchange on ASGI: reading a request within bounds, and writing a reply.

Lean on purpose: a framework costs more CPU per request than the simulator's own work. Refuses bodies
larger than ``forms.BODY_BYTES_MAX``.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cluster.local.stripe.forms import BODY_BYTES_MAX
from cluster.local.stripe.refusals import Document, RefusedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ABORT = "stripe_simulator.abort"  # in a request's state: ends its connection without an answer
JSON_TYPE = (b"content-type", b"application/json")
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Request:
    """What the handlers look at. ``headers`` has lower-case names; the last of equal names counts."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes

    def text_header(self, name: bytes) -> str | None:
        """Return a header as text, or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


@dataclass(slots=True)
class Reply:
    """What goes back; ``lost`` tells that nothing does, and that the connection ends."""

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)
    lost: bool = False


def json_reply(status: int, document: Document) -> Reply:
    """Reply with JSON."""
    return Reply(status, orjson.dumps(document), [JSON_TYPE])


async def read_request(scope: Scope, receive: Receive) -> Request:
    """Read a request to its end.

    Raises:
        RefusedError: 413, or 400 when the client went away in the middle of its body.
    """
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise RefusedError(400, "The request ended before its body did.")
        chunk = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > BODY_BYTES_MAX:
            raise RefusedError(413, f"The request is larger than {BODY_BYTES_MAX} bytes.")
        if not message.get("more_body"):
            break
    return Request(scope["method"], scope["path"], scope["query_string"], dict(scope["headers"]), body)


async def send_reply(reply: Reply, send: Send) -> None:
    """Write a reply."""
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def hang_up(scope: Scope, receive: Receive) -> None:
    """End the connection without an answer, and wait until it has ended."""
    scope["state"][ABORT]()
    while (await receive())["type"] != "http.disconnect":
        pass
