"""The one clock and the one source of ids of a running marketplace; everything else is handed them."""

import os
import time
from datetime import UTC, datetime

from domain.ids import RANDOM_BYTES, new_id


def utc_now() -> datetime:
    """Return the time now, UTC."""
    return datetime.now(UTC)


def draw_id(prefix: str) -> str:
    """Draw a fresh typed id."""
    return new_id(prefix, time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
