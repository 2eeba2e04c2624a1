"""The revocation list: which licences do not hold, signed, numbered, and good for a day.

What is signed (DSSE, own payload type) is small whatever the list's length: version, times, grace, and count
and SHA-256 of each part's ids, each id followed by a line feed. The ids stand beside the envelope.

    revoked     for ever: refunded, lost in a dispute, or replaced by a newer document
    suspended   for now: a refund of the whole line, or a dispute, is undecided

Both make a licence unacceptable. ``version`` rises with every change of the content, suspensions and
restorations included, so a verifier that has seen a version refuses every lower one (``admit``): replaying
an old list cannot bring a revoked licence back. It is drawn by the database in the transaction that changes
a licence; nothing here computes it.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from domain import canonical_json, strict_json
from domain.document_fields import (
    TOKEN_CHARS_MAX,
    closed_object,
    format_time,
    integer_field,
    sha256_field,
    time_field,
)
from domain.dsse import Envelope
from domain.errors import ConflictError, RejectedError
from domain.platform_documents import named_key_signed, open_exactly
from domain.signing import Verifier
from domain.strict_json import DocumentError

PAYLOAD_TYPE = "application/vnd.illuvrse.revocations.v2+json"
LISTED_MAX = 100_000  # ids of both parts: a document of 3 MB; a longer one needs pages
DOCUMENT_BYTES_MAX = 8 * 1024 * 1024  # the longest list, with room
GRACE_DAYS_MAX = 90  # as in the governed licence model
LIFE_MAX = timedelta(days=7)  # a list that claims to be good for longer is not one of ours

_PAYLOAD = frozenset(
    {
        "version",
        "issued_at",
        "expires_at",
        "grace_days",
        "revoked_count",
        "revoked_sha256",
        "suspended_count",
        "suspended_sha256",
    }
)
_DOCUMENT = frozenset(
    {"version", "issued_at", "expires_at", "grace_days", "revoked", "suspended", "envelope"}
)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list. Ids are sorted and distinct; times are UTC with whole seconds.

    ``grace_days`` is how long a licence with an end still works after it.
    """

    version: int
    issued_at: datetime
    expires_at: datetime
    grace_days: int
    revoked: Sequence[str]
    suspended: Sequence[str] = ()

    @property
    def content_sha256(self) -> str:
        """SHA-256 of what a version stands for: everything but the times."""
        return hashlib.sha256(canonical_json.dumps(_content(self))).hexdigest()


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest list that a verifier has accepted, as it remembers it."""

    version: int
    content_sha256: str


def ids_sha256(ids: Sequence[str]) -> str:
    """SHA-256 (lower-case hexadecimal) of the ids, each followed by a line feed."""
    return hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()


def build(listed: RevocationList) -> bytes:
    """Return the payload to sign.

    Raises:
        RejectedError: ``revocations_too_many``.
        DocumentError: ``revocations_invalid``; ids that are not sorted, distinct and plain.
    """
    if len(listed.revoked) + len(listed.suspended) > LISTED_MAX:
        raise RejectedError("revocations_too_many", f"A list names at most {LISTED_MAX} licences.")
    _require_plain(listed.revoked, listed.suspended)
    return canonical_json.dumps(
        {"issued_at": format_time(listed.issued_at), "expires_at": format_time(listed.expires_at)}
        | _content(listed)
    )


def document(listed: RevocationList, envelope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the list as it travels, in canonical JSON: the ids in the open, the envelope that signs them."""
    return {
        "version": listed.version,
        "issued_at": format_time(listed.issued_at),
        "expires_at": format_time(listed.expires_at),
        "grace_days": listed.grace_days,
        "revoked": list(listed.revoked),
        "suspended": list(listed.suspended),
        "envelope": dict(envelope),
    }


