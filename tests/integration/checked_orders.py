"""Orders in every state on real databases, for tests of the checker.

They are written by the product's own store and ledger, damage by the owner of the tables with the triggers
off: what no code path of the product can do. The checker reads as the serving roles.
"""

import asyncio
from datetime import UTC, datetime

import psycopg
import pytest

from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from cluster import checking
from domain import licences, statements
from domain.dsse import Envelope, Signature
from domain.events import SHARDS
from domain.events.ports import Span
from domain.fulfilment import ReleaseMaterial, licence_payload, manifest_payload
from domain.ids import derive_id
from domain.ledger import Entry, Posting
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key, capture_postings
from domain.orders.decide import decide, delivery_id, effects_after, licence_id
from domain.orders.ports import Idempotency, IssuedLicence, PaymentNews, SealedDelivery, Turn
from domain.orders.state import evolve
from storage.finance.ledger_store import LedgerStore
from storage.market.audit_log import AuditProjection
from storage.market.consumers import PostgresConsumerStore
from storage.market.order_store import PostgresOrderStore
from storage.market.outbox import PostgresOutbox
from storage.market.pool import build_pool
from storage.market.sales import SalesProjection
from tests.fakes.carts import NOW, RECIPIENT, cart, order_id

PLACED, OPEN, PAID, BOOKED, DELIVERED, EXPIRED = range(1, 7)  # order numbers, one in each state
SOUND = 7  # one more delivered order, which nothing is done to
ORDERS = 7
TOTAL_MINOR = 1999
HEADER = b"age header"
MATERIAL = ReleaseMaterial("rel_1", "logline-1.0.0.tar.gz", "ab" * 32, 1_000, "cd" * 32, 1_100, b"")
ALL_ROWS = 1_000


def signed(payload_type, payload):
    """Return an envelope as the signer makes them; its signature is worth nothing."""
    return Envelope(payload_type, payload, (Signature("key_1", bytes(64)),)).dumps()


class Writer:
    """Takes an order along its way, as its host would."""

    def __init__(self, store, ledger):
        self.store, self.ledger = store, ledger

    async def place(self, number):
        turn = self._turn(None, cart(number), order_id(number))
        assert await self.store.place(turn, Idempotency(f"key-{number}", b"d" * 32))
        return turn.order

    async def act(self, state, command, **extras):
        turn = self._turn(state, command, state.order_id, **extras)
        assert await self.store.commit(turn)
        return turn.order

    async def pay(self, state, intent):
        event_id = f"evt_{state.order_id}"
        news = PaymentNews(
            event_id, state.order_id, "payment_intent.succeeded", intent, TOTAL_MINOR, "USD", "", ""
        )
        return await self.act(
            state, c.ConfirmPayment(intent, event_id, TOTAL_MINOR, "USD", datetime.now(UTC)), news=news
        )

    async def book(self, state):
        key = capture_entry_key(state.order_id)
        legs = tuple(Posting(*leg) for leg in capture_postings(state))
        await self.ledger.post([Entry(key, "USD", NOW, "Sale", legs)])
        return await self.act(state, c.RecordBooking(key, "ent_1", "USD", TOTAL_MINOR, NOW))

    async def deliver(self, state):
        licence, delivery = licence_id(state.order_id, 1), delivery_id(state.order_id, 1)
        (line,) = state.lines
        envelope = signed(licences.PAYLOAD_TYPE, licence_payload(state, line))
        manifest = signed(statements.PAYLOAD_TYPE, manifest_payload(state, line, MATERIAL, RECIPIENT, HEADER))
        return await self.act(
            state,
            c.RecordFulfilment((licence,), (delivery,), "key_1", NOW),
            licences=[IssuedLicence(licence, 1, "sku_1", "rel_1", 1, "key_1", envelope, NOW)],
            deliveries=[
                SealedDelivery(delivery, 1, "rel_1", "recipient", RECIPIENT, HEADER, manifest, None, None)
            ],
        )

    @staticmethod
    def _turn(state, command, of_order, **extras):
        events, order, due, done = decide(state, command), state, [], []
        for event in events:
            order = evolve(of_order, order, event)
            starts, ends = effects_after(event)
            due, done = due + starts, done + ends
        return Turn(order=order, fence=state.seq if state else 0, events=events, due=due, done=done, **extras)


