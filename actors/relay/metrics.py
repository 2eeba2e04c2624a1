"""What the relay counts, as gauges for Prometheus, in a registry of its own.

Label values are bounded sets: shards are numbers below 16, consumers are named in code. Every relay reports
the shards that it owns, so sums and maxima over all processes describe the whole outbox.
"""

import math
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from actors.audit.sequencer import SequencerFigures
from actors.reconciliation.daily import CaseFigures
from actors.relay.relay import RelayFigures
from domain.reconciliation.facts import Kind


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
        self._cases = Gauge(
            "marketplace_reconciliation_open_cases",
            "Differences between orders, Finance and Stripe that are open.",
            ("kind",),
            registry=self.registry,
        )
        self._reconciled = Gauge(
            "marketplace_reconciliation_last_run_seconds",
            "Age of the last daily reconciliation; NaN before the first.",
            registry=self.registry,
        )
        self._logged = Gauge(
            "marketplace_audit_log_entries",
            "Entries of the audit log: all, and those under the last checkpoint.",
            ("under",),
            registry=self.registry,
        )
        self._log_failures = Gauge(
            "marketplace_audit_sequencer_failures",
            "Rounds of the audit log's sequencer that failed in a row.",
            registry=self.registry,
        )
        self._catching_up = Gauge(
            "marketplace_audit_catching_up",
            "1 while events from before the audit log are sent to it.",
            registry=self.registry,
        )

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

    def record_cases(self, figures: CaseFigures) -> None:
        """Take over open cases by kind, zero for those without one, and the age of the last daily run."""
        for kind in Kind:
            self._cases.labels(kind.value).set(figures.open_by_kind.get(kind.value, 0))
        age_s = figures.last_run_age_s
        self._reconciled.set(math.nan if age_s is None else age_s)

    def record_audit(self, figures: SequencerFigures) -> None:
        """Take over how far the audit log is."""
        self._logged.labels("log").set(figures.size)
        self._logged.labels("checkpoint").set(figures.signed_size)
        self._log_failures.set(figures.failures)
        self._catching_up.set(figures.catching_up)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
