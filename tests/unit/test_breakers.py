"""Circuit breakers: closed, open, half-open; one probe at a time; an answer closes, whatever it says."""

import asyncio

import pytest

from actors.orders.breakers import FAILURES_MAX, OPEN_S, Breaker, BreakerState
from domain.errors import DependencyError, RejectedError
from tests.fakes.orders import FakeMonotonic


class System:
    """An outside system that counts its calls."""

    def __init__(self):
        self.failure = None
        self.calls = 0
        self.gate = None

    async def __call__(self):
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return "done"


@pytest.fixture
def clock():
    return FakeMonotonic()


@pytest.fixture
def system():
    return System()


@pytest.fixture
def breaker(clock):
    return Breaker("Stripe", clock)


async def fail(breaker, system, times):
    system.failure = DependencyError("payment_provider_unavailable", "down")
    for _ in range(times):
        with pytest.raises(DependencyError, match="payment_provider_unavailable"):
            await breaker.call(system)
    system.failure = None


async def opened(breaker, system):
    await fail(breaker, system, FAILURES_MAX)
    assert breaker.state is BreakerState.OPEN
    system.calls = 0


async def test_a_closed_circuit_lets_calls_through(breaker, system):
    assert await breaker.call(system) == "done"
    assert breaker.state is BreakerState.CLOSED


async def test_it_opens_after_so_many_failures_in_a_row(breaker, system):
    await fail(breaker, system, FAILURES_MAX - 1)
    assert breaker.state is BreakerState.CLOSED
    await fail(breaker, system, 1)
    assert breaker.state is BreakerState.OPEN


async def test_single_lost_calls_do_not_open_it(breaker, system):
    for _ in range(3):
        await fail(breaker, system, FAILURES_MAX - 1)
        await breaker.call(system)
    assert breaker.state is BreakerState.CLOSED


async def test_an_open_circuit_calls_nobody_and_says_when_to_come_back(breaker, system):
    await opened(breaker, system)
    with pytest.raises(DependencyError, match="circuit_open") as refused:
        await breaker.call(system)
    assert system.calls == 0
    assert refused.value.retry_after_s >= OPEN_S
    assert "Stripe" in refused.value.detail


async def test_refusals_of_an_open_circuit_do_not_keep_it_open(breaker, system, clock):
    await opened(breaker, system)
    clock.now_s += OPEN_S - 0.1
    for _ in range(FAILURES_MAX):
        with pytest.raises(DependencyError, match="circuit_open"):
            await breaker.call(system)
    clock.now_s += 0.1
    assert breaker.state is BreakerState.HALF_OPEN


async def test_the_first_success_closes_it_for_good(breaker, system, clock):
    await opened(breaker, system)
    clock.now_s += OPEN_S
    assert await breaker.call(system) == "done"
    assert breaker.state is BreakerState.CLOSED
    await fail(breaker, system, FAILURES_MAX - 1)
    assert breaker.state is BreakerState.CLOSED, "counting begins anew"


async def test_a_failed_probe_opens_it_again(breaker, system, clock):
    await opened(breaker, system)
    clock.now_s += OPEN_S
    await fail(breaker, system, 1)
    assert breaker.state is BreakerState.OPEN
    clock.now_s += OPEN_S
    assert breaker.state is BreakerState.HALF_OPEN


async def test_one_probe_at_a_time(breaker, system, clock):
    await opened(breaker, system)
    clock.now_s += OPEN_S
    system.gate = asyncio.Event()
    probe = asyncio.create_task(breaker.call(system))
    while not system.calls:
        await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(DependencyError, match="circuit_open"):
            await breaker.call(system)
    assert system.calls == 1
    system.gate.set()
    assert await probe == "done"
    assert await breaker.call(system) == "done"


async def test_a_probe_that_is_cancelled_makes_room_for_the_next(breaker, system, clock):
    await opened(breaker, system)
    clock.now_s += OPEN_S
    system.gate = asyncio.Event()
    probe = asyncio.create_task(breaker.call(system))
    while not system.calls:
        await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert breaker.state is BreakerState.HALF_OPEN, "nothing was learnt"
    system.gate.set()
    assert await breaker.call(system) == "done"


@pytest.mark.parametrize("answer", [RejectedError("card_declined", "no"), KeyError("a bug of ours")])
async def test_a_refusal_is_an_answer_and_closes_it(breaker, system, clock, answer):
    await opened(breaker, system)
    clock.now_s += OPEN_S
    system.failure = answer
    with pytest.raises(type(answer)):
        await breaker.call(system)
    assert breaker.state is BreakerState.CLOSED


async def test_refusals_never_open_it(breaker, system):
    system.failure = RejectedError("card_declined", "no")
    for _ in range(3 * FAILURES_MAX):
        with pytest.raises(RejectedError):
            await breaker.call(system)
    assert breaker.state is BreakerState.CLOSED


async def test_failures_of_calls_that_were_under_way_together_count_each(breaker, system):
    system.gate, system.failure = asyncio.Event(), DependencyError("down", "down")
    calls = [asyncio.create_task(breaker.call(system)) for _ in range(FAILURES_MAX)]
    while system.calls < FAILURES_MAX:
        await asyncio.sleep(0)
    system.gate.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert breaker.state is BreakerState.OPEN
