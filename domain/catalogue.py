"""What is for sale: SKUs with prices, releases with digests, and the offer that a cart line quotes.

An ``Offer`` is everything that an order needs to know of a SKU, frozen at the moment of purchase: an
order never looks the catalogue up again, so a later price change or yank cannot alter what was bought.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from domain.errors import RejectedError
from domain.money import AMOUNT_MINOR_MAX, is_currency, smallest_step

TITLE_CHARS_MAX = 120
DESCRIPTION_CHARS_MAX = 4_000
PRICES_MAX = 50  # currencies of a price list; nobody keeps more prices right
SOFTWARE = "software"  # the tax category of a SKU that names no other
TAX_CATEGORY_CHARS_MAX = 32
_SLUG = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
SLUG_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class Offer:
    """One SKU's newest published release at one price, as quoted to a buyer."""

    sku_id: str
    sku_name: str
    seller_id: str
    release_id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    unit_price_minor: int
    currency: str
    licence_days: int | None = None  # None is a perpetual licence
    tax_category: str = SOFTWARE


def validate_listing(
    name: str, title: str, description: str, prices: Mapping[str, int], tax_category: str = SOFTWARE
) -> None:
    """Check a new SKU's texts, prices and tax category.

    Raises:
        RejectedError: ``sku_name_invalid``, ``sku_text_too_long``, ``tax_category_invalid``,
            ``currency_unknown``, ``price_invalid``.
    """
    if not _SLUG.fullmatch(name) or len(name) > SLUG_CHARS_MAX:
        raise RejectedError(
            "sku_name_invalid",
            f"A SKU name is lower-case words joined by '-', at most {SLUG_CHARS_MAX} characters.",
        )
    if not title or len(title) > TITLE_CHARS_MAX or len(description) > DESCRIPTION_CHARS_MAX:
        raise RejectedError(
            "sku_text_too_long",
            f"Give a title of 1 to {TITLE_CHARS_MAX} and a description of at most "
            f"{DESCRIPTION_CHARS_MAX} characters.",
        )
    if not is_tax_category(tax_category):
        raise RejectedError(
            "tax_category_invalid",
            f"A tax category is lower-case words joined by '-', at most {TAX_CATEGORY_CHARS_MAX} characters.",
        )
    validate_prices(prices)


def is_tax_category(text: str) -> bool:
    """Whether ``text`` can name a tax category; which ones are taxed how is the tax table's to say."""
    return len(text) <= TAX_CATEGORY_CHARS_MAX and _SLUG.fullmatch(text) is not None


def validate_prices(prices: Mapping[str, int]) -> None:
    """Check a price list: minor units by currency. A price of zero is free.

    Raises:
        RejectedError: ``currency_unknown``, ``price_invalid``.
    """
    if not 1 <= len(prices) <= PRICES_MAX:
        raise RejectedError("price_invalid", f"Give between 1 and {PRICES_MAX} prices.")
    for currency, amount_minor in prices.items():
        if not is_currency(currency):
            raise RejectedError("currency_unknown", f"{currency!r} is not an ISO 4217 code accepted here.")
        if not 0 <= amount_minor <= AMOUNT_MINOR_MAX:
            raise RejectedError(
                "price_invalid",
                f"The price in {currency} must be 0 to {AMOUNT_MINOR_MAX} minor units, not {amount_minor}.",
            )
        if amount_minor % smallest_step(currency):
            raise RejectedError(
                "price_invalid",
                f"Stripe charges {currency} only in multiples of {smallest_step(currency)} minor units.",
            )
