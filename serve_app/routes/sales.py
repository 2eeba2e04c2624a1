"""Sales by day: a seller's own, or everybody's for operators.

Read from the projection that the consumer ``sales`` keeps, so a sale appears seconds after its payment
(docs/events.md). It is a count for people; the money that is owed is Finance's business.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from starlette.responses import Response

from domain.ids import is_id
from serve_app import examples
from serve_app.auth import OPERATOR, SELLER
from serve_app.calls import Call, reply
from serve_app.operations import Answer, Operation
from serve_app.paging import (
    QUERY,
    cursor_after,
    cursor_invalid,
    field_invalid,
    limit_of,
    query_of,
    read_cursor,
)
from serve_app.schemas.sales import SalesPage, sales_document
from storage.market.sales import SalesCursor, SalesDay

DAYS_DEFAULT = 30
DAYS_MAX = 366  # a year and its leap day; more is several questions
_DAY = {"type": "string", "format": "date"}
_CURRENCY_CHARS = 3


async def by_day(call: Call) -> Response:
    """GET /v1/sales."""
    query = query_of(call)
    limit = limit_of(query)
    first_day, last_day = _days(query, call.ports.clock().date())
    seller_id = call.caller.principal_id if call.caller.role == SELLER else None
    after = _read_place(query["cursor"]) if query.get("cursor") else None
    rows = await call.ports.sales.by_day(first_day, last_day, limit + 1, seller_id=seller_id, after=after)
    page = rows[:limit]
    cursor = cursor_after(_place(page[-1])) if len(rows) > limit else None
    body = {"items": [sales_document(row) for row in page], "next_cursor": cursor}
    return reply(200, body, {"Cache-Control": "no-store"})


def _days(query: Mapping[str, str], today: date) -> tuple[date, date]:
    last_day = _day(query, "to", today)
    first_day = _day(query, "from", last_day - timedelta(days=DAYS_DEFAULT - 1))
    if not 0 <= (last_day - first_day).days < DAYS_MAX:
        raise field_invalid("from", f"The days from ... to must be 1 to {DAYS_MAX}, the later one in 'to'.")
    return first_day, last_day


def _day(query: Mapping[str, str], name: str, otherwise: date) -> date:
    text = query.get(name)
    if text is None:
        return otherwise
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise field_invalid(name, "Give a day as YYYY-MM-DD.") from None
    # A year at either end leaves room for every interval that may be asked for.
    if not date(2, 1, 1) <= day <= date(9998, 12, 31):
        raise field_invalid(name, "Give a day between the years 2 and 9998.")
    return day


def _place(row: SalesDay) -> str:
    return f"{row.day.isoformat()} {row.sku_id} {row.currency}"


def _read_place(cursor: str) -> SalesCursor:
    day_text, _, rest = read_cursor(cursor).partition(" ")
    sku_id, _, currency = rest.partition(" ")
    try:
        day = date.fromisoformat(day_text)
    except ValueError:
        raise cursor_invalid() from None
    if not is_id("sku", sku_id) or len(currency) != _CURRENCY_CHARS or not currency.isalpha():
        raise cursor_invalid()
    return SalesCursor(day, sku_id, currency)


def operations() -> Sequence[Operation]:
    """List the operations on sales."""
    return (
        Operation(
            "GET",
            "/v1/sales",
            "listSales",
            "What was sold, by UTC day, SKU and currency: yours, or everybody's for operators",
            by_day,
            {200: Answer("A page", SalesPage, {"items": [examples.SALES_DAY], "next_cursor": None})},
            roles=frozenset({SELLER, OPERATOR}),
            query={
                **QUERY,
                "from": {
                    **_DAY,
                    "description": f"First day; {DAYS_DEFAULT} days in all if left out",
                },
                "to": {**_DAY, "description": "Last day; today if left out"},
            },
            problems=("query_invalid", "cursor_invalid"),
        ),
    )
