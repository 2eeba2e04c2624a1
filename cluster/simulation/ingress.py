"""An ingress replica: takes buyers' requests and Stripe's webhooks, and keeps what it acknowledged.

Webhooks go through the production route, signature and all. Orders are sent to a host as
``deployments.placement`` does: by a hint that may be wrong, repeated once when the host dies under it; where
grains run inside the ingress, they are called directly. Each acknowledgement is compared with the database at
the moment at which it is sent (invariant I10), and written down for the checks at the end.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

import orjson

from actors.orders.host import OrderHost, PlacedOrder, ReleasedKey
from cluster.simulation.loop import Process
from cluster.simulation.network import Network
from cluster.simulation.order_store import SimulatedOrderStore
from cluster.simulation.postgres import Postgres
from cluster.simulation.visits import visit
from domain.errors import BusyError, DependencyError, MarketplaceError
from domain.ids import RANDOM_BYTES, derive_id, new_id
from domain.orders.commands import CancelOrder, DecideReview, PaymentTerms, PlaceOrder, RequestRefund
from domain.orders.events import (
    DeliveryKeyReleased,
    DeliveryKeysForgotten,
    OrderCancelled,
    RefundRequested,
    ReviewApproved,
    ReviewRejected,
)
from domain.orders.lines import DeliveryChoice, Line
from domain.orders.ports import Idempotency, PaymentNews
from serve_app.calls import Call
from serve_app.observability import IngressMetrics
from serve_app.ports import IngressPorts
from serve_app.routes.webhooks import WebhookRoutes

T = TypeVar("T")
CALL_DEADLINE_S = 9.0  # as deployments.placement
HINT_WRONG = 0.15  # share of calls that reach another host than consistent hashing names
SENT_TWICE = 0.05  # share of calls that two hosts get at once, as retries and stale routes can cause
SHORT_REVIEW_S = 40  # of days, so that deadlines race while things still go wrong
TERMS = PaymentTerms(review_s=SHORT_REVIEW_S)
WEBHOOK_SECRET = "whsec_simulated"  # noqa: S105 - signs nothing outside the simulation


@dataclass(frozen=True, slots=True)
class Cart:
    """A buyer's request body."""

    buyer_id: str
    lines: tuple[Line, ...]
    delivery: DeliveryChoice
    payment_method: str
    discount_id: str | None = None

    def digest(self) -> bytes:
        """SHA-256 of what is asked, as ``serve_app.idempotency`` takes it of a body."""
        return hashlib.sha256(repr(self).encode()).digest()


@dataclass
class Acknowledgements:
    """What was promised to the outside, and what was already wrong with it at that moment."""

    orders: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # by buyer and key
    webhooks: dict[str, str] = field(default_factory=dict)  # outcome by event id
    keys: list[tuple[str, str, str]] = field(default_factory=list)  # order, delivery, identity
    broken: list[tuple[str, str, str]] = field(default_factory=list)  # invariant, order, words


class Hosts(Protocol):
    """Where order hosts are found; ``hosts.Cluster``."""

    def candidates(self) -> "list[tuple[Process, OrderHost]]":
        """List hosts that routing knows of, those that died a moment ago included."""


