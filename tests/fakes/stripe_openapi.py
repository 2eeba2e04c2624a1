"""Stripe's own description of its API, abridged: which parameters each request takes, and of what form.

``python -m tests.fakes.stripe_openapi spec3.json`` writes the abridged file anew from Stripe's own, which
github.com/stripe/openapi has under the MIT licence and the Go module stripe-mock embeds. Objects that we
never send are kept by name only.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

FILE = Path(__file__).with_suffix(".json")
OPERATIONS = (
    ("POST", "/v1/payment_intents"),
    ("GET", "/v1/payment_intents/{intent}"),
    ("POST", "/v1/payment_intents/{intent}/confirm"),
    ("POST", "/v1/payment_intents/{intent}/capture"),
    ("POST", "/v1/payment_intents/{intent}/cancel"),
    ("POST", "/v1/checkout/sessions"),
    ("GET", "/v1/checkout/sessions/{session}"),
    ("POST", "/v1/checkout/sessions/{session}/expire"),
    ("POST", "/v1/refunds"),
    ("GET", "/v1/refunds"),
    ("GET", "/v1/charges"),
    ("GET", "/v1/charges/{charge}"),
    ("GET", "/v1/disputes"),
    ("POST", "/v1/disputes/{dispute}"),
    ("GET", "/v1/accounts/{account}"),
    ("POST", "/v1/transfers"),
    ("GET", "/v1/transfers"),
    ("GET", "/v1/transfers/{id}/reversals"),
    ("GET", "/v1/balance"),
    ("GET", "/v1/balance_transactions"),
    ("GET", "/v1/events"),
    ("GET", "/v1/webhook_endpoints"),
    ("POST", "/v1/tax/calculations"),
)
EXPANDED = frozenset(
    {
        "metadata",
        "automatic_payment_methods",
        "payment_intent_data",
        "line_items",
        "price_data",
        "product_data",
        "evidence",
        "customer_details",
        "address",
        "created",
    }
)
Tree = dict[str, Any]
_INTEGER = re.compile(r"-?[0-9]+")


def faults(method: str, path: str, form: str) -> list[str]:
    """Say what Stripe's description has against a request; ``form`` is its query or its body."""
    described: Tree = json.loads(FILE.read_text(encoding="utf-8"))["operations"]
    for name, schema in described.items():
        verb, _, template = name.partition(" ")
        if verb == method and re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", template), path):
            return list(_faults(_nested(form), schema, ""))
    return [f"{method} {path} is not described"]


def _nested(form: str) -> Tree:
    """Read ``a[b][0]=c`` into nested objects."""
    tree: Tree = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        head, *rest = re.findall(r"[^\[\]]+", name)
        place = tree
        for part, following in zip([head, *rest], [*rest, None], strict=True):
            if following is None:
                place[part] = value
            else:
                place = place.setdefault(part, {})
    return tree


def _faults(value: Any, schema: Tree, where: str) -> Any:
    if "fields" in schema:
        if not isinstance(value, dict):
            yield f"{where or 'the request'} is no object"
            return
        for name in schema["required"]:
            if name not in value:
                yield f"{where}[{name}] is missing"
        for name, one in value.items():
            if name in schema["fields"]:
                yield from _faults(one, schema["fields"][name], f"{where}[{name}]")
            else:
                yield f"{where}[{name}] is not known"
    elif "items" in schema:
        for index, one in value.items() if isinstance(value, dict) else [("", value)]:
            yield from _faults(one, schema["items"], f"{where}[{index}]")
    elif schema["type"] in ("map", "object"):
        if not isinstance(value, dict):
            yield f"{where} is no object"
    elif isinstance(value, dict):
        yield f"{where} is an object"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{where} is none of {schema['enum']}"
    elif schema["type"] == "integer" and not _INTEGER.fullmatch(value):
        yield f"{where} is no integer"
    elif schema["type"] == "boolean" and value not in ("true", "false"):
        yield f"{where} is no boolean"


def _abridged(schema: Tree, name: str) -> Tree:
    choices = schema.get("anyOf", [schema])
    schema = next((one for one in choices if one.get("type") in ("object", "array")), choices[0])
    kind = schema.get("type", "string")
    if kind == "array":
        return {"items": _abridged(schema["items"], name)}
    if kind != "object":
        return {"type": kind} | ({"enum": schema["enum"]} if schema.get("enum") else {})
    if "properties" not in schema:
        return {"type": "map"}
    if name not in EXPANDED and name:
        return {"type": "object"}
    fields = {one: _abridged(inner, one) for one, inner in schema["properties"].items()}
    return {"fields": fields, "required": schema.get("required", [])}


def abridge(spec: Tree) -> Tree:
    """Return the file's content."""
    operations = {}
    for method, path in OPERATIONS:
        described = spec["paths"][path][method.lower()]
        if method == "POST":
            (body,) = described["requestBody"]["content"].values()
            operations[f"{method} {path}"] = _abridged(body["schema"], "")
        else:
            query = [one for one in described["parameters"] if one["in"] == "query"]
            operations[f"{method} {path}"] = {
                "fields": {one["name"]: _abridged(one["schema"], one["name"]) for one in query},
                "required": [one["name"] for one in query if one.get("required")],
            }
    return {
        "source": "github.com/stripe/openapi, abridged",
        "licence": "MIT, Copyright (c) 2017- Stripe, Inc. (https://stripe.com)",
        "version": spec["info"]["version"],
        "operations": operations,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(abridge(json.loads(Path(sys.argv[1]).read_text())), indent=1) + "\n")
