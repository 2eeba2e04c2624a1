"""What every ``OrderStore`` promises. Subclasses provide ``store`` and ``expire(seconds)``."""

import asyncio
from dataclasses import replace

from domain.orders import commands as c
from domain.orders.booking import capture_entry_key
from domain.orders.decide import (
    BOOK,
    EXPIRE,
    FULFIL,
    OPEN_PAYMENT,
    VOID_PAYMENT,
    decide,
    delivery_id,
    effects_after,
    licence_id,
)
from domain.orders.ports import Idempotency, IssuedLicence, PaymentNews, SealedDelivery, Turn
from domain.orders.state import evolve, fold
from tests.fakes.carts import BUYER, NOW, cart, order_id

STEPS = [OPEN_PAYMENT, VOID_PAYMENT, BOOK, FULFIL, EXPIRE]
KEY = Idempotency("key-1", b"d" * 32)


def turn_of(state, command, number=1, **extras):
    events = decide(state, command)
    order = state
    due, done = [], []
    for event in events:
        order = evolve(order_id(number), order, event)
        starts, ends = effects_after(event)
        due, done = due + starts, done + ends
    return Turn(order=order, fence=state.seq if state else 0, events=events, due=due, done=done, **extras)


async def placed(store, number=1, key=KEY):
    turn = turn_of(None, cart(number), number)
    assert await store.place(turn, key)
    return turn.order


def news(event_id="evt_1", number=1):
    return PaymentNews(event_id, order_id(number), "payment_intent.succeeded", "pi_1", 1999, "USD", "", "")


PAID = c.ConfirmPayment("pi_1", "evt_1", 1999, "USD", NOW)


