"""Prices by hand: discounts, taxes, fees and shares of single carts; codes and tables that are refused."""

from datetime import timedelta

import pytest

from domain.errors import MarketplaceError, RejectedError
from domain.money import smallest_step
from domain.orders.parts import is_sound, parts_of_line
from domain.pricing import discounts
from domain.pricing.taxes import TaxableLine, TaxQuestion, TaxTable
from domain.pricing.terms import Wanted
from domain.proposals.documents import SELLER, RoyaltySplits, Share
from tests.fakes.carts import NOW
from tests.fakes.terms import code, held, offer, on_top, priced, rules


def test_the_steps_of_a_sale_by_hand():
    splits = RoyaltySplits((Share(SELLER, 7_000), Share("author", 3_000)), {})
    wanted = [Wanted(offer(1_000), 3)]
    (one,) = priced(
        wanted,
        rules(1_000, {"USD": 30}, splits),
        discount=code(seller_id="seller_1", percent_bps=1_000),
        rates=(held("DE", 190_000),),
    )
    # 3000 - 300 = 2700, of which 431 is tax (2700 - 2700/1.19 = 431.09); net 2269, fee 226 + 30
    assert (one.discount_minor, one.amount_minor, one.tax_minor, one.net_minor) == (300, 2_700, 431, 2_269)
    assert (one.fee_minor, one.payees) == (256, (("seller_1", 1_409), ("author", 604)))


def test_tax_on_top_is_paid_besides_and_rounded_once():
    rates = (on_top("US_CA", 72_500), on_top("US_CA_LA", 22_500))
    (one,) = priced([Wanted(offer(1_999), 1)], rules(), rates=rates)
    assert [(tax.jurisdiction, tax.amount_minor) for tax in one.taxes] == [("US_CA", 145), ("US_CA_LA", 45)]
    assert (one.amount_minor, one.net_minor, one.fee_minor) == (2_189, 1_999, 199)


@pytest.mark.parametrize(
    ("currency", "price", "ppm", "fee_bps", "expected"),
    [
        # 24 % on 9,900 is 2,376: rounded to 2,400, the platform earns 24 more
        ("ISK", 9_900, 240_000, 1_000, (12_300, 990 + 24, 8_910, 2_376)),
        # 5 % on 1,990 is 100 (half up of 99.5): on the step already
        ("KWD", 1_990, 50_000, 1_000, (2_090, 199, 1_791, 100)),
        # 10 % on 1,230 is 123: rounded to 120, and 3 come off the fee
        ("BHD", 1_230, 100_000, 1_000, (1_350, 123 - 3, 1_107, 123)),
        # the same without a fee: rounded up, for nobody else gives anything up
        ("BHD", 1_230, 100_000, 0, (1_360, 7, 1_230, 123)),
        ("USD", 1_999, 72_500, 1_000, (2_144, 199, 1_800, 145)),
    ],
)
def test_tax_on_top_is_rounded_to_what_stripe_charges_at_the_platforms_expense(
    currency, price, ppm, fee_bps, expected
):
    cart_ = [Wanted(offer(price, currency=currency), 1)]
    rates = (on_top("IS", ppm),)
    (sold,) = priced(cart_, rules(fee_bps), rates=rates, currency=currency, tax_step=1)
    parts = dict(parts_of_line(sold))
    assert is_sound(sold)
    assert sold.amount_minor % smallest_step(currency) == 0
    assert (
        sold.amount_minor,
        parts["platform:fees"],
        parts["seller:seller_1:payable"],
        parts["tax:IS:payable"],
    ) == expected


def test_an_operators_code_is_paid_from_the_platforms_fee_alone():
    wanted = [Wanted(offer(10_000), 1)]
    (without,) = priced(wanted, rules())
    (half,) = priced(wanted, rules(), discount=code(percent_bps=500))
    (most,) = priced(wanted, rules(), discount=code(percent_bps=5_000))
    assert [(one.discount_minor, one.fee_minor) for one in (without, half, most)] == [
        (0, 1_000),
        (500, 500),
        (1_000, 0),
    ]
    for one in (without, half, most):
        assert one.net_minor - one.fee_minor == 9_000, "what the seller earns"


def test_a_sellers_code_touches_the_sellers_lines_only_and_is_spread_to_the_unit():
    wanted = [Wanted(offer(100), 1), Wanted(offer(100, "seller_2", "sku_2"), 1), Wanted(offer(101), 2)]
    lines = priced(
        wanted,
        rules(),
        discount=code(seller_id="seller_1", percent_bps=None, amounts_minor={"USD": 10}),
    )
    assert [one.discount_minor for one in lines] == [3, 0, 7]


def test_the_price_model_bounds_amounts_too():
    free = code(seller_id="seller_1", percent_bps=None, amounts_minor={"USD": 5_000})
    wanted = [Wanted(offer(1_000), 1)]
    assert priced(wanted, rules(), discount=free)[0].amount_minor == 0
    assert priced(wanted, rules(percent_max=40), discount=free)[0].amount_minor == 600


