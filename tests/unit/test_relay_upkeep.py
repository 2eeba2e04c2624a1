"""Progress is settled without forgetting what was taken; figures become gauges; errors cross processes."""

import asyncio
import pickle
from datetime import timedelta

from actors.relay.consumer import Consumer
from actors.relay.metrics import RelayMetrics
from actors.relay.relay import RelayFigures
from actors.relay.upkeep import QUIET_S, ConsumerUpkeep
from domain.errors import DependencyError, RejectedError
from domain.events.errors import GapError, ProgressMovedError, SessionLostError
from domain.events.ports import ShardLag
from tests.fakes.outbox import FakeConsumerStore, FakeOutboxDatabase, RecordingProjection


async def test_settled_orders_keep_no_row_and_are_still_known():
    database = FakeOutboxDatabase()
    store = FakeConsumerStore(database)
    consumer = Consumer(store, RecordingProjection())
    upkeep = ConsumerUpkeep(store, ["recording"])
    await upkeep.once()
    database.now += timedelta(seconds=1)
    records = database.commit("ord_a", "order.created", "order.paid")
    await consumer.consume(records)
    database.rows.clear()
    database.now += timedelta(seconds=QUIET_S + 60)
    young = database.commit("ord_b", "order.created")
    await consumer.consume(young)
    database.rows.clear()
    await upkeep.once()
    assert list(store.seqs) == [("recording", "ord_b")]
    assert await consumer.consume(records) == [None, None]
    assert store.written == [*records, *young], "a duplicate is still a duplicate"
    late = database.commit("ord_a", "order.refunded")
    assert await consumer.consume(late) == [None]
    assert store.written[-1:] == late, "and a new event still the next one"


async def test_parked_events_are_counted():
    database = FakeOutboxDatabase()
    store = FakeConsumerStore(database)
    projection = RecordingProjection(failures={"evt_ord_a_1": [RejectedError("unreadable", "no")]})
    await Consumer(store, projection).consume(database.commit("ord_a", "order.created"))
    upkeep = ConsumerUpkeep(store, ["recording", "idle"])
    await upkeep.once()
    assert upkeep.parked == {"recording": 1, "idle": 0}


async def test_a_consumer_whose_progress_is_kept_is_counted_and_never_settled():
    class Settling(FakeConsumerStore):
        def __init__(self, database):
            super().__init__(database)
            self.settled = []

        async def settle(self, consumer, quiet_s, limit, after):
            self.settled.append(consumer)

    store = Settling(FakeOutboxDatabase())
    upkeep = ConsumerUpkeep(store, ["recording"], unsettled=["audit"])
    await upkeep.once()
    assert (upkeep.parked, store.settled) == ({"recording": 0, "audit": 0}, ["recording"])


async def test_upkeep_survives_an_outage():
    class Away(FakeConsumerStore):
        rounds = 0

        async def parked(self):
            self.rounds += 1
            raise DependencyError("database_unavailable", "gone") if self.rounds == 1 else ZeroDivisionError

    store = Away()
    upkeep = ConsumerUpkeep(store, [], interval_s=0.001)
    assert not upkeep.alive
    upkeep.start()
    async with asyncio.timeout(5):
        while store.rounds < 3:
            await asyncio.sleep(0.001)
    assert upkeep.alive
    await upkeep.stop()
    assert not upkeep.alive


def test_gauges_follow_the_figures():
    metrics = RelayMetrics()
    figures = RelayFigures(
        shards=2,
        published=10,
        published_per_s=2.5,
        refused=1,
        stopped_orders=1,
        pauses=0,
        lag=[ShardLag(3, 7, 1.5), ShardLag(4, 0, 0.0)],
    )
    metrics.record(figures, {"sales": 2})
    metrics.record(figures, {"sales": 2})
    text = metrics.exposition().decode()
    assert 'marketplace_outbox_oldest_seconds{shard="3"} 1.5' in text
    assert 'marketplace_outbox_unpublished{shard="3"} 7.0' in text
    assert "marketplace_relay_events_total 10.0" in text
    assert 'marketplace_consumer_parked_events{consumer="sales"} 2.0' in text


def test_errors_survive_the_way_between_processes():
    for error in (GapError(3, 9), ProgressMovedError("sales"), SessionLostError("closed")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
    assert pickle.loads(pickle.dumps(GapError(3, 9))).expected_seq == 3
