"""The relay over fakes: nothing lost, nothing out of order, nothing published without ownership."""

import asyncio

import pytest

from actors.relay.batches import EVENTS_MAX, EVENTS_OF_ORDER_MAX
from actors.relay.relay import Relay
from domain.errors import DependencyError, RejectedError
from domain.events import SHARDS, shard_of
from domain.events.errors import GapError, SessionLostError
from tests.fakes.outbox import FakeOutbox, FakeOutboxDatabase, RecordingBus

DEADLINE_S = 5.0


@pytest.fixture
def database():
    return FakeOutboxDatabase()


@pytest.fixture
def bus():
    return RecordingBus()


@pytest.fixture
def outbox(database):
    return FakeOutbox(database)


@pytest.fixture
def relay(outbox, bus):
    return Relay(outbox, bus)


@pytest.fixture
async def clock(monkeypatch):
    """The event loop's clock, moved by hand."""
    loop = asyncio.get_running_loop()
    offset = [0.0]
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + offset[0])

    def advance(seconds):
        offset[0] += seconds

    return advance


async def until(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_was_committed_is_published_in_order_and_forgotten(relay, database, bus):
    for order in ("ord_a", "ord_b"):
        database.commit(order, "order.created", "order.screened")
        database.commit(order, "order.paid")
    assert await relay.once() is False
    assert bus.seqs_of("ord_a") == bus.seqs_of("ord_b") == [1, 2, 3]
    assert database.rows == {}
    assert relay.figures().published == 6


async def test_an_order_the_bus_refuses_stands_still_while_others_flow(relay, database, bus, clock):
    database.commit("ord_a", "order.created", "order.screened")
    database.commit("ord_a", "order.paid")
    database.commit("ord_b", "order.created")
    bus.refusals["evt_ord_a_2"] = RejectedError("poison", "no")
    await relay.once()
    assert bus.seqs_of("ord_a") == [1]
    assert bus.seqs_of("ord_b") == [1]
    assert len(database.rows) == 2
    database.commit("ord_b", "order.paid")
    await relay.once()
    assert bus.seqs_of("ord_b") == [1, 2]
    assert bus.seqs_of("ord_a") == [1], "it waits for its retry time"
    bus.refusals.clear()
    clock(2.0)
    await relay.once()
    # Its row was not deleted, so its first event comes again: at least once, and in order.
    assert bus.seqs_of("ord_a") == [1, 1, 2, 3]
    assert database.rows == {}
    assert relay.figures().stopped_orders == 0


async def test_rows_are_deleted_only_after_every_record_is_acknowledged(relay, database, bus, outbox):
    database.commit("ord_a", "order.created")

    def cut(name):
        if name == "delete":
            database.end_session(outbox)

    outbox.before = cut
    with pytest.raises(SessionLostError):
        await relay.once()
    assert bus.seqs_of("ord_a") == [1]
    assert len(database.rows) == 1, "published and not forgotten: it is published again"


async def test_a_lost_session_is_noticed_before_the_next_publish(relay, database, bus, outbox):
    await relay.once()
    assert len(relay.owned) == SHARDS
    database.end_session(outbox)
    database.commit("ord_a", "order.created")
    with pytest.raises(SessionLostError):
        await relay.once()
    assert bus.published == []


async def test_a_destination_that_is_down_pauses_everything_and_loses_nothing(relay, database, bus):
    for number in range(5):
        database.commit(f"ord_{number}", "order.created")
    bus.down = DependencyError("kafka_unavailable", "down")
    with pytest.raises(DependencyError, match="bus_unavailable"):
        await relay.once()
    assert relay.figures().stopped_orders == 0, "an outage is no order's own trouble"
    assert len(relay.owned) == SHARDS
    bus.down = None
    await relay.once()
    assert len(bus.published) == 5


async def test_a_gap_is_filled_from_the_event_table(relay, database, bus, clock):
    database.commit("ord_a", "order.created", "order.screened", "order.payment_opened")
    database.rows.clear()  # published long ago, as far as the outbox knows
    database.commit("ord_a", "order.paid")
    bus.refusals["evt_ord_a_4"] = GapError(2, 4)
    await relay.once()
    bus.refusals.clear()
    await relay.once()
    assert bus.seqs_of("ord_a") == [2, 3, 4]
    assert database.rows == {}


async def test_a_gap_that_stays_does_not_spin(relay, database, bus):
    database.commit("ord_a", "order.created")
    bus.refusals["evt_ord_a_1"] = GapError(1, 1)
    for _ in range(10):
        await relay.once()
    assert bus.calls == 2


async def test_a_long_order_is_published_in_stretches(relay, database, bus):
    kinds = ["order.payment_failed"] * (EVENTS_OF_ORDER_MAX * 2 + 10)
    database.commit("ord_a", *kinds)
    database.commit("ord_a", "order.paid")
    for _ in range(3):
        await relay.once()
    assert bus.seqs_of("ord_a") == list(range(1, len(kinds) + 2))
    assert database.rows == {}


async def test_a_round_is_bounded_and_says_that_more_waits(relay, database, bus):
    for number in range(EVENTS_MAX // 10 + 5):
        database.commit(f"ord_{number}", *["order.payment_failed"] * 10)
    assert await relay.once() is True
    assert len(bus.published) <= EVENTS_MAX
    while await relay.once():
        pass
    assert len(bus.published) == EVENTS_MAX + 50


async def test_missing_events_keep_their_row_and_harm_nobody_else(relay, database, bus):
    database.commit("ord_a", "order.created", "order.screened")
    database.events["ord_a"].pop()
    database.commit("ord_b", "order.created")
    await relay.once()
    assert [record.order_id for record in bus.published] == ["ord_b"]
    assert [row.order_id for row in database.rows.values()] == ["ord_a"]
    assert relay.figures().stopped_orders == 1


async def test_relays_share_the_shards_fairly_and_take_over_from_the_dead(database, bus, clock):
    relays = [Relay(FakeOutbox(database), bus) for _ in range(3)]
    await relays[0].once()
    assert len(relays[0].owned) == SHARDS
    for _ in range(3):
        for relay in relays:
            await relay.once()
        clock(2.5)
    assert sorted(len(relay.owned) for relay in relays) == [4, 6, 6]
    assert frozenset().union(*(relay.owned for relay in relays)) == frozenset(range(SHARDS))
    before = [relay.owned for relay in relays]
    clock(2.5)
    for relay in relays:
        await relay.once()
    assert [relay.owned for relay in relays] == before, "nothing moves without need"
    database.end_session(relays[0]._outbox)
    clock(2.5)
    for relay in relays[1:]:
        await relay.once()
    assert relays[1].owned | relays[2].owned == frozenset(range(SHARDS))


async def test_a_stopped_order_is_forgotten_with_its_shard(relay, database, bus, clock):
    database.commit("ord_a", "order.created")
    bus.refusals["evt_ord_a_1"] = RejectedError("poison", "no")
    await relay.once()
    assert relay.figures().stopped_orders == 1
    other = FakeOutbox(database)
    await other.join()
    clock(2.5)
    await relay.once()
    assert len(relay.owned) == SHARDS // 2
    assert (shard_of("ord_a") in relay.owned) == (relay.figures().stopped_orders == 1)


async def test_it_runs_until_stopped_and_gives_its_shards_up(database, bus, outbox):
    relay = Relay(outbox, bus, poll_s=0.01)
    assert not relay.alive
    relay.start()
    assert relay.alive
    database.commit("ord_a", "order.created")
    await until(lambda: bus.published)
    await relay.stop()
    assert not relay.alive
    assert database.owners == {}
    assert database.members == []


async def test_it_survives_an_outage_of_the_database_and_errors_nobody_foresaw(
    database, bus, outbox, monkeypatch
):
    monkeypatch.setattr("actors.relay.relay.backoff_s", lambda *_: 0.01)
    relay = Relay(outbox, bus, poll_s=0.01)
    database.down = True
    relay.start()
    await until(lambda: relay.figures().pauses >= 2)
    database.down = False
    failed = []

    def break_once(name):
        if name == "read" and not failed:
            failed.append(name)
            raise ZeroDivisionError

    outbox.before = break_once
    database.commit("ord_a", "order.created")
    await until(lambda: bus.published)
    assert failed
    assert relay.alive
    await relay.stop()


async def test_lag_is_measured_as_plain_numbers(relay, database, bus):
    await relay.once()
    assert {(lag.unpublished, lag.oldest_age_s) for lag in relay.figures().lag} == {(0, 0.0)}
    assert len(relay.figures().lag) == SHARDS


def test_the_shard_of_an_order_never_changes():
    # Computed once with zlib: rows in somebody's outbox were sharded by it.
    assert shard_of("ord_01jz3k5v8m2q9x7c4b6n0t1rwf") == 7
    assert {shard_of(f"ord_{n}") for n in range(1_000)} == set(range(SHARDS))
