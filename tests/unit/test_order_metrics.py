"""The order runtime's metrics: what a scrape shows, and how fresh the backlog is."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from actors import periodic
from actors.grains.runtime import GrainCounts
from actors.orders.breakers import FAILURES_MAX, OPEN_S
from actors.orders.metrics import BACKLOG_AGE_S_MAX, BACKLOG_INTERVAL_S, BacklogWatch, register
from domain.errors import DependencyError
from storage.market.dead_letters import Backlog
from tests.fakes.carts import cart
from tests.fakes.order_world import KEY, World

BACKLOG = Backlog(1, 2, 3, 4, 5)
pass_loop = asyncio.sleep


def scrape(registry):
    lines = generate_latest(registry).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


@pytest.fixture
def clock():
    return World().monotonic


def test_every_number_has_its_series(clock):
    registry = CollectorRegistry()
    register(
        registry,
        counts=lambda: GrainCounts(10, 20, 30, 40, 50, 60, 70),
        breakers=(),
        running_effects=lambda: 8,
        backlog=lambda: BACKLOG,
    )
    assert scrape(registry) == {
        "marketplace_order_grains": "10.0",
        "marketplace_order_grains_bytes": "20.0",
        "marketplace_order_turns_total": "30.0",
        "marketplace_order_activations_total": "40.0",
        "marketplace_order_evictions_total": "50.0",
        "marketplace_order_stale_turns_total": "60.0",
        "marketplace_order_refused_turns_total": "70.0",
        "marketplace_effects_running": "8.0",
        'marketplace_overdue_work{kind="effect"}': "1.0",
        'marketplace_overdue_work{kind="webhook"}': "2.0",
        'marketplace_dead_letters{kind="effect"}': "3.0",
        'marketplace_dead_letters{kind="webhook"}': "4.0",
        'marketplace_dead_letters{kind="event"}': "5.0",
    }


async def test_a_real_host_is_read_at_every_scrape():
    world = World()
    host = world.host()
    breakers = host._effects.breakers
    registry = CollectorRegistry()
    register(registry, counts=host.counts, breakers=breakers, running_effects=lambda: 0, backlog=lambda: None)
    assert scrape(registry)["marketplace_order_grains"] == "0.0"
    await host.place(cart(), KEY)
    seen = scrape(registry)
    assert seen["marketplace_order_grains"] == "1.0"
    assert float(seen["marketplace_order_turns_total"]) > 0
    assert not any("dead_letters" in name or "overdue" in name for name in seen), "unknown is not zero"

    def states(dependency):
        return {
            state
            for state in ("closed", "open", "half_open")
            if scrape(registry)[f'marketplace_breaker_state{{dependency="{dependency}",state="{state}"}}']
            == "1.0"
        }

    assert states("stripe") == states("finance") == states("signer") == {"closed"}

    async def fail():
        raise DependencyError("finance_unavailable", "down")

    finance = next(one for one in breakers if one.name == "Finance")
    for _ in range(FAILURES_MAX):
        with pytest.raises(DependencyError):
            await finance.call(fail)
    assert (states("finance"), states("stripe")) == ({"open"}, {"closed"})
    world.monotonic.now_s += OPEN_S
    assert states("finance") == {"half_open"}
    await host.close()


def test_one_registry_takes_one_runtime():
    registry = CollectorRegistry()
    parts = {
        "counts": lambda: GrainCounts(0, 0, 0, 0, 0, 0, 0),
        "breakers": (),
        "running_effects": lambda: 0,
        "backlog": lambda: None,
    }
    collector = register(registry, **parts)
    with pytest.raises(ValueError, match="Duplicated"):
        register(registry, **parts)
    registry.unregister(collector)
    assert scrape(registry) == {}


async def test_the_backlog_is_believed_for_a_minute(clock):
    answers = [
        BACKLOG,
        DependencyError("database_unavailable", "down"),
        RuntimeError("a bug"),
        Backlog(0, 0, 0, 0, 0),
    ]

    async def read():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = BacklogWatch(read, clock)
    assert watch.latest is None
    await watch.once()
    assert watch.latest == BACKLOG
    clock.now_s += BACKLOG_AGE_S_MAX
    await watch.once()
    assert watch.latest == BACKLOG
    clock.now_s += 1
    await watch.once()
    assert watch.latest is None
    await watch.once()
    assert watch.latest == Backlog(0, 0, 0, 0, 0)


async def test_it_is_counted_at_once_and_then_every_fifteen_seconds_at_most(clock, monkeypatch):
    sleeps, reads = [], []

    async def sleep(seconds):
        sleeps.append(seconds)
        await pass_loop(0)

    async def read():
        reads.append(len(sleeps))
        return BACKLOG

    monkeypatch.setattr(periodic.asyncio, "sleep", sleep)
    watch = BacklogWatch(read, clock)
    watch.start()
    while len(reads) < 4:
        await pass_loop(0)
    assert watch.alive
    await watch.stop()
    assert not watch.alive
    assert reads[:4] == [0, 1, 2, 3], "one pause between two counts"
    assert all(BACKLOG_INTERVAL_S <= one <= 1.1 * BACKLOG_INTERVAL_S for one in sleeps)
    await BacklogWatch(read, clock).stop()  # one that never started
