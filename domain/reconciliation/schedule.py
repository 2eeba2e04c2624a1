"""When a daily reconciliation is due, and over which window. Pure."""

from datetime import datetime, timedelta

SETTLED_AFTER = timedelta(hours=2)  # of a day's end: late webhooks and bookings have come by then
CATCH_UP_MAX = timedelta(days=29)  # Stripe lists events for thirty days


def due_window(looked_until: datetime | None, now: datetime) -> tuple[datetime, datetime] | None:
    """Return the days (UTC) that no daily run has looked at, None while there is none that has settled.

    After a pause all missed days are one window. ``looked_until`` None: yesterday is the first.
    """
    until = (now - SETTLED_AFTER).replace(hour=0, minute=0, second=0, microsecond=0)
    since = looked_until if looked_until is not None else until - timedelta(days=1)
    since = max(since, until - CATCH_UP_MAX)
    return (since, until) if since < until else None


def window_of_day(day: datetime, now: datetime) -> tuple[datetime, datetime]:
    """Return the window of one day, which begins at ``day``; of today only what has been."""
    return day, min(day + timedelta(days=1), max(day, now))
