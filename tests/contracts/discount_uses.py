"""What every order store promises of things that orders share: a code's uses, and a buyer's free orders.

Subclasses provide the fixtures ``store`` and ``make(discount)``, which puts a code's rule there.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from domain.errors import ConflictError
from domain.orders import commands as c
from domain.orders.ports import Idempotency
from domain.pricing.discounts import Discount
from storage.market.discounts import FREE_ORDERS_A_DAY_MAX
from tests.contracts.order_store import turn_of
from tests.fakes.carts import NOW, cart, line, order_id

DIGEST = b"d" * 32
ID = "dsc_" + "0" * 26
RACING, USES_MAX = 100, 7


def rule(**changes):
    values = {
        "discount_id": ID,
        "code": "SPRING",
        "seller_id": "seller_1",
        "percent_bps": 1_000,
        "amounts_minor": {},
        "minimum_minor": {},
        "sku_ids": frozenset(),
        "uses_max": None,
        "uses_per_buyer_max": None,
        "valid_from": NOW - timedelta(days=1),
        "valid_until": None,
    }
    return Discount(**(values | changes))


def turn(number, **changes):
    return turn_of(None, cart(number, discount_id=ID, **changes), number=number)


def free(number, **changes):
    nothing = replace(line(), unit_price_minor=0, fee_minor=0)
    return turn_of(None, cart(number, nothing, **changes), number=number)


async def place(store, placing, key=None):
    """Whether it was placed; the code of the refusal otherwise."""
    number = placing.order.order_id
    try:
        return await store.place(placing, Idempotency(key or f"key-{number}", DIGEST))
    except ConflictError as refused:
        return refused.code


async def race(store, turns):
    return await asyncio.gather(*(place(store, one) for one in turns))


class DiscountUsesContract:
    """The suite."""

    async def test_of_a_hundred_orders_at_once_as_many_get_the_code_as_may(self, store, make):
        await make(rule(uses_max=USES_MAX))
        turns = [turn(number, buyer_id=f"buyer_{number}") for number in range(RACING)]
        answers = await race(store, turns)
        assert answers.count(True) == USES_MAX
        assert answers.count("discount_used_up") == RACING - USES_MAX
        for one, answer in zip(turns, answers, strict=True):
            order = one.order
            assert (await store.load(order.order_id) is not None) is (answer is True)
            key = f"key-{order.order_id}"
            assert (await store.find_command(order.buyer_id, key) is not None) is (answer is True)

    async def test_a_buyer_gets_the_code_as_often_as_one_may(self, store, make):
        await make(rule(uses_per_buyer_max=2))
        turns = [turn(number, buyer_id=f"buyer_{number % 3}") for number in range(30)]
        answers = await race(store, turns)
        for buyer in range(3):
            assert answers[buyer::3].count(True) == 2

    async def test_a_repeated_key_takes_nothing_and_is_not_refused(self, store, make):
        await make(rule(uses_max=1))
        assert await place(store, turn(1), "key") is True
        assert await place(store, turn(2), "key") is False
        assert await place(store, turn(3)) == "discount_used_up"

    async def test_a_use_is_given_back_once_the_order_cannot_be_paid_any_more(self, store, make):
        await make(rule(uses_max=1))
        placed = turn(1)
        assert await place(store, placed) is True
        opened = turn_of(placed.order, c.RecordPaymentOpened("pi_1", None, NOW))
        assert await store.commit(opened)
        expired = turn_of(opened.order, c.ExpireOrder(NOW))
        assert await store.commit(expired)
        assert await place(store, turn(2)) == "discount_used_up", "a payment under way may still win"
        voided = turn_of(expired.order, c.RecordPaymentVoided(NOW))
        assert await store.commit(voided)
        assert not await store.commit(voided), "the fence has moved: nothing is given back twice"
        assert await place(store, turn(3)) is True
        assert await place(store, turn(4)) == "discount_used_up"

    async def test_a_cancelled_order_gives_its_use_back(self, store, make):
        await make(rule(uses_max=1))
        placed = turn(1)
        assert await place(store, placed) is True
        assert await store.commit(turn_of(placed.order, c.RecordPaymentRefused("refused", "no", NOW)))
        assert await place(store, turn(2)) is True

    async def test_an_ended_code_is_taken_by_nobody(self, store, make):
        await make(rule(ended_at=NOW))
        assert await place(store, turn(1)) == "discount_used_up"

    @pytest.mark.parametrize("same_buyer", [True, False])
    async def test_a_buyers_free_orders_are_bounded_however_many_race(self, store, make, same_buyer):
        count = FREE_ORDERS_A_DAY_MAX + 10
        buyers = ["buyer_ada" if same_buyer else f"buyer_{number}" for number in range(count)]
        answers = await race(store, [free(number, buyer_id=buyer) for number, buyer in enumerate(buyers)])
        wanted = FREE_ORDERS_A_DAY_MAX if same_buyer else count
        assert answers.count(True) == wanted
        assert answers.count("free_orders_full") == count - wanted
        if same_buyer:
            first = answers.index(True)
            assert await place(store, free(99), f"key-{order_id(first)}") is False
