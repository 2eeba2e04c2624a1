"""Discount codes in Postgres: rules, and who holds a use of them.

A use is counted in the transaction that places the order (``take_use``) and given back in the one that ends
it unpaid (``give_use_back``). The code's row lock puts orders with the same code in a queue, and so no code
is ever used more often than it may; a CHECK on the row says the same. Whether a code fits a cart is decided
in ``domain.pricing.discounts``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow

from domain.errors import ConflictError
from domain.pricing.discounts import Discount
from storage.market.commands import Commands, Recorded, Write
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "discounts.sql").items()}
FREE_ORDERS_A_DAY_MAX = 20  # of one buyer: each makes us sign and seal, and nobody pays for that


_RULE = tuple(one.name for one in fields(Discount))  # in the queries' order, before the uses


@dataclass(frozen=True, slots=True)
class DiscountRow:
    """A code's rule and how often it is in use."""

    discount: Discount
    uses: int


class Discounts:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    async def create(
        self,
        write: Write,
        discount: Discount,
        created_at: datetime,
        body: Mapping[str, Any],
        *,
        action_id: str,
        reason: str,
    ) -> Recorded | None:
        """Make a code; an operator's is put on record with its reason.

        Raises:
            ConflictError: ``discount_code_taken``.
            RejectedError: ``idempotency_key_reused``.
        """
        values = {
            "code": discount.code,
            "seller_id": discount.seller_id,
            "percent_bps": discount.percent_bps,
            "amounts_minor": orjson.dumps(discount.amounts_minor).decode(),
            "minimum_minor": orjson.dumps(discount.minimum_minor).decode(),
            "sku_ids": sorted(discount.sku_ids),
            "uses_max": discount.uses_max,
            "uses_per_buyer_max": discount.uses_per_buyer_max,
            "valid_from": discount.valid_from,
            "valid_until": discount.valid_until,
            "created_at": created_at,
            "action_id": action_id,
            "reason": reason,
        }
        try:
            return await self._commands.run_once(
                SQL["create_discount"], write, discount.discount_id, body, values
            )
        except UniqueViolation:
            raise ConflictError(
                "discount_code_taken", f"The code {discount.code} exists. Choose another one."
            ) from None

    async def end(
        self,
        write: Write,
        discount_id: str,
        body: Mapping[str, Any],
        *,
        by_operator: bool,
        action_id: str,
        reason: str,
    ) -> Recorded | None:
        """End a code for good; orders that hold a use of it go on.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        values = {"by_operator": by_operator, "action_id": action_id, "reason": reason}
        return await self._commands.run_once(SQL["end_discount"], write, discount_id, body, values)

    async def find_code(self, code: str) -> DiscountRow | None:
        """Read a code, given as it is stored."""
        rows = await fetch(self._pool, SQL["discount_of_code"], {"code": code})
        return _row(rows[0]) if rows else None

    async def find(self, discount_id: str) -> DiscountRow | None:
        """Read a code by its id."""
        rows = await fetch(self._pool, SQL["discount"], {"discount_id": discount_id})
        return _row(rows[0]) if rows else None

    async def page(self, seller_id: str | None, before: str, limit: int) -> list[DiscountRow]:
        """List a seller's codes, or everybody's, newest first, with ids below ``before``."""
        name = "all_discounts" if seller_id is None else "discounts_of_seller"
        values = {"seller_id": seller_id, "before": before, "limit": limit}
        return [_row(row) for row in await fetch(self._pool, SQL[name], values)]


async def take_use(
    connection: AsyncConnection[TupleRow], discount_id: str, order_id: str, buyer_id: str
) -> None:
    """Count a use for an order that this transaction places.

    Raises:
        ConflictError: ``discount_used_up``; the transaction must not be committed.
    """
    values = {"discount_id": discount_id, "order_id": order_id, "buyer_id": buyer_id}
    counted = await (await connection.execute(SQL["count_use"], values)).fetchall()
    if not counted:
        raise ConflictError("discount_used_up", "This code was used as often as it may be.")
    values["uses_per_buyer_max"] = counted[0][0]
    if not await (await connection.execute(SQL["hold_use"], values)).fetchall():
        raise ConflictError("discount_used_up", "You have used this code as often as you may.")


async def give_use_back(connection: AsyncConnection[TupleRow], order_id: str) -> None:
    """Give the use back that an order holds, in the transaction that ends it."""
    await connection.execute(SQL["give_use_back"], {"order_id": order_id})


async def lock_free_orders(connection: AsyncConnection[TupleRow], buyer_id: str) -> None:
    """Hold other free orders of this buyer up until the transaction's end, so that they can be counted."""
    await connection.execute(SQL["lock_buyer"], {"buyer_id": buyer_id})


async def require_free_order(connection: AsyncConnection[TupleRow], buyer_id: str) -> None:
    """Refuse a free order, just placed, of a buyer who has had too many within a day.

    Raises:
        ConflictError: ``free_orders_full``; the transaction must not be committed.
    """
    values = {"buyer_id": buyer_id, "counted_max": FREE_ORDERS_A_DAY_MAX + 1}
    ((lately,),) = await (await connection.execute(SQL["free_orders_lately"], values)).fetchall()
    if lately > FREE_ORDERS_A_DAY_MAX:
        raise ConflictError(
            "free_orders_full",
            f"You have had {FREE_ORDERS_A_DAY_MAX} free orders within a day. Come back tomorrow.",
        )


def _row(row: TupleRow) -> DiscountRow:
    values = dict(zip(_RULE, row, strict=False))
    return DiscountRow(Discount(**{**values, "sku_ids": frozenset(values["sku_ids"])}), row[-1])
