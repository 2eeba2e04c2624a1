"""What the audit log holds of a fact: a salted digest, and nothing that tells whom it is about.

    record   the fact as text: lines, of which the first names its kind
    entry    SHA-256 of salt and record: the 32 bytes that are the leaf's data
    leaf     RFC 6962's hash of the entry

The salt (16 random bytes) is kept beside the entry and never in it. Once it and the fact are destroyed, the
entry tells nothing, and the tree stays whole. Postgres writes the same records (migration 0015); a test
compares them.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from domain.merkle.tree import leaf_hash

EVENT, LICENCE, DELIVERY = "event", "licence", "delivery"
KINDS = (EVENT, LICENCE, DELIVERY)
SALT_BYTES = 16


def event_record(event_id: str, order_id: str, seq: int, kind: str, at: datetime, data: str) -> str:
    """Return an order event's record; ``at`` is the database's time, ``data`` the JSON text as stored."""
    moment = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return "\n".join((EVENT, event_id, order_id, str(seq), kind, moment, data))


def kind_in(record: str) -> str:
    """Return the kind of an order event from its record; empty for a record that is none."""
    match record.split("\n", 6):
        case [kind_of_entry, _, _, _, kind, _, _] if kind_of_entry == EVENT:
            return kind
        case _:
            return ""


def document_record(kind: str, envelope: str) -> str:
    """Return a signed document's record: a licence's or a delivery manifest's envelope, as issued."""
    return f"{kind}\n{envelope}"


def entry_of(salt: bytes, record: str) -> bytes:
    """Return the entry for a record."""
    return hashlib.sha256(salt + record.encode()).digest()


def leaf_of(salt: bytes, record: str) -> bytes:
    """Return the leaf's hash for a record."""
    return leaf_hash(entry_of(salt, record))


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as the log keeps it. ``salt`` is None once the fact was erased; ``record`` if it was read."""

    position: int
    kind: str
    subject_id: str
    salt: bytes | None
    digest: bytes
    record: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the entry commits to the record that stands beside it now."""
        return self.record is not None and self.commits_to(self.record)

    def commits_to(self, record: str) -> bool:
        """Whether this is the entry of a record, wherever that comes from; False once it was erased."""
        return (
            self.salt is not None
            and len(self.salt) == SALT_BYTES
            and entry_of(self.salt, record) == self.digest
        )
