"""Mailboxes: alone, in order, bounded; state as a cache of the store."""

import asyncio
from dataclasses import replace

import pytest

from actors.grains.runtime import GRAIN_BYTES, STALE_RETRIES, GrainLimits, Grains, StaleStateError
from domain.errors import BusyError
from tests.fakes.orders import FakeMonotonic

WEIGHT = 100  # of every state here, in bytes
ONE = GRAIN_BYTES + WEIGHT


class Counter:
    """A store of numbers that counts its reads."""

    def __init__(self):
        self.values: dict[str, int] = {}
        self.reads = 0

    async def load(self, key):
        self.reads += 1
        await asyncio.sleep(0)
        return self.values.get(key)


def grains_of(store, *, clock=None, weigh=None, **limits):
    return Grains(
        store.load,
        weigh=weigh or (lambda _state: WEIGHT),
        now_s=clock or FakeMonotonic(),
        limits=replace(GrainLimits(), **limits),
    )


async def peek(state, fresh):
    return state, state


async def touch(state, fresh):
    """A turn that leaves a state, so that its grain has a weight."""
    return (state or 0) + 1, None


async def holding(grains, key, gate, reply=None):
    """Start a turn that keeps its key busy until the gate opens; returns once it runs."""
    began = asyncio.Event()

    async def hold(state, fresh):
        began.set()
        await gate.wait()
        return state, reply

    task = asyncio.create_task(grains.turn(key, hold))
    await began.wait()
    return task


async def test_turns_on_one_key_run_alone_and_in_order():
    grains = grains_of(Counter())
    running, trace = 0, []

    async def act(number, state):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.001 * (5 - number))
        running -= 1
        trace.append(number)
        return (state or 0) + 1, number

    replies = await asyncio.gather(
        *(grains.turn("a", lambda state, _fresh, n=n: act(n, state)) for n in range(5))
    )
    assert replies == trace == [0, 1, 2, 3, 4]


async def test_keys_do_not_wait_for_each_other():
    grains = grains_of(Counter())
    gate = asyncio.Event()

    async def blocked(state, fresh):
        await gate.wait()
        return state, "slow"

    async def quick(state, fresh):
        return state, "quick"

    slow = asyncio.create_task(grains.turn("a", blocked))
    assert await grains.turn("b", quick) == "quick"
    gate.set()
    assert await slow == "slow"


async def test_state_is_read_once_and_kept():
    store = Counter()
    store.values["a"] = 7
    grains = grains_of(store)

    async def act(state, fresh):
        return state + 1, state

    assert [await grains.turn("a", act) for _ in range(3)] == [7, 8, 9]
    assert store.reads == 1


async def test_a_stale_turn_reads_again_and_runs_once_more():
    store = Counter()
    store.values["a"] = 1
    grains = grains_of(store)
    seen = []

    async def act(state, fresh):
        seen.append(state)
        if len(seen) == 1:
            store.values["a"] = 2
            raise StaleStateError("a")
        return state, state

    assert await grains.turn("a", act) == 2
    assert seen == [1, 2]


async def test_a_turn_knows_whether_its_state_was_just_read():
    grains = grains_of(Counter())
    seen = []

    async def act(state, fresh):
        seen.append(fresh)
        return 1, None

    for _ in range(2):
        await grains.turn("a", act)
    grains.forget("a")
    await grains.turn("a", act)
    assert seen == [True, False, True]


async def test_endless_contention_becomes_an_error_not_a_loop():
    store = Counter()
    grains = grains_of(store)
    tries = 0

    async def act(state, fresh):
        nonlocal tries
        tries += 1
        raise StaleStateError("a")

    with pytest.raises(BusyError, match="order_contended"):
        await grains.turn("a", act)
    assert tries == store.reads == STALE_RETRIES + 1
    assert grains.counts().stale == STALE_RETRIES + 1


@pytest.mark.parametrize("failure", [RuntimeError("lost"), asyncio.CancelledError()])
async def test_after_any_failure_the_state_is_read_again(failure):
    store = Counter()
    grains = grains_of(store)

    async def fails(state, fresh):
        raise failure

    with pytest.raises(type(failure)):
        await grains.turn("a", fails)
    store.values["a"] = 5
    assert await grains.turn("a", peek) == 5


async def test_a_full_mailbox_refuses_at_once_and_other_keys_do_not_feel_it():
    grains = grains_of(Counter(), mailbox_max=2)
    gate = asyncio.Event()
    waiting = [await holding(grains, "a", gate), asyncio.create_task(grains.turn("a", peek))]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="mailbox_full"):
        await grains.turn("a", peek)
    assert await grains.turn("b", peek) is None
    gate.set()
    await asyncio.gather(*waiting)
    assert await grains.turn("a", peek) is None, "there is room again"
    assert grains.counts().refused == 1


async def test_a_full_host_refuses_every_key_at_once():
    grains = grains_of(Counter(), turns_max=2)
    gate = asyncio.Event()
    held = [await holding(grains, key, gate) for key in "ab"]
    with pytest.raises(BusyError, match="host_full"):
        await grains.turn("c", peek)
    assert len(grains) == 2, "a refused key takes no memory"
    gate.set()
    await asyncio.gather(*held)
    assert await grains.turn("c", peek) is None


async def test_nobody_waits_for_a_slow_turn_without_end():
    grains = grains_of(Counter(), wait_s=0.01)
    gate = asyncio.Event()
    slow = await holding(grains, "a", gate, "slow")
    with pytest.raises(BusyError, match="mailbox_timeout"):
        await grains.turn("a", peek)
    assert grains.counts().refused == 1
    gate.set()
    assert await slow == "slow", "the turn itself is not cut"
    assert await grains.turn("a", peek) is None, "the one that gave up left the line"


