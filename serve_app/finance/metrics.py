"""What Finance counts, in a registry of its own so that several apps can live in one process.

Label values are bounded sets: routes are handler names, never paths.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_GROUP_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_POOL_STATS = ("pool_size", "pool_available", "requests_waiting")


class FinanceMetrics:
    """The registry and its series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "finance_requests", "Answered requests.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "finance_request_seconds",
            "Time from request to answer.",
            ("route",),
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._entries = Counter(
            "finance_entries", "Entries by outcome of their posting.", ("outcome",), registry=self.registry
        )
        self._group = Histogram(
            "finance_group_entries",
            "Entries that shared one transaction.",
            buckets=_GROUP_BUCKETS,
            registry=self.registry,
        )
        self._pool = Gauge("finance_pool", "Database pool.", ("state",), registry=self.registry)

    def request(self, route: str, status: int, elapsed_s: float) -> None:
        """Count one answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(elapsed_s)

    def entry(self, outcome: str) -> None:
        """Count one entry: ``posted``, ``replayed`` or the code of its error."""
        self._entries.labels(outcome).inc()

    def group(self, size: int) -> None:
        """Record how many entries shared a transaction."""
        self._group.observe(size)

    def exposition(self, pool_stats: dict[str, int]) -> bytes:
        """Return everything in Prometheus' text format."""
        for name in _POOL_STATS:
            self._pool.labels(name).set(pool_stats.get(name, 0))
        return generate_latest(self.registry)
