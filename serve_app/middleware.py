"""What happens around every request: identity, bounds, deadline, problems, metrics, trace.

One pure ASGI wrapper; Starlette's middleware base class would cost a task and a stream per request.
Every answer carries ``X-Request-Id``, the caller's if it is well-formed. Whatever fails inside becomes a
problem document, unless the answer has begun: then the connection is cut, which a client notices.
"""

import asyncio
import os
import re
import time

import psycopg
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from domain.card_numbers import holds_card_number
from domain.errors import DependencyError, MarketplaceError, NotFoundError, RejectedError
from serve_app import problems
from serve_app.calls import Call
from serve_app.limits import BODY_BYTES_MAX, REQUEST_DEADLINE_S
from serve_app.observability import CLIENT_GONE, IngressMetrics, end_span, log_answer, request_span
from serve_app.ports import IngressPorts

CALL = "marketplace.call"  # where the scope holds the request's ``Call``
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_METHOD_NOT_ALLOWED = 405


class Edge:
    """Wraps the router; see the module."""

    def __init__(
        self,
        app: ASGIApp,
        ports: IngressPorts,
        metrics: IngressMetrics,
        *,
        deadline_s: float = REQUEST_DEADLINE_S,
    ) -> None:
        self._app = app
        self._ports = ports
        self._metrics = metrics
        self._deadline_s = deadline_s
        self._adds_request_id = not ports.settings.server_adds_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.perf_counter()
        self._metrics.began()
        call = Call(scope, receive, _request_id(scope), self._ports)
        answer = _Answer(send, call.request_id if self._adds_request_id else None)
        scope[CALL] = call
        scope["app"] = self  # Starlette reports unknown routes as exceptions only inside an "app"
        failure: Exception | None = None
        with request_span(call) as span:
            try:
                call.require_length(BODY_BYTES_MAX)
                async with asyncio.timeout(self._deadline_s) as call.deadline:
                    await self._app(scope, receive, answer)
            except ClientDisconnect:
                answer.status = answer.status or CLIENT_GONE
            except Exception as error:  # noqa: BLE001 - the edge answers whatever fails inside
                failure = error
                await self._answer_failure(error, call, scope, receive, answer)
            finally:
                elapsed_s = time.perf_counter() - started_s
                # Status 0: cancelled from outside (the server stops) before an answer began.
                self._metrics.ended(call.route, scope["method"], answer.status or CLIENT_GONE, elapsed_s)
                end_span(span, call, answer.status)
        log_answer(call, answer.status, elapsed_s, failure)

    async def _answer_failure(
        self, error: Exception, call: Call, scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        if answer.status:
            # Too late for a problem document: an answer that breaks off is at least no false one.
            raise error
        response = problems.response(_expected(error, call, self._deadline_s), call.request_id)
        if isinstance(error, HTTPException):
            response.headers.update(error.headers or {})  # RFC 9110: a 405 names the methods in Allow
        await response(scope, receive, answer)


class _Answer:
    """The ``send`` of one request: adds the headers that every answer has and remembers the status."""

    __slots__ = ("_request_id", "_send", "status")

    def __init__(self, send: Send, request_id: str | None) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            if self._request_id is not None:
                headers.append((b"x-request-id", self._request_id.encode()))
            message["headers"] = headers
        await self._send(message)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        # It is logged, which no card number may be.
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value) and not holds_card_number(value):
            return str(value.decode())
    return os.urandom(16).hex()


def _expected(error: Exception, call: Call, deadline_s: float) -> MarketplaceError:
    if isinstance(error, MarketplaceError):
        return error
    if isinstance(error, TimeoutError):
        return DependencyError(
            "deadline_exceeded",
            f"The request was not done within {deadline_s:g} s. Repeat it with the same Idempotency-Key: "
            "what was done is not done twice.",
        )
    if isinstance(error, HTTPException):
        if error.status_code == _METHOD_NOT_ALLOWED:
            return RejectedError("method_not_allowed", "This resource has no such method; see /openapi.json.")
        return NotFoundError("route_not_found", "There is no such resource; see /openapi.json.")
    if isinstance(error, psycopg.OperationalError | PoolTimeout):
        return DependencyError("database_unavailable", "The database did not answer. Try again shortly.", 2)
    return MarketplaceError(
        "internal_error",
        f"The marketplace failed unexpectedly. Tell the operators: request {call.request_id}.",
    )
