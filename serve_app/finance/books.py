"""Routes of the books themselves: accounts, balances, statements and periods (ADR 0009).

Thin: read the parameters, ask the stores, write the answer. Not here: posting, and anything that changes
an account or a closed period back.
"""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from domain.errors import RejectedError
from domain.ledger import (
    CHART,
    Account,
    ClosedPeriod,
    Kind,
    check_declaration,
    is_currency_code,
    parse_period,
)
from serve_app.finance import documents, query, statements
from serve_app.finance.access import PRINCIPAL, Principal
from serve_app.finance.edge import read_body
from storage.finance.balance_store import AccountBalance, BalanceStore, StatementOf, TrialBalanceRow
from storage.finance.books_store import BooksStore
from storage.finance.upkeep import Upkeep

BALANCES_PAGE_MAX = 500
TRIAL_BALANCE_PARTS_MAX = 1_000  # leading parts of names are few by nature; the total covers all anyway
PERIODS_PAGE_MAX = 120  # ten years

_JSON = "application/json"
_CSV = "text/csv; charset=utf-8"
_DECLARATION_MEMBERS = frozenset({"kind", "currency"})


class BooksHandlers:
    """The request handlers, with the stores they share."""

    def __init__(self, books: BooksStore, balances: BalanceStore, upkeep: Upkeep) -> None:
        self._books = books
        self._balances = balances
        self._upkeep = upkeep

    async def get_chart(self, _request: Request) -> Response:
        """GET /v1/chart-of-accounts."""
        patterns = [
            {"pattern": pattern, "kind": kind.value, "normal_side": kind.normal_side}
            for pattern, kind in CHART.items()
        ]
        return Response(documents.dump({"patterns": patterns}), media_type=_JSON)

    async def declare_account(self, request: Request) -> Response:
        """PUT /v1/accounts/{account}."""
        name = query.required_account(request.path_params["account"])
        kind, currency = _declaration(documents.load(await read_body(request)))
        check_declaration(name, kind)
        declared = await self._books.declare(name, kind, currency)
        body = documents.dump(account_document(declared.account))
        return Response(body, 201 if declared.fresh else 200, media_type=_JSON)

    async def get_account(self, request: Request) -> Response:
        """GET /v1/accounts/{account}."""
        account = await self._books.account(query.required_account(request.path_params["account"]))
        return Response(documents.dump(account_document(account)), media_type=_JSON)

    async def close_account(self, request: Request) -> Response:
        """POST /v1/accounts/{account}/close."""
        account = await self._books.close_account(query.required_account(request.path_params["account"]))
        return Response(documents.dump(account_document(account)), media_type=_JSON)

    async def list_accounts(self, request: Request) -> Response:
        """GET /v1/accounts: balances, of now or of any moment."""
        params = query.parse(request, {"prefix", "currency", "as_of", "cursor", "limit"})
        limit = query.limit(params, BALANCES_PAGE_MAX)
        page = await self._balances.balances(
            prefix=query.account_prefix(params.get("prefix", "")),
            currency=query.currency_or_all(params),
            as_of=query.as_of(params),
            after=query.accounts_cursor(params.get("cursor")),
            limit=limit,
        )
        body = {
            "accounts": [balance_document(balance) for balance in page],
            "next_cursor": query.accounts_cursor_after(page[-1]) if len(page) == limit else None,
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def get_balance(self, request: Request) -> Response:
        """GET /v1/accounts/{account}/balance."""
        params = query.parse(request, {"currency", "as_of"})
        account = query.required_account(request.path_params["account"])
        currency, as_of = query.currency(params), query.as_of(params)
        balance_minor, posting_count = await self._balances.balance(account, currency, as_of)
        body = {
            "account": account,
            "currency": currency,
            "as_of": as_of,
            "balance_minor": balance_minor,
            "posting_count": posting_count,
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def get_trial_balance(self, request: Request) -> Response:
        """GET /v1/trial-balance."""
        params = query.parse(request, {"currency", "as_of"})
        currency, as_of = query.currency(params), query.as_of(params)
        total, *parts = await self._balances.trial_balance(currency, as_of, TRIAL_BALANCE_PARTS_MAX)
        body = {
            "currency": currency,
            "as_of": as_of,
            "balanced": total.debit_minor == total.credit_minor,
            "sum_minor": total.debit_minor - total.credit_minor,
            "debit_minor": total.debit_minor,
            "credit_minor": total.credit_minor,
            "posting_count": total.posting_count,
            "parts": [trial_balance_row(row) for row in parts],
        }
        return Response(documents.dump(body), media_type=_JSON)

    async def get_statement(self, request: Request) -> Response:
        """GET /v1/accounts/{account}/statement."""
        params = query.parse(request, {"currency", "from", "to", "format", "cursor", "limit"})
        limit = query.limit(params, statements.LINES_PAGE_MAX)
        account = query.required_account(request.path_params["account"])
        since, until = query.instant(params, "from"), query.instant(params, "to")
        if since >= until:
            raise query.refused("to", "a time after from.")
        form = params.get("format", "json")
        if form not in ("json", "csv"):
            raise query.refused("format", "json or csv.")
        of = StatementOf(account, query.currency(params), since, until)
        await self._books.account(account)
        page = await statements.read_page(self._balances, self._upkeep, of, params.get("cursor"), limit)
        headers = {}
        if page.next_cursor is not None:
            following = urlencode({**params, "cursor": page.next_cursor})
            headers["Link"] = f'</v1/accounts/{account}/statement?{following}>; rel="next"'
        if form == "csv":
            headers["Content-Disposition"] = 'attachment; filename="statement.csv"'
            return Response(statements.page_csv(page), 200, headers, _CSV)
        return Response(documents.dump(statements.page_document(page)), 200, headers, _JSON)

    async def close_period(self, request: Request) -> Response:
        """POST /v1/periods/{period}/close."""
        principal: Principal = request.scope[PRINCIPAL]
        closed = await self._books.close_period(parse_period(request.path_params["period"]), principal.name)
        return Response(documents.dump(closed_period_document(closed)), media_type=_JSON)

    async def list_periods(self, request: Request) -> Response:
        """GET /v1/periods: the closings, the latest first."""
        params = query.parse(request, {"cursor", "limit"})
        limit = query.limit(params, PERIODS_PAGE_MAX)
        before = parse_period(params["cursor"]) if "cursor" in params else None
        page = await self._books.closed_periods(before=before, limit=limit)
        latest = page if before is None else await self._books.closed_periods(before=None, limit=1)
        body = {
            "open_from": latest[0].period.ends_at if latest else None,
            "periods": [closed_period_document(closed) for closed in page],
            "next_cursor": str(page[-1].period) if len(page) == limit else None,
        }
        return Response(documents.dump(body), media_type=_JSON)


def account_document(account: Account) -> dict[str, Any]:
    """Write an account."""
    return {
        "account": account.name,
        "kind": account.kind.value,
        "normal_side": account.kind.normal_side,
        "currency": account.currency,
        "declared": account.declared,
        "opened_at": account.opened_at,
        "closed_at": account.closed_at,
    }


def balance_document(balance: AccountBalance) -> dict[str, Any]:
    """Write one balance of a listing."""
    return {
        "account": balance.account,
        "currency": balance.currency,
        "debit_minor": balance.debit_minor,
        "credit_minor": balance.credit_minor,
        "balance_minor": balance.balance_minor,
    }


def trial_balance_row(row: TrialBalanceRow) -> dict[str, Any]:
    """Write one leading part of the trial balance."""
    return {
        "part": row.part,
        "debit_minor": row.debit_minor,
        "credit_minor": row.credit_minor,
        "balance_minor": row.debit_minor - row.credit_minor,
        "posting_count": row.posting_count,
    }


def closed_period_document(closed: ClosedPeriod) -> dict[str, Any]:
    """Write a closing: the month, the first instant behind it, when and by whom it was closed."""
    return {
        "period": str(closed.period),
        "open_from": closed.period.ends_at,
        "closed_at": closed.closed_at,
        "closed_by": closed.closed_by,
    }


def _declaration(raw: object) -> tuple[Kind, str | None]:
    refused = RejectedError(
        "account_malformed",
        'A declaration is {"kind": …, "currency": …}: the kind one of '
        f"{', '.join(Kind)}; the currency an ISO 4217 code, or left out for any.",
    )
    if not isinstance(raw, dict) or not {"kind"} <= raw.keys() <= _DECLARATION_MEMBERS:
        raise refused
    kind, currency = raw["kind"], raw.get("currency")
    if kind not in list(Kind) or not (
        currency is None or (isinstance(currency, str) and is_currency_code(currency))
    ):
        raise refused
    return Kind(kind), currency
