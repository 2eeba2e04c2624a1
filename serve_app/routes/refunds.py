"""Refunds: an operator's at any time, a buyer's own within the window (``domain.orders.returns``).

The refund's id is made of the order, the caller and the idempotency key, so that an equal request finds what
the first one made, even when its own record of the key was lost. Someone else's order does not exist.
"""

from collections.abc import Sequence

from starlette.responses import Response

from domain.ids import derive_id
from domain.orders.commands import RequestRefund
from domain.orders.returns import BUYER as BY_BUYER
from domain.orders.returns import OPERATOR as BY_OPERATOR
from serve_app import examples
from serve_app.auth import BUYER, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.limits import ORDER_BODY_BYTES_MAX
from serve_app.operations import Answer, Operation
from serve_app.routes.orders import HOST_PROBLEMS, visible_order
from serve_app.schemas.refunds import NewRefund, Refund, refund_document

REFUND_PREFIX = "rfd"


async def refund(call: Call) -> Response:
    """POST /v1/orders/{order_id}/refunds."""
    value = await call.json(ORDER_BODY_BYTES_MAX)
    body = read_model(NewRefund, value)
    order, _ = await visible_order(call)
    write = write_of(call, value)
    # Read first, so that a key of another request is refused with nothing written.
    earlier = await call.ports.commands.find(write)
    command = RequestRefund(
        refund_id=derive_id(REFUND_PREFIX, order.order_id, f"{write.principal_id}\0{write.key}"),
        lines=tuple((line.line_no, line.amount_minor) for line in body.lines or ()),
        amount_minor=body.amount_minor,
        origin=BY_OPERATOR if call.caller.role == OPERATOR else BY_BUYER,
        requested_by=write.principal_id,
        reason=body.reason,
        request_digest=write.request_digest.hex(),
        at=call.ports.clock(),
    )
    answer = await call.ports.orders.refund(order.order_id, command)
    if earlier is None:
        await call.ports.commands.claim(write, command.refund_id)
    headers = {"Cache-Control": "no-store", **(REPLAYED if answer.replayed else {})}
    return reply(201, refund_document(answer.refund, answer.currency), headers)


def operations() -> Sequence[Operation]:
    """List the refunds' operation."""
    return (
        Operation(
            "POST",
            "/v1/orders/{order_id}/refunds",
            "refundOrder",
            "Return money: the whole order, an amount of it, or lines; the order says how it goes on",
            refund,
            {201: Answer("Asked for; Stripe is asked right after", Refund, examples.REFUND)},
            roles=frozenset({BUYER, OPERATOR}),
            write=True,
            request=NewRefund,
            request_example={"lines": [{"line_no": 1}], "reason": "Bought by mistake."},
            problems=(
                "order_not_found",
                "order_not_refundable",
                "order_disputed",
                "refund_window_closed",
                "refund_exceeds_captured",
                "refund_line_returned",
                "refund_line_unknown",
                "refund_line_duplicate",
                "refund_amount_invalid",
                "refunds_full",
                *HOST_PROBLEMS,
            ),
        ),
    )
