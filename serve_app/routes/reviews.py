"""Reviews: flagged orders whose payment is held until a person approves or rejects them.

The order itself decides who was first: a reviewer, another one, the deadline, Stripe or the buyer
(``domain.orders.payments``). A decision is an event of the order, with its reviewer and reason (I12).
"""

from collections.abc import Sequence

from starlette.responses import Response

from domain.errors import NotFoundError
from domain.ids import is_id
from domain.orders.commands import DecideReview
from domain.orders.state import ReviewStatus
from serve_app import examples
from serve_app.auth import AUDITOR, FRAUD, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.paging import QUERY, cursor_after, field_invalid, page_of, query_of
from serve_app.routes.orders import HOST_PROBLEMS
from serve_app.schemas.reviews import ReviewDecided, ReviewDecision, ReviewPage, review_document

_DECIDERS = frozenset({OPERATOR, FRAUD})
_READERS = _DECIDERS | {AUDITOR}


async def list_all(call: Call) -> Response:
    """GET /v1/ops/reviews."""
    before, limit = page_of(call, "ord")
    rows = await call.ports.reviews.page(before, limit + 1, _status_of(query_of(call).get("status")))
    page = rows[:limit]
    cursor = cursor_after(page[-1].order_id) if len(rows) > limit else None
    body = {"items": [review_document(row) for row in page], "next_cursor": cursor}
    return reply(200, body, {"Cache-Control": "no-store"})


async def decide(call: Call) -> Response:
    """POST /v1/ops/reviews/{order_id}/decision."""
    value = await call.json()
    body = read_model(ReviewDecision, value)
    order_id = call.parameters["order_id"]
    if not is_id("ord", order_id):
        raise NotFoundError("order_not_found", "There is no such order.")
    write = write_of(call, value)
    # Read first, so that a key of another request is refused with nothing written.
    earlier = await call.ports.commands.find(write)
    command = DecideReview(
        reviewer_id=call.caller.principal_id,
        approves=body.decision == "approve",
        reason=body.reason,
        at=call.ports.clock(),
    )
    acted = await call.ports.orders.act(order_id, command)
    if earlier is None:
        await call.ports.commands.claim(write, order_id)
    order = acted.order
    assert order.review is not None, "it was decided just now, or by an earlier request"
    document = {"order_id": order_id, "status": order.review.value, "order_status": order.status.value}
    headers = {"Cache-Control": "no-store", **(REPLAYED if acted.replayed else {})}
    return reply(200, document, headers)


def _status_of(text: str | None) -> ReviewStatus | None:
    if text is None:
        return None
    try:
        return ReviewStatus(text)
    except ValueError:
        raise field_invalid("status", f"Give one of {', '.join(ReviewStatus)}.") from None


def operations() -> Sequence[Operation]:
    """List the operations on reviews."""
    return (
        Operation(
            "GET",
            "/v1/ops/reviews",
            "listReviews",
            "Flagged orders whose payment is held, newest first",
            list_all,
            {200: Answer("A page", ReviewPage, {"items": [examples.REVIEW], "next_cursor": None})},
            roles=_READERS,
            query={**QUERY, "status": {"type": "string", "enum": [one.value for one in ReviewStatus]}},
            problems=("query_invalid", "cursor_invalid"),
        ),
        Operation(
            "POST",
            "/v1/ops/reviews/{order_id}/decision",
            "decideReview",
            "Approve a flagged order (its payment is captured) or reject it (the payment is voided)",
            decide,
            {200: Answer("Decided", ReviewDecided, examples.REVIEW_DECIDED)},
            roles=_DECIDERS,
            write=True,
            request=ReviewDecision,
            request_example={"decision": "approve", "reason": "Known company, called back."},
            problems=(
                "order_not_found",
                "review_not_found",
                "review_not_open",
                "review_decided",
                "reviewer_not_independent",
                *HOST_PROBLEMS,
            ),
        ),
    )
