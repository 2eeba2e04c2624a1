"""Finds card numbers where none belong: in texts that people and programs send us.

Decides what looks like one: 13 to 19 digits, in one run or with single spaces or dashes between, that begin
as a card network's numbers do, are as long, and pass the Luhn check (ISO/IEC 7812-1). A run that goes on with
letters or digits, or stands behind a decimal point, is none: UUIDs, ULIDs, digests and fractions are left
alone. What is found is never repeated to anybody.
"""

import re
from collections.abc import Iterator

DIGITS_MIN, DIGITS_MAX = 13, 19
# How a network's numbers begin, and how long they are: clocks in nanoseconds have 13 digits as well.
_NETWORKS = (
    (re.compile(rb"4"), frozenset({13, 16, 19})),  # Visa
    (re.compile(rb"5[1-5]|2(?:2(?:2[1-9]|[3-9])|[3-6]|7(?:[01]|20))"), frozenset({16})),  # Mastercard
    (re.compile(rb"3[47]"), frozenset({15})),  # American Express
    (re.compile(rb"3(?:0[0-5]|[689])"), frozenset(range(14, 20))),  # Diners
    (re.compile(rb"35|6"), frozenset(range(16, 20))),  # JCB; Discover, Maestro, UnionPay
)
_CANDIDATE = re.compile(
    rb"(?<![0-9A-Za-z])(?<![0-9A-Za-z]-)(?<![0-9] )(?<![0-9]\.)"
    rb"[2-6](?:[ -]?[0-9]){%d,%d}"
    rb"(?!-?[0-9A-Za-z])(?! [0-9])" % (DIGITS_MIN - 1, DIGITS_MAX - 1)
)


def card_numbers(data: bytes) -> Iterator[bytes]:
    """Yield the digits of everything in ``data`` that looks like a card number."""
    for match in _CANDIDATE.finditer(data):
        digits = match[0].translate(None, b" -")
        if passes_luhn(digits) and any(
            len(digits) in lengths and begins.match(digits) for begins, lengths in _NETWORKS
        ):
            yield digits


def holds_card_number(data: bytes) -> bool:
    """Whether something in ``data`` looks like a card number."""
    return next(card_numbers(data), None) is not None


def passes_luhn(digits: bytes) -> bool:
    """Whether ASCII digits end in the right check digit."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 48) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value  # noqa: PLR2004 - Luhn's rule: add the two digits
    return total % 10 == 0