async def fill(database):
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=2)
    ledger = LedgerStore(database.dsn_for("finance_app"), pool_max=1)
    await pool.open(wait=True)
    await ledger.open()
    writer = Writer(PostgresOrderStore(pool), ledger)
    consumers = PostgresConsumerStore(pool, lambda: datetime.now(UTC))
    await consumers.settle(SalesProjection.name, 86_400.0, 1, "")  # registers it
    for number in range(1, ORDERS + 1):
        order = await writer.place(number)
        if number == PLACED:
            continue
        order = await writer.act(order, c.RecordPaymentOpened(f"pi_{number}", None, NOW))
        if number == EXPIRED:
            order = await writer.act(order, c.ExpireOrder(NOW))
            await writer.act(order, c.RecordPaymentVoided(NOW))
        if number in (OPEN, EXPIRED):
            continue
        order = await writer.pay(order, f"pi_{number}")
        if number == PAID:
            continue
        order = await writer.book(order)
        if number != BOOKED:
            await writer.deliver(order)
    await relay(
        database,
        PostgresBus([Consumer(consumers, SalesProjection()), Consumer(consumers, AuditProjection())]),
    )
    await pool.close()
    await ledger.close()


async def relay(database, bus):
    """Publish all that waits."""
    outbox = PostgresOutbox(database.dsn_for("market_app"))
    await outbox.join()
    for shard in range(SHARDS):
        assert await outbox.take(shard)
    rows = await outbox.read(range(SHARDS), ALL_ROWS, [])
    spans = {}
    for row in rows:
        first = spans[row.order_id].first_seq if row.order_id in spans else row.first_seq
        spans[row.order_id] = Span(row.order_id, first, row.last_seq)
    outcomes = await bus.publish(await outbox.load(list(spans.values())))
    assert set(outcomes) == {None}
    await outbox.delete(rows)
    await outbox.leave()


@pytest.fixture(scope="session")
def checked_orders(postgres_server):
    """A database with one order in each state, to be copied."""
    created = postgres_server.create_migrated("market", "finance")
    asyncio.run(fill(created))
    # Nobody works on these orders: on a slow machine they would become overdue under the test.
    damage(created, "UPDATE market.effects SET due_at = now() + interval '1 day'")
    yield created
    postgres_server.drop_database(created.name)


@pytest.fixture
def copied_orders(postgres_server, checked_orders):
    copy = postgres_server.create_database(template=checked_orders.name)
    yield copy
    postgres_server.drop_database(copy.name)


def sources(database):
    return checking.Sources(database.dsn_for("market_app"), database.dsn_for("finance_app"))


def violations(database, **options):
    """(invariant, order number or None) of everything found."""
    found = []
    checking.run(sources(database), on_violation=found.append, **({"batch": 2} | options))
    numbers = {order_id(number): number for number in range(1, ORDERS + 1)}
    return {(one.invariant, numbers.get(one.order_id)) for one in found}


def damage(database, *statements):
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute("SET session_replication_role = replica")
        for table in ("entries", "postings"):
            owner.execute(f"ALTER TABLE finance.{table} DISABLE TRIGGER ALL")
        for statement in statements:
            assert owner.execute(statement).rowcount > 0, statement


def one(number):
    return f"order_id = '{order_id(number)}'"


PAID_AGAIN = f"""
INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
SELECT order_id, 5, '{derive_id("evt", order_id(PAID), "5")}', kind, data
FROM market.order_events WHERE {one(PAID)} AND kind = 'order.paid'
"""
