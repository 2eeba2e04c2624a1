"""What the signer counts, for Prometheus, in a registry of its own.

Labels are bounded: backends are named in the settings, operations and outcomes in code.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)


class SignerMetrics:
    """The registry and its series: one per process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._available = Gauge(
            "marketplace_signer_available", "1 while documents can be signed.", registry=self._registry
        )
        self._calls = Counter(
            "marketplace_signer_backend_calls",
            "Calls of signing backends by outcome: ok, or an error's code.",
            ("backend", "operation", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "marketplace_signer_backend_seconds",
            "Time of a call of a signing backend, with its retries.",
            ("backend", "operation"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._issued = Counter(
            "marketplace_signer_orders", "Orders that were given to the signer.", registry=self._registry
        )
        self._list_expires = Gauge(
            "marketplace_key_list_expires_timestamp_seconds",
            "When the signed key list expires (Unix time); 0 without one.",
            registry=self._registry,
        )
        self._passed_over = Gauge(
            "marketplace_key_lists_passed_over",
            "Stored key lists that do not count: anything but 0 means that somebody forged one.",
            registry=self._registry,
        )

    def observe(self, backend: str, operation: str, seconds: float, outcome: str) -> None:
        """Count a backend's call; see ``storage.signing.guarded.Observer``."""
        self._calls.labels(backend, operation, outcome).inc()
        self._seconds.labels(backend, operation).observe(seconds)

    def orders(self, count: int) -> None:
        """Count orders that were asked for."""
        self._issued.inc(count)

    def exposition(self, *, available: bool, list_expires_at_s: float, lists_passed_over: int) -> bytes:
        """Return everything in Prometheus' text format."""
        self._passed_over.set(lists_passed_over)
        self._available.set(1 if available else 0)
        self._list_expires.set(list_expires_at_s)
        return generate_latest(self._registry)
