"""Housekeeping without a database: bounds, pauses, and that nothing ends it."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from actors import periodic
from actors.orders import housekeeping
from actors.orders.housekeeping import (
    BACKLOG_PAUSE_S,
    BATCH_PAUSE_S,
    BATCH_ROWS,
    BATCHES_MAX,
    COMMANDS_KEPT_DAYS,
    INTERVAL_S,
    LINKS_KEPT_DAYS,
    WEBHOOKS_KEPT_DAYS,
    Housekeeping,
    Purged,
)
from domain.errors import DependencyError
from storage.market.housekeeping import ALONE_S_MAX

pass_loop = asyncio.sleep


class FakeStore:
    """Old rows by table; ``busy`` is another process at it."""

    def __init__(self, commands=0, webhooks=0, links=0):
        self.rows = {"commands": commands, "webhooks": webhooks, "links": links}
        self.calls = []
        self.busy = False
        self.failures = []
        self.inside = 0

    @asynccontextmanager
    async def alone(self):
        if self.failures:
            raise self.failures.pop(0)
        self.inside += 1
        try:
            yield not self.busy
        finally:
            self.inside -= 1

    async def purge_commands(self, kept_days, limit):
        return self._purge("commands", kept_days, limit)

    async def purge_webhooks(self, kept_days, limit):
        return self._purge("webhooks", kept_days, limit)

    async def purge_delivery_links(self, kept_days, limit):
        return self._purge("links", kept_days, limit)

    def _purge(self, table, kept_days, limit):
        assert self.inside == 1
        assert not self.busy
        count = min(self.rows[table], limit)
        self.rows[table] -= count
        self.calls.append((table, kept_days, count))
        return count


@pytest.fixture
def sleeps(monkeypatch):
    """Time passes at once; what was waited for is written down."""
    waited = []

    async def sleep(seconds):
        waited.append(seconds)
        await pass_loop(0)

    monkeypatch.setattr(housekeeping.asyncio, "sleep", sleep)
    monkeypatch.setattr(periodic.random, "random", lambda: 1.0)  # no jitter
    return waited


async def test_a_run_deletes_what_is_old_and_no_more(sleeps):
    store = FakeStore(commands=2_500, webhooks=3, links=4)
    assert await Housekeeping(store).once() == Purged(2_500, 3, more=False, links=4)
    assert store.calls == [
        ("commands", COMMANDS_KEPT_DAYS, BATCH_ROWS),
        ("commands", COMMANDS_KEPT_DAYS, BATCH_ROWS),
        ("commands", COMMANDS_KEPT_DAYS, 500),
        ("webhooks", WEBHOOKS_KEPT_DAYS, 3),
        ("links", LINKS_KEPT_DAYS, 4),
    ]
    assert sleeps == [BATCH_PAUSE_S, BATCH_PAUSE_S]


async def test_a_run_is_bounded_and_says_that_there_is_more(sleeps):
    bound = BATCH_ROWS * BATCHES_MAX
    store = FakeStore(commands=bound + 1, webhooks=bound * 2, links=bound * 2)
    assert await Housekeeping(store).once() == Purged(bound, bound, more=True, links=bound)
    assert len(store.calls) == 3 * BATCHES_MAX
    # With a quarter of a second per batch, ten times what one takes, the lock still outlives the run.
    assert sum(sleeps) + 3 * BATCHES_MAX * 0.25 < ALONE_S_MAX


async def test_while_another_process_is_at_it_nothing_is_done(sleeps):
    store = FakeStore(commands=1)
    store.busy = True
    assert await Housekeeping(store).once() is None
    assert store.calls == []


async def test_a_backlog_is_worked_off_soon_and_then_it_rests(sleeps):
    store = FakeStore(commands=BATCH_ROWS * BATCHES_MAX + 1)
    keeping = Housekeeping(store)
    keeping.start()
    assert keeping.alive
    while len([one for one in sleeps if one != BATCH_PAUSE_S]) < 3:
        await pass_loop(0)
    await keeping.stop()
    assert [one for one in sleeps if one != BATCH_PAUSE_S][:3] == [INTERVAL_S, BACKLOG_PAUSE_S, INTERVAL_S]
    assert not keeping.alive


@pytest.mark.parametrize("failure", [DependencyError("database_unavailable", "down"), RuntimeError("a bug")])
async def test_a_failure_waits_for_the_next_run(sleeps, caplog, failure):
    store = FakeStore(commands=1)
    store.failures = [failure]
    keeping = Housekeeping(store)
    keeping.start()
    while store.rows["commands"]:
        await pass_loop(0)
    assert keeping.alive
    await keeping.stop()
    assert sleeps[:2] == [INTERVAL_S, INTERVAL_S]
    assert "housekeeping" in caplog.text


async def test_stopping_leaves_the_lock(sleeps):
    store = FakeStore()
    entered = asyncio.Event()

    async def hang(_kept_days, _limit):
        entered.set()
        await asyncio.Event().wait()

    store.purge_commands = hang
    keeping = Housekeeping(store)
    keeping.start()
    await entered.wait()
    assert store.inside == 1
    await keeping.stop()
    assert store.inside == 0
    await Housekeeping(store).stop()  # one that never started
