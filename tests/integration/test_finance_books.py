"""The books in Postgres: periods, accounts, reversals and summaries, by SQL and in races."""

import asyncio
from datetime import UTC, date, datetime

import psycopg
import pytest
from books_world import START, Books, opened, sale

from domain.errors import BusyError, ConflictError, NotFoundError
from domain.ledger import CHART, Kind, Period
from storage import migrations
from storage.finance.upkeep import BACKLOG_ENTRIES_MAX

pytestmark = pytest.mark.integration
JANUARY = Period(date(2026, 1, 1))


@pytest.fixture
async def books(copied_books):
    async with opened(copied_books) as stores:
        yield stores


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement)


INSERT = (
    "WITH e AS (INSERT INTO finance.entries (entry_key, currency, occurred_at, description, content_digest,"
    " posting_count{columns}) VALUES ('{key}', 'USD', '{at}', '', sha256('k'), 2{values}) RETURNING *)"
    " INSERT INTO finance.postings SELECT entry_id, p, CASE p WHEN 1 THEN '{debit}' ELSE '{credit}' END,"
    " {amount} * (3 - 2 * p), currency, occurred_at FROM e, generate_series(1, 2) p"
)


def sql_entry(
    key: str = "k", at: str = "2026-01-31T23:59:59Z", amount: int = 5, reverses: str = "", **legs: str
) -> str:
    values = f", (SELECT entry_id FROM finance.entries WHERE entry_key = '{reverses}')" if reverses else ""
    columns = ", reverses_entry_id" if reverses else ""
    named = {"debit": "refunds", "credit": "disputes", **legs}
    return INSERT.format(key=key, at=at, amount=amount, columns=columns, values=values, **named)


async def test_the_database_has_the_chart_of_the_domain(copied_books):
    with psycopg.connect(copied_books.dsn) as connection:
        rows = connection.execute("SELECT pattern, kind FROM finance.chart").fetchall()
    assert dict(rows) == {pattern: kind.value for pattern, kind in CHART.items()}


@pytest.mark.parametrize("user", ["finance_app", "market"])
def test_no_sql_puts_an_entry_into_a_closed_period(copied_books, user):
    run(copied_books.dsn, sql_entry("before"), "SELECT finance.close_period('2026-01-01', 'test')")
    for at in ("2026-01-31T23:59:59.999999Z", "2025-06-01Z"):
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            run(copied_books.dsn_for(user), sql_entry("late", at))
        assert refused.value.diag.constraint_name == "entries_period_open"
        assert refused.value.diag.message_detail == "2026-02-01T00:00:00Z"
    run(copied_books.dsn_for(user), sql_entry("in_time", "2026-02-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (sql_entry(debit="nonsense:x"), "accounts_known"),
        (sql_entry(debit="rounding"), "accounts_known"),
        (sql_entry(debit="Cash:x"), "accounts_known"),
        (sql_entry(debit="cash:closed"), "accounts_open"),
        (sql_entry(debit="cash:euros"), "accounts_currency"),
        (sql_entry(reverses="first", amount=-4), "entries_mirror"),
        (sql_entry(reverses="first", amount=5), "entries_mirror"),
        (sql_entry(reverses="first", amount=-5, debit="cash:x"), "entries_mirror"),
        (sql_entry(reverses="first", amount=-5, at="2026-01-01Z"), "entries_mirror"),
        (sql_entry(reverses="undone", amount=5), "entries_mirror"),
    ],
)
@pytest.mark.parametrize("user", ["finance_app", "market"])
def test_no_sql_passes_by_accounts_and_links(copied_books, user, statement, constraint):
    run(
        copied_books.dsn,
        "INSERT INTO finance.accounts (account, kind, currency, declared) VALUES"
        " ('cash:euros', 'asset', 'EUR', true), ('cash:closed', 'asset', NULL, true)",
        "SELECT finance.close_account('cash:closed')",
        sql_entry("first"),
        sql_entry("second"),
        sql_entry("undone", reverses="second", amount=-5),
    )
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        run(copied_books.dsn_for(user), statement)
    assert refused.value.diag.constraint_name == constraint


def test_an_entry_is_reversed_once_also_by_sql(copied_books):
    run(copied_books.dsn, sql_entry("first"), sql_entry("r", reverses="first", amount=-5))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(copied_books.dsn_for("finance_app"), sql_entry("r2", reverses="first", amount=-5))


