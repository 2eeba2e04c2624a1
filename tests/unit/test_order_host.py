"""The order host over fakes: the happy path, repeats, races, lost connections and dead hosts."""

import asyncio
from unittest.mock import patch

import pytest

from actors.orders.sweep import Sweep
from domain.errors import BusyError, DependencyError, NotFoundError, RejectedError
from domain.orders.commands import RecordPaymentFailure
from domain.orders.decide import delivery_id
from domain.orders.lines import DeliveryChoice
from domain.orders.ports import CapturedPayment, Idempotency
from domain.orders.state import Status, fold
from tests.fakes.carts import BUYER, NOW, cart, line, order_id
from tests.fakes.order_world import KEY, LIFE, World, settle


@pytest.fixture
def world():
    return World()


async def test_place_pay_deliver(world):
    host = world.host()
    placed = await host.place(cart(), KEY)
    assert placed.order.status is Status.AWAITING_PAYMENT
    assert placed.payment_handle == {"client_secret": "pi_1_secret"}
    assert await world.pay(host) == "applied"
    assert world.store.inbox["evt_1"].outcome == "applied", "kept by the order's own commit"
    await settle(host)
    assert world.kinds() == LIFE
    assert world.store.effects == {}
    assert len(world.store.licences) == 1


async def test_double_clicks_and_a_later_repeat_make_one_order(world):
    host = world.host()
    answers = await asyncio.gather(*(host.place(cart(n), KEY) for n in range(1, 65)))
    assert len({answer.order.order_id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(world.store.orders) == len(world.gateway.intents) == 1
    first = next(answer for answer in answers if not answer.replayed)
    await world.pay(host, int.from_bytes(b"\x01") if first.order.order_id == order_id(1) else 1)
    await settle(host)
    later = await world.host().place(cart(99), KEY)
    assert later.order == first.order, "a replay answers with the order as it first became payable"


async def test_the_same_key_with_another_body_is_refused(world):
    host = world.host()
    await host.place(cart(), KEY)
    with pytest.raises(RejectedError, match="idempotency_key_reused"):
        await host.place(cart(2), Idempotency("key-1", b"other"))
    assert len(world.store.orders) == 1


async def test_64_identical_webhooks_settle_once(world):
    host = world.host()
    await host.place(cart(), KEY)
    outcomes = await asyncio.gather(*(world.pay(host) for _ in range(64)))
    await settle(host)
    assert sorted(outcomes) == ["applied"] + ["no_change"] * 63
    assert world.kinds() == LIFE
    assert len(world.books.entries) == 1
    assert world.store.inbox["evt_1"].outcome == "applied"


async def test_two_events_for_one_capture_settle_once(world):
    host = world.host()
    await host.place(cart(), KEY)
    await asyncio.gather(world.pay(host, event_id="evt_1"), world.pay(host, event_id="evt_2"))
    await settle(host)
    assert world.kinds() == LIFE
    assert sorted(row.outcome for row in world.store.inbox.values()) == ["applied", "no_change"]
    assert all(row.processed for row in world.store.inbox.values())


async def test_two_hosts_with_the_same_order_commit_once(world):
    one, two = world.host(), world.host()
    await one.place(cart(), KEY)
    await two.execute(order_id(), _noop_failure())
    await asyncio.gather(world.pay(one, event_id="evt_1"), world.pay(two, event_id="evt_2"))
    await settle(one)
    await settle(two)
    assert [kind for kind in world.kinds() if kind != "order.payment_failed"] == LIFE
    assert len(world.store.licences) == 1


def _noop_failure():
    return RecordPaymentFailure("evt_0", "card_declined", "no", NOW)


async def test_a_host_whose_memory_is_old_asks_the_store_before_it_refuses(world):
    """Host one knows the order as unpaid; host two has since delivered it."""
    one, two = world.host(), world.host()
    await one.place(cart(delivery=DeliveryChoice("released_key", None)), KEY)
    await world.pay(two)
    await settle(two)
    released = await one.release_key(order_id(), delivery_id(order_id(), 1))
    assert released.identity.startswith("AGE-SECRET-KEY-1")


async def test_a_sweep_in_a_host_whose_memory_is_old_works_on_what_is_stored(world):
    one, two = world.host(), world.host()
    await one.place(cart(), KEY)
    world.books.failures.append(DependencyError("finance_unavailable", "down"))
    await world.pay(two)
    await settle(two)
    assert world.status() is Status.PAID
    world.clock.advance(61)
    await Sweep(world.store, one).once()
    await settle(one)
    assert world.status() is Status.DELIVERED


async def test_a_webhook_that_beats_the_reply_of_stripe(world):
    host = world.host()

    def race(order):
        world.race = asyncio.ensure_future(world.pay(host))

    world.gateway.hook = race
    placed = await host.place(cart(), KEY)
    await world.race
    await settle(host)
    assert world.status() is Status.DELIVERED
    assert placed.order.status in (Status.AWAITING_PAYMENT, Status.PAID, Status.BOOKED, Status.DELIVERED)


@pytest.mark.parametrize("when", ["fail_before", "fail_after"])
@pytest.mark.parametrize("step", range(1, 4))
async def test_a_connection_lost_around_any_commit_loses_nothing(world, when, step):
    """The commits: payment opened, paid, all that follows. The caller retries its own, that of the order."""
    host = world.host()
    sweep = Sweep(world.store, host)
    original = world.store.commit
    commits = 0

    async def flaky(turn):
        nonlocal commits
        commits += 1
        if commits == step:
            setattr(world.store, when, 1)
        return await original(turn)

    world.store.commit = flaky
    await host.place(cart(), KEY)
    for _ in range(6):
        if order_id() in world.gateway.intents and "evt_1" not in world.store.inbox:
            await world.pay(host)
        await settle(host)
        world.clock.advance(70)
        await sweep.once()
        await settle(host)
    assert commits >= step
    # Our record of the intent may be what was lost; the webhook then goes first.
    assert [kind for kind in world.kinds() if kind != "order.payment_opened"] == [
        kind for kind in LIFE if kind != "order.payment_opened"
    ]
    assert world.store.effects == {}
    assert all(row.processed for row in world.store.inbox.values())


async def test_a_dead_host_leaves_work_that_any_sweep_finishes(world):
    dead = world.host()
    world.gateway.failures.append(DependencyError("payment_provider_unavailable", "Stripe is down"))
    placed = await dead.place(cart(), KEY)
    assert placed.order.status is Status.SCREENED
    survivor = world.host()
    world.clock.advance(5)
    assert await Sweep(world.store, survivor).once() == 1
    assert world.status() is Status.AWAITING_PAYMENT


async def test_a_stored_webhook_whose_host_died_is_applied_by_the_sweep(world):
    host = world.host()
    await host.place(cart(), KEY)
    await world.store.store_webhook(world.news())
    sweep = Sweep(world.store, world.host())
    assert await sweep.once() == 0, "within its lease it is left to the ingress"
    world.clock.advance(4)
    assert await sweep.once() == 1
    await settle(sweep._host)
    assert world.kinds() == LIFE
    assert world.store.inbox["evt_1"].outcome == "applied"


@pytest.mark.parametrize("part", ["gateway", "books", "fulfiller"])
async def test_an_outage_of_any_part_delays_and_loses_nothing(world, part):
    host = world.host()
    failing = getattr(world, part)
    failing.failures += [DependencyError("down", "down") for _ in range(3)]
    sweep = Sweep(world.store, host)
    await host.place(cart(), KEY)
    for _ in range(8):
        if order_id() in world.gateway.intents and "evt_1" not in world.store.inbox:
            await world.pay(host)
        await settle(host)
        world.clock.advance(61)
        await sweep.once()
        await settle(host)
    assert world.kinds() == LIFE
    assert failing.failures == []
    assert world.store.effects == {}


async def test_finance_that_echoes_other_amounts_is_not_an_acknowledgement(world):
    host = world.host()
    world.books.skew_minor = 1
    await host.place(cart(), KEY)
    await world.pay(host)
    await settle(host)
    assert world.status() is Status.PAID
    assert world.store.licences == {}
    row = world.store.effects[order_id(), "book"]
    assert row.dead_code == "booking_mismatch"
    assert "Finance booked" in row.last_error
    world.books.skew_minor = 0
    assert await world.later(host, 1_000_000) == 0, "only an operator raises a dead letter"
    assert world.status() is Status.PAID


async def test_a_wrong_amount_is_a_dead_letter_and_changes_nothing(world):
    host = world.host()
    await host.place(cart(), KEY)
    assert await world.pay(host, amount_minor=1) == "amount_mismatch"
    assert world.status() is Status.AWAITING_PAYMENT
    row = world.store.inbox["evt_1"]
    assert (row.processed, row.dead_code) == (False, "amount_mismatch")
    assert "Stripe captured 1 USD" in row.outcome
    assert await world.later(host) == 0
    assert await world.pay(host, event_id="evt_2") == "applied"
    await settle(host)
    assert world.status() is Status.DELIVERED
    assert row.dead_code == "amount_mismatch", "the good one does not settle the bad one"


async def test_a_second_charge_is_a_dead_letter(world):
    host = world.host()
    await host.place(cart(), KEY)
    await world.pay(host)
    await settle(host)
    world.gateway.intents[order_id()] = "pi_other"
    assert await world.pay(host, event_id="evt_2") == "second_charge"
    assert world.kinds() == LIFE
    assert world.store.inbox["evt_2"].dead_code == "second_charge"


async def test_a_webhook_for_nobodys_order_is_not_kept(world):
    host = world.host()
    world.gateway.intents[order_id()] = "pi_1"
    with pytest.raises(NotFoundError, match="order_not_found"):
        await host.receive(world.news())
    assert world.store.inbox == {}


async def test_a_webhook_is_not_acknowledged_before_it_is_kept(world):
    host = world.host()
    await host.place(cart(), KEY)
    world.store.fail_before = 1
    with pytest.raises(DependencyError):
        await host.receive(world.news())
    assert world.store.inbox == {}
    assert await host.receive(world.news()) == "applied"


async def test_stripe_refusing_the_order_cancels_it_with_the_reason(world):
    host = world.host()
    world.gateway.failures.append(RejectedError("payment_refused", "Amount below minimum"))
    placed = await host.place(cart(), KEY)
    assert placed.order.status is Status.CANCELLED
    assert placed.order.end_reason == "Amount below minimum"
    assert world.store.effects == {}


async def test_an_unpaid_order_expires_and_a_late_payment_revives_it(world):
    host = world.host()
    await host.place(cart(), KEY)
    world.clock.advance(1801)
    await Sweep(world.store, host).once()
    await settle(host)
    assert world.status() is Status.EXPIRED
    assert world.gateway.voided == {order_id()}
    await world.pay(host)
    await settle(host)
    assert world.status() is Status.DELIVERED


async def test_releasing_a_key_is_recorded_before_it_is_handed_out(world):
    host = world.host()
    await host.place(cart(delivery=DeliveryChoice("released_key", None)), KEY)
    await world.pay(host)
    await settle(host)
    released = await host.release_key(order_id(), delivery_id(order_id(), 1))
    assert released.identity.startswith("AGE-SECRET-KEY-1")
    assert "AGE-SECRET" not in repr(released)
    assert world.kinds()[-1] == "order.delivery_key_released"
    await host.release_key(order_id(), delivery_id(order_id(), 1))
    assert world.kinds().count("order.delivery_key_released") == 1


async def test_closing_waits_for_running_effects(world):
    host = world.host()
    await host.place(cart(1, line(1), line(2)), KEY)
    await world.pay(host, amount_minor=3998)
    await host.close()
    assert world.status() in (Status.PAID, Status.BOOKED, Status.DELIVERED)
    world.clock.advance(20)
    survivor = world.host()
    for _ in range(3):
        await Sweep(world.store, survivor).once()
        await settle(survivor)
        world.clock.advance(20)
    assert world.kinds() == LIFE
    assert world.store.orders[order_id()].buyer_id == BUYER


async def test_a_captured_payment_whose_webhook_never_came_is_found_when_voiding(world):
    host = world.host()
    await host.place(cart(), KEY)
    world.gateway.paid[order_id()] = CapturedPayment("pi_1", 1999, "USD")
    for seconds in (1801, 5):
        world.clock.advance(seconds)
        await Sweep(world.store, host).once()
        await settle(host)
    assert world.status() is Status.DELIVERED
    order = fold(order_id(), world.store.orders[order_id()].events)
    assert (order.end_code, order.end_reason) == (None, None), "revived: nothing ended"


async def test_the_sweep_outlives_any_failure_of_its_store(world):
    host = world.host()
    await host.place(cart(), KEY)
    sweep = Sweep(world.store, host, interval_s=0.001)
    original, calls = world.store.claim_due_effects, 0

    async def broken_once(*arguments):
        nonlocal calls
        calls += 1
        if calls == 1:
            raise TypeError("a row that this build cannot read")
        return await original(*arguments)

    world.store.claim_due_effects = broken_once
    with patch("actors.orders.sweep.FAILURE_PAUSE_S", 0.001):
        sweep.start()
        async with asyncio.timeout(5):
            while calls < 4:
                await asyncio.sleep(0.001)
    assert sweep.alive
    await sweep.stop()
    assert not sweep.alive


async def test_slow_payments_do_not_stand_before_paid_orders(world):
    """Stripe hangs for a hundred orders; a paid order of a dead host is still finished."""
    dead = world.host()
    await dead.place(cart(), KEY)
    world.books.failures.append(DependencyError("finance_unavailable", "down"))
    await world.pay(dead)
    await settle(dead)
    hung = asyncio.Event()
    for number in range(2, 102):
        world.gateway.failures.append(DependencyError("payment_provider_unavailable", "down"))
        await dead.place(cart(number), Idempotency(f"key-{number}", b"d"))

    async def hang(order):
        await hung.wait()

    world.gateway.open_payment = hang
    world.clock.advance(3600)
    sweep = Sweep(world.store, world.host(), interval_s=0.001)
    sweep.start()
    async with asyncio.timeout(5):
        while world.status() is not Status.DELIVERED:
            await asyncio.sleep(0.001)
    await sweep.stop()


async def test_a_step_that_this_host_is_doing_is_not_done_twice(world):
    host = world.host()
    gate, calls = asyncio.Event(), 0
    original = world.gateway.open_payment

    async def slow(order):
        nonlocal calls
        calls += 1
        await gate.wait()
        return await original(order)

    world.gateway.open_payment = slow
    placing = asyncio.create_task(host.place(cart(), KEY))
    while not calls:
        await asyncio.sleep(0)
    world.clock.advance(30)
    await Sweep(world.store, host).once()
    gate.set()
    assert (await placing).order.status is Status.AWAITING_PAYMENT
    assert calls == 1


async def test_an_expired_key_leaves_no_word_that_it_was_released(world):
    host = world.host()
    await host.place(cart(delivery=DeliveryChoice("released_key", None)), KEY)
    await world.pay(host)
    await settle(host)

    async def expired(order_id, delivery_id):
        raise RejectedError("delivery_key_expired", "too late")

    world.fulfiller.open_identity = expired
    with pytest.raises(RejectedError, match="delivery_key_expired"):
        await host.release_key(order_id(), delivery_id(order_id(), 1))
    assert "order.delivery_key_released" not in world.kinds()


async def test_a_repeat_while_stripe_is_down_answers_as_the_first_did(world):
    host = world.host()
    world.gateway.failures.append(DependencyError("payment_provider_unavailable", "down"))
    first = await host.place(cart(), KEY)
    with patch("actors.orders.host.OPEN_PAYMENT_WAIT_S", 0.01):
        again = await host.place(cart(2), KEY)
    assert (again.order, again.replayed) == (first.order, True)


async def test_what_lets_a_buyer_pay_is_in_no_repr(world):
    host = world.host()
    placed = await host.place(cart(), KEY)
    stored = await world.store.load(order_id())
    assert "pi_1_secret" in str(placed.payment_handle)
    assert "pi_1_secret" not in repr([placed, stored, host._grains._grains[order_id()].state])


async def test_more_orders_than_can_be_taken_are_shed_before_anything_is_written(world):
    host = world.host()
    gate = asyncio.Event()
    original = world.gateway.open_payment

    async def slow(order):
        await gate.wait()
        return await original(order)

    world.gateway.open_payment = slow
    with patch("actors.orders.host.PLACING_MAX", 3):
        placing = [
            asyncio.create_task(host.place(cart(n), Idempotency(f"key-{n}", b"d"))) for n in range(1, 4)
        ]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="host_full"):
            await host.place(cart(4), Idempotency("key-4", b"d"))
        gate.set()
        await asyncio.gather(*placing)
        assert len(world.store.orders) == 3
        assert (await host.place(cart(4), Idempotency("key-4", b"d"))).order.status is Status.AWAITING_PAYMENT
