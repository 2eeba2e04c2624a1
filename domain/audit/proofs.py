"""Proofs that a fact is in the log, as they travel: in answers, in files, inside an offline licence.

A ``LogProof`` says where the entry lies, its salt, and the path to the root of a tree of ``size``. It proves
nothing by itself: whoever checks it knows the root from a signed checkpoint, or from the key list.
"""

import base64
from dataclasses import dataclass
from typing import Any

from domain.audit.entries import SALT_BYTES, document_record, leaf_of
from domain.document_fields import closed_object, integer_field
from domain.dsse import decode_base64
from domain.merkle.proofs import PROOF_HASHES_MAX, included
from domain.merkle.tree import HASH_BYTES, SIZE_MAX, Head
from domain.strict_json import DocumentError

_MEMBERS = frozenset({"position", "salt", "size", "path"})


@dataclass(frozen=True, slots=True)
class LogProof:
    """See the module. ``path`` has the hashes from the leaf to the root, ``salt`` 16 bytes."""

    position: int
    salt: bytes
    size: int
    path: tuple[bytes, ...]

    def holds(self, head: Head, record: str) -> bool:
        """Whether exactly this record is in the tree ``head``."""
        return (
            self.size == head.size
            and len(self.salt) == SALT_BYTES
            and included(head, self.position, leaf_of(self.salt, record), self.path)
        )

    def holds_document(self, head: Head, kind: str, envelope: str) -> bool:
        """Whether exactly this signed document is in the tree ``head``."""
        return self.holds(head, document_record(kind, envelope))


def proof_json(proof: LogProof) -> dict[str, Any]:
    """Return a proof as JSON members."""
    return {
        "position": proof.position,
        "salt": text_of(proof.salt),
        "size": proof.size,
        "path": [text_of(one) for one in proof.path],
    }


def read_proof(value: Any) -> LogProof:
    """Read a proof's members.

    Raises:
        DocumentError: ``log_proof_invalid``, or the codes of ``domain.document_fields``.
    """
    members = closed_object(value, "The log proof", _MEMBERS)
    path = hashes_of(members["path"])
    salt = _bytes(members["salt"])
    if len(salt) != SALT_BYTES:
        raise DocumentError("log_proof_invalid", f"A salt has {SALT_BYTES} bytes.")
    return LogProof(
        integer_field(members, "position", 0, SIZE_MAX),
        salt,
        integer_field(members, "size", 1, SIZE_MAX),
        path,
    )


def hashes_of(value: Any) -> tuple[bytes, ...]:
    """Read a list of hashes in base64.

    Raises:
        DocumentError: ``log_proof_invalid``.
    """
    if not isinstance(value, list) or len(value) > PROOF_HASHES_MAX:
        raise DocumentError("log_proof_invalid", f"A proof has at most {PROOF_HASHES_MAX} hashes.")
    hashes = tuple(_bytes(one) for one in value)
    if any(len(one) != HASH_BYTES for one in hashes):
        raise DocumentError("log_proof_invalid", f"A hash has {HASH_BYTES} bytes.")
    return hashes


def _bytes(text: Any) -> bytes:
    # One spelling only: a proof whose bytes were altered is refused, whether or not they say the same.
    raw = decode_base64(text, "A hash or salt of a log proof")
    if text_of(raw) != text:
        raise DocumentError("base64_invalid", "A log proof is written in the standard alphabet of base64.")
    return raw


def text_of(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()
