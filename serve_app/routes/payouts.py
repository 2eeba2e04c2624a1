"""Payout batches, for operators: draft, approve, withdraw, run, read.

Two operators are needed for a batch: whoever drafted it cannot approve it, here and in the database. Approval
makes its payouts due; the runner sends them. ``run`` makes due now what waits for its next try or is stuck.
Refused: to change a batch's lines, or a payout's account or amount.
"""

from collections.abc import Sequence

from starlette.responses import Response

from domain.ids import is_id
from domain.payouts.refusals import refusal
from serve_app.auth import AUDITOR, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Handler, Operation
from serve_app.paging import QUERY, cursor_after, cursor_invalid, limit_of, page_of, query_of, read_cursor
from serve_app.schemas import payouts as bodies
from storage.market.commands import Recorded

BATCH_PREFIX, ACTION_PREFIX = "pob", "act"
_OPERATORS = frozenset({OPERATOR})
_READERS = frozenset({OPERATOR, AUDITOR})
_NO_STORE = {"Cache-Control": "no-store"}
FINANCE = ("finance_unavailable", "finance_misconfigured")


async def draft(call: Call) -> Response:
    """POST /v1/ops/payouts."""
    value = await call.json()
    body = read_model(bodies.NewPayoutBatch, value)
    batch_id, action_id = call.ports.new_id(BATCH_PREFIX), call.ports.new_id(ACTION_PREFIX)
    write = write_of(call, value)
    earlier = await call.ports.payouts.draft(
        write, batch_id, action_id, body.period, body.currency, body.reason
    )
    return await _answer(call, batch_id if earlier is None else earlier.subject, earlier, 201)


async def approve(call: Call) -> Response:
    """POST /v1/ops/payouts/{batch_id}/approval."""
    value = await call.json()
    body = read_model(bodies.PayoutReason, value)
    batch_id, action_id = _batch_id(call), call.ports.new_id(ACTION_PREFIX)
    earlier = await call.ports.payouts.batches.approve(
        write_of(call, value), batch_id, action_id, body.reason, call.ports.clock()
    )
    return await _answer(call, batch_id, earlier)


async def withdraw(call: Call) -> Response:
    """POST /v1/ops/payouts/{batch_id}/withdrawal."""
    value = await call.json()
    body = read_model(bodies.PayoutReason, value)
    batch_id, action_id = _batch_id(call), call.ports.new_id(ACTION_PREFIX)
    earlier = await call.ports.payouts.batches.withdraw(
        write_of(call, value), batch_id, action_id, body.reason, call.ports.clock()
    )
    return await _answer(call, batch_id, earlier)


async def run(call: Call) -> Response:
    """POST /v1/ops/payouts/{batch_id}/run."""
    value = await call.json()
    body = read_model(bodies.PayoutReason, value)
    batch_id, action_id = _batch_id(call), call.ports.new_id(ACTION_PREFIX)
    earlier = await call.ports.payouts.batches.run(write_of(call, value), batch_id, action_id, body.reason)
    return await _answer(call, batch_id, earlier)


async def show(call: Call) -> Response:
    """GET /v1/ops/payouts/{batch_id}."""
    return await _answer(call, _batch_id(call), None)


async def list_all(call: Call) -> Response:
    """GET /v1/ops/payouts."""
    before, limit = page_of(call, BATCH_PREFIX)
    rows = await call.ports.payouts.batches.page(before, limit + 1)
    page = rows[:limit]
    cursor = cursor_after(page[-1].batch_id) if len(rows) > limit else None
    body = {"items": [bodies.batch_summary(one) for one in page], "next_cursor": cursor}
    return reply(200, body, _NO_STORE)


async def list_lines(call: Call) -> Response:
    """GET /v1/ops/payouts/{batch_id}/lines."""
    query = query_of(call)
    limit = limit_of(query)
    after = read_cursor(query["cursor"]) if query.get("cursor") else ""
    if not after.isprintable() or not after.isascii():
        raise cursor_invalid()
    batch = await call.ports.payouts.batches.find(_batch_id(call))
    rows = await call.ports.payouts.batches.lines(batch.batch_id, after, limit + 1)
    page = rows[:limit]
    cursor = cursor_after(page[-1].payee_id) if len(rows) > limit else None
    body = {"items": [bodies.line_document(one) for one in page], "next_cursor": cursor}
    return reply(200, body, _NO_STORE)


