"""Mailboxes: alone, in order, bounded; state as a cache of the store."""

import asyncio

import pytest

from actors.grains.runtime import Grains, StaleStateError
from domain.errors import BusyError


class Counter:
    """A store of numbers that counts its reads."""

    def __init__(self):
        self.values: dict[str, int] = {}
        self.reads = 0

    async def load(self, key):
        self.reads += 1
        await asyncio.sleep(0)
        return self.values.get(key)


async def test_turns_on_one_key_run_alone_and_in_order():
    grains = Grains(Counter().load)
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
    grains = Grains(Counter().load)
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
    grains = Grains(store.load)

    async def act(state, fresh):
        return state + 1, state

    assert [await grains.turn("a", act) for _ in range(3)] == [7, 8, 9]
    assert store.reads == 1


async def test_a_stale_turn_reads_again_and_runs_once_more():
    store = Counter()
    store.values["a"] = 1
    grains = Grains(store.load)
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
    grains = Grains(Counter().load)
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
    grains = Grains(Counter().load)

    async def act(state, fresh):
        raise StaleStateError("a")

    with pytest.raises(BusyError, match="order_contended"):
        await grains.turn("a", act)


@pytest.mark.parametrize("failure", [RuntimeError("lost"), asyncio.CancelledError()])
async def test_after_any_failure_the_state_is_read_again(failure):
    store = Counter()
    grains = Grains(store.load)

    async def fails(state, fresh):
        raise failure

    async def peek(state, fresh):
        return state, state

    with pytest.raises(type(failure)):
        await grains.turn("a", fails)
    store.values["a"] = 5
    assert await grains.turn("a", peek) == 5


async def test_a_full_mailbox_refuses_at_once():
    grains = Grains(Counter().load, mailbox_max=2)
    gate = asyncio.Event()

    async def blocked(state, fresh):
        await gate.wait()
        return state, None

    waiting = [asyncio.create_task(grains.turn("a", blocked)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="mailbox_full"):
        await grains.turn("a", blocked)
    gate.set()
    await asyncio.gather(*waiting)


async def test_idle_grains_leave_least_recently_used_first():
    store = Counter()
    grains = Grains(store.load, live_max=2)

    async def peek(state, fresh):
        return state, None

    for key in ["a", "b", "a", "c"]:
        await grains.turn(key, peek)
    assert len(grains) == 2
    reads = store.reads
    await grains.turn("a", peek)
    assert store.reads == reads, "a was used more recently than b and must have stayed"


async def test_busy_grains_are_never_passivated():
    store = Counter()
    grains = Grains(store.load, live_max=1)
    gate = asyncio.Event()

    async def hold(state, fresh):
        await gate.wait()
        return 41, None

    async def peek(state, fresh):
        return state, state

    held = asyncio.create_task(grains.turn("a", hold))
    await asyncio.sleep(0)
    for key in "bcd":
        await grains.turn(key, peek)
    gate.set()
    await held
    assert await grains.turn("a", peek) in (41, None)
