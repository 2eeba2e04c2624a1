"""A reconciliation over real Postgres, Finance and Stripe's simulator: finds what is planted, mends it."""

import asyncio
import itertools
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from finance_process import TOKEN, FinanceProcess

from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from actors.reconciliation.run import Reconciler, Window
from cluster import checking
from cluster.bench.reconcile_plants import PLANTS, Planter
from domain.orders.booking import capture_entry_key
from domain.orders.commands import NoticeDispute
from domain.reconciliation.cases import DISMISSED_FOR
from domain.reconciliation.facts import Kind
from storage import migrations
from storage.finance_client import FinanceClient
from storage.market.cases import CaseDecision, Cases
from storage.market.commands import Write
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.reconciliation.ledger import Ledger
from storage.reconciliation.market import Market
from storage.reconciliation.stripe_moves import StripeMoves
from tests.fakes.order_world import settle
from tests.fakes.orders import FakeClock, FakeFulfiller, FakeGateway, FakeMonotonic
from tests.fakes.stripe_process import SECRET_KEY, StripeProcess

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NO_GRACE = timedelta(0)
# The migration since which a case remembers its dismissal.
MONEY = next(one.number for one in migrations.load("storage.market") if one.name == "money")
# What a run mends by itself, once it is told to.
MENDED = {
    Kind.CAPTURE_NOT_RECORDED,
    Kind.NOT_BOOKED,
    Kind.REFUND_NOT_RECORDED,
    Kind.REFUND_DIFFERS,
    Kind.DISPUTE_NOT_RECORDED,
    Kind.DISPUTE_DIFFERS,
}


@pytest.fixture
def database(whole_database):
    return whole_database


@pytest.fixture
def finance(database, tmp_path):
    process = FinanceProcess(database.dsn_for("finance_app"), tmp_path / "finance.log").start()
    yield process
    process.stop()


@pytest.fixture
def simulator(tmp_path):
    # It has an endpoint, which hears of nothing: no webhook comes.
    process = StripeProcess(tmp_path / "stripe", "http://127.0.0.1:9/webhooks", "account.updated").start()
    yield process
    process.stop()


@pytest.fixture
async def store(database, finance):
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield PostgresOrderStore(pool)
    await pool.close()


@pytest.fixture
def planter(store, database, finance, simulator):
    with (
        finance.client() as client,
        closing(Planter(store, database.dsn, client, simulator.url, SECRET_KEY)) as made,
    ):
        yield made


@pytest.fixture
async def cases_of(database):
    pool = build_pool(database.dsn_for("market_app"), name="cases", size_max=2)
    await pool.open(wait=True)
    yield DecidedCases(pool)
    await pool.close()


@pytest.fixture
def reconcile(database, finance, simulator):
    """Run one over the last days, in a thread as in life; returns its report."""

    def once(apply, look_again, old):
        with (
            Market(database.dsn_for("market_app")) as market,
            Ledger(finance.url, TOKEN) as ledger,
            StripeMoves(simulator.url, SECRET_KEY) as moves,
        ):
            reconciler = Reconciler(market, ledger, moves)
            if look_again:
                return reconciler.look_again(apply=apply, grace=NO_GRACE)
            now = datetime.now(UTC) - timedelta(days=20 if old else 0)
            window = Window(now - timedelta(days=2), now + timedelta(days=1))
            return reconciler.run(window, apply=apply, grace=NO_GRACE)

    async def run(*, apply=False, look_again=False, old=False):
        return await asyncio.to_thread(once, apply, look_again, old)

    return run


def kinds(report):
    return Counter(one.kind for one in report.differences)


def cases(database):
    with psycopg.connect(database.dsn) as owner:
        return owner.execute(
            "SELECT case_id, kind, status, changed_at FROM market.reconciliation_cases ORDER BY case_id"
        ).fetchall()


