"""Purges in a real Postgres, as the serving role: what goes, what stays, and that one process does it."""

import asyncio

import psycopg
import pytest

from actors.orders.housekeeping import (
    BATCH_ROWS,
    BATCHES_MAX,
    COMMANDS_KEPT_DAYS,
    LINKS_KEPT_DAYS,
    WEBHOOKS_KEPT_DAYS,
    Housekeeping,
    Purged,
)
from domain.errors import DependencyError
from storage.market.housekeeping import PostgresHousekeeping
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from tests.contracts.order_store import news, paid

pytestmark = pytest.mark.integration


@pytest.fixture
def owner(migrated):
    """The owner's connection; every test starts on empty tables."""
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE market.commands, market.inbox, market.orders, market.order_events, market.effects,"
            " market.delivery_links, market.delivery_link_windows"
        )
        yield connection


@pytest.fixture
async def pool(migrated, owner):
    made = build_pool(migrated.dsn_for("market_app"), name="test", size_max=4)
    await made.open(wait=True)
    yield made
    await made.close()


def count(owner, table, where="true"):
    return owner.execute(f"SELECT count(*) FROM market.{table} WHERE {where}").fetchone()[0]


def fill(owner, table, number, days, **columns):
    """Rows of an age in days, and a minute, so that a limit is never met exactly."""
    values = {
        "commands": {"principal_id": "'p'", "idempotency_key": f"'{days}-' || n", "request_digest": "''",
                     "subject": "'s'", "created_at": "t"},
        "inbox": {"event_id": f"'{days}-' || n", "order_id": "'ord'", "kind": "'k'", "payload": "'{}'",
                  "received_at": "t", "due_at": "t", "processed_at": "t"},
        "delivery_links": {"delivery_id": "'dlv' || n", "order_id": "'ord'", "issued_to": "'b'",
                           "kind": "'payload'", "issued_at": "t", "expires_at": "t"},
        "delivery_link_windows": {"delivery_id": f"'{days}-' || n", "kind": "'payload'", "opened_at": "t",
                                  "links": "1"},
    }[table] | columns  # fmt: skip
    owner.execute(
        f"INSERT INTO market.{table} ({', '.join(values)}) SELECT {', '.join(values.values())}"
        f" FROM generate_series(1, {number}) AS n,"
        f" LATERAL (SELECT now() - interval '{days} days 1 minute' AS t) AS age"
    )


async def test_what_has_served_its_time_goes_and_the_rest_stays(owner, pool):
    fill(owner, "commands", 3, COMMANDS_KEPT_DAYS)
    fill(owner, "commands", 5, COMMANDS_KEPT_DAYS - 1)
    fill(owner, "inbox", 2, WEBHOOKS_KEPT_DAYS)
    fill(owner, "inbox", 4, WEBHOOKS_KEPT_DAYS - 1)
    for table in ("delivery_links", "delivery_link_windows"):
        fill(owner, table, 3, LINKS_KEPT_DAYS)
        fill(owner, table, 2, LINKS_KEPT_DAYS - 1)
    old = WEBHOOKS_KEPT_DAYS * 2
    fill(owner, "inbox", 6, old, processed_at="NULL", dead_at="t", dead_code="'x'")
    fill(owner, "inbox", 7, old + 1, processed_at="NULL")
    keeping = Housekeeping(PostgresHousekeeping(pool))
    assert await keeping.once() == Purged(3, 2, more=False, links=3)
    assert (count(owner, "delivery_links"), count(owner, "delivery_link_windows")) == (2, 2)
    assert (count(owner, "commands"), count(owner, "inbox")) == (5, 4 + 6 + 7)
    assert count(owner, "inbox", "processed_at IS NULL") == 6 + 7
    assert await keeping.once() == Purged(0, 0, more=False)


async def test_batches_are_bounded_and_take_the_oldest_first(owner, pool):
    for days in (40, 60, 50):
        fill(owner, "commands", 10, days)
    store = PostgresHousekeeping(pool)
    assert await store.purge_commands(30, 10) == 10
    assert count(owner, "commands", "idempotency_key LIKE '60-%'") == 0
    assert await store.purge_commands(30, 15) == 15
    assert count(owner, "commands", "idempotency_key LIKE '40-%'") == 5
    assert await store.purge_commands(30, 15) == 5
    assert await store.purge_commands(30, 15) == 0


async def test_a_large_backlog_takes_several_runs(owner, pool):
    fill(owner, "commands", 12_500, COMMANDS_KEPT_DAYS)
    keeping = Housekeeping(PostgresHousekeeping(pool), batch_pause_s=0)
    assert await keeping.once() == Purged(BATCH_ROWS * BATCHES_MAX, 0, more=True)
    assert await keeping.once() == Purged(12_500 - BATCH_ROWS * BATCHES_MAX, 0, more=False)
    assert count(owner, "commands") == 0


async def test_one_process_keeps_house_at_a_time(owner, pool, migrated):
    other = build_pool(migrated.dsn_for("market_app"), name="other", size_max=2)
    await other.open(wait=True)
    try:
        fill(owner, "commands", 1, COMMANDS_KEPT_DAYS)
        async with PostgresHousekeeping(pool).alone() as alone:
            assert alone
            assert await Housekeeping(PostgresHousekeeping(other)).once() is None
            async with PostgresHousekeeping(pool).alone() as again:
                assert not again, "another connection of the same process is another holder"
        assert count(owner, "commands") == 1
        assert await Housekeeping(PostgresHousekeeping(other)).once() == Purged(1, 0, more=False)
    finally:
        await other.close()


async def test_a_holder_that_fails_or_dies_frees_the_place(owner, pool):
    store = PostgresHousekeeping(pool)
    with pytest.raises(RuntimeError):
        async with store.alone():
            raise RuntimeError("a bug")
    with pytest.raises(DependencyError, match="database_unavailable"):
        await _die_alone(store, owner)
    async with store.alone() as alone:
        assert alone


async def test_it_starts_runs_and_stops(owner, pool):
    fill(owner, "commands", 1, COMMANDS_KEPT_DAYS)
    keeping = Housekeeping(PostgresHousekeeping(pool), interval_s=0.01)
    keeping.start()
    async with asyncio.timeout(10):
        while count(owner, "commands"):
            await asyncio.sleep(0.01)
    assert keeping.alive
    await keeping.stop()
    assert not keeping.alive
    async with PostgresHousekeeping(pool).alone() as alone:
        assert alone, "stopping freed the place"


async def test_a_purged_webhook_that_comes_again_changes_nothing(owner, pool):
    """Stripe would have to repeat it after months; the order has the payment on record all the same."""
    store = PostgresOrderStore(pool)
    order = await paid(store)
    await store.settle_webhook(news(), "applied")
    owner.execute("UPDATE market.inbox SET processed_at = processed_at - interval '91 days'")
    assert await Housekeeping(PostgresHousekeeping(pool)).once() == Purged(0, 1, more=False)
    assert await store.store_webhook(news()) == (True, True)
    (claimed,) = await _later(owner, store)
    await store.settle_webhook(claimed, "no_change")
    assert count(owner, "orders", f"seq = {order.seq}") == 1


async def _die_alone(store, owner):
    async with store.alone() as alone:
        assert alone
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )


async def _later(owner, store):
    owner.execute("UPDATE market.inbox SET due_at = now()")
    return await store.claim_due_webhooks(10, 9.0)
