"""What the runner reports to Prometheus. Label values are statuses and reasons that the code names."""

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from domain.payouts.ports import PayoutFigures
from domain.payouts.state import Status


class PayoutMetrics:
    """The registry and its series: one per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._payouts = Gauge(
            "marketplace_payouts", "Payouts by status.", ("status",), registry=self.registry
        )
        self._stuck = Gauge(
            "marketplace_payouts_stuck", "Payouts that wait for an operator.", registry=self.registry
        )
        self._carried = Gauge(
            "marketplace_payees_carried",
            "Payees that the last batch of each currency does not pay, by reason.",
            ("reason",),
            registry=self.registry,
        )

    def exposition(self, figures: PayoutFigures | None) -> bytes:
        """Return everything in Prometheus' text format."""
        if figures is not None:
            for status in Status:
                self._payouts.labels(status.value).set(figures.by_status.get(status.value, 0))
            self._stuck.set(figures.stuck)
            self._carried.clear()  # a reason that is gone must not stay
            for reason, count in figures.carried_by_reason.items():
                self._carried.labels(reason).set(count)
        return generate_latest(self.registry)
