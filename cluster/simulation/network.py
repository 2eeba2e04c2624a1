"""The network between simulated parties, and every fault of a call: delayed, lost, executed then lost.

A ``Server`` (Postgres, Stripe, Finance, the signer) executes a request in one instant; calls to processes,
which take their time and may die half way, are in ``visits``. Callers see what real adapters see: an answer,
or an error after which nothing is known.

The caller's timeout runs on the network's side of the simulation; a paused caller finds out when it resumes.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.simulation.faults import Fault, FaultPlan
from cluster.simulation.loop import WORLD, Process, SimulatedLoop
from cluster.simulation.timeline import Timeline
from domain.events.errors import SessionLostError

T = TypeVar("T")
Unavailable = Callable[[str], Exception]

LATENCY_S_MIN, LATENCY_S_SPREAD = 0.0004, 0.004  # one way, inside one data centre
RESET_S = 0.02  # how fast a closed port or a dead peer is noticed
PAUSES_S = (0.5, 4.0, 12.0, 40.0)  # below and beyond the leases of 3 s and 9 s and the deadlines of 8 s
LATE_S_MAX = 25.0  # a request that its caller gave up may still arrive this much later


_BEFORE = (Fault.CALLER_PAUSED_BEFORE, Fault.CALLER_STOPPED)  # counted when the call was made


class Server:
    """A party that executes at once. ``epoch`` counts its restarts: older connections are reset."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True
        self.epoch = 0

    def crash(self) -> None:
        """Drop every connection; what was committed stays."""
        self.epoch += 1


@dataclass(slots=True)
class _Request:
    caller: Process
    server: Server
    boundary: str
    subject: str
    execute: Callable[[], Any]
    reply: asyncio.Future[Any]
    fault: Fault | None
    unavailable: Unavailable
    epoch: int
    deadline_s: float
    received: bool = False  # lies at the server's backend, which will run it whatever becomes of the caller


