"""What operators sign about a proposal, and whose valid signature an envelope bears.

The payload is the canonical JSON of exactly ``expires_at``, ``kind``, ``base_version``, ``new_hash``,
``previous_hash`` and ``proposal_id``. It is signed in a DSSE envelope whose payload type names the action:
DSSE signs the type together with the payload, so a rejection is never taken for an approval, nor either for a
licence. Any DSSE tool can check it. Hashes are SHA-256 of the documents' canonical JSON, in hexadecimal.

Refused: envelopes with no or several signatures, payloads that are not canonical, and keys that the caller
does not trust. The ``keyid`` only says which trusted key is tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain import canonical_json, dsse, strict_json
from domain.document_fields import (
    closed_object,
    format_time,
    integer_field,
    sha256_field,
    time_field,
    token_field,
)
from domain.dsse import Envelope
from domain.proposals.documents import Kind
from domain.proposals.refusals import refusal
from domain.signing import Signer, Verifier
from domain.strict_json import DocumentError

STATEMENT_BYTES_MAX = 1_024  # it takes some 360
VERSION_MAX = 2**31 - 1
_MEMBERS = frozenset({"kind", "base_version", "previous_hash", "new_hash", "expires_at", "proposal_id"})


class Action(StrEnum):
    """What a signature does."""

    PROPOSAL = "proposal"
    APPROVAL = "approval"
    REJECTION = "rejection"
    WITHDRAWAL = "withdrawal"

    @property
    def payload_type(self) -> str:
        """The DSSE payload type, which separates this action's signatures from every other."""
        return f"application/vnd.illuvrse.governance-{self}.v1+json"


@dataclass(frozen=True, slots=True)
class Statement:
    """One proposed change; ``expires_at`` is UTC in whole seconds."""

    proposal_id: str
    kind: Kind
    base_version: int
    previous_hash: str
    new_hash: str
    expires_at: datetime

    def build(self) -> bytes:
        """Return the payload: equal statements give equal bytes."""
        return canonical_json.dumps(
            {
                "base_version": self.base_version,
                "expires_at": format_time(self.expires_at),
                "kind": self.kind.value,
                "new_hash": self.new_hash,
                "previous_hash": self.previous_hash,
                "proposal_id": self.proposal_id,
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> "Statement":
        """Read a payload.

        Raises:
            RejectedError: ``proposal_kind_unknown`` or ``proposal_envelope_invalid``.
        """
        try:
            members = closed_object(
                strict_json.loads(payload, max_bytes=STATEMENT_BYTES_MAX), "The statement", _MEMBERS
            )
            if members["kind"] not in list(Kind):
                raise refusal("proposal_kind_unknown")
            statement = cls(
                token_field(members, "proposal_id"),
                Kind(members["kind"]),
                integer_field(members, "base_version", 1, VERSION_MAX),
                sha256_field(members, "previous_hash"),
                sha256_field(members, "new_hash"),
                time_field(members, "expires_at"),
            )
        except DocumentError as error:
            raise refusal("proposal_envelope_invalid") from error
        if statement.build() != payload:
            raise refusal("proposal_envelope_invalid")
        return statement


def sign(signer: Signer, action: Action, statement: Statement) -> str:
    """Return the envelope's one canonical text."""
    return dsse.sign_all(signer, action.payload_type, [statement.build()])[0].dumps()


def open_envelope(text: str, action: Action) -> tuple[Envelope, Statement]:
    """Read an envelope of this action. Nothing is verified yet.

    Raises:
        RejectedError: ``proposal_envelope_invalid`` or ``proposal_kind_unknown``.
    """
    try:
        envelope = Envelope.parse(text)
    except DocumentError as error:
        raise refusal("proposal_envelope_invalid") from error
    if (
        envelope.payload_type != action.payload_type
        or len(envelope.signatures) != 1
        or envelope.signatures[0].key_id is None
    ):
        raise refusal("proposal_envelope_invalid")
    return envelope, Statement.parse(envelope.payload)


def signed_by(envelope: Envelope, trusted: Mapping[str, bytes], verify: Verifier) -> str:
    """Return the id of the trusted key that made the envelope's one signature.

    Raises:
        RejectedError: ``approval_key_unknown`` or ``approval_signature_invalid``.
    """
    (signature,) = envelope.signatures
    key_id = signature.key_id or ""
    if key_id not in trusted:
        raise refusal("approval_key_unknown")
    if dsse.signing_key(envelope, {key_id: trusted[key_id]}, verify) is None:
        raise refusal("approval_signature_invalid")
    return key_id
