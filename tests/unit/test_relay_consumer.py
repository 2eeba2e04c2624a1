"""Consumers over the fake store: each event once, in sequence; poison is parked and harms its order only."""

import pytest

from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from domain.errors import DependencyError, RejectedError
from domain.events.errors import GapError
from tests.fakes.outbox import FakeConsumerStore, FakeOutbox, FakeOutboxDatabase, RecordingProjection

TRIES_MAX = 5
KINDS = ("order.created", "order.screened", "order.paid")


@pytest.fixture
def database():
    return FakeOutboxDatabase()


@pytest.fixture
def store(database):
    return FakeConsumerStore(database)


@pytest.fixture
def projection():
    return RecordingProjection()


@pytest.fixture
def consumer(store, projection):
    return Consumer(store, projection)


def written(store, order_id):
    return [record.seq for record in store.written if record.order_id == order_id]


async def test_many_orders_share_one_transaction(consumer, store, database):
    records = [record for n in range(50) for record in database.commit(f"ord_{n}", *KINDS)]
    assert await consumer.consume(records) == [None] * 150
    assert store.transactions == 1
    assert store.written == records


async def test_what_was_taken_is_dropped_when_it_comes_again(consumer, store, database):
    records = database.commit("ord_a", *KINDS)
    await consumer.consume(records[:2])
    assert await consumer.consume(records) == [None] * 3
    assert await consumer.consume([*records, *records]) == [None] * 6
    assert written(store, "ord_a") == [1, 2, 3]


async def test_a_gap_is_refused_and_names_where_to_go_on(consumer, store, database):
    records = database.commit("ord_a", *KINDS)
    other = database.commit("ord_b", "order.created")
    outcomes = await consumer.consume([records[1], records[2], *other])
    assert [outcome and outcome.expected_seq for outcome in outcomes] == [1, 1, None]
    assert store.written == other
    outcomes = await consumer.consume([records[0], records[2]])
    assert outcomes[0] is None
    assert isinstance(outcomes[1], GapError)
    assert outcomes[1].expected_seq == 2
    assert written(store, "ord_a") == [1]


async def test_an_event_refused_for_good_is_parked_at_once(consumer, store, projection, database):
    records = database.commit("ord_a", *KINDS)
    others = [record for n in range(9) for record in database.commit(f"ord_{n}", *KINDS)]
    projection.failures["evt_ord_a_2"] = [RejectedError("unreadable", "no lines")]
    batch = [*others[:12], *records, *others[12:]]
    assert await consumer.consume(batch) == [None] * len(batch), "held, and acknowledged to the bus"
    assert written(store, "ord_a") == [1], "what came before the poison was taken"
    assert len(store.written) == 1 + len(others)
    stuck = store.stuck["recording", "ord_a"]
    assert (stuck.seq, stuck.attempts, stuck.code, stuck.parked) == (2, 1, "unreadable", True)
    later = database.commit("ord_a", "order.booked")
    assert await consumer.consume(later) == [None]
    assert written(store, "ord_a") == [1]


async def test_a_failure_nobody_foresaw_is_parked_after_five_tries(consumer, store, projection, database):
    (record,) = database.commit("ord_a", "order.created")
    projection.failures["evt_ord_a_1"] = [KeyError("lines")]
    for number in range(1, TRIES_MAX):
        (outcome,) = await consumer.consume([record])
        assert isinstance(outcome, KeyError)
        assert store.stuck["recording", "ord_a"].attempts == number
    assert await consumer.consume([record]) == [None]
    stuck = store.stuck["recording", "ord_a"]
    assert (stuck.attempts, stuck.code, stuck.parked) == (TRIES_MAX, "internal_error", True)


async def test_what_failed_before_goes_alone_and_costs_the_others_nothing(
    consumer, store, projection, database
):
    poison = database.commit("ord_a", "order.created")
    projection.failures["evt_ord_a_1"] = [KeyError("lines")]
    await consumer.consume(poison)
    others = [record for n in range(20) for record in database.commit(f"ord_{n}", *KINDS)]
    store.transactions = 0
    await consumer.consume([*poison, *others])
    assert store.transactions == 1
    assert store.written == others


async def test_a_failure_that_passes_is_forgotten(consumer, store, projection, database):
    records = database.commit("ord_a", *KINDS)
    projection.failures["evt_ord_a_2"] = [KeyError("lines"), KeyError("lines")]
    outcomes = await consumer.consume(records)
    assert [type(outcome) for outcome in outcomes] == [type(None), KeyError, KeyError]
    projection.failures.clear()
    assert await consumer.consume(records[1:]) == [None, None]
    assert store.stuck == {}
    assert written(store, "ord_a") == [1, 2, 3]


