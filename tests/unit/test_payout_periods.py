"""Payout periods: months and ISO weeks in UTC."""

from datetime import UTC, datetime

import pytest

from domain.errors import RejectedError
from domain.payouts.periods import Schedule, parse_period


@pytest.mark.parametrize(
    ("text", "starts", "ends"),
    [
        ("2026-10", (2026, 10, 1), (2026, 11, 1)),
        ("2026-12", (2026, 12, 1), (2027, 1, 1)),
        ("2026-W01", (2025, 12, 29), (2026, 1, 5)),
        ("2026-W53", (2026, 12, 28), (2027, 1, 4)),
    ],
)
def test_a_period_is_whole(text, starts, ends):
    period = parse_period(text)
    assert (period.starts_at, period.ends_at) == (
        datetime(*starts, tzinfo=UTC),
        datetime(*ends, tzinfo=UTC),
    )
    assert str(period) == text


@pytest.mark.parametrize(
    "text",
    ["", "2026", "2026-13", "2026-00", "2026-W00", "2025-W53", "2026-1", "1999-01", "2026-10 ", "٢٠٢٦-10"],
)
def test_anything_else_is_refused(text):
    with pytest.raises(RejectedError, match="payout_period_invalid"):
        parse_period(text)


def test_the_schedule_is_kept():
    assert parse_period("2026-W10", Schedule.WEEK).schedule is Schedule.WEEK
    with pytest.raises(RejectedError, match="payout_period_invalid"):
        parse_period("2026-W10", Schedule.MONTH)
