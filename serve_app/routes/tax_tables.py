"""The tax table: what operators say is to be taxed where. Set as a whole, on the version that was seen."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from domain.pricing.taxes import TaxTable
from serve_app import examples
from serve_app.auth import AUDITOR, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import answer, write_of
from serve_app.operations import Answer, Operation
from serve_app.schemas import pricing as schemas
from serve_app.schemas.base import rfc3339


async def current(call: Call) -> Response:
    """GET /v1/ops/tax-table."""
    return reply(200, schemas.tax_table_document(await call.ports.tax_tables.current()))


async def replace(call: Call) -> Response:
    """PUT /v1/ops/tax-table."""
    value = await call.json()
    body = read_model(schemas.NewTaxTable, value)
    table = TaxTable.from_json(body.table.model_dump())
    document: dict[str, Any] = {
        "version": body.base_version + 1,
        "table": table.as_json(),
        "set_by": call.caller.principal_id,
        "reason": body.reason,
        "set_at": rfc3339(call.ports.clock()),
    }
    earlier = await call.ports.tax_tables.replace(
        write_of(call, value),
        table,
        body.base_version,
        document,
        action_id=call.ports.new_id("act"),
        reason=body.reason,
    )
    return answer(200, document, earlier)


def operations() -> Sequence[Operation]:
    """List the operations on the tax table."""
    return (
        Operation(
            "GET",
            "/v1/ops/tax-table",
            "getTaxTable",
            "The tax table in force",
            current,
            {200: Answer("The table", schemas.TaxTable, examples.TAX_TABLE)},
            roles=frozenset({OPERATOR, AUDITOR}),
            problems=("tax_table_missing",),
        ),
        Operation(
            "PUT",
            "/v1/ops/tax-table",
            "setTaxTable",
            "Put another tax table in force; orders that are placed keep their tax",
            replace,
            {200: Answer("In force within five seconds", schemas.TaxTable, examples.TAX_TABLE)},
            roles=frozenset({OPERATOR}),
            write=True,
            request=schemas.NewTaxTable,
            request_example={
                "base_version": 1,
                "table": examples.TAX_TABLE["table"],
                "reason": examples.TAX_TABLE["reason"],
            },
            problems=("tax_table_invalid", "tax_table_changed"),
        ),
    )
