"""Buyers that go on buying while parts fail, as good clients do, and remember what they were promised.

A buyer repeats a request that failed with the same idempotency key, honours ``Retry-After``, and pays once.
Every other one follows the progress stream and resumes it after the last event that it saw; the rest ask.
What counts afterwards: an order that was acknowledged (201) exists; one whose payment Stripe confirmed is
delivered; no key ever named two orders; a stream's ids were 1..n without a gap or a repetition; nothing was
answered with our own 500. Runs in a thread of its own.
"""

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import orjson

from cluster.bench.http_client import Answer, HttpConnection, HttpError

log = logging.getLogger("faults")

REQUEST_TIMEOUT_S = 15.0  # above the ingress's own deadline
RETRY_S = 0.25
POLL_S = 0.15
STOP_TIMEOUT_S = 60.0
STREAM_S = 5.0  # then it is opened again, as after a lost connection; also bounds how long a stop takes
GLIMPSE_S = 0.1  # the patience of a stream's first connection, so that resuming is tried without a fault, too
STREAM_BYTES_MAX = 65_536  # an order has some ten events of a few hundred bytes
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LOST = (HttpError, OSError, TimeoutError)


@dataclass
class Purchase:
    """What one buyer knows of one order. Times are monotonic seconds."""

    key: str
    token: str
    order_id: str = ""
    intent_id: str = ""
    placed_at: float | None = None
    paid_at: float | None = None
    delivered_at: float | None = None
    events: int = 0  # of its stream


@dataclass
class Seen:
    """What all buyers saw."""

    purchases: list[Purchase] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)  # of placing: status and problem code
    lost: Counter = field(default_factory=Counter)  # answers that never came, by exception
    wrong: list[str] = field(default_factory=list)  # broken promises
    resumed: int = 0  # streams that were opened again after a first event

    def paid(self) -> list[Purchase]:
        return [one for one in self.purchases if one.paid_at is not None]

    def delivered(self) -> list[Purchase]:
        return [one for one in self.purchases if one.delivered_at is not None]

    def slowest_s(self, since: float = 0.0) -> float:
        """The longest time from payment to delivery of what was paid since then."""
        return max(
            (one.delivered_at - one.paid_at for one in self.delivered() if one.paid_at >= since), default=0.0
        )

    def tell(self, what: str, **figures: object) -> None:
        """Log what happened, for whoever runs the tests with ``--log-cli-level=INFO``."""
        words = [
            f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
            for name, value in figures.items()
        ]
        words += [f"{len(self.delivered())} delivered", f"slowest {self.slowest_s():.1f}"]
        streamed = sum(one.events > 0 for one in self.purchases)
        words += [f"{streamed} by stream", f"{self.resumed} resumed"]
        log.info(
            "%s: %s, answers %s, no answer %s", what, ", ".join(words), dict(self.statuses), dict(self.lost)
        )


