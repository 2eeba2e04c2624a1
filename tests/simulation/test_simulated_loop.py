import asyncio
import random

import pytest

from cluster.simulation import loop as loop_module
from cluster.simulation.loop import LivelockError, Process, SimulatedLoop


def run(main, seed=1):
    loop = SimulatedLoop(random.Random(seed))
    result = loop.run(main())
    assert loop.unhandled == []
    return result


def test_time_jumps_to_the_next_timer():
    async def main():
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert run(main) == 86_400


def test_ready_handles_run_in_an_order_of_the_seeds():
    async def main():
        order = []

        async def note(name):
            order.append(name)

        await asyncio.gather(*(note(name) for name in range(8)))
        return tuple(order)

    orders = {run(main, seed) for seed in range(10)}
    assert len(orders) > 5
    assert run(main, 3) == run(main, 3)


def test_locks_timeouts_and_gather_work():
    async def main():
        lock, seen = asyncio.Lock(), []

        async def hold(seconds):
            async with lock:
                await asyncio.sleep(seconds)
                seen.append(seconds)

        task = asyncio.create_task(hold(5))
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await hold(1)
        await task
        return seen, asyncio.get_running_loop().time()

    assert run(main) == ([5], 5.0)


def test_a_dead_process_never_runs_again_and_tells_its_watchers():
    async def main():
        process, beats, died = Process("a"), [], []

        async def beat():
            while True:
                await asyncio.sleep(1)
                beats.append(asyncio.get_running_loop().time())

        process.on_death(lambda: died.append(True))
        process.run(lambda: asyncio.create_task(beat()))
        await asyncio.sleep(2.5)
        process.die()
        await asyncio.sleep(10)
        return beats, died

    assert run(main) == ([1.0, 2.0], [True])


def test_a_paused_process_resumes_in_the_middle_of_what_it_did():
    async def main():
        loop, process, beats = asyncio.get_running_loop(), Process("a"), []

        async def beat():
            for _ in range(3):
                await asyncio.sleep(1)
                beats.append(loop.time())

        process.run(lambda: asyncio.create_task(beat()))
        await asyncio.sleep(1.5)
        process.paused = True
        await asyncio.sleep(10)
        loop.resume(process)
        await asyncio.sleep(5)
        return beats

    assert run(main) == [1.0, 11.5, 12.5]


def test_what_a_process_starts_belongs_to_it():
    async def main():
        process, seen = Process("a"), []

        async def child():
            await asyncio.sleep(1)
            seen.append("child")

        async def parent():
            await asyncio.gather(child(), child())

        process.run(lambda: asyncio.create_task(parent()))
        await asyncio.sleep(0.5)
        process.die()
        await asyncio.sleep(5)
        return seen

    assert run(main) == []


def test_code_that_spins_is_found(monkeypatch):
    monkeypatch.setattr(loop_module, "STEPS_MAX", 1_000)

    async def main():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(LivelockError):
        SimulatedLoop(random.Random(1)).run(main())


def test_an_exception_that_nobody_fetched_is_reported():
    async def main():
        async def fail():
            raise ZeroDivisionError

        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        assert task.done()

    loop = SimulatedLoop(random.Random(1))
    loop.run(main())
    assert "ZeroDivisionError" in loop.unhandled[0]
