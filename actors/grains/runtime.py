"""Virtual actors ("grains", as in Orleans): a keyed state with a mailbox, in memory only while in use.

``Grains.turn(key, act)`` runs ``act`` alone on its key's state, in order of arrival, and keeps the new
state for the next turn. The state is a cache of the store, and another host may have moved on: a turn
whose commit finds the fence moved, or that would refuse or do nothing on a state that was not just read
(``fresh``), raises ``StaleStateError``; the state is then read again and the turn runs once more. Any
other failure drops the state too, because after a lost connection nobody knows whether the commit
happened. Placement never matters for correctness (ADR 0001).

Bounds: waiting turns per key, live grains (least recently used idle ones leave first), and time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from domain.errors import BusyError

S = TypeVar("S")
R = TypeVar("R")
Act = Callable[[S | None, bool], Awaitable[tuple[S | None, R]]]
"""``act(state, fresh) -> (new state, reply)``; ``fresh`` when the state was read for this very turn."""

MAILBOX_MAX = 64  # turns waiting on one key; an order that is asked more often is under attack
LIVE_MAX = 50_000  # grains kept in memory per host, about 10 KiB each
STALE_RETRIES = 3  # each one lost the race to a different commit; more means a livelock worth an error


class StaleStateError(Exception):
    """The store's fence has moved: another host committed first. Carries the key."""


class _Grain(Generic[S]):
    """One key's mailbox (a fair lock) and cached state; ``loaded`` is False until the first read."""

    __slots__ = ("loaded", "lock", "state", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # asyncio locks are first come, first served
        self.waiting = 0
        self.loaded = False
        self.state: S | None = None


class Grains(Generic[S]):
    """A host's grains of one entity. ``load`` reads a key's state from the store, None if absent."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[S | None]],
        *,
        live_max: int = LIVE_MAX,
        mailbox_max: int = MAILBOX_MAX,
    ) -> None:
        self._load = load
        self._live_max = live_max
        self._mailbox_max = mailbox_max
        self._grains: OrderedDict[str, _Grain[S]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._grains)

    async def turn(self, key: str, act: Act[S, R]) -> R:
        """Run ``act`` alone on ``key`` and return its reply.

        Raises:
            BusyError: ``mailbox_full``; the turn did not start.
            Exception: whatever ``act`` raised; the cached state is then dropped.
        """
        grain = self._activate(key)
        if grain.waiting >= self._mailbox_max:
            raise BusyError("mailbox_full", "Too many requests wait on this order. Try again shortly.")
        grain.waiting += 1
        try:
            async with grain.lock:
                return await self._run(key, grain, act)
        finally:
            grain.waiting -= 1
            self._passivate_idle()

    def forget(self, key: str) -> None:
        """Drop a key's cached state; the next turn reads it again."""
        grain = self._grains.get(key)
        if grain is not None:
            grain.loaded, grain.state = False, None

    def assume_new(self, key: str) -> None:
        """Skip the first read of a key that was just drawn and so cannot exist in the store."""
        self._activate(key).loaded = True

    async def _run(self, key: str, grain: _Grain[S], act: Act[S, R]) -> R:
        for attempt in range(STALE_RETRIES + 1):
            fresh = not grain.loaded
            if fresh:
                grain.state = await self._load(key)
                grain.loaded = True
            try:
                grain.state, reply = await act(grain.state, fresh)
            except StaleStateError:
                grain.loaded, grain.state = False, None
                if attempt == STALE_RETRIES:
                    raise BusyError(
                        "order_contended", "Other requests changed this at the same time. Try again shortly."
                    ) from None
            except BaseException:
                # Cancellation included: the commit may have happened.
                grain.loaded, grain.state = False, None
                raise
            else:
                return reply
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _activate(self, key: str) -> _Grain[S]:
        grain = self._grains.get(key)
        if grain is None:
            grain = self._grains[key] = _Grain()
        else:
            self._grains.move_to_end(key)
        return grain

    def _passivate_idle(self) -> None:
        excess = len(self._grains) - self._live_max
        if excess <= 0:
            return
        # Busy grains are skipped, so look at a few more than must go, never at all of them.
        for key in list(self._grains)[: excess + 64]:
            if excess <= 0:
                return
            if self._grains[key].waiting == 0:
                del self._grains[key]
                excess -= 1
