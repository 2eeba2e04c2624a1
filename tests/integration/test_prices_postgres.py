"""Discount codes, price lists and tax tables in Postgres, as the serving role sees them."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import orjson
import psycopg
import pytest

from domain.errors import ConflictError, DependencyError, RejectedError
from domain.ids import new_id
from domain.pricing.taxes import TaxableLine, TaxQuestion, TaxTable
from storage import migrations
from storage.market.catalogue import Catalogue, Sku
from storage.market.commands import Write
from storage.market.discounts import Discounts
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.market.taxes import FRESH_S, TaxTables
from tests.contracts.discount_uses import DiscountUsesContract, place, rule, turn
from tests.contracts.order_store import placed
from tests.contracts.tax_calculators import TaxCalculatorContract
from tests.fakes.carts import NOW, order_id
from tests.fakes.orders import FakeMonotonic

pytestmark = pytest.mark.integration

SKU_ID = new_id("sku", 1, bytes(10))
RATE = {"country": "DE", "category": "*", "jurisdiction": "DE", "rate_ppm": 190_000, "inclusive": True}
TABLE = TaxTable.from_json({"rates": [RATE], "elsewhere": "refused"})
ACTIONS = "SELECT action, subject, reason FROM market.operator_actions ORDER BY at"


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        connection.execute(
            "TRUNCATE market.orders, market.order_events, market.commands, market.effects, market.outbox,"
            " market.discounts, market.discount_uses, market.skus, market.sku_prices, market.price_lists,"
            " market.releases, market.tax_tables, market.operator_actions CASCADE"
        )
        yield connection


@pytest.fixture
async def pool(migrated, owner):
    made = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await made.open(wait=True)
    yield made
    await made.close()


@pytest.fixture
def store(pool):
    return PostgresOrderStore(pool)


@pytest.fixture
def codes(pool):
    return Discounts(pool)


def write(key="k", principal="seller_1", digest=b"d" * 32):
    return Write(principal, key, digest)


async def create(codes, discount, key="k", principal="seller_1"):
    return await codes.create(
        write(key, principal), discount, NOW, {"id": "x"}, action_id=f"act_{key}", reason="why"
    )


@pytest.fixture
def make(codes, owner):
    async def put(discount):
        await create(codes, discount)
        if discount.ended_at is not None:
            owner.execute("UPDATE market.discounts SET ended_at = now()")

    return put


class TestPostgresDiscountUses(DiscountUsesContract):
    """The suite, on the real store."""


async def test_a_code_is_read_as_it_was_made_and_counts_its_uses(store, codes, make):
    discount = rule(
        amounts_minor={"USD": 500},
        percent_bps=None,
        minimum_minor={"USD": 1_000},
        sku_ids=frozenset({"sku_b", "sku_a"}),
        uses_max=3,
        valid_until=NOW + timedelta(days=9),
    )
    await make(discount)
    await place(store, turn(1))
    found = await codes.find_code("SPRING")
    assert (found.discount, found.uses) == (discount, 1)
    assert await codes.find(discount.discount_id) == found
    assert await codes.find_code("AUTUMN") is None
    assert await codes.page("seller_1", "~", 5) == [found]
    assert await codes.page("seller_2", "~", 5) == []
    assert await codes.page(None, discount.discount_id, 5) == []


async def test_a_code_is_made_once_and_an_operators_is_on_record(codes, owner):
    assert await create(codes, rule(seller_id=None), principal="op_1") is None
    assert (await create(codes, rule(seller_id=None), principal="op_1")).subject == rule().discount_id
    with pytest.raises(ConflictError, match="discount_code_taken"):
        await create(codes, rule(discount_id="dsc_other"), key="k2")
    end = {"by_operator": True, "action_id": "act_2", "reason": "over"}
    assert await codes.end(write("k3", "op_1"), rule().discount_id, {}, **end) is None
    assert (await codes.find_code("SPRING")).discount.ended_at is not None
    assert owner.execute(ACTIONS).fetchall() == [
        ("discount.create", rule().discount_id, "why"),
        ("discount.end", rule().discount_id, "over"),
    ]


async def test_the_schema_itself_never_lets_a_code_be_used_more_than_it_may(owner, make):
    await make(rule(uses_max=1))
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("UPDATE market.discounts SET uses = 2")


async def test_an_order_with_a_code_that_is_used_up_does_not_spoil_its_neighbours(store, make):
    await make(rule(uses_max=1))
    assert await place(store, turn(1)) is True
    answers = await asyncio.gather(
        *(placed(store, number) for number in range(2, 10)), place(store, turn(10))
    )
    assert [one.order_id for one in answers[:-1]] == [order_id(number) for number in range(2, 10)]
    assert answers[-1] == "discount_used_up"


def sku(**changes):
    one = Sku(SKU_ID, "logline", "Logline", "", "seller_1", NOW, {"USD": 1_999, "EUR": 1_899})
    return replace(one, **changes)


async def test_price_lists_are_kept_and_the_newest_is_sold_by(pool, owner):
    catalogue = Catalogue(pool)
    await catalogue.create_sku(write(), sku(tax_category="e-book"), {})
    lists = [sku(prices={"USD": 1_000 + n, "JPY": 0}, price_version=2) for n in range(10)]
    answers = await asyncio.gather(
        *(catalogue.set_prices(write(f"k{n}"), one, {"n": n}) for n, one in enumerate(lists)),
        return_exceptions=True,
    )
    won = [n for n, answer in enumerate(answers) if answer is None]
    assert len(won) == 1
    assert {answer.code for answer in answers if answer is not None} == {"price_list_changed"}
    again = await catalogue.set_prices(write(f"k{won[0]}"), lists[won[0]], {})
    assert again.body == {"n": won[0]}
    read = await catalogue.find("logline")
    assert (read.prices, read.price_version) == ({"USD": 1_000 + won[0], "JPY": 0}, 2)
    assert read.tax_category == "e-book"
    kept = await catalogue.price_lists(SKU_ID, 99, 10)
    assert [(one.version, one.prices) for one in kept] == [(2, read.prices), (1, sku().prices)]
    assert await catalogue.price_lists(SKU_ID, 2, 10) == kept[1:]
    for statement in ("DELETE FROM market.price_lists", "UPDATE market.price_lists SET set_by = 'x'"):
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation):
            owner.execute(statement)


async def test_prices_from_before_there_were_lists_are_the_first_list(database, monkeypatch):
    steps = migrations.load("storage.market")
    monkeypatch.setattr(migrations, "load", lambda _package: steps[:7])
    migrations.apply(database.dsn, "storage.market", "market")
    monkeypatch.setattr(migrations, "load", lambda _package: steps)
    with psycopg.connect(database.dsn, autocommit=True) as owner:
        owner.execute("INSERT INTO market.skus VALUES (%s, 'seller_1', 'logline', 'L', '')", [SKU_ID])
        owner.execute("INSERT INTO market.sku_prices VALUES (%s, 'USD', 5), (%s, 'JPY', 7)", [SKU_ID] * 2)
    migrations.apply(database.dsn, "storage.market", "market")
    pool = build_pool(database.dsn_for("market_app"), name="test", size_max=2)
    await pool.open(wait=True)
    catalogue = Catalogue(pool)
    read = await catalogue.find("logline")
    assert (read.prices, read.price_version, read.tax_category) == ({"USD": 5, "JPY": 7}, 1, "software")
    assert [one.prices for one in await catalogue.price_lists(SKU_ID, 9, 9)] == [{"USD": 5, "JPY": 7}]
    assert await catalogue.set_prices(write(), sku(prices={"USD": 6}, price_version=2), {}) is None
    assert (await catalogue.find("logline")).prices == {"USD": 6}
    taxes = TaxTables(pool, FakeMonotonic())
    assert (await taxes.current()).table == TaxTable({}, "untaxed")
    await pool.close()


def question(country="DE"):
    return TaxQuestion("EUR", country, None, [TaxableLine(1_190, "software")], NOW)


async def test_a_tax_table_is_set_once_on_the_one_that_was_seen_and_felt_within_seconds(pool, owner):
    monotonic = FakeMonotonic()
    tables = TaxTables(pool, monotonic)
    with pytest.raises(DependencyError, match="tax_table_missing"):
        await tables.taxes(question())
    owner.execute(
        "INSERT INTO market.tax_tables (version, document, set_by, reason) VALUES (1, %s, 'm', 'm')",
        [orjson.dumps({"rates": [], "elsewhere": "untaxed"}).decode()],
    )
    assert await tables.taxes(question()) == [()]
    answers = await asyncio.gather(
        *(
            tables.replace(write(f"k{n}", "op_1"), TABLE, 1, {}, action_id=f"act_{n}", reason="registered")
            for n in range(8)
        ),
        return_exceptions=True,
    )
    assert [answer for answer in answers if not isinstance(answer, ConflictError)] == [None]
    assert owner.execute(ACTIONS).fetchall() == [("tax_table.set", "tax_table:2", "registered")]
    assert await tables.taxes(question()) == [()], "as of the last few seconds"
    monotonic.now_s += FRESH_S + 0.1
    (((tax,)),) = await tables.taxes(question())
    assert (tax.jurisdiction, tax.amount_minor) == ("DE", 190)
    with pytest.raises(RejectedError, match="tax_rate_missing"):
        await tables.taxes(question("FR"))
    read = await tables.current()
    assert (read.version, read.table, read.set_by, read.reason) == (2, TABLE, "op_1", "registered")


async def test_a_table_that_cannot_be_read_sells_nothing(pool, owner):
    owner.execute("INSERT INTO market.tax_tables VALUES (1, '{}', 'm', 'm')")
    with pytest.raises(DependencyError, match="tax_table_missing"):
        await TaxTables(pool, FakeMonotonic()).taxes(question())


class TestTaxTables(TaxCalculatorContract):
    inclusive = True

    @pytest.fixture
    def calculator(self, pool, owner):
        owner.execute(
            "INSERT INTO market.tax_tables (version, document, set_by, reason) VALUES (1, %s, 'm', 'm')",
            [orjson.dumps(TABLE.as_json()).decode()],
        )
        return TaxTables(pool, FakeMonotonic())
