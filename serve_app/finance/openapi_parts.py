"""The pieces that the contract's document is made of: references, answers, problems, parameters.

Problems are written out with their examples, one per code, so that a client can be written, and another
Finance built, from the document alone.
"""

from typing import Any

from domain import ledger

KEY_PATTERN = r"^[A-Za-z0-9_.:/-]{1,200}$"
ACCOUNT_PATTERN = r"^[a-z][a-z0-9_]*(:[A-Za-z0-9_]+){0,3}$"
PERIOD_PATTERN = r"^[0-9]{4}-[0-9]{2}$"
TIME = {"type": "string", "format": "date-time"}
TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
MINOR = {"type": "integer", "format": "int64"}
CURSOR = {"type": ["string", "null"]}
CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$", "description": "ISO 4217"}
ACCOUNT = {"type": "string", "maxLength": ledger.ACCOUNT_CHARS_MAX, "pattern": ACCOUNT_PATTERN}
JSON = "application/json"
PROBLEM = "application/problem+json"

# code: status, title, detail, further members. One example of each problem that an operation may answer.
_PROBLEMS: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "json_malformed": (400, "The body is not JSON", "The body is not JSON: unexpected end of data.", {}),
    "body_too_large": (413, "The body is too large", "A body has at most 1048576 bytes.", {}),
    "entry_malformed": (
        422,
        "The entry is malformed",
        "An amount is a whole number of minor units, not zero, within 2**53 - 1 either way.",
        {"pointer": "/postings/0/amount_minor"},
    ),
    "entry_unbalanced": (
        422,
        "The entry does not balance",
        "The postings sum to 1 minor units of USD, not to zero.",
        {"sum_minor": 1},
    ),
    "entry_refused": (422, "The database refuses the entry", "Nothing was posted.", {}),
    "entry_conflict": (
        409,
        "The key is taken by another entry",
        "Entry ord_01kavd3m8x:capture is already posted with other content.",
        {},
    ),
    "entry_reversed": (
        409,
        "The entry is reversed already",
        "Entry ord_01kavd3m8x:capture has a reversal already, under another key.",
        {},
    ),
    "entry_unknown": (404, "No such entry", "No entry has this key. Nothing was posted under it.", {}),
    "batch_malformed": (422, "The batch is malformed", 'A batch is {"entries": […]}.', {}),
    "query_malformed": (422, "A parameter is malformed", "Parameter limit: a number from 1 to 100.", {}),
    "period_closed": (
        422,
        "The entry belongs to a closed period",
        "Nothing was posted. Post it under the same key with occurred_at now and the date as original.",
        {"open_from": "2026-12-01T00:00:00Z"},
    ),
    "period_malformed": (422, "The period is malformed", "A period is a month in UTC, like 2026-11.", {}),
    "period_not_over": (409, "The period is not over", "Period 2026-11 is not over.", {}),
    "account_unknown": (
        422,
        "No such account",
        "Account stripe:clearings is not in the chart of accounts; nothing was posted.",
        {"account": "stripe:clearings"},
    ),
    "account_closed": (
        422,
        "The account is closed",
        "Account cash:old_bank is closed and takes no postings; nothing was posted.",
        {"account": "cash:old_bank"},
    ),
    "account_currency": (
        422,
        "The account is kept in another currency",
        "Account cash:euro_bank is kept in EUR only; nothing was posted.",
        {"account": "cash:euro_bank"},
    ),
    "account_malformed": (422, "The account is malformed", "A declaration has a kind.", {}),
    "account_kind": (
        422,
        "The chart of accounts says another kind",
        "The chart of accounts makes cash:bank asset, not income.",
        {},
    ),
    "account_forbidden": (422, "There is no such account, on purpose", "Amounts are split exactly.", {}),
    "account_conflict": (409, "The account exists, and is another", "Account cash:bank exists: asset.", {}),
    "account_not_empty": (409, "The account has a balance", "Account cash:bank has a balance in USD.", {}),
    "unauthenticated": (
        401,
        "A client certificate or the service token is needed",
        "It is missing or wrong.",
        {},
    ),
    "certificate_expired": (401, "The client certificate has expired", "Renew it.", {}),
    "identity_unknown": (
        403,
        "The certificate's identity is unknown",
        "The client certificate is genuine, but Finance knows no such identity.",
        {},
    ),
    "role_missing": (
        403,
        "The caller lacks the role",
        "spiffe://marketplace/ingress has not the role finance_admin that this takes.",
        {},
    ),
    "ledger_busy": (503, "The ledger is busy", "Repeat this one in a second.", {}),
    "ledger_unavailable": (
        503,
        "The ledger's database is unavailable",
        "Repeat the request with the same entry key: if it was posted, the repetition returns it.",
        {},
    ),
    "deadline_exceeded": (503, "The request took too long", "Repeat it with the same entry key.", {}),
}
# An account that is asked for and does not exist is 404, under the same code.
_NOT_FOUND = frozenset({"account_unknown"})