@pytest.mark.parametrize("fault", ["fail_before", "fail_after"])
async def test_failures_of_the_database_never_park(consumer, store, projection, database, fault):
    records = database.commit("ord_a", *KINDS)
    for _ in range(TRIES_MAX * 2):
        getattr(store, fault).append(DependencyError("database_unavailable", "gone"))
    outcomes = await consumer.consume(records)
    assert {type(outcome) for outcome in outcomes} == {DependencyError}
    getattr(store, fault).clear()
    assert await consumer.consume(records) == [None] * 3
    assert written(store, "ord_a") == [1, 2, 3], "also when the commit happened and its answer was lost"
    assert store.stuck == {}


async def test_of_two_instances_one_wins_and_nothing_is_written_twice(store, database):
    records = database.commit("ord_a", *KINDS)

    class Overtaken(RecordingProjection):
        async def apply(self, transaction, batch):
            if not store.written:
                await Consumer(store, RecordingProjection()).consume(records)
            await super().apply(transaction, batch)

    outcomes = await Consumer(store, Overtaken()).consume(records)
    assert {outcome.code for outcome in outcomes} == {"consumer_progress_moved"}
    assert written(store, "ord_a") == [1, 2, 3]
    assert await Consumer(store, Overtaken()).consume(records) == [None] * 3


async def test_a_consumers_poison_does_not_stop_another_consumer(store, database):
    poisoned = RecordingProjection("poisoned", {"evt_ord_a_2": [RejectedError("unreadable", "no")]})
    healthy = RecordingProjection("healthy")
    bus = PostgresBus([Consumer(store, poisoned), Consumer(store, healthy)])
    relay = Relay(FakeOutbox(database), bus)
    database.commit("ord_a", *KINDS)
    database.commit("ord_b", *KINDS)
    await relay.once()
    assert database.rows == {}
    assert store.seqs["healthy", "ord_a"] == 3
    assert store.seqs["poisoned", "ord_a"] == 1
    assert store.seqs["poisoned", "ord_b"] == 3
    poisoned.failures.clear()
    database.commit("ord_a", "order.booked")
    await relay.once()
    assert store.seqs["poisoned", "ord_a"] == 1, "parked until an operator says so"
    assert await store.retry_parked("poisoned", "ord_a")
    for _ in range(3):
        await relay.once()
    assert store.seqs["poisoned", "ord_a"] == store.seqs["healthy", "ord_a"] == 4
    assert [record.seq for record in store.written if record.order_id == "ord_a"].count(2) == 2


async def test_a_dropped_event_is_skipped_and_the_rest_taken(store, projection, consumer, database):
    projection.failures["evt_ord_a_2"] = [RejectedError("unreadable", "no")]
    relay = Relay(FakeOutbox(database), PostgresBus([consumer]))
    database.commit("ord_a", *KINDS)
    await relay.once()
    assert await store.drop_parked("recording", "ord_a")
    assert not await store.drop_parked("recording", "ord_a")
    for _ in range(2):
        await relay.once()
    assert written(store, "ord_a") == [1, 3]
    assert database.rows == {}


async def test_a_consumer_that_breaks_altogether_fails_its_records_only(store, database):
    class Broken:
        async def consume(self, records):
            raise ZeroDivisionError

    healthy = Consumer(store, RecordingProjection())
    records = database.commit("ord_a", *KINDS)
    outcomes = await PostgresBus([Broken(), healthy]).publish(records)
    assert {type(outcome) for outcome in outcomes} == {ZeroDivisionError}
    assert store.written == records


async def test_the_bus_asks_for_the_earliest_event_that_any_consumer_misses(database):
    class Answers:
        def __init__(self, failure):
            self.failure = failure

        async def consume(self, records):
            return [self.failure] * len(records)

    records = database.commit("ord_a", "order.created")
    for failures in (
        [GapError(5, 9), GapError(3, 9), KeyError()],
        [KeyError(), GapError(3, 9), GapError(5, 9)],
    ):
        (outcome,) = await PostgresBus([Answers(failure) for failure in failures]).publish(records)
        assert outcome.expected_seq == 3


async def test_records_behind_a_failure_come_again_when_another_instance_took_the_event(store, database):
    records = database.commit("ord_a", *KINDS)

    class Overtaken(RecordingProjection):
        async def apply(self, transaction, batch):
            if "ord_a" not in {record.order_id for record in store.written}:
                await Consumer(store, RecordingProjection()).consume(records[:1])
            raise RejectedError("unreadable", "no")

    outcomes = await Consumer(store, Overtaken()).consume(records)
    assert None not in outcomes[1:], "held for nobody: not acknowledged"
    assert store.stuck == {}
    assert await Consumer(store, RecordingProjection()).consume(records) == [None] * 3
    assert written(store, "ord_a") == [1, 2, 3]
