"""Refund against dispute against second refund, on Postgres: 200 attempts at once, by several hosts."""

import asyncio
from collections import Counter

import psycopg
import pytest

from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from domain.errors import MarketplaceError
from domain.orders.booking import CLEARING
from domain.orders.commands import RequestRefund
from domain.orders.events import LicencesRestored, LicencesRevoked, LicencesSuspended
from domain.orders.ports import Idempotency, PaymentNews
from domain.orders.returned import DisputeStatus
from domain.orders.state import fold
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from tests.fakes.carts import NOW, cart, line, order_id
from tests.fakes.order_world import settle
from tests.fakes.orders import FakeBooks, FakeClock, FakeFulfiller, FakeGateway, FakeMonotonic

pytestmark = pytest.mark.integration

ATTEMPTS, HOSTS, TOTAL_MINOR = 200, 3, 3 * 1000
OID = order_id(1)
RELEASES = """
INSERT INTO market.skus VALUES ('sku_1', 'seller_1', 'logline', 'Logline', '');
INSERT INTO market.releases (release_id, sku_id, version, state, bundle_name, upload_key)
SELECT 'rel_' || n, 'sku_1', n || '.0.0', 'draft', 'logline.tar.gz', 'k' FROM generate_series(1, 3) AS n
"""


@pytest.fixture
async def store(market_database):
    with psycopg.connect(market_database.dsn, autocommit=True) as owner:
        owner.execute(RELEASES)
    pool = build_pool(market_database.dsn_for("market_app"), name="test", size_max=8)
    await pool.open(wait=True)
    yield PostgresOrderStore(pool)
    await pool.close()


def news(kind, number, amount_minor, status, object_id):
    return PaymentNews(
        f"evt_{number}", OID, kind, "pi_1", amount_minor, "USD", "", "",
        object_id=object_id, object_status=status,
    )  # fmt: skip


async def attempt(host, number):
    """One of 200: refunds of lines and amounts, refunds by hand, disputes that open, are won or lost."""
    kind = number % 5
    if kind < 2:
        lines = ((1 + number % 3, None if number % 2 else 100),)
        asked = RequestRefund(f"rfd_{number}", lines, None, "operator", "op_1", "why", "d", NOW)
        await host.refund(OID, asked)
    elif kind == 2:
        asked = RequestRefund(f"rfd_{number}", (), 700, "operator", "op_1", "why", "d", NOW)
        await host.refund(OID, asked)
    elif kind == 3:
        told = news("refund.created", number, 150, "pending" if number % 2 else "succeeded", f"re_{number}")
        await host.receive(told)
    else:
        status = ("needs_response", "won", "under_review")[number % 3]
        await host.receive(news("charge.dispute.updated", number, 400, status, f"dp_{number % 4}"))


async def test_200_attempts_on_one_order_never_return_more_than_was_captured(store, market_database):
    clock, gateway, books = FakeClock(), FakeGateway(), FakeBooks()
    hosts = [
        OrderHost(
            store,
            Effects(gateway, books, FakeFulfiller(), clock, FakeMonotonic()),
            clock,
            FakeMonotonic(),
        )
        for _ in range(HOSTS)
    ]
    lines = tuple(line(number, price_minor=1000, seller_id=f"seller_{number}") for number in (1, 2, 3))
    await hosts[0].place(cart(1, *lines), Idempotency("key-1", b"d" * 32))
    paid = PaymentNews("evt_paid", OID, "payment_intent.succeeded", "pi_1", TOTAL_MINOR, "USD", "", "")
    assert await hosts[0].receive(paid) == "applied"
    await settle(hosts[0])

    answers = await asyncio.gather(
        *(attempt(hosts[number % HOSTS], number) for number in range(ATTEMPTS)), return_exceptions=True
    )
    assert all(answer is None or isinstance(answer, MarketplaceError) for answer in answers), answers
    deadline = asyncio.get_running_loop().time() + 30
    sweeps = [Sweep(store, host) for host in hosts]
    while True:
        for host in hosts:
            await settle(host)
        with psycopg.connect(market_database.dsn, autocommit=True) as owner:
            owner.execute("UPDATE market.effects SET due_at = now()")
            owner.execute("UPDATE market.inbox SET due_at = now() WHERE processed_at IS NULL")
            left = owner.execute("SELECT count(*) FROM market.effects WHERE dead_at IS NULL").fetchone()[0]
        if not left:
            break
        assert asyncio.get_running_loop().time() < deadline, f"{left} effects are left"
        await sweeps[0].once()

    stored = await store.load(OID)
    order = fold(OID, stored.events)
    assert 0 < order.returned_minor <= TOTAL_MINOR
    assert order.refunds
    assert order.disputes
    with psycopg.connect(market_database.dsn, autocommit=True) as owner:
        row = owner.execute("SELECT seq, status, returned_minor FROM market.orders").fetchone()
        licences = dict(owner.execute("SELECT line_no, status FROM market.licences").fetchall())
    assert row == (order.seq, order.status, order.returned_minor)
    assert len(stored.events) == order.seq
    accounts = Counter()
    for postings in books.entries.values():
        assert sum(amount for _, amount in postings) == 0
        accounts.update(dict(postings))
    assert accounts[CLEARING] == TOTAL_MINOR - order.returned_minor
    assert sum(accounts.values()) == 0
    check_licences(order, stored.events, licences)


def check_licences(order, events, licences):
    standing = dict.fromkeys((1, 2, 3), "active")
    words = {LicencesSuspended: "suspended", LicencesRestored: "active", LicencesRevoked: "revoked"}
    for event in events:
        if type(event) in words:
            for line_no in event.line_nos:
                assert standing[line_no] != "revoked", "revoked is for ever"
                standing[line_no] = words[type(event)]
    assert licences == standing
    open_now = any(one.status is DisputeStatus.OPEN for one in order.disputes)
    for line_no, word in standing.items():
        if open_now:
            assert word in ("suspended", "revoked"), line_no
