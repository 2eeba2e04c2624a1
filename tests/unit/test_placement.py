"""Reaching order hosts through the router: calls of a group share a request, and each has its own answer."""

import asyncio
import warnings

import pytest

from domain.errors import BusyError, DependencyError, NotFoundError, RejectedError
from domain.events import shard_of
from domain.orders.ports import Idempotency, PaymentNews
from tests.fakes.carts import cart, order_id

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Serve declares its settings in a way that pydantic has deprecated
    from ray import exceptions as ray_errors
    from ray.serve import exceptions as serve_errors

    from deployments.placement import CALLS_MAX, PLACEMENT_GROUPS, REQUESTS_IN_FLIGHT_MAX, OrderDirectory

KEY = Idempotency("key", b"digest")


class FakeHandle:
    """A deployment's handle: records its requests; ``answer`` makes the answer to one call of a request."""

    def __init__(self, *, sessions=True):
        self.requests = []
        self.sessions_seen = []
        self.failures = []  # of whole requests, raised first, in turn
        self.gate = None
        self.open = self.open_most = 0
        self.answer = lambda call: ("answered", *call)
        self._sessions = sessions

    def options(self, *, session_id=None, **_serialization):
        if session_id is None:
            return self
        if not self._sessions:
            raise TypeError("options() got an unexpected keyword argument 'session_id'")
        return Session(self, session_id)

    @property
    def run(self):
        return Session(self, None).run


class Session:
    """The handle with a session's id; ``run.remote`` is a call."""

    def __init__(self, handle, session_id):
        self._handle, self._session_id = handle, session_id
        self.run = self

    async def remote(self, calls):
        handle = self._handle
        handle.requests.append(calls)
        handle.sessions_seen.append(self._session_id)
        handle.open += 1
        handle.open_most = max(handle.open_most, handle.open)
        try:
            if handle.gate is not None:
                await handle.gate.wait()
            if handle.failures:
                raise handle.failures.pop(0)
            return [handle.answer(call) for call in calls]
        finally:
            handle.open -= 1


@pytest.fixture
def handle():
    return FakeHandle()


@pytest.fixture
def directory(handle):
    return OrderDirectory(handle)


def news(number, event_id="evt_1"):
    return PaymentNews(event_id, order_id(number), "payment_intent.succeeded", "pi_1", 1999, "USD", "", "")


def group_of(number):
    return shard_of(order_id(number)) % PLACEMENT_GROUPS


def of_group(group, count):
    """Numbers of ``count`` orders of one placement group."""
    return [number for number in range(1, 10_000) if group_of(number) == group][:count]


async def test_a_call_names_its_method_and_hands_its_arguments_on(handle, directory):
    assert await directory.place(cart(), KEY) == ("answered", "place", cart(), KEY)
    assert await directory.receive(news(1)) == ("answered", "receive", news(1))
    assert await directory.release_key(order_id(), "dlv_1") == (
        "answered",
        "release_key",
        order_id(),
        "dlv_1",
    )


async def test_an_orders_calls_all_go_to_one_session_and_orders_spread_over_all(handle, directory):
    for number in range(1, 201):
        await directory.receive(news(number))
        await directory.release_key(order_id(number), "dlv_1")
    sessions = dict(zip((calls[0][1:] for calls in handle.requests), handle.sessions_seen, strict=True))
    assert set(handle.sessions_seen) == {f"orders-{group}" for group in range(PLACEMENT_GROUPS)}
    for number in range(1, 201):
        assert sessions[news(number),] == sessions[order_id(number), "dlv_1"] == f"orders-{group_of(number)}"


async def test_calls_of_a_group_that_wait_share_the_next_request(handle, directory):
    numbers = of_group(0, 3 * CALLS_MAX)
    answers = await asyncio.gather(*(directory.receive(news(number)) for number in numbers))
    assert [answer[-1].order_id for answer in answers] == [order_id(number) for number in numbers]
    assert [len(calls) for calls in handle.requests] == [CALLS_MAX] * 3
    assert set(handle.sessions_seen) == {"orders-0"}


