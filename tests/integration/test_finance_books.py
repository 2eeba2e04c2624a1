"""The books in Postgres: periods, accounts, reversals and summaries, by SQL and by any sequence of acts."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from postgres_fixture import Database

from domain.errors import BusyError, ConflictError, NotFoundError
from domain.ledger import CHART, Entry, Kind, Period, Posting, Progress, continue_lines, reversal
from storage import migrations
from storage.finance.balance_store import BalanceStore, StatementOf
from storage.finance.books_store import BooksStore
from storage.finance.ledger_store import LedgerStore, PostedEntry
from storage.finance.upkeep import BACKLOG_ENTRIES_MAX, Upkeep

pytestmark = pytest.mark.integration

JANUARY = Period(date(2026, 1, 1))
START = datetime(2025, 12, 20, tzinfo=UTC)
ACCOUNTS = ("stripe:clearing", "seller:a:payable", "seller:b:payable", "platform:fees", "refunds")
CURRENCIES = ("EUR", "USD")


@dataclass
class Books:
    """The stores over one pool."""

    ledger: LedgerStore
    books: BooksStore = field(init=False)
    balances: BalanceStore = field(init=False)
    upkeep: Upkeep = field(init=False)

    def __post_init__(self) -> None:
        self.books = BooksStore(self.ledger.connections)
        self.balances = BalanceStore(self.ledger.connections)
        self.upkeep = Upkeep(self.books)

    async def post(self, entry: Entry) -> str:
        (outcome,) = await self.ledger.post([entry])
        return "posted" if isinstance(outcome, PostedEntry) else outcome.code


@asynccontextmanager
async def opened(database: Database, pool_max: int = 2) -> AsyncIterator[Books]:
    store = LedgerStore(database.dsn_for("finance_app"), pool_max=pool_max)
    await store.open()
    try:
        yield Books(store)
    finally:
        await store.close()


@pytest.fixture(scope="module")
def migrated(postgres_server):
    """To be copied."""
    created = postgres_server.create_database()
    migrations.apply(created.dsn, "storage.finance", "finance")
    yield created
    postgres_server.drop_database(created.name)


@pytest.fixture
def copied(postgres_server, migrated):
    copy = postgres_server.create_database(template=migrated.name)
    yield copy
    postgres_server.drop_database(copy.name)


@pytest.fixture
async def books(copied):
    async with opened(copied) as stores:
        yield stores


def sale(
    key: str, at: datetime, amount: int = 100, debit: str = ACCOUNTS[0], credit: str = ACCOUNTS[1]
) -> Entry:
    return Entry(key, "USD", at, "", (Posting(debit, amount), Posting(credit, -amount)))


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


async def test_the_database_has_the_chart_of_the_domain(copied):
    with psycopg.connect(copied.dsn) as connection:
        rows = connection.execute("SELECT pattern, kind FROM finance.chart").fetchall()
    assert dict(rows) == {pattern: kind.value for pattern, kind in CHART.items()}


@pytest.mark.parametrize("user", ["finance_app", "market"])
def test_no_sql_puts_an_entry_into_a_closed_period(copied, user):
    run(copied.dsn, sql_entry("before"), "SELECT finance.close_period('2026-01-01', 'test')")
    for at in ("2026-01-31T23:59:59.999999Z", "2025-06-01Z"):
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            run(copied.dsn_for(user), sql_entry("late", at))
        assert refused.value.diag.constraint_name == "entries_period_open"
        assert refused.value.diag.message_detail == "2026-02-01T00:00:00Z"
    run(copied.dsn_for(user), sql_entry("in_time", "2026-02-01T00:00:00Z"))


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
def test_no_sql_passes_by_accounts_and_links(copied, user, statement, constraint):
    run(
        copied.dsn,
        "INSERT INTO finance.accounts (account, kind, currency, declared) VALUES"
        " ('cash:euros', 'asset', 'EUR', true), ('cash:closed', 'asset', NULL, true)",
        "SELECT finance.close_account('cash:closed')",
        sql_entry("first"),
        sql_entry("second"),
        sql_entry("undone", reverses="second", amount=-5),
    )
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        run(copied.dsn_for(user), statement)
    assert refused.value.diag.constraint_name == constraint


def test_an_entry_is_reversed_once_also_by_sql(copied):
    run(copied.dsn, sql_entry("first"), sql_entry("r", reverses="first", amount=-5))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(copied.dsn_for("finance_app"), sql_entry("r2", reverses="first", amount=-5))


def test_the_service_role_cannot_pass_by_the_functions(copied):
    run(copied.dsn, sql_entry(), "SELECT finance.close_period('2026-01-01', 'test')")
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
            run(copied.dsn_for("finance_app"), statement)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(copied.dsn_for("market_app"), "SELECT finance.close_period('2026-02-01', 'me')")


def test_not_even_the_owner_opens_what_is_closed(copied):
    run(copied.dsn, sql_entry(), "SELECT finance.close_period('2026-01-01', 'test')")
    run(copied.dsn, "INSERT INTO finance.accounts (account, kind, declared) VALUES ('cash:x', 'asset', true)")
    run(copied.dsn, "SELECT finance.close_account('cash:x')")
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
            run(copied.dsn, statement)


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


async def test_closing_waits_for_a_posting_under_way_and_counts_it(copied, books):
    async with await psycopg.AsyncConnection.connect(copied.dsn) as posting:
        await posting.execute(sql_entry())
        closing = asyncio.create_task(books.books.close_period(JANUARY, "test"))
        await wait_for_lock(copied.dsn)
        await posting.commit()
        assert (await closing).closed_by == "test"
    with psycopg.connect(copied.dsn) as connection:
        through = connection.execute("SELECT through_entry_id FROM finance.closed_periods").fetchone()
    assert through == (1,)


async def test_a_posting_that_meets_a_closing_under_way_is_refused(copied, books):
    async with await psycopg.AsyncConnection.connect(copied.dsn) as closing:
        await closing.execute("SELECT finance.close_period('2026-01-01', 'test')")
        late = asyncio.create_task(books.post(sale("late", JANUARY.starts_at)))
        await wait_for_lock(copied.dsn)
        await closing.commit()
        assert await late == "period_closed"


async def test_closing_gives_up_behind_a_posting_that_does_not_end(copied, books):
    async with await psycopg.AsyncConnection.connect(copied.dsn) as posting:
        await posting.execute(sql_entry())
        with pytest.raises(BusyError, match="ledger_busy"):
            await books.books.close_period(JANUARY, "test")
        with pytest.raises(BusyError, match="ledger_busy"):
            await books.books.settle()
        assert await books.post(sale("meanwhile", START)) == "posted"
        await posting.rollback()
    await books.upkeep.catch_up()


async def test_ids_that_are_not_settled_are_not_summed_up(copied, books):
    """A posting draws its id, another commits a greater one, and the summaries are brought up to date."""
    async with await psycopg.AsyncConnection.connect(copied.dsn) as posting:
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


async def test_two_services_open_the_same_new_accounts_without_a_deadlock(copied):
    sellers = [f"seller:s{n}:payable" for n in range(20)]

    async def post(stores: Books, name: str, order: list[str]) -> list[str]:
        outcomes = await stores.ledger.post([sale(f"{name}:{one}", START, credit=one) for one in order])
        return [getattr(one, "code", "posted") for one in outcomes]

    async with opened(copied, 1) as one, opened(copied, 1) as two:
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


# --- any sequence of acts -------------------------------------------------------------------------

# Few days, hours and minutes, around the ends of months and hours: what is asked about meets what was posted.
days = ((2025, 12, 20), (2026, 1, 5), (2026, 1, 31), (2026, 2, 1), (2026, 2, 28), (2026, 3, 31), (2026, 5, 1))
moments = st.builds(
    lambda day, hour, minute: datetime(*day, hour, minute, tzinfo=UTC),
    st.sampled_from(days),
    st.sampled_from((0, 23)),
    st.sampled_from((0, 1, 30, 59)),
)
legs = st.lists(
    st.tuples(st.sampled_from(ACCOUNTS), st.integers(-500, 500).filter(bool)), min_size=1, max_size=4
)
acts = st.one_of(
    st.tuples(st.just("post"), moments, st.sampled_from(CURRENCIES), legs),
    st.tuples(st.just("post"), moments, st.sampled_from(CURRENCIES), legs),
    st.tuples(st.just("reverse"), st.integers(0, 99), st.integers(0, 60)),
    st.tuples(st.just("late"), moments, st.sampled_from(CURRENCIES), legs),
    st.tuples(st.just("close"), st.integers(0, 2)),
    st.tuples(st.just("sum_up"), st.booleans()),
    st.tuples(st.just("sum_up"), st.just(value=True)),
)


@dataclass
class Model:
    """What the books must say."""

    entries: list[Entry] = field(default_factory=list)
    reversed_keys: set[str] = field(default_factory=set)
    open_from: datetime = datetime(1, 1, 1, tzinfo=UTC)

    def balance(self, account: str, currency: str, until: datetime) -> int:
        return sum(
            posting.amount_minor
            for entry in self.entries
            if entry.currency == currency and entry.occurred_at < until
            for posting in entry.postings
            if posting.account == account
        )


async def act(books: Books, model: Model, number: int, what: tuple) -> None:
    match what:
        case ("post" | "late" as kind, at, currency, some):
            rest = sum(amount for _, amount in some)
            postings = [Posting(*leg) for leg in some] + ([Posting("refunds", -rest)] if rest else [])
            if len(postings) < 2:
                return
            entry = Entry(f"e{number}", currency, at, "", tuple(postings))
            closed = at < model.open_from
            assert await books.post(entry) == ("period_closed" if closed else "posted")
            if closed and kind == "late":
                entry = Entry(f"e{number}", currency, model.open_from, "", tuple(postings), at)
                assert await books.post(entry) == "posted"
            elif closed:
                return
            model.entries.append(entry)
        case ("reverse", which, days):
            if not model.entries:
                return
            original = model.entries[which % len(model.entries)]
            if original.reverses is not None:
                return
            at = max(original.occurred_at, model.open_from) + timedelta(days=days)
            undone = reversal(original, f"r{number}", at)
            outcome = await books.ledger.post_reversal(undone)
            if original.entry_key in model.reversed_keys:
                assert getattr(outcome, "code", "posted") == "entry_reversed"
            else:
                assert isinstance(outcome, PostedEntry)
                model.reversed_keys.add(original.entry_key)
                model.entries.append(undone)
        case ("close", months):
            period = Period(date(2026, 1 + months, 1))
            await books.books.close_period(period, "test")
            model.open_from = max(model.open_from, period.ends_at)
        case ("sum_up", whole):
            await books.books.settle()
            await books.books.sum_up()
            if whole:
                while await books.books.carry_forward():
                    pass


async def check(books: Books, model: Model, asked: list[datetime]) -> None:
    for currency in CURRENCIES:
        for at in asked:
            behind = at + timedelta(microseconds=1)
            total, *parts = await books.balances.trial_balance(currency, at, 100)
            assert total.debit_minor == total.credit_minor
            assert total.debit_minor == sum(part.debit_minor for part in parts)
            assert total.posting_count == sum(
                len(entry.postings)
                for entry in model.entries
                if entry.currency == currency and entry.occurred_at < behind
            )
            page = await books.balances.balances(
                prefix="", currency=currency, as_of=at, after=("", ""), limit=100
            )
            assert sum(one.balance_minor for one in page) == 0
            listed = {one.account: one.balance_minor for one in page}
            for account in ACCOUNTS:
                expected = model.balance(account, currency, behind)
                assert (await books.balances.balance(account, currency, at))[0] == expected
                assert listed.get(account, 0) == expected
    await books.upkeep.catch_up()
    for account, currency in ((ACCOUNTS[0], "USD"), (ACCOUNTS[4], "EUR")):
        for since, until in itertools.pairwise(asked):
            if since < until:
                await check_statement(books, model, StatementOf(account, currency, since, until))


async def check_statement(books: Books, model: Model, of: StatementOf) -> None:
    summary = await books.balances.summary(of)
    assert summary.opening_balance_minor == model.balance(of.account, of.currency, of.since)
    assert summary.closing_balance_minor == model.balance(of.account, of.currency, of.until)
    progress, after, lines = Progress(summary.opening_balance_minor), (of.since, 0, 0), []
    while progress.line_count < summary.line_count:
        found = await books.balances.movements(
            of, after=after, through_entry_id=summary.through_entry_id, limit=3
        )
        page, progress = continue_lines(summary, progress, found)
        lines += page
        after = (found[-1].occurred_at, *found[-1].place)
    assert [line.movement.occurred_at for line in lines] == sorted(
        line.movement.occurred_at for line in lines
    )
    assert progress.balance_minor - summary.opening_balance_minor == sum(
        line.movement.amount_minor for line in lines
    )


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(acts, min_size=20, max_size=45), st.lists(moments, min_size=3, max_size=5))
def test_any_sequence_of_entries_reversals_and_closings_keeps_the_books(
    postgres_server, migrated, done, asked
):
    """Trial balance zero, statements and balances of any moment as the entries say, closed periods closed."""
    copy = postgres_server.create_database(template=migrated.name)

    async def live() -> None:
        model = Model()
        async with opened(copy, 1) as books:
            for number, what in enumerate(done):
                await act(books, model, number, what)
            await check(books, model, sorted(asked))
            while await books.books.carry_forward():
                pass
            await check(books, model, sorted(asked))

    try:
        asyncio.run(live())
    finally:
        postgres_server.drop_database(copy.name)