async def test_each_planted_difference_is_found_and_a_second_run_changes_nothing(
    planter, reconcile, database
):
    for _ in range(3):
        await planter.sold()
    for make, _ in PLANTS:
        await make(planter)
    first = await reconcile()
    assert kinds(first) == Counter(kind for _, kind in PLANTS)
    assert (first.opened, first.changed, first.complete) == (len(PLANTS), 0, True)
    kept = cases(database)
    second = await reconcile()
    assert kinds(second) == kinds(first)
    assert (second.opened, second.changed, second.resolved, second.fees_booked) == (0, 0, 0, 0)
    assert cases(database) == kept
    assert second.markdown().count("- **") == len(PLANTS)


async def test_what_the_others_say_is_applied_through_the_ordinary_path(
    planter, reconcile, database, store, finance, simulator
):
    for make, kind in PLANTS:
        if kind in MENDED:
            await make(planter)
    found = await reconcile(apply=True)
    mended = sum(kind in MENDED for _, kind in PLANTS)
    assert (found.opened, found.applied) == (mended, mended)
    client = FinanceClient(finance.url, TOKEN)
    clock = FakeClock()
    effects = Effects(FakeGateway(), client, FakeFulfiller(), clock, FakeMonotonic())
    host = OrderHost(store, effects, clock, FakeMonotonic())
    sweep = Sweep(store, host)
    async with asyncio.timeout(30):
        while any(status == "open" for _, _, status, _ in cases(database)):
            await sweep.once()
            await settle(host)
            await reconcile(look_again=True)
    await client.close()
    again = await reconcile(apply=True)
    assert not again.differences
    assert not again.applied
    assert again.finance_minor == again.stripe_minor, again.markdown()
    assert await check_money(database, simulator) == []


async def check_money(database, simulator):
    """What ``marketplace check`` says of money (I1); the planted documents are no real ones."""
    found = []
    where = checking.Sources(
        database.dsn_for("market_app"), database.dsn_for("finance_app"), simulator.url, SECRET_KEY
    )
    report = await asyncio.to_thread(checking.run, where, grace_s=0.0, on_violation=found.append)
    assert report.balances_compared
    return [one for one in found if one.invariant == "I1"]


async def test_a_case_closes_when_the_difference_is_gone_and_opens_again(
    planter, reconcile, database, finance
):
    order = await planter.sold()
    planter.pay(order.order_id)
    (twice,) = (await reconcile()).differences
    assert twice.kind is Kind.CAPTURED_TWICE
    planter.stripe.v1.refunds.create({"charge": twice.subject})
    assert (await reconcile(look_again=True)).resolved == 1
    assert [status for _, _, status, _ in cases(database)] == ["resolved"]
    planter.control(f"/refunds/{planter.stripe.v1.refunds.list({'charge': twice.subject}).data[0].id}/fail")
    report = await reconcile()
    assert (report.opened, kinds(report)) == (1, Counter([Kind.CAPTURED_TWICE]))
    assert report.finance_minor["USD"] == report.stripe_minor["USD"] - order.total_minor


async def test_an_operator_has_an_entry_reversed_and_rebooked(planter, reconcile, database, simulator):
    for make, kind in PLANTS:
        if kind in (Kind.BOOKED_TWICE, Kind.BOOKED_DIFFERENTLY, Kind.FEE_DIFFERS, Kind.BOOKED_WITHOUT_ORDER):
            await make(planter)
    assert not (await reconcile(apply=True)).applied, "nobody asked"
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        asked = owner.execute(
            "UPDATE market.reconciliation_cases SET apply_requested_by = 'op', apply_requested_at = now()"
        ).rowcount
    assert (await reconcile(look_again=True)).applied == asked
    again = await reconcile()
    assert not again.differences
    assert again.resolved == asked
    assert again.finance_minor == again.stripe_minor, again.markdown()
    assert await check_money(database, simulator) == []


