"""Idempotency keys of HTTP writes: what makes two requests the same, and how a repetition is answered.

A request is named by caller and key, and told apart by a SHA-256 over method, path and the parsed body
in sorted form, so spaces and the order of members do not matter. Rows are written by the statement that
does the write (``storage.market.commands``); orders keep theirs in their own commit.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from domain.errors import RejectedError
from serve_app.calls import Call, refuse_card_number, reply
from storage.market.commands import Recorded, Write

REPLAYED = {"Idempotent-Replayed": "true"}
_KEY = re.compile(rb"[ -~]{1,255}")


def require_key(headers: Mapping[bytes, bytes]) -> str:
    """Return the request's ``Idempotency-Key``.

    Raises:
        RejectedError: ``idempotency_key_missing``, ``idempotency_key_malformed`` or ``card_number_found``.
    """
    key = headers.get(b"idempotency-key")
    if key is None:
        raise RejectedError(
            "idempotency_key_missing",
            "Send an Idempotency-Key (a fresh UUID, say) and repeat it when you repeat the request.",
        )
    if not _KEY.fullmatch(key):
        raise RejectedError(
            "idempotency_key_malformed", "An Idempotency-Key is 1 to 255 printable ASCII characters."
        )
    refuse_card_number(key)
    return key.decode("ascii")


def write_of(call: Call, body: Any, principal_id: str | None = None) -> Write:
    """Name this write by its caller, its key, and the digest of what it asks.

    ``principal_id`` stands for a caller without a token, whose right comes from elsewhere.
    """
    digest = hashlib.sha256(
        b"%b\0%b\0%b"
        % (
            call.scope["method"].encode(),
            call.scope["path"].encode(),
            orjson.dumps(body, option=orjson.OPT_SORT_KEYS),
        )
    ).digest()
    return Write(principal_id or call.caller.principal_id, require_key(call.headers), digest)


def answer(status: int, body: Mapping[str, Any], earlier: Recorded | None) -> Response:
    """Answer a write with its body, or with what an equal one was answered before."""
    if earlier is None:
        return reply(status, body)
    return reply(status, body if earlier.body is None else earlier.body, REPLAYED)