class Network:
    """See the module. ``on_pause`` and ``on_stop`` tell a supervisor what befell a process."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random, plan: FaultPlan, timeline: Timeline) -> None:
        self.loop = loop
        self.rng = rng
        self.plan = plan
        self.timeline = timeline
        self._cuts: set[frozenset[str]] = set()
        self.context = WORLD.context.copy()
        self.on_pause: Callable[[Process, float], None] = lambda _process, _pause_s: None
        self.on_stop: Callable[[Process], None] = lambda _process: None
        self.executing: Fault | None = None  # of the request that a server executes at this moment

    # Faults of the surroundings.

    def cut(self, one: str, other: str) -> None:
        """Partition two parties, by name, until ``mend``."""
        self._cuts.add(frozenset((one, other)))

    def mend(self, one: str, other: str) -> None:
        """End a partition."""
        self._cuts.discard(frozenset((one, other)))

    def mend_all(self) -> None:
        """End every partition."""
        self._cuts.clear()

    def kill(self, process: Process) -> None:
        """Kill -9."""
        self.note(process.name, "is killed", "*")
        process.die()

    def pause(self, process: Process, pause_s: float) -> None:
        """SIGSTOP, and SIGCONT after ``pause_s``."""
        if not process.paused:
            process.paused = True
            self.note(process.name, f"is paused for {pause_s:g} s", "*")
            self.loop.call_later(pause_s, self._resume, process, context=self.context)
            self.on_pause(process, pause_s)

    def _resume(self, process: Process) -> None:
        if process.alive and process.paused:
            self.note(process.name, "goes on", "*")
            self.loop.resume(process)

    def coin(self) -> bool:
        """Toss a coin."""
        return self.rng.random() < 0.5  # noqa: PLR2004 - a coin has two sides

    def is_cut(self, one: Process, other: str) -> bool:
        """Whether a partition lies between a process and a party."""
        return bool(self._cuts) and frozenset((one.machine, other)) in self._cuts

    def note(self, who: str, what: str, subject: str = "") -> None:
        """Write a line of the timeline."""
        self.timeline.add(self.loop.time(), who, what, subject)

    # Calls to servers.

    async def call(
        self,
        caller: Process,
        server: Server,
        boundary: str,
        subject: str,
        execute: Callable[[], T],
        unavailable: Unavailable,
        timeout_s: float,
        on_received: Callable[[], None] | None = None,
    ) -> T:
        """Call a server and return its answer.

        ``on_received`` is for callers whose session matters: it is told of a statement that its backend has
        read and runs only after the caller gave up. Neither the caller's hanging up nor a partition stops
        that one; the server's crash does.

        Raises:
            Exception: what ``execute`` raised, or ``unavailable(why)``: then nothing is known.
        """
        loop = self.loop
        now_s = loop.time()
        fault = self.plan.draw(boundary, now_s, caller_faulty=caller.faulty)
        if fault is not None:
            await self.before(caller, boundary, fault)
        reply = loop.create_future()
        request = _Request(
            caller,
            server,
            boundary,
            subject,
            execute,
            reply,
            fault,
            unavailable,
            server.epoch,
            now_s + timeout_s,
        )
        reachable = server.up and not self.is_cut(caller, server.name)
        if fault is Fault.EXECUTED_LATE and on_received is not None and reachable:
            request.received = True
            on_received()
        loop.call_later(self.travel_s(fault, timeout_s), self._arrive, request, context=self.context)
        if fault is Fault.EXECUTED_LATE or fault is Fault.LOST:
            lost_s = RESET_S if fault is Fault.LOST and self.coin() else timeout_s
            loop.call_later(lost_s, self._fail, request, f"gave up after {lost_s:g} s", context=self.context)
        return await reply  # type: ignore[no-any-return]  # the future carries what ``execute`` returned

    async def before(self, caller: Process, boundary: str, fault: Fault) -> None:
        """Kill or pause the caller with the call in hand, if that is the fault."""
        if fault is Fault.CALLER_KILLED_BEFORE:
            self.plan.happened(boundary, fault)
            self.note(caller.name, f"{boundary}: {fault}", "*")
            self.kill(caller)
            await self.loop.create_future()  # never: its handles do not run any more
        elif fault is Fault.CALLER_PAUSED_BEFORE:
            self.plan.happened(boundary, fault)
            self.note(caller.name, f"{boundary}: {fault}", "*")
            self.pause(caller, self.rng.choice(PAUSES_S))
            await asyncio.sleep(0)
        elif fault is Fault.CALLER_STOPPED:
            self.plan.happened(boundary, fault)
            self.note(caller.name, f"{boundary}: {fault}", "*")
            self.on_stop(caller)

    def travel_s(self, fault: Fault | None, timeout_s: float) -> float:
        """Draw how long a request is on its way, in seconds."""
        latency_s = LATENCY_S_MIN + LATENCY_S_SPREAD * self.rng.random()
        if fault is Fault.DELAYED:
            return latency_s + timeout_s * (0.1 + 0.7 * self.rng.random())
        if fault is Fault.EXECUTED_LATE:
            return timeout_s + LATE_S_MAX * self.rng.random() ** 3
        return latency_s

    def _arrive(self, request: _Request) -> None:
        fault, server = request.fault, request.server
        # A caller that died before its packets left sends nothing; those in flight arrive all the same.
        if fault is Fault.LOST:
            self.plan.happened(request.boundary, fault)
            return
        if not server.up or server.epoch != request.epoch:
            self._fail_soon(request, f"{server.name} is down")
            return
        if not request.received and self.is_cut(request.caller, request.server.name):
            self.plan.situation("partition")
            self._fail_at_deadline(request, "partitioned")
            return
        if fault is Fault.SERVER_CRASHED_BEFORE:
            self._crash(request, fault)
            self._fail_soon(request, "connection reset")
            return
        if fault is Fault.REFUSED:
            self.plan.happened(request.boundary, fault)
            self._fail_soon(request, "refused")
            return
        self.executing = fault
        try:
            answer, error = request.execute(), None
        except Exception as raised:  # noqa: BLE001 - the server's own answer, carried to the caller
            answer, error = None, raised
        if request.subject or fault is not None or error is not None:  # polls that go well are left out
            self.note(request.caller.name, _words(request, error), request.subject)
        self._reply(request, answer, error)

    def _reply(self, request: _Request, answer: Any, error: Exception | None) -> None:
        fault, boundary = request.fault, request.boundary
        latency_s = LATENCY_S_MIN + LATENCY_S_SPREAD * self.rng.random()
        if fault is not None:
            # A statement of a session that has ended was not executed: it counts for nothing.
            if fault not in _BEFORE and not isinstance(error, SessionLostError):
                self.plan.happened(boundary, fault)
            if fault is Fault.EXECUTED_THEN_LOST:
                if self.coin():
                    self._fail_soon(request, "connection reset")
                else:
                    self._fail_at_deadline(request, "no reply in time")
                return
            if fault is Fault.SERVER_CRASHED_AFTER:
                self._crash(request, None)
                self._fail_soon(request, "connection reset")
                return
            if fault is Fault.CALLER_KILLED_AFTER:
                self.note(request.caller.name, f"{boundary}: {fault}", "*")
                self.kill(request.caller)
                return
            if fault is Fault.CALLER_PAUSED_AFTER:
                self.note(request.caller.name, f"{boundary}: {fault}", "*")
                self.pause(request.caller, self.rng.choice(PAUSES_S))
        if self.is_cut(request.caller, request.server.name):
            self._fail_at_deadline(request, "partitioned before the reply")
            return
        self.loop.call_later(latency_s, self._deliver, request, answer, error, context=self.context)

    def _deliver(self, request: _Request, answer: Any, error: Exception | None) -> None:
        if request.server.epoch != request.epoch:
            self._fail(request, "connection reset before the reply")
            return
        if not request.reply.done():
            if error is None:
                request.reply.set_result(answer)
            else:
                fail_with(request.reply, error)

    def _crash(self, request: _Request, fault: Fault | None) -> None:
        if fault is not None:
            self.plan.happened(request.boundary, fault)
        self.note(request.server.name, f"crashes at {request.boundary}", "*")
        request.server.crash()

    def _fail_soon(self, request: _Request, why: str) -> None:
        self.loop.call_later(RESET_S, self._fail, request, why, context=self.context)

    def _fail_at_deadline(self, request: _Request, why: str) -> None:
        when_s = max(self.loop.time(), request.deadline_s)
        self.loop.call_at(when_s, self._fail, request, why, context=self.context)

    def _fail(self, request: _Request, why: str) -> None:
        if not request.reply.done():
            self.note(request.caller.name, f"{request.boundary} failed: {why}", request.subject)
            fail_with(request.reply, request.unavailable(why))


def fail_with(reply: asyncio.Future[Any], error: Exception) -> None:
    """Give a reply an error."""
    reply.set_exception(error)
    reply.exception()  # marks it as seen: whoever waited may be dead


def _words(request: _Request, error: Exception | None) -> str:
    words = request.boundary
    if request.fault is not None:
        words += f" ({request.fault})"
    return words if error is None else f"{words} answered {error}"
