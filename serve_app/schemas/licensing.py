"""Bodies of what happens to licences after their issue: transfers, renewals, activations, ownership."""

from typing import Annotated, Any

import orjson
from pydantic import Field

from domain.activations import NAME_CHARS_MAX
from domain.document_fields import TOKEN_CHARS_MAX
from domain.ownership import PAYLOAD_TYPE, Challenge
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.dead_letters import REASON_CHARS_MAX, REASON_CHARS_MIN, REASON_PATTERN
from serve_app.schemas.licences import IssuedLicence
from storage.market.licensing import ActivationRow, Transfer

Token = Annotated[str, Field(min_length=1, max_length=TOKEN_CHARS_MAX, pattern=r"^[!-~]+$")]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]
Signed = Annotated[str, Field(max_length=16_384)] | dict[str, Any]


class LicencePage(Document):
    """One's licences, newest id first."""

    items: list[IssuedLicence]
    next_cursor: str | None


class NewTransfer(Request):
    """To whom a licence is offered: the other buyer's id, as in that buyer's own orders."""

    to_buyer_id: Token


class TransferDocument(Document):
    """An offer of a licence: offered, accepted, withdrawn, declined or expired."""

    id: str
    licence_id: str
    from_buyer_id: str
    to_buyer_id: str
    status: str
    new_licence_id: str | None
    offered_at: str
    expires_at: str
    closed_at: str | None


class NewRenewal(Request):
    """Which licence of yours is to be followed by this one."""

    renews: Token


class NewReissue(Request):
    """Why the operator has the licence reissued; kept for good."""

    reason: Annotated[
        str, Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN)
    ]


class NewActivation(Request):
    """A machine that wants a seat. ``proof`` is for software without the owner's token."""

    fingerprint: Token
    name: Name = "unnamed"
    proof: Signed | None = None


class HeldActivation(Request):
    """An activation as it was issued: its envelope, as an object or as its text."""

    activation: Signed


class Release(Request):
    """The activation's envelope; nothing for the owner, who sends a token."""

    activation: Signed | None = None


class Released(Document):
    """Whether there was a seat to free; either way it is free now."""

    id: str
    released: bool


class Seat(Document):
    """A seat in use. ``held_until`` is null for a seat that is held until it is released."""

    id: str
    licence_id: str
    fingerprint: str
    name: str
    kind: str
    activated_at: str
    heartbeat_at: str
    held_until: str | None


class Seats(Document):
    """A licence's seats: how many there are, and those in use, oldest first."""

    quantity: int
    items: list[Seat]


class IssuedActivation(Document):
    """A seat with its signed document, which is good until ``expires_at``."""

    seat: Seat
    expires_at: str
    envelope: dict[str, Any]


class NewOwnerKey(Request):
    """The public half of an Ed25519 key, 32 bytes in base64."""

    public_key: Annotated[str, Field(max_length=64)]


class OwnerKey(Document):
    """The key that now proves ownership of the licence."""

    licence_id: str
    key_id: str


class NewChallenge(Request):
    """What a proof is wanted for: ``ownership`` (shown to anyone) or ``activation``."""

    purpose: Annotated[str, Field(pattern="^(ownership|activation)$")] = "ownership"


class ChallengeDocument(Document):
    """What the owner signs: ``payload`` as a DSSE payload of type ``payload_type``."""

    licence_id: str
    nonce: str
    purpose: str
    expires_at: str
    payload_type: str
    payload: str


def transfer_document(transfer: Transfer) -> dict[str, Any]:
    """Write a ``TransferDocument``."""
    return {
        "id": transfer.transfer_id,
        "licence_id": transfer.document_id,
        "from_buyer_id": transfer.from_buyer_id,
        "to_buyer_id": transfer.to_buyer_id,
        "status": transfer.status,
        "new_licence_id": transfer.successor_id,
        "offered_at": rfc3339(transfer.offered_at),
        "expires_at": rfc3339(transfer.expires_at),
        "closed_at": None if transfer.closed_at is None else rfc3339(transfer.closed_at),
    }


def seat_document(row: ActivationRow) -> dict[str, Any]:
    """Write a ``Seat``."""
    return {
        "id": row.activation_id,
        "licence_id": row.document_id,
        "fingerprint": row.fingerprint,
        "name": row.name,
        "kind": row.kind,
        "activated_at": rfc3339(row.activated_at),
        "heartbeat_at": rfc3339(row.heartbeat_at),
        "held_until": None if row.held_until is None else rfc3339(row.held_until),
    }


def activation_document(row: ActivationRow, expires_at: str, envelope: str) -> dict[str, Any]:
    """Write an ``IssuedActivation``."""
    return {"seat": seat_document(row), "expires_at": expires_at, "envelope": orjson.loads(envelope)}


def challenge_document(challenge: Challenge, expires_at: str) -> dict[str, Any]:
    """Write a ``ChallengeDocument``."""
    return {
        "licence_id": challenge.licence_id,
        "nonce": challenge.nonce,
        "purpose": challenge.purpose,
        "expires_at": expires_at,
        "payload_type": PAYLOAD_TYPE,
        "payload": challenge.payload().decode(),
    }
