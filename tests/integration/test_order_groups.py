"""Group commit on a real Postgres: turns of many orders share a statement, and none spoils its neighbours.

How many transactions there were is read from the rows themselves: ``xmin`` is the one that wrote a row.
"""

import asyncio
import random

import psycopg
import pytest

from domain.errors import BusyError
from domain.events import shard_of
from domain.orders import commands as c
from domain.orders import payments
from domain.orders.ports import Idempotency
from domain.orders.state import fold
from storage.market.order_store import GROUP_MAX, PostgresOrderStore
from storage.market.pool import build_pool
from tests.contracts.order_store import PAID, booking, fulfilment, goods, news, paid, placed, turn_of
from tests.fakes.carts import NOW, cart, order_id

pytestmark = pytest.mark.integration

DEADLINE_S = 20.0


@pytest.fixture
async def owner(migrated):
    """The owner's connection; every test starts on empty tables."""
    connection = await psycopg.AsyncConnection.connect(migrated.dsn, autocommit=True)
    async with connection:
        rows = await connection.execute(
            "SELECT string_agg(format('market.%I', tablename), ', ') FROM pg_tables"
            " WHERE schemaname = 'market' AND tablename <> 'schema_migrations'"
        )
        await connection.execute(f"TRUNCATE {(await rows.fetchone())[0]}")
        yield connection


@pytest.fixture
async def pools(migrated, owner):
    made = [build_pool(migrated.dsn_for("market_app"), name=f"host-{n}", size_max=4) for n in (1, 2)]
    for pool in made:
        await pool.open(wait=True)
    yield made
    for pool in made:
        await pool.close()


@pytest.fixture
def stores(pools):
    return [PostgresOrderStore(pool) for pool in pools]


@pytest.fixture
def store(stores):
    return stores[0]


async def value(owner, query, *values):
    row = await (await owner.execute(query, values)).fetchone()
    return row[0]


