"""What decides about prices besides the catalogue: governed documents, discount codes, tax tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from domain.errors import ConflictError, DependencyError
from domain.pricing.discounts import Discount
from domain.pricing.taxes import TaxQuestion, TaxTable
from domain.proposals.documents import GENESIS, Document, Kind
from storage.market.commands import Recorded, Write
from storage.market.discounts import DiscountRow
from storage.market.proposals import Governing
from storage.market.taxes import TaxTableVersion
from tests.fakes.market_stores import FakeCommands
from tests.fakes.orders import FakeClock, FakeOrderStore


@dataclass
class FakeGoverned:
    documents: dict[Kind, Document] = field(default_factory=lambda: dict(GENESIS))
    failure: Exception | None = None

    async def current(self, kind: Kind) -> Governing:
        if self.failure is not None:
            raise self.failure
        return Governing(1, self.documents[kind])

    def change(self, kind: Kind, **changes: Any) -> None:
        self.documents[kind] = replace(self.documents[kind], **changes)


@dataclass
class FakeDiscounts:
    """Codes; their uses are the order store's, which counts them as it places orders."""

    commands: FakeCommands
    clock: FakeClock
    store: FakeOrderStore
    actions: list[tuple[str, str]] = field(default_factory=list)

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
        earlier = await self.commands.find(write)
        if earlier is None:
            if await self.find_code(discount.code):
                raise ConflictError("discount_code_taken", "taken")
            await self.commands.claim(write, discount.discount_id, body)
            self.store.discounts[discount.discount_id] = discount
            if discount.seller_id is None:
                self.actions.append(("discount.create", reason))
        return earlier

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
        earlier = await self.commands.claim(write, discount_id, body)
        if earlier is None:
            ended = replace(self.store.discounts[discount_id], ended_at=self.clock())
            self.store.discounts[discount_id] = ended
            if by_operator:
                self.actions.append(("discount.end", reason))
        return earlier

    async def find_code(self, code: str) -> DiscountRow | None:
        found = [one for one in self.store.discounts.values() if one.code == code]
        return self._row(found[0]) if found else None

    async def find(self, discount_id: str) -> DiscountRow | None:
        found = self.store.discounts.get(discount_id)
        return self._row(found) if found else None

    async def page(self, seller_id: str | None, before: str, limit: int) -> list[DiscountRow]:
        rows = [
            self._row(one)
            for one in self.store.discounts.values()
            if one.discount_id < before and seller_id in (None, one.seller_id)
        ]
        return sorted(rows, key=lambda row: row.discount.discount_id, reverse=True)[:limit]

    def _row(self, discount: Discount) -> DiscountRow:
        uses = [used for used, _ in self.store.discount_uses.values() if used == discount.discount_id]
        return DiscountRow(discount, len(uses))


@dataclass
class FakeTaxTables:
    commands: FakeCommands
    clock: FakeClock
    versions: list[TaxTableVersion] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.versions.append(TaxTableVersion(1, TaxTable({}, "untaxed"), "migration", "none", self.clock()))

    async def taxes(self, question: TaxQuestion) -> Any:
        return (await self.current()).table.taxes(question)

    async def current(self) -> TaxTableVersion:
        if not self.versions:
            raise DependencyError("tax_table_missing", "none", 5)
        return self.versions[-1]

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
        earlier = await self.commands.find(write)
        if earlier is None:
            if self.versions[-1].version != base_version:
                raise ConflictError("tax_table_changed", "changed")
            await self.commands.claim(write, f"tax_table:{base_version + 1}", body)
            version = TaxTableVersion(base_version + 1, table, write.principal_id, reason, self.clock())
            self.versions.append(version)
        return earlier
