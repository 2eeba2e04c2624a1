"""Postgres keeps the order store's promises; and the schema keeps those that code could break."""

import asyncio

import psycopg
import pytest

from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from domain.errors import DependencyError, RejectedError
from domain.orders.decide import RELEASED_KEY_TTL_S, delivery_id
from domain.orders.events import DeliveryKeysForgotten, OrderScreened
from domain.orders.lines import DeliveryChoice
from domain.orders.ports import Idempotency
from storage import migrations
from storage.market.fulfilment import FulfilmentReads
from storage.market.order_store import SQL, PostgresOrderStore
from storage.market.pool import build_pool
from tests.contracts.order_store import (
    EffectSeen,
    InboxSeen,
    OrderStoreContract,
    delivered,
    news,
    paid,
    placed,
    turn_of,
)
from tests.fakes.carts import BUYER, cart, order_id
from tests.fakes.order_world import settle
from tests.fakes.orders import FakeBooks, FakeClock, FakeFulfiller, FakeGateway, FakeMonotonic

pytestmark = pytest.mark.integration
ORDER_OF_PAYMENT = SQL["order_of_payment"].decode()

RELEASE = """
INSERT INTO market.skus VALUES ('sku_1', 'seller_1', 'logline', 'Logline', '');
INSERT INTO market.releases (release_id, sku_id, version, state, bundle_name, upload_key)
VALUES ('rel_1', 'sku_1', '1.0.0', 'draft', 'logline-1.0.0.tar.gz', 'k')
"""


@pytest.fixture
def migrated(market_database):
    with psycopg.connect(market_database.dsn, autocommit=True) as owner:
        owner.execute(RELEASE)
    return market_database


@pytest.fixture
async def store(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await pool.open(wait=True)
    yield PostgresOrderStore(pool)
    await pool.close()


@pytest.fixture
def expire(migrated):
    async def advance(seconds):
        """The database's clock cannot be moved; moving every due time back is the same."""
        async with await psycopg.AsyncConnection.connect(migrated.dsn, autocommit=True) as owner:
            for table in ("effects", "inbox"):
                await owner.execute(
                    f"UPDATE market.{table} SET due_at = due_at - %s * interval '1 second'", [seconds]
                )

    return advance


class PostgresSeen:
    """Looks with the owner's eyes."""

    def __init__(self, dsn):
        self._dsn = dsn

    async def inbox(self, event_id):
        row = await self._row(
            "SELECT processed_at IS NOT NULL, outcome, dead_code, dead_at IS NOT NULL"
            " FROM market.inbox WHERE event_id = %s",
            event_id,
        )
        return None if row is None else InboxSeen(*self._alive_or_dead(row))

    async def effect(self, order_id, step):
        row = await self._row(
            "SELECT attempts, last_error, dead_code, dead_at IS NOT NULL"
            " FROM market.effects WHERE order_id = %s AND step = %s",
            order_id,
            step,
        )
        return None if row is None else EffectSeen(*self._alive_or_dead(row))

    async def wrapped_identity(self, delivery_id):
        (blob,) = await self._row(
            "SELECT wrapped_identity FROM market.deliveries WHERE delivery_id = %s", delivery_id
        )
        return blob

    async def add_event(self, order_id, seq, kind):
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as owner:
            await owner.execute(
                "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
                """ VALUES (%s, %s, %s, %s, '{"at": "2026-01-01T00:00:00+00:00"}')""",
                (order_id, seq, f"evt_{order_id}_{seq}", kind),
            )

    async def drop_webhook(self, event_id):
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as owner:
            await owner.execute(
                "UPDATE market.inbox SET dead_at = NULL, dead_code = NULL, processed_at = now(),"
                " outcome = 'dropped' WHERE event_id = %s",
                (event_id,),
            )

    async def licence_status(self, licence_id):
        row = await self._row("SELECT status FROM market.licences WHERE licence_id = %s", licence_id)
        return None if row is None else row[0]

    @staticmethod
    def _alive_or_dead(row):
        *values, dead = row
        assert dead == (values[-1] is not None), "a dead letter has its time and its code, or neither"
        return values

    async def _row(self, query, *values):
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as owner:
            return await (await owner.execute(query, values)).fetchone()


@pytest.fixture
def seen(migrated):
    return PostgresSeen(migrated.dsn)


class TestPostgresOrderStore(OrderStoreContract):
    async def test_an_event_of_a_newer_build_spoils_no_neighbour(self, store, seen):
        await placed(store)
        await placed(store, 2)
        await seen.add_event(order_id(2), 3, "order.of_tomorrow")
        first, second = await asyncio.gather(
            store.load(order_id()), store.load(order_id(2)), return_exceptions=True
        )
        assert len(first.events) == 2
        assert isinstance(second, DependencyError)
        assert second.code == "order_unreadable"

    async def test_progress_is_read_for_many_orders_at_once(self, store):
        await placed(store)
        records = await store.events_since({order_id(): 1, order_id(2): 0})
        assert [(record.seq, type(record.event)) for record in records] == [(2, OrderScreened)]
        assert (await store.events_since({order_id(): 2})) == []

    async def test_a_buyers_list_is_newest_first_and_pages(self, store):
        for number in range(1, 4):
            await placed(store, number)
        page = await store.list_of_buyer(BUYER, "ord_~", 2)
        assert [row.order_id for row in page] == [order_id(3), order_id(2)]
        rest = await store.list_of_buyer(BUYER, page[-1].order_id, 2)
        assert [row.order_id for row in rest] == [order_id(1)]


async def test_an_order_is_found_by_its_payment(store, migrated):
    order = await paid(store)
    assert await store.order_of_payment(order.payment_intent_id) == order.order_id
    assert await store.order_of_payment("pi_of_nobody") is None
    with psycopg.connect(migrated.dsn, autocommit=True) as owner:
        owner.execute("SET enable_seqscan = off")
        plan = owner.execute(f"EXPLAIN {ORDER_OF_PAYMENT}", {"payment_intent_id": "pi_1"}).fetchall()
    assert "order_events_by_payment" in str(plan)


async def test_the_schema_refuses_to_return_more_than_was_captured(store, migrated):
    order = await paid(store)
    unpaid = await placed(store, 2)
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        for order_id_, returned in ((order.order_id, 2000), (order.order_id, -1), (unpaid.order_id, 1)):
            with pytest.raises(psycopg.errors.CheckViolation):
                connection.execute(
                    "UPDATE market.orders SET returned_minor = %s WHERE order_id = %s", [returned, order_id_]
                )


async def test_the_schema_keeps_a_revoked_licence_revoked(store, migrated):
    await delivered(store)
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        connection.execute("UPDATE market.licences SET status = 'revoked'")
        for status in ("active", "suspended"):
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="revoked for good"):
                connection.execute("UPDATE market.licences SET status = %s", [status])