def problem_example(code: str, status: int | None = None) -> dict[str, Any]:
    """Return an example of the problem ``code``."""
    usual, title, detail, more = _PROBLEMS[code]
    kind = {"type": f"urn:illuvrse:problem:{code}", "title": title, "status": status or usual}
    if status in (None, usual):
        kind |= more
    return {**kind, "detail": detail, "code": code}


def obj(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Return a closed object schema; every property is required unless named ``optional``."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def ref(name: str) -> dict[str, str]:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def answer(description: str, schema: str, example: object) -> dict[str, Any]:
    """Describe an answer with its example."""
    return {
        "description": description,
        "content": {JSON: {"schema": ref(schema), "example": example}},
    }


def problem(status: int, *codes: str) -> dict[str, Any]:
    """Describe the problems that share a status, each with an example."""
    wrong = [code for code in codes if _PROBLEMS[code][0] != status and code not in _NOT_FOUND]
    assert not wrong, f"{wrong} have another status"
    examples = {code: {"value": problem_example(code, status)} for code in codes}
    return {
        "description": ", ".join(codes),
        "content": {PROBLEM: {"schema": ref("Problem"), "examples": examples}},
    }


def problems(*codes: str) -> dict[str, dict[str, Any]]:
    """Describe problems by their usual statuses."""
    statuses = sorted({_PROBLEMS[code][0] for code in codes})
    return {
        str(status): problem(status, *[code for code in codes if _PROBLEMS[code][0] == status])
        for status in statuses
    }


def operation(
    operation_id: str, role: str, summary: str, responses: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Describe an operation that takes ``role``, with the problems that every operation may answer."""
    common = {
        "401": {"$ref": "#/components/responses/Unauthenticated"},
        "403": {"$ref": "#/components/responses/Forbidden"},
        "503": {"$ref": "#/components/responses/Unavailable"},
    }
    return {
        "operationId": operation_id,
        "summary": summary,
        "description": f"Takes the role {role}.",
        "x-role": role,
        "responses": {**responses, **common},
        **more,
    }


def query(name: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    """Describe a query parameter."""
    return {"name": name, "in": "query", "required": required, "schema": schema}


def path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Describe a path parameter."""
    return {"name": name, "in": "path", "required": True, "schema": schema}


def page_size(highest: int) -> dict[str, Any]:
    """Describe the parameter ``limit``."""
    return query("limit", {"type": "integer", "minimum": 1, "maximum": highest, "default": 50})


def body(schema: str, example: object) -> dict[str, Any]:
    """Describe a request's body with its example."""
    return {"required": True, "content": {JSON: {"schema": ref(schema), "example": example}}}


AS_OF = query("as_of", {**TIME, "description": "Counts what occurred up to and including this time"})
CURRENCY_ASKED = query("currency", CURRENCY, required=True)
CURSOR_ASKED = query("cursor", {"type": "string"})
