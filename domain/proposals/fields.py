"""Reads the members of a governed document, and says by JSON pointer (RFC 6901) what is wrong.

Objects are closed, numbers are integers within bounds, amounts are minor units by currency. Nothing is
converted and nothing is filled in: what operators sign is exactly what they see. What the members mean is
decided in ``domain.proposals.documents``.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from domain.errors import RejectedError
from domain.money import AMOUNT_MINOR_MAX, BASIS_POINTS, CURRENCY_DECIMALS, is_currency, smallest_step

T = TypeVar("T")
NAME_SHOWN_CHARS_MAX = 80  # of a stranger's member name, in a pointer


class GovernedDocumentError(RejectedError):
    """A governed document breaks its form; ``pointer`` names the place."""

    def __init__(self, code: str, detail: str, pointer: str) -> None:
        super().__init__(code, detail, pointer)
        self.pointer = pointer


def wrong(pointer: str, fault: str) -> GovernedDocumentError:
    """Return the error for one fault."""
    return GovernedDocumentError("proposal_document_invalid", fault, pointer)


def below(pointer: str, name: str | int) -> str:
    """Return the pointer of a member or item."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')[:NAME_SHOWN_CHARS_MAX]}"


def members(value: Any, pointer: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Read an object with exactly these members."""
    found = mapping(value, pointer)
    for name in names:
        if name not in found:
            raise wrong(below(pointer, name), "This member is missing.")
    for name in found:
        if name not in names:
            raise wrong(below(pointer, name), "This member is not known here.")
    return found


def mapping(value: Any, pointer: str) -> dict[str, Any]:
    """Read an object."""
    if type(value) is not dict:
        raise wrong(pointer, "Give an object.")
    return value


def integer(value: Any, pointer: str, least: int, most: int) -> int:
    """Read an integer from ``least`` to ``most``; booleans are none."""
    if type(value) is not int or not least <= value <= most:
        raise wrong(pointer, f"Give an integer from {least} to {most}.")
    return value


def basis_points(value: Any, pointer: str, least: int = 0) -> int:
    """Read hundredths of a per cent."""
    return integer(value, pointer, least, BASIS_POINTS)


def boolean(value: Any, pointer: str) -> bool:
    """Read true or false."""
    if type(value) is not bool:
        raise wrong(pointer, "Give true or false.")
    return value


def choice(value: Any, pointer: str, words: tuple[str, ...]) -> str:
    """Read one of ``words``."""
    if type(value) is not str or value not in words:
        raise wrong(pointer, f"Give one of {', '.join(words)}.")
    return value


def items(value: Any, pointer: str, least: int, most: int, read: Callable[[Any, str], T]) -> tuple[T, ...]:
    """Read an array of ``least`` to ``most`` items."""
    if type(value) is not list or not least <= len(value) <= most:
        raise wrong(pointer, f"Give an array of {least} to {most} items.")
    return tuple(read(item, below(pointer, index)) for index, item in enumerate(value))


def distinct(values: tuple[Any, ...], pointer: str, what: str) -> None:
    """Refuse an array that names something twice."""
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            raise wrong(below(pointer, index), f"This {what} is named twice.")
        seen.add(value)


def currency(value: Any, pointer: str) -> str:
    """Read an ISO 4217 code."""
    if type(value) is not str or not is_currency(value):
        raise wrong(pointer, "Give an ISO 4217 code that is accepted here, such as USD.")
    return value


def amounts(value: Any, pointer: str) -> Mapping[str, int]:
    """Read amounts in minor units by currency; each a multiple of what the currency is charged in."""
    found = mapping(value, pointer)
    if len(found) > len(CURRENCY_DECIMALS):
        raise wrong(pointer, "There are more members than currencies.")
    for code, amount in found.items():
        place = below(pointer, code)
        currency(code, place)
        if integer(amount, place, 0, AMOUNT_MINOR_MAX) % smallest_step(code):
            raise wrong(place, f"Give a multiple of {smallest_step(code)} minor units.")
    return dict(sorted(found.items()))
