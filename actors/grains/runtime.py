"""Virtual actors ("grains", as in Orleans): a keyed state with a mailbox, in memory only while in use.

``Grains.turn(key, act)`` runs ``act`` alone on its key's state, in order of arrival, and keeps the new
state for the next turn. The state is a cache of the store, and another host may have moved on: a turn
whose commit finds the fence moved, or that would refuse or do nothing on a state that was not just read
(``fresh``), raises ``StaleStateError``; the state is then read again and the turn runs once more. Any
other failure drops the state too, because after a lost connection nobody knows whether the commit
happened. Placement never matters for correctness (ADR 0001).

Bounds, each in ``GrainLimits``: turns in the process, turns waiting on one key, how long one waits, bytes
of live states (least recently used idle ones leave first), and how long an idle one stays.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.errors import BusyError

S = TypeVar("S")
R = TypeVar("R")
Act = Callable[[S | None, bool], Awaitable[tuple[S | None, R]]]
"""``act(state, fresh) -> (new state, reply)``; ``fresh`` when the state was read for this very turn."""

STALE_RETRIES = 3  # each one lost the race to a different commit; more means a livelock worth an error
GRAIN_BYTES = 400  # mailbox, lock and dictionary entry of a grain, measured; its state is weighed on top
BUSY_SKIPPED_MAX = 64  # busy grains passed over in one eviction: look at a few more than must go, never all


class StaleStateError(Exception):
    """The store's fence has moved: another host committed first. Carries the key."""


@dataclass(frozen=True, slots=True)
class GrainLimits:
    """Bounds of one process's grains of one entity."""

    turns_max: int = 2_048  # running and waiting: above it callers are told to come back, at once
    mailbox_max: int = 64  # waiting on one key; an order that is asked more often is under attack
    wait_s: float = 8.0  # below every caller's own deadline, so that the reason is heard
    bytes_max: int = 256 * 1024 * 1024  # of live states; a replica's memory limit is several times that
    idle_s: float = 300.0  # most buyers pay within minutes; later turns read the state again


@dataclass(frozen=True, slots=True)
class GrainCounts:
    """What a process holds and has done so far; ``live_bytes`` by the entity's own weighing."""

    live: int
    live_bytes: int
    turns: int
    activations: int
    evictions: int
    stale: int
    refused: int


