"""The fake keeps the order store's promises, so that tests over it mean something."""

import pytest

from tests.contracts.discount_uses import DiscountUsesContract
from tests.contracts.order_store import EffectSeen, InboxSeen, OrderStoreContract
from tests.fakes.orders import FakeOrderStore


class FakeSeen:
    def __init__(self, store):
        self._store = store

    async def inbox(self, event_id):
        row = self._store.inbox.get(event_id)
        return InboxSeen(row.processed, row.outcome, row.dead_code) if row else None

    async def effect(self, order_id, step):
        row = self._store.effects.get((order_id, step))
        return EffectSeen(row.attempts, row.last_error, row.dead_code) if row else None

    async def wrapped_identity(self, delivery_id):
        return self._store.deliveries[delivery_id].wrapped_identity

    async def drop_webhook(self, event_id):
        self._store.drop_webhook(event_id)

    async def licence_status(self, licence_id):
        known = licence_id in self._store.licences
        return self._store.standings.get(licence_id, "active") if known else None


class TestFakeOrderStore(OrderStoreContract):
    @pytest.fixture
    def store(self):
        return FakeOrderStore()

    @pytest.fixture
    def expire(self, store):
        async def advance(seconds):
            store.clock.advance(seconds)

        return advance

    @pytest.fixture
    def seen(self, store):
        return FakeSeen(store)


class TestFakeDiscountUses(DiscountUsesContract):
    @pytest.fixture
    def store(self):
        return FakeOrderStore()

    @pytest.fixture
    def make(self, store):
        async def put(discount):
            store.discounts[discount.discount_id] = discount

        return put
