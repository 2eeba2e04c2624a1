"""Weather: faults of the surroundings at random times.

Partitions, outages, kills, pauses and rolling updates, one after the other; they end with ``FaultPlan.heal``.
"""

import asyncio

from cluster.simulation.faults import PARTIES
from cluster.simulation.hosts import Cluster, Outside
from cluster.simulation.network import PAUSES_S, Network

EVENTS_MAX = 8  # of one seed: with more, hardly a host lives long enough to do its work
OUTAGES_S = (3.0, 15.0, 25.0, 90.0)


class Weather:
    """One seed's."""

    def __init__(self, network: Network, cluster: Cluster, outside: Outside, chaos_s: float) -> None:
        self._network = network
        self._rng = network.rng
        self._plan = network.plan
        self._cluster = cluster
        self._outside = outside
        self._chaos_s = chaos_s

    async def blow(self) -> None:
        """Let things happen, one after the other, until healed."""
        rng, plan = self._rng, self._plan
        events = [self._partition, self._outage, self._kill, self._pause, self._cluster.roll]
        for event in rng.choices(events, weights=(3, 2, 3, 3, 1), k=rng.randrange(EVENTS_MAX)):
            await asyncio.sleep(rng.random() * self._chaos_s / EVENTS_MAX)
            if plan.active:
                await event()

    async def _partition(self) -> None:
        one = self._rng.choice(list(self._cluster.roles))
        other = self._rng.choice([name for name in (*PARTIES, *self._cluster.roles) if name != one])
        self._network.note("network", f"cuts {one} from {other}", "*")
        self._network.cut(one, other)
        self._network.loop.call_later(3.0 + 30.0 * self._rng.random(), self._network.mend, one, other)

    async def _outage(self) -> None:
        name = self._rng.choice(PARTIES)
        server = self._outside.servers[name]
        self._plan.situation(f"{name} down")
        self._network.note(name, "is down", "*")
        server.up = False
        server.crash()
        await asyncio.sleep(self._rng.choice(OUTAGES_S) * (0.5 + self._rng.random() / 2))
        if self._cluster.circuits_open():
            self._plan.situation("circuit open at an outage's end")
        if name == "postgres" and self._network.coin():
            await self._kill()
            self._plan.situation("postgres down while a host recovers")
            await asyncio.sleep(10.0 * self._rng.random())
        server.up = True
        self._network.note(name, "is up again", "*")

    async def _kill(self) -> None:
        self._cluster.kill(self._rng.choice(self._cluster.processes()))

    async def _pause(self) -> None:
        self._network.pause(self._rng.choice(self._cluster.processes()), self._rng.choice(PAUSES_S))
