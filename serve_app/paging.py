"""Cursor pagination: pages by id, newest first, with a cursor that callers do not look into.

A cursor is the last id of the page before, tagged with what it pages over, so that one list's cursor is
refused by another.
"""

import base64
import binascii
from urllib.parse import parse_qs

from domain.errors import RejectedError
from domain.ids import is_id
from serve_app.calls import Call
from serve_app.problems import FieldsInvalidError

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
CURSOR_CHARS_MAX = 128
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


def page_of(call: Call, prefix: str) -> tuple[str, int]:
    """Return (ids below this, how many) from the query.

    Raises:
        FieldsInvalidError: ``query_invalid``.
        RejectedError: ``cursor_invalid``.
    """
    try:
        query = parse_qs(
            call.scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS_MAX
        )
    except ValueError:
        raise FieldsInvalidError("query_invalid", "The query is malformed or has too many fields.") from None
    limit = LIMIT_DEFAULT
    if "limit" in query:
        text = query["limit"][-1]
        limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX)) else 0
        if not 1 <= limit <= LIMIT_MAX:
            fault = f"Give an integer from 1 to {LIMIT_MAX}."
            raise FieldsInvalidError("query_invalid", "A query parameter is wrong.", [("limit", fault)])
    cursor = query.get("cursor", [""])[-1]
    return (_read(cursor, prefix) if cursor else FROM_THE_TOP), limit


def cursor_after(last_id: str) -> str:
    """Return the cursor of the page that follows ``last_id``."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def _read(cursor: str, prefix: str) -> str:
    invalid = RejectedError("cursor_invalid", "Use next_cursor of the page before, or none at first.")
    if len(cursor) > CURSOR_CHARS_MAX:
        raise invalid
    try:
        last_id = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        raise invalid from None
    if not is_id(prefix, last_id):
        raise invalid
    return last_id
