"""Errors as RFC 9457 problem documents, and the one table of Finance's HTTP statuses.

``code`` is the stable name that clients branch on; ``detail`` is for people. An unknown error is a
plain 500 whose text says nothing about the inside.
"""

from typing import Any

import orjson
from starlette.responses import Response

from domain.errors import (
    BusyError,
    ConflictError,
    DependencyError,
    MarketplaceError,
    NotFoundError,
    RejectedError,
)
from domain.ledger import AccountRefusedError, EntryMalformedError, EntryUnbalancedError, PeriodClosedError

PROBLEM_JSON = "application/problem+json"

# By class first; a code listed here overrides its class.
_STATUS_BY_CLASS: tuple[tuple[type[MarketplaceError], int], ...] = (
    (RejectedError, 422),
    (NotFoundError, 404),
    (ConflictError, 409),
    (BusyError, 503),
    (DependencyError, 503),
)
_STATUS_BY_CODE = {
    "unauthenticated": 401,
    "certificate_expired": 401,
    "identity_unknown": 403,
    "role_missing": 403,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "json_malformed": 400,
    "internal_error": 500,
}
_TITLES = {
    "entry_malformed": "The entry is malformed",
    "entry_unbalanced": "The entry does not balance",
    "entry_conflict": "The key is taken by another entry",
    "entry_refused": "The database refuses the entry",
    "entry_unknown": "No such entry",
    "entry_reversed": "The entry is reversed already",
    "reversal_malformed": "The reversal is malformed",
    "period_closed": "The entry belongs to a closed period",
    "period_not_over": "The period is not over",
    "period_malformed": "The period is malformed",
    "account_unknown": "No such account",
    "account_closed": "The account is closed",
    "account_currency": "The account is kept in another currency",
    "account_conflict": "The account exists, and is another",
    "account_not_empty": "The account has a balance",
    "account_kind": "The chart of accounts says another kind",
    "account_forbidden": "There is no such account, on purpose",
    "account_malformed": "The account is malformed",
    "batch_malformed": "The batch is malformed",
    "query_malformed": "A parameter is malformed",
    "json_malformed": "The body is not JSON",
    "body_too_large": "The body is too large",
    "unauthenticated": "A client certificate or the service token is needed",
    "certificate_expired": "The client certificate has expired",
    "identity_unknown": "The certificate's identity is unknown",
    "role_missing": "The caller lacks the role",
    "route_unknown": "No such resource",
    "method_not_allowed": "The resource has no such method",
    "ledger_busy": "The ledger is busy",
    "ledger_unavailable": "The ledger's database is unavailable",
    "deadline_exceeded": "The request took too long",
    "internal_error": "An unexpected error",
}


def status_of(error: MarketplaceError) -> int:
    """Return the HTTP status of an expected error."""
    if error.code in _STATUS_BY_CODE:
        return _STATUS_BY_CODE[error.code]
    return next((status for kind, status in _STATUS_BY_CLASS if isinstance(error, kind)), 500)


def document(error: MarketplaceError) -> dict[str, Any]:
    """Return the problem document of an expected error."""
    problem: dict[str, Any] = {
        "type": f"urn:illuvrse:problem:{error.code}",
        "title": _TITLES.get(error.code, error.code),
        "status": status_of(error),
        "detail": error.detail,
        "code": error.code,
    }
    if isinstance(error, EntryMalformedError):
        problem["pointer"] = error.pointer
    elif isinstance(error, EntryUnbalancedError):
        problem["sum_minor"] = error.sum_minor
    elif isinstance(error, PeriodClosedError):
        problem["open_from"] = error.open_from
    elif isinstance(error, AccountRefusedError):
        problem["account"] = error.account
    return problem


def response(error: MarketplaceError) -> Response:
    """Return the HTTP answer of an expected error, with ``Retry-After`` where repeating helps."""
    headers: dict[str, str] = {}
    if isinstance(error, (BusyError, DependencyError)):
        headers["Retry-After"] = str(error.retry_after_s)
    if error.code == "unauthenticated":
        headers["WWW-Authenticate"] = "Bearer"
    body = document(error)
    return Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), body["status"], headers, PROBLEM_JSON)
