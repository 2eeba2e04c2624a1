"""Typed reading of the members of a parsed document: closed objects, bounded texts, digests, times.

Every signed document here is closed: a member that the reader does not know is refused, because a newer
writer's restriction (say, a limit on seats) must not be skipped in silence by an older reader. What each
member means is decided by the module that asks.
"""

import re
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any

from domain.strict_json import INTEGER_MAX, DocumentError

TOKEN_CHARS_MAX = 128  # longest id or principal name; an OIDC subject may take more than one of our ids
FILE_NAME_CHARS_MAX = 128  # half of what file systems take, so that tools can append their suffixes
_TOKEN = re.compile(r"[!-~]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def closed_object(
    value: Any, where: str, required: AbstractSet[str], optional: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """Return ``value`` as an object with all ``required`` members and none beyond ``optional``.

    Raises:
        DocumentError: ``field_invalid``, ``field_missing`` or ``field_unknown``.
    """
    if not isinstance(value, dict):
        raise DocumentError("field_invalid", f"{where} must be an object.")
    names = value.keys()
    if missing := required - names:
        raise DocumentError("field_missing", f"{where} lacks {', '.join(sorted(missing))}.")
    if unknown := names - required - optional:
        # Only the first name, shortened: the document may be hostile and this text may be logged.
        raise DocumentError("field_unknown", f"{where} has the unknown member {min(unknown)[:40]!r}.")
    return value


def text_field(members: dict[str, Any], name: str, chars_max: int, *, lines: bool = False) -> str:
    """Read a printable text of 1 to ``chars_max`` characters; ``lines`` allows line feeds.

    Control and direction-changing characters are refused, so that printing it cannot forge a terminal.
    """
    value = members[name]
    if not isinstance(value, str) or not 1 <= len(value) <= chars_max:
        raise DocumentError("field_invalid", f"{name} must be text of 1 to {chars_max} characters.")
    if not (value.replace("\n", "") if lines else value).isprintable():
        raise DocumentError("field_invalid", f"{name} holds control characters.")
    return value


def token_field(members: dict[str, Any], name: str) -> str:
    """Read an id or a principal's name: visible ASCII, no spaces."""
    value = members[name]
    if not isinstance(value, str) or len(value) > TOKEN_CHARS_MAX or not _TOKEN.fullmatch(value):
        raise DocumentError(
            "field_invalid", f"{name} must be 1 to {TOKEN_CHARS_MAX} visible ASCII characters."
        )
    return value


def file_name_field(members: dict[str, Any], name: str, chars_max: int = FILE_NAME_CHARS_MAX) -> str:
    """Read a plain file name that is safe on every file system: no separators, no leading dot."""
    value = members[name]
    if not isinstance(value, str) or len(value) > chars_max or not _FILE_NAME.fullmatch(value):
        raise DocumentError(
            "field_invalid",
            f"{name} must be a plain file name of at most {chars_max} letters, digits and . _ + -.",
        )
    return value


def sha256_field(members: dict[str, Any], name: str) -> str:
    """Read a SHA-256 digest as 64 lower-case hexadecimal digits."""
    value = members[name]
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise DocumentError("field_invalid", f"{name} must be a SHA-256 digest in lower-case hexadecimal.")
    return value


def integer_field(members: dict[str, Any], name: str, least: int, most: int = INTEGER_MAX) -> int:
    """Read an integer from ``least`` to ``most``; booleans are not integers here."""
    value = members[name]
    if type(value) is not int or not least <= value <= most:
        raise DocumentError("field_invalid", f"{name} must be an integer from {least} to {most}.")
    return value


def time_field(members: dict[str, Any], name: str) -> datetime:
    """Read an RFC 3339 time in UTC with whole seconds, such as ``2026-11-24T09:30:00Z``."""
    value = members[name]
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass  # the right shape and no such day: refused below like any other wrong text
    raise DocumentError("field_invalid", f"{name} must be a time such as 2026-11-24T09:30:00Z.")


def format_time(moment: datetime) -> str:
    """Write an aware time as RFC 3339 UTC; a fraction of a second is dropped.

    Raises:
        ValueError: for a time without a zone, which would be guessed as local.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be written as UTC")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
