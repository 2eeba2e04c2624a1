"""The order host when something fails: what joins a commit, what is tried again, what is given up."""

import asyncio
from unittest.mock import patch

import pytest

from domain.errors import BusyError, DependencyError, RejectedError
from domain.orders.decide import BOOK, FORGET_KEYS, FULFIL, OPEN_PAYMENT, delivery_id
from domain.orders.events import KIND_OF
from domain.orders.lines import DeliveryChoice
from domain.orders.ports import Idempotency
from domain.orders.state import Status
from tests.fakes.carts import cart, order_id
from tests.fakes.order_world import KEY, LIFE, World, settle


@pytest.fixture
def world():
    return World()


# -- effects that join a commit ----------------------------------------------------------------------


def commits_of(world):
    """Record the kinds of events of each commit."""
    seen, original = [], world.store.commit

    async def commit(turn):
        won = await original(turn)
        if won:
            seen.append([KIND_OF[type(event)] for event in turn.events])
        return won

    world.store.commit = commit
    return seen


async def test_booked_licensed_and_delivered_are_one_commit(world):
    host = world.host()
    await host.place(cart(), KEY)
    commits = commits_of(world)
    await world.pay(host)
    await settle(host)
    assert commits == [["order.paid"], ["order.booked", "order.licensed", "order.delivered"]]
    assert world.fulfiller.calls == 1


@pytest.mark.parametrize(
    "failure", [DependencyError("signer_unavailable", "down"), RejectedError("no", "no"), KeyError("a bug")]
)
async def test_a_signer_that_fails_does_not_cost_the_booking(world, failure):
    host = world.host()
    await host.place(cart(), KEY)
    world.fulfiller.failures += [failure, DependencyError("signer_unavailable", "down")]
    commits = commits_of(world)
    await world.pay(host)
    await settle(host)
    assert world.status() is Status.BOOKED
    assert [step for _, step in world.store.effects] == [FULFIL]
    assert world.store.licences == {}
    assert await world.later(host) == 1
    assert world.status() is Status.DELIVERED
    assert commits == [["order.paid"], ["order.booked"], ["order.licensed", "order.delivered"]]
    assert len(world.books.entries) == 1


async def test_a_host_that_dies_between_booking_and_fulfilment_is_followed_by_any_sweep(world):
    dead = world.host()
    await dead.place(cart(), KEY)
    world.fulfiller.failures.append(DependencyError("signer_unavailable", "down"))
    dead_calls = asyncio.Event()

    async def never(order_id, step, attempts=0):
        dead_calls.set()
        await asyncio.Event().wait()

    await world.pay(dead)
    with patch.object(dead, "run_effect", never):
        while not dead_calls.is_set():
            await asyncio.sleep(0)
    assert world.status() is Status.BOOKED
    assert await world.later(world.host()) == 1
    assert world.kinds() == LIFE
    for task in dead._tasks:
        task.cancel()


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
async def test_a_crash_around_the_joined_commit_leaves_all_of_it_or_nothing(world, when):
    dead = world.host()
    await dead.place(cart(), KEY)
    original = world.store.commit

    async def crash(turn):
        if "OrderBooked" in [type(event).__name__ for event in turn.events]:
            setattr(world.store, when, 1)
        return await original(turn)

    world.store.commit = crash
    await world.pay(dead)
    await settle(dead)
    whole = when == "fail_after"
    assert world.status() is (Status.DELIVERED if whole else Status.PAID)
    assert len(world.store.licences) == len(world.store.deliveries) == whole
    world.store.commit = original
    survivor = world.host()
    assert await world.later(survivor) == (not whole)
    assert world.kinds() == LIFE
    assert len(world.store.licences) == len(world.books.entries) == 1
    assert world.store.effects == {}


async def test_forgetting_keys_is_a_timer_of_the_joined_commit(world):
    host = world.host()
    await host.place(cart(delivery=DeliveryChoice("released_key", None)), KEY)
    await world.pay(host)
    await settle(host)
    delivery = delivery_id(order_id(), 1)
    assert [step for _, step in world.store.effects] == [FORGET_KEYS]
    assert await world.later(host, 86_399) == 0
    assert world.store.deliveries[delivery].wrapped_identity is not None
    assert await world.later(host, 2) == 1
    assert world.kinds() == [*LIFE, "order.delivery_keys_forgotten"]
    assert world.store.deliveries[delivery].wrapped_identity is None
    assert world.store.effects == {}
    for one in (host, world.host()):
        with pytest.raises(RejectedError, match="delivery_key_expired"):
            await one.release_key(order_id(), delivery)
    assert "order.delivery_key_released" not in world.kinds()


# -- retries and dead letters ------------------------------------------------------------------------


async def test_an_unforeseen_failure_is_given_up_after_five_tries(world):
    host = world.host()
    await host.place(cart(), KEY)
    world.books.failures += [KeyError("a bug") for _ in range(5)]
    await world.pay(host)
    for left in (4, 3, 2, 1, 0):
        await settle(host)
        assert len(world.books.failures) == left
        row = world.store.effects[order_id(), BOOK]
        assert (row.dead_code is None) == bool(left)
        await world.later(host)
    assert row.dead_code == "internal_error"
    assert await world.later(host, 1_000_000) == 0
    assert world.status() is Status.PAID


