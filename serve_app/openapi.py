"""The API's description, OpenAPI 3.1, derived from the operations and the models that they name.

Problems are listed per status with their codes, so that a client can see all ways in which a call may
fail. Codes that every operation may answer are added here, once.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve_app import examples, problems
from serve_app.operations import Answer, Operation
from serve_app.paging import LIMIT_MAX
from serve_app.schemas.problems import Problem

VERSION = "1.0.0"
_REF = "#/components/schemas/{model}"
_ALL = ("internal_error", "deadline_exceeded")
_RATED = ("rate_limited",)
_TOKEN = ("token_missing", "token_invalid", "role_not_allowed", "database_unavailable")
_WRITE = (
    *("idempotency_key_missing", "idempotency_key_malformed", "idempotency_key_reused"),
    "card_number_found",
)
_BODY = (
    *("content_type_unsupported", "body_malformed", "body_invalid", "body_too_large"),
    *("json_duplicate_key", "json_number_invalid"),
    "card_number_found",
)
_DESCRIPTION = f"""\
JSON in snake_case; amounts are integer minor units with their currency; times are RFC 3339 in UTC.

Errors are RFC 9457 problem documents: branch on `code`; docs/errors.md says what to do about each.
Every answer carries `X-Request-Id`. Every write takes an `Idempotency-Key`: repeat the request with the
same key after a lost connection, 429 or 503, and it is done once. Lists page by `cursor`, up to
{LIMIT_MAX} items a page.
"""


def openapi_document(operations: Sequence[Operation], base_url: str) -> dict[str, Any]:
    """Return the whole description."""
    models = _models(operations)
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF, title="Schemas"
    )
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path.replace(":path}", "}"), {})[operation.method.lower()] = _operation(
            operation
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Illuvrse Marketplace",
            "version": VERSION,
            "summary": "A self-hosted marketplace for signed software",
            "description": _DESCRIPTION,
        },
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def problem_codes(operation: Operation) -> list[str]:
    """Return every code that an operation may answer, once each."""
    codes = [*operation.problems, *_ALL]
    if operation.rated:
        codes += _RATED
    if operation.roles:
        codes += _TOKEN
    if operation.write:
        codes += _WRITE
    if operation.request is not None:
        codes += _BODY
    elif operation.method != "GET":
        codes += ("body_too_large",)
    if operation.path.startswith("/v1/"):
        codes.append("database_unavailable")
    return list(dict.fromkeys(codes))


def _models(operations: Iterable[Operation]) -> list[type[BaseModel]]:
    found: dict[type[BaseModel], None] = {Problem: None}
    for operation in operations:
        if operation.request is not None:
            found[operation.request] = None
        for answer in operation.answers.values():
            if answer.model is not None:
                found[answer.model] = None
    return list(found)


def _operation(operation: Operation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "tags": [_tag(operation.path)],
        "parameters": _parameters(operation),
        "responses": {str(status): _answer(one) for status, one in operation.answers.items()},
        "security": [{"bearer": []}] if operation.roles else [],
    }
    if operation.roles:
        document["description"] = f"For {', '.join(sorted(operation.roles))}."
    if operation.request is not None:
        document["requestBody"] = {
            "required": not operation.request_optional,
            "content": {
                "application/json": {
                    "schema": {"$ref": _REF.format(model=operation.request.__name__)},
                    "example": operation.request_example,
                }
            },
        }
    _add_problems(document["responses"], problem_codes(operation))
    return document


def _tag(path: str) -> str:
    parts = path.split("/")
    return parts[2] if path.startswith("/v1/") else "service"


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{([a-z_]+)(?::path)?}", operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in operation.query.items()
    ]
    if operation.write:
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": True, "schema": key})
    if operation.operation_id == "followOrder":
        seq = {"type": "integer", "minimum": 0}
        parameters.append({"name": "Last-Event-ID", "in": "header", "required": False, "schema": seq})
    if operation.operation_id == "receiveStripeEvent":
        text = {"type": "string"}
        parameters.append({"name": "Stripe-Signature", "in": "header", "required": True, "schema": text})
    return parameters


def _answer(answer: Answer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "description": answer.description,
        "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
    }
    if answer.model is not None:
        media: dict[str, Any] = {"schema": {"$ref": _REF.format(model=answer.model.__name__)}}
        if answer.example is not None:
            media["example"] = answer.example
        document["content"] = {answer.media_type: media}
    elif answer.media_type != "application/json":
        document["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    return document


def _add_problems(responses: dict[str, Any], codes: Sequence[str]) -> None:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(problems.TABLE[code][0], []).append(code)
    for status, of_status in sorted(by_status.items()):
        listed = "; ".join(f"`{code}`: {problems.TABLE[code][1]}" for code in of_status)
        example = {**examples.PROBLEM, "status": status, "code": of_status[0]}
        example |= {
            "type": f"urn:illuvrse:problem:{of_status[0]}",
            "title": problems.TABLE[of_status[0]][1],
            "detail": "What happened, and what to do about it.",
        }
        content = {
            problems.PROBLEM_JSON: {"schema": {"$ref": _REF.format(model="Problem")}, "example": example}
        }
        known = responses.get(str(status))
        if known is not None:
            known["description"] += f". Or a problem: {listed}"
            known.setdefault("content", {}).update(content)
        else:
            responses[str(status)] = {"description": listed, "content": content}
