"""What the payment tests do as buyers, reviewers and Stripe, on the real marketplace."""

import hashlib
import hmac
import json
import time
from typing import Any
from uuid import uuid4

import httpx
import psycopg

WITHIN_S = 20.0


def placed(buyer: httpx.Client, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    response = buyer.post("/v1/orders", json=body, headers={"Idempotency-Key": key or str(uuid4())})
    assert response.status_code == 201, response.text
    order: dict[str, Any] = response.json()
    return order


def until(read: Any, holds: Any, within_s: float = WITHIN_S) -> Any:
    """Read until it holds, and return what was read."""
    deadline = time.monotonic() + within_s
    while not holds(found := read()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def until_status(buyer: httpx.Client, order_id: str, status: str) -> dict[str, Any]:
    order: dict[str, Any] = until(
        lambda: buyer.get(f"/v1/orders/{order_id}").json(), lambda one: one["status"] == status
    )
    return order


class StripeSide:
    """The simulator of a running marketplace, with its secret key."""

    def __init__(self, local: dict[str, Any]) -> None:
        self._local = local
        headers = {"Authorization": f"Bearer {local['stripe']['secret_key']}"}
        self.http = httpx.Client(base_url=local["stripe"]["api_base"], headers=headers, timeout=20)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.http.get(path, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, **form: Any) -> Any:
        answer = self.http.post(path, data=form)
        assert answer.is_success, answer.text
        return answer.json()

    def event(self, kind: str, order_id: str) -> dict[str, Any]:
        """The newest event of a kind about an order."""
        listed = self.get("/v1/events", type=kind, limit=100)["data"]
        return next(one for one in listed if one["data"]["object"]["metadata"].get("order_id") == order_id)

    def signed(self, event: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        """The body and the headers with which Stripe would deliver an event now."""
        body, at_s = json.dumps(event).encode(), int(time.time())
        secret = self._local["stripe"]["webhook_secret"].encode()
        digest = hmac.new(secret, b"%d.%b" % (at_s, body), hashlib.sha256).hexdigest()
        headers = {"Stripe-Signature": f"t={at_s},v1={digest}", "Content-Type": "application/json"}
        return body, headers


def rows_of(local: dict[str, Any], query: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(local["postgres_dsn"]) as connection:
        return connection.execute(query, values).fetchall()  # type: ignore[arg-type]


def charged_once(stripe: StripeSide, local: dict[str, Any], order: dict[str, Any], lines: int) -> None:
    """One charge, one booking, one licence per line; and events 1..n."""
    order_id, intent_id = order["id"], order["payment"]["payment_intent_id"]
    charges = stripe.get("/v1/charges", payment_intent=intent_id, limit=100)["data"]
    taken = [one["amount_captured"] for one in charges if one["captured"]]
    assert taken == [order["total_minor"]]
    entries = rows_of(local, "SELECT entry_key FROM finance.entries WHERE entry_key LIKE %s", f"{order_id}%")
    assert len(entries) == 1
    licences = rows_of(local, "SELECT line_no FROM market.licences WHERE order_id = %s ORDER BY 1", order_id)
    assert licences == [(number,) for number in range(1, lines + 1)]
    kinds = [
        kind
        for (kind,) in rows_of(
            local, "SELECT kind FROM market.order_events WHERE order_id = %s ORDER BY seq", order_id
        )
    ]
    assert kinds.count("order.paid") == kinds.count("order.booked") == kinds.count("order.licensed") == 1