class OrderStoreContract:
    """The suite."""

    async def test_what_is_placed_is_read_back(self, store):
        order = await placed(store)
        stored = await store.load(order_id())
        assert fold(order_id(), stored.events) == order
        assert stored.payment_handle is None
        assert await store.load(order_id(2)) is None

    async def test_an_idempotency_key_places_one_order_however_many_race(self, store):
        turns = [turn_of(None, cart(number), number) for number in range(1, 17)]
        won = await asyncio.gather(*(store.place(turn, KEY) for turn in turns))
        assert sum(won) == 1
        winner = turns[won.index(True)].order.order_id
        found = await store.find_command(BUYER, KEY.key)
        assert (found.subject, found.request_digest) == (winner, KEY.request_digest)
        losers = [turn.order.order_id for turn in turns if turn.order.order_id != winner]
        assert await store.load(losers[0]) is None
        assert await store.find_command("someone_else", KEY.key) is None

    async def test_the_fence_lets_one_of_many_commits_win(self, store):
        order = await placed(store)
        turns = [
            turn_of(
                order, c.RecordPaymentOpened(f"pi_{n}", None, NOW), payment_handle={"client_secret": f"s{n}"}
            )
            for n in range(16)
        ]
        won = await asyncio.gather(*(store.commit(turn) for turn in turns))
        assert sum(won) == 1
        stored = await store.load(order_id())
        assert fold(order_id(), stored.events) == turns[won.index(True)].order
        assert stored.payment_handle == {"client_secret": f"s{won.index(True)}"}

    async def test_a_stale_fence_writes_nothing_at_all(self, store, expire):
        order = await placed(store)
        await store.store_webhook(news())
        opened = turn_of(order, c.RecordPaymentOpened("pi_1", None, NOW))
        assert await store.commit(opened)
        stale = turn_of(order, PAID, inbox_event_id="evt_1")
        assert not await store.commit(stale)
        assert len((await store.load(order_id())).events) == opened.order.seq
        await expire(3600)
        assert [one.event_id for one in await store.claim_due_webhooks(10, 5)] == ["evt_1"]
        assert [effect.step for effect in await store.claim_due_effects(STEPS, 10, 5)] == ["expire"]

    async def test_effects_are_left_to_their_grain_first_then_claimed_once(self, store, expire):
        await placed(store)
        assert await store.claim_due_effects(STEPS, 10, 5) == []
        await expire(4)
        (first, second) = await asyncio.gather(*(store.claim_due_effects(STEPS, 10, 30) for _ in range(2)))
        claimed = [*first, *second]
        assert [(e.order_id, e.step, e.attempts) for e in claimed] == [(order_id(), "open_payment", 1)]
        await expire(31)
        assert [e.attempts for e in await store.claim_due_effects(STEPS, 10, 5)] == [2]

    async def test_a_deferred_effect_waits(self, store, expire):
        await placed(store)
        await store.defer_effect(order_id(), "open_payment", 100, "Stripe is down")
        await expire(50)
        assert await store.claim_due_effects(STEPS, 10, 5) == []
        await expire(51)
        assert len(await store.claim_due_effects(STEPS, 10, 5)) == 1

    async def test_claims_are_bounded(self, store, expire):
        for number in range(1, 6):
            await placed(store, number, Idempotency(f"key-{number}", b"d" * 32))
        await expire(4)
        assert len(await store.claim_due_effects(STEPS, 2, 60)) == 2
        assert len(await store.claim_due_effects(STEPS, 10, 60)) == 3

    async def test_effects_are_claimed_by_lane(self, store, expire):
        await placed(store)
        await expire(4)
        assert await store.claim_due_effects([BOOK, FULFIL], 10, 5) == []
        assert len(await store.claim_due_effects([OPEN_PAYMENT], 10, 5)) == 1

    async def test_webhooks_are_kept_once_and_only_for_known_orders(self, store, expire):
        assert await store.store_webhook(news()) == (False, False)
        await placed(store)
        assert await store.store_webhook(news()) == (True, True)
        assert await store.store_webhook(news()) == (True, False)
        await expire(4)
        (claimed,) = await store.claim_due_webhooks(10, 5)
        assert claimed == replace(news(), attempts=1)

    async def test_the_orders_commit_marks_its_webhook_processed(self, store, expire):
        order = await placed(store)
        await store.store_webhook(news())
        assert await store.commit(turn_of(order, PAID, inbox_event_id="evt_1"))
        await expire(3600)
        assert await store.claim_due_webhooks(10, 5) == []

    async def test_unprocessed_webhooks_are_claimed_deferred_and_closed(self, store, expire):
        await placed(store)
        await store.store_webhook(news())
        assert await store.claim_due_webhooks(10, 5) == []
        await expire(4)
        (claimed,) = await store.claim_due_webhooks(10, 5)
        assert (claimed.event_id, claimed.attempts) == ("evt_1", 1)
        await store.defer_webhook("evt_1", 100, "database_unavailable")
        await expire(50)
        assert await store.claim_due_webhooks(10, 5) == []
        await store.close_webhook("evt_1", "amount_mismatch")
        await expire(100)
        assert await store.claim_due_webhooks(10, 5) == []

    async def test_a_fulfilled_order_leaves_no_effect_and_no_second_licence(self, store, expire):
        order = await placed(store)
        booking = c.RecordBooking(capture_entry_key(order_id()), "ent_1", "USD", 1999, NOW)
        for command in [c.RecordPaymentOpened("pi_1", None, NOW), PAID, booking]:
            turn = turn_of(order, command)
            assert await store.commit(turn)
            order = turn.order
        licence = licence_id(order_id(), 1)
        delivery = delivery_id(order_id(), 1)
        fulfilment = c.RecordFulfilment((licence,), (delivery,), "key_1", NOW)
        turn = turn_of(
            order,
            fulfilment,
            licences=[IssuedLicence(licence, 1, "sku_1", "rel_1", 1, "key_1", "envelope", NOW)],
            deliveries=[
                SealedDelivery(
                    delivery, 1, "rel_1", "released_key", "age1x", b"\x00\xffheader", "{}", b"\x01\x02", 60
                )
            ],
        )
        results = await asyncio.gather(*(store.commit(turn) for _ in range(4)))
        assert sum(results) == 1
        await expire(10_000)
        assert await store.claim_due_effects(STEPS, 10, 5) == []
        assert [event.at for event in (await store.load(order_id())).events] == [NOW] * 7