async def test_what_an_operator_has_accepted_is_neither_told_nor_mended(planter, reconcile, database):
    await next(make for make, kind in PLANTS if kind is Kind.NOT_BOOKED)(planter)
    assert (await reconcile()).opened == 1
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute(
            "UPDATE market.reconciliation_cases"
            " SET status = 'dismissed', closed_at = now(), closed_by = 'op', reason = 'known',"
            ' dismissal = \'{"action_id": "act_1"}\''
        )
    again = await reconcile(apply=True)
    assert (again.differences, again.applied, again.dismissed) == ([], 0, 1)
    assert [status for _, _, status, _ in cases(database)] == ["dismissed"]


async def test_what_was_accepted_comes_back_after_it_was_gone_and_after_a_time(
    planter, reconcile, database, cases_of
):
    """Looked for in every run, also in one whose window has nothing of it."""
    endpoints = planter.stripe.v1.webhook_endpoints
    made = endpoints.create({"url": "http://127.0.0.1:9/other", "enabled_events": ["charge.succeeded"]})
    endpoints.update(made.id, {"disabled": True})
    order = await planter.sold_unbooked()
    assert (await reconcile()).opened == 2
    first = await cases_of.dismiss()
    again = await reconcile(old=True)
    assert (again.dismissed, again.opened, again.changed) == (2, 0, 0)
    assert await cases_of.states() == [("dismissed", False)] * 2
    planter.book(order)
    endpoints.update(made.id, {"disabled": False})
    assert (await reconcile(old=True)).dismissed == 0
    assert await cases_of.states() == [("dismissed", True)] * 2
    planter.reverse(capture_entry_key(order.order_id))
    endpoints.update(made.id, {"disabled": True})
    back = await reconcile()
    assert (kinds(back).total(), back.opened, back.dismissed) == (2, 2, 0)
    assert {one.case_id: one.dismissal["action_id"] for one in await cases_of.all()} == first
    assert await cases_of.states() == [("open", False)] * 2
    await cases_of.dismiss()
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute("UPDATE market.reconciliation_cases SET closed_at = now() - %s", (DISMISSED_FOR,))
    assert (await reconcile(old=True)).opened == 2
    assert await cases_of.states() == [("open", False)] * 2


async def test_an_order_that_this_build_cannot_read_keeps_its_case_and_gets_no_other(
    planter, reconcile, database, cases_of
):
    """A newer build has moved it: neither is the difference gone, nor is the order unknown."""
    order = await planter.sold_unbooked()
    assert (await reconcile()).opened == 1
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
            " SELECT order_id, seq + 1, 'evt_newer', 'order.newer', '{}' FROM market.orders"
            " WHERE order_id = %s",
            (order.order_id,),
        )
    for again in (await reconcile(), await reconcile(look_again=True)):
        assert (again.opened, again.resolved, again.differences) == (0, 0, [])
    assert await cases_of.states() == [("open", False)]


class DecidedCases:
    """Cases as operators decide about them."""

    def __init__(self, pool):
        self._cases = Cases(pool)
        self._numbers = itertools.count()

    async def all(self):
        return await self._cases.page(None, None, None, 100)

    async def states(self):
        return [(one.status, one.gone_at is not None) for one in await self.all()]

    async def dismiss(self):
        """Dismiss all that are open; returns the actions by case."""
        actions = {}
        for case in await self._cases.page("open", None, None, 100):
            number = next(self._numbers)
            actions[case.case_id] = f"act_{number}"
            decision = CaseDecision("close", case.case_id, f"act_{number}", "Known.")
            await self._cases.decide(Write("op_1", f"key-{number}", b"d" * 32), decision, {})
        return actions


