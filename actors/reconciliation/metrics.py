"""What the daily reconciliation reports to Prometheus. Label values are the kinds of cases, named in code."""

import math

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from actors.reconciliation.daily import CaseFigures
from domain.reconciliation.facts import Kind


class ReconciliationMetrics:
    """The registry and its series: one per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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

    def record(self, figures: CaseFigures) -> None:
        """Take over open cases by kind, zero for those without one, and the age of the last daily run."""
        for kind in Kind:
            self._cases.labels(kind.value).set(figures.open_by_kind.get(kind.value, 0))
        age_s = figures.last_run_age_s
        self._reconciled.set(math.nan if age_s is None else age_s)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
