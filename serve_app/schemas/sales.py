"""Bodies of sales figures."""

from typing import Any

from serve_app.schemas.base import Document
from storage.market.sales import SalesDay as SalesDayRow


class SalesDay(Document):
    """What one SKU sold on one UTC day in one currency. ``gross_minor`` is what buyers paid."""

    day: str
    sku_id: str
    currency: str
    orders: int
    units: int
    gross_minor: int


class SalesPage(Document):
    """Days of sales, oldest first, then by SKU and currency."""

    items: list[SalesDay]
    next_cursor: str | None


def sales_document(row: SalesDayRow) -> dict[str, Any]:
    """Write a row of ``storage.market.sales``."""
    return {
        "day": row.day.isoformat(),
        "sku_id": row.sku_id,
        "currency": row.currency,
        "orders": row.orders,
        "units": row.units,
        "gross_minor": row.gross_minor,
    }
