"""The tax table in Postgres: versions that only grow in number, the newest in force, read every few seconds.

Adapter of ``domain.pricing.taxes.TaxCalculator``. A change is felt within ``FRESH_S``; an order keeps the tax
that it was placed with. Without a table, or with one that this build cannot read, nothing is sold.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg.errors import UniqueViolation

from domain.errors import ConflictError, DependencyError, RejectedError
from domain.orders.lines import Tax
from domain.pricing.taxes import TaxQuestion, TaxTable
from storage.market.commands import Commands, Recorded, Write
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "taxes.sql").items()}
FRESH_S = 5.0  # as the governed documents
RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class TaxTableVersion:
    """A table as it was set."""

    version: int
    table: TaxTable
    set_by: str
    reason: str
    set_at: datetime


class TaxTables:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._commands = Commands(pool)
        self._monotonic = monotonic
        self._table: TaxTable | None = None
        self._until_s = float("-inf")
        self._reading = asyncio.Lock()

    async def taxes(self, question: TaxQuestion) -> Sequence[tuple[Tax, ...]]:
        """See the port."""
        if self._monotonic() >= self._until_s:
            async with self._reading:
                if self._monotonic() >= self._until_s:
                    until_s = self._monotonic() + FRESH_S
                    self._table = (await self.current()).table
                    self._until_s = until_s
        assert self._table is not None, "it was read"
        return self._table.taxes(question)

    async def current(self) -> TaxTableVersion:
        """Read the table in force.

        Raises:
            DependencyError: ``tax_table_missing``; there is none, or none that this build can read.
        """
        rows = await fetch(self._pool, SQL["tax_table"], {})
        if not rows:
            raise _missing("There is no tax table. An operator has to set one.")
        version, document, *rest = rows[0]
        try:
            return TaxTableVersion(version, TaxTable.from_json(document), *rest)
        except RejectedError as unsound:
            raise _missing(f"Tax table {version} cannot be read: {unsound.detail}") from unsound

    async def replace(
        self,
        write: Write,
        table: TaxTable,
        base_version: int,
        body: Mapping[str, Any],
        *,
        action_id: str,
        reason: str,
    ) -> Recorded | None:
        """Put a table in force on top of ``base_version``.

        Raises:
            ConflictError: ``tax_table_changed``; another was set meanwhile.
            RejectedError: ``idempotency_key_reused``.
        """
        values = {
            "base_version": base_version,
            "document": orjson.dumps(table.as_json()).decode(),
            "action_id": action_id,
            "reason": reason,
        }
        subject = f"tax_table:{base_version + 1}"
        statement = (SQL["set_tax_table"], write, subject, body, values)
        try:
            earlier = await self._commands.run_once(*statement)
        except UniqueViolation:
            raise _changed() from None
        if earlier is None and (await self._commands.find(write)) is None:
            raise _changed()
        return earlier


def _changed() -> ConflictError:
    return ConflictError(
        "tax_table_changed", "Another table was set meanwhile. Look at it, and begin with it."
    )


def _missing(detail: str) -> DependencyError:
    return DependencyError("tax_table_missing", detail, RETRY_AFTER_S)
