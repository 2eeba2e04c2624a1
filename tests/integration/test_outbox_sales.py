"""Sales per SKU, day and currency, from real order events."""

from datetime import UTC, date, datetime, timedelta

import orjson
import psycopg
import pytest

from actors.relay.consumer import Consumer
from domain.events.ports import EventRecord
from domain.orders.decide import decide
from domain.orders.events import KIND_OF, OrderPaid
from storage.market.consumers import PostgresConsumerStore
from storage.market.dead_letters import DeadLetters
from storage.market.pool import build_pool
from storage.market.sales import Sales, SalesCursor, SalesDay, SalesProjection
from tests.fakes.carts import NOW, cart, line, order_id

pytestmark = pytest.mark.integration

TODAY = date(2026, 11, 24)


@pytest.fixture
def migrated(market_database):
    with psycopg.connect(market_database.dsn, autocommit=True) as owner:
        for number in (1, 2):
            owner.execute(
                "INSERT INTO market.skus VALUES (%s, %s, %s, '', '')",
                [f"sku_{number}", f"seller_{number}", f"name-{number}"],
            )
    return market_database


@pytest.fixture
async def pool(migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=4)
    await pool.open(wait=True)
    yield pool
    await pool.close()


@pytest.fixture
async def record(pool):
    async def record(order, events):
        records = []
        async with pool.connection() as connection:
            for seq, event in enumerate(events, 1):
                data = orjson.dumps(event).decode()
                await connection.execute(
                    "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    [order, seq, f"evt_{order}_{seq}", KIND_OF[type(event)], data],
                )
                records.append(EventRecord(f"evt_{order}_{seq}", order, seq, KIND_OF[type(event)], data, NOW))
        return records

    return record


@pytest.fixture
def consumer(pool):
    return Consumer(PostgresConsumerStore(pool, lambda: datetime.now(UTC)), SalesProjection())


def bought(number, *lines, paid_at=NOW, currency="USD"):
    command = cart(number, *lines, currency=currency)
    return [*decide(None, command), OrderPaid("pi_1", "evt_1", 1, currency, paid_at)]


async def test_paid_orders_are_summed_by_sku_day_and_currency(consumer, record, pool):
    records = [
        *await record(order_id(1), bought(1, line(1, quantity=2), line(2, price_minor=500))),
        *await record(order_id(2), bought(2, line(1))),
        *await record(order_id(3), bought(3, line(1), currency="EUR")),
        *await record(order_id(4), bought(4, line(1), paid_at=NOW.replace(hour=23, minute=59))),
        *await record(order_id(5), bought(5, line(1), paid_at=NOW + timedelta(hours=12))),
        *await record(order_id(6), bought(6, line(1))[:2]),
    ]
    assert await consumer.consume(records) == [None] * len(records)
    assert await consumer.consume(records) == [None] * len(records), "twice is once"
    sales = Sales(pool)
    expected = [
        SalesDay(TODAY, "sku_1", "EUR", 1, 1, 1999),
        SalesDay(TODAY, "sku_1", "USD", 3, 4, 7996),
        SalesDay(TODAY, "sku_2", "USD", 1, 1, 500),
        SalesDay(TODAY + timedelta(days=1), "sku_1", "USD", 1, 1, 1999),
    ]
    assert await sales.by_day(TODAY, TODAY + timedelta(days=1), 10) == expected
    assert await sales.by_day(TODAY, TODAY, 10, seller_id="seller_2") == [expected[2]]
    cursor = SalesCursor(expected[1].day, expected[1].sku_id, expected[1].currency)
    assert await sales.by_day(TODAY, TODAY + timedelta(days=9), 1, after=cursor) == [expected[2]]


async def test_batches_add_up(consumer, record, pool):
    for number in range(1, 6):
        await consumer.consume(await record(order_id(number), bought(number, line(1, quantity=3))))
    assert await Sales(pool).by_day(TODAY, TODAY, 10) == [SalesDay(TODAY, "sku_1", "USD", 5, 15, 29985)]


async def test_two_lines_of_one_sku_are_one_order(consumer, record, pool):
    second = line(1, price_minor=10)
    await consumer.consume(await record(order_id(1), bought(1, line(1), second)))
    assert await Sales(pool).by_day(TODAY, TODAY, 10) == [SalesDay(TODAY, "sku_1", "USD", 1, 2, 2009)]


@pytest.mark.parametrize("damage", ["no_created", "no_lines", "bad_amount"])
async def test_an_order_that_cannot_be_read_is_parked_and_the_others_count(consumer, record, pool, damage):
    events = bought(1)
    if damage == "no_created":
        broken = await record(order_id(1), [events[1], events[1], events[2]])
    else:
        broken = await record(order_id(1), events[1:])
        replacement = {"currency": "USD", "lines": []}
        if damage == "bad_amount":
            replacement["lines"] = [{"sku_id": "sku_1", "quantity": "many", "unit_price_minor": 1}]
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
                " VALUES (%s, 1, 'evt_x', 'order.created', %s)",
                [order_id(7), orjson.dumps(replacement).decode()],
            )
            await connection.execute(
                "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
                " VALUES (%s, 2, 'evt_y', 'order.paid', %s)",
                [order_id(7), broken[1].data],
            )
        broken = [
            EventRecord("evt_x", order_id(7), 1, "order.created", "{}", NOW),
            EventRecord("evt_y", order_id(7), 2, "order.paid", broken[1].data, NOW),
        ]
    whole = await record(order_id(2), bought(2))
    for _ in range(5):
        outcomes = await consumer.consume([*broken, *whole])
    assert outcomes == [None] * len(outcomes)
    assert [day.orders for day in await Sales(pool).by_day(TODAY, TODAY, 10)] == [1]
    (letter,) = await DeadLetters(pool).page("event", None, 10)
    expected = "internal_error" if damage == "bad_amount" else "sales_order_incomplete"
    assert (letter.code, letter.attempts) == (expected, 5 if damage == "bad_amount" else 1)
