"""The load: buyers that place, pay and follow whole orders, one after another, without a pause.

Each buyer has its own token and connections, so what is measured is the marketplace with that many
buyers at once (a closed loop), not an arrival rate. Counted are the orders whose delivery is heard of
within the measured window: those that began in the warm-up and those still under way at its end balance.
Every acknowledged order is remembered, counted or not, for the check at the end.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from cluster.bench.http_client import HttpConnection, HttpError

CREATED = 201
ORDER_TIMEOUT_S = 30.0  # a healthy order takes well under a second
FAILURE_PAUSE_S = 0.05  # a broken server must not turn the generator into a busy loop
FAILED_STATES = frozenset({"expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where and what to buy. ``stripe_origin`` is the simulator's address."""

    origin: str
    stripe_origin: str
    sku_id: str
    currency: str
    recipient: str
    card: str = "pm_card_visa"


@dataclass(slots=True)
class Tally:
    """What the buyers saw. Times are milliseconds."""

    place_ms: list[float] = field(default_factory=list)
    fulfil_ms: list[float] = field(default_factory=list)
    purchase_ms: list[float] = field(default_factory=list)
    delivered: int = 0
    acknowledged: dict[str, str] = field(default_factory=dict)  # order id -> buyer's token
    errors: Counter[str] = field(default_factory=Counter)


class Buyer:
    """One buyer's loop."""

    def __init__(self, number: int, run: str, token: str, target: Target, tally: Tally) -> None:
        self._prefix = f"bench-{run}-{number}"
        self._token = token
        self._target = target
        self._tally = tally
        self._auth = f"Authorization: Bearer {token}\r\n"
        self._api = HttpConnection(target.origin)
        self._stream = HttpConnection(target.origin)
        self._stripe = HttpConnection(target.stripe_origin)
        self._body = orjson.dumps(
            {
                "lines": [{"sku_id": target.sku_id, "quantity": 1}],
                "currency": target.currency,
                "delivery": {"mode": "recipient", "recipient": target.recipient},
            }
        )

    async def run(self, measure_from: float, until: float) -> None:
        """Buy until ``until``; count what is delivered from ``measure_from`` on (monotonic seconds)."""
        count = 0
        try:
            while time.monotonic() < until:
                count += 1
                try:
                    await self._purchase(f"{self._prefix}-{count}", measure_from, until)
                except (HttpError, OSError, TimeoutError) as error:
                    self._tally.errors[f"transport_{type(error).__name__}"] += 1
                    await asyncio.sleep(FAILURE_PAUSE_S)
        finally:
            for connection in (self._api, self._stream, self._stripe):
                connection.close()

    async def _purchase(self, key: str, measure_from: float, until: float) -> None:
        began = time.monotonic()
        headers = f"{self._auth}Content-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        answer = await self._api.request("POST", "/v1/orders", headers, self._body)
        placed = time.monotonic()
        document = orjson.loads(answer.body) if answer.body else {}
        if answer.status != CREATED:
            self._tally.errors[str(document.get("code", answer.status))] += 1
            await asyncio.sleep(FAILURE_PAUSE_S)
            return
        order_id = document["id"]
        self._tally.acknowledged[order_id] = self._token
        if not await self._pay(document["payment"]):
            return
        paid_at, delivered_at = await self._follow(order_id)
        if delivered_at is None:
            self._tally.errors["order_not_delivered"] += 1
            return
        if measure_from <= delivered_at <= until:
            self._tally.delivered += 1
            self._tally.place_ms.append((placed - began) * 1000)
            self._tally.purchase_ms.append((delivered_at - began) * 1000)
            if paid_at is not None:
                self._tally.fulfil_ms.append(paid_at)

    async def _pay(self, payment: dict[str, Any]) -> bool:
        secret = payment.get("client_secret")
        if not secret:
            self._tally.errors["payment_not_open"] += 1
            return False
        form = f"client_secret={secret}&payment_method={self._target.card}".encode()
        headers = (
            f"Authorization: Bearer {payment['publishable_key']}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
        )
        path = f"/v1/payment_intents/{payment['payment_intent_id']}/confirm"
        answer = await self._stripe.request("POST", path, headers, form)
        if answer.status == 200:  # noqa: PLR2004 - Stripe's one success
            return True
        self._tally.errors[f"stripe_{answer.status}"] += 1
        return False

    async def _follow(self, order_id: str) -> tuple[float | None, float | None]:
        """Return (milliseconds from paid to delivered by the events' own times, when we heard of it)."""
        paid_at = ""
        path = f"/v1/orders/{order_id}/events"
        result: tuple[float | None, float | None] = (None, None)
        async for data in self._stream.events(path, self._auth, ORDER_TIMEOUT_S):
            event = orjson.loads(data)
            if event["kind"] == "order.paid":
                paid_at = event["at"]
            elif event["kind"] == "order.delivered":
                result = (_between_ms(paid_at, event["at"]) if paid_at else None, time.monotonic())
            elif event["status"] in FAILED_STATES:
                return None, None
        return result


def _between_ms(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds() * 1000


async def run_load(
    target: Target, tokens: list[str], run: str, warm_up_s: float, seconds: float
) -> tuple[Tally, float, float]:
    """Run one buyer per token; returns the tally and the measured window (monotonic seconds)."""
    tally = Tally()
    measure_from = time.monotonic() + warm_up_s
    until = measure_from + seconds
    buyers = [Buyer(number, run, token, target, tally) for number, token in enumerate(tokens)]
    async with asyncio.TaskGroup() as group:
        for buyer in buyers:
            group.create_task(buyer.run(measure_from, until))
    return tally, measure_from, until


async def count_undelivered(target: Target, tally: Tally, timeout_s: float) -> list[str]:
    """Return the acknowledged orders that are not delivered within ``timeout_s`` seconds.

    Asks over HTTP, as buyers would: with the token that placed each order.
    """
    connection = HttpConnection(target.origin)
    deadline = time.monotonic() + timeout_s
    open_orders = dict(tally.acknowledged)
    while open_orders:
        for order_id, token in list(open_orders.items()):
            answer = await connection.request(
                "GET", f"/v1/orders/{order_id}", f"Authorization: Bearer {token}\r\n"
            )
            if answer.status == 200 and orjson.loads(answer.body)["status"] == "delivered":  # noqa: PLR2004 - found
                del open_orders[order_id]
        if time.monotonic() > deadline:
            break
        if open_orders:
            await asyncio.sleep(0.5)
    connection.close()
    return sorted(open_orders)
