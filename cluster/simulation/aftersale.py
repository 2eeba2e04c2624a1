"""After the sale: buyers and operators want money back, somebody refunds in the dashboard, a bank disputes.

What is wanted may be refused, and then it must have changed nothing. What was answered with 201 is in the
order's history at that moment (I10).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cluster.simulation.ingress import Ingress, is_worth_repeating
from cluster.simulation.network import Network
from cluster.simulation.postgres import Postgres
from cluster.simulation.returned import ReturnRefusedError
from cluster.simulation.stripe import Stripe
from domain.errors import MarketplaceError
from domain.orders.returns import BUYER, OPERATOR
from domain.orders.state import Order, fold

WANTS = ("all", "a part", "a line", "dashboard", "dispute")
CALM = 0.55  # share of buyers after whom nothing comes
WANTS_MAX = 4
TRIES_MAX = 40
POLL_S, POLLS_MAX = 1.5, 110
PATIENCE_S = 9.0

Ask = Callable[[str, Callable[[Ingress], Coroutine[Any, Any, None]]], Awaitable[None]]


def wants_of(rng: random.Random) -> tuple[str, ...]:
    """Draw what is wanted after a sale; several at once is when it goes wrong."""
    if rng.random() < CALM:
        return ()
    return tuple(rng.choice(WANTS) for _ in range(rng.randrange(1, WANTS_MAX)))


class Aftersale:
    """What happens to one order after it was paid; ``ask`` sends a request to some ingress."""

    def __init__(self, network: Network, database: Postgres, stripe: Stripe, ask: Ask, order_id: str) -> None:
        self._network = network
        self._rng = network.rng
        self._database = database
        self._stripe = stripe
        self._ask = ask
        self._order_id = order_id
        self.refused: list[str] = []

    async def happen(self, wants: tuple[str, ...]) -> None:
        """Wait until the order knows that it is paid, and then want everything at about the same time."""
        for _ in range(POLLS_MAX):
            if self._order().paid_at is not None:
                break
            await asyncio.sleep(POLL_S)
        else:
            return
        await asyncio.gather(*(self._want(number, want) for number, want in enumerate(wants)))

    async def _want(self, number: int, want: str) -> None:
        await asyncio.sleep(PATIENCE_S * self._rng.random() ** 2)
        order = self._order()
        amount_minor = 1 + int((order.total_minor - 1) * self._rng.random())
        if want == "dashboard":
            self._by_hand(order, amount_minor)
        elif want == "dispute":
            self._dispute(order)
        else:
            lines: tuple[tuple[int, int | None], ...] = ()
            if want == "a line":
                lines = ((self._rng.choice(order.lines).line_no, None),)
            asked = amount_minor if want == "a part" else None
            origin = BUYER if self._network.coin() else OPERATOR
            clicks = 2 if self._network.coin() else 1
            key = f"refund-{number}"
            await asyncio.gather(*(self._refund(key, lines, asked, origin) for _ in range(clicks)))

    async def _refund(
        self, key: str, lines: tuple[tuple[int, int | None], ...], amount_minor: int | None, origin: str
    ) -> None:
        for _ in range(TRIES_MAX):
            try:
                await self._ask(
                    "refund", lambda ingress: ingress.refund(self._order_id, key, lines, amount_minor, origin)
                )
            except MarketplaceError as error:
                if not is_worth_repeating(error):
                    self._network.plan.situation("refund refused")
                    return
                await asyncio.sleep(1.0 + 2.0 * self._rng.random())
            else:
                self._network.plan.situation("refund asked for")
                return

    def _by_hand(self, order: Order, amount_minor: int) -> None:
        intent = self._stripe.intents[order.payment_intent_id or ""]
        left = intent.received_minor - self._stripe.returns.returned_minor(intent.intent_id)
        if left > 0:
            self._network.note("stripe", "is refunded by hand", order.order_id)
            try:
                self._stripe.refund_intent(intent.intent_id, min(amount_minor, left), {})
            except ReturnRefusedError:
                return
            self._network.plan.situation("refund from the dashboard")

    def _dispute(self, order: Order) -> None:
        returns = self._stripe.returns
        intent = self._stripe.intents[order.payment_intent_id or ""]
        left = intent.received_minor - returns.returned_minor(intent.intent_id)
        if left > 0 and not any(one.intent_id == intent.intent_id for one in returns.disputes.values()):
            amount_minor = left if self._network.coin() else 1 + int((left - 1) * self._rng.random())
            self._network.note("stripe", f"is told of a dispute over {amount_minor}", order.order_id)
            returns.open_dispute(intent.intent_id, order.order_id, amount_minor, intent.currency)
            self._network.plan.situation("payment disputed")

    def _order(self) -> Order:
        order = fold(self._order_id, self._database.orders[self._order_id].events)
        assert order is not None, "the buyer was told of it"
        return order
