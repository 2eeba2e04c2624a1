"""Processes that hold order hosts and ingress replicas: booted, killed, replaced, rolled.

A slot always has a current process; when that dies another is started after a while. Two layouts, by the
seed: hosts and ingress replicas apart, or both in one process, as Serve can run them. A paused process may be
replaced while it sleeps; it then wakes up beside its replacement, knowing nothing of it.
"""

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from actors.orders.breakers import BreakerState
from actors.orders.effects import Effects
from actors.orders.fulfilment import SignerFulfiller
from actors.orders.host import OrderHost
from actors.orders.sweep import Sweep
from actors.relay.relay import Relay
from cluster.simulation.finance import Finance, SimulatedFinance
from cluster.simulation.ingress import Acknowledgements, Ingress
from cluster.simulation.loop import WORLD, Process
from cluster.simulation.network import Network, Server
from cluster.simulation.order_store import DatabaseConnection, SimulatedOrderStore, SimulatedReads
from cluster.simulation.postgres import Postgres
from cluster.simulation.relays import RelayWatch
from cluster.simulation.signer import Signer, SignerConnection
from cluster.simulation.stripe import SimulatedGateway, Stripe

EPOCH = datetime.fromisoformat("2026-11-24T12:00:00+00:00")
SWEEP_INTERVAL_S = 4.0  # production: 1 s; a quarter of the polls find as much in virtual time
RESTART_S_MAX = 12.0
ROUTE_STALE_S = 1.0  # for how long routing still names a process that died
ZOMBIE_PAUSE_S = 8.0  # a process that is paused longer may be given up by its supervisor
SKEWS_S = (0.0, 0.0, 0.4, -2.0, 35.0, -200.0, 600.0, -600.0)
INGRESS_SKEW_S_MAX = 200.0  # beyond 300 s webhooks are refused, as they must be
CLOCK_OFF_S = 60.0


@dataclass
class Outside:
    """The servers with their models."""

    database: Postgres
    stripe: Stripe
    finance: Finance
    signer: Signer
    servers: dict[str, Server] = field(
        default_factory=lambda: {name: Server(name) for name in ("postgres", "stripe", "finance", "signer")}
    )


@dataclass
class Node:
    """One process's contents; ``host`` or ``ingress`` is None where the layout keeps them apart."""

    process: Process
    host: OrderHost | None
    sweep: Sweep | None
    ingress: Ingress | None
    effects: Effects | None
    relay: Relay | None


