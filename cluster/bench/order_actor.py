"""One order as one Ray actor: what ``bench grains`` compares a grain with.

In a module of its own so that the actor's process imports what it needs and nothing else. It holds the same
state, from the same rows, as a grain does, and runs the same decider; it has no store to commit to.
"""

import asyncio
import os

from cluster.bench.synthetic_store import SyntheticOrders
from domain.orders.commands import Command
from domain.orders.decide import decide
from domain.orders.state import evolve, fold


class OrderActor:
    """One order in a process of its own; an actor class for Ray, plain otherwise."""

    def __init__(self, order_id: str) -> None:
        """Read the order as a grain does."""
        stored = asyncio.run(SyntheticOrders(1, "awaiting_payment").load(order_id))
        assert stored is not None, "a synthetic order exists"
        order = fold(order_id, stored.events)
        assert order is not None, "its history is not empty"
        self._order = order
        self._payment_handle = stored.payment_handle

    def pid(self) -> int:
        """Tell that it lives, and where."""
        return os.getpid()

    def execute(self, command: Command) -> int:
        """Decide and evolve; returns how many events followed."""
        events = decide(self._order, command)
        for event in events:
            self._order = evolve(self._order.order_id, self._order, event)
        return len(events)