class Ingress:
    """One replica. ``local`` is the host in the same process, if grains run there."""

    def __init__(
        self,
        process: Process,
        network: Network,
        store: SimulatedOrderStore,
        database: Postgres,
        hosts: Hosts,
        local: OrderHost | None,
        clock: Callable[[], datetime],
        acknowledged: Acknowledgements,
    ) -> None:
        self.process = process
        self._network = network
        self._database = database
        self._hosts = hosts
        self._local = local
        self._clock = clock
        self._acknowledged = acknowledged
        self._others: set[asyncio.Task[None]] = set()
        self._routes = WebhookRoutes(cast("IngressMetrics", SimpleNamespace(webhook=lambda _outcome: None)))
        self._ports = cast(
            "IngressPorts",
            SimpleNamespace(
                orders=SimpleNamespace(receive=self._receive),
                reads=store,
                clock=clock,
                settings=SimpleNamespace(webhook_secrets=(WEBHOOK_SECRET,)),
            ),
        )

    async def place(self, cart: Cart, key: str) -> PlacedOrder:
        """POST /v1/orders; what it returns has been answered with 201."""
        now = self._clock()
        command = PlaceOrder(
            order_id=new_id("ord", int(now.timestamp() * 1000), self._network.rng.randbytes(RANDOM_BYTES)),
            buyer_id=cart.buyer_id,
            currency="USD",
            lines=cart.lines,
            delivery=cart.delivery,
            payment_method=cart.payment_method,
            country=None,
            at=now,
            discount_id=cart.discount_id,
            payment_terms=TERMS,
        )
        idempotency = Idempotency(key, cart.digest())
        try:
            placed = await self._place(command, idempotency)
        except DependencyError as error:
            if error.code != "order_host_unavailable":
                raise
            placed = await self._place(command, idempotency)
        self._acknowledge_order(cart.buyer_id, key, placed.order.order_id)
        return placed

    async def webhook(self, body: bytes, signature: bytes) -> str:
        """POST /v1/webhooks/stripe through the production route; returns the outcome of its 200."""
        chunks = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return chunks.pop()

        call = Call({"headers": [(b"stripe-signature", signature)]}, receive, "simulated", self._ports)
        response = await self._routes.receive(call)
        outcome = str(orjson.loads(response.body)["outcome"])
        event = orjson.loads(body)
        self._acknowledge_webhook(
            event["id"], event["data"]["object"]["metadata"].get("order_id", ""), outcome
        )
        return outcome

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        """POST /v1/deliveries/{id}/key; what it returns is in the buyer's hands."""
        key = await self._at(order_id, "release_key", lambda host: host.release_key(order_id, delivery_id))
        events = self._database.orders[order_id].events
        if DeliveryKeyReleased not in {
            type(event) for event in events if getattr(event, "delivery_id", delivery_id) == delivery_id
        }:
            self._broken("I12", order_id, f"the key of {delivery_id} was handed out before it was recorded")
        if any(isinstance(event, DeliveryKeysForgotten) for event in events):
            self._network.plan.situation("key asked for too late")
        self._acknowledged.keys.append((order_id, delivery_id, key.identity))
        return key

    async def refund(
        self,
        order_id: str,
        key: str,
        lines: tuple[tuple[int, int | None], ...],
        amount_minor: int | None,
        origin: str,
    ) -> None:
        """POST /v1/orders/{id}/refunds; when it returns, 201 was answered."""
        refund_id = derive_id("rfd", order_id, f"{origin}\0{key}")
        command = RequestRefund(
            refund_id, lines, amount_minor, origin, origin, "why", f"{lines} {amount_minor}", self._clock()
        )
        answer = await self._at(order_id, "refund", lambda host: host.refund(order_id, command))
        asked = [
            event
            for event in self._database.orders[order_id].events
            if isinstance(event, RefundRequested) and event.refund_id == refund_id
        ]
        if len(asked) != 1 or answer.refund.refund_id != refund_id:
            self._broken(
                "I10", order_id, f"201 was answered, and refund {refund_id} is stored {len(asked)} times"
            )

    async def cancel(self, order_id: str) -> None:
        """POST /v1/orders/{id}/cancellation; when it returns, 200 was answered."""
        command = CancelOrder(self._clock())
        await self._at(order_id, "act", lambda host: host.act(order_id, command))
        if not any(isinstance(event, OrderCancelled) for event in self._database.orders[order_id].events):
            self._broken("I10", order_id, "a cancellation was answered with 200, and is not stored")

    async def decide_review(self, order_id: str, reviewer_id: str, *, approves: bool) -> None:
        """POST /v1/ops/reviews/{id}/decision; when it returns, 200 was answered."""
        command = DecideReview(reviewer_id, approves, "why", self._clock())
        await self._at(order_id, "act", lambda host: host.act(order_id, command))
        kind = ReviewApproved if approves else ReviewRejected
        stored = [event for event in self._database.orders[order_id].events if isinstance(event, kind)]
        if [event.reviewer_id for event in stored] != [reviewer_id]:
            self._broken("I12", order_id, f"a decision of {reviewer_id} was answered with 200, not stored")

    async def _place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        return await self._at(command.order_id, "place", lambda host: host.place(command, idempotency))

    async def _receive(self, news: PaymentNews) -> str:
        return await self._at(news.order_id, "receive", lambda host: host.receive(news))

    async def _at(self, order_id: str, method: str, work: Callable[[OrderHost], Coroutine[Any, Any, T]]) -> T:
        if self._local is not None:
            return await work(self._local)
        hosts = self._hosts.candidates()
        if not hosts:
            raise _host_unavailable("no host is up")
        index = int.from_bytes(hashlib.sha256(order_id.encode()).digest()[:4]) % len(hosts)
        if self._network.rng.random() < HINT_WRONG and self._network.plan.active:
            index = self._network.rng.randrange(len(hosts))
        if self._network.rng.random() < SENT_TWICE and self._network.plan.active:
            self._network.plan.situation("order sent to two hosts")
            other = asyncio.create_task(self._send_in_vain(hosts[index - 1], order_id, method, work))
            self._others.add(other)
            other.add_done_callback(self._others.discard)
        return await self._send(hosts[index], order_id, method, work)

    async def _send_in_vain(
        self,
        to: tuple[Process, OrderHost],
        order_id: str,
        method: str,
        work: Callable[[OrderHost], Coroutine[Any, Any, Any]],
    ) -> None:
        with contextlib.suppress(MarketplaceError):  # nobody waits for this answer
            await self._send(to, order_id, method, work)

    async def _send(
        self,
        to: tuple[Process, OrderHost],
        order_id: str,
        method: str,
        work: Callable[[OrderHost], Coroutine[Any, Any, T]],
    ) -> T:
        process, host = to
        return await visit(
            self._network,
            self.process,
            process,
            f"host.{method}",
            order_id,
            lambda: work(host),
            _host_unavailable,
            CALL_DEADLINE_S,
        )

    def _acknowledge_order(self, buyer_id: str, key: str, order_id: str) -> None:
        named = self._acknowledged.orders.setdefault((buyer_id, key), set())
        named.add(order_id)
        if len(named) > 1:
            self._broken("I10", order_id, f"key {key} of {buyer_id} was answered with {sorted(named)}")
        command = self._database.commands.get((buyer_id, key))
        if command is None or order_id not in self._database.orders:
            self._broken("I10", order_id, "201 was answered, but the order is not stored")

    def _acknowledge_webhook(self, event_id: str, order_id: str, outcome: str) -> None:
        self._acknowledged.webhooks[event_id] = outcome
        if event_id not in self._database.inbox and outcome != "ignored":
            self._broken("I10", order_id, f"webhook {event_id} was answered with 200, but is not stored")

    def _broken(self, invariant: str, order_id: str, words: str) -> None:
        self._network.note(self.process.name, f"{invariant} BROKEN: {words}", order_id)
        self._acknowledged.broken.append((invariant, order_id, words))


def is_worth_repeating(error: Exception) -> bool:
    """Whether a client repeats a request that failed so."""
    return isinstance(error, DependencyError | BusyError)


def _host_unavailable(why: str) -> DependencyError:
    return DependencyError("order_host_unavailable", f"A part is being replaced: {why}.")