def test_cases_that_were_dismissed_before_remember_by_whom(postgres_server, monkeypatch):
    database = postgres_server.create_database()
    earlier = [one for one in migrations.load("storage.market") if one.number < MONEY]
    try:
        with monkeypatch.context() as before:
            before.setattr(migrations, "load", lambda _package: earlier)
            migrations.apply(database.dsn, "storage.market", "market")
        with psycopg.connect(database.dsn, autocommit=True) as owner:
            owner.execute(
                "INSERT INTO market.operator_actions (action_id, principal_id, action, subject, reason)"
                " VALUES ('act_1', 'op_1', 'case.close', 'cas_1', 'Known.')"
            )
            owner.execute(
                "INSERT INTO market.reconciliation_cases (case_id, kind, order_id, subject, happened_at,"
                " currency, detail, evidence, status, closed_at, closed_by, reason)"
                " VALUES ('cas_1', 'not_booked', '', 's', now(), 'USD', 'd', '{}', 'dismissed', now(),"
                " 'op_1', 'Known.')"
            )
        migrations.apply(database.dsn, "storage.market", "market")
        with psycopg.connect(database.dsn) as owner:
            ((dismissal, closed_at),) = owner.execute(
                "SELECT dismissal, closed_at FROM market.reconciliation_cases"
            ).fetchall()
        assert (dismissal["action_id"], dismissal["by"], dismissal["reason"]) == ("act_1", "op_1", "Known.")
        assert datetime.fromisoformat(dismissal["at"]) == closed_at
    finally:
        postgres_server.drop_database(database.name)


async def test_webhooks_that_do_not_arrive_are_cases(planter, reconcile, monkeypatch):
    endpoints = planter.stripe.v1.webhook_endpoints
    made = endpoints.create({"url": "http://127.0.0.1:9/other", "enabled_events": ["charge.succeeded"]})
    await planter.sold()
    assert not (await reconcile()).differences, "an event is given some minutes"
    monkeypatch.setattr("actors.reconciliation.run.GRACE", -timedelta(seconds=2))
    assert kinds(await reconcile()) == Counter([Kind.EVENTS_UNDELIVERED])
    endpoints.update(made.id, {"disabled": True})
    switched_off = await reconcile()
    assert kinds(switched_off) == Counter([Kind.EVENTS_UNDELIVERED, Kind.WEBHOOK_ENDPOINT_DISABLED])
    endpoints.delete(made.id)
    monkeypatch.undo()
    assert (await reconcile()).resolved == 2


async def test_another_applications_payments_are_left_alone(planter, reconcile):
    intent = planter.stripe.v1.payment_intents.create(
        {"amount": 700, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa",
         "payment_method_types": ["card"]}
    )  # fmt: skip
    planter.control("/refunds", payment_intent=intent.id, amount=100)
    report = await reconcile()
    assert (report.foreign_charges, report.differences) == (1, [])


async def test_disputes_of_disputed_orders_are_listed_newest_first(planter, store):
    def notice(order, number, status):
        intent, at = order.payment_intent_id, datetime.now(UTC)
        return NoticeDispute(f"dp_{number}", intent, order.total_minor, "USD", status, "fraudulent", (), at)

    for number in range(4):
        order = await planter.sold()
        order = await planter.go_on(order, notice(order, number, "needs_response"))
    await planter.go_on(order, notice(order, 3, "won"))
    first = await store.disputed(None, 2)
    assert [dispute_id for _, dispute_id, _ in first] == ["dp_2", "dp_1"]
    order_id, dispute_id, at = first[-1]
    rest = await store.disputed((at, order_id, dispute_id), 2)
    assert [dispute_id for _, dispute_id, _ in rest] == ["dp_0"]


async def test_what_stripe_never_heard_of_is_nothing_and_no_failure(planter, reconcile):
    order = await planter.sold()
    legs = [("stripe:fees", 5), ("stripe:clearing", -5)]
    planter.post((f"{order.order_id}:fee:ch_never", legs), at=datetime.now(UTC))
    assert kinds(await reconcile()) == Counter([Kind.FEE_DIFFERS])


async def test_finance_away_is_told_and_nothing_is_kept(planter, reconcile, finance, database):
    await planter.sold()
    finance.stop()
    with pytest.raises(Exception, match="finance_unreadable") as failure:
        await reconcile()
    assert failure.type.__name__ == "DependencyError"
    assert not cases(database)
