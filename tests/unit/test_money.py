"""Money: splits to the last unit, words for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.catalogue import validate_listing
from domain.errors import RejectedError
from domain.money import format_money, is_currency, split_by_weight


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10_000), min_size=1, max_size=20))
def test_parts_sum_to_the_whole_and_stray_less_than_a_unit(amount, weights):
    if sum(weights) == 0:
        return
    parts = split_by_weight(amount, weights)
    assert sum(parts) == amount
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - amount * weight) < sum(weights)


@pytest.mark.parametrize(("amount", "weights"), [(-1, [1]), (1, [0]), (1, [2, -1])])
def test_nonsense_is_refused(amount, weights):
    with pytest.raises(ValueError, match="positive sum"):
        split_by_weight(amount, weights)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1999, "USD", "19.99 USD"),
        (5, "EUR", "0.05 EUR"),
        (500, "JPY", "500 JPY"),
        (1234, "KWD", "1.234 KWD"),
        (-5, "USD", "-0.05 USD"),
    ],
)
def test_amounts_are_written_by_their_currencys_decimals(amount, currency, text):
    assert format_money(amount, currency) == text


def test_only_known_upper_case_codes_are_currencies():
    assert is_currency("USD")
    assert not is_currency("usd")
    assert not is_currency("XXX")


@pytest.mark.parametrize(
    ("prices", "accepted"),
    [
        ({"USD": 1999, "JPY": 500}, True),
        ({"ISK": 100_000}, True),
        ({"ISK": 100_050}, False),
        ({"UGX": 150}, False),
        ({"KWD": 1_230}, True),
        ({"KWD": 1_234}, False),
    ],
)
def test_only_amounts_that_stripe_charges_are_listed(prices, accepted):
    if accepted:
        validate_listing("logline", "Logline", "", prices)
    else:
        with pytest.raises(RejectedError, match="price_invalid"):
            validate_listing("logline", "Logline", "", prices)


def test_a_name_with_a_line_end_is_no_name():
    with pytest.raises(RejectedError, match="sku_name_invalid"):
        validate_listing("logline\n", "Logline", "", {"USD": 1})
