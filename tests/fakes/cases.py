"""Reconciliation cases in memory; what a reconciler would do to them is done by tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from domain.reconciliation.cases import Case
from storage.market.cases import CaseDecision, RunRow, refusal
from storage.market.commands import Recorded, Write
from tests.fakes.market_stores import FakeCommands


@dataclass
class FakeCases:
    """Cases by id; ``actions`` are what operators decided."""

    commands: FakeCommands
    cases: dict[str, Case] = field(default_factory=dict)
    made: list[RunRow] = field(default_factory=list)
    actions: list[tuple[str, CaseDecision]] = field(default_factory=list)

    async def page(
        self, status: str | None, kind: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[Case]:
        found = [
            one
            for one in self.cases.values()
            if status in (None, one.status)
            and kind in (None, one.kind)
            and (before is None or (one.opened_at, one.case_id) < before)
        ]
        return sorted(found, key=lambda one: (one.opened_at, one.case_id), reverse=True)[:limit]

    async def find(self, case_id: str) -> Case | None:
        return self.cases.get(case_id)

    async def decide(self, write: Write, decision: CaseDecision, body: Mapping[str, Any]) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is not None:
            return earlier
        case = self.cases.get(decision.case_id)
        if case is None or case.status != "open" or (decision.verb == "apply" and case.fix is None):
            raise refusal(case)
        await self.commands.claim(write, decision.case_id, body)
        self.actions.append((write.principal_id, decision))
        if decision.verb == "apply":
            self.cases[case.case_id] = replace(case, apply_requested_by=write.principal_id)
        else:
            self.cases[case.case_id] = replace(
                case,
                status="dismissed",
                closed_at=case.opened_at,
                closed_by=write.principal_id,
                reason=decision.reason,
                dismissal={
                    "action_id": decision.action_id,
                    "by": write.principal_id,
                    "at": case.opened_at.isoformat(),
                    "reason": decision.reason,
                },
            )
        return None

    async def runs(self, before: str, limit: int) -> list[RunRow]:
        found = [one for one in self.made if one.run_id < before]
        return sorted(found, key=lambda one: one.run_id, reverse=True)[:limit]
