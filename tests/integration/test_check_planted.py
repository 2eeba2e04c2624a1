"""The checker on real databases: silent when all is well, and each planted damage is found and named.

Orders are written by the product's own store and ledger, damage by the owner of the tables with the triggers
off: what no code path of the product can do. The checker reads as the serving roles.
"""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from cluster import checking
from cluster.cli_check import check
from domain import licences, statements
from domain.dsse import Envelope, Signature
from domain.errors import DependencyError
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
from storage import migrations
from storage.finance.ledger_store import LedgerStore
from storage.market.audit_log import AuditProjection
from storage.market.consumers import PostgresConsumerStore
from storage.market.order_store import PostgresOrderStore
from storage.market.outbox import PostgresOutbox
from storage.market.pool import build_pool
from storage.market.sales import SalesProjection
from tests.fakes.carts import NOW, RECIPIENT, cart, order_id

pytestmark = pytest.mark.integration

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


@pytest.fixture(scope="module")
def template(postgres_server):
    """A database with one order in each state, to be copied."""
    created = postgres_server.create_database()
    for schema in ("market", "finance"):
        migrations.apply(created.dsn, f"storage.{schema}", schema)
    asyncio.run(fill(created))
    # Nobody works on these orders: on a slow machine they would become overdue under the test.
    damage(created, "UPDATE market.effects SET due_at = now() + interval '1 day'")
    yield created
    postgres_server.drop_database(created.name)


@pytest.fixture
def copied(postgres_server, template):
    copy = postgres_server.create_database(template=template.name)
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


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_a_clean_database_has_no_violation_in_pages_of_any_size(template, batch):
    told = []
    report = checking.run(sources(template), batch=batch, on_violation=told.append)
    assert told == []
    assert (report.orders, report.clean) == (ORDERS, True)
    assert report.totals.captured_minor == {"USD": 4 * TOTAL_MINOR}
    assert report.totals.booked_minor == report.totals.cleared_minor == {"USD": 3 * TOTAL_MINOR}


def test_without_grace_the_totals_cover_every_entry(template):
    told = []
    report = checking.run(sources(template), grace_s=0, on_violation=told.append)
    assert report.totals.ledger_minor == {"USD": 3 * TOTAL_MINOR}
    assert told == []


def test_processes_that_share_the_pages_find_the_same(copied, monkeypatch):
    damage(copied, f"DELETE FROM market.effects WHERE {one(PAID)}", PAID_AGAIN)
    monkeypatch.setattr(checking, "PAGES_PER_JOB_MIN", 1)
    assert violations(copied, jobs=2) == violations(copied) == {("I9", PAID), ("I2", PAID), ("I6", PAID)}
    told = []
    report = checking.run(sources(copied), batch=2, jobs=2, on_violation=told.append)
    assert (report.orders, report.totals.booked_minor) == (ORDERS, {"USD": 3 * TOTAL_MINOR})


def test_an_empty_database_is_clean(database):
    for schema in ("market", "finance"):
        migrations.apply(database.dsn, f"storage.{schema}", schema)
    assert violations(database) == set()


def one(number):
    return f"order_id = '{order_id(number)}'"


def entry(number):
    key = capture_entry_key(order_id(number))
    return f"entry_id = (SELECT entry_id FROM finance.entries WHERE entry_key = '{key}')"


