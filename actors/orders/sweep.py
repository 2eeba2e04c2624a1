"""The sweep: finishes what a dead host left. Runs in every host, always, not only at start.

It claims overdue effects and webhooks with SKIP LOCKED on the database's clock, so that several sweeps
share the work, and hands them to this process's host: placement is a hint, the fence decides.
"""

import asyncio
import contextlib
import logging

from actors.orders.host import OrderHost
from domain.errors import MarketplaceError
from domain.orders.ports import OrderStore, PaymentNews

log = logging.getLogger("marketplace.sweep")

INTERVAL_S = 1.0  # bounds how long after its due time an effect waits
BATCH_MAX = 64  # claimed at once; keeps a claim's work well inside its lease
LEASE_S = 15.0  # longer than any outside call's deadline, so that a slow call is not doubled
FAILURE_PAUSE_S = 2.0


class Sweep:
    """Periodic recovery for one host."""

    def __init__(self, store: OrderStore, host: OrderHost, *, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._host = host
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin sweeping on the running loop."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Stop after the current claim; claimed rows return when their lease runs out."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def once(self) -> int:
        """Claim and run what is overdue; returns how many rows were claimed."""
        effects = await self._store.claim_due_effects(BATCH_MAX, LEASE_S)
        webhooks = await self._store.claim_due_webhooks(BATCH_MAX, LEASE_S)
        work = [self._host.run_effect(e.order_id, e.step, e.attempts) for e in effects]
        work += [self._apply(news) for news in webhooks]
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("sweep item failed", exc_info=outcome)
        return len(effects) + len(webhooks)

    async def _apply(self, news: PaymentNews) -> None:
        try:
            await self._host.apply_news(news)
        except MarketplaceError as failure:
            await self._store.defer_webhook(news.event_id, min(60.0, 2.0**news.attempts), str(failure))

    async def _forever(self) -> None:
        while True:
            try:
                claimed = await self.once()
            except MarketplaceError as failure:
                log.warning("sweep waits for its store: %s", failure)
                await asyncio.sleep(FAILURE_PAUSE_S)
                continue
            if claimed < BATCH_MAX:
                await asyncio.sleep(self._interval_s)
