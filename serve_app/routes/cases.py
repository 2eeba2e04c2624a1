"""Reconciliation, for operators: what differs between orders, Finance and Stripe, and what is to be done.

A case closes by itself when the difference is gone. An operator may have its proposed fix made, or close it
as it is; either takes a reason and leaves a record (invariant I12). Auditors may read. Refused: to change a
case, and to mend anything here. The reconciler works the fix out afresh and makes it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import get_args

from starlette.responses import Response

from domain.reconciliation.cases import CASE_PREFIX, DISMISSED_FOR, CaseStatus
from domain.reconciliation.facts import Kind
from serve_app import examples
from serve_app.auth import AUDITOR, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import answer, write_of
from serve_app.operations import Answer, Handler, Operation
from serve_app.paging import (
    QUERY,
    cursor_after,
    cursor_invalid,
    field_invalid,
    limit_of,
    page_of,
    query_of,
    read_cursor,
)
from serve_app.schemas.cases import (
    Case,
    CaseDecision,
    CasePage,
    ReconciliationRunPage,
    case_document,
    run_document,
)
from serve_app.schemas.dead_letters import DeadLetterReason
from storage.market.cases import CaseDecision as Decision
from storage.market.cases import Verb, refusal

ACTION_PREFIX, RUN_PREFIX = "act", "rec"
STATUSES: tuple[CaseStatus, ...] = get_args(CaseStatus)
_OPERATORS = frozenset({OPERATOR})
_READERS = frozenset({OPERATOR, AUDITOR})
_NO_STORE = {"Cache-Control": "no-store"}
CONSEQUENCES: dict[Verb, str] = {
    "apply": "The reconciler makes the fix within a minute, if it still applies, and closes the case "
    "once the difference is gone.",
    "close": "The case is closed as it is. It opens again if its amounts change, if the difference "
    f"comes back after it was gone, and after {DISMISSED_FOR.days} days.",
}


async def list_all(call: Call) -> Response:
    """GET /v1/ops/cases."""
    query = query_of(call)
    limit = limit_of(query)
    status = next((one for one in STATUSES if one == query.get("status")), None)
    if "status" in query and status is None:
        raise field_invalid("status", f"Give one of {', '.join(STATUSES)}, or leave it out.")
    kind = query.get("kind")
    if kind is not None and kind not in [one.value for one in Kind]:
        raise field_invalid("kind", "Give a kind of docs/reconciliation.md, or leave it out.")
    cursor = query.get("cursor")
    before = _read_place(cursor) if cursor else None
    rows = await call.ports.cases.page(status, kind, before, limit + 1)
    page = rows[:limit]
    last = f"{page[-1].opened_at.astimezone(UTC).isoformat()} {page[-1].case_id}" if page else ""
    body = {
        "items": [case_document(row) for row in page],
        "next_cursor": cursor_after(last) if len(rows) > limit else None,
    }
    return reply(200, body, _NO_STORE)


async def show(call: Call) -> Response:
    """GET /v1/ops/cases/{case_id}."""
    case = await call.ports.cases.find(call.parameters["case_id"])
    if case is None:
        raise refusal(None)
    return reply(200, case_document(case), _NO_STORE)


async def close(call: Call) -> Response:
    """POST /v1/ops/cases/{case_id}/close."""
    return await _decide(call, "close")


async def apply(call: Call) -> Response:
    """POST /v1/ops/cases/{case_id}/apply."""
    return await _decide(call, "apply")


async def runs(call: Call) -> Response:
    """GET /v1/ops/reconciliations."""
    before, limit = page_of(call, RUN_PREFIX)
    rows = await call.ports.cases.runs(before, limit + 1)
    cursor = cursor_after(rows[limit - 1].run_id) if len(rows) > limit else None
    return reply(
        200, {"items": [run_document(row) for row in rows[:limit]], "next_cursor": cursor}, _NO_STORE
    )


async def _decide(call: Call, verb: Verb) -> Response:
    value = await call.json()
    reason = read_model(DeadLetterReason, value).reason
    decision = Decision(verb, call.parameters["case_id"], call.ports.new_id(ACTION_PREFIX), reason)
    body = {
        "id": decision.case_id,
        "decision": "closed" if verb == "close" else "apply_requested",
        "action_id": decision.action_id,
        "reason": reason,
        "consequence": CONSEQUENCES[verb],
    }
    return answer(200, body, await call.ports.cases.decide(write_of(call, value), decision, body))


def _read_place(cursor: str) -> tuple[datetime, str]:
    at_text, _, case_id = read_cursor(cursor).partition(" ")
    try:
        at = datetime.fromisoformat(at_text)
    except ValueError:
        raise cursor_invalid() from None
    if at.tzinfo != UTC or not case_id.startswith(f"{CASE_PREFIX}_"):
        raise cursor_invalid()
    return at, case_id


def operations() -> Sequence[Operation]:
    """List the operations on cases and runs."""
    return (
        Operation(
            "GET",
            "/v1/ops/cases",
            "listCases",
            "Differences between orders, Finance and Stripe, the one opened last first",
            list_all,
            {200: Answer("A page", CasePage, {"items": [examples.CASE], "next_cursor": None})},
            roles=_READERS,
            query={
                **QUERY,
                "status": {"type": "string", "enum": list(STATUSES), "description": "Only these"},
                "kind": {"type": "string", "enum": [one.value for one in Kind], "description": "Only these"},
            },
            problems=("query_invalid", "cursor_invalid"),
        ),
        Operation(
            "GET",
            "/v1/ops/cases/{case_id}",
            "getCase",
            "One case",
            show,
            {200: Answer("The case", Case, examples.CASE)},
            roles=_READERS,
            problems=("case_not_found",),
        ),
        _decision("apply", "applyCase", "Have the proposed fix made", apply),
        _decision("close", "closeCase", "Accept the difference as it is", close),
        Operation(
            "GET",
            "/v1/ops/reconciliations",
            "listReconciliations",
            "Reconciliations that were run, newest first, with their reports",
            runs,
            {
                200: Answer(
                    "A page",
                    ReconciliationRunPage,
                    {"items": [examples.RECONCILIATION], "next_cursor": None},
                )
            },
            roles=_READERS,
            query=QUERY,
            problems=("query_invalid", "cursor_invalid"),
        ),
    )


def _decision(verb: Verb, operation_id: str, summary: str, handler: Handler) -> Operation:
    example = examples.CASE_APPLIED if verb == "apply" else examples.CASE_CLOSED
    problems = ("case_not_found", "case_closed", *(("case_not_applicable",) if verb == "apply" else ()))
    return Operation(
        "POST",
        f"/v1/ops/cases/{{case_id}}/{verb}",
        operation_id,
        summary,
        handler,
        {200: Answer("Done, or done before", CaseDecision, example)},
        roles=_OPERATORS,
        write=True,
        request=DeadLetterReason,
        request_example={"reason": example["reason"]},
        problems=problems,
    )