QUEUED = f"""
INSERT INTO market.outbox (shard, order_id, first_seq, last_seq) VALUES (0, '{order_id(PAID)}', {{}}, {{}})
"""
PROGRESS = f"UPDATE market.consumer_progress SET seq = {{}}, from_seq = 0 WHERE order_id = '{order_id(PAID)}'"
PARKED = f"""
INSERT INTO market.stuck_events (consumer, order_id, seq, attempts, code, error, parked_at)
VALUES ('sales', '{order_id(PAID)}', 3, 1, 'x', 'x', now())
"""
UNSOLD = (
    "UPDATE market.sales_by_day SET orders = orders - 1, units = units - 1, gross_minor = gross_minor - 1999"
)
SWAPPED = """
UPDATE market.{table} AS a SET {column} = b.{column}
FROM market.{table} AS b WHERE a.order_id = '{one}' AND b.order_id = '{other}'
"""
PAID_AGAIN = f"""
INSERT INTO market.order_events (order_id, seq, event_id, kind, data)
SELECT order_id, 5, '{derive_id("evt", order_id(PAID), "5")}', kind, data
FROM market.order_events WHERE {one(PAID)} AND kind = 'order.paid'
"""
POST = """
INSERT INTO finance.entries (entry_key, currency, occurred_at, posted_at, description, content_digest,
                             posting_count)
VALUES ('{key}', 'USD', now(), now() - interval '1 hour', '', sha256('x'), 2)
"""
LEGS = """
INSERT INTO finance.postings (entry_id, position, account, amount_minor, currency, occurred_at)
SELECT entry_id, n, a, m, 'USD', occurred_at FROM finance.entries,
    (VALUES (1, 'stripe:clearing', 5), (2, 'platform:fees', -5)) AS legs (n, a, m)
WHERE entry_key = '{key}'
"""
WEBHOOK = """
INSERT INTO market.inbox (event_id, order_id, kind, payload, due_at, dead_at)
VALUES ('evt_x', '{order_id}', 'k', '{{}}', now() - interval '1 hour', {dead})
"""
STRAY_KEY = capture_entry_key(order_id(99))
OPEN_KEY = capture_entry_key(order_id(OPEN))

