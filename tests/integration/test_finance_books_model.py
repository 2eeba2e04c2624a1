"""The books in Postgres after any sequence of acts say what a simple model of them says."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest
from books_world import ACCOUNTS, CURRENCIES, Books, opened
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.ledger import Entry, Period, Posting, Progress, continue_lines, reversal
from storage.finance.balance_store import StatementOf
from storage.finance.ledger_store import PostedEntry

pytestmark = pytest.mark.integration


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
    postgres_server, migrated_books, done, asked
):
    """Trial balance zero, statements and balances of any moment as the entries say, closed periods closed."""
    copy = postgres_server.create_database(template=migrated_books.name)

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
