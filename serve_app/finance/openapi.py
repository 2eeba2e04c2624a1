"""The contract as OpenAPI 3.1, with an example for every body.

Written out rather than derived from code: another vendor's Finance may stand behind it, so it changes
by decision (ADR 0004), and a test holds our answers against it.
"""

from typing import Any

from domain import ledger
from serve_app.finance.documents import BATCH_ENTRIES_MAX

CONTRACT_VERSION = "1.0.0"

_KEY_PATTERN = r"^[A-Za-z0-9_.:/-]{1,200}$"
_ACCOUNT_PATTERN = r"^[a-z][a-z0-9_]*(:[A-Za-z0-9_]+){0,3}$"
_TIME = {"type": "string", "format": "date-time"}
_MINOR = {"type": "integer", "format": "int64"}
_CURSOR = {"type": ["string", "null"]}
_CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$", "description": "ISO 4217"}
_ACCOUNT = {"type": "string", "maxLength": ledger.ACCOUNT_CHARS_MAX, "pattern": _ACCOUNT_PATTERN}

_ENTRY_EXAMPLE: dict[str, Any] = {
    "entry_key": "ord_01kavd3m8x:capture",
    "currency": "USD",
    "occurred_at": "2026-11-24T14:00:00Z",
    "description": "Sale",
    "postings": [
        {"account": "stripe:clearing", "amount_minor": 1999},
        {"account": "seller:sel_01k9:payable", "amount_minor": -1800},
        {"account": "platform:fees", "amount_minor": -199},
    ],
}
_POSTED_EXAMPLE = {"entry_id": "ent_1024", **_ENTRY_EXAMPLE, "posted_at": "2026-11-24T14:00:00.123456Z"}
_RESULT_EXAMPLE = {**_POSTED_EXAMPLE, "replayed": False}
_UNBALANCED_EXAMPLE = {
    "type": "urn:illuvrse:problem:entry_unbalanced",
    "title": "The entry does not balance",
    "status": 422,
    "detail": "The postings sum to 1 minor units of USD, not to zero.",
    "code": "entry_unbalanced",
    "sum_minor": 1,
}


def _object(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _entry_schemas() -> dict[str, Any]:
    entry = {
        "entry_key": {"type": "string", "pattern": _KEY_PATTERN},
        "currency": _CURRENCY,
        "occurred_at": {**_TIME, "description": "RFC 3339 with offset, at most six decimals"},
        "description": {"type": "string", "maxLength": ledger.DESCRIPTION_CHARS_MAX},
        "postings": {
            "type": "array",
            "minItems": ledger.POSTINGS_MIN,
            "maxItems": ledger.POSTINGS_MAX,
            "items": _ref("Posting"),
        },
    }
    posted = {"entry_id": {"type": "string"}, **entry, "occurred_at": _TIME, "posted_at": _TIME}
    amount = {
        "type": "integer",
        "minimum": -ledger.AMOUNT_MINOR_MAX,
        "maximum": ledger.AMOUNT_MINOR_MAX,
        "not": {"const": 0},
        "description": "Minor units: debit positive, credit negative, never zero",
    }
    result = {
        "status": {"type": "integer", "enum": [200, 201, 409, 422]},
        "entry": _ref("PostingResult"),
        "problem": _ref("Problem"),
    }
    entries = {"type": "array", "minItems": 1, "maxItems": BATCH_ENTRIES_MAX, "items": _ref("Entry")}
    return {
        "Posting": _object({"account": _ACCOUNT, "amount_minor": amount}),
        "Entry": _object(entry, "description"),
        "PostedEntry": _object(posted),
        "PostingResult": _object({**posted, "replayed": {"type": "boolean"}}),
        "Batch": _object({"entries": entries}),
        "BatchResult": _object({"results": {"type": "array", "items": _object(result, "entry", "problem")}}),
        "EntryPage": _object(
            {"entries": {"type": "array", "items": _ref("PostedEntry")}, "next_cursor": _CURSOR}
        ),
    }


def _balance_schemas() -> dict[str, Any]:
    as_of = {"type": ["string", "null"], "format": "date-time"}
    totals = {"debit_minor": _MINOR, "credit_minor": _MINOR, "posting_count": _MINOR}
    balance = {"account": _ACCOUNT, "currency": _CURRENCY, "balance_minor": _MINOR}
    part = {"part": {"type": "string"}, **totals, "balance_minor": _MINOR}
    return {
        "Balance": _object({**balance, "as_of": as_of, "posting_count": _MINOR}),
        "BalancePage": _object(
            {"accounts": {"type": "array", "items": _object(balance)}, "next_cursor": _CURSOR}
        ),
        "TrialBalance": _object(
            {
                "currency": _CURRENCY,
                "as_of": as_of,
                "balanced": {"type": "boolean"},
                "sum_minor": {**_MINOR, "description": "Always 0 in sound books"},
                **totals,
                "parts": {"type": "array", "items": _object(part)},
            }
        ),
    }


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "description": "RFC 9457. Branch on code.",
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "code": text,
            "pointer": {**text, "description": "RFC 6901, of the faulty member"},
            "sum_minor": _MINOR,
        },
        "required": ["type", "title", "status", "detail", "code"],
    }


def _answer(description: str, schema: str, example: object = None) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": _ref(schema)}
    if example is not None:
        media["example"] = example
    return {"description": description, "content": {"application/json": media}}


