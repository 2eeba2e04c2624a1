"""Bodies of price lists, discount codes and tax tables, as sellers and operators set them."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field

from domain.errors import RejectedError
from domain.pricing.discounts import CODE_CHARS_MAX, SKUS_MAX, USES_MAX, Discount
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.catalogue import Prices
from serve_app.schemas.dead_letters import REASON_CHARS_MAX, REASON_CHARS_MIN, REASON_PATTERN
from storage.market.catalogue import PriceList as PriceListRow
from storage.market.discounts import DiscountRow
from storage.market.taxes import TaxTableVersion

_TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z$"
Time = Annotated[str, Field(pattern=_TIME_PATTERN, description="RFC 3339 in UTC")]
Uses = Annotated[int, Field(ge=1, le=USES_MAX)]
Reason = Annotated[
    str, Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN)
]


class NewPriceList(Request):
    """Prices in place of those in force, which are the list of number ``base_version``."""

    base_version: Annotated[int, Field(ge=1)]
    prices: Prices


class PriceList(Document):
    """A SKU's prices as they were set once."""

    version: int
    prices: Prices
    set_by: str
    set_at: str


class PriceListPage(Document):
    """A SKU's price lists, newest first."""

    items: list[PriceList]
    next_cursor: str | None


class NewDiscount(Request):
    """A code that takes ``percent_bps``, or ``amounts_minor`` by currency, off what it is for."""

    code: Annotated[str, Field(max_length=2 * CODE_CHARS_MAX)]
    percent_bps: Annotated[int, Field(ge=1, le=10_000, description="1,000 is 10 %")] | None = None
    amounts_minor: Prices = Field(default_factory=dict)
    minimum_minor: Prices = Field(
        default_factory=dict, description="Least price of what it is for; other currencies are refused"
    )
    sku_ids: list[str] = Field(
        default_factory=list, max_length=SKUS_MAX, description="None: all that it may touch"
    )
    uses_max: Uses | None = None
    uses_per_buyer_max: Uses | None = None
    valid_from: Time | None = None
    valid_until: Time | None = None
    reason: Reason | None = None


class EndDiscount(Request):
    """Why a code ends; operators must say it."""

    reason: Reason | None = None


class DiscountDocument(Document):
    """A code and how many orders hold a use of it. ``seller_id`` None: the platform's own."""

    id: str
    code: str
    seller_id: str | None
    percent_bps: int | None
    amounts_minor: Prices
    minimum_minor: Prices
    sku_ids: list[str]
    uses_max: int | None
    uses_per_buyer_max: int | None
    valid_from: str
    valid_until: str | None
    ended: bool
    uses: int


class DiscountPage(Document):
    """Codes, newest first."""

    items: list[DiscountDocument]
    next_cursor: str | None


class TaxRate(Request):
    """One jurisdiction's rate in a country; category ``*`` is every one without rates of its own."""

    country: str
    category: str
    jurisdiction: str
    rate_ppm: int
    inclusive: bool


class TaxTableBody(Request):
    """Rates, and what becomes of a sale to a country that they do not name: ``untaxed`` or ``refused``."""

    rates: list[TaxRate]
    elsewhere: str


class NewTaxTable(Request):
    """A whole table in place of the one in force, which is of number ``base_version``."""

    base_version: Annotated[int, Field(ge=1)]
    table: TaxTableBody
    reason: Reason


class TaxTable(Document):
    """The table in force."""

    version: int
    table: TaxTableBody
    set_by: str
    reason: str
    set_at: str


def price_list_document(row: PriceListRow) -> dict[str, Any]:
    """Write a ``PriceList``."""
    return {
        "version": row.version,
        "prices": dict(row.prices),
        "set_by": row.set_by,
        "set_at": rfc3339(row.set_at),
    }


def discount_document(row: DiscountRow) -> dict[str, Any]:
    """Write a ``DiscountDocument``."""
    rule = row.discount
    return {
        "id": rule.discount_id,
        "code": rule.code,
        "seller_id": rule.seller_id,
        "percent_bps": rule.percent_bps,
        "amounts_minor": dict(rule.amounts_minor),
        "minimum_minor": dict(rule.minimum_minor),
        "sku_ids": sorted(rule.sku_ids),
        "uses_max": rule.uses_max,
        "uses_per_buyer_max": rule.uses_per_buyer_max,
        "valid_from": rfc3339(rule.valid_from),
        "valid_until": None if rule.valid_until is None else rfc3339(rule.valid_until),
        "ended": rule.ended_at is not None,
        "uses": row.uses,
    }


def tax_table_document(row: TaxTableVersion) -> dict[str, Any]:
    """Write a ``TaxTable``."""
    return {
        "version": row.version,
        "table": row.table.as_json(),
        "set_by": row.set_by,
        "reason": row.reason,
        "set_at": rfc3339(row.set_at),
    }


def discount_of(
    body: NewDiscount, code: str, discount_id: str, seller_id: str | None, now: datetime
) -> Discount:
    """Read a new code's rule; without ``valid_from`` it holds from ``now``.

    Raises:
        RejectedError: ``discount_invalid``; there is no such day or hour.
    """
    return Discount(
        discount_id=discount_id,
        code=code,
        seller_id=seller_id,
        percent_bps=body.percent_bps,
        amounts_minor=body.amounts_minor,
        minimum_minor=body.minimum_minor,
        sku_ids=frozenset(body.sku_ids),
        uses_max=body.uses_max,
        uses_per_buyer_max=body.uses_per_buyer_max,
        valid_from=now if body.valid_from is None else _time(body.valid_from),
        valid_until=None if body.valid_until is None else _time(body.valid_until),
    )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise RejectedError("discount_invalid", f"There is no time {text}.") from None
