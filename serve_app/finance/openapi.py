"""The contract as OpenAPI 3.1, with an example for every body and every problem.

Written out rather than derived from code: another vendor's Finance may stand behind it, so it changes
by decision (ADR 0004, ADR 0009), and a test suite (``tests/contracts/finance.py``) holds answers against it.
"""

from typing import Any

from serve_app.finance.openapi_books import books_paths
from serve_app.finance.openapi_parts import (
    ACCOUNT,
    CURRENCY,
    CURSOR_ASKED,
    KEY_PATTERN,
    TIME,
    answer,
    body,
    operation,
    page_size,
    path,
    problem,
    problem_example,
    problems,
    query,
)
from serve_app.finance.openapi_schemas import schemas

CONTRACT_VERSION = "1.2.0"

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
_REVERSAL_EXAMPLE = {
    "entry_key": "ord_01kavd3m8x:capture:reversal",
    "occurred_at": "2026-11-25T09:00:00Z",
    "description": "Booked to the wrong seller",
}
_REVERSED_EXAMPLE = {
    **_RESULT_EXAMPLE,
    **_REVERSAL_EXAMPLE,
    "entry_id": "ent_1032",
    "postings": [
        {"account": leg["account"], "amount_minor": -leg["amount_minor"]}
        for leg in _ENTRY_EXAMPLE["postings"]
    ],
    "reverses": _ENTRY_EXAMPLE["entry_key"],
}
_KEY = path("entry_key", {"type": "string"})
_BODY_PROBLEMS = ("json_malformed", "body_too_large")
_POSTING_PROBLEMS = (
    *("entry_malformed", "entry_unbalanced", "entry_refused", "period_closed"),
    *("account_unknown", "account_closed", "account_currency"),
)


def _entry_paths() -> dict[str, Any]:
    return {
        "/v1/entries": {"post": _post_entry(), "get": _list_entries()},
        "/v1/entries/batch": {"post": _post_batch()},
        "/v1/entries/{entry_key}": {"get": _get_entry()},
        "/v1/entries/{entry_key}/reversal": {"post": _post_reversal()},
    }


def _post_entry() -> dict[str, Any]:
    return operation(
        "postEntry",
        "poster",
        "Post an entry once; repeat with the same key and content at will",
        {
            "201": answer("Posted now", "PostingResult", _RESULT_EXAMPLE),
            "200": answer("Posted before", "PostingResult", {**_RESULT_EXAMPLE, "replayed": True}),
            **problems(*_BODY_PROBLEMS, "entry_conflict", *_POSTING_PROBLEMS),
        },
        requestBody=body("Entry", _ENTRY_EXAMPLE),
    )


def _post_batch() -> dict[str, Any]:
    results = [
        {"status": 201, "entry": _RESULT_EXAMPLE},
        {"status": 422, "problem": problem_example("entry_unbalanced")},
        {"status": 422, "problem": problem_example("period_closed")},
    ]
    return operation(
        "postBatch",
        "poster",
        "Post up to 500 entries, each with its own verdict, in order",
        {
            "200": answer("One result per entry", "BatchResult", {"results": results}),
            **problems(*_BODY_PROBLEMS, "batch_malformed"),
        },
        requestBody=body("Batch", {"entries": [_ENTRY_EXAMPLE]}),
    )


def _list_entries() -> dict[str, Any]:
    return operation(
        "listEntries",
        "reader",
        "Entries: in posting order, of all accounts or of one; of an account, a currency and a window, by "
        "the time at which they occurred; or by their keys' beginning, in the order of keys",
        {
            "200": answer("A page", "EntryPage", {"entries": [_POSTED_EXAMPLE], "next_cursor": None}),
            **problems("query_malformed"),
        },
        parameters=[
            query("account", ACCOUNT),
            query("currency", {**CURRENCY, "description": "With account, from and to"}),
            query("from", {**TIME, "description": "Included"}),
            query("to", {**TIME, "description": "Not included"}),
            query("key_prefix", {"type": "string", "pattern": KEY_PATTERN, "description": "By itself"}),
            CURSOR_ASKED,
            page_size(500),
        ],
    )


def _get_entry() -> dict[str, Any]:
    example = {**_POSTED_EXAMPLE, "reversed_by": _REVERSAL_EXAMPLE["entry_key"]}
    return operation(
        "getEntry",
        "reader",
        "Read an entry by its key (which may hold slashes; percent-encode dot segments)",
        {"200": answer("The entry", "PostedEntry", example), **problems("entry_unknown")},
        parameters=[_KEY],
    )


def _post_reversal() -> dict[str, Any]:
    return operation(
        "postReversal",
        "poster",
        "Undo an entry in full, once, by an entry of its own; repeat with the same key and content at will",
        {
            "201": answer("Posted now", "PostingResult", _REVERSED_EXAMPLE),
            "200": answer("Posted before", "PostingResult", {**_REVERSED_EXAMPLE, "replayed": True}),
            **problems(*_BODY_PROBLEMS, "entry_unknown"),
            **problems(
                "entry_conflict", "entry_reversed", "entry_malformed", "period_closed", "account_closed"
            ),
        },
        parameters=[_KEY],
        requestBody=body("Reversal", _REVERSAL_EXAMPLE),
    )


def openapi_document() -> dict[str, Any]:
    """Return the contract as an OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Finance: double-entry ledger",
            "version": CONTRACT_VERSION,
            "description": "Append-only, balanced, idempotent by entry_key. Amounts are integer minor units. "
            "An entry dated in a closed period is refused: post it under the same key with occurred_at now "
            "and original_occurred_at the date that it had; both are the same content, so that a repetition "
            "of either is answered with what is posted.",
        },
        "security": [{"clientCertificate": []}, {"serviceToken": []}],
        "paths": {**_entry_paths(), **books_paths()},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "serviceToken": {"type": "http", "scheme": "bearer", "description": "Has every role"},
                "clientCertificate": {
                    "type": "mutualTLS",
                    "description": "Its one URI name, such as spiffe://marketplace/ingress, has roles: "
                    "poster, reader, finance_admin",
                },
            },
            "responses": {
                "Unauthenticated": problem(401, "unauthenticated", "certificate_expired"),
                "Forbidden": problem(403, "identity_unknown", "role_missing"),
                "Unavailable": {
                    **problem(503, "ledger_unavailable", "ledger_busy", "deadline_exceeded"),
                    "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}},
                },
            },
        },
    }
