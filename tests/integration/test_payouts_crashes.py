"""A runner that dies at any step: each payee is paid once, and the books agree with Stripe."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from finance_process import TOKEN
from payouts_world import Bomb, Killed, World, prepare, stop, week, within

from actors.reconciliation.run import Reconciler, Window
from domain.payouts.invariants import check_payouts
from domain.payouts.state import WAIT_MAX
from domain.reconciliation.facts import Kind
from domain.reconciliation.transfers import SentTransfer, compare_transfers
from storage.audit.pages import OrderPages
from storage.reconciliation.ledger import Ledger
from storage.reconciliation.market import Market
from storage.reconciliation.stripe_moves import StripeMoves
from tests.fakes.stripe_process import SECRET_KEY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

_WEEKS = itertools.count(1)
AMOUNT = 12_345


@pytest.fixture(scope="module")
def parts(module_whole_database, tmp_path_factory):
    processes = prepare(module_whole_database, tmp_path_factory.mktemp("payouts"))
    yield module_whole_database, *processes
    stop(processes)


@pytest.fixture
async def world(parts):
    opened = await World(*parts).open()
    yield opened
    await opened.close()


async def approved(world, payees):
    """A batch of some new payees in a period of its own; returns (period, batch, payees)."""
    number = next(_WEEKS)
    period = week(number)
    names = [f"payee_{number}_{one}" for one in range(payees)]
    for name in names:
        world.book(name, AMOUNT, within(period))
        await world.payee(name)
    batch_id = await world.draft(period)
    await world.approve(batch_id)
    return period, batch_id, names


async def killed_at(world, moment):
    """Run until the bomb explodes or all is done; returns whether it exploded."""
    bomb = Bomb(moment)
    runner = world.runner(bomb)
    try:
        while await runner.once():
            pass
    except Killed:
        return True
    await asyncio.sleep(0)
    return bomb.exploded


async def test_killed_at_every_step_each_payee_is_paid_exactly_once(world):
    for moment in itertools.count(1):
        period, batch_id, (payee,) = await approved(world, 1)
        exploded = await killed_at(world, moment)
        assert await world.finish(batch_id) == {"settled": 1}, moment
        (transfer,) = world.transfers_of(period)
        assert (transfer.amount, transfer.metadata["payout"]) == (AMOUNT, f"payout:{payee}:USD:{period}")
        assert world.owed(f"seller:{payee}:payable") == 0
        assert world.owed("payouts:in_transit") == 0
        if not exploded:
            break
    assert moment > 25, "every call of every step was killed, before and after it"


async def test_killed_at_every_step_of_a_refusal_nothing_is_sent_and_nothing_stays_booked(world):
    """Stripe's balance does not cover it: it waits, and after the bound it fails."""
    for moment in itertools.count(1):
        real_balances(world, wanted=True)
        period, batch_id, (payee,) = await approved(world, 1)
        exploded = await killed_at(world, moment)
        await world.runner().once()
        world.sql("UPDATE market.payouts SET due_at = now() WHERE due_at IS NOT NULL")
        await world.runner().once()
        assert (await world.batches.progress(batch_id))[0] == {"awaiting_balance": 1}, moment
        assert world.transfers_of(period) == []
        assert world.owed(f"seller:{payee}:payable") == AMOUNT
        assert world.owed("payouts:in_transit") == 0
        with world.later(WAIT_MAX):
            assert await world.finish(batch_id) == {"failed": 1}, moment
        world.book(payee, -AMOUNT, within(period))  # or each later batch would pay it too
        if not exploded:
            break
    real_balances(world, wanted=False)
    ((failure,),) = world.sql(
        "SELECT data ->> 'code' FROM market.payout_events WHERE kind = 'payout.failed'"
        " ORDER BY at DESC LIMIT 1"
    )
    assert failure == "balance_insufficient"
    assert await check_payouts_of(world) == []
    assert moment > 25


