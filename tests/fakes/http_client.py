"""What a caller of the ingress does: buyers' requests and Stripe's signed webhooks, without sockets."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import secrets
from typing import Any

import httpx
import orjson

from tests.fakes.ingress import WEBHOOK_SECRET, FakeMarket


class Client:
    """An HTTP client of one application, speaking as ``token``; writes get a fresh key unless given one."""

    def __init__(self, app: Any, token: str | None = None) -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://market.test")
        self.token = token
        run = secrets.token_hex(4)  # a database may outlive this client and know its keys
        self._keys = (f"key-{run}-{number}" for number in itertools.count(1))

    def as_(self, token: str | None) -> Client:
        other = object.__new__(Client)
        other.http, other.token, other._keys = self.http, token, self._keys
        return other

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=self._headers(headers))

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        key: str | None = "fresh",
        content: Any = None,
        method: str = "POST",
        **headers: str,
    ) -> httpx.Response:
        if key == "fresh":
            key = next(self._keys)
        if key is not None:
            headers["idempotency_key"] = key
        headers.setdefault("content_type", "application/json")
        data = content if content is not None else orjson.dumps(body)
        return await self.http.request(method, path, content=data, headers=self._headers(headers))

    async def put(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return await self.post(path, body, method="PUT", **more)

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            named.setdefault("authorization", f"Bearer {self.token}")
        return named


def stripe_event(
    order_id: str | None,
    amount_minor: int = 1999,
    *,
    kind: str = "payment_intent.succeeded",
    event_id: str = "evt_1",
    intent_id: str = "pi_1",
    **intent: Any,
) -> dict[str, Any]:
    """Build an event of Stripe's about a payment intent."""
    metadata = {} if order_id is None else {"order_id": order_id}
    document = {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount_minor,
        "amount_received": amount_minor if kind.endswith("succeeded") else 0,
        "currency": "usd",
        "metadata": metadata,
        "last_payment_error": None,
        **intent,
    }
    return {"id": event_id, "object": "event", "type": kind, "data": {"object": document}}


def signed(body: bytes, at_s: int, secret: str = WEBHOOK_SECRET) -> str:
    """Build a ``Stripe-Signature`` header as Stripe's documentation describes it."""
    digest = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest},v0={'0' * 64}"


async def settle(market: FakeMarket) -> None:
    """Let background work run until the host has no effect in flight."""
    tasks = market.directory.host._tasks
    for _ in range(200):
        await asyncio.sleep(0)
    while tasks:
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)


async def pay(
    market: FakeMarket, client: Client, order_id: str, amount_minor: int = 1999, **event: Any
) -> httpx.Response:
    """Send the webhook of an order's payment and wait until the order has settled."""
    intent_id = market.gateway.intents[order_id]
    body = orjson.dumps(stripe_event(order_id, amount_minor, intent_id=intent_id, **event))
    signature = signed(body, int(market.clock().timestamp()))
    answer = await client.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )
    await settle(market)
    return answer
