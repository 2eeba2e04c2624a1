"""Ownership: registering a licence's key, challenges, and judging proofs for the routes that take them.

Anyone who knows a licence's id may ask for a challenge; only the registered key can answer it. A nonce is not
kept, so a repeated request gets a challenge of its own. A proof is checked before its challenge is used up: a
stranger who saw the nonce cannot burn it.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import Response

from domain.dsse import decode_base64
from domain.errors import NotFoundError, RejectedError
from domain.ids import is_id
from domain.licence_refusals import refusal
from domain.ownership import ACTIVATION, NONCE_BYTES, OWNERSHIP, Challenge, open_proof
from domain.strict_json import DocumentError, rejection
from serve_app import examples, examples_licences
from serve_app.auth import BUYER
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import answer, write_of
from serve_app.limits import TokenBuckets
from serve_app.operations import Answer, Operation
from serve_app.ports import RateLimit
from serve_app.schemas import licensing as bodies
from serve_app.schemas.base import rfc3339
from storage.signing.keys import register, verify

HELD = ("licence_not_found", "licence_not_active", "licence_superseded", "order_contended")
PROOF = ("proof_invalid", "payload_type_wrong", "nonce_replayed", "nonce_expired", "nonce_unknown")
CHALLENGES = RateLimit(
    per_s=200.0, burst=400
)  # of one process; at this rate one lasts for seconds at the least
NO_STORE = {"Cache-Control": "no-store"}


def licence_id_of(call: Call) -> str:
    """Return the licence's id in the path.

    Raises:
        NotFoundError: ``licence_not_found``.
    """
    licence_id = call.parameters["licence_id"]
    if not is_id("lic", licence_id):
        raise refusal("licence_not_found")
    return licence_id


async def proven(call: Call, licence_id: str, purpose: str, proof: Any) -> bool:
    """Whether ``proof`` is the owner's word for this licence and purpose; its challenge is used up if so.

    Raises:
        RejectedError: ``proof_invalid``; it is malformed, or made for another licence or purpose. Or one of
            ``strict_json.TOLD_AS_THEY_ARE``.
        ConflictError: ``nonce_replayed``, ``nonce_expired``.
        NotFoundError: ``nonce_unknown``.
    """
    try:
        found = open_proof(proof)
    except DocumentError as error:
        raise rejection(error, "proof_invalid", "The proof") from None
    if (found.challenge.licence_id, found.challenge.purpose) != (licence_id, purpose):
        raise RejectedError("proof_invalid", f"The proof was made for another licence, or not for {purpose}.")
    public_key = await call.ports.licensing.owner_key(licence_id)
    if public_key is None or not found.signed_by(public_key, verify):
        return False
    await call.ports.licensing.answer(found.challenge)
    return True


async def register_key(call: Call) -> Response:
    """POST /v1/licences/{licence_id}/owner-keys."""
    value = await call.json()
    body = read_model(bodies.NewOwnerKey, value)
    licence_id = licence_id_of(call)
    try:
        record = register(decode_base64(body.public_key, "public_key"), call.ports.clock())
    except DocumentError as error:
        raise RejectedError("public_key_invalid", error.detail) from error
    write = write_of(call, value)
    earlier = await call.ports.licensing.register_owner_key(write, licence_id, record.public_key)
    return answer(201, {"licence_id": licence_id, "key_id": record.key_id}, earlier)


class ChallengeRoute:
    """Asks are rated as a whole: anybody may ask, each is a write, and no caller is told from another."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._asks = TokenBuckets(CHALLENGES, monotonic)

    async def challenge(self, call: Call) -> Response:
        """POST /v1/licences/{licence_id}/ownership-challenges."""
        body = read_model(bodies.NewChallenge, await call.json(optional=True))
        licence_id = licence_id_of(call)
        self._asks.take("everybody")
        if await call.ports.licences.licence(licence_id) is None:
            raise NotFoundError("licence_not_found", "There is no such licence.")
        made = Challenge(licence_id, secrets.token_hex(NONCE_BYTES), body.purpose)
        expires_at = await call.ports.licensing.challenge(made)
        return reply(201, bodies.challenge_document(made, rfc3339(expires_at)), NO_STORE)


def operations(monotonic: Callable[[], float]) -> Sequence[Operation]:
    """List the operations."""
    return (
        Operation(
            "POST",
            "/v1/licences/{licence_id}/owner-keys",
            "registerOwnerKey",
            "Register the key that proves ownership of your licence, instead of any before",
            register_key,
            {201: Answer("Registered", bodies.OwnerKey, examples_licences.OWNER_KEY)},
            roles=frozenset({BUYER}),
            write=True,
            request=bodies.NewOwnerKey,
            request_example={"public_key": examples.PUBLIC_KEY},
            problems=(*HELD, "public_key_invalid", "public_key_type_wrong"),
        ),
        Operation(
            "POST",
            "/v1/licences/{licence_id}/ownership-challenges",
            "challengeOwner",
            "Ask for a challenge that the licence's owner is to sign; good once, for five minutes",
            ChallengeRoute(monotonic).challenge,
            {201: Answer("The challenge", bodies.ChallengeDocument, examples_licences.CHALLENGE)},
            public=True,
            write=True,
            request=bodies.NewChallenge,
            request_optional=True,
            request_example={"purpose": "ownership"},
            problems=("licence_not_found", "owner_key_missing"),
        ),
    )


__all__ = ["ACTIVATION", "HELD", "NO_STORE", "OWNERSHIP", "PROOF", "licence_id_of", "operations", "proven"]
