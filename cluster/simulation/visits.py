"""Calls to simulated processes: each runs as a task of the callee, which may be killed or paused half way.

As Ray Serve does it: a callee that dies is reported to its callers after a moment; a call whose caller has
given up may be cancelled in the callee, or simply go on.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from cluster.simulation.faults import Fault
from cluster.simulation.loop import Process
from cluster.simulation.network import (
    LATENCY_S_MIN,
    LATENCY_S_SPREAD,
    PAUSES_S,
    Network,
    Unavailable,
    fail_with,
)

T = TypeVar("T")
CANCELLED_S_MAX = 0.03  # after arrival: in the middle of the callee's few calls
DEATH_NOTICE_S = 0.5  # how fast Ray tells callers that an actor has died


async def visit(
    network: Network,
    caller: Process,
    callee: Process,
    boundary: str,
    subject: str,
    work: Callable[[], Coroutine[Any, Any, T]],
    unavailable: Unavailable,
    timeout_s: float,
) -> T:
    """Have ``work`` run as a task of the process ``callee`` and return its answer.

    Raises:
        Exception: what ``work`` raised, or ``unavailable(why)``: then nothing is known.
    """
    fault = network.plan.draw(boundary, network.loop.time(), caller_faulty=caller.faulty)
    if fault is not None:
        await network.before(caller, boundary, fault)
    return cast(
        "T", await _Visit(network, caller, callee, boundary, subject, work, unavailable, fault).go(timeout_s)
    )


class _Visit:
    """One request to a process."""

    def __init__(
        self,
        network: Network,
        caller: Process,
        callee: Process,
        boundary: str,
        subject: str,
        work: Callable[[], Coroutine[Any, Any, Any]],
        unavailable: Unavailable,
        fault: Fault | None,
    ) -> None:
        self._network = network
        self._caller = caller
        self._callee = callee
        self._boundary = boundary
        self._subject = subject
        self._work = work
        self._unavailable = unavailable
        self._fault = fault
        self._reply = self._network.loop.create_future()
        self._task: asyncio.Task[Any] | None = None

    async def go(self, timeout_s: float) -> Any:
        fault, later = self._fault, self._network.loop.call_later
        travel_s = self._network.travel_s(fault, timeout_s)
        if fault is Fault.LOST:
            self._network.plan.happened(self._boundary, fault)
        else:
            later(travel_s, self._arrive, context=self._network.context)
        if fault is Fault.CALLER_CANCELLED:
            timeout_s = travel_s + CANCELLED_S_MAX * self._network.rng.random()
        later(timeout_s, self._give_up, context=self._network.context)
        return await self._reply

    def _arrive(self) -> None:
        callee, fault = self._callee, self._fault
        if self._network.is_cut(self._caller, callee.machine):
            self._network.plan.situation("partition")
            return
        if fault is Fault.CALLEE_KILLED_BEFORE and callee.alive and callee.faulty:
            self._happened(fault)
            self._network.kill(callee)
        if not callee.alive:
            self._network.loop.call_later(
                DEATH_NOTICE_S, self._fail, "the callee died", context=self._network.context
            )
            return
        if fault is Fault.CALLEE_PAUSED and callee.faulty:
            self._happened(fault)
            self._network.pause(callee, self._network.rng.choice(PAUSES_S))
        callee.on_death(self._callee_died)
        self._task = callee.run(lambda: self._network.loop.create_task(self._run()))

    async def _run(self) -> None:
        try:
            answer, error = await self._work(), None
        except Exception as raised:  # noqa: BLE001 - carried to the caller, as Ray does
            answer, error = None, raised
        fault = self._fault
        if fault is Fault.CALLEE_KILLED_AFTER and self._callee.faulty:
            self._happened(fault)
            self._network.kill(self._callee)
            return
        if fault is Fault.EXECUTED_THEN_LOST:
            self._happened(fault)
            return
        if fault is Fault.CALLER_KILLED_AFTER:
            self._happened(fault)
            self._network.kill(self._caller)
            return
        if fault is Fault.CALLER_PAUSED_AFTER:
            self._happened(fault)
            self._network.pause(self._caller, self._network.rng.choice(PAUSES_S))
        elif fault in (Fault.DELAYED, Fault.EXECUTED_LATE):
            self._happened(fault)
        latency_s = LATENCY_S_MIN + LATENCY_S_SPREAD * self._network.rng.random()
        self._network.loop.call_later(latency_s, self._deliver, answer, error, context=self._network.context)

    def _deliver(self, answer: Any, error: Exception | None) -> None:
        if not self._reply.done():
            if error is None:
                self._reply.set_result(answer)
            else:
                fail_with(self._reply, error)

    def _callee_died(self) -> None:
        self._network.loop.call_later(
            DEATH_NOTICE_S, self._fail, "the callee died", context=self._network.context
        )

    def _give_up(self) -> None:
        if self._reply.done():
            return
        if self._task is not None and not self._task.done() and self._callee.alive:
            # Serve cancels what nobody waits for any more; a call that is not cancelled simply goes on.
            if self._fault is Fault.CALLER_CANCELLED:
                self._happened(self._fault)
                self._callee.run(self._task.cancel)
            elif self._network.coin():
                self._callee.run(self._task.cancel)
        self._fail("no reply in time")

    def _fail(self, why: str) -> None:
        if not self._reply.done():
            self._network.note(self._caller.name, f"{self._boundary} failed: {why}", self._subject)
            fail_with(self._reply, self._unavailable(why))

    def _happened(self, fault: Fault) -> None:
        self._network.plan.happened(self._boundary, fault)
        self._network.note(self._callee.name, f"{self._boundary}: {fault}", self._subject)
