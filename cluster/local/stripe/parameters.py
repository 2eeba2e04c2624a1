"""Declared parameters: what an operation takes, read from text into values, everything else refused.

A specification maps names to readers; nested specifications are nested objects. A parameter that Stripe
knows but this simulator does not is refused like an unknown one, so that nothing is silently ignored.
Messages name the parameter and never repeat its value, which may be a card number.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, Union
from urllib.parse import urlsplit

from cluster.local.stripe.forms import Tree
from cluster.local.stripe.refusals import invalid, missing_parameter, unknown_parameter
from domain.money import AMOUNT_MINOR_MAX, is_currency

Reader: TypeAlias = Callable[[Any, str], Any]
Specification: TypeAlias = Mapping[str, Union[Reader, "Specification"]]
Values: TypeAlias = dict[str, Any]

METADATA_KEYS_MAX = 50  # these four are Stripe's documented limits
METADATA_KEY_CHARS_MAX = 40
METADATA_VALUE_CHARS_MAX = 500
TEXT_CHARS_MAX = 5_000
URL_CHARS_MAX = 5_000
LIST_LIMIT_DEFAULT = 10
LIST_LIMIT_MAX = 100
INTEGER_CHARS_MAX = 15  # beyond any amount or time, and far from slow big-integer parsing
# A name or address with an optional port, no user. It goes into a content security policy, so nothing else.
HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")
EVENT_NAME = re.compile(r"\*|[a-z0-9_]+(\.[a-z0-9_]+)+")


def read(
    tree: Tree, specification: Specification, required: tuple[str, ...] = (), prefix: str = ""
) -> Values:
    """Read ``tree`` by ``specification``; absent parameters are absent from the result.

    Raises:
        RefusedError: 400 ``parameter_unknown``, ``parameter_missing`` or what the reader says.
    """
    values: Values = {}
    for name, raw in tree.items():
        param = f"{prefix}[{name}]" if prefix else name
        reader = specification.get(name)
        if reader is None:
            raise unknown_parameter(param)
        if callable(reader):
            values[name] = reader(raw, param)
        elif isinstance(raw, dict):
            values[name] = read(raw, reader, (), param)
        else:
            raise invalid("Invalid object", param)
    for name in required:
        if values.get(name) in (None, ""):
            raise missing_parameter(f"{prefix}[{name}]" if prefix else name)
    return values


def text(raw: Any, param: str) -> str:
    """Any text of bounded length."""
    if not isinstance(raw, str):
        raise invalid("Invalid string", param)
    if len(raw) > TEXT_CHARS_MAX:
        raise invalid(f"Invalid string: at most {TEXT_CHARS_MAX} characters.", param)
    return raw


def boolean(raw: Any, param: str) -> bool:
    """``true`` or ``false``."""
    if raw == "true":
        return True
    if raw == "false":
        return False
    raise invalid("Invalid boolean: must be true or false.", param)


def integer(raw: Any, param: str) -> int:
    """A decimal integer, possibly negative."""
    if (
        not isinstance(raw, str)
        or len(raw) > INTEGER_CHARS_MAX
        or not raw.isascii()
        or not raw.removeprefix("-").isdigit()
    ):
        raise invalid("Invalid integer", param, "parameter_invalid_integer")
    return int(raw)


def amount(raw: Any, param: str) -> int:
    """A positive amount in minor units, up to Stripe's eight digits."""
    value = integer(raw, param)
    if value < 1:
        raise invalid("This value must be greater than or equal to 1.", param, "parameter_invalid_integer")
    if value > AMOUNT_MINOR_MAX:
        raise invalid(
            f"Amount must be no more than {AMOUNT_MINOR_MAX} minor units.", param, "amount_too_large"
        )
    return value


def unit_amount(raw: Any, param: str) -> int:
    """The price of one unit: like ``amount``, and zero for what is free."""
    return 0 if raw == "0" else amount(raw, param)


def quantity(raw: Any, param: str) -> int:
    """How many units of a line, 1 to 999,999."""
    value = integer(raw, param)
    if not 1 <= value <= 999_999:  # noqa: PLR2004 - stated by the line above
        raise invalid("Quantity must be from 1 to 999999.", param, "parameter_invalid_integer")
    return value


def currency(raw: Any, param: str) -> str:
    """A supported currency in any case; returned in lower case, as Stripe does."""
    if not isinstance(raw, str) or not raw.isascii() or not is_currency(raw.upper()):
        raise invalid("Invalid currency: not one that this Stripe simulator supports.", param)
    return raw.lower()


