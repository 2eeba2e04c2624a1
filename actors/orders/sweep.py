"""The sweep: finishes what a dead host left. Runs in every host, always, not only at start.

It claims overdue effects and webhooks with SKIP LOCKED on the database's clock, so that several sweeps
share the work, and hands them to this process's host: placement is a hint, the fence decides. Payments
at Stripe have a lane of their own: while Stripe is slow, thousands of unopened payments must not stand
before one paid order. A lane never waits for its slowest item: it claims whenever it has room.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from actors.orders.host import OrderHost
from actors.orders.retries import backoff_s, code_of, is_final, is_unforeseen
from domain.errors import MarketplaceError
from domain.orders.decide import (
    BOOK,
    CAPTURE_PAYMENT,
    END_REVIEW,
    EVIDENCE_STEP,
    EXPIRE,
    FORGET_KEYS,
    FULFIL,
    OPEN_PAYMENT,
    REFUND_STEP,
    VOID_PAYMENT,
)
from domain.orders.ports import OrderStore, PaymentNews

log = logging.getLogger("marketplace.sweep")

INTERVAL_S = 1.0  # bounds how long after its due time a row waits for an idle lane
RUNNING_MAX = 64  # items of one lane at once
LEASE_S = 9.0  # above Stripe's deadline of 8 s; a row of a sweep that died comes back after it
FAILURE_PAUSE_S = 2.0
PASSIVATION_INTERVAL_S = 10.0  # a thirtieth of how long an idle order stays
# Kinds of steps: "book" takes in the bookings of returns, "refund" every refund.
LANES = (
    (OPEN_PAYMENT, CAPTURE_PAYMENT, VOID_PAYMENT, REFUND_STEP, EVIDENCE_STEP),
    (BOOK, FULFIL, EXPIRE, END_REVIEW, FORGET_KEYS),
)

Item = Callable[[], Coroutine[Any, Any, None]]  # begun only when its task is, so none is left un-awaited
Claim = Callable[[int], Awaitable[list[Item]]]


class Sweep:
    """Periodic recovery for one host."""

    def __init__(self, store: OrderStore, host: OrderHost, *, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._host = host
        self._interval_s = interval_s
        self._claims: list[Claim] = [self._effects_of(steps) for steps in LANES]
        self._claims.append(self._webhooks)
        self._lanes: list[asyncio.Task[None]] = []
        self._items: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> bool:
        """Whether every lane still runs; a host without its sweep must be replaced."""
        return bool(self._lanes) and not any(lane.done() for lane in self._lanes)

    def start(self) -> None:
        """Begin sweeping on the running loop."""
        self._lanes = [asyncio.create_task(self._forever(claim)) for claim in self._claims]
        self._lanes.append(asyncio.create_task(self._passivate()))

    async def stop(self) -> None:
        """Stop at once; rows that were claimed come back when their lease runs out."""
        tasks = [*self._lanes, *self._items]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)

    async def once(self) -> int:
        """Claim and run what is overdue, and wait for it; returns how many rows were claimed."""
        items = [item for claim in self._claims for item in await claim(RUNNING_MAX)]
        await asyncio.gather(*(self._guarded(item) for item in items))
        return len(items)

    def _effects_of(self, steps: tuple[str, ...]) -> Claim:
        async def claim(room: int) -> list[Item]:
            due = await self._store.claim_due_effects(steps, room, LEASE_S)
            return [
                partial(self._host.run_effect, one.order_id, one.step, one.attempts, one.unforeseen)
                for one in due
            ]

        return claim

    async def _webhooks(self, room: int) -> list[Item]:
        return [partial(self._apply, news) for news in await self._store.claim_due_webhooks(room, LEASE_S)]

    async def _apply(self, news: PaymentNews) -> None:
        try:
            await self._host.receive(news)
        except Exception as failure:
            if is_final(failure, news.unforeseen):
                log.error("webhook %s is given up", news.event_id, exc_info=failure)
                await self._store.bury_webhook(news, code_of(failure), str(failure))
            else:
                await self._store.defer_webhook(
                    news.event_id,
                    backoff_s(news.attempts),
                    str(failure),
                    unforeseen=is_unforeseen(failure),
                )

    async def _passivate(self) -> None:
        while True:
            await asyncio.sleep(PASSIVATION_INTERVAL_S)
            self._host.passivate()

    async def _forever(self, claim: Claim) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            room = RUNNING_MAX - len(running)
            try:
                items = await claim(room) if room else []
            except MarketplaceError as failure:
                log.warning("sweep waits for its store: %s", failure)
                await asyncio.sleep(_jittered(FAILURE_PAUSE_S))
                continue
            except Exception:
                # Whatever it was, recovery must not end with it.
                log.exception("sweep could not claim")
                await asyncio.sleep(_jittered(FAILURE_PAUSE_S))
                continue
            for item in items:
                task = asyncio.create_task(self._guarded(item))
                running.add(task)
                self._items.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(self._items.discard)
            if not room:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            elif len(items) < room:
                await asyncio.sleep(_jittered(self._interval_s))

    async def _guarded(self, item: Item) -> None:
        try:
            await item()
        except MarketplaceError as failure:
            log.warning("sweep item waits for its lease: %s", failure)
        except Exception:
            log.exception("sweep item failed")


def _jittered(pause_s: float) -> float:
    """Sweeps of several processes, started together, drift apart; never longer than ``pause_s``."""
    return pause_s * (0.75 + random.random() / 4)  # noqa: S311 - spreads polls, guards nothing
