"""Growth and baseline on a real Postgres of their own, small: whole orders, and nothing left behind."""

import asyncio

import psycopg
import pytest

from cluster.bench import baseline, growth, growth_fill
from cluster.bench.own_postgres import own_postgres
from cluster.client import ClientError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CONSISTENT = """
SELECT (SELECT count(*) FROM market.orders WHERE status = 'delivered' AND seq = 7),
       (SELECT count(*) FROM market.commands), (SELECT count(*) FROM market.inbox WHERE outcome = 'applied'),
       (SELECT count(*) FROM market.licences), (SELECT count(*) FROM market.deliveries),
       (SELECT count(*) FROM finance.entries), (SELECT count(*) / 7 FROM market.order_events),
       (SELECT count(*) / 3 FROM finance.postings)
"""


@pytest.fixture(scope="module")
def owner():
    with own_postgres() as dsn:
        yield dsn


def databases(owner):
    with psycopg.connect(owner) as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def test_growth_measures_each_size_and_drops_its_databases(owner, monkeypatch):
    monkeypatch.setattr(growth, "ORDERS_PER_ROUND", 40)
    monkeypatch.setattr(growth, "READS_PER_ROUND", 5)
    before, notes = databases(owner), []
    result = growth.run([600, 100], owner, notes.append, rounds=2)
    assert [size["orders"] for size in result["sizes"]] == [100, 600]
    assert all(size["per_s"] > 0 and size["p95_ms"] > 0 for size in result["sizes"])
    assert result["sizes"][0]["cost_ratio"] == 1.0
    assert set(result["sizes"][1]["reads"]) == {
        "load",
        "list_page",
        "events_since",
        "claim_effects",
        "claim_webhooks",
    }
    assert databases(owner) == before


def test_filled_and_new_orders_are_whole_and_the_baseline_repeats_one(owner, monkeypatch):
    dsn = growth_fill.create(owner, "bench_test_fill")
    try:
        growth_fill.fill(dsn, 120, lambda _note: None)
        subject = growth.Subject(dsn, 120)

        async def write():
            await subject.open()
            await subject.run_round(10)
            await subject.close()

        asyncio.run(write())
        with psycopg.connect(dsn) as connection:
            counts = set(connection.execute(CONSISTENT).fetchone())
            newest = connection.execute("SELECT max(order_id) FROM market.orders").fetchone()[0]
        assert counts == {120 + growth.WRITERS + 10}
        monkeypatch.setattr(baseline, "ORDERS_BEFORE", 50)
        figures = baseline.run(owner, baseline.sample_order(dsn, newest), seconds=1)
        assert figures["statements"] == 5
        assert figures["orders"] > 0
        with pytest.raises(ClientError, match="not delivered"):
            baseline.sample_order(dsn, "ord_none")
    finally:
        growth_fill.drop(owner, "bench_test_fill")


@pytest.mark.parametrize("sizes", [[], [0], [growth.ORDERS_MAX + 1]])
def test_sizes_out_of_bounds_are_refused(sizes):
    with pytest.raises(ClientError, match="Sizes are"):
        growth.run(sizes, "unused", lambda _note: None)
