"""Cursor pagination: pages with a cursor that callers do not look into.

A cursor is where the page before ended. What it pages over is checked when it is read, so that one list's
cursor is refused by another.
"""

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import parse_qs

from domain.errors import RejectedError
from domain.ids import is_id
from serve_app.calls import Call
from serve_app.problems import FieldsInvalidError

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
CURSOR_CHARS_MAX = 512  # a time and the longest name that is paged over
_FIELDS_MAX = 20
FROM_THE_TOP = "~"  # sorts after every id
QUERY = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    "cursor": {
        "type": "string",
        "maxLength": CURSOR_CHARS_MAX,
        "description": "next_cursor of the last page",
    },
}


def query_of(call: Call) -> Mapping[str, str]:
    """Return the query's fields, the last of each name.

    Raises:
        FieldsInvalidError: ``query_invalid``.
    """
    try:
        fields = parse_qs(
            call.scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX
        )
    except ValueError:
        raise FieldsInvalidError("query_invalid", "The query is malformed or has too many fields.") from None
    return {name: values[-1] for name, values in fields.items()}


def field_invalid(name: str, fault: str) -> FieldsInvalidError:
    """Return the error for one wrong field of a query."""
    return FieldsInvalidError("query_invalid", "A query parameter is wrong.", [(name, fault)])


def limit_of(query: Mapping[str, str]) -> int:
    """Return how many items a page shall have.

    Raises:
        FieldsInvalidError: ``query_invalid``.
    """
    text = query.get("limit", str(LIMIT_DEFAULT))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX)) else 0
    if not 1 <= limit <= LIMIT_MAX:
        raise field_invalid("limit", f"Give an integer from 1 to {LIMIT_MAX}.")
    return limit


def page_of(call: Call, prefix: str) -> tuple[str, int]:
    """Return (ids below this, how many) from the query of a list that is paged by id, newest first.

    Raises:
        FieldsInvalidError: ``query_invalid``.
        RejectedError: ``cursor_invalid``.
    """
    query = query_of(call)
    limit = limit_of(query)
    if not query.get("cursor"):
        return FROM_THE_TOP, limit
    last_id = read_cursor(query["cursor"])
    if not is_id(prefix, last_id):
        raise cursor_invalid()
    return last_id, limit


def cursor_after(place: str) -> str:
    """Return the cursor of the page that follows ``place``."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> str:
    """Return the place that a cursor stands for; the caller checks that it is one of its own.

    Raises:
        RejectedError: ``cursor_invalid``.
    """
    if len(cursor) > CURSOR_CHARS_MAX:
        raise cursor_invalid()
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise cursor_invalid() from None


def cursor_invalid() -> RejectedError:
    """Return the error for a cursor that no page of this list gave."""
    return RejectedError("cursor_invalid", "Use next_cursor of the page before, or none at first.")
