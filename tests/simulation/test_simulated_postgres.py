"""The modelled Postgres keeps every promise of the real one: the same contract suites run on both."""

import inspect
from datetime import timedelta

import pytest

from cluster.simulation.loop import WORLD
from cluster.simulation.network import Server
from cluster.simulation.order_store import SimulatedOrderStore
from cluster.simulation.outbox import (
    Counting,
    Relaying,
    SimulatedConsumerStore,
    SimulatedOutbox,
)
from cluster.simulation.postgres import OrderRow, Postgres
from domain.orders.events import KIND_OF, OrderCreated, OrderPaid, OrderScreened
from domain.orders.ports import OrderStore
from tests.contracts.discount_uses import DiscountUsesContract
from tests.contracts.order_store import EffectSeen, InboxSeen, OrderStoreContract
from tests.contracts.outbox import ConsumerStoreContract, OutboxContract
from tests.fakes.carts import NOW, cart
from tests.fakes.orders import FakeClock


class PerfectNetwork:
    """Executes every call at once."""

    def __init__(self, database=None):
        self.database = database
        self.process = WORLD

    async def call(
        self, caller, server, boundary, subject, execute, unavailable, timeout_s, on_received=None
    ):
        return execute()

    async def run(self, statement, subject, execute):
        return execute()

    def note(self, *words):
        pass


class ModelSeen:
    def __init__(self, database):
        self._database = database

    async def inbox(self, event_id):
        row = self._database.inbox.get(event_id)
        return InboxSeen(row.processed, row.outcome, row.dead_code) if row else None

    async def effect(self, order_id, step):
        row = self._database.effects.get((order_id, step))
        return EffectSeen(row.attempts, row.last_error, row.dead_code) if row else None

    async def wrapped_identity(self, delivery_id):
        return self._database.deliveries[delivery_id].wrapped_identity

    async def drop_webhook(self, event_id):
        self._database.drop_webhook(event_id)

    async def licence_status(self, licence_id):
        return self._database.standings.get(licence_id)


class TestSimulatedDiscountUses(DiscountUsesContract):
    @pytest.fixture
    def database(self):
        return Postgres(FakeClock())

    @pytest.fixture
    def store(self, database):
        return SimulatedOrderStore(PerfectNetwork(database))

    @pytest.fixture
    def make(self, database):
        async def put(discount):
            database.discounts[discount.discount_id] = discount

        return put


class TestSimulatedOrderStore(OrderStoreContract):
    @pytest.fixture
    def clock(self):
        return FakeClock()

    @pytest.fixture
    def database(self, clock):
        return Postgres(clock)

    @pytest.fixture
    def store(self, database):
        return SimulatedOrderStore(PerfectNetwork(database))

    @pytest.fixture
    def expire(self, clock):
        async def advance(seconds):
            clock.now += timedelta(seconds=seconds)

        return advance

    @pytest.fixture
    def seen(self, database):
        return ModelSeen(database)


EVENTS = {
    KIND_OF[type(event)]: event
    for event in (
        OrderCreated("buyer", "USD", cart(1).lines, 1999, cart(1).delivery, "payment_intent", None, NOW),
        OrderScreened("payment", "clear", (), "1", NOW),
        OrderPaid("pi_1", "evt_1", 1999, "USD", NOW),
    )
}


class RelayFixtures:
    @pytest.fixture
    def relaying(self):
        return Relaying(Postgres(FakeClock()), Server("postgres"), lambda: 0.0)

    @pytest.fixture
    def outbox(self, relaying):
        return SimulatedOutbox(PerfectNetwork(), WORLD, relaying)

    @pytest.fixture
    def rival(self, relaying):
        return SimulatedOutbox(PerfectNetwork(), WORLD, relaying)

    @pytest.fixture
    def commit(self, relaying):
        database = relaying.database

        async def commit(order_id, *kinds):
            row = database.orders.setdefault(order_id, OrderRow("buyer", 0, "", "USD", 1999, [], []))
            first_seq = row.seq + 1
            row.events += [EVENTS[kind] for kind in kinds]
            row.seq += len(kinds)
            row.event_ids += [database.event_id(order_id, seq) for seq in range(first_seq, row.seq + 1)]
            database.enqueue(order_id, first_seq, row.seq)

        return commit


class TestSimulatedOutbox(RelayFixtures, OutboxContract):
    pass


class TestSimulatedConsumerStore(RelayFixtures, ConsumerStoreContract):
    @pytest.fixture
    def store(self, relaying):
        return _StoreWithParked(PerfectNetwork(), WORLD, relaying)

    @pytest.fixture
    def projection(self):
        return Counting()

    @pytest.fixture
    def written(self, relaying):
        async def written():
            return sum(len(seqs) for seqs in relaying.taken.values())

        return written


class _StoreWithParked(SimulatedConsumerStore):
    async def parked(self):
        counts = {}
        for (consumer, _), stuck in self._relaying.stuck.items():
            if stuck.parked:
                counts[consumer] = counts.get(consumer, 0) + 1
        return counts


def test_no_method_of_the_port_is_forgotten():
    port = {name for name, _ in inspect.getmembers(OrderStore, inspect.isfunction) if name[0] != "_"}
    assert port <= set(dir(SimulatedOrderStore))
