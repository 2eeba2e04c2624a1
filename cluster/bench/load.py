"""The load: purchases, each from the order's placing to the news of its delivery.

Counted are the orders whose delivery is heard of within the window. Closed loop: each buyer buys one order
after another without a pause, so what is measured is the marketplace with that many buyers at once. Open
loop: purchases begin at fixed times whatever the marketplace does, and are timed from when they were due;
timed are those due within the window, however late they end, so that slowness is not left out.

A 429 or 503 is the marketplace saying "not now" (load shedding) and counts apart from errors. Every
acknowledged order is remembered for the check at the end (``settling``). Refuses to grow without bound:
above ``IN_FLIGHT_MAX`` purchases at once an arrival is counted as ``generator_full`` and dropped.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from cluster.bench.http_client import OK, HttpConnection, HttpError

CREATED = 201
SHED = frozenset({429, 503})
ORDER_TIMEOUT_S = 30.0  # a healthy order takes well under a second
FAILURE_PAUSE_S = 0.05  # a broken server must not turn the generator into a busy loop
IN_FLIGHT_MAX = 2_000  # two connections each
TRANSPORT_ERRORS = (HttpError, OSError, TimeoutError)
_PAID, _LICENSED, _DELIVERED = (
    b"event: order." + one + b"\ndata: " for one in (b"paid", b"licensed", b"delivered")
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where and what to buy. ``stripe_origin`` is the simulator's address."""

    origin: str
    stripe_origin: str
    sku_id: str
    currency: str
    recipient: str
    card: str = "pm_card_visa"

    def order_body(self) -> bytes:
        """Return the body of POST /v1/orders."""
        return orjson.dumps(
            {
                "lines": [{"sku_id": self.sku_id, "quantity": 1}],
                "currency": self.currency,
                "delivery": {"mode": "recipient", "recipient": self.recipient},
            }
        )


@dataclass(slots=True)
class Acknowledged:
    """An order that was answered with 201: whose it is, and how far we know it to have come."""

    token: str
    paid: bool = False
    delivered: bool = False


@dataclass(slots=True)
class Tally:
    """What the buyers saw. Times are milliseconds."""

    place_ms: list[float] = field(default_factory=list)
    webhook_to_licence_ms: list[float] = field(default_factory=list)
    paid_to_licensed_ms: list[float] = field(default_factory=list)
    fulfil_ms: list[float] = field(default_factory=list)
    purchase_ms: list[float] = field(default_factory=list)
    started: int = 0
    delivered: int = 0
    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Window:
    """What is measured: monotonic seconds."""

    begin: float
    end: float

    def holds(self, at: float) -> bool:
        """Whether a moment is measured."""
        return self.begin <= at <= self.end

    @classmethod
    def after(cls, warm_up_s: float, seconds: float) -> "Window":
        """Return the window that begins ``warm_up_s`` from now."""
        begin = time.monotonic() + warm_up_s
        return cls(begin, begin + seconds)


class _Progress:
    """Reads an order's event stream as it comes; looks at the time only where it matters."""

    __slots__ = ("delivered_at", "licensed_at", "text")

    def __init__(self) -> None:
        self.text = b""
        self.licensed_at: float | None = None
        self.delivered_at: float | None = None

    def __call__(self, piece: bytes) -> None:
        self.text += piece
        if self.licensed_at is None and _LICENSED in self.text:
            self.licensed_at = time.monotonic()
        if self.delivered_at is None and _DELIVERED in self.text:
            self.delivered_at = time.monotonic()

    def at(self, mark: bytes) -> datetime | None:
        """Return when an event happened, by its own account."""
        start = self.text.find(mark)
        if start < 0:
            return None
        start += len(mark)
        data = self.text[start : self.text.index(b"\n", start)]
        return datetime.fromisoformat(orjson.loads(data)["at"])


