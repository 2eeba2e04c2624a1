"""What happens around every request: identity, bounds, deadline, problems, metrics.

A pure ASGI wrapper (no per-request task or stream, unlike Starlette's middleware base class). Denies
by default: only the paths of ``OPEN_PATHS`` are answered to callers that nobody knows. Every answer
carries ``X-Request-Id``, the caller's if it is well-formed.
"""

import asyncio
import logging
import os
import re
import time

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.errors import DependencyError, MarketplaceError, NotFoundError, RejectedError
from serve_app.finance import problems
from serve_app.finance.access import PRINCIPAL, Access
from serve_app.finance.metrics import FinanceMetrics

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024  # 500 entries of two kilobytes
REQUEST_DEADLINE_S = 5.0  # callers give up at about ten; an answer after that helps nobody
CLIENT_GONE = 499  # nginx's number for a caller that hung up before its answer
OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"})

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_METHOD_NOT_ALLOWED = RejectedError(
    "method_not_allowed", "This resource has no such method; see /openapi.json."
)
_ROUTE_UNKNOWN = NotFoundError("route_unknown", "There is no such resource; see /openapi.json.")


class Edge:
    """Wraps the router."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: FinanceMetrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        authorization, request_id = _read_headers(scope)
        answer = _Answer(send, request_id)
        try:
            if scope["path"] not in OPEN_PATHS:
                scope[PRINCIPAL] = self._access.principal(scope, authorization)
            # Starlette reports unknown routes and methods as exceptions only inside an "app".
            scope["app"] = self
            async with asyncio.timeout(REQUEST_DEADLINE_S):
                await self._app(scope, receive, answer)
        except ClientDisconnect:
            answer.status = CLIENT_GONE  # nobody is left to answer; only the metrics hear of it
        except Exception as failure:  # noqa: BLE001 - the edge answers whatever fails inside
            error = _expected(failure, request_id)
            if not answer.status:
                await problems.response(error)(scope, receive, answer)
        endpoint = scope.get("endpoint")
        route = getattr(endpoint, "__name__", "unmatched")
        self._metrics.request(route, answer.status, time.perf_counter() - started_s)


async def read_body(request: Request) -> bytes:
    """Read the body within its bound, whatever Content-Length claims.

    Raises:
        RejectedError: ``body_too_large``.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise RejectedError(
                "body_too_large", f"A body has at most {BODY_BYTES_MAX} bytes. Send smaller batches."
            )
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Answer:
    """The ``send`` of one request: adds the request id and remembers the status."""

    __slots__ = ("_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: bytes) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id)]
        await self._send(message)


def _read_headers(scope: Scope) -> tuple[bytes, bytes]:
    authorization = request_id = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"x-request-id":
            request_id = value
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = os.urandom(16).hex().encode()
    return authorization, request_id


def _expected(failure: Exception, request_id: bytes) -> MarketplaceError:
    if isinstance(failure, MarketplaceError):
        return failure
    if isinstance(failure, TimeoutError):
        return DependencyError(
            "deadline_exceeded",
            f"The request was not done within {REQUEST_DEADLINE_S:g} s. Repeat it with the same entry key: "
            "if it was posted, the repetition returns it.",
        )
    if isinstance(failure, HTTPException):
        return _METHOD_NOT_ALLOWED if failure.status_code == 405 else _ROUTE_UNKNOWN  # noqa: PLR2004 - HTTP's number
    log.error("unexpected failure, request %s", request_id.decode(), exc_info=failure)
    return MarketplaceError(
        "internal_error", f"Finance failed unexpectedly. Tell the operators: request {request_id.decode()}."
    )
