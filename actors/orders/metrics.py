"""What the order runtime tells Prometheus: grains, breakers, effects in flight, and what waits in Postgres.

Numbers of this process are read when it is scraped, so counting costs the orders nothing. What waits in the
database is counted by one bounded query, at most every ``BACKLOG_INTERVAL_S``, and left out once it is too
old to be believed. Label values are bounded sets. Every process reports the whole database's backlog: take
the maximum over processes, never the sum.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.grains.runtime import GrainCounts
from actors.orders.breakers import Breaker, BreakerState
from actors.periodic import Periodic
from domain.errors import MarketplaceError
from storage.market.dead_letters import COUNTED_MAX, Backlog

log = logging.getLogger("marketplace.metrics")

BACKLOG_INTERVAL_S = 15.0  # as often as Prometheus usually scrapes
BACKLOG_AGE_S_MAX = 60.0  # a number that could not be refreshed for so long describes another time

_GAUGES = (
    ("live", "marketplace_order_grains", "Orders in memory."),
    ("live_bytes", "marketplace_order_grains_bytes", "Their states' weight, estimated."),
)
_COUNTERS = (
    ("turns", "marketplace_order_turns", "Turns run on orders."),
    ("activations", "marketplace_order_activations", "States read from the database."),
    ("evictions", "marketplace_order_evictions", "States dropped because all together were too heavy."),
    ("stale", "marketplace_order_stale_turns", "Turns repeated because another process had committed first."),
    ("refused", "marketplace_order_refused_turns", "Turns refused because a bound was reached."),
)


class BacklogWatch(Periodic):
    """Counts what waits in the database, now and then. ``now_s`` is a monotonic clock in seconds.

    A process without it serves on; only its metrics lack the backlog.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Backlog]],
        now_s: Callable[[], float],
        *,
        interval_s: float = BACKLOG_INTERVAL_S,
    ) -> None:
        super().__init__("counting the backlog", log, interval_s, at_once=True)
        self._read = read
        self._now_s = now_s
        self._latest: tuple[float, Backlog] | None = None

    @property
    def latest(self) -> Backlog | None:
        """The last count, or None when there is none of the last ``BACKLOG_AGE_S_MAX`` seconds."""
        if self._latest is None or self._now_s() - self._latest[0] > BACKLOG_AGE_S_MAX:
            return None
        return self._latest[1]

    async def once(self) -> None:
        """Count now; a database that is down leaves the last count as it is."""
        try:
            backlog = await self._read()
        except MarketplaceError as failure:
            log.warning("the backlog could not be counted: %s", failure)
        except Exception:
            # Whatever it was, the next look may do better; metrics must not end over it.
            log.exception("the backlog could not be counted")
        else:
            self._latest = (self._now_s(), backlog)

    async def _turn(self) -> None:
        await self.once()

    def _jittered(self, pause_s: float) -> float:
        """Longer, never shorter: it bounds how often the database is asked."""
        return pause_s * (1 + random.random() / 10)  # noqa: S311 - guards nothing


class OrderCollector(Collector):
    """The order runtime of one process, read at every scrape."""

    def __init__(
        self,
        counts: Callable[[], GrainCounts],
        breakers: Sequence[Breaker],
        running_effects: Callable[[], int],
        backlog: Callable[[], Backlog | None],
    ) -> None:
        self._counts = counts
        self._breakers = breakers
        self._running_effects = running_effects
        self._backlog = backlog

    def describe(self) -> Iterator[Metric]:
        """Tell the series' names, so that a registry refuses a second order runtime."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield every series."""
        counts = self._counts()
        for field, name, text in _GAUGES:
            yield GaugeMetricFamily(name, text, value=getattr(counts, field))
        for field, name, text in _COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(counts, field))
        yield GaugeMetricFamily(
            "marketplace_effects_running", "Effects at work here.", value=self._running_effects()
        )
        yield self._states()
        backlog = self._backlog()
        if backlog is not None:
            yield from _waiting(backlog)

    def _states(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "marketplace_breaker_state",
            "Circuit breakers: 1 for the state that each one is in.",
            labels=("dependency", "state"),
        )
        for breaker in self._breakers:
            dependency = breaker.name.lower().removeprefix("the ")
            current = breaker.state
            for state in BreakerState:
                family.add_metric((dependency, state.value), int(state is current))
        return family


def register(
    registry: CollectorRegistry,
    *,
    counts: Callable[[], GrainCounts],
    breakers: Sequence[Breaker],
    running_effects: Callable[[], int],
    backlog: Callable[[], Backlog | None],
) -> OrderCollector:
    """Make the runtime's series part of ``registry``; returns what to unregister if it ends earlier.

    Raises:
        ValueError: the registry has an order runtime already.
    """
    collector = OrderCollector(counts, breakers, running_effects, backlog)
    registry.register(collector)
    return collector


def _waiting(backlog: Backlog) -> Iterator[Metric]:
    bound = f"in the whole database, counted up to {COUNTED_MAX:,}"
    overdue = GaugeMetricFamily(
        "marketplace_overdue_work",
        f"Work past its due time that nobody has taken, {bound}.",
        labels=("kind",),
    )
    overdue.add_metric(("effect",), backlog.overdue_effects)
    overdue.add_metric(("webhook",), backlog.overdue_webhooks)
    yield overdue
    dead = GaugeMetricFamily(
        "marketplace_dead_letters", f"Work given up until an operator decides, {bound}.", labels=("kind",)
    )
    dead.add_metric(("effect",), backlog.dead_effects)
    dead.add_metric(("webhook",), backlog.dead_webhooks)
    dead.add_metric(("event",), backlog.dead_events)
    yield dead
