"""The contract's operations on the books: accounts, balances, statements, periods."""

from typing import Any

from serve_app.finance.openapi_parts import (
    ACCOUNT,
    AS_OF,
    CURRENCY,
    CURRENCY_ASKED,
    CURSOR_ASKED,
    PERIOD_PATTERN,
    TIME,
    answer,
    body,
    operation,
    page_size,
    path,
    problem,
    problems,
    query,
)

_ACCOUNT_EXAMPLE = {
    "account": "platform:fees",
    "kind": "income",
    "normal_side": "credit",
    "currency": None,
    "declared": False,
    "opened_at": "2026-11-24T14:00:00.123456Z",
    "closed_at": None,
}
_BANK_EXAMPLE = {**_ACCOUNT_EXAMPLE, "account": "cash:euro_bank", "kind": "asset", "normal_side": "debit"}
_BANK_EXAMPLE |= {"currency": "EUR", "declared": True}
_PERIOD_EXAMPLE = {
    "period": "2026-11",
    "open_from": "2026-12-01T00:00:00Z",
    "closed_at": "2026-12-03T09:00:00Z",
    "closed_by": "spiffe://marketplace/finance-admin",
}
_LINE_EXAMPLE = {
    "entry_id": "ent_1024",
    "entry_key": "ord_01kavd3m8x:capture",
    "occurred_at": "2026-11-24T14:00:00Z",
    "posted_at": "2026-11-24T14:00:00.123456Z",
    "description": "Sale",
    "amount_minor": -1800,
    "balance_minor": -5400,
}
_STATEMENT_EXAMPLE = {
    "account": "seller:sel_01k9:payable",
    "currency": "USD",
    "from": "2026-11-01T00:00:00Z",
    "to": "2026-12-01T00:00:00Z",
    "through_entry_id": "ent_2048",
    "opening_balance_minor": -3600,
    "debit_minor": 0,
    "credit_minor": 1800,
    "closing_balance_minor": -5400,
    "line_count": 1,
    "lines": [_LINE_EXAMPLE],
    "next_cursor": None,
}
_CSV_EXAMPLE = (
    "occurred_at,original_occurred_at,posted_at,entry_key,description,currency,debit_minor,credit_minor,"
    "balance_minor\r\n2026-11-01T00:00:00Z,,,,Opening balance,USD,,,-3600\r\n"
)
_NAMED = path("account", ACCOUNT)


def books_paths() -> dict[str, Any]:
    """Return the paths by name."""
    return {
        "/v1/chart-of-accounts": {"get": _get_chart()},
        "/v1/accounts": {"get": _list_accounts()},
        "/v1/accounts/{account}": {"get": _get_account(), "put": _declare_account()},
        "/v1/accounts/{account}/close": {"post": _close_account()},
        "/v1/accounts/{account}/balance": {"get": _get_balance()},
        "/v1/accounts/{account}/statement": {"get": _get_statement()},
        "/v1/trial-balance": {"get": _get_trial_balance()},
        "/v1/periods": {"get": _list_periods()},
        "/v1/periods/{period}/close": {"post": _close_period()},
    }


def _get_chart() -> dict[str, Any]:
    example = {"pattern": "seller:*:payable", "kind": "liability", "normal_side": "credit"}
    return operation(
        "getChartOfAccounts",
        "reader",
        "Names of accounts that their first posting opens; * stands for one part of a name",
        {"200": answer("The patterns", "Chart", {"patterns": [example]})},
    )


def _list_accounts() -> dict[str, Any]:
    example = {
        "account": "platform:fees",
        "currency": "USD",
        "debit_minor": 0,
        "credit_minor": 199,
        "balance_minor": -199,
    }
    return operation(
        "listAccounts",
        "reader",
        "Balances by account and currency, in that order, of now or of any moment",
        {
            "200": answer("A page", "BalancePage", {"accounts": [example], "next_cursor": None}),
            **problems("query_malformed"),
        },
        parameters=[
            query("prefix", {"type": "string", "description": "Beginning of account names"}),
            query("currency", CURRENCY),
            AS_OF,
            CURSOR_ASKED,
            page_size(500),
        ],
    )


def _get_account() -> dict[str, Any]:
    return operation(
        "getAccount",
        "reader",
        "An account: its kind, its normal side, its currency, whether it is closed",
        {
            "200": answer("The account", "Account", _ACCOUNT_EXAMPLE),
            "404": problem(404, "account_unknown"),
            **problems("query_malformed"),
        },
        parameters=[_NAMED],
    )