async def test_killed_at_every_step_of_waiting_it_is_paid_once_there_is_a_balance(world):
    """A refund meanwhile is not paid out; a transfer of an earlier try cannot come back."""
    for moment in itertools.count(1):
        real_balances(world, wanted=True)
        period, batch_id, (payee,) = await approved(world, 1)
        await world.runner().once()
        assert (await world.batches.progress(batch_id))[0] == {"awaiting_balance": 1}
        assert not await world.runner().once(), "it is left alone for a while"
        world.book(payee, -345, within(period))
        real_balances(world, wanted=False)
        world.sql("UPDATE market.payouts SET due_at = now() WHERE status = 'awaiting_balance'")
        exploded = await killed_at(world, moment)
        assert await world.finish(batch_id) == {"settled": 1}, moment
        (transfer,) = world.transfers_of(period)
        assert (transfer.amount, transfer.metadata["payout"]) == (12_000, f"payout:{payee}:USD:{period}")
        assert world.owed(f"seller:{payee}:payable") == 0
        assert world.owed("payouts:in_transit") == 0
        if not exploded:
            break
    assert await check_payouts_of(world) == []
    assert moment > 20


def real_balances(world, *, wanted):
    with world.simulator.http() as control:
        control.post("/_sim/dials", json={"real_balances": wanted}).raise_for_status()


async def check_payouts_of(world):
    """I7 over everything that this module has done so far, but for what was booked by hand."""
    with OrderPages(world.database.dsn, world.database.dsn) as reader:
        entries = [one for one in reader.payout_entries() if one.entry_key.startswith("payout:")]
        return list(check_payouts(reader.payouts(100), entries, world.now()))


async def test_killed_at_every_step_of_a_return_each_reversal_is_booked_back_once(world):
    """Both reversals are told at once, before the first is looked at."""
    for moment in itertools.count(1):
        period, batch_id, (payee,) = await approved(world, 1)
        assert await world.finish(batch_id) == {"settled": 1}
        (transfer,) = world.transfers_of(period)
        for amount in (345, 12_000):
            world.stripe.v1.transfers.reversals.create(transfer.id, {"amount": amount})
            assert await world.payouts.nudge(transfer.metadata["payout_id"])
        exploded = await killed_at(world, moment)
        assert await world.finish(batch_id) == {"returned": 1}, moment
        assert world.owed(f"seller:{payee}:payable") == AMOUNT
        assert world.owed("payouts:in_transit") == 0
        world.book(payee, -AMOUNT, within(period))
        if not exploded:
            break
    assert moment > 15


async def test_several_payees_die_together_and_none_is_paid_twice(world):
    for moment in range(3, 80, 7):
        period, batch_id, names = await approved(world, 3)
        assert await killed_at(world, moment)
        assert await world.finish(batch_id) == {"settled": 3}
        sent = sorted(one.metadata["payout"] for one in world.transfers_of(period))
        assert sent == sorted(f"payout:{name}:USD:{period}" for name in names)
        assert [world.owed(f"seller:{name}:payable") for name in names] == [0, 0, 0]


async def test_runners_at_once_without_leases_pay_each_payee_once(world):
    """No lease keeps them apart: keys and the fence alone."""
    period, batch_id, names = await approved(world, 8)

    async def work():
        runner = world.runner(lease_s=0.0)
        while await runner.once():
            pass

    await asyncio.gather(*(work() for _ in range(4)))
    assert await world.finish(batch_id) == {"settled": 8}
    assert sorted(one.metadata["payout"] for one in world.transfers_of(period)) == sorted(
        f"payout:{name}:USD:{period}" for name in names
    )
    assert [world.owed(f"seller:{name}:payable") for name in names] == [0] * 8
    assert world.owed("payouts:in_transit") == 0
    steps = world.sql(
        "SELECT DISTINCT (SELECT count(*) FROM market.payout_events e WHERE e.payout_id = p.payout_id)"
        " FROM market.payouts p WHERE batch_id = %s",
        batch_id,
    )
    assert steps == [(5,)], "each step of each payout was recorded once"


@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/v1/transfers", "method": "POST", "when": "after", "drop": True, "times": 2},
        {"path": "/v1/transfers", "method": "POST", "when": "after", "status": 500, "times": 2},
        {"path": "/v1/transfers", "status": 429, "code": "lock_timeout", "times": 3},
        {"path_prefix": "/v1/transfers", "when": "before", "drop": True, "times": 4},
    ],
)
async def test_stripe_that_fails_is_asked_again_and_pays_once(world, fault):
    period, batch_id, names = await approved(world, 4)
    with world.simulator.http() as control:
        control.post("/_sim/faults", json=fault).raise_for_status()
    assert await world.finish(batch_id) == {"settled": 4}
    assert len(world.transfers_of(period)) == len(names)
    assert [world.owed(f"seller:{name}:payable") for name in names] == [0] * 4


