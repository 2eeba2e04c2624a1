"""What the audit log reports to Prometheus."""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from actors.audit.sequencer import SequencerFigures


class AuditMetrics:
    """The registry and its series: one per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._entries = Gauge(
            "marketplace_audit_log_entries",
            "Entries of the audit log: all, and those under the last checkpoint.",
            ("under",),
            registry=self.registry,
        )
        self._failures = Gauge(
            "marketplace_audit_sequencer_failures",
            "Rounds of the audit log's sequencer that failed in a row.",
            registry=self.registry,
        )
        self._catching_up = Gauge(
            "marketplace_audit_catching_up",
            "1 while events from before the audit log are sent to it.",
            registry=self.registry,
        )

    def record(self, figures: SequencerFigures) -> None:
        """Take over how far the audit log is."""
        self._entries.labels("log").set(figures.size)
        self._entries.labels("checkpoint").set(figures.signed_size)
        self._failures.set(figures.failures)
        self._catching_up.set(figures.catching_up)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
