"""What every ``OrderStore`` promises.

Subclasses provide the fixtures ``store``, ``expire(seconds)`` (time passes) and ``seen``: what lies in the
store, as ``InboxSeen``, ``EffectSeen`` and the wrapped identity of a delivery.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import Protocol

from domain.errors import ConflictError
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key
from domain.orders.decide import (
    BOOK,
    CAPTURE_PAYMENT,
    END_REVIEW,
    EXPIRE,
    FORGET_KEYS,
    FULFIL,
    OPEN_PAYMENT,
    REFUND_STEP,
    VOID_PAYMENT,
    decide,
    delivery_id,
    effects_after,
    licence_id,
)
from domain.orders.lines import DeliveryChoice
from domain.orders.ports import Idempotency, IssuedLicence, PaymentNews, SealedDelivery, Turn
from domain.orders.state import evolve, fold
from tests.fakes.carts import BUYER, NOW, cart, order_id

STEPS = [OPEN_PAYMENT, CAPTURE_PAYMENT, VOID_PAYMENT, BOOK, FULFIL, EXPIRE, END_REVIEW, FORGET_KEYS]
KEY = Idempotency("key-1", b"d" * 32)


@dataclass(frozen=True)
class InboxSeen:
    """One inbox row; ``outcome`` is also where a refusal's text is kept."""

    processed: bool
    outcome: str | None
    dead_code: str | None


@dataclass(frozen=True)
class EffectSeen:
    """One effect's row."""

    attempts: int
    last_error: str | None
    dead_code: str | None


class Seen(Protocol):
    """Looks into a store past its port; None for what is not there."""

    async def inbox(self, event_id: str) -> InboxSeen | None: ...

    async def effect(self, order_id: str, step: str) -> EffectSeen | None: ...

    async def wrapped_identity(self, delivery_id: str) -> bytes | None: ...

    async def drop_webhook(self, event_id: str) -> None: ...

    async def licence_status(self, licence_id: str) -> str | None: ...


def turn_of(state, *commands, number=1, **extras):
    """Make the turn that one command, or several joined, would commit."""
    events, due, done, order = [], [], [], state
    for command in commands:
        for event in decide(order, command):
            order = evolve(order_id(number), order, event)
            events.append(event)
            starts, ends = effects_after(event)
            due, done = [one for one in due if one.step not in ends] + starts, done + ends
    return Turn(order=order, fence=state.seq if state else 0, events=events, due=due, done=done, **extras)


async def placed(store, number=1, key=None, **changes):
    turn = turn_of(None, cart(number, **changes), number=number)
    assert await store.place(turn, key or Idempotency(f"key-{number}", b"d" * 32))
    return turn.order


def news(event_id="evt_1", number=1):
    return PaymentNews(event_id, order_id(number), "payment_intent.succeeded", "pi_1", 1999, "USD", "", "")


PAID = c.ConfirmPayment("pi_1", "evt_1", 1999, "USD", NOW)


def booking(number=1):
    return c.RecordBooking(capture_entry_key(order_id(number)), "ent_1", "USD", 1999, NOW)


def fulfilment(number=1):
    oid = order_id(number)
    return c.RecordFulfilment((licence_id(oid, 1),), (delivery_id(oid, 1),), "key_1", NOW)


def goods(number=1, mode="recipient"):
    """What a fulfilment brings: rows for ``turn_of``."""
    oid = order_id(number)
    sealed = (b"\x01\x02", 60) if mode == "released_key" else (None, None)
    return {
        "licences": [IssuedLicence(licence_id(oid, 1), 1, "sku_1", "rel_1", 1, "key_1", "envelope", NOW)],
        "deliveries": [
            SealedDelivery(
                delivery_id(oid, 1), 1, "rel_1", mode, "age1x", b"\x00\xffheader", "{}", sealed[0], sealed[1]
            )
        ],
    }


async def paid(store, number=1, **changes):
    """Place and pay an order; its booking is due."""
    turn = turn_of(await placed(store, number, **changes), PAID, number=number)
    assert await store.commit(turn)
    return turn.order


async def delivered(store, number=1, mode="recipient"):
    choice = DeliveryChoice(mode, "age1x" if mode == "recipient" else None)
    order = await paid(store, number, delivery=choice)
    turn = turn_of(order, booking(number), fulfilment(number), number=number, **goods(number, mode))
    assert await store.commit(turn)
    return turn.order


