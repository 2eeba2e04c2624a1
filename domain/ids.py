"""Typed, time-ordered ids: ``ord_01jz3k5v8m2q9x7c4b6n0t1rwf``.

A prefix says what the id names; 26 characters of Crockford base32 carry 48 bits of Unix
milliseconds and 80 bits of randomness (the ULID layout), so ids sort by creation and index well.

Derived ids name what follows from an order (a licence per line, an event per sequence number). They
are a pure function of the parent and a label, so a repeated effect names the same thing again.
"""

import hashlib
import re

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # ten bits at a time: ids are drawn often
RANDOM_BYTES = 10
_ID = re.compile(r"^([a-z]{2,4})_([0-9a-hjkmnp-tv-z]{26})$")


def _base32(value: int) -> str:
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


def new_id(prefix: str, unix_ms: int, randomness: bytes) -> str:
    """Make an id from a time in Unix milliseconds and 10 random bytes."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"an id takes {RANDOM_BYTES} random bytes, not {len(randomness)}")
    return f"{prefix}_{_base32((unix_ms << 80) | int.from_bytes(randomness))}"


def derive_id(prefix: str, parent: str, label: str) -> str:
    """Name the ``label`` of ``parent``: same time part, randomness from SHA-256 of both."""
    time_part = parent.partition("_")[2][:10]
    digest = hashlib.sha256(f"{prefix}\0{parent}\0{label}".encode()).digest()
    return f"{prefix}_{time_part}{_base32(int.from_bytes(digest[:RANDOM_BYTES]))[10:]}"


def is_id(prefix: str, text: str) -> bool:
    """Whether ``text`` is a well-formed id of this kind. Says nothing about existence."""
    match = _ID.fullmatch(text)
    return match is not None and match[1] == prefix
