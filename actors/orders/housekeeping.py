"""Housekeeping: deletes what has served its time, a little at a time, in one process of all.

Idempotency keys are kept for ``COMMANDS_KEPT_DAYS``: a request that is repeated later than that is a new one.
Processed webhooks are kept for ``WEBHOOKS_KEPT_DAYS``: a duplicate that comes later meets an order that has
the payment on record, and changes nothing. Records of links to deliveries are kept for ``LINKS_KEPT_DAYS``.
Runs in the background process. Refused: to delete anything else, above all orders, events, and dead letters.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from actors.periodic import Periodic

log = logging.getLogger("marketplace.housekeeping")

COMMANDS_KEPT_DAYS = 30  # ten times as long as any client or proxy repeats a request
LINKS_KEPT_DAYS = 400  # evidence that something was fetched; a buyer's bank may ask for it within a year
WEBHOOKS_KEPT_DAYS = 90  # Stripe repeats for 3 days and lists events for 30; a dispute may ask after both
BATCH_ROWS = 1_000  # a millisecond of one statement, measured on 400,000 rows in memory
BATCHES_MAX = 7  # of one chore in one run: with the pauses well below what the lock may be held for
BATCH_PAUSE_S = 0.1  # leaves the database to the orders nine tenths of the time
INTERVAL_S = 120.0  # one run keeps up with 50 rows per second; above that the next one comes at once
BACKLOG_PAUSE_S = 5.0  # between runs while there is more: 900 rows per second of each table

Purge = Callable[[int, int], Awaitable[int]]


class HousekeepingStore(Protocol):
    """What is purged; ``storage.market.housekeeping``."""

    def alone(self) -> AbstractAsyncContextManager[bool]:
        """Try to be the only process that keeps house inside the block."""

    async def purge_commands(self, kept_days: int, limit: int) -> int:
        """Delete idempotency keys older than that, at most ``limit``; returns how many."""

    async def purge_webhooks(self, kept_days: int, limit: int) -> int:
        """Delete webhooks processed before that, at most ``limit``; returns how many."""

    async def purge_delivery_links(self, kept_days: int, limit: int) -> int:
        """Delete records of links to deliveries older than that, at most ``limit``; returns how many."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What one run deleted; ``more`` when it stopped at its bound."""

    commands: int
    webhooks: int
    more: bool
    links: int = 0


class Housekeeping(Periodic):
    """Periodic purges for one process; see the module. The first comes late: a start has enough to do."""

    def __init__(
        self,
        store: HousekeepingStore,
        *,
        interval_s: float = INTERVAL_S,
        backlog_pause_s: float = BACKLOG_PAUSE_S,
        batch_pause_s: float = BATCH_PAUSE_S,
    ) -> None:
        super().__init__("housekeeping", log, interval_s)
        self._store = store
        self._backlog_pause_s = backlog_pause_s
        self._batch_pause_s = batch_pause_s

    async def once(self) -> Purged | None:
        """Purge up to the bound; None when another process is at it.

        Raises:
            DependencyError: the database is down; what was deleted before stays deleted.
        """
        async with self._store.alone() as alone:
            if not alone:
                return None
            commands, more_commands = await self._purge(self._store.purge_commands, COMMANDS_KEPT_DAYS)
            webhooks, more_webhooks = await self._purge(self._store.purge_webhooks, WEBHOOKS_KEPT_DAYS)
            links, more_links = await self._purge(self._store.purge_delivery_links, LINKS_KEPT_DAYS)
        purged = Purged(commands, webhooks, more_commands or more_webhooks or more_links, links)
        if commands or webhooks or links:
            log.info("purged %d idempotency keys, %d webhooks, %d link records", commands, webhooks, links)
        return purged

    async def _purge(self, purge: Purge, kept_days: int) -> tuple[int, bool]:
        deleted = 0
        for _ in range(BATCHES_MAX):
            count = await purge(kept_days, BATCH_ROWS)
            deleted += count
            if count < BATCH_ROWS:
                return deleted, False
            await asyncio.sleep(self._batch_pause_s)
        return deleted, True

    async def _turn(self) -> float | None:
        purged = await self.once()
        return self._backlog_pause_s if purged is not None and purged.more else None
