"""Ownership by proof: the licence's owner signs a nonce with a key that is registered for the licence.

A licence names its buyer, which proves nothing about who shows it. So the owner registers an Ed25519 key for
the licence; whoever wants proof asks the platform for a challenge, and the owner signs it. A challenge is
used once, lives five minutes, and is bound to one licence and one purpose: what was signed to prove
ownership to a stranger activates nothing. Only hashes of nonces are stored.

The key is the licence's, not the account's: software may hold it, and it opens nothing else.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from domain import canonical_json, strict_json
from domain.document_fields import closed_object, token_field
from domain.dsse import Envelope, pae
from domain.errors import ConflictError, NotFoundError
from domain.signing import Verifier
from domain.strict_json import DocumentError

PAYLOAD_TYPE = "application/vnd.illuvrse.ownership-proof.v1+json"
NONCE_BYTES = 32
CHALLENGE_LIFE = timedelta(minutes=5)
OPEN_MAX = 1_024  # that wait for an answer, per licence; one more pushes the oldest out, and anybody may ask
OWNERSHIP, ACTIVATION = "ownership", "activation"
PURPOSES = (OWNERSHIP, ACTIVATION)
_MEMBERS = frozenset({"licence_id", "nonce", "purpose"})
_NONCE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What is to be signed; ``nonce`` is 64 lower-case hexadecimal digits."""

    licence_id: str
    nonce: str
    purpose: str

    @property
    def nonce_sha256(self) -> bytes:
        """What is stored of the nonce."""
        return hashlib.sha256(bytes.fromhex(self.nonce)).digest()

    def payload(self) -> bytes:
        """Return the payload to sign, in canonical JSON."""
        return canonical_json.dumps(
            {"licence_id": self.licence_id, "nonce": self.nonce, "purpose": self.purpose}
        )

    def message(self) -> bytes:
        """Return the exact bytes to sign."""
        return pae(PAYLOAD_TYPE, self.payload())


@dataclass(frozen=True, slots=True)
class Proof:
    """A challenge that somebody has signed."""

    challenge: Challenge
    envelope: Envelope

    def signed_by(self, public_key: bytes, verify: Verifier) -> bool:
        """Whether this key signed it."""
        message = pae(self.envelope.payload_type, self.envelope.payload)
        return verify(public_key, message, self.envelope.signatures[0].sig)


def open_proof(document: Any) -> Proof:
    """Read a proof's DSSE envelope, as text or as an object. Verifies nothing.

    Raises:
        DocumentError: the codes of ``Envelope.parse``, ``payload_type_wrong``, ``signatures_invalid``,
            ``field_invalid``.
    """
    try:
        text = document if isinstance(document, str) else canonical_json.dumps(document)
    except ValueError:
        raise DocumentError("field_invalid", "The proof is not a DSSE envelope.") from None
    envelope = Envelope.parse(text)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise DocumentError("payload_type_wrong", f"The payload type of a proof is {PAYLOAD_TYPE}.")
    if len(envelope.signatures) != 1:
        raise DocumentError("signatures_invalid", "A proof has one signature.")
    members = closed_object(strict_json.loads(envelope.payload, max_bytes=1_024), "The proof", _MEMBERS)
    nonce, purpose = members["nonce"], members["purpose"]
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise DocumentError("field_invalid", "nonce is 64 lower-case hexadecimal digits.")
    if purpose not in PURPOSES:
        raise DocumentError("field_invalid", f"purpose is one of {', '.join(PURPOSES)}.")
    return Proof(Challenge(token_field(members, "licence_id"), nonce, purpose), envelope)


def nonce_refused(state: str) -> ConflictError | NotFoundError:
    """Return the error for a nonce that cannot be used: ``used``, ``expired`` or anything else."""
    if state == "used":
        return ConflictError("nonce_replayed", "This challenge was answered before. Ask for a new one.")
    if state == "expired":
        return ConflictError(
            "nonce_expired", "The challenge is more than five minutes old. Ask for a new one."
        )
    return NotFoundError(
        "nonce_unknown", "There is no such challenge for this licence and purpose. Ask for a new one."
    )