class Cluster:
    """See the module."""

    def __init__(
        self,
        network: Network,
        outside: Outside,
        acknowledged: Acknowledgements,
        relays: RelayWatch,
    ) -> None:
        self._network = network
        self._outside = outside
        self._acknowledged = acknowledged
        self._relays = relays
        self._incarnations = 0
        self._routable: list[Node] = []
        self._current: dict[str, Node] = {}
        self.together = network.rng.random() < 0.4  # noqa: PLR2004 - a share of seeds, not a limit
        if self.together:
            self.roles = dict.fromkeys(("node-1", "node-2", "node-3")[: network.rng.randrange(2, 4)], "both")
        else:
            self.roles = dict.fromkeys(("host-1", "host-2", "host-3")[: network.rng.randrange(2, 4)], "host")
            self.roles |= dict.fromkeys(("ingress-1", "ingress-2"), "ingress")
        self._rolling: set[asyncio.Task[None]] = set()
        network.on_pause = self._paused
        network.on_stop = self._stopped

    def boot_all(self) -> None:
        """Start every slot."""
        for name in self.roles:
            self._boot(name)

    def candidates(self) -> list[tuple[Process, OrderHost]]:
        """See ``ingress.Hosts``."""
        return [(node.process, node.host) for node in self._routable if node.host is not None]

    def ingresses(self) -> list[Ingress]:
        """List ingress replicas that requests may be sent to."""
        return [node.ingress for node in self._routable if node.ingress is not None]

    def processes(self) -> list[Process]:
        """List the slots' current processes."""
        return [node.process for node in self._current.values()]

    def circuits_open(self) -> bool:
        """Whether some process has given some outside system up for the moment."""
        return any(
            breaker.state is not BreakerState.CLOSED
            for node in self._current.values()
            if node.effects is not None
            for breaker in node.effects.breakers
        )

    def kill(self, process: Process) -> None:
        """Kill -9 for no reason of the process's own."""
        self._network.plan.situation(
            "ingress killed" if process.machine.startswith("ingress") else "host killed"
        )
        self._network.kill(process)

    def heal(self) -> None:
        """Resume what is paused, end zombies, set clocks right."""
        for node in list(self._routable):
            if node.process.paused:
                self._network.loop.resume(node.process)
            node.process.skew_s = 0.0
            if self._current.get(node.process.machine) is not node:
                node.process.die()
                self._routable.remove(node)

    async def roll(self) -> None:
        """Replace every process by a new one, gracefully, one after the other."""
        self._network.plan.situation("rolling update")
        for name in self.roles:
            await self._roll(name)

    async def _roll(self, name: str) -> None:
        old = self._current[name]
        self._boot(name)
        # At once, mostly: what runs must be caught running.
        await asyncio.sleep(self._network.rng.random() ** 4)
        self._unroute(old)
        self._network.note(old.process.name, "is told to stop", "*")
        done: asyncio.Future[None] = self._network.loop.create_future()
        old.process.on_death(functools.partial(_resolve, done))
        if not old.process.alive:
            return
        old.process.run(functools.partial(self._network.loop.create_task, _stop(old, done)))
        await done
        old.process.die()

    def _stopped(self, process: Process) -> None:
        """Roll one process, in the middle of whatever it does."""
        node = self._current.get(process.machine)
        if node is not None and node.process is process:
            rolling = self._network.loop.create_task(
                self._roll(process.machine), context=WORLD.context.copy()
            )
            self._rolling.add(rolling)
            rolling.add_done_callback(self._rolling.discard)

    def _boot(self, name: str) -> None:
        self._incarnations += 1
        skew_s = self._network.rng.choice(SKEWS_S) if self._network.plan.active else 0.0
        role = self.roles[name]
        if role != "host":
            skew_s = max(-INGRESS_SKEW_S_MAX, min(INGRESS_SKEW_S_MAX, skew_s))
        if abs(skew_s) > CLOCK_OFF_S:
            self._network.plan.situation("clock off by minutes")
        process = Process(f"{name}.{self._incarnations}", machine=name, skew_s=skew_s, faulty=True)
        node = process.run(lambda: self._make(process, role))
        process.on_death(lambda: self._died(name, node))
        self._current[name] = node
        self._routable.append(node)
        self._network.note(process.name, f"starts, its clock off by {skew_s:g} s", "*")

    def _make(self, process: Process, role: str) -> Node:
        network, outside, servers = self._network, self._outside, self._outside.servers

        def clock() -> datetime:
            return EPOCH + timedelta(seconds=self._network.loop.time() + process.skew_s)

        connection = DatabaseConnection(network, process, servers["postgres"], outside.database)
        store = SimulatedOrderStore(connection)
        host = sweep = ingress = effects = relay = None
        if role != "ingress":
            signer = SignerConnection(network, process, servers["signer"], outside.signer)
            effects = Effects(
                SimulatedGateway(network, process, servers["stripe"], outside.stripe),
                SimulatedFinance(network, process, servers["finance"], outside.finance),
                SignerFulfiller(SimulatedReads(connection), signer.issue, signer.unwrap_identity),
                clock,
                self._network.loop.time,
            )
            host = OrderHost(store, effects, clock, self._network.loop.time)
            sweep = Sweep(store, host, interval_s=SWEEP_INTERVAL_S)
            sweep.start()
            relay = self._relays.build(network, process)
            relay.start()
        if role != "host":
            ingress = Ingress(
                process, network, store, outside.database, self, host, clock, self._acknowledged
            )
        return Node(process, host, sweep, ingress, effects, relay)

    def _died(self, name: str, node: Node) -> None:
        self._after(ROUTE_STALE_S, lambda: self._unroute(node))
        if self._current[name] is node:
            delay_s = 0.5 + (RESTART_S_MAX * self._network.rng.random() if self._network.plan.active else 0.0)
            self._after(delay_s, lambda: self._replace(name, node))

    def _unroute(self, node: Node) -> None:
        if node in self._routable:
            self._routable.remove(node)

    def _replace(self, name: str, node: Node) -> None:
        if self._current[name] is node:
            self._boot(name)

    def _paused(self, process: Process, pause_s: float) -> None:
        if pause_s >= ZOMBIE_PAUSE_S:
            self._network.plan.situation("host paused beyond its lease")
        if pause_s < ZOMBIE_PAUSE_S or self._network.rng.random() < 0.5:  # noqa: PLR2004 - a coin
            return
        node = self._current.get(process.machine)
        if node is None or node.process is not process:
            return

        def replace() -> None:
            if process.alive and process.paused and self._current[process.machine] is node:
                self._network.plan.situation("zombie beside its replacement")
                self._boot(process.machine)
                # The zombie is noticed some time after it woke up; until then it does its work.
                self._after(pause_s + 10.0 * self._network.rng.random(), process.die)

        self._after(pause_s * 0.4, replace)

    def _after(self, delay_s: float, what: Callable[[], object]) -> None:
        self._network.loop.call_later(delay_s, what, context=WORLD.context.copy())


async def _stop(node: Node, done: "asyncio.Future[None]") -> None:
    if node.sweep is not None:
        await node.sweep.stop()
    if node.relay is not None:
        await node.relay.stop()
    if node.host is not None:
        await node.host.close()
    _resolve(done)


def _resolve(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)
