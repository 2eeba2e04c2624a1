"""The cut: three parts that are the whole, for any balances, terms and currencies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.money import CURRENCY_DECIMALS, smallest_step
from domain.payouts.cut import (
    BELOW_MINIMUM,
    NEGATIVE,
    NOTHING_LEFT,
    Division,
    Figures,
    Terms,
    clear,
    divide,
)

CASES = 10_000
MORE_CASES = 2_000
AMOUNTS = st.integers(0, 2**53 - 1)
FIGURES = st.builds(Figures, st.integers(-(2**53) + 1, 2**53 - 1), AMOUNTS, AMOUNTS)
TERMS = st.builds(
    Terms, st.just(1), st.integers(0, 10_000), st.integers(0, 180), st.sampled_from([0, 1, 500, 10**6])
)
CURRENCIES = st.sampled_from(sorted(CURRENCY_DECIMALS))
OBSTACLES = st.sampled_from([None, None, None, "no_account", "account_not_ready"])


@pytest.mark.timeout(240)  # ten thousand cases, also on a busy machine
@settings(max_examples=CASES, deadline=None)
@given(FIGURES, TERMS, CURRENCIES, OBSTACLES)
def test_the_parts_are_the_balance_and_nothing_negative_is_paid(figures, terms, currency, obstacle):
    parts = divide(figures, terms, currency, obstacle)
    assert parts.paid_minor + parts.carried_minor + parts.held_back_minor == figures.balance_minor
    assert 0 <= parts.paid_minor <= max(figures.balance_minor, 0)
    assert 0 <= parts.held_back_minor <= max(figures.balance_minor, 0)
    assert parts.carried_minor >= 0 or figures.balance_minor < 0
    assert parts.paid_minor % smallest_step(currency) == 0
    assert (parts.paid_minor > 0) == (parts.reason is None)
    assert parts.paid_minor == 0 or parts.paid_minor >= terms.minimum_minor
    if obstacle is not None:
        assert parts.paid_minor == 0
    if figures.balance_minor > 0:
        wanted = figures.sold_minor * terms.holdback_bps
        assert parts.held_back_minor * 10_000 >= min(wanted, figures.balance_minor * 10_000)


@settings(max_examples=MORE_CASES, deadline=None)
@given(FIGURES, TERMS, CURRENCIES, st.integers(0, 10**9))
def test_what_is_returned_later_never_raises_what_is_paid(figures, terms, currency, more):
    before = divide(figures, terms, currency)
    after = divide(
        Figures(figures.closing_minor, figures.returned_minor + more, figures.sold_minor), terms, currency
    )
    assert after.paid_minor <= before.paid_minor


@settings(max_examples=MORE_CASES, deadline=None)
@given(FIGURES, TERMS, CURRENCIES, st.integers(-(10**12), 10**12))
def test_clearing_never_sends_more_than_was_approved_or_is_owed(figures, terms, currency, since):
    parts = divide(figures, terms, currency)
    owed = figures.balance_minor + since
    sent = clear(parts.paid_minor, parts.held_back_minor, terms.minimum_minor, owed, currency)
    assert 0 <= sent <= parts.paid_minor
    assert sent == 0 or sent + parts.held_back_minor <= owed
    assert sent % smallest_step(currency) == 0
    if since >= 0:
        assert sent == parts.paid_minor


def terms(bps=1_000, days=30, minimum=500):
    return Terms(1, bps, days, minimum)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (Figures(10_000, 0, 4_001), Division(9_599, 0, 401)),
        (Figures(10_000, 2_000, 4_000), Division(7_600, 0, 400)),
        (Figures(499, 0, 0), Division(0, 499, 0, BELOW_MINIMUM)),
        (Figures(500, 0, 0), Division(500, 0, 0)),
        (Figures(100, 300, 0), Division(0, -200, 0, NEGATIVE)),
        (Figures(100, 100, 9), Division(0, 0, 0, NOTHING_LEFT)),
        (Figures(100, 0, 10_000), Division(0, 0, 100, NOTHING_LEFT)),
    ],
)
def test_examples(figures, expected):
    assert divide(figures, terms(), "USD") == expected


def test_what_stripe_does_not_take_is_carried():
    assert divide(Figures(12_345, 0, 0), terms(minimum=0), "ISK") == Division(12_300, 45, 0)
