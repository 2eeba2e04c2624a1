"""What every ``TaxCalculator`` promises, whoever knows the rates.

Subclasses provide the fixture ``calculator`` (async: a coroutine function's ``taxes``) over the same rates:
in Germany 19 % in the price, in the middle of Los Angeles 9.75 % of three jurisdictions.
"""

import pytest

from domain.errors import RejectedError
from domain.pricing.taxes import TaxableLine, TaxQuestion, is_jurisdiction
from tests.fakes.carts import NOW


def question(*amounts, country="DE", postal_code=None, currency="EUR"):
    lines = [TaxableLine(amount, "software") for amount in amounts]
    return TaxQuestion(currency, country, postal_code, lines, NOW)


class TaxCalculatorContract:
    """The suite. ``inclusive`` says which kind of tax the fixture's calculator gives."""

    inclusive: bool

    async def test_each_line_has_its_taxes_in_order(self, calculator):
        amounts = (11_900, 0, 1, 1_999)
        taxes = await calculator.taxes(question(*amounts))
        assert len(taxes) == len(amounts)
        assert sum(tax.amount_minor for tax in taxes[1]) == 0
        expected = (1_900, 0, 0, 319) if self.inclusive else (2_261, 0, 0, 380)
        assert [sum(tax.amount_minor for tax in line) for line in taxes] == list(expected)
        for tax in (*taxes[0], *taxes[3]):
            assert (tax.jurisdiction, tax.rate_ppm, tax.inclusive) == ("DE", 190_000, self.inclusive)
            assert is_jurisdiction(tax.jurisdiction)

    async def test_a_cart_that_costs_nothing_bears_no_tax(self, calculator):
        (line,) = await calculator.taxes(question(0))
        assert sum(tax.amount_minor for tax in line) == 0

    async def test_where_the_buyer_is_must_be_said(self, calculator):
        with pytest.raises(RejectedError, match="tax_country_needed"):
            await calculator.taxes(question(100, country=None))
