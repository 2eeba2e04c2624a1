"""Statements add up, however they are cut into pages; periods and the chart of accounts."""

import itertools
import pickle
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import RejectedError
from domain.ledger import (
    CHART,
    AccountRefusedError,
    EntryReversedError,
    Kind,
    Movement,
    Period,
    PeriodClosedError,
    Progress,
    StatementUnsoundError,
    Summary,
    check_declaration,
    continue_lines,
    is_account,
    kind_in_chart,
    parse_period,
)

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
patient = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
amounts = st.integers(-(10**12), 10**12).filter(bool)


def movements(figures: list[int]) -> list[Movement]:
    return [
        Movement(NOON + timedelta(seconds=n), (n, 1), f"k{n}", None, NOON, "", amount)
        for n, amount in enumerate(figures)
    ]


def summary(opening: int, figures: list[int]) -> Summary:
    debit = sum(amount for amount in figures if amount > 0)
    return Summary(opening, debit, debit - sum(figures), len(figures), 99)


@patient
@given(st.integers(-(10**15), 10**15), st.lists(amounts, max_size=40), st.integers(1, 15))
def test_pages_of_any_size_lead_from_the_opening_to_the_closing_balance(opening, figures, size):
    whole, progress, shown = summary(opening, figures), Progress(opening), []
    for first in range(0, len(figures), size):
        lines, progress = continue_lines(whole, progress, movements(figures)[first : first + size])
        shown += lines
    assert [line.movement for line in shown] == movements(figures)
    balances = [opening, *(line.balance_minor for line in shown)]
    steps = [after - before for before, after in itertools.pairwise(balances)]
    assert steps == figures
    assert balances[-1] == whole.closing_balance_minor == progress.balance_minor == opening + sum(figures)


@patient
@given(st.lists(amounts, min_size=1, max_size=10), st.integers(0, 9), st.integers(1, 5))
def test_a_line_that_was_changed_is_found_at_the_end(figures, where, by):
    changed = list(figures)
    changed[where % len(figures)] += by
    with pytest.raises(StatementUnsoundError):
        continue_lines(summary(7, figures), Progress(7), movements(changed))


def test_more_lines_than_were_counted_are_no_statement():
    with pytest.raises(StatementUnsoundError):
        continue_lines(summary(0, [1]), Progress(0), movements([1, 1, -1]))


def test_an_empty_statement_opens_as_it_closes():
    assert continue_lines(summary(5, []), Progress(5), []) == ([], Progress(5))


@pytest.mark.parametrize(
    ("text", "starts", "ends"),
    [("2026-11", (2026, 11), (2026, 12)), ("2026-12", (2026, 12), (2027, 1)), ("0001-01", (1, 1), (1, 2))],
)
def test_a_period_is_a_month_in_utc(text, starts, ends):
    period = parse_period(text)
    assert period.starts_at == datetime(*starts, 1, tzinfo=UTC)
    assert period.ends_at == datetime(*ends, 1, tzinfo=UTC)
    assert str(period) == text
    assert period == Period(date(*starts, 1))


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "2026-1", "26-01", "2026-01-01", "0000-01", "9999-12", "٢٠٢٦-01"]
)
def test_other_texts_are_no_period(text):
    with pytest.raises(RejectedError, match="period_malformed"):
        parse_period(text)


def test_the_chart_names_accounts_by_whole_names():
    assert kind_in_chart("seller:sel_01:payable") is Kind.LIABILITY
    assert kind_in_chart("stripe:clearing") is Kind.ASSET
    for other in ("seller:sel_01", "seller:a:b:payable", "stripe:clearing:x", "xstripe:clearing", "rounding"):
        assert kind_in_chart(other) is None
    for pattern, kind in CHART.items():
        assert kind_in_chart(pattern.replace("*", "x1")) is kind
        assert is_account(pattern.replace("*", "x1"))


def test_kinds_have_their_normal_side():
    sides = {kind: kind.normal_side for kind in Kind}
    assert {kind for kind, side in sides.items() if side == "debit"} == {Kind.ASSET, Kind.EXPENSE}


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("Cash", Kind.ASSET, "account_malformed"),
        ("rounding", Kind.EXPENSE, "account_forbidden"),
        ("rounding:usd", Kind.EXPENSE, "account_forbidden"),
        ("cash:bank", Kind.INCOME, "account_kind"),
    ],
)
def test_declarations_that_contradict_the_chart_are_refused(name, kind, code):
    with pytest.raises(RejectedError) as refused:
        check_declaration(name, kind)
    assert refused.value.code == code
    check_declaration("cash:bank", Kind.ASSET)
    check_declaration("marketing", Kind.EXPENSE)


def test_errors_of_the_books_survive_pickling():
    for error in (
        PeriodClosedError("key", NOON),
        AccountRefusedError("account_closed", "cash:x", "closed"),
        EntryReversedError("key"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), vars(copy), str(copy)) == (type(error), vars(error), str(error))


def test_a_closed_period_tells_what_to_do():
    told = PeriodClosedError("ord_1:capture", datetime(2026, 12, 1, tzinfo=UTC))
    assert "2026-12-01T00:00:00Z" in told.detail
    assert "original_occurred_at" in told.detail
