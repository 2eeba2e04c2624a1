"""When the daily reconciliation is due, what a round does, and what its failures do."""

import asyncio
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from actors.reconciliation.daily import CaseFigures, DailyReconciliation, IncompleteRunError, work
from actors.reconciliation.metrics import ReconciliationMetrics
from domain.errors import DependencyError
from domain.reconciliation.facts import Kind
from domain.reconciliation.report import Report
from domain.reconciliation.schedule import due_window, window_of_day

MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC)
DAY = timedelta(days=1)


def test_yesterday_is_due_once_it_has_settled_and_missed_days_come_along():
    assert due_window(None, MIDNIGHT + timedelta(hours=2)) == (MIDNIGHT - DAY, MIDNIGHT)
    assert due_window(MIDNIGHT - DAY, MIDNIGHT + timedelta(hours=1, minutes=59)) is None
    assert due_window(MIDNIGHT, MIDNIGHT + timedelta(hours=23)) is None
    assert due_window(MIDNIGHT - 5 * DAY, MIDNIGHT + timedelta(hours=3)) == (MIDNIGHT - 5 * DAY, MIDNIGHT)
    since, until = due_window(MIDNIGHT - 90 * DAY, MIDNIGHT + timedelta(hours=3))
    assert (until - since, until) == (29 * DAY, MIDNIGHT)


def test_of_today_only_what_has_been_is_looked_at():
    noon = MIDNIGHT + timedelta(hours=12)
    assert window_of_day(MIDNIGHT, noon) == (MIDNIGHT, noon)
    assert window_of_day(MIDNIGHT - DAY, noon) == (MIDNIGHT - DAY, MIDNIGHT)


class FakeMarket:
    def __init__(self, now, daily_until=None, *, pending=0, lock=True):
        self._now, self._until, self._pending, self._lock = now, daily_until, pending, lock
        self.runs = []

    def alone(self):
        return self._lock

    def now(self):
        return self._now

    def daily_until(self):
        return self._until

    def pending_cases(self, settling_s):
        return self._pending

    def record_run(self, run_id, window, started_at, report, *, daily, complete):
        self.runs.append((window, daily, complete))
        if complete:
            self._until = window[1]

    def open_by_kind(self):
        return {"captured_twice": 2}

    def last_daily_age_s(self):
        return 60.0 if self.runs else None


class FakeReconciler:
    def __init__(self, stopped_by=""):
        self.done = []
        self.stopped_by = stopped_by

    def run(self, window, *, apply):
        self.done.append((window.since, window.until, apply))
        return Report(window.since, window.until, stopped_by=self.stopped_by)

    def look_again(self, *, apply):
        self.done.append(("again", apply))
        return Report(MIDNIGHT, MIDNIGHT)


def draw(prefix):
    return f"{prefix}_1"


def test_a_round_runs_what_is_due_once_and_applies():
    market, reconciler = FakeMarket(MIDNIGHT + timedelta(hours=2)), FakeReconciler()
    figures = work((market, lambda: reconciler), draw)
    assert reconciler.done == [(MIDNIGHT - DAY, MIDNIGHT, True)]
    assert market.runs == [((MIDNIGHT - DAY, MIDNIGHT), True, True)]
    assert figures == CaseFigures({"captured_twice": 2}, 60.0)
    work((market, lambda: reconciler), draw)
    assert len(reconciler.done) == 1


def test_mended_cases_are_looked_at_again_and_only_what_was_asked_for_is_mended():
    market, reconciler = FakeMarket(MIDNIGHT, MIDNIGHT, pending=1), FakeReconciler()
    work((market, lambda: reconciler), draw)
    assert reconciler.done == [("again", False)]


def test_only_one_process_runs():
    market, reconciler = FakeMarket(MIDNIGHT + timedelta(hours=2), lock=False), FakeReconciler()
    work((market, lambda: reconciler), draw)
    assert not reconciler.done


def test_a_run_that_stopped_at_a_bound_is_kept_and_repeated():
    market, reconciler = FakeMarket(MIDNIGHT + timedelta(hours=2)), FakeReconciler("too many")
    for _ in range(2):
        with pytest.raises(IncompleteRunError):
            work((market, lambda: reconciler), draw)
    assert [complete for _, _, complete in market.runs] == [False, False]


async def test_a_failing_round_waits_and_the_loop_lives():
    tries = []

    @contextmanager
    def away(stopping):
        tries.append(stopping())
        raise DependencyError("database_unavailable", "down")
        yield

    daily = DailyReconciliation(away, draw, interval_s=0.001)
    daily.start()
    async with asyncio.timeout(5):
        while not tries:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert daily.alive
    assert tries == [False], "the next try comes much later"
    await daily.stop()
    assert not daily.alive


def test_metrics_tell_open_cases_of_every_kind_and_the_age_of_the_last_run():
    metrics = ReconciliationMetrics()
    metrics.record(CaseFigures())
    text = metrics.exposition().decode()
    assert "marketplace_reconciliation_last_run_seconds NaN" in text
    assert text.count("marketplace_reconciliation_open_cases{") == len(Kind)
    metrics.record(CaseFigures({"captured_twice": 2}, 90.0))
    text = metrics.exposition().decode()
    assert 'marketplace_reconciliation_open_cases{kind="captured_twice"} 2.0' in text
    assert "marketplace_reconciliation_last_run_seconds 90.0" in text
