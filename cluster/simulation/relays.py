"""Relays at work: the production relay, bus and consumers of one process, and what they must keep.

``WatchedBus`` stands between relay and bus and looks at every publication: an order's event may leave only
when all before it have been acknowledged (decision 5: in order, none lost), however relays die and return.
"""

from collections.abc import Callable, Sequence

from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from cluster.simulation.loop import Process
from cluster.simulation.network import Network
from cluster.simulation.outbox import (
    Counting,
    Relaying,
    SimulatedConsumerStore,
    SimulatedOutbox,
    Squeamish,
)
from domain.events.ports import EventRecord
from domain.orders.invariants import Violation

POLL_S = 3.0  # production: half a second; a sixth of the polls find as much in virtual time


class RelayWatch:
    """What relays did, over all processes: violations as they happen, and the state at the end."""

    def __init__(self, relaying: Relaying, poison_shards: frozenset[int]) -> None:
        self.relaying = relaying
        self.violations: list[Violation] = []
        self.mended = False
        self._poison_shards = poison_shards
        self._acknowledged: dict[str, int] = {}

    def build(self, network: Network, process: Process) -> Relay:
        """Make a process's relay with its bus and consumers."""
        store = SimulatedConsumerStore(network, process, self.relaying)
        consumers = [
            Consumer(store, Counting()),
            Consumer(store, Squeamish(self._poison_shards, lambda: self.mended)),
        ]
        bus = WatchedBus(PostgresBus(consumers), self, process.name, network.note)
        return Relay(SimulatedOutbox(network, process, self.relaying), bus, poll_s=POLL_S)

    def offered(self, records: Sequence[EventRecord]) -> None:
        """Look at records that a relay is about to publish."""
        ahead: dict[str, int] = {}
        for record in records:
            known_seq = ahead.get(record.order_id, self._acknowledged.get(record.order_id, 0))
            if record.seq > known_seq + 1:
                words = f"event {record.seq} left when only {known_seq} had been acknowledged"
                self._add("E1", record.order_id, words)
            ahead[record.order_id] = max(known_seq, record.seq)

    def answered(self, records: Sequence[EventRecord], outcomes: Sequence[Exception | None]) -> None:
        """Note what the bus took."""
        for record, outcome in zip(records, outcomes, strict=True):
            if outcome is None:
                known_seq = self._acknowledged.get(record.order_id, 0)
                self._acknowledged[record.order_id] = max(known_seq, record.seq)

    def idle(self) -> bool:
        """Whether every event has left."""
        return not self.relaying.database.outbox

    def caught_up(self) -> bool:
        """Whether every consumer has taken every event."""
        return self.idle() and not any(self._missing())

    def final_violations(self) -> list[Violation]:
        """Check that each consumer took each order's events once, in order, all of them."""
        found = list(self.violations)
        found += [
            Violation("E2", row.order_id, f"outbox row {row.position} has not left")
            for row in self.relaying.database.outbox.values()
        ]
        for (consumer, order_id), seqs in self.relaying.taken.items():
            if seqs != sorted(set(seqs)) or seqs != list(range(1, len(seqs) + 1)):
                found.append(Violation("E3", order_id, f"{consumer} took events {seqs}"))
        return found + self._missing()

    def _missing(self) -> list[Violation]:
        found = []
        for order_id, row in self.relaying.database.orders.items():
            for consumer in (Counting.name, Squeamish.name):
                taken = len(self.relaying.taken.get((consumer, order_id), ()))
                if taken < row.seq:
                    found.append(Violation("E2", order_id, f"{consumer} took {taken} of {row.seq} events"))
        return found

    def _add(self, invariant: str, order_id: str, words: str) -> None:
        self.violations.append(Violation(invariant, order_id, words))


class WatchedBus:
    """See the module."""

    def __init__(
        self,
        bus: PostgresBus,
        watch: RelayWatch,
        process_name: str,
        note: Callable[[str, str, str], None],
    ) -> None:
        self._bus = bus
        self._watch = watch
        self._process_name = process_name
        self._note = note

    async def publish(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        """See the port."""
        self._watch.offered(records)
        for record in records:
            self._note(self._process_name, f"publishes event {record.seq} {record.kind}", record.order_id)
        outcomes = await self._bus.publish(records)
        self._watch.answered(records, outcomes)
        return outcomes
