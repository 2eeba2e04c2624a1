"""A session's late statement runs and counts; one that is not executed counts for nothing."""

import asyncio
import random

import pytest

from cluster.simulation.faults import Fault, FaultPlan
from cluster.simulation.loop import WORLD, SimulatedLoop
from cluster.simulation.network import LATE_S_MAX, Network, Server
from cluster.simulation.order_store import ANSWER_TIMEOUT_S
from cluster.simulation.outbox import Relaying, SimulatedOutbox
from cluster.simulation.postgres import Postgres
from cluster.simulation.timeline import Timeline
from domain.events.errors import SessionLostError
from tests.fakes.orders import FakeClock

TAKE = "postgres.take_shard"
LATE = f"{TAKE}: {Fault.EXECUTED_LATE}"
BEYOND_S = ANSWER_TIMEOUT_S + LATE_S_MAX


class Aimed(FaultPlan):
    """Nothing goes wrong but what is aimed."""

    def __init__(self):
        super().__init__(0, random.Random(0))
        self.aimed = {}

    def draw(self, boundary, now_s, *, caller_faulty):
        return self.aimed.pop(boundary, None)


class World:
    def __init__(self):
        self.loop = SimulatedLoop(random.Random(0))
        self.plan = Aimed()
        self.network = Network(self.loop, random.Random(0), self.plan, Timeline())
        self.relaying = Relaying(Postgres(FakeClock()), Server("postgres"), self.loop.time)

    def outbox(self):
        return SimulatedOutbox(self.network, WORLD, self.relaying)

    async def lose_a_take(self, outbox):
        """Have a shard taken by a statement that outlives its caller's patience."""
        self.plan.aimed[TAKE] = Fault.EXECUTED_LATE
        with pytest.raises(SessionLostError):
            await outbox.take(1)


@pytest.fixture
def world():
    return World()


def test_the_backend_runs_what_it_had_read_and_keeps_its_locks_until_then(world):
    async def play():
        first, rival = world.outbox(), world.outbox()
        await first.join()
        assert await first.take(7)
        await world.lose_a_take(first)
        await rival.join()
        assert not await rival.take(7), "the session of the late statement still owns it"
        assert world.plan.coverage[LATE] == 0, "not executed yet"
        for _ in range(int(BEYOND_S)):
            await asyncio.sleep(1.0)
            await rival.standing()  # keeps its session
        assert world.plan.coverage[LATE] == 1
        assert await rival.take(7)
        assert await rival.take(1), "what the late statement took was freed with its session"

    world.loop.run(play())


def test_a_crash_of_the_server_ends_the_late_statement_uncounted(world):
    async def play():
        outbox = world.outbox()
        await outbox.join()
        await world.lose_a_take(outbox)
        world.relaying.server.crash()
        await asyncio.sleep(BEYOND_S)
        assert world.plan.coverage[LATE] == 0

    world.loop.run(play())


def test_a_statement_that_never_reached_the_server_is_not_counted(world):
    async def play():
        outbox = world.outbox()
        await outbox.join()
        world.network.cut(WORLD.machine, "postgres")
        world.plan.aimed[TAKE] = Fault.EXECUTED_LATE
        with pytest.raises(SessionLostError):
            await outbox.take(1)
        world.network.mend_all()
        await asyncio.sleep(BEYOND_S)
        assert world.plan.coverage[LATE] == 0

    world.loop.run(play())


@pytest.mark.parametrize("fault", [Fault.DELAYED, Fault.EXECUTED_THEN_LOST, Fault.SERVER_CRASHED_AFTER])
def test_a_call_of_an_ended_session_counts_for_no_fault(world, fault):
    async def play():
        outbox = world.outbox()
        await outbox.join()
        await asyncio.sleep(60.0)  # idle for so long that the server has ended it
        world.plan.aimed[TAKE] = fault
        with pytest.raises(SessionLostError):
            await outbox.take(1)
        assert not world.plan.coverage

    world.loop.run(play())
