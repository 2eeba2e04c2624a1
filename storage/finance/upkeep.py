"""Keeps the summaries close behind the entries, so that balances of any moment stay cheap.

Nothing depends on it for being right: what is not summed up is read from the postings themselves. Rare and
in short transactions, for it takes CPU from posting; a failure is tried again at the next turn.
"""

import asyncio
import logging
import time

from domain.errors import MarketplaceError
from storage.finance.books_store import BooksStore

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
# A read goes through up to so many entries one by one (a few milliseconds); each turn of summing up costs
# one upsert per account and hour, so larger turns cost less per entry.
BACKLOG_ENTRIES_MAX = 4_000
IDLE_PERIOD_S = 60.0  # a quiet shop's entries are summed up after this long, however few
TURNS_MAX = 1_000  # of 20,000 ids each


class Upkeep:
    """One per process; several processes take turns by the database's row locks."""

    def __init__(self, books: BooksStore) -> None:
        self._books = books
        self._caught_up_at_s = time.monotonic()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.turn()
            except MarketplaceError as failure:
                log.info("upkeep waits for its next turn: %s", failure.code)
            except Exception:
                log.exception("upkeep failed unexpectedly")

    async def turn(self) -> None:
        """Sum up when there is enough to do, or it has been long; raises as ``catch_up``."""
        backlog = await self._books.backlog()
        idle = time.monotonic() - self._caught_up_at_s >= IDLE_PERIOD_S
        if backlog >= BACKLOG_ENTRIES_MAX or idle:
            if backlog:
                await self.catch_up()
            self._caught_up_at_s = time.monotonic()
            while await self._books.carry_forward():
                pass

    async def catch_up(self) -> None:
        """Sum up every entry posted before this call.

        Raises:
            DependencyError: ``ledger_unavailable``.
            BusyError: ``ledger_busy``, a posting under way did not end.
        """
        await self._books.settle()
        for _turn in range(TURNS_MAX):
            if not await self._books.sum_up():
                break
        self._caught_up_at_s = time.monotonic()
