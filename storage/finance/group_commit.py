"""Group commit: entries that arrive while a transaction runs go together into the next one.

No entry waits for company: the first one starts a transaction at once, and those that arrive
meanwhile form the next group. One commit, one round trip and one pass of the triggers are then shared
by the group, and every caller still gets the outcome of its own entry.
Refused: more than ``WAITING_MAX`` waiting entries (``BusyError``). An entry whose caller gave up while
it waited is dropped unposted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from domain.errors import BusyError, DependencyError, MarketplaceError
from domain.ledger import Entry
from storage.finance.ledger_store import Outcome

log = logging.getLogger(__name__)

GROUP_MAX = 64  # keeps one transaction to a few milliseconds, so that none waits long behind it
WAITING_MAX = 1_024  # some seconds of full load; beyond that callers would meet their deadline anyway


class PostsBatches(Protocol):
    """What groups are posted to: the ledger store, or a fake in tests."""

    async def post(self, entries: list[Entry]) -> list[Outcome]:
        """Post a batch in one transaction; one outcome per entry, in order."""


class GroupCommit:
    """Posts single entries in shared transactions, ``transactions_max`` at a time."""

    def __init__(
        self,
        store: PostsBatches,
        *,
        transactions_max: int = 1,
        observe_group: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self._store = store
        self._transactions_max = transactions_max
        self._observe_group = observe_group
        self._waiting: deque[tuple[Entry, asyncio.Future[Outcome]]] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references

    async def post(self, entry: Entry) -> Outcome:
        """Post one entry; returns its outcome.

        Raises:
            BusyError: ``ledger_busy``, nothing was accepted.
            DependencyError: the database is unavailable; whether it was posted is unknown.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise BusyError("ledger_busy", "Too many entries wait to be posted. Repeat this one in a second.")
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        if self._running < self._transactions_max:
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def drain(self) -> None:
        """Wait until everything accepted so far is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        try:
            while self._waiting:
                group = self._next_group()
                if group:
                    self._observe_group(len(group))
                    await self._post_group(group)
        finally:
            # In the same step as the look at the queue, not in the task's callback: an entry that
            # arrives between the two would count on this task, which no longer looks.
            self._running -= 1

    def _next_group(self) -> list[tuple[Entry, asyncio.Future[Outcome]]]:
        group: list[tuple[Entry, asyncio.Future[Outcome]]] = []
        while self._waiting and len(group) < GROUP_MAX:
            member = self._waiting.popleft()
            if not member[1].done():  # done here means cancelled: its caller gave up
                group.append(member)
        return group

    async def _post_group(self, group: list[tuple[Entry, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes = await self._store.post([entry for entry, _ in group])
        except MarketplaceError as failure:
            for _, future in group:
                if not future.done():
                    # One exception object each: raising a shared one would mix the callers' tracebacks.
                    future.set_exception(type(failure)(*failure.args))
        except Exception:
            log.exception("posting a group failed unexpectedly")
            for _, future in group:
                if not future.done():
                    future.set_exception(DependencyError("ledger_unavailable", "The ledger failed."))
        else:
            for (_, future), outcome in zip(group, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
