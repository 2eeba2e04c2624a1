"""Operators' own operations: issuing bearer tokens.

A token's text exists in one answer only. What is stored is its SHA-256, and a repeated request is told
that the token was shown before.
"""

import hashlib
import secrets
from collections.abc import Sequence

from starlette.responses import Response

from serve_app import examples
from serve_app.auth import OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.schemas.operators import IssuedToken, NewToken
from storage.market.access import Principal

TOKEN_RANDOM_BYTES = 32
TOKEN_PREFIX = "mkt_"  # noqa: S105 - lets scanners for leaked secrets find ours


async def issue_token(call: Call) -> Response:
    """POST /v1/ops/tokens."""
    value = await call.json()
    body = read_model(NewToken, value)
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_RANDOM_BYTES)
    holder = Principal(body.role, body.principal_id)
    public = {"role": body.role, "principal_id": body.principal_id}
    earlier = await call.ports.access.issue(
        write_of(call, value),
        hashlib.sha256(token.encode()).digest(),
        holder,
        {"token": None, **public, "replayed": True},
    )
    private = {"Cache-Control": "no-store"}
    if earlier is not None:
        return reply(201, {"token": None, **public, "replayed": True}, {**private, **REPLAYED})
    return reply(201, {"token": token, **public, "replayed": False}, private)


def operations() -> Sequence[Operation]:
    """List the operators' operations."""
    return (
        Operation(
            "POST",
            "/v1/ops/tokens",
            "issueToken",
            "Issue a bearer token; it is shown once",
            issue_token,
            {201: Answer("Issued", IssuedToken, examples.ISSUED_TOKEN)},
            roles=frozenset({OPERATOR}),
            write=True,
            request=NewToken,
            request_example={"role": "buyer", "principal_id": "buyer_ada"},
        ),
    )
