"""The terms of an order: from what is quoted to lines that say what each costs and who earns it.

    offers -> discount -> tax -> fee -> payees

Each step is exact and takes what the one before left: the discount comes off the price, tax is on the rest,
the platform's fee is on what remains without tax, and the payees share what then is left by largest
remainder. The parts of a line sum to what the buyer pays for it; nothing is rounded twice and nothing is
lost.

Stripe charges some currencies in steps, and tax on top need not keep to them. The line is then rounded to the
step, half up, and the platform's fee bears it: the tax office and the payees have what they had without it.

A seller's discount lowers what the seller's line earns, fee and payees alike. An operator's is the platform's
own: it comes out of the fee, is never more than it, and leaves the payees what they had earned without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.catalogue import Offer
from domain.errors import RejectedError
from domain.money import BASIS_POINTS, smallest_step, split_by_weight
from domain.orders.lines import Line, Tax
from domain.pricing.discounts import Discount, Priced, taken_off
from domain.pricing.taxes import TaxableLine
from domain.proposals.documents import SELLER, PlatformFees, PriceModel, RoyaltySplits


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cart's line: an offer in the order's currency, and how many seats."""

    offer: Offer
    quantity: int

    @property
    def price_minor(self) -> int:
        """Price of the whole line."""
        return self.offer.unit_price_minor * self.quantity


@dataclass(frozen=True, slots=True)
class Rules:
    """The governed documents that decide about money."""

    prices: PriceModel
    fees: PlatformFees
    splits: RoyaltySplits


def require_currency(rules: Rules, currency: str) -> None:
    """Refuse a currency that the marketplace does not sell in.

    Raises:
        RejectedError: ``currency_not_sold``.
    """
    if currency not in rules.prices.currencies:
        raise RejectedError("currency_not_sold", f"The marketplace does not sell in {currency} at present.")


def discounts(
    cart: Sequence[Wanted], discount: Discount | None, rules: Rules, currency: str, at: datetime
) -> list[int]:
    """Return what comes off each line.

    Raises:
        ConflictError, RejectedError: see ``taken_off``.
    """
    if discount is None:
        return [0] * len(cart)
    lines = [Priced(one.offer.sku_id, one.offer.seller_id, one.price_minor) for one in cart]
    # What the platform gives away is its own.
    whose = discount.seller_id
    caps = [one.price_minor if whose else fee_on(one.price_minor, rules.fees, currency) for one in lines]
    return taken_off(discount, lines, currency, caps, rules.prices.discount_percent_max, at)


def taxable(cart: Sequence[Wanted], off: Sequence[int]) -> list[TaxableLine]:
    """Return what tax is to be asked about."""
    return [
        TaxableLine(one.price_minor - off_minor, one.offer.tax_category)
        for one, off_minor in zip(cart, off, strict=True)
    ]


def lines(
    cart: Sequence[Wanted],
    off: Sequence[int],
    taxes: Sequence[tuple[Tax, ...]],
    rules: Rules,
    *,
    platform_discount: bool,
) -> tuple[Line, ...]:
    """Return the order's lines with their terms."""
    return tuple(
        _line(line_no, one, off_minor, tax, rules, platform_discount=platform_discount)
        for line_no, (one, off_minor, tax) in enumerate(zip(cart, off, taxes, strict=True), 1)
    )


def fee_on(net_minor: int, fees: PlatformFees, currency: str) -> int:
    """Return the platform's fee on a line's net, in minor units: never more than it."""
    fixed_minor = fees.fee_fixed_minor.get(currency, 0)
    return min(net_minor, net_minor * fees.fee_bps // BASIS_POINTS + fixed_minor)


def _line(
    line_no: int,
    wanted: Wanted,
    off_minor: int,
    taxes: tuple[Tax, ...],
    rules: Rules,
    *,
    platform_discount: bool,
) -> Line:
    offer = wanted.offer
    left_minor = wanted.price_minor - off_minor
    net_minor = left_minor - sum(tax.amount_minor for tax in taxes if tax.inclusive)
    fee_minor = fee_on(net_minor, rules.fees, offer.currency)
    if platform_discount and left_minor:
        # The net without the discount: prices may hold tax, of which a discount takes its part away.
        whole_minor = net_minor + off_minor * net_minor // left_minor
        fee_minor = max(0, fee_on(whole_minor, rules.fees, offer.currency) - (whole_minor - net_minor))
    rounding_minor = _rounding(taxes, fee_minor, offer.currency)
    return Line(
        line_no=line_no,
        sku_id=offer.sku_id,
        sku_name=offer.sku_name,
        seller_id=offer.seller_id,
        release_id=offer.release_id,
        version=offer.version,
        bundle_name=offer.bundle_name,
        bundle_sha256=offer.bundle_sha256,
        unit_price_minor=offer.unit_price_minor,
        quantity=wanted.quantity,
        licence_days=offer.licence_days,
        discount_minor=off_minor,
        taxes=taxes,
        fee_minor=fee_minor + rounding_minor,
        payees=_payees(offer, net_minor - fee_minor, rules.splits),
        rounding_minor=rounding_minor,
    )


def _rounding(taxes: Sequence[Tax], fee_minor: int, currency: str) -> int:
    """Return what brings tax on top to the currency's step, half up; up where the fee cannot bear less."""
    step = smallest_step(currency)
    on_top_minor = sum(tax.amount_minor for tax in taxes if not tax.inclusive)
    rounding_minor = (2 * on_top_minor + step) // (2 * step) * step - on_top_minor
    return rounding_minor if fee_minor + rounding_minor >= 0 else rounding_minor + step


def _payees(offer: Offer, earned_minor: int, splits: RoyaltySplits) -> tuple[tuple[str, int], ...]:
    split = splits.of(offer.sku_id)
    parts = split_by_weight(earned_minor, [share.bps for share in split])
    earned: dict[str, int] = {}
    for share, part in zip(split, parts, strict=True):
        payee = offer.seller_id if share.payee == SELLER else share.payee
        earned[payee] = earned.get(payee, 0) + part
    # The seller alone is not written down: most lines are like that.
    return () if list(earned) == [offer.seller_id] else tuple(earned.items())