async def test_history_cannot_be_rewritten(store, migrated):
    await placed(store)
    for dsn in (migrated.dsn, migrated.dsn_for("market_app")):
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in ("UPDATE market.order_events SET kind = 'x'", "DELETE FROM market.order_events"):
                with pytest.raises(psycopg.Error):
                    connection.execute(statement)


def test_the_serving_role_can_neither_alter_nor_drop(migrated):
    with psycopg.connect(migrated.dsn_for("market_app"), autocommit=True) as connection:
        for statement in (
            "DROP TABLE market.orders",
            "CREATE TABLE market.t ()",
            "TRUNCATE market.licences",
            "DELETE FROM market.licences",
            "UPDATE market.signing_keys SET state = 'active'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_migrations_apply_once_and_refuse_a_newer_or_edited_schema(database):
    first = migrations.apply(database.dsn, "storage.market", "market")
    assert first[0] == "0001_walking_skeleton"
    assert migrations.apply(database.dsn, "storage.market", "market") == []
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute("UPDATE market.schema_migrations SET digest = 'x' WHERE number = 1")
        with pytest.raises(migrations.MigrationRefusedError, match="edited"):
            migrations.apply(database.dsn, "storage.market", "market")
        owner.execute("INSERT INTO market.schema_migrations VALUES (99, 'later', 'y')")
        with pytest.raises(migrations.MigrationRefusedError, match="newer"):
            migrations.apply(database.dsn, "storage.market", "market")


async def test_a_database_that_goes_away_is_reported_and_comes_back(store, postgres_server):
    await placed(store)
    postgres_server.stop(immediate=True)
    try:
        with pytest.raises(DependencyError, match="database_unavailable"):
            await store.load(order_id())
    finally:
        postgres_server.start()
    assert (await store.load(order_id())) is not None
    again = turn_of(None, cart(2), number=2)
    assert not await store.place(again, Idempotency("key-1", b"d" * 32)), "the key was kept"


async def test_a_released_key_lives_its_time_and_is_then_destroyed(store, migrated, expire, seen):
    """End to end on the real store: the timer is part of the commit that delivers, and a sweep runs it."""
    clock = FakeClock()
    effects = Effects(FakeGateway(), FakeBooks(), FakeFulfiller(), clock, FakeMonotonic())
    host = OrderHost(store, effects, clock, FakeMonotonic())
    sweep = Sweep(store, host)
    key, delivery = Idempotency("key-1", b"d" * 32), delivery_id(order_id(), 1)
    await host.place(cart(delivery=DeliveryChoice("released_key", None)), key)
    assert await host.receive(news()) == "applied"
    await settle(host)
    pool = store._pool
    assert (await FulfilmentReads(pool).wrapped_identity(order_id(), delivery)).blob == b"wrapped"
    await expire(RELEASED_KEY_TTL_S - 60)
    assert await sweep.once() == 0
    await expire(61)
    assert await sweep.once() == 1
    assert await seen.wrapped_identity(delivery) is None
    assert await seen.effect(order_id(), "forget_keys") is None
    with pytest.raises(RejectedError, match="delivery_key_expired"):
        await FulfilmentReads(pool).wrapped_identity(order_id(), delivery)
    with pytest.raises(RejectedError, match="delivery_key_expired"):
        await host.release_key(order_id(), delivery)
    records = await store.events_since({order_id(): 0})
    assert isinstance(records[-1].event, DeliveryKeysForgotten)
    assert [record.seq for record in records] == list(range(1, 9))