async def test_who_arrives_between_two_turns_has_a_deadline_too():
    """The lock is free for a moment but promised to the next in line: the newcomer waits behind it."""
    grains = grains_of(Counter(), wait_s=0.01)
    gate, newcomers = asyncio.Event(), []

    async def first(state, fresh):
        await asyncio.sleep(0)
        newcomers.append(asyncio.create_task(grains.turn("a", peek)))
        return state, None

    async def second(state, fresh):
        await gate.wait()
        return state, "second"

    tasks = [asyncio.create_task(grains.turn("a", act)) for act in (first, second)]
    await tasks[0]
    async with asyncio.timeout(5):
        with pytest.raises(BusyError, match="mailbox_timeout"):
            await newcomers[0]
    gate.set()
    assert await tasks[1] == "second"


async def test_a_waiter_that_is_cancelled_gives_its_place_up():
    grains = grains_of(Counter(), mailbox_max=2)
    gate = asyncio.Event()
    held = await holding(grains, "a", gate)
    waiter = asyncio.create_task(grains.turn("a", peek))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    second = asyncio.create_task(grains.turn("a", peek))
    gate.set()
    await asyncio.gather(held, second)


async def test_a_failed_read_refuses_nobody_else():
    store = Counter()
    grains = grains_of(store)
    original = store.load

    async def down(key):
        raise ConnectionError("down")

    grains._load = down
    with pytest.raises(ConnectionError):
        await grains.turn("a", peek)
    grains._load = original
    store.values["a"] = 3
    assert await grains.turn("a", peek) == 3


async def test_too_many_bytes_evict_the_least_recently_used_first():
    store = Counter()
    grains = grains_of(store, bytes_max=2 * ONE)
    for key in ["a", "b", "a", "c"]:
        await grains.turn(key, touch)
    assert (len(grains), grains.counts().live_bytes, grains.counts().evictions) == (2, 2 * ONE, 1)
    reads = store.reads
    await grains.turn("a", touch)
    assert store.reads == reads, "a was used more recently than b and must have stayed"
    await grains.turn("b", touch)
    assert store.reads == reads + 1, "b was evicted"


async def test_a_state_that_grows_is_weighed_anew():
    grains = grains_of(Counter(), weigh=lambda state: 10 * state, bytes_max=2 * GRAIN_BYTES + 50)
    for _ in range(3):
        await grains.turn("a", touch)
    assert grains.counts().live_bytes == GRAIN_BYTES + 30
    await grains.turn("b", touch)
    assert (len(grains), grains.counts().live_bytes) == (2, 2 * GRAIN_BYTES + 40)
    for _ in range(2):
        await grains.turn("b", touch)
    assert (len(grains), grains.counts().live_bytes) == (1, GRAIN_BYTES + 30)


async def test_busy_grains_are_never_evicted():
    grains = grains_of(Counter(), bytes_max=ONE)
    gate = asyncio.Event()
    held = await holding(grains, "a", gate, "held")
    for key in "bcd":
        await grains.turn(key, touch)
    assert "a" in grains._grains
    assert len(grains) == 1, "the idle ones left instead"
    gate.set()
    assert await held == "held"
    assert grains.counts().evictions == 3


async def test_a_host_whose_grains_are_all_busy_goes_on():
    grains = grains_of(Counter(), bytes_max=0)
    gate = asyncio.Event()
    held = [await holding(grains, key, gate) for key in "abc"]
    await asyncio.gather(*(grains.turn(key, touch) for key in "de"))
    assert set(grains._grains) == set("abc")
    gate.set()
    await asyncio.gather(*held)
    assert (len(grains), grains.counts().live_bytes) == (0, 0)


async def test_idle_grains_are_passivated_and_busy_ones_are_not():
    clock = FakeMonotonic()
    grains = grains_of(Counter(), clock=clock, idle_s=300.0)
    gate = asyncio.Event()
    held = await holding(grains, "busy", gate)
    await grains.turn("old", touch)
    clock.now_s += 200
    await grains.turn("young", touch)
    clock.now_s += 99
    assert grains.passivate() == 0
    clock.now_s += 1
    assert grains.passivate() == 1
    assert set(grains._grains) == {"busy", "young"}
    clock.now_s += 200
    assert grains.passivate() == 1
    gate.set()
    await held
    clock.now_s += 301
    assert grains.passivate() == 1
    assert (len(grains), grains.counts().live_bytes) == (0, 0)


async def test_a_passivated_state_is_read_again():
    clock, store = FakeMonotonic(), Counter()
    grains = grains_of(store, clock=clock)
    await grains.turn("a", touch)
    clock.now_s += 301
    grains.passivate()
    store.values["a"] = 9
    assert await grains.turn("a", peek) == 9


async def test_what_was_just_committed_need_not_be_read():
    store = Counter()
    grains = grains_of(store)
    grains.assume("a", 5)
    assert await grains.turn("a", peek) == 5
    assert store.reads == 0
    assert grains.counts().live_bytes == ONE


async def test_counts_tell_what_was_done():
    store = Counter()
    grains = grains_of(store)
    for key in "aab":
        await grains.turn(key, touch)
    grains.forget("a")
    await grains.turn("a", peek)
    counts = grains.counts()
    assert (counts.live, counts.turns, counts.activations) == (2, 4, 3)
    assert (counts.evictions, counts.stale, counts.refused) == (0, 0, 0)
    assert counts.live_bytes == ONE + GRAIN_BYTES, "the store has no a, so that grain is empty"
