"""What consumers need from time to time: old progress settled, parked events counted.

Progress rows of orders that have been quiet for ``QUIET_S`` are deleted; the store remembers up to when, so
an event of such an order that comes again is still known as a duplicate, and a new one is still in sequence.
Without it the table would grow by a row per order and consumer for ever.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from actors.periodic import Periodic

log = logging.getLogger("marketplace.relay")

INTERVAL_S = 30.0  # bounds how old the count of parked events is; settling costs nothing when nothing is due
QUIET_S = 8 * 86_400.0  # a day more than Kafka keeps what it may deliver again (default retention: seven)
PAGE_ROWS = 1_000  # one short transaction
PAGES_MAX = 100  # of one consumer and round: 3,300 orders a second, more than can be placed


class Settles(Protocol):
    """The part of the consumer store that is not on the way of events."""

    async def settle(self, consumer: str, quiet_s: float, limit: int, after: str) -> str | None:
        """Delete progress of quiet orders, one page above ``after``; returns where to go on, or None."""

    async def parked(self) -> Mapping[str, int]:
        """Count parked events by consumer."""


class ConsumerUpkeep(Periodic):
    """Runs in every process that has a relay; several at once do no harm.

    ``unsettled`` names consumers whose parked events are counted and whose progress is kept for ever.
    """

    def __init__(
        self,
        store: Settles,
        consumers: Sequence[str],
        *,
        unsettled: Sequence[str] = (),
        interval_s: float = INTERVAL_S,
    ) -> None:
        super().__init__("upkeep of consumers", log, interval_s, at_once=True)
        self._store = store
        self._unsettled = unsettled
        self._consumers = consumers
        self._parked: Mapping[str, int] = {}

    @property
    def parked(self) -> Mapping[str, int]:
        """Parked events by consumer, as of the last round."""
        return self._parked

    async def once(self) -> None:
        """Count parked events and settle what is due; raises ``DependencyError``."""
        counted = dict.fromkeys((*self._consumers, *self._unsettled), 0)
        self._parked = counted | dict(await self._store.parked())
        for consumer in self._consumers:
            after: str | None = ""
            for _ in range(PAGES_MAX):
                if after is None:
                    break
                after = await self._store.settle(consumer, QUIET_S, PAGE_ROWS, after)

    async def _turn(self) -> None:
        await self.once()
