"""One store, the outside, and as many order hosts as a test wants: the order runtime without processes."""

import asyncio

from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from domain.errors import BusyError, DependencyError
from domain.orders.events import KIND_OF
from domain.orders.ports import Idempotency, PaymentNews
from tests.fakes.carts import order_id
from tests.fakes.orders import (
    FakeBooks,
    FakeClock,
    FakeFulfiller,
    FakeGateway,
    FakeMonotonic,
    FakeOrderStore,
)

KEY = Idempotency("key-1", b"digest")

LIFE = [
    "order.created",
    "order.screened",
    "order.payment_opened",
    "order.paid",
    "order.booked",
    "order.licensed",
    "order.delivered",
]


async def settle(host):
    while host._tasks:
        await asyncio.wait(host._tasks, timeout=5)


class World:
    """One store and the outside, with as many hosts as a test wants."""

    def __init__(self):
        self.clock = FakeClock()
        self.monotonic = FakeMonotonic()
        self.store = FakeOrderStore(self.clock)
        self.gateway, self.books, self.fulfiller = FakeGateway(), FakeBooks(), FakeFulfiller()

    def host(self, limits=None):
        effects = Effects(self.gateway, self.books, self.fulfiller, self.clock, self.monotonic)
        return OrderHost(self.store, effects, self.clock, self.monotonic, limits)

    def news(self, number=1, amount_minor=1999, event_id="evt_1"):
        intent = self.gateway.intents[order_id(number)]
        return PaymentNews(
            event_id, order_id(number), "payment_intent.succeeded", intent, amount_minor, "USD", "", ""
        )

    async def pay(self, host, number=1, amount_minor=1999, event_id="evt_1"):
        """Hand Stripe's webhook in as the ingress does: what no host takes is kept for the sweep."""
        news = self.news(number, amount_minor, event_id)
        try:
            return await host.receive(news)
        except (BusyError, DependencyError):
            await self.store.store_webhook(news)
            return "stored"

    async def later(self, host, seconds=61):
        """Time passes and a sweep finishes what is due."""
        await settle(host)
        self.clock.advance(seconds)
        self.monotonic.now_s += seconds
        claimed = await Sweep(self.store, host).once()
        await settle(host)
        return claimed

    def kinds(self, number=1):
        return [KIND_OF[type(event)] for event in self.store.orders[order_id(number)].events]

    def status(self, number=1):
        return self.store.orders[order_id(number)].status
