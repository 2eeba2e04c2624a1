"""in-toto Statement v1: what a signature says about which files.

A statement binds a predicate (our licence or manifest) to subjects, each a name and a SHA-256. Built
canonically, parsed strictly: exactly the four members, one to ``SUBJECTS_MAX`` subjects with distinct
names, and SHA-256 only, since a second algorithm would let two readers check two different files.
Spec: in-toto attestation framework, ``spec/v1/statement.md``.
"""

from dataclasses import dataclass
from typing import Any

from domain import canonical_json, strict_json
from domain.document_fields import closed_object, file_name_field, sha256_field, text_field
from domain.strict_json import DocumentError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_BYTES_MAX = 8_192  # what we sign is at most 4 KB; other tools' JSON may be spaced out
SUBJECTS_MAX = 8  # a delivery names three files; file lists belong in a digest
PREDICATE_TYPE_CHARS_MAX = 256  # a type URI, not a document

_STATEMENT = frozenset({"_type", "subject", "predicateType", "predicate"})
_SUBJECT = frozenset({"name", "digest"})
_DIGEST = frozenset({"sha256"})


@dataclass(frozen=True, slots=True)
class Subject:
    """A file: its plain name and SHA-256 in lower-case hexadecimal."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Statement:
    """Subjects and the typed predicate about them; ``predicate`` is JSON as Python values."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: dict[str, Any]

    def build(self) -> bytes:
        """Canonical JSON of the statement: the payload of a DSSE envelope."""
        return canonical_json.dumps(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": one.name, "digest": {"sha256": one.sha256}} for one in self.subjects],
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )

    @classmethod
    def parse(cls, payload: bytes, *, predicate_type: str) -> "Statement":
        """Read the payload of a verified envelope that must carry this type of predicate.

        Raises:
            DocumentError: the codes of ``strict_json.loads``, ``field_missing``, ``field_unknown``,
                ``field_invalid``, ``statement_type_unknown``, ``predicate_type_wrong``, ``subjects_invalid``.
        """
        members = closed_object(
            strict_json.loads(payload, max_bytes=STATEMENT_BYTES_MAX), "The statement", _STATEMENT
        )
        if members["_type"] != STATEMENT_TYPE:
            raise DocumentError("statement_type_unknown", f"_type must be {STATEMENT_TYPE}.")
        # Checked before the predicate is read: one kind of document never passes for another.
        if text_field(members, "predicateType", PREDICATE_TYPE_CHARS_MAX) != predicate_type:
            raise DocumentError("predicate_type_wrong", f"predicateType must be {predicate_type}.")
        if not isinstance(members["predicate"], dict):
            raise DocumentError("field_invalid", "predicate must be an object.")
        return cls(_parse_subjects(members["subject"]), predicate_type, members["predicate"])


def _parse_subjects(entries: Any) -> tuple[Subject, ...]:
    if not isinstance(entries, list) or not 1 <= len(entries) <= SUBJECTS_MAX:
        raise DocumentError("subjects_invalid", f"A statement has 1 to {SUBJECTS_MAX} subjects.")
    subjects = []
    for entry in entries:
        members = closed_object(entry, "A subject", _SUBJECT)
        digest = closed_object(members["digest"], "A subject's digest", _DIGEST)
        subjects.append(Subject(file_name_field(members, "name"), sha256_field(digest, "sha256")))
    if len({one.name for one in subjects}) != len(subjects):
        raise DocumentError("subjects_invalid", "Two subjects have the same name.")
    return tuple(subjects)
