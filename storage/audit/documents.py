"""Signed documents as the checker reads them: what a DSSE envelope says, not who signed it.

Some microseconds each, where the strict readers in ``domain`` take ten times that: the checker compares
members with an order, one by one, and refuses nothing that it does not compare. It must never decide whether
a document is accepted.
"""

import binascii
from collections.abc import Mapping
from typing import Any

import orjson


def predicate(envelope: str, payload_type: str) -> Mapping[str, Any]:
    """Return the predicate of the in-toto statement in an envelope of this type; empty if there is none."""
    try:
        outer = orjson.loads(envelope)
        if outer["payloadType"] != payload_type:
            return {}
        found = orjson.loads(binascii.a2b_base64(outer["payload"]))["predicate"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