class Shoppers:
    """``count`` buyers in a loop until stopped; a context manager."""

    def __init__(self, stand: Any, count: int = 6, *, origins: list[str] | None = None) -> None:
        self._stand = stand
        self._origins = origins or [stand.local["base_url"]]
        self._tokens = stand.buyer_tokens(count)
        self._target = stand.wish()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="shoppers", daemon=True)
        self._crashed: BaseException | None = None
        self.seen = Seen()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Seen:
        """End the loops; purchases under way stay as they are."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive(), "the shoppers do not stop"
        if self._crashed is not None:
            raise self._crashed
        return self.seen

    def wait_for_deliveries(self, more: int, within_s: float) -> float:
        """Wait until ``more`` further orders were delivered; returns how long that took, in seconds."""
        began, start = time.monotonic(), len(self.seen.delivered())
        while len(self.seen.delivered()) < start + more:
            assert self._crashed is None, self._crashed
            waited_s = time.monotonic() - began
            assert waited_s < within_s, (
                f"only {len(self.seen.delivered()) - start} of {more} orders delivered in {waited_s:.0f} s: "
                f"{dict(self.seen.statuses)} {dict(self.seen.lost)}"
            )
            time.sleep(0.05)
        return time.monotonic() - began

    def _main(self) -> None:
        try:
            asyncio.run(self._shop())
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            self._crashed = error

    async def _shop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, token in enumerate(self._tokens):
                group.create_task(self._buyer(token, self._origins[number % len(self._origins)], number))

    async def _buyer(self, token: str, origin: str, name: int) -> None:
        # Neighbours are at the same origin when there are several: half of each pair streams.
        streams = name // len(self._origins) % 2 == 1
        stripe = self._stand.local["stripe"]["api_base"]
        buyer = Buyer(origin, stripe, token, self.seen, self._stop, streams=streams)
        run, count = secrets.token_hex(4), 0
        try:
            while not self._stop.is_set():
                count += 1
                purchase = Purchase(f"fault-{run}-{name}-{count}", token)
                self.seen.purchases.append(purchase)
                await buyer.buy(purchase, self._target)
        finally:
            buyer.close()


class Buyer:
    """One buyer's connections and patience."""

    def __init__(
        self,
        origin: str,
        stripe_origin: str,
        token: str,
        seen: Seen,
        stop: threading.Event,
        *,
        streams: bool = False,
    ) -> None:
        self._api, self._stripe = HttpConnection(origin), HttpConnection(stripe_origin)
        self._auth = f"Authorization: Bearer {token}\r\n"
        self._seen, self._stop, self._streams = seen, stop, streams

    def close(self) -> None:
        self._api.close()
        self._stripe.close()

    async def buy(self, purchase: Purchase, wish: dict[str, Any]) -> None:
        """Take one purchase as far as it goes before the shoppers are stopped."""
        order = await self.place(purchase, wish)
        if order is not None and await self.pay(purchase, order):
            await self._follow(purchase)

    async def place(self, purchase: Purchase, wish: dict[str, Any]) -> dict[str, Any] | None:
        headers = f"{self._auth}Content-Type: application/json\r\nIdempotency-Key: {purchase.key}\r\n"
        body = orjson.dumps(wish)
        while not self._stop.is_set():
            answer = await self._ask(self._api, "POST", "/v1/orders", headers, body)
            if answer is None:
                await asyncio.sleep(RETRY_S)
                continue
            document = orjson.loads(answer.body)  # whatever is answered, also by the proxy, is JSON
            if answer.status in (200, 201):
                if purchase.order_id not in ("", document["id"]):
                    self._seen.wrong.append(f"{purchase.key} named {purchase.order_id} and {document['id']}")
                purchase.order_id = document["id"]
                purchase.placed_at = purchase.placed_at or time.monotonic()
                self._seen.statuses["201"] += 1
                if document["payment"]["client_secret"]:
                    return document
                await asyncio.sleep(RETRY_S)  # not payable yet: the same key asks again
                continue
            self._seen.statuses[f"{answer.status} {document.get('code', '')}"] += 1
            if answer.status not in RETRIED:
                self._seen.wrong.append(f"placing was answered {answer.status}: {answer.body[:300]!r}")
                return None
            retry_after = answer.header(b"retry-after")
            if answer.status == 503 and not retry_after:
                self._seen.wrong.append(f"503 without Retry-After: {answer.body[:300]!r}")
            await asyncio.sleep(min(2.0, float(retry_after or RETRY_S)))
        return None

    async def pay(self, purchase: Purchase, order: dict[str, Any]) -> bool:
        payment = order["payment"]
        purchase.intent_id = payment["payment_intent_id"]
        path = f"/v1/payment_intents/{purchase.intent_id}"
        headers = (
            f"Authorization: Bearer {payment['publishable_key']}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
        )
        secret = f"client_secret={payment['client_secret']}"
        form = f"{secret}&payment_method=pm_card_visa".encode()
        while not self._stop.is_set():
            answer = await self._ask(self._stripe, "POST", f"{path}/confirm", headers, form)
            if answer is not None and answer.status != 200:
                # A confirmation whose answer was lost has been executed: ask how it stands.
                answer = await self._ask(self._stripe, "GET", f"{path}?{secret}", headers, b"")
            if _succeeded(answer):
                purchase.paid_at = time.monotonic()
                return True
            await asyncio.sleep(RETRY_S)
        return False

    async def delivered(self, purchase: Purchase) -> bool:
        """Whether the order is delivered, as far as can be heard now."""
        answer = await self._ask(self._api, "GET", f"/v1/orders/{purchase.order_id}", self._auth, b"")
        if answer is None:
            return False
        if answer.status == 404:
            self._seen.wrong.append(f"{purchase.order_id} is acknowledged, not found: {answer.body[:200]!r}")
        if answer.status != 200 or orjson.loads(answer.body)["status"] != "delivered":
            return False
        purchase.delivered_at = time.monotonic()
        return True

    async def _follow(self, purchase: Purchase) -> None:
        if self._streams:
            await self._follow_stream(purchase)
        while not self._stop.is_set() and not await self.delivered(purchase):
            await asyncio.sleep(POLL_S)

    async def _follow_stream(self, purchase: Purchase) -> None:
        path, patience_s = f"/v1/orders/{purchase.order_id}/events", GLIMPSE_S
        while not self._stop.is_set() and purchase.delivered_at is None:
            reader = EventReader(purchase, self._seen)
            headers = f"{self._auth}Accept: text/event-stream\r\n"
            if purchase.events:
                headers += f"Last-Event-ID: {purchase.events}\r\n"
                self._seen.resumed += 1
            answer = None
            # A stream that is cut is no lost answer: it is opened again where it was.
            with contextlib.suppress(*LOST):
                answer = await self._api.request("GET", path, headers, b"", patience_s, reader.feed)
            patience_s = STREAM_S
            if answer is not None:
                self._note_500(answer)
                if answer.status in (204, 404):
                    self._seen.wrong.append(f"{purchase.order_id}'s stream was answered {answer.status}")
                    return
            if purchase.delivered_at is None:
                await asyncio.sleep(RETRY_S)

    async def _ask(
        self, connection: HttpConnection, method: str, path: str, headers: str, body: bytes
    ) -> Answer | None:
        try:
            answer = await connection.request(method, path, headers, body, REQUEST_TIMEOUT_S)
        except LOST as error:
            self._seen.lost[type(error).__name__] += 1
            return None
        if connection is self._api:
            self._note_500(answer)
        return answer

    def _note_500(self, answer: Answer) -> None:
        # Whatever fails around us, our own 500 is a bug: outages have answers of their own.
        if answer.status == 500 and b"internal_error" in answer.body:
            self._seen.wrong.append(f"answered 500: {answer.body[:300]!r}")


