"""Semantic versions: parsed strictly, ordered by precedence (Semantic Versioning 2.0.0, clauses 2-11).

Build metadata (``+…``) is refused: it takes no part in precedence, so two releases could be equal in
order and different in content, and "the newest release" would have no answer.
"""

import re
from dataclasses import dataclass, field

from domain.strict_json import DocumentError

VERSION_CHARS_MAX = 64  # far above any version in use; keeps numbers within what every tool can read
_VERSION = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(?:-((?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*))?"
)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; comparison operators give precedence. ``str()`` gives the text back."""

    precedence: tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]
    text: str = field(compare=False)

    def __str__(self) -> str:
        return self.text


def parse_version(text: str) -> Version:
    """Parse ``MAJOR.MINOR.PATCH`` with an optional ``-pre.release``.

    Raises:
        DocumentError: ``version_invalid``.
    """
    match = _VERSION.fullmatch(text) if len(text) <= VERSION_CHARS_MAX else None
    if match is None:
        raise DocumentError(
            "version_invalid",
            "A version is MAJOR.MINOR.PATCH, optionally -pre.release (semver.org), without build metadata.",
        )
    # Clause 11: a release outranks its pre-releases; numbers rank below words and compare as numbers.
    identifiers = match[4].split(".") if match[4] else ()
    pre_release = tuple((False, int(one), "") if one.isdigit() else (True, 0, one) for one in identifiers)
    return Version(((int(match[1]), int(match[2]), int(match[3])), match[4] is None, pre_release), text)
