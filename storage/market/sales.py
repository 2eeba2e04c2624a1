"""Sales by SKU, UTC day of payment and currency: a projection of the order events, and its reads.

An order counts once it is paid, under the day of its ``order.paid`` event, which is also the day that
Finance books. Lines come from ``order.created`` in the event table, where they are final before any event
leaves. Gross is the price less the discount: tax on top is not in it, and neither the platform's fee nor
later refunds are taken off. An order that costs nothing counts under the day on which it was granted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import orjson
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from domain.errors import RejectedError
from domain.events.ports import EventRecord
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "sales.sql").items()}
SOLD = frozenset({"order.paid", "order.granted"})
PAGE_MAX = 500  # rows of one answer


class SalesProjection:
    """The consumer ``sales``: writes ``market.sales_by_day``."""

    name = "sales"

    async def apply(self, transaction: AsyncConnection[TupleRow], records: Sequence[EventRecord]) -> None:
        """Add the orders that were paid.

        Raises:
            RejectedError: ``sales_order_incomplete``, an order's lines cannot be read.
        """
        paid = [{"order_id": one.order_id, "seq": one.seq} for one in records if one.kind in SOLD]
        if not paid:
            return
        values = {"paid": orjson.dumps(paid).decode()}
        counted = await (await transaction.execute(SQL["add_sales"], values)).fetchone()
        if counted is None or counted[0] != len(paid):
            raise RejectedError(
                "sales_order_incomplete", "A paid order has no readable order.created with lines."
            )


@dataclass(frozen=True, slots=True)
class SalesDay:
    """What one SKU sold on one UTC day in one currency; ``gross_minor`` in minor units."""

    day: date
    sku_id: str
    currency: str
    orders: int
    units: int
    gross_minor: int


@dataclass(frozen=True, slots=True)
class SalesCursor:
    """The last row of the page before; the default lies before every row."""

    day: date = date.min
    sku_id: str = ""
    currency: str = ""


class Sales:
    """Reads; raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def by_day(
        self,
        first_day: date,
        last_day: date,
        limit: int,
        *,
        seller_id: str | None = None,
        after: SalesCursor | None = None,
    ) -> Sequence[SalesDay]:
        """List sales from ``first_day`` to ``last_day``, both included, sorted by day, SKU and currency.

        ``seller_id`` limits them to that seller's SKUs. At most ``PAGE_MAX`` rows.
        """
        cursor = after or SalesCursor()
        values = {
            "seller_id": seller_id,
            "first_day": first_day,
            "last_day": last_day,
            "after_day": cursor.day,
            "after_sku_id": cursor.sku_id,
            "after_currency": cursor.currency,
            "limit": min(limit, PAGE_MAX),
        }
        query = SQL["sales_by_day" if seller_id is None else "sales_of_seller"]
        return [SalesDay(*row) for row in await fetch(self._pool, query, values)]
