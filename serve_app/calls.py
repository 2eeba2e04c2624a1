"""One request as its route sees it: who calls, what was sent, and how to answer.

A ``Call`` is made by the middleware and completed by the operation's guard; routes read it and return a
response. Bodies are read within their bound whatever Content-Length claims, and JSON is read strictly:
duplicate members, NaN and half surrogates are refused, because the digest of an idempotent request is
taken over what was understood.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope

from domain import strict_json
from domain.card_numbers import holds_card_number
from domain.errors import RejectedError
from domain.strict_json import DocumentError
from serve_app.limits import BODY_BYTES_MAX
from serve_app.ports import IngressPorts
from serve_app.problems import FIELD_ERRORS_MAX, FieldsInvalidError
from storage.market.access import Principal

M = TypeVar("M", bound=BaseModel)
JSON = "application/json"


class Call:
    """See the module. ``principal`` is None on public operations."""

    __slots__ = (
        "deadline",
        "headers",
        "parameters",
        "ports",
        "principal",
        "receive",
        "request_id",
        "route",
        "scope",
        "streaming",
    )

    def __init__(self, scope: Scope, receive: Receive, request_id: str, ports: IngressPorts) -> None:
        self.scope = scope
        self.receive = receive
        self.request_id = request_id
        self.ports = ports
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.parameters: Mapping[str, str] = {}
        self.principal: Principal | None = None
        self.route = "unmatched"
        self.deadline: asyncio.Timeout | None = None
        self.streaming = False

    @property
    def caller(self) -> Principal:
        """The authenticated caller of an operation that is not public."""
        assert self.principal is not None, "the operation's guard has admitted the caller"
        return self.principal

    def stream(self) -> None:
        """Lift the request's deadline: what follows is a stream, which bounds its own life."""
        self.streaming = True
        if self.deadline is not None:
            self.deadline.reschedule(None)

    async def body(self, bytes_max: int = BODY_BYTES_MAX) -> bytes:
        """Read the body.

        Raises:
            RejectedError: ``body_too_large``.
            ClientDisconnect: nobody is left to answer.
        """
        self.require_length(bytes_max)
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                raise _too_large(bytes_max)
            chunks.append(chunk)
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def require_length(self, bytes_max: int) -> None:
        """Refuse a body that announces itself as too large, before a byte of it is read.

        Raises:
            RejectedError: ``body_too_large``.
        """
        length = self.headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > bytes_max:  # noqa: PLR2004 - int() stays cheap
            raise _too_large(bytes_max)

    async def json(self, bytes_max: int = BODY_BYTES_MAX, *, optional: bool = False) -> Any:
        """Read a JSON body; ``optional`` takes an empty one for ``{}``.

        Raises:
            RejectedError: ``content_type_unsupported``, ``body_too_large``, ``card_number_found`` or
                those of ``parse_json``.
        """
        media_type = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        # Judged first: a form of ten megabytes is told about its type and never read.
        if media_type != b"application/json" and not (optional and not media_type):
            raise RejectedError("content_type_unsupported", "Send JSON with Content-Type: application/json.")
        raw = await self.body(bytes_max)
        if optional and not raw:
            return {}
        refuse_card_number(raw)
        value = parse_json(raw, bytes_max)
        if b"\\u" in raw:  # escapes may hide digits
            refuse_card_number(orjson.dumps(value))
        return value


def refuse_card_number(sent: bytes) -> None:
    """Refuse what looks like a card number before anything else looks at it; it is repeated nowhere.

    Raises:
        RejectedError: ``card_number_found``.
    """
    if holds_card_number(sent):
        raise RejectedError(
            "card_number_found",
            "The request holds what looks like a card number. Nothing of it was kept. Cards are given to "
            "Stripe only, by its own page or library; if it is another number, write it otherwise.",
        )


def parse_json(raw: bytes, bytes_max: int = BODY_BYTES_MAX) -> Any:
    """Parse JSON strictly.

    Raises:
        RejectedError: ``json_duplicate_key``, ``json_number_invalid`` or ``body_malformed``.
    """
    try:
        return strict_json.loads(raw, max_bytes=bytes_max)
    except DocumentError as error:
        code = error.code if error.code in strict_json.TOLD_AS_THEY_ARE else "body_malformed"
        raise RejectedError(code, error.detail) from error


def read_model(model: type[M], value: Any) -> M:
    """Check a parsed body against its schema.

    Raises:
        FieldsInvalidError: ``body_invalid``, with a JSON pointer for each fault.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        raise FieldsInvalidError(
            "body_invalid",
            "The body does not have the form that this operation takes; see /openapi.json.",
            [(_pointer(fault["loc"]), fault["msg"]) for fault in faults[:FIELD_ERRORS_MAX]],
        ) from None


def reply(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return Response(orjson.dumps(body), status, headers, JSON)


def _too_large(bytes_max: int) -> RejectedError:
    return RejectedError("body_too_large", f"The body may have at most {bytes_max} bytes here.")


def _pointer(location: tuple[int | str, ...]) -> str:
    """JSON pointer (RFC 6901) of a fault's place."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')[:80]}" for part in location)
