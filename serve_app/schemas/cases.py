"""Bodies of reconciliation cases and runs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from domain.reconciliation.cases import Case as CaseRow
from domain.reconciliation.facts import Kind
from serve_app.schemas.base import Document, rfc3339
from storage.market.cases import RunRow

CaseStatusWord = Literal["open", "resolved", "dismissed"]


class CaseDismissal(Document):
    """Who accepted a difference as it was, when and why; ``action_id`` is the record of it."""

    action_id: str | None
    by: str
    at: str
    reason: str


class Case(Document):
    """A difference between orders, Finance and Stripe. Amounts are minor units; null where there is none."""

    id: str
    kind: Kind
    status: CaseStatusWord
    order_id: str | None
    subject: str = Field(description="Stripe's object, an entry's key, or a line")
    currency: str | None
    expected_minor: int | None
    actual_minor: int | None
    detail: str
    proposal: str
    applicable: bool = Field(description="Whether `apply` can make the fix")
    evidence: dict[str, Any]
    happened_at: str
    opened_at: str
    changed_at: str
    apply_requested_by: str | None
    applied_at: str | None
    closed_at: str | None
    closed_by: str | None = Field(description="Null on a closed one: it closed by itself")
    reason: str | None
    dismissal: CaseDismissal | None = Field(description="The last one, also of a case that came back")
    gone_at: str | None = Field(description="Of a dismissed one: a run has not found it any more")


class CasePage(Document):
    """Cases, the one opened last first."""

    items: list[Case]
    next_cursor: str | None


class CaseDecision(Document):
    """What was done, under which record, and what follows from it."""

    id: str
    decision: Literal["closed", "apply_requested"]
    action_id: str
    reason: str
    consequence: str


class ReconciliationRun(Document):
    """A run: what it looked at, and its report."""

    id: str
    since: str
    until: str
    daily: bool
    complete: bool
    started_at: str
    finished_at: str
    report: dict[str, Any]


class ReconciliationRunPage(Document):
    """Runs, newest first."""

    items: list[ReconciliationRun]
    next_cursor: str | None


def case_document(case: CaseRow) -> dict[str, Any]:
    """Write a ``Case``."""
    return {
        "id": case.case_id,
        "kind": case.kind,
        "status": case.status,
        "order_id": case.order_id or None,
        "subject": case.subject,
        "currency": case.currency or None,
        "expected_minor": case.expected_minor,
        "actual_minor": case.actual_minor,
        "detail": case.detail,
        "proposal": case.proposal,
        "applicable": case.fix is not None,
        "evidence": case.evidence,
        "happened_at": rfc3339(case.happened_at),
        "opened_at": rfc3339(case.opened_at),
        "changed_at": rfc3339(case.changed_at),
        "apply_requested_by": case.apply_requested_by,
        "applied_at": None if case.applied_at is None else rfc3339(case.applied_at),
        "closed_at": None if case.closed_at is None else rfc3339(case.closed_at),
        "closed_by": case.closed_by,
        "reason": case.reason,
        "dismissal": _dismissal(case.dismissal),
        "gone_at": None if case.gone_at is None else rfc3339(case.gone_at),
    }


def _dismissal(dismissal: Mapping[str, str | None] | None) -> dict[str, str | None] | None:
    if dismissal is None:
        return None
    return {**dismissal, "at": rfc3339(datetime.fromisoformat(str(dismissal["at"])))}


def run_document(run: RunRow) -> dict[str, Any]:
    """Write a ``ReconciliationRun``."""
    return {
        "id": run.run_id,
        "since": rfc3339(run.since),
        "until": rfc3339(run.until),
        "daily": run.daily,
        "complete": run.complete,
        "started_at": rfc3339(run.started_at),
        "finished_at": rfc3339(run.finished_at),
        "report": dict(run.report),
    }
