r"""Writes JSON so that equal values always give equal bytes: RFC 8785 (JCS), for a subset of JSON.

Members are sorted, nothing is spaced, text is UTF-8. Refused, because RFC 8785 has costly rules for them
and no signed document here needs them: floating-point numbers, integers outside ±(2**53 - 1), and member
names outside ASCII (where sorting by code point and by UTF-16 unit may differ). Within this subset the
bytes are those of RFC 8785, which the tests check against its vectors.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from domain.strict_json import DEPTH_MAX, INTEGER_MAX

# Built once: json.dumps with options makes a new encoder on every call.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dumps(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Serialise ``value`` (dicts, lists, strings, integers, booleans, None) to canonical UTF-8.

    Raises:
        ValueError: for a value outside the subset named above.
    """
    _check(value, 0)
    return _ENCODER.encode(value).encode()


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise ValueError("an integer is outside the range that every JSON reader keeps exact")
    elif depth >= DEPTH_MAX:
        raise ValueError("the value nests too deep")
    elif kind is dict:
        for name, member in value.items():
            if type(name) is not str or not name.isascii():
                raise ValueError("member names are ASCII text")
            if type(member) is not str:  # most members are texts, and a call costs more than a look
                _check(member, depth + 1)
    elif kind is list or kind is tuple:
        for item in value:
            _check(item, depth + 1)
    else:
        raise ValueError(f"{kind.__name__} has no canonical JSON here")
