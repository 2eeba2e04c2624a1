"""Prices over HTTP: quotes, price lists, codes, tax and free orders; what is refused writes nothing."""

from datetime import timedelta

import pytest

from domain.errors import DependencyError
from domain.orders.events import OrderCreated, OrderGranted, OrderPaid
from domain.proposals.documents import Kind, RoyaltySplits, Share
from storage.market.discounts import FREE_ORDERS_A_DAY_MAX
from tests.fakes.http_client import Client, pay, settle
from tests.fakes.ingress import RECIPIENT, FakeMarket

GERMAN = {"country": "DE", "category": "*", "jurisdiction": "DE", "rate_ppm": 190_000, "inclusive": True}
TABLE = {"rates": [GERMAN], "elsewhere": "refused"}
DELIVERY = {"mode": "recipient", "recipient": RECIPIENT}


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def buyer(market):
    return Client(market.app(), "buyer")


@pytest.fixture
def seller(buyer):
    return buyer.as_("seller")


@pytest.fixture
def operator(buyer):
    return buyer.as_("operator")


@pytest.fixture
def sku(market):
    return market.list_published(prices={"USD": 2_000, "EUR": 1_899})


def cart(*skus, quantity=1, **changes):
    lines = [{"sku_id": sku.sku_id, "quantity": quantity} for sku in skus]
    return {"lines": lines, "currency": "USD"} | changes


async def order(client, *skus, **changes):
    return await client.post("/v1/orders", cart(*skus, delivery=DELIVERY, **changes))


def code_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["code"]


async def make(client, **changes):
    return await client.post("/v1/discounts", {"code": "Spring", "percent_bps": 1_000} | changes)


async def test_a_quote_says_what_an_order_then_costs_and_writes_nothing(market, buyer, seller, operator, sku):
    assert (await make(seller)).status_code == 201
    answer = await operator.put(
        "/v1/ops/tax-table", {"base_version": 1, "table": TABLE, "reason": "We are registered there."}
    )
    assert answer.status_code == 200, answer.text
    before = market.writes()
    wanted = {"discount_code": " spring ", "country": "DE", "quantity": 3}
    quote = (await buyer.post("/v1/quotes", cart(sku, **wanted), key=None)).json()
    assert market.writes() == before
    assert (quote["price_minor"], quote["discount_minor"], quote["tax_minor"], quote["total_minor"]) == (
        6_000,
        600,
        862,
        5_400,
    )
    placed = (await order(buyer, sku, **wanted)).json()
    for name in ("discount_minor", "tax_minor", "total_minor"):
        assert placed[name] == quote[name]
    for name, value in quote["lines"][0].items():
        assert placed["lines"][0][name] == value
    await pay(market, buyer, placed["id"], 5_400)
    entry = dict(market.books.entries[f"{placed['id']}:capture"])
    # 5400 with 862 of tax: of 4538 net ten per cent, floored, is the platform's.
    assert entry == {
        "stripe:clearing": 5_400,
        "tax:DE:payable": -862,
        "platform:fees": -453,
        "seller:seller_1:payable": -4_085,
    }


async def test_fees_and_splits_are_those_in_force_when_the_order_is_placed(market, buyer, sku):
    market.governed.change(Kind.PLATFORM_FEES, fee_bps=850, fee_fixed_minor={"USD": 30})
    splits = RoyaltySplits((Share("seller", 7_000), Share("author", 3_000)), {})
    market.governed.documents[Kind.ROYALTY_SPLITS] = splits
    placed = (await order(buyer, sku)).json()["id"]
    market.governed.change(Kind.PLATFORM_FEES, fee_bps=5_000)
    await pay(market, buyer, placed, 2_000)
    assert dict(market.books.entries[f"{placed}:capture"]) == {
        "stripe:clearing": 2_000,
        "platform:fees": -200,
        "seller:seller_1:payable": -1_260,
        "seller:author:payable": -540,
    }


async def test_nothing_is_sold_while_the_governed_documents_cannot_be_read(market, buyer, sku):
    market.governed.failure = DependencyError("database_unavailable", "down", 2)
    before = market.writes()
    assert code_of(await order(buyer, sku), 503) == "database_unavailable"
    assert market.writes() == before


async def test_currencies_are_the_price_models(market, buyer, sku):
    market.governed.change(Kind.PRICE_MODEL, currencies=("EUR",))
    before = market.writes()
    assert code_of(await order(buyer, sku), 422) == "currency_not_sold"
    assert code_of(await order(buyer, sku, currency="JPY"), 422) == "currency_not_sold"
    assert code_of(await order(buyer, sku, currency="XXX"), 422) == "currency_unknown"
    assert market.writes() == before
    assert (await order(buyer, sku, currency="EUR")).status_code == 201


