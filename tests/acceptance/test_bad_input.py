"""Every bad input of the HTTP contract against the real marketplace: the documented code, nothing written.

After each request the rows of all tables of the product are what they were before.
"""

import base64
import hashlib
import hmac
import json
import socket
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from storage.age.recipients import public_half, recipient_text

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

UNKNOWN = "01jz3k5v8m2q9x7c4b6n0t1rwf"
RECIPIENT = recipient_text(public_half(bytes(range(32))))


@dataclass(frozen=True)
class Bad:
    """One bad request and the answer that the contract promises."""

    name: str
    status: int
    code: str
    method: str = "POST"
    path: str = "/v1/orders"
    role: str | None = "buyer"
    json: Any = None
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    key: str | None = "fresh"


def order(**changes: Any) -> dict[str, Any]:
    body = {
        "lines": [{"sku_id": "LOGLINE", "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
    }
    return {name: value for name, value in (body | changes).items() if value is not ...}


def line(**changes: Any) -> dict[str, Any]:
    return {"sku_id": "LOGLINE", "quantity": 1} | changes


def lines(*these: dict[str, Any]) -> dict[str, Any]:
    return order(lines=list(these))


def raw(text: bytes, content_type: str = "application/json") -> dict[str, Any]:
    return {"content": text, "headers": {"Content-Type": content_type}}


ORDERS = [
    Bad("no key", 400, "idempotency_key_missing", json=order(), key=None),
    Bad("an empty key", 400, "idempotency_key_malformed", json=order(), key=""),
    Bad("a long key", 400, "idempotency_key_malformed", json=order(), key="k" * 256),
    Bad("no token", 401, "token_missing", role=None, json=order()),
    Bad(
        "an unknown token",
        401,
        "token_invalid",
        role=None,
        json=order(),
        headers={"Authorization": "Bearer nobody"},
    ),
    Bad(
        "another scheme",
        401,
        "token_missing",
        role=None,
        json=order(),
        headers={"Authorization": "Basic eDp5"},
    ),
    Bad("a seller buys", 403, "role_not_allowed", role="seller", json=order()),
    Bad("no JSON", 400, "body_malformed", **raw(b"{")),
    Bad("an empty body", 400, "body_malformed", **raw(b"")),
    Bad("a duplicate member", 400, "json_duplicate_key", **raw(b'{"currency":"USD","currency":"EUR"}')),
    Bad("NaN", 400, "json_number_invalid", **raw(b'{"lines":[{"sku_id":"x","quantity":NaN}]}')),
    Bad("no UTF-8", 400, "body_malformed", **raw(b'{"currency":"\xff"}')),
    Bad("another media type", 415, "content_type_unsupported", **raw(b"a=b", "text/plain")),
    Bad("a body of 65 KiB", 413, "body_too_large", **raw(b'"' + b"x" * 66_560 + b'"')),
    Bad("an array", 422, "body_invalid", json=[]),
    Bad("no lines member", 422, "body_invalid", json=order(lines=...)),
    Bad("an unknown member", 422, "body_invalid", json=order(coupon="FREE")),
    Bad("a price of one's own", 422, "body_invalid", json=lines(line(unit_price_minor=1))),
    Bad("no lines", 422, "lines_out_of_range", json=lines()),
    Bad("51 lines", 422, "lines_out_of_range", json=lines(*[line(sku_id=f"sku_{n}") for n in range(51)])),
    Bad("zero", 422, "quantity_out_of_range", json=lines(line(quantity=0))),
    Bad("a negative quantity", 422, "quantity_out_of_range", json=lines(line(quantity=-1))),
    Bad("a thousand and one", 422, "quantity_out_of_range", json=lines(line(quantity=1_001))),
    Bad("half a seat", 422, "body_invalid", json=lines(line(quantity=0.5))),
    Bad("a text quantity", 422, "body_invalid", json=lines(line(quantity="1"))),
    Bad("a true quantity", 422, "body_invalid", json=lines(line(quantity=True))),
    Bad("the same SKU twice", 422, "line_duplicate", json=lines(line(), line())),
    Bad("an unknown SKU", 404, "sku_not_found", json=lines(line(sku_id=f"sku_{UNKNOWN}"))),
    Bad("no currency", 422, "body_invalid", json=order(currency=...)),
    Bad("an unknown currency", 422, "currency_unknown", json=order(currency="XXX")),
    Bad("a small currency", 422, "currency_unknown", json=order(currency="usd")),
    Bad("a currency not offered", 422, "currency_not_offered", json=order(currency="CHF")),
    Bad("an unknown mode", 422, "delivery_mode_unknown", json=order(delivery={"mode": "post"})),
    Bad(
        "a recipient that is none",
        422,
        "recipient_invalid",
        json=order(delivery={"mode": "recipient", "recipient": "age1nonsense"}),
    ),
    Bad("no recipient", 422, "recipient_mismatch", json=order(delivery={"mode": "recipient"})),
    Bad(
        "a recipient too many",
        422,
        "recipient_mismatch",
        json=order(delivery={"mode": "released_key", "recipient": RECIPIENT}),
    ),
    Bad("an unknown payment method", 422, "payment_method_unknown", json=order(payment_method="cash")),
    Bad("an embargoed country", 403, "policy_blocked", json=order(country="KP")),
]
READS = [
    Bad("an unknown path", 404, "route_not_found", "GET", "/v1/nothing"),
    Bad("a wrong method", 405, "method_not_allowed", "PUT", "/v1/skus", json={}),
    Bad("limit zero", 422, "query_invalid", "GET", "/v1/skus?limit=0", None),
    Bad("limit 101", 422, "query_invalid", "GET", "/v1/skus?limit=101", None),
    Bad("limit x", 422, "query_invalid", "GET", "/v1/skus?limit=x", None),
    Bad("a wrong cursor", 400, "cursor_invalid", "GET", "/v1/skus?cursor=%00", None),
    Bad("an unknown SKU", 404, "sku_not_found", "GET", f"/v1/skus/sku_{UNKNOWN}", None),
    Bad("an unknown order", 404, "order_not_found", "GET", f"/v1/orders/ord_{UNKNOWN}"),
    Bad("no order id", 404, "order_not_found", "GET", "/v1/orders/x'--"),
    Bad("no token", 401, "token_missing", "GET", f"/v1/orders/ord_{UNKNOWN}", None),
    Bad("unknown events", 404, "order_not_found", "GET", f"/v1/orders/ord_{UNKNOWN}/events"),
    Bad("unknown deliveries", 404, "order_not_found", "GET", f"/v1/orders/ord_{UNKNOWN}/deliveries"),
    Bad("an unknown licence", 404, "licence_not_found", "GET", f"/v1/licences/lic_{UNKNOWN}"),
    Bad(
        "an unknown delivery", 404, "delivery_not_found", "POST", f"/v1/deliveries/dlv_{UNKNOWN}/key", json={}
    ),
    Bad("verify nothing", 422, "body_invalid", "POST", "/v1/licences/verify", None, json={}, key=None),
]
SKU = {"name": "fresh-name", "title": "T", "description": "D", "prices": {"USD": 100}}
SELLING = [
    Bad("a buyer sells", 403, "role_not_allowed", path="/v1/skus", json=SKU),
    Bad(
        "a taken name", 409, "sku_name_taken", path="/v1/skus", role="seller", json=SKU | {"name": "logline"}
    ),
    Bad("a wrong name", 422, "sku_name_invalid", path="/v1/skus", role="seller", json=SKU | {"name": "A b"}),
    Bad(
        "a price below zero",
        422,
        "price_invalid",
        path="/v1/skus",
        role="seller",
        json=SKU | {"prices": {"USD": -1}},
    ),
    Bad(
        "an unknown currency",
        422,
        "currency_unknown",
        path="/v1/skus",
        role="seller",
        json=SKU | {"prices": {"XXX": 1}},
    ),
    Bad("no key", 400, "idempotency_key_missing", path="/v1/skus", role="seller", json=SKU, key=None),
    Bad(
        "a low-order public key",
        422,
        "public_key_invalid",
        path="/v1/seller-keys",
        role="seller",
        json={"public_key": base64.b64encode(bytes(32)).decode()},
    ),
    Bad(
        "a short public key",
        422,
        "public_key_type_wrong",
        path="/v1/seller-keys",
        role="seller",
        json={"public_key": base64.b64encode(bytes(31)).decode()},
    ),
    Bad(
        "a release of an unknown SKU",
        404,
        "sku_not_found",
        path=f"/v1/skus/sku_{UNKNOWN}/releases",
        role="seller",
        json={"version": "1.0.0", "bundle_name": "a.tar.gz"},
    ),
    Bad(
        "a wrong version",
        422,
        "version_invalid",
        path="/v1/skus/LOGLINE/releases",
        role="seller",
        json={"version": "1.0", "bundle_name": "a.tar.gz"},
    ),
    Bad(
        "a taken version",
        409,
        "release_version_taken",
        path="/v1/skus/LOGLINE/releases",
        role="seller",
        json={"version": "1.2.0", "bundle_name": "a.tar.gz"},
    ),
    Bad(
        "publish an unknown release",
        404,
        "release_not_found",
        path=f"/v1/releases/rel_{UNKNOWN}/publish",
        role="seller",
        json={"manifest": {}},
    ),
    Bad(
        "a buyer issues tokens",
        403,
        "role_not_allowed",
        path="/v1/ops/tokens",
        json={"role": "operator", "principal_id": "me"},
    ),
    Bad(
        "an unknown role",
        422,
        "body_invalid",
        path="/v1/ops/tokens",
        role="operator",
        json={"role": "king", "principal_id": "me"},
    ),
]


CODE = {"code": "SPRING", "percent_bps": 1_000}
RATE = {"country": "DE", "category": "*", "jurisdiction": "DE", "rate_ppm": 190_000, "inclusive": True}


def coded(status: int, problem: str, role: str = "seller", **changes: Any) -> Bad:
    return Bad(f"{role} {changes}", status, problem, path="/v1/discounts", role=role, json=CODE | changes)


def table(code: str, base_version: int = 1, status: int = 422, **changes: Any) -> Bad:
    body = {
        "base_version": base_version,
        "table": {"rates": [RATE | changes], "elsewhere": "untaxed"},
        "reason": "We are registered there.",
    }
    return Bad(f"{code} {changes}", status, code, "PUT", "/v1/ops/tax-table", "operator", json=body)


def listed(status: int, code: str, role: str = "seller", **changes: Any) -> Bad:
    body = {"base_version": 1, "prices": {"USD": 1}} | changes
    return Bad(f"{role} {changes}", status, code, "PUT", "/v1/skus/LOGLINE/prices", role, json=body)


PRICING = [
    Bad("an unknown code", 422, "discount_unknown", json=order(discount_code="NOWHERE")),
    Bad("no code at all", 422, "discount_unknown", json=order(discount_code="'; --")),
    Bad("a long code", 422, "body_invalid", json=order(discount_code="x" * 65)),
    Bad("a quote of an unknown code", 422, "discount_unknown", path="/v1/quotes", key=None,
        json=order(delivery=..., discount_code="NOWHERE")),
    Bad("a quote by a seller", 403, "role_not_allowed", path="/v1/quotes", key=None, role="seller", json={}),
    coded(403, "role_not_allowed", "buyer"),
    coded(422, "discount_invalid", code="ä"),
    coded(422, "discount_invalid", amounts_minor={"USD": 1}),
    coded(422, "discount_invalid", percent_bps=None),
    coded(422, "discount_invalid", percent_bps=None, amounts_minor={"USD": 10**12}),
    coded(422, "body_invalid", percent_bps=10_001),
    coded(422, "currency_unknown", minimum_minor={"XXX": 1}),
    coded(422, "discount_invalid", valid_until="2020-01-01T00:00:00Z"),
    coded(422, "discount_invalid", valid_until="2026-02-31T00:00:00Z"),
    coded(404, "sku_not_found", sku_ids=[f"sku_{UNKNOWN}"]),
    coded(422, "reason_missing", "operator"),
    Bad("an unknown code's end", 404, "discount_not_found", path=f"/v1/discounts/dsc_{UNKNOWN}/end",
        role="seller", json={}),
    table("tax_table_invalid", rate_ppm=-1),
    table("tax_table_invalid", jurisdiction="de"),
    table("tax_table_changed", base_version=99, status=409),
    listed(422, "price_invalid", prices={}),
    listed(422, "price_invalid", prices={"USD": 10**9}),
    listed(422, "price_invalid", prices={"KWD": 5}),
    listed(422, "currency_unknown", prices={"usd": 5}),
    listed(409, "price_list_changed", base_version=99),
    listed(403, "role_not_allowed", "operator"),
]  # fmt: skip


def filled(value: Any, sku_id: str) -> Any:
    return json.loads(json.dumps(value).replace("LOGLINE", sku_id))


@pytest.mark.parametrize(
    "bad", [*ORDERS, *READS, *SELLING, *PRICING], ids=lambda bad: f"{bad.path}-{bad.name}"
)
def test_the_documented_refusal_and_nothing_written(market, sku_ids, bad):
    headers = dict(bad.headers)
    if bad.key is not None and bad.method != "GET":
        headers["Idempotency-Key"] = str(uuid4()) if bad.key == "fresh" else bad.key
    body = {} if bad.json is None else {"json": filled(bad.json, sku_ids["logline"])}
    if bad.content is not None:
        body = {"content": bad.content}
    before = market.rows()
    with market.http(bad.role) as client:
        path = bad.path.replace("LOGLINE", sku_ids["logline"])
        response = client.request(bad.method, path, headers=headers, **body)
    assert (response.status_code, response.json().get("code")) == (bad.status, bad.code), response.text
    check_problem(response)
    assert market.rows() == before


def check_problem(response):
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:illuvrse:problem:{problem['code']}"
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    assert {problem["instance"]} == set(response.headers.get_list("x-request-id"))
    for inside in ("Traceback", "psycopg", "SELECT ", "/storage/", "ray."):
        assert inside not in response.text
    if response.status_code == 401:
        assert response.headers["www-authenticate"].startswith("Bearer")


def signed(market, body: bytes, at: float | None = None, secret: str | None = None) -> dict[str, str]:
    stamp = int(time.time() if at is None else at)
    key = (secret or market.local["stripe"]["webhook_secret"]).encode()
    digest = hmac.new(key, b"%d.%b" % (stamp, body), hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={stamp},v1={digest}", "Content-Type": "application/json"}


def paid(order_id: str) -> bytes:
    intent = {
        "id": "pi_forged",
        "object": "payment_intent",
        "amount_received": 1999,
        "currency": "usd",
        "metadata": {"order_id": order_id},
    }
    event = {"id": f"evt_{uuid4().hex}", "object": "event", "type": "payment_intent.succeeded"}
    return json.dumps(event | {"data": {"object": intent}}).encode()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("unsigned", 400, "webhook_signature_invalid"),
        ("garbage", 400, "webhook_signature_invalid"),
        ("forged", 400, "webhook_signature_invalid"),
        ("old", 400, "webhook_signature_invalid"),
        ("future", 400, "webhook_signature_invalid"),
        ("altered", 400, "webhook_signature_invalid"),
        ("no JSON", 400, "body_malformed"),
        ("unknown order", 404, "webhook_order_unknown"),
    ],
)
def test_webhooks_that_are_not_stripes_change_nothing(market, buyer, wish, name, status, code):
    order_id = buyer.post("/v1/orders", json=wish(), headers={"Idempotency-Key": str(uuid4())}).json()["id"]
    body = paid(f"ord_{UNKNOWN}" if name == "unknown order" else order_id)
    headers = {
        "unsigned": {"Content-Type": "application/json"},
        "garbage": {"Stripe-Signature": "t=x,v1=zz"},
        "forged": signed(market, body, secret="whsec_other"),
        "old": signed(market, body, at=time.time() - 400),
        "future": signed(market, body, at=time.time() + 400),
        "altered": signed(market, body + b" "),
        "no JSON": signed(market, b"{"),
    }.get(name) or signed(market, body)
    before = market.rows()
    with market.http() as client:
        response = client.post(
            "/v1/webhooks/stripe", content=b"{" if name == "no JSON" else body, headers=headers
        )
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert market.rows() == before
    assert buyer.get(f"/v1/orders/{order_id}").json()["status"] == "awaiting_payment"


def test_a_body_that_never_says_its_length_is_cut_off(market):
    """Chunked, without end: refused while it is read, whatever Content-Length would have said."""
    where = urlsplit(market.local["base_url"])
    token = market.local["tokens"]["buyer"]
    before = market.rows()
    with socket.create_connection((where.hostname, where.port), timeout=20) as connection:
        connection.sendall(
            (
                f"POST /v1/orders HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n"
                f"Idempotency-Key: {uuid4()}\r\nContent-Type: application/json\r\n"
                "Transfer-Encoding: chunked\r\n\r\n"
            ).encode()
        )
        try:
            for _ in range(20):
                connection.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass  # cut off while sending: that is the refusal
        answer = b""
        # Head and body may come apart; the server closes after a refusal.
        while b"body_too_large" not in answer and (more := connection.recv(65_536)):
            answer += more
    assert answer.split(b" ", 2)[1] == b"413"
    assert b"body_too_large" in answer
    assert market.rows() == before


@pytest.mark.parametrize("request_id", ["short", "x" * 65, "has space", "semi;colon"])
def test_a_request_id_that_is_not_one_is_replaced(market, request_id):
    with market.http() as client:
        response = client.get("/v1/skus", headers={"X-Request-Id": request_id})
        kept = client.get("/v1/skus", headers={"X-Request-Id": "my-request-1"})
    assert request_id not in response.headers.get_list("x-request-id")
    assert set(kept.headers.get_list("x-request-id")) == {"my-request-1"}


def test_a_request_id_is_sent_once(market):
    with market.http() as client:
        assert len(client.get("/v1/skus").headers.get_list("x-request-id")) == 1