async def test_requests_in_flight_are_bounded_and_a_slow_one_holds_nobody_up(handle, directory):
    handle.gate = asyncio.Event()
    slow = asyncio.create_task(directory.receive(news(of_group(1, 1)[0])))
    while not handle.requests:
        await asyncio.sleep(0)
    gate, handle.gate = handle.gate, None
    quick = of_group(1, 2)[1]
    async with asyncio.timeout(5):
        assert (await directory.receive(news(quick)))[-1].order_id == order_id(quick)
    assert not slow.done()
    handle.gate = gate
    more = [asyncio.create_task(directory.receive(news(n))) for n in of_group(1, 5 * CALLS_MAX)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert handle.open == REQUESTS_IN_FLIGHT_MAX
    gate.set()
    await asyncio.gather(slow, *more)
    assert handle.open_most == REQUESTS_IN_FLIGHT_MAX


async def test_each_call_of_a_request_has_its_own_error(handle, directory):
    first, second, third = of_group(2, 3)
    errors = {
        order_id(first): NotFoundError("order_not_found", "none"),
        order_id(third): BusyError("mailbox_full", "full", 3),
    }
    handle.answer = lambda call: errors.get(call[-1].order_id, "applied")
    answers = await asyncio.gather(
        *(directory.receive(news(number)) for number in (first, second, third)), return_exceptions=True
    )
    assert len(handle.requests) == 1
    assert answers == [errors[order_id(first)], "applied", errors[order_id(third)]]


async def test_without_session_ids_any_host_will_do():
    handle = FakeHandle(sessions=False)
    assert await OrderDirectory(handle).receive(news(1)) == ("answered", "receive", news(1))
    assert handle.sessions_seen == [None]


def died():
    return ray_errors.RayActorError()


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (died(), "order_host_unavailable"),
        (TimeoutError(), "order_host_unavailable"),
        (asyncio.CancelledError(), "order_host_unavailable"),
        (serve_errors.BackPressureError(num_queued_requests=1, max_queued_requests=1), "order_host_busy"),
        (ray_errors.RayTaskError("run", "traceback", RejectedError("no", "x")), "no"),
    ],
)
async def test_rays_failures_become_errors_of_ours(handle, directory, failure, code):
    handle.failures.append(failure)
    with pytest.raises((BusyError, DependencyError, RejectedError)) as told:
        await directory.receive(news(1))
    assert told.value.code == code


async def test_a_host_that_does_not_answer_is_given_up(handle, directory, monkeypatch):
    monkeypatch.setattr("deployments.placement.CALL_DEADLINE_S", 0.01)
    handle.gate = asyncio.Event()
    with pytest.raises(DependencyError, match="order_host_unavailable"):
        await directory.receive(news(1))


async def test_a_fault_in_a_host_is_not_passed_off_as_an_outage(handle, directory):
    handle.failures.append(ray_errors.RayTaskError("run", "traceback", KeyError("bug")))
    with pytest.raises(ray_errors.RayTaskError):
        await directory.receive(news(1))


async def test_placing_is_repeated_once_when_its_host_dies(handle, directory):
    handle.failures.append(died())
    assert await directory.place(cart(), KEY) == ("answered", "place", cart(), KEY)
    assert [calls[0][0] for calls in handle.requests] == ["place", "place"]
    handle.failures += [died(), died(), died()]
    with pytest.raises(DependencyError, match="order_host_unavailable"):
        await directory.place(cart(2), KEY)
    assert len(handle.requests) == 4


async def test_what_a_host_answers_is_not_repeated(handle, directory):
    handle.answer = lambda _call: DependencyError("database_unavailable", "down")
    with pytest.raises(DependencyError, match="database_unavailable"):
        await directory.place(cart(), KEY)
    handle.failures.append(died())
    with pytest.raises(DependencyError):
        await directory.receive(news(1))
    assert len(handle.requests) == 2


async def test_the_line_before_a_group_is_bounded(handle, directory, monkeypatch):
    monkeypatch.setattr("deployments.placement.CALLS_WAITING_MAX", 3)
    directory = OrderDirectory(handle)
    handle.gate = asyncio.Event()
    numbers = of_group(3, 4)
    waiting = [asyncio.create_task(directory.receive(news(number))) for number in numbers[:3]]
    refused = asyncio.create_task(directory.receive(news(numbers[3])))
    with pytest.raises(BusyError, match="queue_full"):
        await refused
    handle.gate.set()
    assert len(await asyncio.gather(*waiting)) == 3
