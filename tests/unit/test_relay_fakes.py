"""The fakes keep the promises of the relay's ports, so that tests over them mean something."""

import pytest

from tests.contracts.outbox import ConsumerStoreContract, OutboxContract
from tests.fakes.outbox import FakeConsumerStore, FakeOutbox, FakeOutboxDatabase, RecordingProjection


class FakeFixtures:
    @pytest.fixture
    def database(self):
        return FakeOutboxDatabase()

    @pytest.fixture
    def outbox(self, database):
        return FakeOutbox(database)

    @pytest.fixture
    def rival(self, database):
        return FakeOutbox(database)

    @pytest.fixture
    def commit(self, database):
        async def commit(order_id, *kinds):
            database.commit(order_id, *kinds)

        return commit


class TestFakeOutbox(FakeFixtures, OutboxContract):
    pass


class TestFakeConsumerStore(FakeFixtures, ConsumerStoreContract):
    @pytest.fixture
    def store(self, database):
        return FakeConsumerStore(database)

    @pytest.fixture
    def projection(self):
        return RecordingProjection()

    @pytest.fixture
    def written(self, store):
        async def written():
            return len(store.written)

        return written
