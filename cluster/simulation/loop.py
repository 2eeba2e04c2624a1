"""A seeded asyncio event loop in virtual time, shared by all simulated processes.

Decides which ready handle runs next (by the seed), and when time moves: only when nothing is ready, and then
straight to the next timer. Every handle belongs to the process in whose context it was made: those of a
killed process never run, those of a paused one wait until it resumes, like a program under SIGSTOP.

Refuses to touch the outside: no sockets, threads, signals or real clock. Tasks and futures hash by number,
not by address, so that sets of them have the same order in every run of a seed.
"""

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")

STEPS_MAX = 600_000  # of one seed, some thirty times the usual: more means that code spins without waiting


class LivelockError(Exception):
    """The code under simulation ran ``STEPS_MAX`` steps without coming to rest."""


class Process:
    """One simulated operating-system process: a tag on the handles that it makes.

    ``machine`` is where it runs, for partitions. ``skew_s`` is how far its wall clock is off. ``faulty``
    processes may be killed and paused.
    """

    __slots__ = (
        "_death_watchers",
        "alive",
        "context",
        "deferred",
        "faulty",
        "machine",
        "name",
        "paused",
        "skew_s",
    )

    def __init__(
        self, name: str, *, machine: str | None = None, skew_s: float = 0.0, faulty: bool = False
    ) -> None:
        self.name = name
        self.machine = machine or name
        self.skew_s = skew_s
        self.faulty = faulty
        self.alive = True
        self.paused = False
        self.deferred: list[asyncio.Handle] = []
        self.context = copy_context()
        self.context.run(_PROCESS.set, self)
        self._death_watchers: list[Callable[[], None]] = []

    def run(self, make: Callable[[], T]) -> T:
        """Call ``make`` inside this process: what it schedules belongs to it."""
        return self.context.copy().run(make)

    def on_death(self, watcher: Callable[[], None]) -> None:
        """Have ``watcher`` called when the process is killed."""
        self._death_watchers.append(watcher)

    def die(self) -> None:
        """Never run anything of this process again."""
        self.alive = False
        self.deferred.clear()
        watchers, self._death_watchers = self._death_watchers, []
        for watcher in watchers:
            watcher()


_PROCESS: ContextVar[Process] = ContextVar("simulated_process")
WORLD = Process("world")  # what no fault touches: buyers, the network, the operators


def current_process() -> Process:
    """Return the process whose code is running."""
    return _PROCESS.get(WORLD)


class _Future(asyncio.Future[Any]):
    """A future that hashes by number."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    """A task that hashes by number."""

    def __init__(
        self,
        number: int,
        coroutine: Coroutine[Any, Any, Any],
        loop: asyncio.AbstractEventLoop,
        name: str | None,
        context: Context | None,
    ) -> None:
        self._number = number
        super().__init__(coroutine, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self._number


class _Handle(asyncio.TimerHandle):
    """A scheduled call and its process; ``when`` is unused for calls that are ready at once."""

    __slots__ = ("process",)

    def __init__(  # not super's: it would look at the real stack and ask for debug mode, for each handle
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._scheduled = False
        self.process = context.get(_PROCESS, WORLD)


class SimulatedLoop(asyncio.AbstractEventLoop):
    """See the module. ``run`` is its only entry; what asyncio's own parts need is implemented, no more."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now_s = 0.0
        self._ready: list[_Handle] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._number = 0
        self._tasks: list[_Task] = []  # kept, so that nothing is collected at a moment that varies
        self.unhandled: list[str] = []
        self.steps = 0

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` in the world's context until it returns, then drop everything.

        Raises:
            LivelockError: too many steps.
            RuntimeError: nothing is left to run, but ``main`` has not returned.
        """
        asyncio._set_running_loop(self)  # noqa: SLF001 - asyncio's documented hook for other event loops
        try:
            task = self.create_task(main, context=WORLD.context.copy())
            self._run_until(task)
            return cast("T", task.result())
        finally:
            self._drop_all()
            asyncio._set_running_loop(None)  # noqa: SLF001 - see above

    def resume(self, process: Process) -> None:
        """Let a paused process go on: everything that it missed is ready now."""
        process.paused = False
        deferred, process.deferred = process.deferred, []
        self._ready += deferred  # type: ignore[arg-type]  # only our own handles are ever deferred

    def _run_until(self, task: asyncio.Task[Any]) -> None:
        """Run ready handles, one at a time in an order of the seed's; the hot path of a simulation."""
        ready, draw = self._ready, self._rng.random
        while not task.done():
            if not ready:
                self._advance()
                continue
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise LivelockError(f"{STEPS_MAX} steps by {self._now_s:.1f} s")
            index = int(draw() * len(ready))
            handle = ready[index]
            last = ready.pop()
            if last is not handle:
                ready[index] = last
            process = handle.process
            if handle._cancelled or not process.alive:  # noqa: SLF001 - our own handle
                continue
            if process.paused:
                process.deferred.append(handle)
                continue
            try:
                handle._context.run(handle._callback, *handle._args)  # noqa: SLF001 - our own handle
            except Exception as error:  # noqa: BLE001 - a callback's failure is a finding, not the loop's end
                self.unhandled.append(f"{process.name}: callback raised {error!r}")

    def _advance(self) -> None:
        timers = self._timers
        while timers and (timers[0][2]._cancelled or not timers[0][2].process.alive):  # noqa: SLF001 - our own handle
            heapq.heappop(timers)
        if not timers:
            raise RuntimeError("nothing is left to run, yet the simulation has not ended")
        self._now_s = max(self._now_s, timers[0][0])
        while timers and timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(timers)[2])

    def _drop_all(self) -> None:
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if task.done():
                if not task.cancelled() and task._log_traceback:  # noqa: SLF001 - as its __del__ does
                    self.unhandled.append(f"task raised {task.exception()!r}")
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - a killed process's
            coroutine = task.get_coro()
            with contextlib.suppress(BaseException):  # what its `finally` blocks do now concerns nobody
                coroutine.close()
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()

    # What asyncio's tasks, futures, locks and timeouts use of a loop.

    def time(self) -> float:
        """Return virtual seconds since the simulation began."""
        return self._now_s

    def call_soon(  # type: ignore[override]  # typeshed ties the types of callback and arguments
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Make a call ready."""
        handle = _Handle(0.0, callback, args, self, context or copy_context())
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # as call_soon
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a call ready at a virtual time."""
        handle = _Handle(when, callback, args, self, context or copy_context())
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def call_later(  # type: ignore[override]  # as call_soon
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a call ready after ``delay`` virtual seconds."""
        when = self._now_s + delay
        handle = _Handle(when, callback, args, self, context or copy_context())
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future."""
        self._number += 1
        return _Future(self._number, self)

    def create_task(
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """Make a task; it belongs to the process of its context."""
        self._number += 1
        task = _Task(self._number, coro, self, name or "task", context)
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        """Debug mode is off: it would look at the real clock."""
        return False

    def is_running(self) -> bool:
        """Whether ``run`` is under way, as far as anyone inside can ask."""
        return True

    def is_closed(self) -> bool:
        """Never closed while anyone can ask."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what asyncio would have logged."""
        self.unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: cancelled timers are passed over when their time comes."""
