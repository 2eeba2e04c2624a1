"""Accounting periods: calendar months in UTC, closed once, in full, and never reopened.

Closing a month closes all time before its end: an entry dated earlier would change the balances that the
month began with. Refused: closing a month that is not over. A late entry is booked in the open period and
names its original date (``Entry.original_occurred_at``).
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from domain.errors import RejectedError

MONTHS_PER_YEAR = 12
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """The month that begins on ``first_day``."""

    first_day: date

    @property
    def starts_at(self) -> datetime:
        """The first instant."""
        return datetime(self.first_day.year, self.first_day.month, 1, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The first instant after it."""
        years, month = divmod(self.first_day.month, MONTHS_PER_YEAR)
        return datetime(self.first_day.year + years, month + 1, 1, tzinfo=UTC)

    def __str__(self) -> str:
        return self.first_day.isoformat()[:7]  # strftime does not pad years


@dataclass(frozen=True, slots=True)
class ClosedPeriod:
    """A closed month: when and by whom. ``period`` is a later one when it was closed along with that."""

    period: Period
    closed_at: datetime
    closed_by: str


def parse_period(text: str) -> Period:
    """Read ``yyyy-mm``.

    Raises:
        RejectedError: ``period_malformed``.
    """
    match = _MONTH.fullmatch(text)
    try:
        if match:
            period = Period(date(int(match[1]), int(match[2]), 1))
            _ = period.ends_at  # the last month that a date can hold has no end
            return period
    except ValueError:
        pass
    raise RejectedError("period_malformed", "A period is a month in UTC, written like 2026-11.")
