"""Work that a process does again and again beside requests, in a task of its own.

Nothing that goes wrong ends it: the next turn may do better, and nobody waits for this one. What the work is,
and what happens when several processes do it at once, is the subclass's to say.
"""

import asyncio
import logging
import random
from abc import ABC, abstractmethod

from domain.errors import MarketplaceError


class Periodic(ABC):
    """Turns with pauses between them; the first comes after a pause, or ``at_once``."""

    def __init__(self, what: str, log: logging.Logger, interval_s: float, *, at_once: bool = False) -> None:
        """``what`` names the work in the log; ``interval_s`` is the usual pause, also after a failure."""
        self._what = what
        self._log = log
        self._interval_s = interval_s
        self._at_once = at_once
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin on the running loop."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Stop at once; whatever was under way is done or undone by whoever was asked for it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _turn(self) -> float | None:
        """Do the work once; returns the pause that follows, in seconds, when it is not the usual one."""

    def _jittered(self, pause_s: float) -> float:
        """Let processes that were started together drift apart; never longer than ``pause_s``."""
        return pause_s * (0.75 + random.random() / 4)  # noqa: S311 - spreads turns, guards nothing

    async def _forever(self) -> None:
        pause_s = None if self._at_once else self._interval_s
        while True:
            if pause_s is not None:
                await asyncio.sleep(self._jittered(pause_s))
            pause_s = self._interval_s
            try:
                other_s = await self._turn()
            except MarketplaceError as failure:
                self._log.warning("%s waits: %s", self._what, failure)
            except Exception:  # noqa: BLE001 - whatever it was, it is logged and the next turn may do better
                self._log.exception("%s failed", self._what)
            else:
                pause_s = self._interval_s if other_s is None else other_s
