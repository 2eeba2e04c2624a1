"""The signing proxy's HTTP: sign, wrap and unwrap for callers whose certificate is on the list.

The proxy is the only process that holds the backend's credentials. It shows no key and signs whatever its
callers ask, within the bounds of ``domain.signing``; so its list is short: the signer's identity. Every
request is logged with its caller, how many messages it was for, and its outcome, never with its content.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from domain import strict_json
from domain.errors import BusyError, DependencyError, MarketplaceError, RejectedError
from domain.signing import MESSAGES_MAX, Keys
from serve_app.finance.access import PEER, Peer

log = logging.getLogger("marketplace.signing_proxy")

R = TypeVar("R")

BODY_BYTES_MAX = 2 * 1024 * 1024  # 250 messages of 4,096 bytes in base64 take 1.4 MB
CALLS_MAX = 16  # at the backend at once; its own quota and deadline bound the rest
_STATUS_REFUSED, _STATUS_BUSY, _STATUS_AWAY = 422, 429, 503


@dataclass(frozen=True, slots=True)
class SigningProxySettings:
    """Who may call: the URI names of client certificates."""

    identities: frozenset[str]


def build_app(
    keys: Keys, settings: SigningProxySettings, now_s: Callable[[], float] = time.time
) -> Starlette:
    """Build the application over a signing backend."""
    routes = _Routes(keys, settings, now_s)
    return Starlette(
        routes=[
            Route("/livez", routes.live, methods=["GET"]),
            Route("/v1/key", routes.answering(routes.key), methods=["GET"]),
            Route("/v1/sign", routes.answering(routes.sign), methods=["POST"]),
            Route("/v1/wrap", routes.answering(routes.wrap), methods=["POST"]),
            Route("/v1/unwrap", routes.answering(routes.unwrap), methods=["POST"]),
        ]
    )


class _Routes:
    def __init__(self, keys: Keys, settings: SigningProxySettings, now_s: Callable[[], float]) -> None:
        self._keys = keys
        self._settings = settings
        self._now_s = now_s
        self._pool = ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="backend")

    async def live(self, _request: Request) -> Response:
        return _reply(200, {"status": "alive"})

    async def key(self, _body: Mapping[str, Any]) -> dict[str, Any]:
        return {"key_id": self._keys.key_id, "public_key": _text(self._keys.public_key)}

    async def sign(self, body: Mapping[str, Any]) -> dict[str, Any]:
        texts = _member(body, "messages", list)
        if len(texts) > MESSAGES_MAX:
            raise RejectedError("batch_too_large", f"A batch has at most {MESSAGES_MAX} messages.")
        messages = [_bytes(text) for text in texts]
        signatures: Sequence[bytes] = await self._run(lambda: self._keys.sign_many(messages))
        return {"signatures": [_text(one) for one in signatures]}

    async def wrap(self, body: Mapping[str, Any]) -> dict[str, Any]:
        plaintext, context = _bytes(_member(body, "plaintext", str)), _member(body, "context", dict)
        return {"wrapped": _text(await self._run(lambda: self._keys.wrap(plaintext, context)))}

    async def unwrap(self, body: Mapping[str, Any]) -> dict[str, Any]:
        wrapped, context = _bytes(_member(body, "wrapped", str)), _member(body, "context", dict)
        return {"plaintext": _text(await self._run(lambda: self._keys.unwrap(wrapped, context)))}

    def answering(
        self, work: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Make a route of ``work``: admit the caller, read the body, answer or say why not."""

        async def route(request: Request) -> Response:
            caller = self._caller(request)
            if caller is None:
                log.warning("refused a caller at %s", request.url.path)
                return _reply(403, {"code": "caller_not_allowed", "detail": "This certificate may not sign."})
            count, outcome = 0, "unforeseen"
            try:
                body = await _body(request)
                count = _count(body)
                answer = await work(body)
                outcome = "ok"
                return _reply(200, answer)
            except MarketplaceError as error:
                outcome = error.code
                return _reply(_status(error), {"code": error.code, "detail": error.detail})
            finally:
                log.info("%s of %d by %s: %s", request.url.path, count, caller, outcome)

        return route

    def _caller(self, request: Request) -> str | None:
        # TLS has verified the certificate against the client CA; here it is decided whose calls are taken.
        peer: Peer | None = request.scope.get(PEER)
        if peer is None or len(peer.uris) != 1 or peer.expires_at_s <= self._now_s():
            return None
        return peer.uris[0] if peer.uris[0] in self._settings.identities else None

    async def _run(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


async def _body(request: Request) -> Mapping[str, Any]:
    if request.method == "GET":
        return {}
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES_MAX:
            raise RejectedError("body_too_large", f"A body has at most {BODY_BYTES_MAX} bytes.")
    body = strict_json.loads(bytes(data), max_bytes=BODY_BYTES_MAX)
    if not isinstance(body, dict):
        raise _malformed("The body must be an object.")
    return body


def _count(body: Mapping[str, Any]) -> int:
    messages = body.get("messages")
    return len(messages) if isinstance(messages, list) else 1


def _member(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if not isinstance(value, kind):
        raise _malformed(f"{name} is missing or of a wrong type.")
    return value


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True)  # type: ignore[arg-type]  # TypeError is caught
    except (ValueError, TypeError):
        raise _malformed("A text is not base64.") from None


def _malformed(detail: str) -> RejectedError:
    return RejectedError("body_malformed", detail)


def _status(error: MarketplaceError) -> int:
    if isinstance(error, BusyError):
        return _STATUS_BUSY
    return _STATUS_AWAY if isinstance(error, DependencyError) else _STATUS_REFUSED


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _reply(status: int, body: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