async def test_reconciliation_finds_every_transfer_explained_and_a_foreign_one_not(world):
    _, batch_id, names = await approved(world, 2)
    assert await world.finish(batch_id) == {"settled": 2}
    stripe = world.stripe
    foreign = stripe.v1.transfers.create(
        {"amount": 5, "currency": "usd", "destination": stripe.v1.accounts.create({"type": "express"}).id}
    )
    sent = {
        one.id: SentTransfer(
            one.id,
            "",
            one.amount,
            one.currency.upper(),
            datetime.fromtimestamp(one.created, UTC),
        )
        for one in stripe.v1.transfers.list({"limit": 100}).auto_paging_iter()
    }
    with Market(world.database.dsn_for("market_app")) as market:
        now = market.now() + timedelta(seconds=2)
        payouts = {one.transfer_id: one for one in market.sent(now - timedelta(hours=1), now)}
        assert market.sent(now, now + timedelta(hours=1)) == []
    found = list(compare_transfers(sent.values(), payouts))
    assert [(one.kind, one.subject) for one in found] == [(Kind.TRANSFER_WITHOUT_PAYOUT, foreign.id)]
    assert len(payouts) >= len(names)


async def test_a_reversal_whose_webhook_never_came_is_found_and_booked_back(world):
    """And the case closes; so does that of a transfer that its payout had not recorded yet."""
    _, batch_id, (payee,) = await approved(world, 1)
    assert await world.finish(batch_id) == {"settled": 1}
    ((transfer_id,),) = world.sql(
        "SELECT e.data ->> 'transfer_id' FROM market.payout_events e JOIN market.payouts USING (payout_id)"
        " WHERE batch_id = %s AND kind = 'payout.sent'",
        batch_id,
    )
    reversal = world.stripe.v1.transfers.reversals.create(transfer_id, {"amount": 345})
    found = await asyncio.to_thread(reconciled, world, apply=False)
    assert [(one.kind, one.actual_minor) for one in found if one.subject == reversal.id] == [
        (Kind.TRANSFER_DIFFERS, 345)
    ]
    assert await world.finish(batch_id) == {"settled": 1}
    assert world.owed(f"seller:{payee}:payable") == 0, "without --apply nothing but cases is written"
    await asyncio.to_thread(reconciled, world, apply=True)
    await world.finish(batch_id)
    assert world.owed(f"seller:{payee}:payable") == 345
    assert not [
        one for one in await asyncio.to_thread(reconciled, world, apply=True) if one.subject == reversal.id
    ]
    status = "SELECT status FROM market.reconciliation_cases WHERE subject = %s"
    assert world.sql(status, reversal.id) == [("resolved",)]
    world.sql(
        "INSERT INTO market.reconciliation_cases (case_id, kind, order_id, subject, happened_at, currency,"
        " detail, evidence) VALUES (%s, 'transfer_without_payout', '', %s, now(), 'USD', 'Late.', '{}')",
        world.new_id("cas"),
        transfer_id,
    )
    await asyncio.to_thread(reconciled, world, apply=False)
    assert world.sql(status, transfer_id) == [("resolved",)]


def reconciled(world, *, apply):
    """Reconcile the last hour; returns the differences."""
    with (
        Market(world.database.dsn_for("market_app")) as market,
        Ledger(world.finance.url, TOKEN) as ledger,
        StripeMoves(world.simulator.url, SECRET_KEY) as moves,
    ):
        now = market.now() + timedelta(minutes=30)  # what is younger than ten minutes is not judged
        market.now = lambda: now
        window = Window(now - timedelta(hours=1), now)
        return Reconciler(market, ledger, moves, payouts=market).run(window, apply=apply).differences


async def test_two_periods_of_one_payee_never_clear_the_same_balance(world):
    """Both drafted from the same balance: the second finds it gone."""
    first, second = week(next(_WEEKS)), week(next(_WEEKS))
    payee = f"payee_{first.replace('-', '_')}"
    world.book(payee, AMOUNT, within(first))
    await world.payee(payee)
    batches = [await world.draft(first), await world.draft(second)]
    for batch_id in reversed(batches):
        await world.approve(batch_id)
    runners = [world.runner(lease_s=0.0) for _ in range(3)]
    await asyncio.gather(*(runner.once() for runner in runners))
    for batch_id in batches:
        await world.finish(batch_id)
    statuses = world.sql("SELECT status FROM market.payouts WHERE payee_id = %s ORDER BY status", payee)
    assert statuses == [("failed",), ("settled",)]
    assert world.owed(f"seller:{payee}:payable") == 0
