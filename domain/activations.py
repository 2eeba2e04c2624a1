"""Activations: one machine's seat of a licence, as a short-lived document that software checks by itself.

A licence has as many seats as its quantity; the database counts them under a lock. A **seat** is held until
it is released; its document lasts a day and is renewed by a heartbeat. A **lease** (floating) is held for a
quarter of an hour, and is free again when no heartbeat renews it. The document names the licence's
document and the machine's fingerprint, so a copy serves no other machine and no later owner.

The document is also the credential for its own heartbeat and release: whoever holds it governs that seat and
no other. Signed by the platform, DSSE with its own payload type, read only as the exact text that was issued.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from domain import canonical_json, strict_json
from domain.document_fields import closed_object, format_time, time_field, token_field
from domain.dsse import Envelope, pae
from domain.licence_policies import FLOATING, LicencePolicy
from domain.licence_verification import CLOCK_SKEW, Finding
from domain.platform_documents import open_exactly
from domain.signing import KeyRecord, KeyState, Verifier
from domain.strict_json import DocumentError

PAYLOAD_TYPE = "application/vnd.illuvrse.activation.v1+json"
SEAT_LIFE = timedelta(hours=24)  # how long a released seat may go on working without a network
LEASE_LIFE = timedelta(minutes=15)
NAME_CHARS_MAX = 64  # a machine's name, for the owner's list
ACTIVATION_PREFIX = "lac"
SEAT, LEASE = "seat", "lease"
_MEMBERS = frozenset({"activation_id", "licence_id", "fingerprint", "kind", "issued_at", "expires_at"})


@dataclass(frozen=True, slots=True)
class Activation:
    """One machine's right to use one document of a licence until ``expires_at`` (UTC, whole seconds).

    ``fingerprint`` is whatever the software tells machines apart by, 1 to 128 visible ASCII characters.
    """

    activation_id: str
    licence_id: str
    fingerprint: str
    kind: str
    issued_at: datetime
    expires_at: datetime


def kind_of(policy: LicencePolicy) -> str:
    """Return how a licence under this policy is activated."""
    return LEASE if policy.activation == FLOATING else SEAT


def life_of(kind: str) -> timedelta:
    """Return how long a document of this kind lasts, and a lease is held."""
    return LEASE_LIFE if kind == LEASE else SEAT_LIFE


def build(activation: Activation) -> bytes:
    """Return the payload to sign.

    Raises:
        DocumentError: for an activation that ``parse`` would refuse.
    """
    payload = canonical_json.dumps(
        {
            "activation_id": activation.activation_id,
            "licence_id": activation.licence_id,
            "fingerprint": activation.fingerprint,
            "kind": activation.kind,
            "issued_at": format_time(activation.issued_at),
            "expires_at": format_time(activation.expires_at),
        }
    )
    if parse(payload) != activation:
        raise DocumentError("activation_invalid", "An activation has whole seconds of UTC and plain names.")
    return payload


def parse(payload: bytes) -> Activation:
    """Read a payload; says nothing about who signed it.

    Raises:
        DocumentError: the codes of ``strict_json.loads`` and ``domain.document_fields``.
    """
    members = closed_object(strict_json.loads(payload, max_bytes=4_096), "The activation", _MEMBERS)
    if members["kind"] not in (SEAT, LEASE):
        raise DocumentError("field_invalid", f"kind is {SEAT} or {LEASE}.")
    return Activation(
        activation_id=token_field(members, "activation_id"),
        licence_id=token_field(members, "licence_id"),
        fingerprint=token_field(members, "fingerprint"),
        kind=members["kind"],
        issued_at=time_field(members, "issued_at"),
        expires_at=time_field(members, "expires_at"),
    )


def open_envelope(text: str) -> tuple[Envelope, Activation]:
    """Read an activation's envelope. Verifies nothing.

    Raises:
        DocumentError: the codes of ``open_exactly`` and ``parse``.
    """
    envelope = open_exactly(text, PAYLOAD_TYPE, "an activation")
    return envelope, parse(envelope.payload)


def check_signature(envelope: Envelope, keys: Mapping[str, KeyRecord], verify: Verifier) -> Finding | None:
    """Return why the signature does not count, or None when it does.

    A key that is compromised signs no activation that counts: they are short-lived, so there is no earlier
    one to save.
    """
    one = envelope.signatures[0]
    key = keys.get(one.key_id or "")
    if key is None or not verify(key.public_key, pae(envelope.payload_type, envelope.payload), one.sig):
        return _refused("invalid", "The activation was altered, or no key of the platform signed it.")
    if key.state is KeyState.COMPROMISED:
        return _refused("compromised", "The key that signed the activation is compromised. Activate again.")
    return None


def check(
    text: str,
    keys: Mapping[str, KeyRecord],
    verify: Verifier,
    *,
    licence_id: str,
    fingerprint: str,
    now: datetime,
) -> Finding:
    """Judge an activation for a licence's document and a machine, without a network.

    Raises:
        DocumentError: for a text that is no activation as the platform writes it.
    """
    envelope, activation = open_envelope(text)
    if (fault := check_signature(envelope, keys, verify)) is not None:
        return fault
    if activation.licence_id != licence_id:
        return _refused("other_licence", "The activation is of another licence.")
    if activation.fingerprint != fingerprint:
        return _refused("other_machine", "The activation is of another machine.")
    if activation.issued_at > now + CLOCK_SKEW:
        return _refused("not_yet_valid", "The activation is dated in the future; check this clock.")
    if now >= activation.expires_at:
        return _refused("expired", "The activation is over. Renew it with a heartbeat.")
    return Finding(
        "active", acceptable=True, reason=f"Activated until {activation.expires_at:%Y-%m-%d %H:%M:%S} UTC."
    )


def _refused(state: str, reason: str) -> Finding:
    return Finding(state, acceptable=False, reason=reason)
