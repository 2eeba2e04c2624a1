"""What a cart costs now: gathers what decides about it and has ``domain.pricing`` decide.

    catalogue, governed documents, discount code, tax -> lines with their terms

The same for a quote and for an order, which freezes it; nothing is written here and nothing is held. What is
wrong with a cart is told before anything of it is asked elsewhere. Codes cannot be guessed: a caller has a
minute's worth of tries, right or wrong, and then one a second.
"""

from collections.abc import Callable
from dataclasses import dataclass

from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.ids import is_id
from domain.money import is_currency
from domain.orders.decide import LINES_MAX, QUANTITY_MAX
from domain.orders.lines import Line
from domain.pricing import terms
from domain.pricing.discounts import Discount, read_code
from domain.pricing.taxes import TaxQuestion
from domain.pricing.terms import Rules, Wanted
from domain.proposals.documents import Kind, PlatformFees, PriceModel, RoyaltySplits
from domain.releases import require_channel
from serve_app.calls import Call
from serve_app.limits import TokenBuckets
from serve_app.ports import GovernedReads, RateLimit
from serve_app.schemas.quotes import Cart

CODES = RateLimit(per_s=1.0, burst=60)  # codes looked up for one caller in one process

QUOTE_PROBLEMS = (
    "lines_out_of_range",
    "line_duplicate",
    "quantity_out_of_range",
    "currency_unknown",
    "currency_not_sold",
    "currency_not_offered",
    "sku_not_found",
    "sku_unpublished",
    "channel_unknown",
    "discount_unknown",
    "discount_not_valid",
    "discount_not_applicable",
    "discount_minimum",
    "discount_currency",
    "discount_used_up",
    "tax_country_needed",
    "tax_rate_missing",
    "tax_refused",
    "tax_table_missing",
    "tax_unavailable",
)


@dataclass(frozen=True, slots=True)
class Quoted:
    """A cart's lines with their terms, and the discount code that they were reckoned with."""

    lines: tuple[Line, ...]
    discount_id: str | None


class Quoting:
    """One per application; ``monotonic`` is in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._codes = TokenBuckets(CODES, monotonic)

    async def quote(self, call: Call, cart: Cart) -> Quoted:
        """Work a cart's terms out; raises what is wrong with it, see ``QUOTE_PROBLEMS``."""
        sku_ids = _sound(cart)
        rules = await _rules(call.ports.governed)
        terms.require_currency(rules, cart.currency)
        channels = {line.sku_id: require_channel(line.channel) for line in cart.lines}
        offers = await call.ports.catalogue.offers(sku_ids, cart.currency, channels)
        wanted = [Wanted(offers[line.sku_id], line.quantity) for line in cart.lines]
        discount = None if cart.discount_code is None else await self._discount(call, cart.discount_code)
        at = call.ports.clock()
        off = terms.discounts(wanted, discount, rules, cart.currency, at)
        question = TaxQuestion(cart.currency, cart.country, cart.postal_code, terms.taxable(wanted, off), at)
        taxes = await call.ports.taxes.taxes(question)
        platforms = discount is not None and discount.seller_id is None
        lines = terms.lines(wanted, off, taxes, rules, platform_discount=platforms)
        return Quoted(lines, None if discount is None else discount.discount_id)

    async def _discount(self, call: Call, text: str) -> Discount:
        self._codes.take(call.caller.principal_id)
        try:
            row = await call.ports.discounts.find_code(read_code(text))
        except RejectedError:
            row = None  # it has not even the form of a code
        if row is None:
            raise RejectedError("discount_unknown", "There is no such discount code.")
        uses_max = row.discount.uses_max
        if uses_max is not None and row.uses >= uses_max:
            raise ConflictError("discount_used_up", "This code was used as often as it may be.")
        return row.discount


async def _rules(governed: GovernedReads) -> Rules:
    prices = (await governed.current(Kind.PRICE_MODEL)).document
    fees = (await governed.current(Kind.PLATFORM_FEES)).document
    splits = (await governed.current(Kind.ROYALTY_SPLITS)).document
    assert isinstance(prices, PriceModel), "the documents are of their kinds"
    assert isinstance(fees, PlatformFees), "the documents are of their kinds"
    assert isinstance(splits, RoyaltySplits), "the documents are of their kinds"
    return Rules(prices, fees, splits)


def _sound(cart: Cart) -> list[str]:
    """Return the SKUs of a cart that is well-formed."""
    if not 1 <= len(cart.lines) <= LINES_MAX:
        raise RejectedError(
            "lines_out_of_range", f"An order has 1 to {LINES_MAX} lines, not {len(cart.lines)}."
        )
    for line_no, line in enumerate(cart.lines, 1):
        if not 1 <= line.quantity <= QUANTITY_MAX:
            raise RejectedError(
                "quantity_out_of_range", f"Line {line_no}: the quantity must be 1 to {QUANTITY_MAX}."
            )
    sku_ids = [line.sku_id for line in cart.lines]
    if len(set(sku_ids)) != len(sku_ids):
        raise RejectedError("line_duplicate", "Two lines name the same SKU. Add their quantities up instead.")
    if not is_currency(cart.currency):
        raise RejectedError("currency_unknown", f"{cart.currency!r} is not an accepted ISO 4217 code.")
    if not all(is_id("sku", sku_id) for sku_id in sku_ids):
        raise NotFoundError("sku_not_found", "A line's sku_id is no SKU's id; see GET /v1/skus.")
    return sku_ids
