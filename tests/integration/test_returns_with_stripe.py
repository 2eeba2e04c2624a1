"""Refunds and disputes as Stripe's simulator sends them, over HTTP; with real Postgres and Finance."""

import asyncio
import secrets
import time
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from finance_process import TOKEN, FinanceProcess

from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from cluster.bench.order_life import order_id_at, place_command
from cluster.local.services import STRIPE_EVENTS
from domain.orders.commands import PrepareEvidence
from domain.orders.evidence_texts import compose
from domain.orders.ports import Idempotency
from domain.orders.state import fold
from serve_app.app import build_app
from serve_app.ports import IngressPorts, IngressSettings
from storage.finance_client import FinanceClient
from storage.market.access import AccessTokens
from storage.market.commands import Commands
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.stripe_gateway import StripeGateway
from tests.fakes.market_orders import FakeDirectory
from tests.fakes.orders import FakeFulfiller
from tests.fakes.stripe_process import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    StripeProcess,
    free_port,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WITHIN_S = 20.0


def utc_now():
    return datetime.now(UTC)


@pytest.fixture
def database(whole_database):
    return whole_database


@pytest.fixture
def finance(database, tmp_path):
    process = FinanceProcess(database.dsn_for("finance_app"), tmp_path / "finance.log").start()
    yield process
    process.stop()


