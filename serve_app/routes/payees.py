"""Payees: their account at Stripe, their payouts, their statements.

A seller's token is its payee's: it sees and changes its own only, and someone else's does not exist.
Operators name any payee; auditors read. Whether an account can be paid is Stripe's to say, and is asked when
it is named and again right before money is sent.
"""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from domain.ids import is_id
from domain.payouts.refusals import refusal
from serve_app.auth import AUDITOR, OPERATOR, SELLER
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.paging import QUERY, cursor_after, field_invalid, page_of, query_of
from serve_app.routes.payouts import FINANCE
from serve_app.schemas import payouts as bodies
from serve_app.schemas import statements
from storage.market.payout_batches import PAYOUT_PREFIX

_READERS = frozenset({SELLER, OPERATOR, AUDITOR})
_NO_STORE = {"Cache-Control": "no-store"}
_CSV = "text/csv; charset=utf-8"
_PAYEE = {"type": "string", "description": "Only this payee's; a seller sees its own anyway"}


async def name_account(call: Call) -> Response:
    """PUT /v1/payees/{payee_id}."""
    value = await call.json()
    body = read_model(bodies.PayeeAccount, value)
    payee, replayed = await call.ports.payouts.name_account(
        write_of(call, value), _payee_id(call), body.account_id
    )
    return reply(200, bodies.payee_document(payee), {**_NO_STORE, **(REPLAYED if replayed else {})})


async def show_payee(call: Call) -> Response:
    """GET /v1/payees/{payee_id}."""
    payee = await call.ports.payouts.payee(_payee_id(call))
    return reply(200, bodies.payee_document(payee), _NO_STORE)


async def list_payouts(call: Call) -> Response:
    """GET /v1/payouts."""
    before, limit = page_of(call, PAYOUT_PREFIX)
    payee_id = _own(call) or query_of(call).get("payee")
    rows = await call.ports.payouts.payouts.page(before, limit + 1, payee_id)
    page = rows[:limit]
    cursor = cursor_after(page[-1].payout.payout_id) if len(rows) > limit else None
    body = {"items": [bodies.payout_document(one) for one in page], "next_cursor": cursor}
    return reply(200, body, _NO_STORE)


async def show_payout(call: Call) -> Response:
    """GET /v1/payouts/{payout_id}."""
    payout_id = call.parameters["payout_id"]
    known = is_id(PAYOUT_PREFIX, payout_id)
    found = await call.ports.payouts.payouts.find(payout_id, _own(call)) if known else None
    if found is None:
        raise refusal("payout_not_found")
    return reply(200, bodies.payout_document(found), _NO_STORE)


async def statement(call: Call) -> Response:
    """GET /v1/payouts/{period}/statement."""
    query = query_of(call)
    form = query.get("format", "json")
    if form not in ("json", "csv"):
        raise field_invalid("format", "Give json or csv.")
    made = await call.ports.payouts.statement(
        _own(call) or _required(query, "payee"), _required(query, "currency"), call.parameters["period"]
    )
    if form == "json":
        return reply(200, statements.statement_document(made, call.ports.clock()), _NO_STORE)
    name = f"statement-{made.payee_id}-{made.currency}-{made.period}.csv"
    headers = {**_NO_STORE, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(statements.statement_csv(made), 200, headers, _CSV)


def _own(call: Call) -> str | None:
    """Return whose payouts the caller may see: a seller its own, None for everybody's."""
    return call.caller.principal_id if call.caller.role == SELLER else None


def _payee_id(call: Call) -> str:
    payee_id = call.parameters["payee_id"]
    if _own(call) not in (None, payee_id):
        raise refusal("payee_not_found")
    return payee_id


def _required(query: Mapping[str, str], name: str) -> str:
    if not query.get(name):
        raise field_invalid(name, "This is needed.")
    return query[name]


def operations() -> Sequence[Operation]:
    """List the operations on payees, payouts and statements."""
    return (*_payees(), *_payouts())


def _payees() -> Sequence[Operation]:
    payee = Answer("The payee", bodies.Payee, bodies.EXAMPLE_PAYEE)
    return (
        Operation(
            "PUT",
            "/v1/payees/{payee_id}",
            "namePayeeAccount",
            "Name the connected account that a payee is paid to, or look at it again",
            name_account,
            {200: payee},
            roles=frozenset({SELLER, OPERATOR}),
            write=True,
            request=bodies.PayeeAccount,
            request_example=bodies.EXAMPLE_ACCOUNT,
            problems=(
                "payee_not_found",
                "payee_id_invalid",
                "payee_account_unknown",
                "payment_provider_unavailable",
            ),
        ),
        Operation(
            "GET",
            "/v1/payees/{payee_id}",
            "showPayee",
            "A payee's account, and whether Stripe lets it be paid",
            show_payee,
            {200: payee},
            roles=_READERS,
            problems=("payee_not_found",),
        ),
    )


def _payouts() -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/payouts",
            "listPayouts",
            "Payouts, newest first: yours, or everybody's for operators",
            list_payouts,
            {
                200: Answer(
                    "A page", bodies.PayoutPage, {"items": [bodies.EXAMPLE_PAYOUT], "next_cursor": None}
                )
            },
            roles=_READERS,
            query={**QUERY, "payee": _PAYEE},
            problems=("query_invalid", "cursor_invalid"),
        ),
        Operation(
            "GET",
            "/v1/payouts/{payout_id}",
            "showPayout",
            "One payout",
            show_payout,
            {200: Answer("The payout", bodies.Payout, bodies.EXAMPLE_PAYOUT)},
            roles=_READERS,
            problems=("payout_not_found",),
        ),
        Operation(
            "GET",
            "/v1/payouts/{period}/statement",
            "showStatement",
            "A payee's statement of one period and currency; format=csv has its lines",
            statement,
            {200: Answer("The statement", statements.PayeeAccountStatement, statements.EXAMPLE_STATEMENT)},
            roles=_READERS,
            query={
                "currency": {"type": "string", "description": "Needed: an ISO 4217 code"},
                "payee": {**_PAYEE, "description": "Needed for operators; a seller sees its own"},
                "format": {"type": "string", "enum": ["json", "csv"], "default": "json"},
            },
            problems=(
                "query_invalid",
                "payout_period_invalid",
                "currency_unknown",
                "payee_id_invalid",
                "payout_statement_too_large",
                *FINANCE,
            ),
        ),
    )
