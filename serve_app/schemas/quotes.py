"""Bodies of quotes, and what quotes and orders say alike of a line's money."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from domain.manifests import CHANNELS
from domain.orders.lines import Line
from domain.orders.lines import Tax as TaxOfLine
from domain.pricing.discounts import CODE_CHARS_MAX
from serve_app.schemas.base import Document, Request

WORD_CHARS_MAX = 64  # modes, methods and currencies are shorter
POSTAL_CODE_CHARS_MAX = 16

Word = Annotated[str, Field(max_length=WORD_CHARS_MAX)]
Country = Annotated[str, Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]
PostalCode = Annotated[str, Field(pattern="^[A-Za-z0-9 -]*$", max_length=POSTAL_CODE_CHARS_MAX)]
DiscountCode = Annotated[str, Field(max_length=2 * CODE_CHARS_MAX, description="Read without regard to case")]


class CartLine(Request):
    """One SKU and how many seats; the newest release of ``channel`` is what is bought."""

    sku_id: Word
    quantity: int
    channel: Word = CHANNELS[0]


class Cart(Request):
    """1 to 50 lines, each of another SKU. Where the buyer is decides on tax and is not kept for it."""

    lines: list[CartLine]
    currency: Word
    discount_code: DiscountCode | None = None
    country: Country | None = None
    postal_code: PostalCode | None = None


class Tax(Document):
    """One jurisdiction's tax. ``rate_ppm``: millionths. ``inclusive``: the price holds it already."""

    jurisdiction: str
    rate_ppm: int
    amount_minor: int
    inclusive: bool


class QuotedLine(Document):
    """A line as it would be bought now; ``amount_minor`` is what it costs with discount, tax and rounding."""

    line_no: int
    sku_id: str
    sku_name: str
    seller_id: str
    release_id: str
    version: str
    quantity: int
    unit_price_minor: int
    discount_minor: int
    taxes: list[Tax]
    rounding_minor: int = Field(description="Of tax on top, to what can be charged in the currency")
    amount_minor: int


class Quote(Document):
    """What a cart costs now; nothing is held. ``price_minor`` is before discount, and before tax on top."""

    currency: str
    price_minor: int
    discount_minor: int
    tax_minor: int
    total_minor: int
    lines: list[QuotedLine]


def line_document(line: Line) -> dict[str, Any]:
    """Write a ``QuotedLine``."""
    return {
        "line_no": line.line_no,
        "sku_id": line.sku_id,
        "sku_name": line.sku_name,
        "seller_id": line.seller_id,
        "release_id": line.release_id,
        "version": line.version,
        "quantity": line.quantity,
        "unit_price_minor": line.unit_price_minor,
        "discount_minor": line.discount_minor,
        "taxes": [_tax(one) for one in line.taxes],
        "rounding_minor": line.rounding_minor,
        "amount_minor": line.amount_minor,
    }


def sums(lines: Sequence[Line]) -> dict[str, int]:
    """Write a cart's discount and tax."""
    return {
        "discount_minor": sum(line.discount_minor for line in lines),
        "tax_minor": sum(line.tax_minor for line in lines),
    }


def quote_document(currency: str, lines: Sequence[Line]) -> dict[str, Any]:
    """Write a ``Quote``."""
    return {
        "currency": currency,
        "price_minor": sum(line.price_minor for line in lines),
        **sums(lines),
        "total_minor": sum(line.amount_minor for line in lines),
        "lines": [line_document(line) for line in lines],
    }


def _tax(tax: TaxOfLine) -> dict[str, Any]:
    return {
        "jurisdiction": tax.jurisdiction,
        "rate_ppm": tax.rate_ppm,
        "amount_minor": tax.amount_minor,
        "inclusive": tax.inclusive,
    }
