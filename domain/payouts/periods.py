"""Payout periods: calendar months (``2026-10``) or ISO 8601 weeks (``2026-W43``), whole, in UTC.

Which of the two is a setting. Refused: any other span, and years that a date cannot hold.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from domain.errors import MarketplaceError
from domain.payouts.refusals import refusal

MONTHS_PER_YEAR = 12
_PERIOD = re.compile(r"(20[0-9]{2})-(?:(W)([0-9]{2})|([0-9]{2}))", re.ASCII)


class Schedule(StrEnum):
    """How often payees are paid."""

    MONTH = "month"
    WEEK = "week"


@dataclass(frozen=True, slots=True)
class Period:
    """From ``starts_at`` (included) to ``ends_at`` (excluded); ``name`` as it is written."""

    name: str
    schedule: Schedule
    starts_at: datetime
    ends_at: datetime

    def __str__(self) -> str:
        return self.name


def parse_period(text: str, schedule: Schedule | None = None) -> Period:
    """Read a period; with ``schedule`` only one of that kind.

    Raises:
        RejectedError: ``payout_period_invalid``.
    """
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise _invalid()
    kind = Schedule.WEEK if match[2] else Schedule.MONTH
    if schedule not in (None, kind):
        raise _invalid()
    try:
        first, behind = (
            _week(int(match[1]), int(match[3])) if match[2] else _month(int(match[1]), int(match[4]))
        )
    except ValueError:
        raise _invalid() from None
    return Period(text, kind, _midnight(first), _midnight(behind))


def _month(year: int, month: int) -> tuple[date, date]:
    years, following = divmod(month, MONTHS_PER_YEAR)
    return date(year, month, 1), date(year + years, following + 1, 1)


def _week(year: int, week: int) -> tuple[date, date]:
    first = date.fromisocalendar(year, week, 1)
    return first, first + timedelta(weeks=1)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _invalid() -> MarketplaceError:
    return refusal("payout_period_invalid")
