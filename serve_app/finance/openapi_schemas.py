"""The schemas of the contract. Objects are closed: what is not understood exactly must not be booked."""

from typing import Any

from domain import ledger
from serve_app.finance.documents import BATCH_ENTRIES_MAX
from serve_app.finance.openapi_parts import (
    ACCOUNT,
    CURRENCY,
    CURSOR,
    KEY_PATTERN,
    MINOR,
    PERIOD_PATTERN,
    TIME,
    TIME_OR_NULL,
    obj,
    ref,
)

_TEXT = {"type": "string"}
_KEY = {"type": "string", "pattern": KEY_PATTERN}
_DESCRIPTION = {"type": "string", "maxLength": ledger.DESCRIPTION_CHARS_MAX}
_ORIGINAL = {
    **TIME,
    "description": "When it happened, of an entry that came after its period was closed; before occurred_at",
}
_KIND = {"type": "string", "enum": list(ledger.Kind)}
_SIDE = {"type": "string", "enum": ["debit", "credit"]}


def schemas() -> dict[str, Any]:
    """Return all schemas by name."""
    return {**_entries(), **_balances(), **_books(), **_statements(), "Problem": _problem()}


def _entries() -> dict[str, Any]:
    entry = {
        "entry_key": _KEY,
        "currency": CURRENCY,
        "occurred_at": {**TIME, "description": "RFC 3339 with offset, at most six decimals"},
        "description": _DESCRIPTION,
        "postings": {
            "type": "array",
            "minItems": ledger.POSTINGS_MIN,
            "maxItems": ledger.POSTINGS_MAX,
            "items": ref("Posting"),
        },
        "original_occurred_at": _ORIGINAL,
    }
    amount = {
        "type": "integer",
        "minimum": -ledger.AMOUNT_MINOR_MAX,
        "maximum": ledger.AMOUNT_MINOR_MAX,
        "not": {"const": 0},
        "description": "Minor units: debit positive, credit negative, never zero",
    }
    links = {
        "reverses": {**_KEY, "description": "The key of the entry that this one undoes"},
        "reversed_by": {**_KEY, "description": "The key of the entry that undoes this one; told by reads"},
    }
    posted = {"entry_id": _TEXT, **entry, "occurred_at": TIME, "posted_at": TIME, **links}
    sometimes = ("original_occurred_at", "reverses", "reversed_by")
    reversal = {
        "entry_key": {**_KEY, "description": "The reversal's own key"},
        "occurred_at": {**TIME, "description": "Not before the entry's own"},
        "description": _DESCRIPTION,
        "original_occurred_at": _ORIGINAL,
    }
    result = {
        "status": {"type": "integer", "enum": [200, 201, 409, 422]},
        "entry": ref("PostingResult"),
        "problem": ref("Problem"),
    }
    batch = {"type": "array", "minItems": 1, "maxItems": BATCH_ENTRIES_MAX, "items": ref("Entry")}
    results = {"type": "array", "items": obj(result, "entry", "problem")}
    return {
        "Posting": obj({"account": ACCOUNT, "amount_minor": amount}),
        "Entry": obj(entry, "description", "original_occurred_at"),
        "Reversal": obj(reversal, "description", "original_occurred_at"),
        "PostedEntry": obj(posted, *sometimes),
        "PostingResult": obj({**posted, "replayed": {"type": "boolean"}}, *sometimes),
        "Batch": obj({"entries": batch}),
        "BatchResult": obj({"results": results}),
        "EntryPage": obj({"entries": {"type": "array", "items": ref("PostedEntry")}, "next_cursor": CURSOR}),
    }


def _balances() -> dict[str, Any]:
    totals = {"debit_minor": MINOR, "credit_minor": MINOR, "posting_count": MINOR}
    balance = {"account": ACCOUNT, "currency": CURRENCY, "balance_minor": MINOR}
    listed = {**balance, "debit_minor": MINOR, "credit_minor": MINOR}
    part = {"part": _TEXT, **totals, "balance_minor": MINOR}
    return {
        "Balance": obj({**balance, "as_of": TIME_OR_NULL, "posting_count": MINOR}),
        "BalancePage": obj({"accounts": {"type": "array", "items": obj(listed)}, "next_cursor": CURSOR}),
        "TrialBalance": obj(
            {
                "currency": CURRENCY,
                "as_of": TIME_OR_NULL,
                "balanced": {"type": "boolean"},
                "sum_minor": {**MINOR, "description": "Always 0 in sound books"},
                **totals,
                "parts": {"type": "array", "items": obj(part)},
            }
        ),
    }


def _books() -> dict[str, Any]:
    closed = {
        "period": {"type": "string", "pattern": PERIOD_PATTERN},
        "open_from": {**TIME, "description": "The first instant behind the period"},
        "closed_at": TIME,
        "closed_by": _TEXT,
    }
    pattern = {"pattern": _TEXT, "kind": _KIND, "normal_side": _SIDE}
    return {
        "Chart": obj({"patterns": {"type": "array", "items": obj(pattern)}}),
        "Declaration": obj({"kind": _KIND, "currency": {**CURRENCY, "type": ["string", "null"]}}, "currency"),
        "Account": obj(
            {
                "account": ACCOUNT,
                "kind": _KIND,
                "normal_side": _SIDE,
                "currency": {**CURRENCY, "type": ["string", "null"], "description": "null: any"},
                "declared": {"type": "boolean", "description": "false: opened by its first posting"},
                "opened_at": TIME,
                "closed_at": TIME_OR_NULL,
            }
        ),
        "ClosedPeriod": obj(closed),
        "PeriodPage": obj(
            {
                "open_from": {**TIME_OR_NULL, "description": "Entries dated before it are refused"},
                "periods": {"type": "array", "items": ref("ClosedPeriod")},
                "next_cursor": CURSOR,
            }
        ),
    }


def _statements() -> dict[str, Any]:
    line = {
        "entry_id": _TEXT,
        "entry_key": _KEY,
        "occurred_at": TIME,
        "original_occurred_at": _ORIGINAL,
        "posted_at": TIME,
        "description": _DESCRIPTION,
        "amount_minor": MINOR,
        "balance_minor": {**MINOR, "description": "After this line"},
    }
    statement = {
        "account": ACCOUNT,
        "currency": CURRENCY,
        "from": {**TIME, "description": "Included"},
        "to": {**TIME, "description": "Excluded"},
        "through_entry_id": {**_TEXT, "description": "Entries posted later do not show, on any page"},
        "opening_balance_minor": MINOR,
        "debit_minor": {**MINOR, "description": "Of all pages, as the next three"},
        "credit_minor": MINOR,
        "closing_balance_minor": {**MINOR, "description": "Opening balance + debits - credits"},
        "line_count": MINOR,
        "lines": {"type": "array", "items": obj(line, "original_occurred_at")},
        "next_cursor": CURSOR,
    }
    return {"Statement": obj(statement)}


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "RFC 9457. Branch on code.",
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "code": _TEXT,
            "pointer": {**_TEXT, "description": "RFC 6901, of the faulty member"},
            "sum_minor": MINOR,
            "open_from": {**TIME, "description": "With period_closed: the books are open from here"},
            "account": {**_TEXT, "description": "With account_…: the account that is refused"},
        },
        "required": ["type", "title", "status", "detail", "code"],
    }