def choice(*allowed: str) -> Reader:
    """One of ``allowed``."""

    def reader(raw: Any, param: str) -> str:
        if raw not in allowed:
            raise invalid(f"Invalid {param}: must be one of {', '.join(allowed)}", param)
        return str(raw)

    return reader


def web_url(raw: Any, param: str) -> str:
    """An absolute http or https address: anything else must never become a link on our pages."""
    value = text(raw, param)
    try:
        parts = urlsplit(value)
        usable = (
            parts.scheme in {"http", "https"}
            and HOST.fullmatch(parts.netloc) is not None
            and (parts.port or 1) > 0
        )
    except ValueError:
        usable = False
    if not usable or len(value) > URL_CHARS_MAX or not value.isprintable() or " " in value:
        raise invalid("Not a valid URL: an absolute http or https address is needed.", param, "url_invalid")
    return value


def metadata(raw: Any, param: str) -> dict[str, str]:
    """Keys and values within Stripe's limits; the empty string stands for "remove all"."""
    if raw == "":
        return {}
    if not isinstance(raw, dict) or any(not isinstance(value, str) for value in raw.values()):
        raise invalid("Invalid metadata: a flat object of strings is needed.", param)
    if len(raw) > METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have up to {METADATA_KEYS_MAX} keys.", param)
    for key, value in raw.items():
        if len(key) > METADATA_KEY_CHARS_MAX:
            raise invalid(f"Metadata keys can have up to {METADATA_KEY_CHARS_MAX} characters.", param)
        if len(value) > METADATA_VALUE_CHARS_MAX:
            raise invalid(
                f"Metadata values can have up to {METADATA_VALUE_CHARS_MAX} characters.", f"{param}[{key}]"
            )
    return dict(raw)


def merged_metadata(old: dict[str, str], raw: dict[str, str]) -> dict[str, str]:
    """Update metadata as Stripe does: an empty value removes its key, an empty set removes all.

    Raises:
        RefusedError: 400 when the result has too many keys.
    """
    if not raw:
        return {}
    merged = {key: value for key, value in (old | raw).items() if value != ""}
    if len(merged) > METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have up to {METADATA_KEYS_MAX} keys.", "metadata")
    return merged


def listed(raw: Any, param: str) -> list[Any]:
    """The members of a list, by index."""
    if not isinstance(raw, dict) or any(not (key.isascii() and key.isdigit()) for key in raw):
        raise invalid("Invalid array", param)
    return [raw[key] for key in sorted(raw, key=lambda key: (len(key), key))]


def texts(raw: Any, param: str) -> list[str]:
    """A list of texts."""
    return [text(member, f"{param}[{index}]") for index, member in enumerate(listed(raw, param))]


def event_names(raw: Any, param: str) -> list[str]:
    """Event types, or ``*`` for all of them."""
    names = texts(raw, param)
    if not names or any(EVENT_NAME.fullmatch(name) is None for name in names):
        raise invalid(
            "Invalid event types: name at least one, such as payment_intent.succeeded, or *.", param
        )
    return names


def objects(specification: Specification, required: tuple[str, ...], count_max: int) -> Reader:
    """A list of 1 to ``count_max`` objects."""

    def reader(raw: Any, param: str) -> list[Values]:
        members = listed(raw, param)
        if not 1 <= len(members) <= count_max:
            raise invalid(f"From 1 to {count_max} members are needed.", param)
        found = []
        for index, member in enumerate(members):
            if not isinstance(member, dict):
                raise invalid("Invalid object", f"{param}[{index}]")
            found.append(read(member, specification, required, f"{param}[{index}]"))
        return found

    return reader


def created_filter(raw: Any, param: str) -> dict[str, int]:
    """A time, or bounds ``gt``/``gte``/``lt``/``lte``, in Unix seconds."""
    if isinstance(raw, dict):
        return read(raw, dict.fromkeys(("gt", "gte", "lt", "lte"), integer), (), param)
    at = integer(raw, param)
    return {"gte": at, "lte": at}


def page_limit(raw: Any, param: str) -> int:
    """How many objects a page may have."""
    value = integer(raw, param)
    if not 1 <= value <= LIST_LIMIT_MAX:
        raise invalid(f"Limit must be from 1 to {LIST_LIMIT_MAX}.", param, "parameter_invalid_integer")
    return value


EXPAND: Specification = {"expand": texts}
PAGE: Specification = {
    "limit": page_limit,
    "starting_after": text,
    "ending_before": text,
    "created": created_filter,
    **EXPAND,
}
