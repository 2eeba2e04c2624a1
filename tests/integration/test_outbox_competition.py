"""Two relays compete while 24 writers hammer 12 orders, and one is killed: nothing is lost or overtaken.

Writers commit as order hosts do (the order's row lock, then the events, then the outbox position), with
transactions that stay open for a while and some that roll back: positions become visible out of order.
The relay that dies is a process of its own, killed by SIGKILL in the middle of its work.
"""

import asyncio
import os
import random
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from domain.events import shard_of
from storage.market.consumers import PostgresConsumerStore
from storage.market.outbox import PostgresOutbox
from storage.market.pool import build_pool
from tests.fakes.carts import order_id

pytestmark = pytest.mark.integration

WRITERS = 24
KEYS = 12
ROOT = Path(__file__).resolve().parents[2]
COMMITS_PER_WRITER = 40
DEADLINE_S = 45.0
TABLES = """
-- What went over the bus, in the order in which it did, and what the consumer made of it.
CREATE TABLE market.published (n bigint GENERATED ALWAYS AS IDENTITY, relay int, order_id text, seq int);
CREATE TABLE market.taken (n bigint GENERATED ALWAYS AS IDENTITY, order_id text, seq int);
GRANT SELECT, INSERT ON market.published, market.taken TO market_app
"""
WRITE = """
WITH moved AS (
    UPDATE market.orders SET seq = seq + 2 WHERE order_id = %(order_id)s RETURNING order_id, seq
), recorded AS (
    INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
    SELECT order_id, s, order_id || '_' || s, 'order.payment_failed', '{}'
    FROM moved, generate_series(moved.seq - 1, moved.seq) AS s
)
INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
SELECT %(shard)s, order_id, seq - 1, seq FROM moved
"""

OWNERS = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid < 16"


class Journal:
    """The projection: writes what it is given, in the order in which it is given it."""

    name = "journal"

    async def apply(self, transaction, records):
        await transaction.execute(
            "INSERT INTO market.taken (order_id, seq) SELECT * FROM unnest(%s::text[], %s::int[])",
            [[one.order_id for one in records], [one.seq for one in records]],
        )


class WatchedBus:
    """Notes every record that is published, before its consumer sees it."""

    def __init__(self, pool, inner):
        self.pool, self.inner = pool, inner

    async def publish(self, records):
        async with self.pool.connection() as connection:
            await connection.execute(
                "INSERT INTO market.published (relay, order_id, seq)"
                " SELECT %s, * FROM unnest(%s::text[], %s::int[])",
                [os.getpid(), [one.order_id for one in records], [one.seq for one in records]],
            )
        return await self.inner.publish(records)


async def run_relay(dsn):
    """Run one relay until cancelled."""
    pool = build_pool(dsn, name="relay-test", size_max=2)
    await pool.open(wait=True)
    consumer = Consumer(PostgresConsumerStore(pool, lambda: datetime.now(UTC)), Journal())
    relay = Relay(PostgresOutbox(dsn), WatchedBus(pool, PostgresBus([consumer])), poll_s=0.02)
    relay.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await relay.stop()
        await pool.close()


async def write(dsn, seed):
    rng = random.Random(seed)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for _ in range(COMMITS_PER_WRITER):
            order = order_id(rng.randrange(KEYS))
            async with connection.transaction() as transaction:
                await connection.execute(WRITE, {"order_id": order, "shard": shard_of(order)})
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() * 0.02)  # holds its position while others pass by
                if rng.random() < 0.1:
                    raise psycopg.Rollback(transaction)


async def wait_for(connection, query, expected):
    async with asyncio.timeout(DEADLINE_S):
        while (await (await connection.execute(query)).fetchone())[0] not in expected:
            await asyncio.sleep(0.02)


def first_seen(rows):
    """Per order the numbers in the order in which they first appear."""
    seen = {}
    for order, seq in rows:
        seen.setdefault(order, {}).setdefault(seq)
    return {order: list(seqs) for order, seqs in seen.items()}


async def test_two_relays_one_killed_nothing_lost_nothing_out_of_order(market_database):
    dsn = market_database.dsn_for("market_app")
    async with await psycopg.AsyncConnection.connect(market_database.dsn, autocommit=True) as owner:
        await owner.execute(TABLES)
        for number in range(KEYS):
            await owner.execute(
                "INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)"
                " VALUES (%s, 'b', 'created', 0, 'USD', 1)",
                [order_id(number)],
            )
        victim = await asyncio.create_subprocess_exec(
            sys.executable, __file__, dsn, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        survivor = asyncio.create_task(run_relay(dsn))
        writers = None
        try:
            # Both own shards before the race begins.
            await wait_for(owner, OWNERS, {2})
            writers = asyncio.gather(*(write(dsn, seed) for seed in range(WRITERS)))
            published = f"SELECT count(*) > 60 FROM market.published WHERE relay = {victim.pid}"
            await wait_for(owner, published, {True})
            victim.send_signal(signal.SIGKILL)
            await victim.wait()
            await writers
            await wait_for(owner, "SELECT count(*) FROM market.outbox", {0})
        finally:
            tasks = [survivor] if writers is None else [survivor, writers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if victim.returncode is None:
                victim.kill()
                await victim.wait()
        committed = dict(await (await owner.execute("SELECT order_id, seq FROM market.orders")).fetchall())
        taken = await (await owner.execute("SELECT order_id, seq FROM market.taken ORDER BY n")).fetchall()
        published = await (
            await owner.execute("SELECT order_id, seq FROM market.published ORDER BY n")
        ).fetchall()
        relays = await (await owner.execute("SELECT count(DISTINCT relay) FROM market.published")).fetchone()
    assert relays[0] == 2, "both relays published"
    assert sum(committed.values()) > WRITERS * COMMITS_PER_WRITER
    everything = {order: list(range(1, seq + 1)) for order, seq in committed.items()}
    assert len(taken) == sum(committed.values()), "the consumer took every event exactly once"
    assert first_seen(taken) == everything, "in sequence"
    assert first_seen(published) == everything, "and so they came over the bus, repetitions aside"


if __name__ == "__main__":
    asyncio.run(run_relay(sys.argv[1]))