def read_document(data: bytes | str) -> tuple[Envelope, RevocationList]:
    """Read a list and believe nothing of it: whoever wrote it may have written anything.

    Raises:
        DocumentError: the codes of ``strict_json.loads`` and ``open_exactly``, ``revocations_invalid``.
    """
    members = closed_object(
        strict_json.loads(data, max_bytes=DOCUMENT_BYTES_MAX), "The revocation list", _DOCUMENT
    )
    try:
        canonical = canonical_json.dumps(members)
        envelope_text = canonical_json.dumps(members["envelope"]).decode()
    except ValueError:
        raise DocumentError("revocations_invalid", "The list holds what no list of ours does.") from None
    if canonical != (data.encode() if isinstance(data, str) else data):
        raise DocumentError("envelope_not_canonical", "The text of the list differs from what was issued.")
    envelope = open_exactly(envelope_text, PAYLOAD_TYPE, "a revocation list")
    listed = RevocationList(
        version=integer_field(members, "version", 1),
        issued_at=time_field(members, "issued_at"),
        expires_at=time_field(members, "expires_at"),
        grace_days=integer_field(members, "grace_days", 0, GRACE_DAYS_MAX),
        revoked=_ids(members["revoked"], "revoked"),
        suspended=_ids(members["suspended"], "suspended"),
    )
    _require_plain(listed.revoked, listed.suspended)
    return envelope, listed


def open_document(data: bytes | str, trusted: Mapping[str, bytes], verify: Verifier) -> RevocationList:
    """Read a list that a trusted key has signed; ``trusted`` maps key ids to public keys.

    Whether it is out of date is for whoever uses it: a revocation counts also on an old list.

    Raises:
        DocumentError: the codes of ``read_document``.
        RejectedError: ``revocations_untrusted``; no trusted key has signed exactly this list.
    """
    return open_signed(data, trusted, verify)[1]


def open_signed(
    data: bytes | str, trusted: Mapping[str, bytes], verify: Verifier
) -> tuple[str, RevocationList]:
    """Read a list as ``open_document`` does; also returns the id of the key that signed it."""
    envelope, listed = read_document(data)
    if not named_key_signed(envelope, trusted, verify):
        raise RejectedError("revocations_untrusted", "No key that is trusted here has signed this list.")
    _require_signed(envelope.payload, listed)
    return envelope.signatures[0].key_id or "", listed


def admit(listed: RevocationList, seen: Seen | None) -> Seen:
    """Return what to remember after accepting a verified list.

    Raises:
        ConflictError: ``revocations_rolled_back`` for a version below one that was seen,
            ``revocations_forked`` for one version with two contents.
    """
    found = Seen(listed.version, listed.content_sha256)
    if seen is None or listed.version > seen.version:
        return found
    if listed.version < seen.version:
        raise ConflictError(
            "revocations_rolled_back",
            f"Revocation list {listed.version} is older than list {seen.version}, which was seen here. "
            "Somebody replays an old list, or the platform was restored from a backup: fetch the current "
            "one, and ask the operator if it stays so.",
        )
    if found != seen:
        raise ConflictError(
            "revocations_forked",
            f"Two revocation lists of version {listed.version} say different things. Trust neither, and tell "
            "the operator.",
        )
    return seen


def _content(listed: RevocationList) -> dict[str, Any]:
    return {
        "version": listed.version,
        "grace_days": listed.grace_days,
        "revoked_count": len(listed.revoked),
        "revoked_sha256": ids_sha256(listed.revoked),
        "suspended_count": len(listed.suspended),
        "suspended_sha256": ids_sha256(listed.suspended),
    }


def _require_signed(payload: bytes, listed: RevocationList) -> None:
    """Compare what was signed with what stands beside it, byte for byte."""
    members = closed_object(strict_json.loads(payload, max_bytes=4_096), "The signed list", _PAYLOAD)
    sha256_field(members, "revoked_sha256")
    if payload != build(listed):
        raise RejectedError(
            "revocations_untrusted", "The ids or times beside the envelope are not those signed."
        )
    if not listed.issued_at < listed.expires_at <= listed.issued_at + LIFE_MAX:
        raise DocumentError("revocations_invalid", f"A list is good for at most {LIFE_MAX.days} days.")


def _ids(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or len(value) > LISTED_MAX:
        raise DocumentError("revocations_invalid", f"{name} must list at most {LISTED_MAX} ids.")
    return value


def _require_plain(*parts: Sequence[Any]) -> None:
    for ids in parts:
        plain = all(
            isinstance(one, str) and 0 < len(one) <= TOKEN_CHARS_MAX and one.isascii() and one.isprintable()
            for one in ids
        )
        if not plain or any(first >= second for first, second in itertools.pairwise(ids)):
            raise DocumentError("revocations_invalid", "Ids are plain, sorted, and named once.")
