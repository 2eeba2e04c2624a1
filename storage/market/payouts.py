"""Payouts in Postgres: adapter of ``domain.payouts.ports.PayoutStore``, and reads of single payouts.

The events are the truth and the row is their fence, index and to-do (ADR 0012). A commit is one statement.
Refused: to change whom a payout pays; the database refuses that to everybody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from domain.payouts.events import KIND_OF, Event, decode_event, encode_event
from domain.payouts.ports import DuePayout, PayoutFigures, StoredPayout
from domain.payouts.state import Payout, fold
from storage.market.pool import Pool, borrow, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "payouts.sql").items()}
ERROR_CHARS_MAX = 500


@dataclass(frozen=True, slots=True)
class ListedPayout:
    """A payout, and where its next step hangs: the last error, and the code that it was given up with."""

    payout: Payout
    last_error: str | None
    dead_code: str | None


class PostgresPayouts:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim_due(self, limit: int, lease_s: float) -> Sequence[DuePayout]:
        """Claim due payouts, longest due first; of one payee and currency the first that was approved."""
        rows = await fetch(self._pool, SQL["claim_due"], {"limit": limit, "lease_s": lease_s})
        return [DuePayout(*row) for row in rows]

    async def load(self, payout_id: str) -> StoredPayout | None:
        """Read a payout's history."""
        rows = await fetch(self._pool, SQL["load"], {"payout_id": payout_id})
        if not rows:
            return None
        return StoredPayout([decode_event(kind, data) for kind, data, _ in rows], rows[0][2])

    async def commit(
        self, payout: Payout, fence: int, nudges: int, events: Sequence[Event], *, rests: bool
    ) -> bool:
        """Append ``events``, which led to ``payout``, under the fence; False when it has moved on.

        ``rests``: nothing is due afterwards, unless somebody asked again since ``nudges`` were read.
        """
        values = {
            "payout_id": payout.payout_id,
            "fence": fence,
            "count": len(events),
            "status": payout.status.value,
            "rests": rests,
            "nudges": nudges,
            "events": _json([[KIND_OF[type(event)], encode_event(event)] for event in events]),
        }
        return bool(await fetch(self._pool, SQL["commit"], values))

    async def rest(self, payout_id: str, nudges: int) -> None:
        """Leave a finished payout alone, unless somebody asked again since ``nudges`` were read."""
        await self._execute("rest", {"payout_id": payout_id, "nudges": nudges})

    async def wait(self, payout_id: str, nudges: int, delay_s: float) -> None:
        """Look again after ``delay_s``, or at once if somebody asked since ``nudges`` were read."""
        await self._execute("wait", {"payout_id": payout_id, "nudges": nudges, "delay_s": delay_s})

    async def wake(self, account_id: str) -> int:
        """Have the payouts that wait for an account looked at now; returns how many."""
        return len(await fetch(self._pool, SQL["wake"], {"account_id": account_id}))

    async def nudge(self, payout_id: str) -> bool:
        """Have a payout looked at now; False when there is none."""
        return bool(await fetch(self._pool, SQL["nudge"], {"payout_id": payout_id}))

    async def defer(self, payout_id: str, delay_s: float, error: str, *, unforeseen: bool = False) -> None:
        """Try again after ``delay_s`` and keep why."""
        values = {"payout_id": payout_id, "delay_s": delay_s, "unforeseen": unforeseen}
        await self._execute("defer", {**values, "error": error[:ERROR_CHARS_MAX]})

    async def bury(self, payout_id: str, code: str, error: str) -> None:
        """Give up until an operator runs the batch again."""
        await self._execute("bury", {"payout_id": payout_id, "code": code, "error": error[:ERROR_CHARS_MAX]})

    async def figures(self) -> PayoutFigures:
        """Count payouts by status, stuck ones, and what the last batches carry by reason."""
        ((by_status, stuck, carried),) = await fetch(self._pool, SQL["figures"], {})
        return PayoutFigures(by_status, stuck, carried)

    async def page(self, before: str, limit: int, payee_id: str | None) -> list[ListedPayout]:
        """List payouts, newest first, below the id ``before``; of one payee or of all."""
        return await self._listed(before=before, limit=limit, payee_id=payee_id)

    async def find(self, payout_id: str, payee_id: str | None) -> ListedPayout | None:
        """Read one payout; with ``payee_id`` only that payee's."""
        found = await self._listed(payee_id=payee_id, payout_id=payout_id)
        return found[0] if found else None

    async def gross_sold(self, order_ids: Sequence[str], payee_id: str) -> Mapping[str, int]:
        """Return what buyers paid for a payee's own lines, without tax, by order; others are left out."""
        if not order_ids:
            return {}
        values = {"order_ids": _json(list(order_ids)), "payee_id": payee_id}
        return dict(await fetch(self._pool, SQL["gross_sold"], values))

    async def _listed(
        self, *, payee_id: str | None, before: str = "~", limit: int = 1, payout_id: str | None = None
    ) -> list[ListedPayout]:
        values = {"before": before, "limit": limit, "payee_id": payee_id, "payout_id": payout_id}
        return [_listed(*row) for row in await fetch(self._pool, SQL["payouts"], values)]

    async def _execute(self, name: str, values: Mapping[str, Any]) -> None:
        async with borrow(self._pool) as connection:
            await connection.execute(SQL[name], values)


def _listed(
    payout_id: str, last_error: str | None, dead_code: str | None, events: Sequence[tuple[str, Any]]
) -> ListedPayout:
    payout = fold(payout_id, [decode_event(kind, data) for kind, data in events])
    return ListedPayout(payout, last_error, dead_code)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
