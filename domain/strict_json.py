"""Reads JSON from strangers so that every reader sees the same document, or none.

``json.loads`` keeps the last of duplicate keys, takes NaN and Infinity, turns 1e400 into infinity and
lone surrogates into strings that cannot be written again: two programs may then disagree about what was
signed. All of that is refused here, as are texts that are not UTF-8, integers outside ±(2**53 - 1)
(RFC 7493, I-JSON: JavaScript would round them), nesting deeper than ``DEPTH_MAX`` and documents above
the caller's size bound. The grammar is RFC 8259.
"""

import json
import math
from typing import Any

from domain.errors import RejectedError

DEPTH_MAX = 32  # no document here nests deeper than 6; a bound keeps later recursive walks safe
INTEGER_MAX = 2**53 - 1  # the largest integer that every JSON reader keeps exact
# Two readers would see two documents, or it was signed as another kind: callers are told just that.
TOLD_AS_THEY_ARE = frozenset({"json_duplicate_key", "json_number_invalid", "payload_type_wrong"})


class DocumentError(RejectedError):
    """A document from outside is malformed. ``code`` says how; nothing in it was believed."""


def rejection(error: DocumentError, code: str, what: str) -> RejectedError:
    """Return what to tell a caller whose document, ``what``, is refused: ``code``, or the cause's own."""
    if error.code in TOLD_AS_THEY_ARE:
        return RejectedError(error.code, f"{what} is refused: {error.detail}")
    return RejectedError(code, f"{what} is refused ({error.code}): {error.detail}")


def loads(data: bytes | str, *, max_bytes: int) -> Any:
    """Parse one JSON text of at most ``max_bytes`` bytes of UTF-8.

    Raises:
        DocumentError: ``document_too_large``, ``json_not_utf8``, ``json_duplicate_key``,
            ``json_number_invalid``, ``json_too_deep``, ``json_text_invalid`` or ``json_malformed``.
    """
    # A text never has more characters than bytes, so this first check costs nothing for huge input.
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    try:
        raw = data.encode() if isinstance(data, str) else data
        text = raw.decode()
    except UnicodeError:
        raise DocumentError("json_not_utf8", "The document is not valid UTF-8 text.") from None
    if len(raw) > max_bytes:
        raise _too_large(max_bytes)
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise DocumentError("json_malformed", f"The document is not valid JSON: {error}.") from None
    # Nothing nests deeper than it has opening brackets, so most documents need no walk.
    if text.count("[") + text.count("{") > DEPTH_MAX:
        _check_depth(value)
    if "\\u" in text:
        _check_surrogates(value)
    return value


def _too_large(max_bytes: int) -> DocumentError:
    return DocumentError("document_too_large", f"The document is larger than the {max_bytes} bytes allowed.")


def _too_deep() -> DocumentError:
    return DocumentError("json_too_deep", f"The document nests deeper than {DEPTH_MAX} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DocumentError("json_duplicate_key", "An object names the same member twice.")
    return members


def _constant(word: str) -> Any:
    raise DocumentError("json_number_invalid", f"{word} is not a JSON number.")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise DocumentError("json_number_invalid", "A number is too large to represent.")
    return value


def _integer(digits: str) -> int:
    # The length is checked first: turning a very long text into an integer takes quadratic time.
    if len(digits) > len(str(INTEGER_MAX)) + 1 or abs(int(digits)) > INTEGER_MAX:
        raise DocumentError("json_number_invalid", f"An integer is outside ±{INTEGER_MAX}.")
    return int(digits)


# Built once: json.loads with hooks makes a new decoder on every call.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer
)


def _check_depth(value: Any) -> None:
    level = [value]
    depth = 0
    while level:
        if depth > DEPTH_MAX:
            raise _too_deep()
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
        depth += 1


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DocumentError("json_text_invalid", "A text holds half of a surrogate pair.") from None