async def _answer(call: Call, batch_id: str, earlier: Recorded | None, status: int = 200) -> Response:
    """Answer with the batch as it stands now, also to a repetition."""
    batches = call.ports.payouts.batches
    batch = await batches.find(batch_id)
    body = bodies.batch_document(batch, await batches.totals(batch_id), *await batches.progress(batch_id))
    return reply(status, body, {**_NO_STORE, **(REPLAYED if earlier is not None else {})})


def _batch_id(call: Call) -> str:
    batch_id = call.parameters["batch_id"]
    if not is_id(BATCH_PREFIX, batch_id):
        raise refusal("payout_batch_not_found")
    return batch_id


def operations() -> Sequence[Operation]:
    """List the operations on payout batches."""
    return (*_reads(), *_writes())


def _reads() -> Sequence[Operation]:
    page = {"next_cursor": None}
    return (
        Operation(
            "GET",
            "/v1/ops/payouts",
            "listPayoutBatches",
            "Payout batches, newest first",
            list_all,
            {200: Answer("A page", bodies.PayoutBatchPage, {"items": [bodies.EXAMPLE_SUMMARY], **page})},
            roles=_READERS,
            query=QUERY,
            problems=("query_invalid", "cursor_invalid"),
        ),
        Operation(
            "GET",
            "/v1/ops/payouts/{batch_id}",
            "showPayoutBatch",
            "One batch: its totals, and how far its payouts are",
            show,
            {200: Answer("The batch", bodies.PayoutBatch, bodies.EXAMPLE_BATCH)},
            roles=_READERS,
            problems=("payout_batch_not_found",),
        ),
        Operation(
            "GET",
            "/v1/ops/payouts/{batch_id}/lines",
            "listPayoutLines",
            "What a batch says of each payee",
            list_lines,
            {200: Answer("A page", bodies.PayoutLinePage, {"items": [bodies.EXAMPLE_LINE], **page})},
            roles=_READERS,
            query=QUERY,
            problems=("payout_batch_not_found", "query_invalid", "cursor_invalid"),
        ),
    )


def _writes() -> Sequence[Operation]:
    return (
        Operation(
            "POST",
            "/v1/ops/payouts",
            "draftPayouts",
            "Draft the payouts of a period that is over, in one currency",
            draft,
            {201: Answer("Drafted, or drafted before", bodies.PayoutBatch, bodies.EXAMPLE_BATCH)},
            roles=_OPERATORS,
            write=True,
            request=bodies.NewPayoutBatch,
            request_example=bodies.EXAMPLE_NEW_BATCH,
            problems=(
                "payout_period_invalid",
                "currency_unknown",
                "payout_period_open",
                "payout_batch_exists",
                "payout_nothing_due",
                "payout_batch_too_large",
                *FINANCE,
            ),
        ),
        _decision(
            "approval",
            "approvePayouts",
            "Approve; another operator than who drafted. Its payouts are sent",
            approve,
            bodies.EXAMPLE_APPROVED,
            ("payout_own_batch", "payout_batch_approved", "payout_batch_withdrawn"),
        ),
        _decision(
            "withdrawal",
            "withdrawPayouts",
            "Withdraw a draft; the period may be drafted anew",
            withdraw,
            bodies.EXAMPLE_WITHDRAWN,
            ("payout_batch_approved", "payout_batch_withdrawn"),
        ),
        _decision(
            "run",
            "runPayouts",
            "Make due now what of an approved batch is not finished, stuck payouts too",
            run,
            bodies.EXAMPLE_APPROVED,
            ("payout_batch_drafted", "payout_batch_withdrawn"),
        ),
    )


def _decision(
    name: str,
    operation_id: str,
    summary: str,
    handler: Handler,
    example: dict[str, object],
    problems: tuple[str, ...],
) -> Operation:
    return Operation(
        "POST",
        f"/v1/ops/payouts/{{batch_id}}/{name}",
        operation_id,
        summary,
        handler,
        {200: Answer("Done, or done before", bodies.PayoutBatch, example)},
        roles=_OPERATORS,
        write=True,
        request=bodies.PayoutReason,
        request_example=bodies.EXAMPLE_REASON,
        problems=("payout_batch_not_found", *problems),
    )