def _declare_account() -> dict[str, Any]:
    return operation(
        "declareAccount",
        "finance_admin",
        "Declare an account, with its kind, for one currency or any; accounts are not changed later",
        {
            "201": answer("Declared now", "Account", _BANK_EXAMPLE),
            "200": answer("It exists, as declared", "Account", _BANK_EXAMPLE),
            **problems("json_malformed", "body_too_large", "account_conflict"),
            **problems("account_malformed", "account_kind", "account_forbidden", "query_malformed"),
        },
        parameters=[_NAMED],
        requestBody=body("Declaration", {"kind": "asset", "currency": "EUR"}),
    )


def _close_account() -> dict[str, Any]:
    return operation(
        "closeAccount",
        "finance_admin",
        "Close an account without a balance, for good; it refuses postings from then on",
        {
            "200": answer("It is closed", "Account", {**_BANK_EXAMPLE, "closed_at": "2026-12-01T00:00:00Z"}),
            "404": problem(404, "account_unknown"),
            **problems("account_not_empty", "query_malformed"),
        },
        parameters=[_NAMED],
    )


def _get_balance() -> dict[str, Any]:
    example = {
        "account": "platform:fees",
        "currency": "USD",
        "as_of": None,
        "balance_minor": -199,
        "posting_count": 1,
    }
    return operation(
        "getBalance",
        "reader",
        "Balance of one account; an account without postings has balance 0",
        {"200": answer("The balance", "Balance", example), **problems("query_malformed")},
        parameters=[_NAMED, CURRENCY_ASKED, AS_OF],
    )


def _get_statement() -> dict[str, Any]:
    statement = answer("A page, as JSON or CSV", "Statement", _STATEMENT_EXAMPLE)
    statement["content"]["text/csv"] = {"schema": {"type": "string"}, "example": _CSV_EXAMPLE}
    statement["headers"] = {
        "Link": {"schema": {"type": "string"}, "description": 'The next page, rel="next" (RFC 8288)'}
    }
    return operation(
        "getStatement",
        "reader",
        "Opening balance, lines with a running balance, closing balance; all pages are of one moment",
        {"200": statement, "404": problem(404, "account_unknown"), **problems("query_malformed")},
        parameters=[
            _NAMED,
            CURRENCY_ASKED,
            query("from", {**TIME, "description": "Included"}, required=True),
            query("to", {**TIME, "description": "Excluded"}, required=True),
            query("format", {"type": "string", "enum": ["json", "csv"], "default": "json"}),
            CURSOR_ASKED,
            page_size(1_000),
        ],
    )


def _get_trial_balance() -> dict[str, Any]:
    totals = {"debit_minor": 1999, "credit_minor": 1999, "posting_count": 3}
    part = {"part": "stripe", "debit_minor": 1999, "credit_minor": 0, "balance_minor": 1999}
    example = {
        "currency": "USD",
        "as_of": None,
        "balanced": True,
        "sum_minor": 0,
        **totals,
        "parts": [{**part, "posting_count": 1}],
    }
    return operation(
        "getTrialBalance",
        "reader",
        "Debits and credits by the leading part of account names, and in all",
        {"200": answer("Sum zero", "TrialBalance", example), **problems("query_malformed")},
        parameters=[CURRENCY_ASKED, AS_OF],
    )


def _list_periods() -> dict[str, Any]:
    example = {"open_from": "2026-12-01T00:00:00Z", "periods": [_PERIOD_EXAMPLE], "next_cursor": None}
    return operation(
        "listPeriods",
        "reader",
        "Closed periods, the latest first; a month before a closed one is closed with it",
        {
            "200": answer("A page", "PeriodPage", example),
            **problems("query_malformed", "period_malformed"),
        },
        parameters=[CURSOR_ASKED, page_size(120)],
    )


def _close_period() -> dict[str, Any]:
    return operation(
        "closePeriod",
        "finance_admin",
        "Close a month in UTC and all before it, for good; repeating returns the first closing",
        {
            "200": answer("It is closed", "ClosedPeriod", _PERIOD_EXAMPLE),
            **problems("period_not_over", "period_malformed"),
        },
        parameters=[path("period", {"type": "string", "pattern": PERIOD_PATTERN})],
    )
