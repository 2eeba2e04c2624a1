"""The fake keeps the order store's promises, so that tests over it mean something."""

import pytest

from tests.contracts.order_store import OrderStoreContract
from tests.fakes.orders import FakeOrderStore


class TestFakeOrderStore(OrderStoreContract):
    @pytest.fixture
    def store(self):
        return FakeOrderStore()

    @pytest.fixture
    def expire(self, store):
        async def advance(seconds):
            store.clock.advance(seconds)

        return advance
