"""Disputes, for operators: which are open and until when, and the evidence that is sent to the bank.

The order itself says what was bought, licensed, delivered and opened, with times
(``domain.orders.evidence_texts``); the operator adds words. Drafts may be repeated, what is submitted is
final. The evidence's id is made of the order, the caller and the idempotency key, so that an equal request
finds what the first one made. Refused: files, and to answer in a buyer's name.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from starlette.responses import Response

from domain.ids import derive_id, is_id
from domain.orders.commands import PrepareEvidence
from domain.orders.evidence_texts import compose
from domain.orders.returned import DisputeStatus
from domain.orders.state import fold
from serve_app import examples
from serve_app.auth import AUDITOR, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.paging import QUERY, cursor_after, cursor_invalid, limit_of, query_of, read_cursor
from serve_app.routes.orders import HOST_PROBLEMS, visible_order
from serve_app.schemas.disputes import (
    EvidenceSent,
    NewEvidence,
    OpenDisputePage,
    evidence_document,
    open_dispute_document,
)

EVIDENCE_PREFIX = "evd"
_OPERATORS = frozenset({OPERATOR})
_NO_STORE = {"Cache-Control": "no-store"}


async def list_open(call: Call) -> Response:
    """GET /v1/ops/disputes."""
    query = query_of(call)
    limit = limit_of(query)
    cursor = query.get("cursor")
    rows = await call.ports.reads.disputed(_read_place(cursor) if cursor else None, limit + 1)
    items = []
    for order_id, dispute_id, _ in rows[:limit]:
        stored = await call.ports.reads.load(order_id)
        order = None if stored is None else fold(order_id, stored.events)
        dispute = None if order is None else order.find_dispute(dispute_id)
        if order is not None and dispute is not None and dispute.status is DisputeStatus.OPEN:
            items.append(open_dispute_document(order, dispute))
    place = ""
    if len(rows) > limit:
        order_id, dispute_id, at = rows[limit - 1]
        place = f"{at.astimezone(UTC).isoformat()} {order_id} {dispute_id}"
    return reply(200, {"items": items, "next_cursor": cursor_after(place) if place else None}, _NO_STORE)


async def send_evidence(call: Call) -> Response:
    """POST /v1/ops/orders/{order_id}/disputes/{dispute_id}/evidence."""
    value = await call.json()
    body = read_model(NewEvidence, value)
    order, stored = await visible_order(call, _OPERATORS)
    write = write_of(call, value)
    # Read first, so that a key of another request is refused with nothing written.
    earlier = await call.ports.commands.find(write)
    command = PrepareEvidence(
        dispute_id=call.parameters["dispute_id"],
        evidence_id=derive_id(EVIDENCE_PREFIX, order.order_id, f"{write.principal_id}\0{write.key}"),
        texts=compose(order, stored.events, body.text),
        submit=body.submit,
        prepared_by=write.principal_id,
        request_digest=write.request_digest.hex(),
        at=call.ports.clock(),
    )
    answer = await call.ports.orders.prepare_evidence(order.order_id, command)
    if earlier is None:
        await call.ports.commands.claim(write, command.evidence_id)
    headers = {**_NO_STORE, **(REPLAYED if answer.replayed else {})}
    return reply(201, evidence_document(answer.dispute, answer.evidence), headers)


def _read_place(cursor: str) -> tuple[datetime, str, str]:
    at_text, order_id, dispute_id = ([*read_cursor(cursor).split(" "), "", ""])[:3]
    try:
        at = datetime.fromisoformat(at_text)
    except ValueError:
        raise cursor_invalid() from None
    if at.tzinfo != UTC or not is_id("ord", order_id) or not dispute_id.isprintable():
        raise cursor_invalid()
    return at, order_id, dispute_id


def operations() -> Sequence[Operation]:
    """List the operations on disputes."""
    return (
        Operation(
            "GET",
            "/v1/ops/disputes",
            "listOpenDisputes",
            "Open disputes, the one opened last first, with their deadlines",
            list_open,
            {200: Answer("A page", OpenDisputePage, {"items": [examples.OPEN_DISPUTE], "next_cursor": None})},
            roles=frozenset({OPERATOR, AUDITOR}),
            query=QUERY,
            problems=("query_invalid", "cursor_invalid"),
        ),
        Operation(
            "POST",
            "/v1/ops/orders/{order_id}/disputes/{dispute_id}/evidence",
            "sendEvidence",
            "Give the bank evidence, as a draft or for good; Stripe gets it right after",
            send_evidence,
            {201: Answer("On record", EvidenceSent, examples.EVIDENCE)},
            roles=_OPERATORS,
            write=True,
            request=NewEvidence,
            request_example={"text": "The buyer opened the bundle twice.", "submit": True},
            problems=(
                "order_not_found",
                "dispute_not_found",
                "dispute_closed",
                "evidence_submitted",
                "evidence_late",
                "evidence_full",
                *HOST_PROBLEMS,
            ),
        ),
    )