@pytest.mark.parametrize(
    ("changes", "code_"),
    [
        ({"seller_id": "seller_2"}, "discount_not_applicable"),
        ({"sku_ids": frozenset({"sku_9"})}, "discount_not_applicable"),
        ({"percent_bps": 1}, "discount_not_applicable"),
        ({"valid_until": NOW}, "discount_not_valid"),
        ({"valid_from": NOW + timedelta(seconds=1)}, "discount_not_valid"),
        ({"ended_at": NOW}, "discount_not_valid"),
        ({"minimum_minor": {"USD": 1_001}}, "discount_minimum"),
        ({"minimum_minor": {"EUR": 1}}, "discount_currency"),
        ({"percent_bps": None, "amounts_minor": {"EUR": 100}}, "discount_currency"),
    ],
)
def test_a_code_that_does_not_fit_is_refused(changes, code_):
    with pytest.raises(MarketplaceError) as refused:
        priced([Wanted(offer(1_000), 1)], rules(), discount=code(**changes))
    assert refused.value.code == code_


@pytest.mark.parametrize(
    ("changes", "code_"),
    [
        ({"percent_bps": None}, "discount_invalid"),
        ({"amounts_minor": {"USD": 1}}, "discount_invalid"),
        ({"percent_bps": 0}, "discount_invalid"),
        ({"percent_bps": 4_001}, "discount_too_large"),
        ({"percent_bps": None, "amounts_minor": {"XXX": 1}}, "currency_unknown"),
        ({"percent_bps": None, "amounts_minor": {"USD": 10**12}}, "discount_invalid"),
        ({"percent_bps": None, "amounts_minor": {"KWD": 5}}, "discount_invalid"),
        ({"uses_max": 0}, "discount_invalid"),
        ({"uses_per_buyer_max": 10**9}, "discount_invalid"),
        ({"valid_until": NOW - timedelta(days=1)}, "discount_invalid"),
        ({"sku_ids": frozenset(map(str, range(101)))}, "discount_invalid"),
    ],
)
def test_a_code_that_makes_no_sense_is_not_made(changes, code_):
    with pytest.raises(RejectedError) as refused:
        discounts.validate(code(**changes), 40)
    assert refused.value.code == code_
    discounts.validate(code(percent_bps=4_000), 40)


def test_codes_are_read_without_regard_to_case():
    assert discounts.read_code(" Spring-26 ") == "SPRING-26"
    for text in ("ab", "-abc", "a b c", "ä" * 5, "x" * 33, "ab\n"):
        with pytest.raises(RejectedError, match="discount_invalid"):
            discounts.read_code(text)


TABLE = {
    "rates": [
        {"country": "DE", "category": "*", "jurisdiction": "DE", "rate_ppm": 190_000, "inclusive": True},
        {"country": "DE", "category": "e-book", "jurisdiction": "DE", "rate_ppm": 70_000, "inclusive": True},
        {"country": "US", "category": "*", "jurisdiction": "US_CA", "rate_ppm": 0, "inclusive": False},
    ],
    "elsewhere": "refused",
}


def ask(country, category="software", currency="EUR", table=TABLE):
    question = TaxQuestion(currency, country, None, [TaxableLine(10_000, category)], NOW)
    return TaxTable.from_json(table).taxes(question)


def test_a_table_taxes_by_country_and_category():
    ((software,),), ((book,),), ((nothing,),) = ask("DE"), ask("DE", "e-book"), ask("US")
    assert (software.amount_minor, book.amount_minor, nothing.amount_minor) == (1_597, 654, 0)
    for country, code_ in ((None, "tax_country_needed"), ("FR", "tax_rate_missing")):
        with pytest.raises(RejectedError) as refused:
            ask(country)
        assert refused.value.code == code_
    assert ask("FR", table={**TABLE, "elsewhere": "untaxed"}) == [()]
    assert ask(None, table={"rates": [], "elsewhere": "untaxed"}) == [()]
    assert TaxTable.from_json(TABLE).as_json() == TABLE


@pytest.mark.parametrize(
    "change",
    [
        {"country": "de"},
        {"country": 1},
        {"category": "E Book"},
        {"jurisdiction": "US-CA"},
        {"rate_ppm": -1},
        {"rate_ppm": 1_000_001},
        {"rate_ppm": True},
        {"inclusive": 1},
        {"more": 1},
        {"jurisdiction": "DE", "category": "e-book"},
        {"jurisdiction": "DE_BY", "category": "e-book", "inclusive": False},
    ],
)
def test_a_table_that_contradicts_itself_is_refused(change):
    rates = [*TABLE["rates"][:2], {**TABLE["rates"][0], "jurisdiction": "DE_BE", **change}]
    with pytest.raises(RejectedError, match="tax_table_invalid"):
        TaxTable.from_json({**TABLE, "rates": rates})
