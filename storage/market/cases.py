"""Reconciliation cases and runs in Postgres, as operators read them and decide about them.

A decision is written by one statement, with its idempotency key and the operator's action (invariant I12).
Nothing is mended here: a fix is asked for, and the reconciler makes it (``actors.reconciliation``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from domain.errors import ConflictError, NotFoundError
from domain.reconciliation.cases import Case, CaseStatus
from storage.market.commands import Commands, Recorded, Write, parameters
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "cases.sql").items()}
Verb = Literal["close", "apply"]
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_AFTER_EVERY_ID = "~"


@dataclass(frozen=True, slots=True)
class CaseDecision:
    """What an operator decided about a case, and why. ``action_id`` names the record of it."""

    verb: Verb
    case_id: str
    action_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run that was made, with its report."""

    run_id: str
    since: datetime
    until: datetime
    daily: bool
    complete: bool
    started_at: datetime
    finished_at: datetime
    report: Mapping[str, Any]


class Cases:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    async def page(
        self, status: CaseStatus | None, kind: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[Case]:
        """List cases, the one opened last first, below ``before``: (opened at, case id)."""
        before_at, before_id = before or (_END_OF_TIME, _AFTER_EVERY_ID)
        values = {
            "status": status,
            "kind": kind,
            "before": before_at,
            "before_id": before_id,
            "limit": limit,
        }
        return [Case(*row) for row in await fetch(self._pool, SQL["page"], values)]

    async def find(self, case_id: str) -> Case | None:
        """Read one case."""
        rows = await fetch(self._pool, SQL["find"], {"case_id": case_id})
        return Case(*rows[0]) if rows else None

    async def decide(self, write: Write, decision: CaseDecision, body: Mapping[str, Any]) -> Recorded | None:
        """Close a case or ask for its fix, once per key; an earlier, equal request's record or None.

        Raises:
            NotFoundError: ``case_not_found``.
            ConflictError: ``case_closed``; or ``case_not_applicable``, it has no fix of its own.
            RejectedError: ``idempotency_key_reused``.
        """
        values: dict[str, Any] = {
            **parameters(write, decision.case_id, body),
            "case_id": decision.case_id,
            "action_id": decision.action_id,
            "reason": decision.reason,
        }
        if await fetch(self._pool, SQL[decision.verb], values):
            return None
        earlier = await self._commands.find(write)
        if earlier is not None:
            return earlier
        case = await self.find(decision.case_id)
        raise refusal(case)

    async def runs(self, before: str, limit: int) -> list[RunRow]:
        """List runs with ids below ``before``, newest first."""
        return [
            RunRow(*row) for row in await fetch(self._pool, SQL["runs"], {"before": before, "limit": limit})
        ]


def refusal(case: Case | None) -> NotFoundError | ConflictError:
    """Return why a decision about a case is refused."""
    if case is None:
        return NotFoundError(
            "case_not_found", "There is no such case. GET /v1/ops/cases lists those there are."
        )
    if case.status != "open":
        return ConflictError("case_closed", f"The case is {case.status} already. Nothing was changed.")
    return ConflictError(
        "case_not_applicable", f"No fix can be made by itself. {case.proposal} Nothing was changed."
    )