async def test_a_dependency_that_is_down_for_a_day_is_tried_for_ever(world):
    host = world.host()
    await host.place(cart(), KEY)
    world.books.failures += [DependencyError("finance_unavailable", "down") for _ in range(100)]
    await world.pay(host)
    tries = 1
    while world.status() is not Status.DELIVERED:
        tries += await world.later(host)
        assert tries <= 101
        row = world.store.effects.get((order_id(), BOOK))
        assert row is None or row.dead_code is None
    assert tries == 101


async def test_an_open_circuit_defers_without_a_call(world):
    host = world.host()
    world.gateway.failures += [DependencyError("payment_provider_unavailable", "down") for _ in range(8)]
    for number in range(1, 9):
        await host.place(cart(number), Idempotency(f"key-{number}", b"d"))
    assert world.gateway.failures == []
    placed = await host.place(cart(9), Idempotency("key-9", b"d"))
    assert placed.order.status is Status.SCREENED
    assert world.gateway.intents == {}, "Stripe works again but is left alone for a moment"
    assert "circuit_open" in world.store.effects[order_id(9), OPEN_PAYMENT].last_error
    assert await world.later(host) == 9
    assert {world.status(number) for number in range(1, 10)} == {Status.AWAITING_PAYMENT}


async def test_a_webhook_of_a_bug_is_given_up_by_the_sweep_after_five_tries(world):
    host = world.host()
    await host.place(cart(), KEY)
    await world.store.store_webhook(world.news())

    async def broken(turn):
        raise KeyError("a bug")

    original, world.store.commit = world.store.commit, broken
    for _ in range(5):
        assert world.store.inbox["evt_1"].dead_code is None
        assert await world.later(host) == 1
    assert world.store.inbox["evt_1"].dead_code == "internal_error"
    world.store.commit = original
    assert await world.later(host, 1_000_000) <= 1, "the order's own expiry, at most"
    assert world.store.inbox["evt_1"].processed is False


async def test_a_webhook_whose_store_is_down_is_never_given_up(world):
    host = world.host()
    await host.place(cart(), KEY)
    await world.store.store_webhook(world.news())
    for _ in range(20):
        world.store.fail_before = 1
        assert await world.later(host) == 1
        assert world.store.inbox["evt_1"].dead_code is None
    await world.later(host)
    assert world.status() is Status.DELIVERED


async def test_idle_orders_leave_memory_and_come_back(world):
    host = world.host()
    await host.place(cart(), KEY)
    assert host.counts().live == 1
    assert host.passivate() == 0
    world.monotonic.now_s += 301
    assert host.passivate() == 1
    assert (host.counts().live, host.counts().live_bytes) == (0, 0)
    assert await world.pay(host) == "applied"
    await settle(host)
    assert world.kinds() == LIFE


async def test_an_outage_uses_up_no_tries_of_what_nobody_foresaw(world):
    host = world.host()
    await host.place(cart(), KEY)
    down = DependencyError("finance_unavailable", "down")
    world.books.failures = [down] * 5 + [ValueError("a bad answer, once")]
    await world.pay(host)
    for _ in range(8):
        await world.later(host)
    assert world.status() == "delivered"


async def test_a_slow_signer_delays_the_booking_little_and_joins_it_not(world, monkeypatch):
    monkeypatch.setattr("actors.orders.host.JOIN_WAIT_S", 0.01)
    seen, host = commits_of(world), world.host()
    gate, fulfil = asyncio.Event(), world.fulfiller.fulfil

    async def slow(order):
        await gate.wait()
        return await fulfil(order)

    world.fulfiller.fulfil = slow
    await host.place(cart(), KEY)
    await world.pay(host)
    while ["order.booked"] not in seen:
        await asyncio.sleep(0)
    gate.set()
    await settle(host)
    assert seen[-1] == ["order.licensed", "order.delivered"]


async def test_a_webhook_that_an_operator_dropped_stays_dropped(world):
    host = world.host()
    await host.place(cart(), KEY)
    news = world.news()
    await world.store.bury_webhook(news, "internal_error", "a bug")
    world.store.drop_webhook(news.event_id)
    assert await host.receive(news) == "webhook_dropped"  # Stripe sends it again
    await settle(host)
    assert world.status() == "awaiting_payment"
    assert world.store.inbox[news.event_id].outcome == "dropped"


async def test_nobody_may_order_while_too_many_who_have_paid_wait(world, monkeypatch):
    monkeypatch.setattr("actors.orders.host.PAID_WAITING_MAX", 1)
    host, gate, book = world.host(), asyncio.Event(), world.books.book

    async def slow(*entry):
        await gate.wait()
        return await book(*entry)

    world.books.book = slow
    await host.place(cart(), KEY)
    await world.pay(host)
    written = len(world.store.orders)
    with pytest.raises(BusyError, match="host_full"):
        await host.place(cart(2), Idempotency("key-2", b"digest"))
    assert len(world.store.orders) == written
    gate.set()
    await settle(host)
    await host.place(cart(2), Idempotency("key-2", b"digest"))
