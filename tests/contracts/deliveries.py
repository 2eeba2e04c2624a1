"""What every store of delivery links promises; run on the fake and on Postgres.

Subclasses provide ``store`` and ``later(seconds)``, which lets time pass for it.
"""

import asyncio
from datetime import timedelta

import pytest

from domain.errors import BusyError
from storage.market.deliveries import LINKS_MAX, WINDOW_S
from storage.s3 import StoredObject
from tests.fakes.carts import NOW

ORDER, A, B = "ord_1", "dlv_a", "dlv_b"
UNTIL = NOW + timedelta(minutes=15)
JOINED = StoredObject("joined/dlv_a/1.age", "v1", 1_234)
OTHER = StoredObject("joined/dlv_a/2.age", "v1", 1_234)


async def take(store, *delivery_ids, kind="payload", issued_to="buyer_ada"):
    await store.take_links(ORDER, delivery_ids, issued_to, kind, UNTIL)


async def join(store, delivery_id, joined, kept_s):
    await store.begin_joined(delivery_id, joined.key, kept_s)
    await store.record_joined(joined)


class DeliveriesContract:
    async def test_a_link_is_on_record_with_its_holder(self, store):
        await take(store, B, A)
        await take(store, A, kind="joined", issued_to="buyer_bob")
        newest, first = await store.links(A)
        assert (newest.kind, newest.issued_to, newest.order_id) == ("joined", "buyer_bob", ORDER)
        assert (first.kind, first.issued_to, first.expires_at) == ("payload", "buyer_ada", UNTIL)
        assert [one.delivery_id for one in await store.links(B)] == [B]
        assert await store.links("dlv_none") == []

    async def test_the_bound_is_per_delivery_and_kind(self, store):
        for _ in range(LINKS_MAX["payload"]):
            await take(store, A)
        with pytest.raises(BusyError) as refused:
            await take(store, A)
        assert refused.value.code == "delivery_links_limited"
        assert WINDOW_S - 30 <= refused.value.retry_after_s <= WINDOW_S
        await take(store, A, kind="joined")
        await take(store, B)

    async def test_over_the_bound_nothing_is_counted_or_recorded(self, store):
        for _ in range(LINKS_MAX["joined"]):
            await take(store, A, kind="joined")
        for _ in range(2):
            with pytest.raises(BusyError):
                await take(store, B, A, kind="joined")
        assert await store.links(B) == []
        assert len(await store.links(A)) == LINKS_MAX["joined"]
        for _ in range(LINKS_MAX["joined"]):
            await take(store, B, kind="joined")

    async def test_of_many_at_once_exactly_the_bound_is_let_through(self, store):
        outcomes = await asyncio.gather(
            *(take(store, A, kind="joined") for _ in range(LINKS_MAX["joined"] + 9)), return_exceptions=True
        )
        assert outcomes.count(None) == LINKS_MAX["joined"]
        assert all(isinstance(one, BusyError) for one in outcomes if one is not None)

    async def test_after_the_window_there_are_links_again(self, store, later):
        for _ in range(LINKS_MAX["joined"]):
            await take(store, A, kind="joined")
        await later(WINDOW_S + 1)
        for _ in range(LINKS_MAX["joined"]):
            await take(store, A, kind="joined")
        with pytest.raises(BusyError):
            await take(store, A, kind="joined")

    async def test_a_joined_object_is_kept_while_it_is_asked_for(self, store, later):
        assert await store.keep_joined(A, 100) is None
        await join(store, A, JOINED, 100)
        await later(90)
        assert await store.keep_joined(A, 100) == JOINED
        await later(90)
        assert await store.expired_joined(10) == []
        await store.forget_joined(JOINED.key)  # not yet
        await later(20)
        assert await store.keep_joined(A, 100) is None
        assert await store.expired_joined(10) == [JOINED.key]
        await store.forget_joined(JOINED.key)
        assert await store.expired_joined(10) == []

    async def test_two_that_were_joined_at_once_are_both_deleted_in_their_time(self, store, later):
        await join(store, A, JOINED, 100)
        await join(store, A, OTHER, 100)
        assert await store.keep_joined(A, 50) in (JOINED, OTHER)
        await later(101)
        assert set(await store.expired_joined(10)) == {JOINED.key, OTHER.key}

    async def test_one_that_was_never_made_is_not_handed_out_and_goes_as_well(self, store, later):
        await store.begin_joined(A, JOINED.key, 100)
        assert await store.keep_joined(A, 100) is None
        await later(101)
        assert await store.expired_joined(10) == [JOINED.key]

    async def test_the_oldest_expired_come_first(self, store, later):
        for number, key in enumerate(("joined/3", "joined/1", "joined/2"), 1):
            await store.begin_joined(A, key, 10 * number)
        await later(31)
        assert await store.expired_joined(2) == ["joined/3", "joined/1"]
