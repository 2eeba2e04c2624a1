"""Reviews and cancellations: operators decide about held payments, at once or not at all, and buyers give up.

Whatever is decided is asked of some ingress; what it answers with 200 is in the order's history by then.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cluster.simulation.ingress import Ingress, is_worth_repeating
from cluster.simulation.network import Network
from cluster.simulation.postgres import Postgres
from cluster.simulation.stripe import Stripe
from domain.errors import MarketplaceError
from domain.orders.state import TERMINAL, Order, Status, fold

# What befalls a held payment; several at once is when it goes wrong.
ENDS = ("approve", "approve", "approve", "reject", "reject", "cancel", "lapse", "by hand", "nobody")
ENDS_MAX = 4
SEVERAL = 0.4
TRIES_MAX = 40
POLL_S, POLLS_MAX = 1.5, 80
PATIENCE_S = 4.0

Ask = Callable[[str, Callable[[Ingress], Coroutine[Any, Any, None]]], Awaitable[None]]


def ends_of(rng: random.Random) -> tuple[str, ...]:
    """Draw what is to happen to a held payment."""
    count = rng.randrange(2, ENDS_MAX) if rng.random() < SEVERAL else 1
    return tuple(rng.choice(ENDS) for _ in range(count))


class Reviewing:
    """What happens to one order that is held; ``ask`` sends a request to some ingress."""

    def __init__(self, network: Network, database: Postgres, stripe: Stripe, ask: Ask, order_id: str) -> None:
        self._network = network
        self._rng = network.rng
        self._database = database
        self._stripe = stripe
        self._ask = ask
        self._order_id = order_id

    async def happen(self, ends: tuple[str, ...]) -> None:
        """Wait until the order is in review, and then have everything happen at about the same time."""
        for _ in range(POLLS_MAX):
            status = self._order().status
            if status is Status.IN_REVIEW:
                break
            if status in TERMINAL:
                return
            await asyncio.sleep(POLL_S)
        else:
            return
        await asyncio.gather(*(self._end(number, end) for number, end in enumerate(ends)))

    async def cancel(self) -> None:
        """Have the buyer give up, once or with two clicks."""
        self._network.plan.situation("buyer cancelled")
        clicks = 2 if self._network.coin() else 1
        await asyncio.gather(
            *(self._until_answered(lambda ingress: ingress.cancel(self._order_id)) for _ in range(clicks))
        )

    async def _end(self, number: int, end: str) -> None:
        await asyncio.sleep(PATIENCE_S * self._rng.random() ** 2)
        intent_id = self._order().payment_intent_id or ""
        match end:
            case "approve" | "reject":
                approves, reviewer_id = end == "approve", f"operator_{number}"
                self._network.plan.situation("review decided")
                await self._until_answered(
                    lambda ingress: ingress.decide_review(self._order_id, reviewer_id, approves=approves)
                )
            case "cancel":
                await self.cancel()
            case "lapse":
                if self._stripe.lapse(intent_id):
                    self._network.note("stripe", "lets the authorisation lapse", self._order_id)
                    self._network.plan.situation("authorisation lapsed")
            case "by hand":
                if self._stripe.capture_by_hand(intent_id):
                    self._network.note("stripe", "captures by hand", self._order_id)
                    self._network.plan.situation("captured by hand")
            case _:
                self._network.plan.situation("nobody reviewed")

    async def _until_answered(self, work: Callable[[Ingress], Coroutine[Any, Any, None]]) -> None:
        for _ in range(TRIES_MAX):
            try:
                await self._ask("act", work)
            except MarketplaceError as error:
                if not is_worth_repeating(error):
                    self._network.plan.situation("decision came too late")
                    return
                await asyncio.sleep(1.0 + 2.0 * self._rng.random())
            else:
                return

    def _order(self) -> Order:
        order = fold(self._order_id, self._database.orders[self._order_id].events)
        assert order is not None, "the buyer was told of it"
        return order
