"""Discount codes: a seller's for their own SKUs, an operator's for everybody's at the platform's cost.

Sellers see their own codes and operators all; buyers see none and name one that they were told. An operator's
code and its end are put on record with their reasons (invariant I12).
"""

from collections.abc import Sequence

from starlette.responses import Response

from domain.errors import NotFoundError, RejectedError
from domain.ids import is_id
from domain.pricing.discounts import read_code, validate
from domain.proposals.documents import Kind, PriceModel
from serve_app import examples
from serve_app.auth import OPERATOR, SELLER
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import answer, write_of
from serve_app.operations import Answer, Operation
from serve_app.paging import QUERY, cursor_after, page_of
from serve_app.schemas import pricing as schemas
from storage.market.discounts import DiscountRow

PREFIX = "dsc"
_ROLES = frozenset({SELLER, OPERATOR})


async def create(call: Call) -> Response:
    """POST /v1/discounts."""
    value = await call.json()
    body = read_model(schemas.NewDiscount, value)
    seller_id = _seller_of(call)
    now = call.ports.clock()
    discount = schemas.discount_of(body, read_code(body.code), call.ports.new_id(PREFIX), seller_id, now)
    model = (await call.ports.governed.current(Kind.PRICE_MODEL)).document
    assert isinstance(model, PriceModel), "the document of that kind"
    validate(discount, model.discount_percent_max)
    for sku_id in sorted(discount.sku_ids):
        await _require_sku(call, sku_id, seller_id)
    document = schemas.discount_document(DiscountRow(discount, 0))
    earlier = await call.ports.discounts.create(
        write_of(call, value),
        discount,
        now,
        document,
        action_id=call.ports.new_id("act"),
        reason=_reason(call, body.reason),
    )
    return answer(201, document, earlier)


async def end(call: Call) -> Response:
    """POST /v1/discounts/{discount_id}/end."""
    value = await call.json(optional=True)
    body = read_model(schemas.EndDiscount, value)
    discount_id = call.parameters["discount_id"]
    row = await call.ports.discounts.find(discount_id) if is_id(PREFIX, discount_id) else None
    seller_id = _seller_of(call)
    if row is None or seller_id not in (None, row.discount.seller_id):
        raise NotFoundError("discount_not_found", "You have no such discount code.")
    document = {**schemas.discount_document(row), "ended": True}
    earlier = await call.ports.discounts.end(
        write_of(call, value),
        discount_id,
        document,
        by_operator=seller_id is None,
        action_id=call.ports.new_id("act"),
        reason=_reason(call, body.reason),
    )
    return answer(200, document, earlier)


async def list_own(call: Call) -> Response:
    """GET /v1/discounts."""
    before, limit = page_of(call, PREFIX)
    rows = await call.ports.discounts.page(_seller_of(call), before, limit + 1)
    page = rows[:limit]
    cursor = cursor_after(page[-1].discount.discount_id) if len(rows) > limit else None
    items = [schemas.discount_document(row) for row in page]
    return reply(200, {"items": items, "next_cursor": cursor}, {"Cache-Control": "no-store"})


def _seller_of(call: Call) -> str | None:
    return call.caller.principal_id if call.caller.role == SELLER else None


def _reason(call: Call, reason: str | None) -> str:
    if reason is None and call.caller.role == OPERATOR:
        raise RejectedError("reason_missing", "Say why: what an operator does is kept with its reason.")
    return reason or ""


async def _require_sku(call: Call, sku_id: str, seller_id: str | None) -> None:
    sku = await call.ports.catalogue.find(sku_id) if is_id("sku", sku_id) else None
    if sku is None or seller_id not in (None, sku.seller_id):
        raise NotFoundError("sku_not_found", f"You have no SKU {sku_id[:64]}.")


def operations() -> Sequence[Operation]:
    """List the operations on discount codes."""
    return (
        Operation(
            "POST",
            "/v1/discounts",
            "createDiscount",
            "Make a discount code: a seller's for their own SKUs, an operator's from the platform's fee",
            create,
            {201: Answer("Made", schemas.DiscountDocument, examples.DISCOUNT)},
            roles=_ROLES,
            write=True,
            request=schemas.NewDiscount,
            request_example=examples.NEW_DISCOUNT,
            problems=(
                "discount_invalid",
                "discount_too_large",
                "discount_code_taken",
                "currency_unknown",
                "sku_not_found",
                "reason_missing",
            ),
        ),
        Operation(
            "GET",
            "/v1/discounts",
            "listDiscounts",
            "Discount codes, newest first: yours, or everybody's for operators",
            list_own,
            {
                200: Answer(
                    "A page", schemas.DiscountPage, {"items": [examples.DISCOUNT], "next_cursor": None}
                )
            },
            roles=_ROLES,
            query=QUERY,
            problems=("cursor_invalid", "query_invalid"),
        ),
        Operation(
            "POST",
            "/v1/discounts/{discount_id}/end",
            "endDiscount",
            "End a discount code for good; orders that used it keep their price",
            end,
            {200: Answer("Ended", schemas.DiscountDocument, {**examples.DISCOUNT, "ended": True})},
            roles=_ROLES,
            write=True,
            request=schemas.EndDiscount,
            request_example={"reason": "The spring sale is over."},
            request_optional=True,
            problems=("discount_not_found", "reason_missing"),
        ),
    )