def test_the_service_role_cannot_pass_by_the_functions(copied_books):
    run(copied_books.dsn, sql_entry(), "SELECT finance.close_period('2026-01-01', 'test')")
    for statement in (
        "INSERT INTO finance.closed_periods VALUES ('2026-02-01', '2026-03-01Z', now(), 'me', 0)",
        "DELETE FROM finance.closed_periods",
        "UPDATE finance.accounts SET closed_at = NULL",
        "INSERT INTO finance.accounts (account, kind, declared, closed_at) VALUES ('a', 'asset', true, NULL)",
        "UPDATE finance.hour_movements SET debit_minor = 0",
        "DELETE FROM finance.period_balances",
        "UPDATE finance.marks SET value = 0",
        "INSERT INTO finance.chart VALUES ('x', 'asset', '')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(copied_books.dsn_for("finance_app"), statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(copied_books.dsn_for("market_app"), "SELECT finance.close_period('2026-02-01', 'me')")


def test_not_even_the_owner_opens_what_is_closed(copied_books):
    run(copied_books.dsn, sql_entry(), "SELECT finance.close_period('2026-01-01', 'test')")
    run(
        copied_books.dsn,
        "INSERT INTO finance.accounts (account, kind, declared) VALUES ('cash:x', 'asset', true)",
    )
    run(copied_books.dsn, "SELECT finance.close_account('cash:x')")
    for statement in (
        "DELETE FROM finance.closed_periods",
        "UPDATE finance.closed_periods SET ends_at = '2020-01-01Z'",
        "TRUNCATE finance.closed_periods CASCADE",
        "UPDATE finance.accounts SET closed_at = NULL WHERE account = 'cash:x'",
        "UPDATE finance.accounts SET kind = 'income' WHERE account = 'refunds'",
        "UPDATE finance.accounts SET closed_at = now() WHERE account = 'cash:x'",
        "DELETE FROM finance.accounts",
        "TRUNCATE finance.accounts",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            run(copied_books.dsn, statement)


def test_accounts_in_use_before_the_chart_stay_valid(postgres_server, monkeypatch):
    database = postgres_server.create_database()
    try:
        first = migrations.load("storage.finance")[:1]
        with monkeypatch.context() as before:
            before.setattr(migrations, "load", lambda _package: first)
            migrations.apply(database.dsn, "storage.finance", "finance")
        run(database.dsn, sql_entry("old", debit="odd:one", credit="seller:x:payable"))
        assert migrations.apply(database.dsn, "storage.finance", "finance") == ["0002_books"]
        run(database.dsn, sql_entry("new", debit="odd:one", credit="seller:x:payable"))
        with psycopg.connect(database.dsn) as connection:
            rows = connection.execute("SELECT account, kind FROM finance.accounts").fetchall()
        assert dict(rows) == {"odd:one": "asset", "seller:x:payable": "liability"}
    finally:
        postgres_server.drop_database(database.name)


async def wait_for_lock(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as watcher:
        for _ in range(500):
            cursor = await watcher.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database() AND usename = 'finance_app'"
            )
            if (await cursor.fetchone())[0]:
                return
            await asyncio.sleep(0.01)
    pytest.fail("nobody waits")


async def test_closing_waits_for_a_posting_under_way_and_counts_it(copied_books, books):
    async with await psycopg.AsyncConnection.connect(copied_books.dsn) as posting:
        await posting.execute(sql_entry())
        closing = asyncio.create_task(books.books.close_period(JANUARY, "test"))
        await wait_for_lock(copied_books.dsn)
        await posting.commit()
        assert (await closing).closed_by == "test"
    with psycopg.connect(copied_books.dsn) as connection:
        through = connection.execute("SELECT through_entry_id FROM finance.closed_periods").fetchone()
    assert through == (1,)


async def test_a_posting_that_meets_a_closing_under_way_is_refused(copied_books, books):
    async with await psycopg.AsyncConnection.connect(copied_books.dsn) as closing:
        await closing.execute("SELECT finance.close_period('2026-01-01', 'test')")
        late = asyncio.create_task(books.post(sale("late", JANUARY.starts_at)))
        await wait_for_lock(copied_books.dsn)
        await closing.commit()
        assert await late == "period_closed"


async def test_closing_gives_up_behind_a_posting_that_does_not_end(copied_books, books):
    async with await psycopg.AsyncConnection.connect(copied_books.dsn) as posting:
        await posting.execute(sql_entry())
        with pytest.raises(BusyError, match="ledger_busy"):
            await books.books.close_period(JANUARY, "test")
        with pytest.raises(BusyError, match="ledger_busy"):
            await books.books.settle()
        assert await books.post(sale("meanwhile", START)) == "posted"
        await posting.rollback()
    await books.upkeep.catch_up()


async def test_ids_that_are_not_settled_are_not_summed_up(copied_books, books):
    """A posting draws its id, another commits a greater one, and the summaries are brought up to date."""
    async with await psycopg.AsyncConnection.connect(copied_books.dsn) as posting:
        await books.post(sale("1", START))
        await books.books.settle()
        await posting.execute(sql_entry("2", debit="stripe:clearing", credit="seller:a:payable"))
        await books.post(sale("3", START))
        settling = asyncio.create_task(books.books.settle())
        await asyncio.sleep(0)
        assert await books.books.sum_up() == 0, "what is not settled is left"
        await posting.commit()
        await settling
    await books.books.sum_up()
    assert await books.balances.balance("stripe:clearing", "USD", None) == (205, 3)
    assert await books.books.backlog() == 0


async def test_a_refused_entry_does_not_spoil_its_batch_wherever_it_stands(books):
    await books.books.close_period(JANUARY, "test")
    for place in range(9):
        good = [sale(f"{place}:{n}", datetime(2026, 2, 1, tzinfo=UTC)) for n in range(8)]
        batch = [*good[:place], sale(f"{place}:late", START), *good[place:]]
        codes = [getattr(one, "code", "posted") for one in await books.ledger.post(batch)]
        assert codes == ["posted"] * place + ["period_closed"] + ["posted"] * (8 - place)


async def test_two_services_open_the_same_new_accounts_without_a_deadlock(copied_books):
    sellers = [f"seller:s{n}:payable" for n in range(20)]

    async def post(stores: Books, name: str, order: list[str]) -> list[str]:
        outcomes = await stores.ledger.post([sale(f"{name}:{one}", START, credit=one) for one in order])
        return [getattr(one, "code", "posted") for one in outcomes]

    async with opened(copied_books, 1) as one, opened(copied_books, 1) as two:
        both = await asyncio.gather(post(one, "1", sellers), post(two, "2", sellers[::-1]))
    assert both == [["posted"] * 20] * 2


async def test_closing_twice_is_one_closing_and_earlier_months_come_along(books):
    first = await books.books.close_period(JANUARY, "one")
    assert await books.books.close_period(JANUARY, "two") == first
    assert await books.books.close_period(Period(date(2025, 11, 1)), "two") == first
    second = await books.books.close_period(Period(date(2026, 3, 1)), "two")
    assert await books.books.close_period(Period(date(2026, 2, 1)), "three") == second
    listed = await books.books.closed_periods(before=None, limit=10)
    assert [str(one.period) for one in listed] == ["2026-03", "2026-01"]
    with pytest.raises(ConflictError, match="period_not_over"):
        await books.books.close_period(Period(date(9998, 1, 1)), "one")


async def test_accounts_are_declared_kept_and_closed(books):
    declared = await books.books.declare("marketing", Kind.EXPENSE, "USD")
    assert declared.fresh
    assert not (await books.books.declare("marketing", Kind.EXPENSE, "USD")).fresh
    with pytest.raises(ConflictError, match="account_conflict"):
        await books.books.declare("marketing", Kind.EXPENSE, None)
    with pytest.raises(NotFoundError, match="account_unknown"):
        await books.books.close_account("sales")
    assert await books.post(sale("1", START, debit="marketing")) == "posted"
    for summed_up in (False, True):
        if summed_up:
            await books.upkeep.catch_up()
        with pytest.raises(ConflictError, match="account_not_empty"):
            await books.books.close_account("marketing")
    assert await books.post(sale("2", START, debit="seller:a:payable", credit="marketing")) == "posted"
    closed = await books.books.close_account("marketing")
    assert closed.closed_at is not None
    assert await books.books.close_account("marketing") == closed


async def test_upkeep_waits_until_there_is_enough_to_do(books, monkeypatch):
    await books.post(sale("1", START))
    await books.upkeep.turn()
    assert await books.books.backlog() == 1
    monkeypatch.setattr("storage.finance.upkeep.BACKLOG_ENTRIES_MAX", 1)
    await books.books.close_period(Period(date(2025, 12, 1)), "test")
    await books.upkeep.turn()
    assert await books.books.backlog() == 0
    assert not await books.books.carry_forward(), "the closed period's balances are written"
    assert BACKLOG_ENTRIES_MAX > 1
