"""What the relay counts, as gauges for Prometheus, in a registry of its own.

Label values are bounded sets: shards are numbers below 16, consumers are named in code. Every relay reports
the shards that it owns, so sums and maxima over all processes describe the whole outbox.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from actors.relay.relay import RelayFigures


class RelayMetrics:
    """The registry and its series: one per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._unpublished = Gauge(
            "marketplace_outbox_unpublished",
            "Commits that wait in the outbox (counted up to 10,000).",
            ("shard",),
            registry=self.registry,
        )
        self._oldest = Gauge(
            "marketplace_outbox_oldest_seconds",
            "Age of the oldest event that waits in the outbox.",
            ("shard",),
            registry=self.registry,
        )
        self._shards = Gauge("marketplace_relay_shards", "Shards owned here.", registry=self.registry)
        self._rate = Gauge(
            "marketplace_relay_events_per_second", "Events published lately.", registry=self.registry
        )
        self._stopped = Gauge(
            "marketplace_relay_stopped_orders",
            "Orders that stand still because the bus refused an event.",
            registry=self.registry,
        )
        self._parked = Gauge(
            "marketplace_consumer_parked_events",
            "Events given up until an operator retries or drops them.",
            ("consumer",),
            registry=self.registry,
        )
        self._published = Counter(
            "marketplace_relay_events", "Events acknowledged by the bus.", registry=self.registry
        )
        self._refused = Counter(
            "marketplace_relay_refusals", "Refusals that stopped an order.", registry=self.registry
        )
        self._counted = (0, 0)

    def record(self, figures: RelayFigures, parked: Mapping[str, int]) -> None:
        """Take over a relay's figures and the parked events by consumer."""
        self._unpublished.clear()
        self._oldest.clear()  # a shard that another relay owns now must not be reported twice
        for lag in figures.lag:
            self._unpublished.labels(str(lag.shard)).set(lag.unpublished)
            self._oldest.labels(str(lag.shard)).set(lag.oldest_age_s)
        self._shards.set(figures.shards)
        self._rate.set(figures.published_per_s)
        self._stopped.set(figures.stopped_orders)
        for consumer, count in parked.items():
            self._parked.labels(consumer).set(count)
        published, refused = self._counted
        self._published.inc(figures.published - published)
        self._refused.inc(figures.refused - refused)
        self._counted = (figures.published, figures.refused)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