def _problem(description: str, example: object = None) -> dict[str, Any]:
    media: dict[str, Any] = {"schema": _ref("Problem")}
    if example is not None:
        media["example"] = example
    return {"description": description, "content": {"application/problem+json": media}}


def _operation(operation_id: str, summary: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
    common = {
        "401": {"$ref": "#/components/responses/Unauthenticated"},
        "503": {"$ref": "#/components/responses/Unavailable"},
    }
    return {
        "operationId": operation_id,
        "summary": summary,
        "responses": {**responses, **common},
        **more,
    }


def _query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _body(schema: str, example: object) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": _ref(schema), "example": example}},
    }


def _paths() -> dict[str, Any]:
    refused = {"400": _problem("Not JSON"), "413": _problem("More than 1 MiB")}
    as_of = _query("as_of", {**_TIME, "description": "Counts what occurred up to and including this time"})
    currency = _query("currency", _CURRENCY, required=True)
    cursor = _query("cursor", {"type": "string"})
    post = _operation(
        "postEntry",
        "Post an entry once; repeat with the same key and content at will",
        {
            "201": _answer("Posted now", "PostingResult", _RESULT_EXAMPLE),
            "200": _answer("Posted before", "PostingResult", {**_RESULT_EXAMPLE, "replayed": True}),
            "409": _problem("entry_conflict: the key names other content"),
            "422": _problem("entry_malformed, entry_unbalanced, entry_refused", _UNBALANCED_EXAMPLE),
            **refused,
        },
        requestBody=_body("Entry", _ENTRY_EXAMPLE),
    )
    batch = _operation(
        "postBatch",
        "Post up to 500 entries, each with its own verdict, in order",
        {
            "200": _answer(
                "One result per entry",
                "BatchResult",
                {
                    "results": [
                        {"status": 201, "entry": _RESULT_EXAMPLE},
                        {"status": 422, "problem": _UNBALANCED_EXAMPLE},
                    ]
                },
            ),
            "422": _problem("batch_malformed: the frame itself is wrong"),
            **refused,
        },
        requestBody=_body("Batch", {"entries": [_ENTRY_EXAMPLE]}),
    )
    listing = _operation(
        "listEntries",
        "Entries in posting order, of all accounts or of one",
        {
            "200": _answer("A page", "EntryPage", {"entries": [_POSTED_EXAMPLE], "next_cursor": None}),
            "422": _problem("query_malformed"),
        },
        parameters=[
            _query("account", _ACCOUNT),
            cursor,
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}),
        ],
    )
    return {
        "/v1/entries": {"post": post, "get": listing},
        "/v1/entries/batch": {"post": batch},
        "/v1/entries/{entry_key}": {"get": _get_entry()},
        "/v1/accounts": {"get": _list_accounts(cursor)},
        "/v1/accounts/{account}/balance": {"get": _get_balance(currency, as_of)},
        "/v1/trial-balance": {"get": _get_trial_balance(currency, as_of)},
    }


def _get_entry() -> dict[str, Any]:
    return _operation(
        "getEntry",
        "Read an entry by its key (which may hold slashes; percent-encode dot segments)",
        {
            "200": _answer("The entry", "PostedEntry", _POSTED_EXAMPLE),
            "404": _problem("entry_unknown: nothing is posted under this key"),
        },
        parameters=[
            {"name": "entry_key", "in": "path", "required": True, "schema": {"type": "string"}},
        ],
    )


def _list_accounts(cursor: dict[str, Any]) -> dict[str, Any]:
    example = {"account": "platform:fees", "currency": "USD", "balance_minor": -199}
    return _operation(
        "listAccounts",
        "Balances by account and currency, in that order",
        {
            "200": _answer("A page", "BalancePage", {"accounts": [example], "next_cursor": None}),
            "422": _problem("query_malformed"),
        },
        parameters=[
            _query("prefix", {"type": "string", "description": "Beginning of account names"}),
            cursor,
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
        ],
    )


def _get_balance(*parameters: dict[str, Any]) -> dict[str, Any]:
    example = {
        "account": "platform:fees",
        "currency": "USD",
        "as_of": None,
        "balance_minor": -199,
        "posting_count": 1,
    }
    return _operation(
        "getBalance",
        "Balance of one account; an account without postings has balance 0",
        {"200": _answer("The balance", "Balance", example), "422": _problem("query_malformed")},
        parameters=[
            {"name": "account", "in": "path", "required": True, "schema": _ACCOUNT},
            *parameters,
        ],
    )


def _get_trial_balance(*parameters: dict[str, Any]) -> dict[str, Any]:
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
    return _operation(
        "getTrialBalance",
        "Debits and credits by the leading part of account names, and in all",
        {"200": _answer("Sum zero", "TrialBalance", example), "422": _problem("query_malformed")},
        parameters=list(parameters),
    )


def openapi_document() -> dict[str, Any]:
    """Return the contract as an OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Finance: double-entry ledger",
            "version": CONTRACT_VERSION,
            "description": "Append-only, balanced, idempotent by entry_key. Amounts are integer minor units.",
        },
        "security": [{"serviceToken": []}],
        "paths": _paths(),
        "components": {
            "schemas": {**_entry_schemas(), **_balance_schemas(), "Problem": _problem_schema()},
            "securitySchemes": {"serviceToken": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Unauthenticated": _problem("The service token is missing or wrong"),
                "Unavailable": {
                    **_problem("ledger_unavailable, ledger_busy, deadline_exceeded: repeat, same key"),
                    "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
                },
            },
        },
    }
