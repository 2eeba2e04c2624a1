"""Postgres keeps the order store's promises; and the schema keeps those that code could break."""

import psycopg
import pytest

from domain.errors import DependencyError
from domain.orders.ports import Idempotency
from storage import migrations
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from tests.contracts.order_store import KEY, OrderStoreContract, placed, turn_of
from tests.fakes.carts import BUYER, cart, order_id

pytestmark = pytest.mark.integration

RELEASE = """
INSERT INTO market.skus VALUES ('sku_1', 'seller_1', 'logline', 'Logline', '');
INSERT INTO market.releases (release_id, sku_id, version, state, bundle_name, upload_key)
VALUES ('rel_1', 'sku_1', '1.0.0', 'draft', 'logline-1.0.0.tar.gz', 'k')
"""


@pytest.fixture
def migrated(database):
    migrations.apply(database.dsn, "storage.market", "market")
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute(RELEASE)
    return database


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


class TestPostgresOrderStore(OrderStoreContract):
    async def test_progress_is_read_for_many_orders_at_once(self, store):
        await placed(store)
        records = await store.events_since({order_id(): 1, order_id(2): 0})
        assert [(record.seq, record.kind) for record in records] == [(2, "order.screened")]
        assert (await store.events_since({order_id(): 2})) == []

    async def test_a_buyers_list_is_newest_first_and_pages(self, store):
        for number in range(1, 4):
            await placed(store, number, Idempotency(f"key-{number}", b"d" * 32))
        page = await store.list_of_buyer(BUYER, "ord_~", 2)
        assert [row.order_id for row in page] == [order_id(3), order_id(2)]
        rest = await store.list_of_buyer(BUYER, page[-1].order_id, 2)
        assert [row.order_id for row in rest] == [order_id(1)]


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
    assert not await store.place(turn_of(None, cart(2), 2), KEY)