DAMAGE = {
    "an event that was rewritten": (
        {("I6", PAID)},
        [f"UPDATE market.order_events SET at = at - interval '1 s' WHERE {one(PAID)} AND seq = 2"],
    ),
    "an event that is not in the audit log": (
        {("I6", PAID), ("I6", None)},
        [
            f"UPDATE market.order_events SET at = at - interval '1 h' WHERE {one(PAID)} AND seq = 2",
            f"DELETE FROM market.audit_entries WHERE {one(PAID)} AND seq = 2",
        ],
    ),
    "an entry that commits to something else": (
        {("I6", PAID)},
        [f"UPDATE market.audit_entries SET digest = sha256('x') WHERE {one(PAID)} AND seq = 2"],
    ),
    "an audit log that says that it is longer": (
        {("I6", None)},
        ["UPDATE market.audit_log SET size = size + 1"],
    ),
    "a checkpoint of another tree": (
        {("I6", None)},
        ["INSERT INTO market.audit_checkpoints VALUES (3, 'key_1', sha256('x'), 'note', now())"],
    ),
    "a checkpoint beyond the audit log": (
        {("I6", None)},
        ["INSERT INTO market.audit_checkpoints VALUES (999, 'key_1', sha256('x'), 'note', now())"],
    ),
    "paid twice": (
        {("I2", PAID)},
        [PAID_AGAIN, f"UPDATE market.orders SET seq = 5 WHERE {one(PAID)}", QUEUED.format(5, 5)],
    ),
    "a licence lost": ({("I3", DELIVERED)}, [f"DELETE FROM market.licences WHERE {one(DELIVERED)}"]),
    "a licence of another line": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET line_no = 2 WHERE {one(DELIVERED)}"],
    ),
    "a delivery lost": ({("I3", DELIVERED)}, [f"DELETE FROM market.deliveries WHERE {one(DELIVERED)}"]),
    "a licence of another buyer": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET buyer_id = 'mallory' WHERE {one(DELIVERED)}"],
    ),
    "a licence of another SKU": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET sku_id = 'sku_2' WHERE {one(DELIVERED)}"],
    ),
    "a licence of another release": (
        {("I3", DELIVERED)},
        [f"UPDATE market.licences SET release_id = 'rel_2' WHERE {one(DELIVERED)}"],
    ),
    "a licence revoked for nothing": (
        {("I5", DELIVERED)},
        [f"UPDATE market.licences SET status = 'revoked' WHERE {one(DELIVERED)}"],
    ),
    "a licence that names another order": (
        {("I3", DELIVERED), ("I6", DELIVERED)},
        [SWAPPED.format(table="licences", column="envelope", one=order_id(DELIVERED), other=order_id(SOUND))],
    ),
    "a licence that is no document": (
        {("I3", DELIVERED), ("I6", DELIVERED)},
        [f"UPDATE market.licences SET envelope = 'envelope' WHERE {one(DELIVERED)}"],
    ),
    "a delivery of another buyer": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET buyer_id = 'mallory' WHERE {one(DELIVERED)}"],
    ),
    "a delivery in another mode": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET mode = 'released_key' WHERE {one(DELIVERED)}"],
    ),
    "a delivery sealed for somebody else": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET recipient = 'age1mallory' WHERE {one(DELIVERED)}"],
    ),
    "a delivery under another header": (
        {("I3", DELIVERED)},
        [f"UPDATE market.deliveries SET header = 'x' WHERE {one(DELIVERED)}"],
    ),
    "a manifest of another order": (
        {("I3", DELIVERED), ("I6", DELIVERED)},
        [
            SWAPPED.format(
                table="deliveries", column="manifest", one=order_id(DELIVERED), other=order_id(SOUND)
            )
        ],
    ),
    "an event that never left": ({("I6", PAID)}, [PROGRESS.format(3), UNSOLD]),
    "an event that waits in part": ({("I6", PAID)}, [PROGRESS.format(2), UNSOLD, QUEUED.format(4, 4)]),
    "progress lost": ({("I6", PAID)}, [f"DELETE FROM market.consumer_progress WHERE {one(PAID)}", UNSOLD]),
    "progress beyond the events": ({("I6", PAID)}, [PROGRESS.format(9)]),
    "an outbox row of no event": ({("I6", PAID)}, [QUEUED.format(4, 5)]),
    "a sale not counted": ({("I6", None)}, [UNSOLD]),
    "a sale counted on another day": ({("I6", None)}, ["UPDATE market.sales_by_day SET day = day + 1"]),
    "a licence before the booking": (
        {("I4", PAID), ("I3", DELIVERED), ("I6", PAID)},
        [f"UPDATE market.licences SET order_id = '{order_id(PAID)}' WHERE {one(DELIVERED)}"],
    ),
    "an entry lost": (
        {("I4", DELIVERED)},
        [
            f"DELETE FROM finance.postings WHERE {entry(DELIVERED)}",
            f"DELETE FROM finance.entries WHERE {entry(DELIVERED)}",
        ],
    ),
    "an entry of other amounts": (
        {("I1", DELIVERED)},
        [
            f"UPDATE finance.postings SET amount_minor = -1999 WHERE {entry(DELIVERED)} AND position = 2",
            f"DELETE FROM finance.postings WHERE {entry(DELIVERED)} AND position = 3",
        ],
    ),
    "an entry of an order that nobody paid": (
        {("I1", OPEN)},
        [POST.format(key=OPEN_KEY), LEGS.format(key=OPEN_KEY)],
    ),
    "an entry of no order": ({("I1", None)}, [POST.format(key=STRAY_KEY), LEGS.format(key=STRAY_KEY)]),
    "an entry of no order with an odd key": ({("I1", None)}, [POST.format(key="1"), LEGS.format(key="1")]),
    "an event lost": (
        {("I6", DELIVERED)},
        [f"DELETE FROM market.order_events WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "an event renamed": (
        {("I6", DELIVERED)},
        [f"UPDATE market.order_events SET event_id = 'evt_x' WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "an event of an unknown kind": (
        {("I6", DELIVERED)},
        [f"UPDATE market.order_events SET kind = 'order.eaten' WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "an event with a member too many": (
        {("I6", DELIVERED)},
        [f"UPDATE market.order_events SET data = data || '{{\"x\": 1}}' WHERE {one(DELIVERED)} AND seq = 2"],
    ),
    "the last event lost": (
        {("I6", OPEN), ("I9", OPEN)},
        [f"DELETE FROM market.order_events WHERE {one(OPEN)} AND seq = 3"],
    ),
    "another status": ({("I6", PAID)}, [f"UPDATE market.orders SET status = 'delivered' WHERE {one(PAID)}"]),
    "another total": ({("I6", PAID)}, [f"UPDATE market.orders SET total_minor = 1 WHERE {one(PAID)}"]),
    "an order lost": ({("I6", OPEN)}, [f"DELETE FROM market.orders WHERE {one(OPEN)}"]),
    "an effect lost": ({("I9", PAID)}, [f"DELETE FROM market.effects WHERE {one(PAID)}"]),
    "a timer lost": ({("I9", OPEN)}, [f"DELETE FROM market.effects WHERE {one(OPEN)}"]),
    "an effect left over": (
        {("I9", DELIVERED)},
        [f"INSERT INTO market.effects VALUES ('{order_id(DELIVERED)}', 'book', now())"],
    ),
    "an effect that nobody takes": (
        {("I9", BOOKED)},
        [f"UPDATE market.effects SET due_at = now() - interval '1 hour' WHERE {one(BOOKED)}"],
    ),
    "a webhook that nobody takes": (
        {("I9", OPEN)},
        [WEBHOOK.format(order_id=order_id(OPEN), dead="NULL")],
    ),
    "the paying webhook lost": ({("I10", DELIVERED)}, [f"DELETE FROM market.inbox WHERE {one(DELIVERED)}"]),
    "the paying webhook not processed": (
        {("I10", DELIVERED)},
        [f"UPDATE market.inbox SET processed_at = NULL, due_at = now() WHERE {one(DELIVERED)}"],
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_nothing_else(copied, name):
    expected, statements = DAMAGE[name]
    damage(copied, *statements)
    assert violations(copied) == expected


@pytest.mark.parametrize(
    "statements",
    [
        [PROGRESS.format(3), UNSOLD, QUEUED.format(4, 4)],
        [PROGRESS.format(2), UNSOLD, PARKED],
        [PROGRESS.format(2), UNSOLD, PARKED, QUEUED.format(4, 4)],
        # Taken, and then sent once more.
        [QUEUED.format(1, 4)],
        # Settled: everything recorded by then was taken, though no row says so any more.
        [
            f"DELETE FROM market.consumer_progress WHERE {one(PAID)}",
            "UPDATE market.consumers SET settled_before = now()",
        ],
        # A consumer that was added later, and has not been sent the history.
        ["INSERT INTO market.consumers (consumer) VALUES ('later')"],
        # The same of the one whose sums are compared.
        [
            f"DELETE FROM market.consumer_progress WHERE {one(PAID)}",
            UNSOLD,
            "UPDATE market.consumers SET registered_at = now()",
        ],
    ],
    ids=["waits", "parked", "waits behind a parked one", "again", "settled", "added later", "no history"],
)
def test_an_event_on_its_way_is_not_lost(copied, statements):
    damage(copied, *statements)
    assert violations(copied) == set()


def test_while_no_consumer_is_registered_every_event_waits(copied):
    damage(copied, "DELETE FROM market.consumers")
    assert violations(copied) == {("I6", number) for number in range(1, ORDERS + 1)}


def test_an_entry_that_does_not_balance_shows_in_the_order_and_in_the_whole(copied):
    damage(copied, f"UPDATE finance.postings SET amount_minor = 1 WHERE {entry(DELIVERED)} AND position = 3")
    damage(copied, "UPDATE finance.entries SET posted_at = posted_at - interval '1 hour'")
    assert violations(copied) == {("I1", DELIVERED), ("I1", None)}


def test_a_dead_letter_is_an_open_case(copied):
    damage(
        copied,
        f"UPDATE market.effects SET dead_at = now(), due_at = now() - interval '1 day' WHERE {one(PAID)}",
        WEBHOOK.format(order_id=order_id(99), dead="now()"),
    )
    assert violations(copied) == set()


def test_a_dropped_letter_is_told_from_a_lost_effect(copied):
    detail = json.dumps({"order_id": order_id(PAID), "work": "book"})
    damage(
        copied,
        f"DELETE FROM market.effects WHERE {one(PAID)}",
        "INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason, detail)"
        f" VALUES ('act_1', 'usr_op', 'dead_letter.drop', 'effect', 'refunded by hand', '{detail}')",
    )
    found = []
    checking.run(sources(copied), on_violation=found.append)
    assert [(one.invariant, one.order_id) for one in found] == [("I9", order_id(PAID))]
    assert "an operator dropped it" in found[0].detail


def test_without_the_books_the_rest_is_checked(copied):
    damage(copied, f"DELETE FROM market.effects WHERE {one(PAID)}")
    found = []
    where = checking.Sources(copied.dsn_for("market_app"))
    report = checking.run(where, on_violation=found.append)
    assert [(one.invariant, one.order_id) for one in found] == [("I9", order_id(PAID))]
    assert report.totals.cleared_minor == {}


def test_a_database_that_does_not_answer_is_said_so(template):
    where = checking.Sources(template.dsn_for("market_app").replace(template.name, "absent"))
    with pytest.raises(DependencyError, match="market database could not be read"):
        checking.run(where, on_violation=print)


class TestCommand:
    """``marketplace check``."""

    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        app = typer.Typer()
        app.command()(check)
        monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path))

        def run(database, *arguments):
            if database is not None:
                monkeypatch.setenv("MARKET_DSN", database.dsn_for("market_app"))
                monkeypatch.setenv("FINANCE_DSN", database.dsn_for("finance_app"))
            return CliRunner().invoke(app, arguments)

        return run

    def test_nothing_found_is_status_0(self, run, template):
        result = run(template)
        assert result.exit_code == 0, result.output
        assert f"Nothing found in {ORDERS} orders" in result.stdout

    def test_violations_are_status_1_and_named(self, run, copied):
        damage(copied, f"DELETE FROM market.effects WHERE {one(PAID)}")
        result = run(copied, "--batch", "1", "--jobs", "1")
        assert result.exit_code == 1
        assert f"I9   {order_id(PAID)}: nothing will ever book" in result.stdout
        document = json.loads(run(copied, "--json").stdout)
        assert (document["ok"], document["by_invariant"], document["orders"]) == (False, {"I9": 1}, ORDERS)
        assert document["list"][0]["order_id"] == order_id(PAID)

    def test_what_cannot_run_is_status_2(self, run, template, monkeypatch):
        monkeypatch.setenv("MARKET_DSN", template.dsn_for("market_app").replace(template.name, "absent"))
        result = run(None, "--json")
        assert result.exit_code == 2
        assert json.loads(result.stdout)["error"]["code"] == "market_unreadable"
        monkeypatch.delenv("MARKET_DSN")
        result = run(None)
        assert result.exit_code == 2
        assert "make up" in result.stderr


def test_running_work_has_its_grace(copied):
    damage(
        copied,
        POST.format(key=OPEN_KEY),
        LEGS.format(key=OPEN_KEY),
        "UPDATE finance.entries SET posted_at = now() - interval '10 seconds'",
        f"UPDATE market.effects SET due_at = now() - interval '10 seconds' WHERE {one(PAID)}",
    )
    assert violations(copied, grace_s=60) == set()
    assert violations(copied, grace_s=5) == {("I1", OPEN), ("I9", PAID)}
    assert timedelta(seconds=checking.GRACE_S) > timedelta(seconds=60), "above the longest backoff"
