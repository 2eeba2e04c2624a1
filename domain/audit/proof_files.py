"""A proof as a file: a fact, its way to the root, and the checkpoint; checked without a network.

Canonical JSON with three members, each of which is checked against the others, so that no byte of a file can
be changed: ``record`` hashes to the leaf, ``proof`` leads from there to the root, ``checkpoint`` signs the
root.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from domain import canonical_json, strict_json
from domain.audit.checkpoints import NOTE_CHARS_MAX, Checkpoint, open_note
from domain.audit.proofs import LogProof, proof_json, read_proof
from domain.document_fields import closed_object
from domain.errors import RejectedError
from domain.signing import Verifier
from domain.strict_json import DocumentError

FILE_BYTES_MAX = 1_048_576  # an order's longest event is some 300 KB
_MEMBERS = frozenset({"record", "proof", "checkpoint"})


@dataclass(frozen=True, slots=True)
class ProofFile:
    """What a file holds; nothing of it is believed yet."""

    record: str
    proof: LogProof
    note: str

    def dumps(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json.dumps(
            {"record": self.record, "proof": proof_json(self.proof), "checkpoint": self.note}
        )

    def check(self, trusted: Iterable[bytes], verify: Verifier) -> Checkpoint:
        """Check the file against the platform's public keys; returns the checkpoint that it leads to.

        Raises:
            CheckpointError: ``checkpoint_invalid`` or ``checkpoint_untrusted``.
            RejectedError: ``log_proof_wrong``.
        """
        checkpoint, _ = open_note(self.note, trusted, verify)
        if not self.proof.holds(checkpoint.head, self.record):
            raise RejectedError(
                "log_proof_wrong",
                f"The record is not proven to be entry {self.proof.position} of the log of "
                f"{checkpoint.head.size}.",
            )
        return checkpoint


def read(data: bytes) -> ProofFile:
    """Read a file, in the one spelling in which it is written.

    Raises:
        DocumentError: the codes of ``strict_json.loads`` and ``read_proof``, or ``log_proof_invalid``.
    """
    members = closed_object(strict_json.loads(data, max_bytes=FILE_BYTES_MAX), "The proof file", _MEMBERS)
    record, note = members["record"], members["checkpoint"]
    if not isinstance(record, str) or not isinstance(note, str) or len(note) > NOTE_CHARS_MAX:
        raise DocumentError("log_proof_invalid", "A proof file has a record and a checkpoint, both text.")
    found = ProofFile(record, read_proof(members["proof"]), note)
    if found.dumps() != data:
        raise DocumentError("log_proof_invalid", "The proof file is not as it was written.")
    return found