async def test_a_price_list_is_replaced_whole_on_the_one_that_was_seen(market, buyer, seller, sku):
    path = f"/v1/skus/{sku.sku_id}/prices"
    old = (await order(buyer, sku)).json()
    changed = await seller.put(path, {"base_version": 1, "prices": {"USD": 2_500, "JPY": 300}}, key="k")
    assert (changed.json()["prices"], changed.json()["price_version"]) == ({"USD": 2_500, "JPY": 300}, 2)
    again = await seller.put(path, {"base_version": 1, "prices": {"USD": 2_500, "JPY": 300}}, key="k")
    assert again.headers["idempotent-replayed"] == "true"
    before = market.writes()
    assert code_of(await seller.put(path, {"base_version": 1, "prices": {"USD": 1}}), 409) == (
        "price_list_changed"
    )
    for prices, code in (
        ({"XXX": 1}, "currency_unknown"),
        ({"USD": -1}, "price_invalid"),
        ({}, "price_invalid"),
    ):
        assert code_of(await seller.put(path, {"base_version": 2, "prices": prices}), 422) == code
    other = seller.as_("seller2")
    assert code_of(await other.put(path, {"base_version": 2, "prices": {"USD": 1}}), 404) == "sku_not_found"
    assert market.writes() == before
    assert code_of(await order(buyer, sku, currency="EUR"), 422) == "currency_not_offered"
    assert (await order(buyer, sku)).json()["total_minor"] == 2_500
    assert (await buyer.get(f"/v1/orders/{old['id']}")).json()["total_minor"] == 2_000
    listed = (await seller.get(path)).json()["items"]
    assert [(one["version"], one["set_by"]) for one in listed] == [(2, "seller_1")]
    assert code_of(await seller.get(f"{path}?cursor=x"), 400) == "cursor_invalid"


async def test_a_code_is_the_sellers_own_and_never_a_buyers_to_see(market, buyer, seller, sku):
    other = market.list_published("tidycsv", seller_id="seller_2")
    made = (await make(seller)).json()
    assert (made["code"], made["seller_id"], made["uses"]) == ("SPRING", "seller_1", 0)
    assert code_of(await make(seller, code="SPRING"), 409) == "discount_code_taken"
    assert code_of(await make(seller, code="x", sku_ids=[]), 422) == "discount_invalid"
    assert code_of(await make(seller, code="OTHERS", sku_ids=[other.sku_id]), 404) == "sku_not_found"
    assert code_of(await make(buyer, code="MINE"), 403) == "role_not_allowed"
    assert code_of(await buyer.get("/v1/discounts"), 403) == "role_not_allowed"
    assert (await seller.as_("seller2").get("/v1/discounts")).json()["items"] == []
    assert [one["id"] for one in (await seller.get("/v1/discounts")).json()["items"]] == [made["id"]]
    before = market.writes()
    assert code_of(await order(buyer, other, discount_code="SPRING"), 422) == "discount_not_applicable"
    assert code_of(await order(buyer, sku, discount_code="SUMMER"), 422) == "discount_unknown"
    assert code_of(await order(buyer, sku, discount_code="?"), 422) == "discount_unknown"
    assert market.writes() == before
    placed = (await order(buyer, sku, other, discount_code="spring")).json()
    assert [line["discount_minor"] for line in placed["lines"]] == [200, 0]


async def test_a_discount_above_the_maximum_is_refused(market, seller):
    market.governed.change(Kind.PRICE_MODEL, discount_percent_max=20)
    before = market.writes()
    assert code_of(await make(seller, percent_bps=2_001), 422) == "discount_too_large"
    assert code_of(await make(seller, percent_bps=10_001), 422) == "body_invalid"
    assert code_of(await make(seller, valid_until="2026-02-30T00:00:00Z"), 422) == "discount_invalid"
    assert code_of(await make(seller, amounts_minor={"USD": 5}), 422) == "discount_invalid"
    assert market.writes() == before
    assert (await make(seller, percent_bps=2_000)).status_code == 201


async def test_an_operators_code_needs_a_reason_and_is_the_platforms_cost(market, buyer, operator, sku):
    assert code_of(await make(operator), 422) == "reason_missing"
    made = (await make(operator, percent_bps=500, reason="The fair in May.")).json()
    assert made["seller_id"] is None
    placed = (await order(buyer, sku, discount_code="SPRING")).json()
    await pay(market, buyer, placed["id"], 1_900)
    assert dict(market.books.entries[f"{placed['id']}:capture"]) == {
        "stripe:clearing": 1_900,
        "platform:fees": -100,
        "seller:seller_1:payable": -1_800,
    }
    ended = await operator.post(f"/v1/discounts/{made['id']}/end", {"reason": "The fair is over."})
    assert (ended.status_code, ended.json()["ended"]) == (200, True)
    assert market.discounts.actions == [
        ("discount.create", "The fair in May."),
        ("discount.end", "The fair is over."),
    ]
    assert code_of(await order(buyer, sku, discount_code="SPRING"), 409) == "discount_not_valid"
    assert (
        code_of(await buyer.as_("seller").post(f"/v1/discounts/{made['id']}/end", {}), 404)
        == "discount_not_found"
    )


