"""What terms are made of: offers, rules, codes and tax rates; and lines priced with them."""

from datetime import timedelta

from domain.catalogue import Offer
from domain.money import smallest_step
from domain.pricing import terms
from domain.pricing.discounts import Discount
from domain.pricing.taxes import Rate, tax_on
from domain.pricing.terms import Rules
from domain.proposals.documents import SELLER, PlatformFees, PriceModel, RoyaltySplits, Share
from tests.fakes.carts import NOW

CURRENCIES = ("USD", "EUR", "JPY", "KRW", "KWD", "BHD", "ISK", "UGX")


def held(jurisdiction, rate_ppm):
    return Rate(jurisdiction, rate_ppm, inclusive=True)


def on_top(jurisdiction, rate_ppm):
    return Rate(jurisdiction, rate_ppm, inclusive=False)


def offer(price_minor=1000, seller_id="seller_1", sku_id="sku_1", currency="USD", **more):
    return Offer(
        sku_id, "logline", seller_id, "rel_1", "1.0.0", "b.tar.gz", "ab" * 32, price_minor, currency, **more
    )


def rules(fee_bps=1_000, fixed=None, splits=None, percent_max=100):
    return Rules(
        PriceModel(CURRENCIES, percent_max),
        PlatformFees(fee_bps, fixed or {}, 0, 0, {}),
        splits or RoyaltySplits((Share(SELLER, 10_000),), {}),
    )


def code(**changes):
    values = {
        "discount_id": "dsc_1",
        "code": "SPRING",
        "seller_id": None,
        "percent_bps": 2_000,
        "amounts_minor": {},
        "minimum_minor": {},
        "sku_ids": frozenset(),
        "uses_max": None,
        "uses_per_buyer_max": None,
        "valid_from": NOW - timedelta(days=1),
        "valid_until": NOW + timedelta(days=1),
    }
    return Discount(**(values | changes))


def priced(wanted, rules_, *, discount=None, rates=(), currency="USD", tax_step=None):
    off = terms.discounts(wanted, discount, rules_, currency, NOW)
    step = tax_step or smallest_step(currency)  # 1: tax to the unit, as Stripe Tax tells it
    taxes = [tax_on(one.amount_minor, rates, step) for one in terms.taxable(wanted, off)]
    platform = discount is not None and discount.seller_id is None
    return terms.lines(wanted, off, taxes, rules_, platform_discount=platform)
