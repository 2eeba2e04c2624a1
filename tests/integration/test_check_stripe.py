"""``check --stripe`` against the simulator: charges and orders are matched both ways."""

from datetime import UTC, datetime

import pytest
import stripe

from cluster import checking
from domain.orders import commands as c
from domain.orders.decide import decide, effects_after
from domain.orders.ledger_invariants import Charge
from domain.orders.ports import Idempotency, PaymentNews, Turn
from domain.orders.state import evolve
from storage.audit.charges import PAGE_CHARGES, captured_charges, spooled
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from tests.fakes.carts import cart, order_id
from tests.fakes.stripe_process import SECRET_KEY, StripeProcess

pytestmark = pytest.mark.integration

TOTAL_MINOR = 1999


@pytest.fixture
def simulator(tmp_path):
    process = StripeProcess(tmp_path / "stripe")
    process.start()
    yield process
    process.stop()


@pytest.fixture
def pay(simulator):
    """Charge a card for an order; returns the PaymentIntent's id."""
    client = stripe.StripeClient(SECRET_KEY, base_addresses={"api": simulator.url})

    def pay(for_order, *, amount_minor=TOTAL_MINOR, card="pm_card_visa", **changes):
        params = {
            "amount": amount_minor,
            "currency": "usd",
            "confirm": True,
            "payment_method": card,
            "payment_method_types": ["card"],
            "metadata": {"order_id": for_order} if for_order else {},
        }
        return client.v1.payment_intents.create(params | changes).id

    return pay


@pytest.fixture
def database(market_database):
    return market_database


@pytest.fixture
async def paid_order(database):
    """Place order ``number``; pay it by the intent, unless that is None."""
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=1)
    await pool.open(wait=True)
    store = PostgresOrderStore(pool)

    async def write(number, intent):
        now, state = datetime.now(UTC), None
        commands = [cart(number)]
        if intent is not None:
            commands.append(c.ConfirmPayment(intent, f"evt_{number}", TOTAL_MINOR, "USD", now))
        for command in commands:
            events, fence, due, done = decide(state, command), state.seq if state else 0, [], []
            for event in events:
                state = evolve(order_id(number), state, event)
                due, done = due + effects_after(event)[0], done + effects_after(event)[1]
            if fence == 0:
                placed = Turn(state, 0, events, due, done)
                assert await store.place(placed, Idempotency(f"key-{number}", b"d" * 32))
            else:
                news = PaymentNews(f"evt_{number}", state.order_id, "k", intent, TOTAL_MINOR, "USD", "", "")
                assert await store.commit(Turn(state, fence, events, due, done, news=news))

    yield write
    await pool.close()


def check(database, simulator, grace_s=0.0):
    found = []
    where = checking.Sources(database.dsn_for("market_app"), stripe_api=simulator.url, stripe_key=SECRET_KEY)
    report = checking.run(where, batch=2, grace_s=grace_s, on_violation=found.append)
    # Nobody works on these orders, which is not this test's matter.
    return report, {(one.invariant, one.order_id) for one in found if one.invariant != "I9"}


async def test_charges_and_orders_that_agree(database, simulator, pay, paid_order):
    for number in range(1, 6):
        await paid_order(number, pay(order_id(number)))
    await paid_order(6, None)
    pay(None)  # another application's
    pay(order_id(6), capture_method="manual")  # authorised, not captured
    with pytest.raises(stripe.CardError):
        pay(order_id(6), card="pm_card_chargeDeclined")
    report, found = check(database, simulator)
    assert found == set()
    assert report.totals.charged_minor == report.totals.captured_minor == {"USD": 5 * TOTAL_MINOR}


async def test_each_disagreement_is_named(database, simulator, pay, paid_order):
    await paid_order(1, pay(order_id(1)))
    pay(order_id(1))  # charged twice
    await paid_order(2, "pi_never")  # paid, says the order
    await paid_order(3, None)
    pay(order_id(3))  # paid, says Stripe
    await paid_order(4, pay(order_id(4), amount_minor=100))
    pay(order_id(99))  # no such order
    expected = {
        ("I2", order_id(1)),
        ("I1", order_id(2)),
        ("I1", order_id(3)),
        ("I1", order_id(4)),
        ("I1", order_id(99)),
    }
    assert check(database, simulator)[1] == expected
    # What is younger than the grace may be news to the other side; a double or wrong charge never is.
    assert check(database, simulator, grace_s=3600)[1] == {("I2", order_id(1)), ("I1", order_id(4))}


def test_all_pages_are_read(simulator, pay):
    for number in range(PAGE_CHARGES + 1):
        pay(order_id(number))
    listed = dict(captured_charges(simulator.url, SECRET_KEY))
    assert listed.keys() == {order_id(number) for number in range(PAGE_CHARGES + 1)}


def test_a_spool_gives_the_charges_of_a_range():
    now = datetime(2026, 11, 24, tzinfo=UTC)
    charges = [(order_id(n), Charge(f"pi_{n}", n, "USD", now)) for n in (5, 1, 3, 3)]
    with spooled(charges, now) as spool:
        assert [len(spool.of_range("", None)[order_id(n)]) for n in (1, 3, 5)] == [1, 2, 1]
        assert spool.of_range(order_id(1), order_id(3)).keys() == {order_id(3)}
        assert spool.of_range(order_id(3), None) == {order_id(5): [Charge("pi_5", 5, "USD", now)]}
    assert not spool.path.exists()