class Buyer:
    """Makes purchases, one at a time, over its two connections."""

    def __init__(self, token: str, target: Target, tally: Tally, window: Window) -> None:
        self._window = window
        self._token = token
        self._target = target
        self._tally = tally
        self._auth = f"Authorization: Bearer {token}\r\n"
        self._api = HttpConnection(target.origin)
        self._stripe = HttpConnection(target.stripe_origin)
        self._body = target.order_body()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()
        self._stripe.close()

    async def purchase(self, key: str, due: float, times: Callable[[float, float], bool]) -> bool:
        """Buy one order; False when it came to nothing.

        ``due`` is when it should have begun and ``times(due, delivered_at)`` says whether its times are kept
        (monotonic seconds).
        """
        self._tally.started += 1
        try:
            return await self._purchase(key, due, times)
        except TRANSPORT_ERRORS as error:
            self._tally.errors[f"transport_{type(error).__name__}"] += 1
            return False

    async def _purchase(self, key: str, due: float, times: Callable[[float, float], bool]) -> bool:
        tally = self._tally
        headers = f"{self._auth}Content-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        answer = await self._api.request("POST", "/v1/orders", headers, self._body)
        placed = time.monotonic()
        document = orjson.loads(answer.body) if answer.body else {}
        if answer.status != CREATED:
            self._refused(answer.status, document)
            return False
        order_id = document["id"]
        mine = tally.acknowledged[order_id] = Acknowledged(self._token)
        failed = await pay(self._stripe, document["payment"], self._target.card)
        if failed:
            tally.errors[failed] += 1
            return False
        mine.paid = True
        confirmed = time.monotonic()
        progress = _Progress()
        answer = await self._api.request(
            *("GET", f"/v1/orders/{order_id}/events"),
            f"{self._auth}Accept: text/event-stream\r\n",
            timeout_s=ORDER_TIMEOUT_S,
            on_body=progress,
        )
        if answer.status != OK:
            self._refused(answer.status, orjson.loads(answer.body) if answer.body else {})
            return False
        if progress.delivered_at is None:
            tally.errors["order_not_delivered"] += 1
            return False
        mine.delivered = True
        tally.delivered += self._window.holds(progress.delivered_at)
        if times(due, progress.delivered_at):
            tally.place_ms.append((placed - due) * 1000)
            tally.purchase_ms.append((progress.delivered_at - due) * 1000)
            self._count_progress(progress, confirmed)
        return True

    def _count_progress(self, progress: _Progress, confirmed: float) -> None:
        if progress.licensed_at is not None:
            self._tally.webhook_to_licence_ms.append((progress.licensed_at - confirmed) * 1000)
        paid, licensed, delivered = progress.at(_PAID), progress.at(_LICENSED), progress.at(_DELIVERED)
        if paid and licensed:
            self._tally.paid_to_licensed_ms.append((licensed - paid).total_seconds() * 1000)
        if paid and delivered:
            self._tally.fulfil_ms.append((delivered - paid).total_seconds() * 1000)

    def _refused(self, status: int, document: dict[str, Any]) -> None:
        code = str(document.get("code", status))
        (self._tally.shed if status in SHED else self._tally.errors)[code] += 1


async def pay(stripe: HttpConnection, payment: dict[str, Any] | None, card: str) -> str:
    """Confirm an order's payment as a browser does; returns what went wrong, empty when it is paid."""
    secret = payment.get("client_secret") if payment else None
    if not payment or not secret:
        return "payment_not_open"
    form = f"client_secret={secret}&payment_method={card}".encode()
    headers = (
        f"Authorization: Bearer {payment['publishable_key']}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
    )
    path = f"/v1/payment_intents/{payment['payment_intent_id']}/confirm"
    answer = await stripe.request("POST", path, headers, form)
    return "" if answer.status == OK else f"stripe_{answer.status}"


async def closed_loop(target: Target, tokens: Sequence[str], run: str, window: Window) -> Tally:
    """Run one buyer per token until the window ends."""
    tally = Tally()

    def times(_due: float, delivered_at: float) -> bool:
        return window.holds(delivered_at)

    async def buy(number: int, token: str) -> None:
        buyer = Buyer(token, target, tally, window)
        count = 0
        try:
            while (now := time.monotonic()) < window.end:
                count += 1
                if not await buyer.purchase(f"bench-{run}-{number}-{count}", now, times):
                    await asyncio.sleep(FAILURE_PAUSE_S)
        finally:
            buyer.close()

    async with asyncio.TaskGroup() as group:
        for number, token in enumerate(tokens):
            group.create_task(buy(number, token))
    return tally


async def open_loop(target: Target, tokens: Sequence[str], run: str, window: Window, per_s: float) -> Tally:
    """Begin ``per_s`` purchases a second until the window ends, then wait for those under way."""
    tally = Tally()
    idle: list[Buyer] = []  # the one used last first: as few connections as will do
    made = 0

    def times(due: float, _delivered_at: float) -> bool:
        return window.holds(due)

    async def buy(buyer: Buyer, key: str, due: float) -> None:
        await buyer.purchase(key, due, times)
        idle.append(buyer)

    due, number = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while due < window.end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            number += 1
            if not idle and made >= IN_FLIGHT_MAX:
                tally.errors["generator_full"] += 1
            else:
                if not idle:
                    idle.append(Buyer(tokens[made % len(tokens)], target, tally, window))
                    made += 1
                group.create_task(buy(idle.pop(), f"bench-{run}-{number}", due))
            due += 1.0 / per_s
    for buyer in idle:
        buyer.close()
    return tally
