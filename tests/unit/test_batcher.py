"""Batching across a hop."""

import asyncio

import pytest

from domain.errors import BusyError, DependencyError
from storage.batching import Batcher


async def test_a_lone_item_goes_at_once_and_company_shares_the_next_request():
    sizes, gate = [], asyncio.Event()

    async def send(items):
        sizes.append(len(items))
        await gate.wait()
        return [item * 2 for item in items]

    batcher = Batcher(send, batch_max=10, waiting_max=100)
    first = asyncio.create_task(batcher.submit(1))
    while not sizes:
        await asyncio.sleep(0)
    rest = [asyncio.create_task(batcher.submit(n)) for n in range(2, 8)]
    await asyncio.sleep(0)
    gate.set()
    assert await first == 2
    assert await asyncio.gather(*rest) == [4, 6, 8, 10, 12, 14]
    assert sizes == [1, 6]


@pytest.mark.parametrize("in_flight_max", [1, 4])
async def test_what_is_submitted_together_shares_the_first_request_and_none_is_empty(in_flight_max):
    sizes = []

    async def send(items):
        sizes.append(len(items))
        await asyncio.sleep(0)
        return list(items)

    batcher = Batcher(send, batch_max=10, waiting_max=100, in_flight_max=in_flight_max)
    assert await asyncio.gather(*(batcher.submit(n) for n in range(7))) == list(range(7))
    assert sizes == [7]
    await asyncio.gather(*(batcher.submit(n) for n in range(25)))
    assert sizes == [7, 10, 10, 5]


async def test_an_item_lingers_for_company_and_a_full_request_does_not():
    sizes = []

    async def send(items):
        sizes.append(len(items))
        return list(items)

    batcher = Batcher(send, batch_max=3, waiting_max=100, linger_s=0.05)
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0.001)
    assert sizes == []
    assert await batcher.submit(1) == 1
    assert (await first, sizes) == (0, [2])
    patient = Batcher(send, batch_max=3, waiting_max=100, linger_s=60)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(patient.submit(n) for n in range(3))) == [0, 1, 2]


async def test_requests_in_flight_are_bounded_and_a_slow_one_holds_nobody_up():
    gates = {n: asyncio.Event() for n in range(5)}
    opened = []

    async def send(items):
        opened.append(items[0])
        await gates[items[0]].wait()
        return list(items)

    batcher = Batcher(send, batch_max=1, waiting_max=100, in_flight_max=2)
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(5)]
    while len(opened) < 2:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert opened == [0, 1]
    for n in range(1, 5):
        gates[n].set()
    assert await asyncio.gather(*tasks[1:]) == [1, 2, 3, 4]
    assert not tasks[0].done()
    gates[0].set()
    assert await tasks[0] == 0


async def test_each_item_gets_its_own_error():
    async def send(items):
        return [ValueError(str(item)) if item % 2 else item for item in items]

    batcher = Batcher(send, batch_max=10, waiting_max=100)
    answers = await asyncio.gather(*(batcher.submit(n) for n in range(4)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["0", "1", "2", "3"]
    assert [isinstance(answer, ValueError) for answer in answers] == [False, True, False, True]


async def test_a_failed_request_fails_its_batch_and_the_next_one_works():
    calls = 0

    async def send(items):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError("down")
        return list(items)

    batcher = Batcher(send, batch_max=10, waiting_max=100)
    with pytest.raises(ConnectionError):
        await batcher.submit(1)
    assert await batcher.submit(2) == 2


async def test_a_wrong_number_of_answers_is_an_error_for_all():
    async def send(items):
        return []

    with pytest.raises(RuntimeError, match="0 answers for 1 items"):
        await Batcher(send, batch_max=10, waiting_max=100).submit(1)


async def test_the_queue_is_bounded():
    gate = asyncio.Event()

    async def send(items):
        await gate.wait()
        return list(items)

    batcher = Batcher(send, batch_max=1, waiting_max=2)
    tasks = []
    for n in range(3):
        tasks.append(asyncio.create_task(batcher.submit(n)))
        await asyncio.sleep(0)
    with pytest.raises(BusyError, match="queue_full"):
        await batcher.submit(9)
    gate.set()
    assert await asyncio.gather(*tasks) == [0, 1, 2]


async def test_a_waiter_that_gives_up_does_not_disturb_the_others():
    gate = asyncio.Event()

    async def send(items):
        await gate.wait()
        return list(items)

    batcher = Batcher(send, batch_max=10, waiting_max=10)
    impatient = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    patient = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    impatient.cancel()
    gate.set()
    assert await patient == 2


async def test_a_request_that_is_cancelled_leaves_nobody_waiting():
    async def send(items):
        raise asyncio.CancelledError

    with pytest.raises(DependencyError, match="request_cancelled"):
        async with asyncio.timeout(5):
            await Batcher(send, batch_max=10, waiting_max=10).submit(1)


async def test_whoever_has_given_up_is_not_sent():
    sent, gate = [], asyncio.Event()

    async def send(items):
        await gate.wait()
        sent.extend(items)
        return list(items)

    batcher = Batcher(send, batch_max=2, waiting_max=100)
    stalled = [asyncio.create_task(batcher.submit(number)) for number in range(50)]
    await asyncio.sleep(0.01)  # the first two are under way
    for task in stalled:
        task.cancel()
    await asyncio.wait(stalled)
    fresh = asyncio.create_task(batcher.submit("fresh"))
    gate.set()
    assert await fresh == "fresh"
    assert sent == [0, 1, "fresh"]