class OrderStoreContract:
    """The suite."""

    async def test_what_is_placed_is_read_back(self, store):
        order = await placed(store, key=KEY)
        stored = await store.load(order_id())
        assert fold(order_id(), stored.events) == order
        assert stored.payment_handle is None
        assert await store.load(order_id(2)) is None

    async def test_an_idempotency_key_places_one_order_however_many_race(self, store):
        turns = [turn_of(None, cart(number), number=number) for number in range(1, 17)]
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

    async def test_a_stale_fence_writes_nothing_at_all(self, store, expire, seen):
        order = await placed(store)
        await store.store_webhook(news())
        opened = turn_of(order, c.RecordPaymentOpened("pi_1", None, NOW))
        assert await store.commit(opened)
        stale = turn_of(order, PAID, booking(), fulfilment(), news=news(), **goods())
        assert not await store.commit(stale)
        assert len((await store.load(order_id())).events) == opened.order.seq
        await expire(3600)
        assert [one.event_id for one in await store.claim_due_webhooks(10, 5)] == ["evt_1"]
        assert [effect.step for effect in await store.claim_due_effects(STEPS, 10, 5)] == ["expire"]
        assert not await store.commit(turn_of(order, PAID, news=news("evt_2")))
        assert await seen.inbox("evt_2") is None
        # Nor were the licence and the delivery left behind: the same ones can still be committed.
        fresh = turn_of(opened.order, PAID, booking(), fulfilment(), news=news(), **goods())
        assert await store.commit(fresh)

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
            await placed(store, number)
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

    async def test_a_kept_webhook_tells_all_that_it_told(self, store, expire):
        await placed(store)
        dispute = replace(
            news(),
            kind="charge.dispute.closed",
            object_id="dp_1",
            object_status="won",
            due_by_s=5,
            fees=(("txn_1", 1500), ("txn_2", -1500)),
        )
        await store.store_webhook(dispute)
        await expire(4)
        assert await store.claim_due_webhooks(10, 5) == [replace(dispute, attempts=1)]

    async def test_the_orders_commit_keeps_its_webhook_as_applied(self, store, expire, seen):
        """Whether it lay in the inbox before (order 1) or came straight to the order (order 2)."""
        first, second = await placed(store), await placed(store, 2)
        await store.store_webhook(news())
        assert await store.commit(turn_of(first, PAID, news=news()))
        assert await store.commit(turn_of(second, PAID, number=2, news=news("evt_2", 2)))
        for event_id in ("evt_1", "evt_2"):
            assert await seen.inbox(event_id) == InboxSeen(processed=True, outcome="applied", dead_code=None)
        await expire(3600)
        assert await store.claim_due_webhooks(10, 5) == []
        assert await store.store_webhook(news("evt_2", 2)) == (True, False), "it is known by now"

    async def test_a_webhook_that_changed_nothing_is_settled_with_its_outcome(self, store, expire, seen):
        await placed(store)
        await store.store_webhook(news())
        for event_id in ("evt_1", "evt_2"):
            await store.settle_webhook(news(event_id), "no_change")
            assert await seen.inbox(event_id) == InboxSeen(
                processed=True, outcome="no_change", dead_code=None
            )
        await expire(3600)
        assert await store.claim_due_webhooks(10, 5) == []

    async def test_what_became_of_a_webhook_is_told_once(self, store, seen):
        """A repetition changes nothing, so it must not say that the first one changed nothing."""
        assert await store.commit(turn_of(await placed(store), PAID, news=news()))
        await store.settle_webhook(news(), "no_change")
        await store.bury_webhook(news(), "second_charge", "refused")
        await store.defer_webhook("evt_1", 0, "down")
        assert await seen.inbox("evt_1") == InboxSeen(processed=True, outcome="applied", dead_code=None)

    async def test_a_dropped_webhook_moves_no_order_and_spoils_no_neighbour(self, store, seen):
        first, second = await placed(store), await placed(store, 2)
        await store.bury_webhook(news(), "internal_error", "a bug")
        await seen.drop_webhook("evt_1")
        answers = await asyncio.gather(
            store.commit(turn_of(first, PAID, news=news())),
            store.commit(turn_of(second, PAID, number=2, news=news("evt_2", 2))),
            return_exceptions=True,
        )
        assert isinstance(answers[0], ConflictError)
        assert answers[0].code == "webhook_dropped"
        assert answers[1] is True
        assert len((await store.load(order_id())).events) == first.seq

    async def test_unforeseen_failures_are_counted_apart(self, store, expire):
        await placed(store)
        await store.defer_effect(order_id(), "open_payment", 1, "down")
        await store.defer_effect(order_id(), "open_payment", 1, "a bug", unforeseen=True)
        await store.store_webhook(news())
        await store.defer_webhook("evt_1", 1, "a bug", unforeseen=True)
        await expire(2)
        assert [one.unforeseen for one in await store.claim_due_effects(STEPS, 10, 5)] == [1]
        assert [one.unforeseen for one in await store.claim_due_webhooks(10, 5)] == [1]

    async def test_unprocessed_webhooks_are_claimed_and_deferred(self, store, expire):
        await placed(store)
        await store.store_webhook(news())
        assert await store.claim_due_webhooks(10, 5) == []
        await expire(4)
        (claimed,) = await store.claim_due_webhooks(10, 5)
        assert (claimed.event_id, claimed.attempts) == ("evt_1", 1)
        await store.defer_webhook("evt_1", 100, "database_unavailable")
        await expire(50)
        assert await store.claim_due_webhooks(10, 5) == []
        await expire(51)
        assert [one.attempts for one in await store.claim_due_webhooks(10, 5)] == [2]

    async def test_a_buried_webhook_is_never_claimed(self, store, expire, seen):
        await placed(store)
        await store.store_webhook(news())
        for event_id in ("evt_1", "evt_2"):  # the second was never stored before
            await store.bury_webhook(news(event_id), "amount_mismatch", "Order totals 1999")
            assert await seen.inbox(event_id) == InboxSeen(
                processed=False, outcome="Order totals 1999", dead_code="amount_mismatch"
            )
        await expire(1_000_000)
        assert await store.claim_due_webhooks(10, 5) == []
        assert await store.store_webhook(news()) == (True, False)
        await expire(1_000_000)
        assert await store.claim_due_webhooks(10, 5) == [], "sending it again does not raise it"

    async def test_a_buried_webhook_that_is_good_after_all_lives_again(self, store, seen):
        """An operator's retry: its outcome replaces the dead letter's."""
        order = await placed(store)
        for event_id in ("evt_1", "evt_2"):
            await store.bury_webhook(news(event_id), "internal_error", "a bug")
        assert await store.commit(turn_of(order, PAID, news=news()))
        assert await seen.inbox("evt_1") == InboxSeen(processed=True, outcome="applied", dead_code=None)
        await store.settle_webhook(news("evt_2"), "no_change")
        assert await seen.inbox("evt_2") == InboxSeen(processed=True, outcome="no_change", dead_code=None)

    async def test_a_buried_webhook_does_not_hold_up_the_next_one(self, store, expire, seen):
        order = await placed(store)
        await store.bury_webhook(news(), "amount_mismatch", "refused")
        assert await store.commit(turn_of(order, PAID, news=news("evt_2")))
        assert (await seen.inbox("evt_2")).processed
        assert (await seen.inbox("evt_1")).dead_code == "amount_mismatch"

    async def test_a_buried_effect_is_never_claimed(self, store, expire, seen):
        await paid(store)
        await paid(store, 2)
        await store.bury_effect(order_id(), "book", "booking_mismatch", "other amounts")
        await store.bury_effect(order_id(), "nothing", "x", "no such row is no error")
        await expire(1_000_000)
        claimed = await store.claim_due_effects(STEPS, 10, 5)
        assert [(one.order_id, one.step) for one in claimed] == [(order_id(2), "book")]
        assert await seen.effect(order_id(), "book") == EffectSeen(1, "other amounts", "booking_mismatch")

    async def test_a_buried_effect_leaves_with_the_commit_that_does_its_work(self, store, seen):
        order = await paid(store)
        await store.bury_effect(order_id(), "book", "booking_mismatch", "other amounts")
        assert await store.commit(turn_of(order, booking()))
        assert await seen.effect(order_id(), "book") is None
        assert (await seen.effect(order_id(), "fulfil")).dead_code is None

    async def test_a_fulfilled_order_leaves_no_effect_and_no_second_licence(self, store, expire):
        order = await paid(store)
        turn = turn_of(order, booking())
        assert await store.commit(turn)
        turn = turn_of(turn.order, fulfilment(), **goods())
        results = await asyncio.gather(*(store.commit(turn) for _ in range(4)))
        assert sum(results) == 1
        await expire(10_000)
        assert await store.claim_due_effects(STEPS, 10, 5) == []
        assert [event.at for event in (await store.load(order_id())).events] == [NOW] * 6

    async def test_booked_licensed_and_delivered_can_be_one_commit(self, store, expire):
        order = await delivered(store)
        assert fold(order_id(), (await store.load(order_id())).events) == order
        await expire(1_000_000)
        assert await store.claim_due_effects(STEPS, 10, 5) == []

    async def test_forgetting_keys_is_due_when_their_time_is_over_and_destroys_them(
        self, store, expire, seen
    ):
        order = await delivered(store, mode="released_key")
        other = await delivered(store, 2, mode="released_key")
        assert await seen.wrapped_identity(order.delivery_ids[0]) == b"\x01\x02"
        await expire(86_399)
        assert await store.claim_due_effects(STEPS, 10, 5) == []
        await expire(2)
        claimed = await store.claim_due_effects(STEPS, 10, 5)
        assert {(one.order_id, one.step) for one in claimed} == {
            (order_id(), "forget_keys"),
            (order_id(2), "forget_keys"),
        }
        assert await store.commit(turn_of(order, c.ForgetKeys(NOW)))
        assert await seen.wrapped_identity(order.delivery_ids[0]) is None
        assert await seen.wrapped_identity(other.delivery_ids[0]) == b"\x01\x02"
        assert await seen.effect(order_id(), "forget_keys") is None
        assert fold(order_id(), (await store.load(order_id())).events).keys_forgotten

    async def test_many_orders_at_once_are_each_placed_and_committed_whole(self, store):
        orders = await asyncio.gather(*(placed(store, number) for number in range(1, 41)))
        turns = [
            turn_of(order, PAID, number=n, news=news(f"evt_{n}", n)) for n, order in enumerate(orders, 1)
        ]
        assert await asyncio.gather(*(store.commit(turn) for turn in turns)) == [True] * 40
        read = await asyncio.gather(*(store.load(turn.order.order_id) for turn in turns))
        assert [fold(turn.order.order_id, one.events) for turn, one in zip(turns, read, strict=True)] == [
            turn.order for turn in turns
        ]

    async def test_of_two_turns_of_one_order_in_a_group_one_wins_and_its_neighbours_do_too(self, store):
        orders = [await placed(store, number) for number in range(1, 5)]
        turns = [turn_of(order, PAID, number=n) for n, order in enumerate(orders, 1)]
        rival = turn_of(orders[1], c.RecordPaymentOpened("pi_9", None, NOW), number=2)
        won = await asyncio.gather(*(store.commit(turn) for turn in [*turns[:2], rival, *turns[2:]]))
        assert (won[0], won[3], won[4]) == (True, True, True)
        assert won[1:3].count(True) == 1
        winner = turns[1] if won[1] else rival
        assert fold(order_id(2), (await store.load(order_id(2))).events) == winner.order

    async def test_licences_follow_the_money_in_the_same_commit(self, store, seen):
        order = await delivered(store)
        for command, status in (
            (c.RequestRefund("rfd_1", (), None, "operator", "op_1", "why", "d", NOW), "suspended"),
            (c.RecordRefundRefused("rfd_1", "refund_refused", "no", NOW), "active"),
            (c.NoticeRefund("re_1", "", "pi_1", 1999, "USD", "succeeded", "", NOW), "revoked"),
        ):
            turn = turn_of(order, command)
            assert not await store.commit(replace(turn, fence=turn.fence - 1))
            assert await seen.licence_status(licence_id(order_id(), 1)) != status, (
                "a stale fence changes none"
            )
            assert await store.commit(turn)
            order = turn.order
            assert await seen.licence_status(licence_id(order_id(), 1)) == status
        assert fold(order_id(), (await store.load(order_id())).events) == order

    async def test_effects_with_an_object_of_their_own_are_claimed_by_their_kind(self, store, expire):
        order = await delivered(store)
        asked = turn_of(order, c.RequestRefund("rfd_1", (), 5, "operator", "op_1", "why", "d", NOW))
        assert await store.commit(asked)
        await expire(4)
        assert await store.claim_due_effects([BOOK, OPEN_PAYMENT], 10, 5) == []
        (claimed,) = await store.claim_due_effects([REFUND_STEP], 10, 5)
        assert claimed.step == "refund:rfd_1"
        accepted = turn_of(asked.order, c.RecordRefund("rfd_1", "re_1", "succeeded", NOW))
        assert await store.commit(accepted)
        await expire(6)
        assert [one.step for one in await store.claim_due_effects([BOOK, REFUND_STEP], 10, 5)] == [
            "book:refund:rfd_1"
        ]

    async def test_news_of_refunds_and_disputes_is_kept_whole(self, store, expire):
        await placed(store)
        told = replace(
            news(), kind="charge.dispute.created", object_id="dp_1", object_status="lost", fee_minor=1500
        )
        await store.store_webhook(told)
        await expire(4)
        assert await store.claim_due_webhooks(10, 5) == [replace(told, attempts=1)]
