"""Sales by day over HTTP: whose, which days, pages, and wrong questions."""

from dataclasses import replace
from datetime import timedelta

import pytest

from storage.market.sales import SalesDay
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app(), "seller")


@pytest.fixture
def days(market):
    """Three days of one SKU of the first seller, and one of another's."""
    mine, other = market.list_published(), market.list_published("other")
    market.catalogue.skus[other.sku_id] = replace(other, seller_id="seller_2")
    today = market.clock().date()
    rows = [SalesDay(today - timedelta(days=n), mine.sku_id, "USD", 1, 2, 9_800) for n in range(3)]
    market.sales.rows = [*rows, SalesDay(today, other.sku_id, "EUR", 5, 5, 100)]
    return rows


async def test_a_seller_sees_his_own_sales_oldest_first(client, days):
    body = (await client.get("/v1/sales")).json()
    assert [item["day"] for item in body["items"]] == [row.day.isoformat() for row in reversed(days)]
    assert body["items"][0] == {
        "day": days[2].day.isoformat(),
        "sku_id": days[2].sku_id,
        "currency": "USD",
        "orders": 1,
        "units": 2,
        "gross_minor": 9_800,
    }
    assert body["next_cursor"] is None
    other = (await client.as_("seller2").get("/v1/sales")).json()
    assert [item["currency"] for item in other["items"]] == ["EUR"]


async def test_operators_see_everybodys_and_buyers_none(client, days):
    assert len((await client.as_("operator").get("/v1/sales")).json()["items"]) == len(days) + 1
    assert (await client.as_("buyer").get("/v1/sales")).status_code == 403


async def test_days_are_inclusive_and_pages_follow_each_other(client, days):
    first, last = days[2].day, days[1].day
    seen, cursor = [], ""
    for _ in range(2):
        body = (await client.get(f"/v1/sales?from={first}&to={last}&limit=1{cursor}")).json()
        seen += [item["day"] for item in body["items"]]
        cursor = f"&cursor={body['next_cursor']}"
    assert seen == [first.isoformat(), last.isoformat()]
    assert body["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("from=yesterday", "query_invalid"),
        ("to=2026-02-30", "query_invalid"),
        ("from=0001-01-01", "query_invalid"),
        ("to=9999-12-31", "query_invalid"),
        ("from=2026-11-02&to=2026-11-01", "query_invalid"),
        ("from=2024-01-01&to=2026-11-01", "query_invalid"),
        ("limit=0", "query_invalid"),
        ("cursor=!", "cursor_invalid"),
        ("cursor=MjAyNi0xMS0yNCBza3VfeCBVU0Q", "cursor_invalid"),
        ("cursor=" + "A" * 600, "cursor_invalid"),
    ],
)
async def test_a_wrong_question_is_refused(client, query, code):
    answer = await client.get(f"/v1/sales?{query}")
    assert (answer.status_code // 100, answer.json()["code"]) == (4, code)
