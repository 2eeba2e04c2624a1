"""Postgres keeps the promises of the outbox and of the consumer store, with the serving role's privileges."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from domain.errors import RejectedError
from domain.events import SHARDS, shard_of
from domain.events.errors import SessionLostError
from domain.events.ports import Progress
from storage.market.commands import Write
from storage.market.consumers import PostgresConsumerStore
from storage.market.dead_letters import DeadLetters, Decision, LetterName
from storage.market.outbox import PostgresOutbox, enqueue_history
from storage.market.pool import build_pool
from tests.contracts.outbox import NAME, A, B, ConsumerStoreContract, OutboxContract, record
from tests.fakes.carts import order_id

pytestmark = pytest.mark.integration

COMMIT = """
WITH moved AS (
    INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)
    VALUES (%(order_id)s, 'buyer_ada', 'created', %(count)s, 'USD', 1)
    ON CONFLICT (order_id) DO UPDATE SET seq = orders.seq + %(count)s
    RETURNING order_id, seq
), recorded AS (
    INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
    SELECT order_id, seq - %(count)s + n, 'evt_' || order_id || '_' || (seq - %(count)s + n), kind, '{"a": 1}'
    FROM moved, unnest(%(kinds)s::text[]) WITH ORDINALITY AS k (kind, n)
)
INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
SELECT %(shard)s, order_id, seq - %(count)s + 1, seq FROM moved
"""
NOTES = """
CREATE TABLE market.notes (order_id text, seq int);
GRANT SELECT, INSERT ON market.notes TO market_app
"""


class Notes:
    """A projection that writes what it was given."""

    name = NAME

    async def apply(self, transaction, records):
        await transaction.execute(
            "INSERT INTO market.notes SELECT * FROM unnest(%s::text[], %s::int[])",
            [[one.order_id for one in records], [one.seq for one in records]],
        )


@pytest.fixture
def migrated(market_database):
    with psycopg.connect(market_database.dsn, autocommit=True) as owner:
        owner.execute(NOTES)
    return market_database


@pytest.fixture
async def owner(migrated):
    async with await psycopg.AsyncConnection.connect(migrated.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def pool(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def outbox(migrated):
    session = PostgresOutbox(migrated.dsn_for("market_app"))
    yield session
    await session.leave()


@pytest.fixture
async def rival(migrated):
    session = PostgresOutbox(migrated.dsn_for("market_app"))
    yield session
    await session.leave()


@pytest.fixture
def commit(owner):
    async def commit(order, *kinds):
        values = {"order_id": order, "count": len(kinds), "kinds": list(kinds), "shard": shard_of(order)}
        await owner.execute(COMMIT, values)

    return commit


@pytest.fixture
def store(pool):
    return PostgresConsumerStore(pool, lambda: datetime.now(UTC))


@pytest.fixture
def projection():
    return Notes()


@pytest.fixture
def written(owner):
    async def written():
        return (await (await owner.execute("SELECT count(*) FROM market.notes")).fetchone())[0]

    return written


class TestPostgresOutbox(OutboxContract):
    async def test_a_session_that_the_server_ends_is_lost_with_its_shards(self, outbox, rival, owner):
        await outbox.join()
        await outbox.take(1)
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outbox-relay'"
        )
        await rival.join()
        async with asyncio.timeout(5):
            while not await rival.take(1):
                await asyncio.sleep(0.01)
        for _ in range(2):
            with pytest.raises(SessionLostError):
                await outbox.read([1], 1, [])

    async def test_a_relay_that_hangs_loses_its_shards(self, outbox, rival, monkeypatch):
        monkeypatch.setattr("storage.market.outbox.IDLE_TIMEOUT_MS", 100)
        await outbox.join()
        await outbox.take(1)
        monkeypatch.undo()
        await rival.join()
        async with asyncio.timeout(5):
            while not await rival.take(1):
                await asyncio.sleep(0.02)
        with pytest.raises(SessionLostError):
            await outbox.read([1], 1, [])

    async def test_a_database_that_is_away_is_reported(self, migrated):
        with pytest.raises(SessionLostError):
            await PostgresOutbox(migrated.dsn.replace(f":{migrated.server.port}/", ":1/")).join()

    async def test_sql_and_python_agree_on_shards(self, owner):
        orders = [order_id(n) for n in range(200)]
        rows = await owner.execute(
            "SELECT crc32(convert_to(o, 'UTF8')) %% 16 FROM unnest(%s::text[]) AS u (o)", [orders]
        )
        assert [row[0] for row in await rows.fetchall()] == [shard_of(order) for order in orders]

    async def test_reads_and_deletes_use_the_key_whatever_waits(self, owner, outbox, commit):
        await owner.execute(
            "INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)"
            " SELECT n %% 16, 'ord_' || n, 1, 1 FROM generate_series(1, 20000) n",
            [],
        )
        await owner.execute("ANALYZE market.outbox")
        plan = await owner.execute(
            "EXPLAIN SELECT o.* FROM unnest('{1,2}'::smallint[]) AS s (shard) CROSS JOIN LATERAL ("
            "SELECT * FROM market.outbox WHERE shard = s.shard ORDER BY position LIMIT 32) o"
        )
        text = "\n".join(row[0] for row in await plan.fetchall())
        assert "Index Scan using outbox_pkey" in text
        assert "Sort" not in text

    async def test_history_is_queued_again_page_by_page(self, outbox, pool, owner, commit):
        for number in range(1, 6):
            await commit(order_id(number), "order.created", "order.paid")
        await owner.execute("DELETE FROM market.outbox")
        after, pages = "", 0
        while after is not None:
            after = await enqueue_history(pool, after, 2)
            pages += 1
        assert pages == 3
        await outbox.join()
        for shard in range(SHARDS):
            await outbox.take(shard)
        rows = await outbox.read(range(SHARDS), 10, [])
        assert {(row.order_id, row.first_seq, row.last_seq) for row in rows} == {
            (order_id(number), 1, 2) for number in range(1, 6)
        }
        assert all(row.shard == shard_of(row.order_id) for row in rows)


class TestPostgresConsumerStore(ConsumerStoreContract):
    @pytest.mark.parametrize("verb", ["retry", "drop"])
    async def test_an_order_goes_on_once_an_operator_has_decided(
        self, store, pool, outbox, commit, owner, written, verb
    ):
        class Poisoned(Notes):
            broken = True

            async def apply(self, transaction, records):
                if self.broken and any(one.seq == 2 for one in records):
                    raise RejectedError("unreadable", "no lines")
                await super().apply(transaction, records)

        projection = Poisoned()
        relay = Relay(outbox, PostgresBus([Consumer(store, projection)]))
        await commit(A, "order.created", "order.screened")
        await commit(A, "order.paid")
        await relay.once()
        assert await written() == 1
        assert (await store.progress(NAME, [A]))[A].parked
        assert await store.parked() == {NAME: 1}
        letters = DeadLetters(pool)
        (letter,) = await letters.page("event", None, 10)
        projection.broken = False
        decision = Decision(verb, LetterName.parse(letter.letter_id), "act_1", "mended")
        assert await letters.decide(Write("operator", "key-1", b"d" * 32), decision, {}) is None
        while await relay.once():
            pass
        assert await written() == (3 if verb == "retry" else 2)
        assert await store.progress(NAME, [A]) == {A: Progress(3)}
        assert await store.parked() == {}
        await relay.stop()

    async def test_quiet_orders_are_settled_and_still_known(self, store, projection, commit, owner, written):
        day_s = 86_400.0
        assert await store.settle(NAME, day_s, 10, "") is None, "registers the consumer"
        await commit(A, "order.created", "order.paid")
        await commit(B, "order.created")
        await self.take(store, projection, record(A, 2), record(B, 1))

        async def age(seconds):
            # Facts cannot be edited, not even by a test; the owner of the table can switch its guard off.
            await owner.execute("ALTER TABLE market.order_events DISABLE TRIGGER USER")
            for table, column in (("order_events", "at"), ("consumers", "registered_at")):
                await owner.execute(
                    f"UPDATE market.{table} SET {column} = {column} - %s * interval '1 second'", [seconds]
                )

        async def kept():
            rows = await owner.execute("SELECT order_id FROM market.consumer_progress ORDER BY order_id")
            return [row[0] for row in await rows.fetchall()]

        later = PostgresConsumerStore(store._pool, lambda: datetime.now(UTC) + timedelta(days=400))
        await age(2 * day_s)
        await later.settle(NAME, day_s, 10, "")
        assert await kept() == [A, B], "an old event waits in the outbox: not now"
        await owner.execute("DELETE FROM market.outbox")
        await commit(B, "order.paid")
        assert await later.settle(NAME, day_s, 10, "") is None
        assert await kept() == [B]
        progress = await store.progress(NAME, [A, B])
        assert progress == {A: Progress(2), B: Progress(1)}
        await commit(A, "order.refunded")
        assert (await store.progress(NAME, [A]))[A] == Progress(2), "the next event is number 3"
        await self.take(store, projection, record(A, 3))
        assert (await store.progress(NAME, [A]))[A] == Progress(3)

    async def test_settling_goes_on_page_by_page(self, store, projection, commit, owner):
        await store.settle(NAME, 0.0, 10, "")
        for number in range(1, 6):
            await commit(order_id(number), "order.created")
        await self.take(store, projection, *[record(order_id(n), 1) for n in range(1, 6)])
        await owner.execute("DELETE FROM market.outbox")
        later = PostgresConsumerStore(store._pool, lambda: datetime.now(UTC) + timedelta(days=400))
        after = await later.settle(NAME, 0.0, 2, "")
        assert after == order_id(2)
        after = await later.settle(NAME, 0.0, 2, after)
        assert await later.settle(NAME, 0.0, 2, after) is None
        left = await (await owner.execute("SELECT count(*) FROM market.consumer_progress")).fetchone()
        assert left[0] == 0

    async def test_instances_race_and_every_event_is_written_once(self, store, commit, owner, written):
        for number in range(20):
            await commit(order_id(number), "order.created", "order.paid")
        records = [record(order_id(n), seq) for n in range(20) for seq in (1, 2)]
        consumers = [Consumer(store, Notes()) for _ in range(4)]
        for _ in range(3):
            await asyncio.gather(*(consumer.consume(records) for consumer in consumers))
        assert await consumers[0].consume(records) == [None] * 40
        assert await written() == 40

    async def test_a_relay_carries_events_to_the_consumer_with_the_serving_roles_rights(
        self, store, outbox, commit, written, owner
    ):
        relay = Relay(outbox, PostgresBus([Consumer(store, Notes())]))
        for number in range(30):
            await commit(order_id(number), "order.created", "order.paid")
        while await relay.once():
            pass
        assert await written() == 60
        left = await (await owner.execute("SELECT count(*) FROM market.outbox")).fetchone()
        assert left[0] == 0
        assert sum(lag.unpublished for lag in await outbox.lag(range(SHARDS))) == 0
        assert await store.progress(NAME, [A]) == {A: Progress(2)}
        await relay.stop()