class _Grain(Generic[S]):
    """One key's mailbox (a fair lock) and cached state; ``loaded`` is False until the first read."""

    __slots__ = ("bytes", "loaded", "lock", "state", "used_at_s", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # asyncio locks are first come, first served
        self.waiting = 0
        self.loaded = False
        self.state: S | None = None
        self.used_at_s = 0.0
        self.bytes = GRAIN_BYTES


class Grains(Generic[S]):
    """A host's grains of one entity.

    ``load`` reads a key's state from the store, None if absent. ``weigh`` estimates a state's bytes.
    ``now_s`` is a monotonic clock in seconds; idle grains leave when ``passivate`` is called.
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[S | None]],
        *,
        weigh: Callable[[S], int],
        now_s: Callable[[], float],
        limits: GrainLimits | None = None,
    ) -> None:
        self._load = load
        self._weigh = weigh
        self._now_s = now_s
        self._limits = limits or GrainLimits()
        self._grains: OrderedDict[str, _Grain[S]] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._open_turns = 0
        self._turns = self._activations = self._evictions = self._stale = self._refused = 0

    def __len__(self) -> int:
        return len(self._grains)

    def counts(self) -> GrainCounts:
        """Tell what is held and was done; for metrics and benchmarks."""
        return GrainCounts(
            len(self._grains),
            self._bytes,
            self._turns,
            self._activations,
            self._evictions,
            self._stale,
            self._refused,
        )

    async def turn(self, key: str, act: Act[S, R]) -> R:
        """Run ``act`` alone on ``key`` and return its reply.

        Raises:
            BusyError: ``host_full``, ``mailbox_full`` or ``mailbox_timeout``; the turn did not start.
            BusyError: ``order_contended``; other hosts won every race, nothing was committed.
            Exception: whatever ``act`` raised; the cached state is then dropped.
        """
        if self._open_turns >= self._limits.turns_max:
            self._refused += 1
            raise BusyError("host_full", "Too many requests are being worked on. Try again shortly.")
        grain = self._activate(key)
        if grain.waiting >= self._limits.mailbox_max:
            self._refused += 1
            raise BusyError("mailbox_full", "Too many requests wait on this order. Try again shortly.")
        grain.waiting += 1
        self._open_turns += 1
        try:
            await self._enter(grain)
            try:
                return await self._run(key, grain, act)
            finally:
                grain.lock.release()
        finally:
            grain.waiting -= 1
            self._open_turns -= 1
            self._settle(grain)

    def forget(self, key: str) -> None:
        """Drop a key's cached state; the next turn reads it again."""
        grain = self._grains.get(key)
        if grain is not None:
            grain.loaded, grain.state = False, None

    def assume(self, key: str, state: S) -> None:
        """Activate a key with the state that this process has just committed as its first."""
        grain = self._activate(key)
        grain.loaded, grain.state = True, state
        self._settle(grain)

    def passivate(self) -> int:
        """Drop grains that were idle for too long; returns how many. Call it now and then."""
        dropped = 0
        horizon_s = self._now_s() - self._limits.idle_s
        while self._grains:
            key, grain = next(iter(self._grains.items()))
            if grain.used_at_s > horizon_s:
                break
            if grain.waiting:  # a turn of several minutes: its effects are bounded, so it ends
                self._touch(key, grain)
                continue
            self._drop(key, grain)
            dropped += 1
        return dropped

    async def _enter(self, grain: _Grain[S]) -> None:
        if grain.waiting == 1:  # we alone: a lock that is free may still be promised to the next in line
            await grain.lock.acquire()  # does not wait
            return
        try:
            async with asyncio.timeout(self._limits.wait_s):
                await grain.lock.acquire()
        except TimeoutError:
            self._refused += 1
            raise BusyError(
                "mailbox_timeout", "Earlier requests on this order take too long. Try again shortly."
            ) from None

    async def _run(self, key: str, grain: _Grain[S], act: Act[S, R]) -> R:
        self._turns += 1
        for attempt in range(STALE_RETRIES + 1):
            fresh = not grain.loaded
            if fresh:
                self._activations += 1
                grain.state = await self._load(key)
                grain.loaded = True
            try:
                grain.state, reply = await act(grain.state, fresh)
            except StaleStateError:
                self._stale += 1
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
            self._bytes += grain.bytes
        self._touch(key, grain)
        return grain

    def _touch(self, key: str, grain: _Grain[S]) -> None:
        grain.used_at_s = self._now_s()
        self._grains.move_to_end(key)

    def _settle(self, grain: _Grain[S]) -> None:
        """Weigh a grain after its turn, and make room if all together are too heavy."""
        weight = GRAIN_BYTES + (0 if grain.state is None else self._weigh(grain.state))
        self._bytes += weight - grain.bytes
        grain.bytes = weight
        if self._bytes > self._limits.bytes_max:
            self._evict()

    def _evict(self) -> None:
        skipped: list[str] = []
        while self._bytes > self._limits.bytes_max and len(skipped) < BUSY_SKIPPED_MAX:
            key, grain = next(iter(self._grains.items()))
            if grain.waiting:
                skipped.append(key)
                self._grains.move_to_end(key)
                if len(skipped) >= len(self._grains):
                    break
                continue
            self._drop(key, grain)
            self._evictions += 1

    def _drop(self, key: str, grain: _Grain[S]) -> None:
        del self._grains[key]
        self._bytes -= grain.bytes
