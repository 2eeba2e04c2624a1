"""Sales by day, in memory: rows that tests put in, filtered and paged as Postgres does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from storage.market.sales import SalesCursor, SalesDay

if TYPE_CHECKING:
    from tests.fakes.ingress import FakeMarket


@dataclass
class FakeSales:
    """See the module; a SKU's seller is the catalogue's."""

    market: FakeMarket
    rows: list[SalesDay] = field(default_factory=list)

    async def by_day(
        self,
        first_day: date,
        last_day: date,
        limit: int,
        *,
        seller_id: str | None = None,
        after: SalesCursor | None = None,
    ) -> Sequence[SalesDay]:
        cursor = after or SalesCursor()
        chosen = [
            row
            for row in self.rows
            if first_day <= row.day <= last_day
            and (row.day, row.sku_id, row.currency) > (cursor.day, cursor.sku_id, cursor.currency)
            and seller_id in (None, self.market.catalogue.skus[row.sku_id].seller_id)
        ]
        return sorted(chosen, key=lambda row: (row.day, row.sku_id, row.currency))[:limit]