class EventReader:
    """Reads one connection's server-sent events: each is the one after the last that its buyer has seen."""

    def __init__(self, purchase: Purchase, seen: Seen) -> None:
        self._purchase, self._seen = purchase, seen
        self._text = b""

    def feed(self, piece: bytes) -> None:
        self._text += piece
        assert len(self._text) <= STREAM_BYTES_MAX, "a stream without end of event"
        while b"\n\n" in self._text:
            block, self._text = self._text.split(b"\n\n", 1)
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line[1:])
            if b"id" in fields:
                self._take(int(fields[b"id"]), fields[b"event"].decode(), orjson.loads(fields[b"data"]))

    def _take(self, number: int, kind: str, data: dict[str, Any]) -> None:
        purchase = self._purchase
        if number != purchase.events + 1 or (number == 1) != (kind == "order.created"):
            self._seen.wrong.append(
                f"{purchase.order_id}'s stream brought {kind} as {number} after {purchase.events}"
            )
        purchase.events = max(purchase.events, number)
        if data["status"] == "delivered" and purchase.delivered_at is None:
            purchase.delivered_at = time.monotonic()


def _succeeded(answer: Answer | None) -> bool:
    return answer is not None and answer.status == 200 and orjson.loads(answer.body)["status"] == "succeeded"


def settle(stand: Any, seen: Seen, within_s: float) -> None:
    """Wait until everything that was paid is delivered; fail for each promise that was broken."""

    async def ask(purchase: Purchase) -> None:
        buyer = Buyer(
            stand.local["base_url"],
            stand.local["stripe"]["api_base"],
            purchase.token,
            seen,
            threading.Event(),
        )
        try:
            await buyer.delivered(purchase)
        finally:
            buyer.close()

    async def ask_all(purchases: list[Purchase]) -> None:
        for purchase in purchases:
            await ask(purchase)

    deadline = time.monotonic() + within_s
    while missing := [one for one in seen.paid() if one.delivered_at is None]:
        asyncio.run(ask_all(missing))
        missing = [one for one in missing if one.delivered_at is None]
        assert not missing or time.monotonic() < deadline, (
            f"{len(missing)} of {len(seen.paid())} paid orders are not delivered after {within_s:.0f} s: "
            f"{[one.order_id for one in missing[:5]]}"
        )
        if missing:
            time.sleep(0.5)
    assert not seen.wrong, seen.wrong[:10]