@pytest.fixture
async def market(database, finance, tmp_path):
    """An order host behind the ingress, which hears of Stripe by its webhooks."""
    port = free_port()
    simulator = StripeProcess(
        tmp_path / "stripe", f"http://127.0.0.1:{port}/v1/webhooks/stripe", ",".join(STRIPE_EVENTS)
    ).start()
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=8)
    await pool.open(wait=True)
    store = PostgresOrderStore(pool)
    gateway = StripeGateway(SECRET_KEY, simulator.url, "http://market.test")
    books = FinanceClient(finance.url, TOKEN)
    host = OrderHost(
        store, Effects(gateway, books, FakeFulfiller(), utc_now, time.monotonic), utc_now, time.monotonic
    )
    sweep = Sweep(store, host)
    sweep.start()
    used: dict[str, Any] = {
        "orders": FakeDirectory(host),
        "reads": store,
        "access": AccessTokens(pool),
        "commands": Commands(pool),
        "checks": {},
        "clock": utc_now,
        "new_id": lambda prefix: prefix,
        "settings": IngressSettings("http://market.test", "pk_test", (WEBHOOK_SECRET,)),
    }
    unused = {one.name: SimpleNamespace() for one in fields(IngressPorts) if one.default is MISSING}
    ports = IngressPorts(**unused | used)
    server = uvicorn.Server(uvicorn.Config(build_app(ports), port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    with simulator.http() as controls:
        yield Market(store, host, database, controls)
    server.should_exit = True
    await serving
    await sweep.stop()
    await host.close()
    await books.close()
    await gateway.close()
    await pool.close()
    simulator.stop()


class Market:
    """What tests do: buy, look at the order, and be Stripe's dashboard and a bank."""

    def __init__(self, store, host, database, controls):
        self.store, self.host, self._database, self._controls = store, host, database, controls

    async def buy(self, card="visa"):
        order_id = order_id_at(int(time.time() * 1_000))
        command = place_command(order_id, "usr_1", utc_now())
        placed = await self.host.place(command, Idempotency(secrets.token_hex(8), b"d" * 32))
        form = {
            "client_secret": placed.payment_handle["client_secret"],
            "payment_method": f"pm_card_{card}",
        }
        await self._ask("post", f"/v1/payment_intents/{placed.order.payment_intent_id}/confirm", **form)
        return order_id

    async def stripe(self, path, **form):
        return await self._ask("post", f"/_sim{path}", **form)

    async def dial(self, **dials):
        answer = await asyncio.to_thread(self._controls.post, "/_sim/dials", json=dials)
        assert answer.status_code == httpx.codes.OK, answer.text

    async def charge_of(self, order):
        intent = await self._ask("get", f"/v1/payment_intents/{order.payment_intent_id}")
        return intent["latest_charge"]

    async def dispute(self, dispute_id):
        return await self._ask("get", f"/v1/disputes/{dispute_id}")

    async def _ask(self, method, path, **form):
        options = {"data": form} if method == "post" else {}
        answer = await asyncio.to_thread(self._controls.request, method.upper(), path, **options)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    async def read(self, order_id):
        return fold(order_id, (await self.store.load(order_id)).events)

    async def until(self, order_id, wanted):
        deadline = time.monotonic() + WITHIN_S
        while not wanted(order := await self.read(order_id)):
            assert time.monotonic() < deadline, order
            await asyncio.sleep(0.05)
        return order

    async def delivered(self, card="visa"):
        return await self.until(await self.buy(card), lambda order: order.stage == "delivered")

    def licences(self, order_id):
        with psycopg.connect(self._database.dsn) as owner:
            found = owner.execute(
                "SELECT status FROM market.licences WHERE order_id = %s ORDER BY line_no", (order_id,)
            )
            return [row[0] for row in found]

    def cleared_minor(self):
        """What Finance says that Stripe holds, and what Stripe says, less the fees of payments."""
        with psycopg.connect(self._database.dsn) as owner:
            return owner.execute(
                "SELECT coalesce(sum(amount_minor), 0)::bigint FROM finance.postings"
                " WHERE account = 'stripe:clearing'"
            ).fetchone()[0]

    async def without_fees_minor(self):
        """What Stripe's balance would be without fees of payments; dispute fees are booked by orders."""
        moved = (await self._ask("get", "/v1/balance_transactions?limit=100"))["data"]
        return sum(one["amount"] - (one["fee"] if one["type"] != "charge" else 0) for one in moved)

    async def settled(self):
        deadline = time.monotonic() + WITHIN_S
        while self.cleared_minor() != await self.without_fees_minor():
            assert time.monotonic() < deadline, (self.cleared_minor(), await self.without_fees_minor())
            await asyncio.sleep(0.1)


async def test_refunds_in_the_dashboard_go_from_part_to_whole(market):
    order = await market.delivered()
    charge = await market.charge_of(order)
    await market.stripe("/refunds", charge=charge, amount=500)
    part = await market.until(order.order_id, lambda one: one.refunded_minor == 500)
    assert (part.status, market.licences(order.order_id)) == ("delivered", ["active"])
    await market.stripe("/refunds", charge=charge)
    await market.until(order.order_id, lambda one: one.status == "refunded")
    assert market.licences(order.order_id) == ["revoked"]
    await market.settled()


@pytest.mark.parametrize(("card", "end"), [("pendingRefund", "succeeded"), ("refundFail", "failed")])
async def test_a_refund_takes_the_course_of_its_card(market, card, end):
    order = await market.delivered(card)
    await market.stripe("/refunds", charge=await market.charge_of(order))
    await market.until(order.order_id, lambda one: [r.status for r in one.refunds] == [end])
    # One that failed after it had succeeded leaves the licence revoked: that is for good.
    assert market.licences(order.order_id) == ["revoked"]
    await market.settled()


async def test_a_dispute_is_answered_once_and_won(market):
    order_id = await market.buy("createDispute")
    order = await market.until(
        order_id, lambda one: one.status == "disputed" and one.disputes[0].fee_minor == 1_500
    )
    dispute = order.disputes[0]
    assert dispute.due_by is not None
    for number, submit in ((1, False), (2, True)):
        texts = compose(order, (await market.store.load(order_id)).events, "He has it.")
        command = PrepareEvidence(dispute.dispute_id, f"evd_{number}", texts, submit, "op", "d", utc_now())
        await market.host.prepare_evidence(order_id, command)
        await market.until(
            order_id, lambda one, n=number: one.disputes[0].evidence[n - 1].sent_at is not None
        )
        at_stripe = await market.dispute(dispute.dispute_id)
        assert at_stripe["evidence_details"]["submission_count"] == int(submit)
        assert order_id in at_stripe["evidence"]["uncategorized_text"]
    await market.until(order_id, lambda one: one.disputes[0].stage == "under_review")
    await market.stripe(f"/disputes/{dispute.dispute_id}/decide", outcome="won")
    await market.until(order_id, lambda one: one.status == "dispute_won")
    assert market.licences(order_id) == ["active"]
    await market.settled()


async def test_a_disputes_fee_is_booked_as_stripe_takes_it_raises_it_and_gives_it_back(market):
    await market.dial(dispute_fee_returned=True)
    order = await market.delivered()
    opened = await market.stripe("/disputes", charge=await market.charge_of(order))
    await market.until(order.order_id, lambda one: one.disputes and one.disputes[0].fee_minor == 1_500)
    await market.stripe(f"/disputes/{opened['id']}/fee", amount=400)
    await market.until(order.order_id, lambda one: one.disputes[0].fee_minor == 1_900)
    await market.settled()
    await market.stripe(f"/disputes/{opened['id']}/decide", outcome="won")
    won = await market.until(
        order.order_id, lambda one: one.status == "dispute_won" and not one.disputes[0].fee_minor
    )
    await market.settled()
    await market.stripe(f"/disputes/{opened['id']}/fee", amount=70)
    await market.until(order.order_id, lambda one: one.disputes[0].fee_minor == 70)
    await market.settled()
    assert len(won.disputes[0].fees) == 3


async def test_an_inquiry_does_nothing_until_it_grows_and_lost_may_still_be_won(market):
    order = await market.delivered()
    opened = await market.stripe("/disputes", charge=await market.charge_of(order), inquiry="true")
    await asyncio.sleep(0.5)
    assert (await market.read(order.order_id)).disputes == ()
    await market.stripe(f"/disputes/{opened['id']}/decide", outcome="needs_response")
    await market.until(order.order_id, lambda one: one.status == "disputed")
    assert market.licences(order.order_id) == ["suspended"]
    await market.stripe(f"/disputes/{opened['id']}/decide", outcome="lost")
    await market.until(order.order_id, lambda one: one.status == "dispute_lost")
    assert market.licences(order.order_id) == ["revoked"]
    await market.settled()
    await market.stripe(f"/disputes/{opened['id']}/decide", outcome="won")
    await market.until(order.order_id, lambda one: one.disputes[0].status == "won")
    assert market.licences(order.order_id) == ["revoked"]
    await market.settled()
