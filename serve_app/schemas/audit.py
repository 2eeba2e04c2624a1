"""Bodies of the audit log: proofs, entries and kept checkpoints. Hashes and salts are base64."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from domain.audit.entries import Entry
from domain.audit.proofs import LogProof, proof_json, text_of
from domain.dsse import ENVELOPE_BYTES_MAX
from domain.merkle.tree import SIZE_MAX
from serve_app.schemas.base import Document, Request, rfc3339
from storage.market.audit_log import KeptCheckpoint


class LogProofBody(Document):
    """Where the entry lies, its salt, and the hashes from its leaf to the root of the tree of ``size``."""

    position: int
    salt: str
    size: int
    path: list[str]


class ConsistencyBody(Document):
    """The hashes that prove that the tree of ``size`` begins with that of ``from_size``."""

    from_size: int
    size: int
    path: list[str]


class EntryProof(Document):
    """A fact, the proof that it is in the log, and the checkpoint that the proof leads to.

    The entry is SHA-256 of the salt's bytes and the record's. ``checkpoint`` is null for a size that was
    asked for and never signed. ``consistency`` is there where ``from`` was asked for.
    """

    kind: str
    subject_id: str
    record: str
    proof: LogProofBody
    root: str
    checkpoint: str | None
    consistency: ConsistencyBody | None


class DocumentQuestion(Request):
    """A licence or delivery manifest (the envelope, or its text) whose proof is wanted, and of which tree.

    ``size`` is that of a head that you know, such as the one a key list names; null: the last checkpoint's.
    """

    document: Annotated[str, Field(max_length=ENVELOPE_BYTES_MAX)] | dict[str, Any]
    size: Annotated[int, Field(ge=1, le=SIZE_MAX)] | None = None


class LogEntry(Document):
    """An entry: SHA-256 of salt and record. Both are null once the fact is erased."""

    position: int
    kind: str
    subject_id: str
    salt: str | None
    digest: str
    record: str | None


class LogEntries(Document):
    """In the log's order; ``next_from`` is where the next page begins, null at the end."""

    items: list[LogEntry]
    next_from: int | None


class KeptHead(Document):
    """A head that was signed, the note, and when it was kept by the database's clock."""

    size: int
    root: str
    key_id: str
    kept_at: str
    note: str


def proof_document(
    entry: Entry,
    proof: LogProof,
    root: bytes,
    note: str | None,
    consistency: tuple[int, Sequence[bytes]] | None,
) -> dict[str, Any]:
    """Write an ``EntryProof``."""
    return {
        "kind": entry.kind,
        "subject_id": entry.subject_id,
        "record": entry.record,
        "proof": proof_json(proof),
        "root": text_of(root),
        "checkpoint": note,
        "consistency": None
        if consistency is None
        else {
            "from_size": consistency[0],
            "size": proof.size,
            "path": [text_of(one) for one in consistency[1]],
        },
    }


def entry_document(entry: Entry) -> dict[str, Any]:
    """Write a ``LogEntry``."""
    return {
        "position": entry.position,
        "kind": entry.kind,
        "subject_id": entry.subject_id,
        "salt": None if entry.salt is None else text_of(entry.salt),
        "digest": text_of(entry.digest),
        "record": None if entry.salt is None else entry.record,
    }


def checkpoint_document(kept: KeptCheckpoint) -> dict[str, Any]:
    """Write a ``KeptHead``."""
    return {
        "size": kept.head.size,
        "root": text_of(kept.head.root),
        "key_id": kept.key_id,
        "kept_at": rfc3339(kept.at),
        "note": kept.note,
    }
