"""The fake store of delivery links keeps the contract that Postgres keeps."""

from datetime import timedelta

import pytest

from tests.contracts.deliveries import DeliveriesContract
from tests.fakes.deliveries import FakeDeliveries
from tests.fakes.orders import FakeClock


class TestFakeDeliveries(DeliveriesContract):
    @pytest.fixture
    def store(self):
        return FakeDeliveries(FakeClock())

    @pytest.fixture
    def later(self, store):
        async def pass_time(seconds):
            store.clock.now += timedelta(seconds=seconds)

        return pass_time