async def test_uses_are_counted_and_given_back_when_an_order_ends_unpaid(market, buyer, seller, sku):
    await make(seller, uses_max=2, uses_per_buyer_max=1)
    first = await order(buyer, sku, discount_code="SPRING")
    assert first.status_code == 201
    before = market.writes()
    assert code_of(await order(buyer, sku, discount_code="SPRING"), 409) == "discount_used_up"
    assert market.writes() == before
    bob = buyer.as_("buyer2")
    assert (await order(bob, sku, discount_code="SPRING")).status_code == 201
    assert (
        code_of(await buyer.post("/v1/quotes", cart(sku, discount_code="SPRING")), 409) == "discount_used_up"
    )
    # The payment's deadline passes, and Stripe says that it cannot be paid any more.
    await market.directory.host.run_effect(first.json()["id"], "expire")
    await settle(market)
    assert (await order(buyer, sku, discount_code="SPRING")).status_code == 201


async def test_codes_cannot_be_guessed_without_end(market, buyer, sku):
    told = [await buyer.post("/v1/quotes", cart(sku, discount_code=f"GUESS{n}"), key=None) for n in range(61)]
    assert [answer.status_code for answer in told[:60]] == [422] * 60
    assert code_of(told[60], 429) == "rate_limited"


async def test_tax_depends_on_where_the_buyer_is(market, buyer, operator, sku):
    put = {"base_version": 1, "table": TABLE, "reason": "We are registered there."}
    assert (await operator.put("/v1/ops/tax-table", put)).json()["version"] == 2
    assert (await operator.get("/v1/ops/tax-table")).json()["table"] == TABLE
    before = market.writes()
    assert code_of(await operator.put("/v1/ops/tax-table", put), 409) == "tax_table_changed"
    wrong = {
        **put,
        "base_version": 2,
        "table": {"rates": [{**GERMAN, "rate_ppm": -1}], "elsewhere": "refused"},
    }
    assert code_of(await operator.put("/v1/ops/tax-table", wrong), 422) == "tax_table_invalid"
    assert code_of(await buyer.put("/v1/ops/tax-table", put), 403) == "role_not_allowed"
    assert code_of(await order(buyer, sku), 422) == "tax_country_needed"
    assert code_of(await order(buyer, sku, country="FR"), 422) == "tax_rate_missing"
    assert market.writes() == before
    placed = (await order(buyer, sku, country="DE")).json()
    assert (placed["tax_minor"], placed["total_minor"]) == (319, 2_000)
    market.tax_tables.versions.clear()
    assert code_of(await order(buyer, sku, country="DE"), 503) == "tax_table_missing"
    assert (await buyer.get(f"/v1/orders/{placed['id']}")).json()["tax_minor"] == 319


async def test_an_order_that_costs_nothing_is_delivered_without_stripe_and_without_an_entry(market, buyer):
    sku = market.list_published(prices={"USD": 0})
    answer = await order(buyer, sku)
    assert answer.status_code == 201
    placed = answer.json()
    assert (placed["total_minor"], placed["payment"]["payment_intent_id"]) == (0, None)
    await settle(market)
    done = (await buyer.get(f"/v1/orders/{placed['id']}")).json()
    assert done["status"] == "delivered"
    assert done["lines"][0]["licence_status"] == "active"
    assert (await buyer.get(f"/v1/orders/{placed['id']}/deliveries")).json()["items"]
    events = market.store.orders[placed["id"]].events
    assert any(isinstance(event, OrderGranted) for event in events)
    assert not any(isinstance(event, OrderPaid) for event in events)
    assert (market.gateway.intents, market.books.entries) == ({}, {})
    refused = await buyer.post(f"/v1/orders/{placed['id']}/refunds", {"reason": "No reason at all."})
    assert code_of(refused, 409) == "order_not_refundable"


async def test_a_code_may_make_an_order_free(market, buyer, seller, sku):
    await make(seller, percent_bps=10_000)
    placed = (await order(buyer, sku, discount_code="SPRING")).json()
    await settle(market)
    assert placed["total_minor"] == 0
    assert (await buyer.get(f"/v1/orders/{placed['id']}")).json()["status"] == "delivered"
    created = market.store.orders[placed["id"]].events[0]
    assert isinstance(created, OrderCreated)
    assert created.discount_id in market.store.discounts


async def test_free_orders_are_bounded(market, buyer):
    sku = market.list_published(prices={"USD": 0})
    assert code_of(await order(buyer, sku, quantity=11), 422) == "quantity_out_of_range"
    first = await buyer.post("/v1/orders", cart(sku, delivery=DELIVERY), key="first")
    for _ in range(FREE_ORDERS_A_DAY_MAX - 1):
        assert (await order(buyer, sku)).status_code == 201
    before = market.writes()
    assert code_of(await order(buyer, sku), 409) == "free_orders_full"
    assert market.writes() == before
    again = await buyer.post("/v1/orders", cart(sku, delivery=DELIVERY), key="first")
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert (await order(buyer.as_("buyer2"), sku)).status_code == 201
    market.clock.advance(timedelta(days=1).total_seconds() + 1)
    assert (await order(buyer, sku)).status_code == 201