async def deadlocks(owner):
    # The counters are written when a backend goes idle or ends; ask the server for fresh ones.
    await owner.execute("SELECT pg_stat_force_next_flush()")
    return await value(owner, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


async def many_placed(store, count):
    return list(await asyncio.gather(*(placed(store, number) for number in range(1, count + 1))))


def paying(orders):
    return [turn_of(order, PAID, number=n, news=news(f"evt_{n}", n)) for n, order in enumerate(orders, 1)]


def delivering(orders):
    return [
        turn_of(order, booking(n), fulfilment(n), number=n, **goods(n)) for n, order in enumerate(orders, 1)
    ]


async def test_orders_placed_together_are_one_transaction(store, owner):
    await many_placed(store, GROUP_MAX)
    for table in ("commands", "orders", "order_events", "effects", "outbox"):
        assert await value(owner, f"SELECT count(DISTINCT xmin::text) FROM market.{table}") == 1, table
    assert await value(owner, "SELECT count(*) FROM market.orders") == GROUP_MAX


async def test_turns_that_wait_together_are_one_transaction(store, owner):
    orders = await many_placed(store, GROUP_MAX)
    assert await asyncio.gather(*(store.commit(turn) for turn in paying(orders))) == [True] * GROUP_MAX
    for query in (
        "SELECT count(DISTINCT xmin::text) FROM market.orders",
        "SELECT count(DISTINCT xmin::text) FROM market.inbox WHERE outcome = 'applied'",
        "SELECT count(DISTINCT xmin::text) FROM market.order_events WHERE kind = 'order.paid'",
        "SELECT count(DISTINCT xmin::text) FROM market.effects WHERE step = 'book'",
    ):
        assert await value(owner, query) == 1, query
    assert await value(owner, "SELECT count(*) FROM market.effects WHERE step <> 'book'") == 0


async def test_a_group_is_bounded(store, owner):
    await many_placed(store, GROUP_MAX + 1)
    assert await value(owner, "SELECT count(DISTINCT xmin::text) FROM market.orders") == 2


async def waits_for_a_lock(owner, count=1):
    query = (
        "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database()"
    )
    while await value(owner, query) < count:
        await asyncio.sleep(0.01)


async def test_one_bad_turn_does_not_spoil_its_neighbours(store, owner):
    orders = await asyncio.gather(*(paid(store, number) for number in range(1, 9)))
    await owner.execute(
        "INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id, quantity,"
        " key_id, envelope, issued_at) VALUES ('lic_planted', %s, 1, 'b', 's', 'r', 1, 'k', 'e', now())",
        [order_id(3)],
    )
    turns = delivering(orders)
    won = await asyncio.gather(*(store.commit(turn) for turn in turns), return_exceptions=True)
    assert isinstance(won[2], psycopg.errors.UniqueViolation)
    assert won[:2] + won[3:] == [True] * 7
    for number, turn in enumerate(turns, 1):
        stored = await store.load(order_id(number))
        good = number != 3
        assert fold(order_id(number), stored.events) == (turn.order if good else orders[2])
    assert await value(owner, "SELECT count(*) FROM market.deliveries") == 7
    assert await value(owner, "SELECT array_agg(order_id || step) FROM market.effects") == [
        order_id(3) + "book"
    ]
    assert await value(owner, "SELECT seq FROM market.orders WHERE order_id = %s", order_id(3)) == 3
    assert await value(owner, "SELECT count(*) FROM market.outbox WHERE order_id = %s", order_id(3)) == 2


async def test_one_order_that_cannot_be_placed_does_not_spoil_its_neighbours(store, owner):
    """The third order's id is taken: by a row that no key of this buyer names."""
    await owner.execute(
        "INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)"
        " VALUES (%s, 'other', 'screened', 2, 'USD', 1)",
        [order_id(3)],
    )
    turns = [turn_of(None, cart(number), number=number) for number in range(1, 6)]
    won = await asyncio.gather(
        *(store.place(turn, Idempotency(f"key-{n}", b"d" * 32)) for n, turn in enumerate(turns)),
        return_exceptions=True,
    )
    assert isinstance(won[2], psycopg.errors.UniqueViolation)
    assert won[:2] + won[3:] == [True] * 4
    assert await value(owner, "SELECT count(*) FROM market.commands") == 4, "the bad one's key is free"


async def test_a_used_key_in_a_group_is_answered_alone(store, owner):
    await placed(store, 1)
    turns = [turn_of(None, cart(number), number=number) for number in (2, 3, 4)]
    keys = [Idempotency(f"key-{n}", b"d" * 32) for n in (2, 1, 4)]
    won = await asyncio.gather(*(store.place(*pair) for pair in zip(turns, keys, strict=True)))
    assert won == [True, False, True]
    assert await store.load(order_id(3)) is None
    assert await value(owner, "SELECT count(*) FROM market.effects") == 3


async def test_the_same_request_twice_in_one_group_places_one_order(store, owner):
    """As when a router repeats a request that it had given up, and both reach the same host."""
    turn, key = turn_of(None, cart(1), number=1), Idempotency("key-1", b"d" * 32)
    won = await asyncio.gather(*(store.place(turn, key) for _ in range(3)))
    assert won.count(True) == 1
    assert len((await store.load(order_id())).events) == 2
    assert await value(owner, "SELECT count(*) FROM market.outbox") == 1


async def test_of_rivals_in_one_group_the_first_wins_and_neighbours_are_not_lost(store, owner):
    orders = await many_placed(store, 6)
    turns = paying(orders)
    rivals = [
        turn_of(orders[0], c.RecordPaymentOpened(f"pi_{n}", None, NOW), payment_handle={"client_secret": "s"})
        for n in range(3)
    ]
    won = await asyncio.gather(*(store.commit(turn) for turn in [*turns, *rivals]))
    assert won == [True] * 6 + [False] * 3
    assert await value(owner, "SELECT count(*) FROM market.order_events WHERE order_id = %s", order_id()) == 3
    assert await value(owner, "SELECT count(*) FROM market.effects WHERE step = 'expire'") == 0
    assert (
        await value(owner, "SELECT payment_handle FROM market.orders WHERE order_id = %s", order_id()) is None
    )


async def test_a_group_with_a_stale_turn_writes_the_others_only(store, stores, owner):
    orders = await many_placed(store, 5)
    assert await stores[1].commit(turn_of(orders[2], c.RecordPaymentOpened("pi_9", None, NOW), number=3))
    won = await asyncio.gather(*(store.commit(turn) for turn in paying(orders)))
    assert won == [True, True, False, True, True]
    assert await value(owner, "SELECT count(*) FROM market.inbox") == 4
    assert await value(owner, "SELECT step FROM market.effects WHERE order_id = %s", order_id(3)) == "expire"


async def test_groups_lock_orders_in_the_order_of_their_ids(stores, owner):
    """Two hosts' groups hold the same orders in opposite order, and meet at a lock in the middle."""
    before = await deadlocks(owner)
    orders = await many_placed(stores[0], 7)
    turns = paying(orders)
    async with owner.transaction():
        await owner.execute("SELECT FROM market.orders WHERE order_id = %s FOR UPDATE", [order_id(4)])
        upward = asyncio.gather(*(stores[0].commit(turn) for turn in turns))
        downward = asyncio.gather(*(stores[1].commit(turn) for turn in reversed(turns)))
        async with asyncio.timeout(DEADLINE_S):
            await waits_for_a_lock(owner, 2)
    first, second = await upward, list(reversed(await downward))
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * 7
    assert await value(owner, "SELECT count(*) FROM market.order_events WHERE kind = 'order.paid'") == 7
    assert await deadlocks(owner) == before


async def test_every_commit_has_its_row_in_the_outbox(store, owner):
    order = await paid(store)
    assert await store.commit(turn_of(order, booking(), fulfilment(), **goods()))
    rows = await owner.execute(
        "SELECT shard, order_id, first_seq, last_seq FROM market.outbox ORDER BY position"
    )
    shard = shard_of(order_id())
    assert await rows.fetchall() == [
        (shard, order_id(), 1, 2),
        (shard, order_id(), 3, 3),
        (shard, order_id(), 4, 6),
    ]


class Race:
    """Two hosts that move the same orders on, each from what it believes, a group at a time."""

    def __init__(self, stores, orders):
        self.stores = stores
        self.orders = orders  # by number, as the last winner left them
        self.wins = [0, 0]  # of rivals for one order
        self._draw = random.Random(7)

    async def round(self, number):
        groups = [self._draw.sample(sorted(self.orders), 5) for _ in self.stores]
        turns = [[self._turn(one, f"{number}_{host}") for one in group] for host, group in enumerate(groups)]
        # Each host's group is one statement; they begin in turns so that neither always comes first.
        hosts = [0, 1] if number % 2 else [1, 0]
        answers = await asyncio.gather(
            *(asyncio.gather(*(self.stores[host].commit(turn) for turn in turns[host])) for host in hosts)
        )
        for host, written in zip(hosts, answers, strict=True):
            for one, turn, won in zip(groups[host], turns[host], written, strict=True):
                if won:
                    assert self.orders[one].seq == turn.fence, "two rivals were both told that they won"
                    self.orders[one] = turn.order
                    self.wins[host] += one in groups[1 - host]
        for one in {*groups[0], *groups[1]}:
            assert self.orders[one].payment_error[1].startswith(f"{number}_"), "nobody was told that it won"

    def _turn(self, number, text):
        command = c.RecordPaymentFailure(f"evt_{text}", "card_declined", "Declined.", NOW, text)
        return turn_of(self.orders[number], command, number=number, news=news(f"evt_{number}_{text}", number))


async def test_two_hosts_commit_overlapping_groups_a_thousand_times(stores, owner, monkeypatch):
    """No deadlock, no lost fence: of two turns on the same state one is written, and it is written whole."""
    monkeypatch.setattr(payments, "PAYMENT_ATTEMPTS_MAX", 10_000)
    before = await deadlocks(owner)
    opened = [
        turn_of(order, c.RecordPaymentOpened(f"pi_{number}", None, NOW), number=number)
        for number, order in enumerate(await many_placed(stores[0], 12), 1)
    ]
    assert all(await asyncio.gather(*(stores[0].commit(turn) for turn in opened)))
    race = Race(stores, {number: turn.order for number, turn in enumerate(opened, 1)})
    for number in range(1_000):
        await race.round(number)
    assert min(race.wins) > 100, "they did race: each host won often"
    for number, order in race.orders.items():
        assert fold(order_id(number), (await stores[1].load(order_id(number))).events) == order
    assert await deadlocks(owner) == before
    assert await value(owner, GAPS) == 0, "each order's events are 1..n (invariant I6)"
    assert await value(owner, OUTBOX_GAPS) == 0, "and leave in that order, each once"
    failed = await value(
        owner, "SELECT count(*) FROM market.order_events WHERE kind = 'order.payment_failed'"
    )
    applied = await value(owner, "SELECT count(*) FROM market.inbox WHERE outcome = 'applied'")
    assert failed == applied, "a webhook is in the inbox if and only if its turn was written"
    assert applied == await value(owner, "SELECT sum(seq - 3) FROM market.orders")


GAPS = """
SELECT count(*) FROM market.orders AS o
WHERE NOT (SELECT count(*) = o.seq AND min(seq) = 1 AND max(seq) = o.seq
           FROM market.order_events AS e WHERE e.order_id = o.order_id)
"""
OUTBOX_GAPS = """
SELECT count(*) FROM (
    SELECT first_seq, 1 + lag(last_seq, 1, 0) OVER (PARTITION BY order_id ORDER BY position) AS expected
    FROM market.outbox) AS gaps
WHERE first_seq <> expected
"""


async def test_a_row_that_somebody_holds_delays_its_own_turn_and_no_other(store, owner, migrated):
    orders = await many_placed(store, 3)
    turns = [turn_of(order, c.RecordPaymentOpened(f"pi_{n}", None, NOW)) for n, order in enumerate(orders)]
    async with await psycopg.AsyncConnection.connect(migrated.dsn) as holder:
        await holder.execute(
            "SELECT 1 FROM market.orders WHERE order_id = %s FOR UPDATE", [orders[1].order_id]
        )
        answers = await asyncio.gather(*(store.commit(turn) for turn in turns), return_exceptions=True)
    assert (answers[0], answers[2]) == (True, True)
    assert isinstance(answers[1], BusyError)
    assert answers[1].code == "order_contended"
    assert await store.commit(turns[1])
