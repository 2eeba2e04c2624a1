"""What the ingress tells its operators: metrics, one log line where it matters, a span if traced.

Label values are bounded sets: routes are templates, never paths. A request is logged only when it failed
or was slow; tokens and client secrets are never logged, and an idempotency key only by its digest. Spans
cost nothing until a tracer provider is configured.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import structlog
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import ProxyTracerProvider, SpanKind, StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve_app.calls import Call

SLOW_S = 1.0  # ten times what a purchase's slowest request takes
_LATENCY_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SERVER_ERROR = 500
CLIENT_GONE = 499  # nginx's number for a caller that hung up before its answer

_log = structlog.stdlib.get_logger("marketplace.http")


class IngressMetrics:
    """The registry and its series: one per application, so that several can live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "marketplace_http_requests",
            "Answered requests.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "marketplace_http_request_seconds",
            "Time from request to answer.",
            ("route", "method"),
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "marketplace_http_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self._streams = Gauge("marketplace_http_streams", "Open progress streams.", registry=self.registry)
        self._webhooks = Counter(
            "marketplace_webhooks", "Stripe's webhooks by outcome.", ("outcome",), registry=self.registry
        )

    def began(self) -> None:
        """Count a request that is being answered."""
        self._in_flight.inc()

    def ended(self, route: str, method: str, status: int, elapsed_s: float) -> None:
        """Count an answered request."""
        self._in_flight.dec()
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(elapsed_s)

    def streams(self, count: int) -> None:
        """Record how many progress streams are open."""
        self._streams.set(count)

    def webhook(self, outcome: str) -> None:
        """Count a webhook: applied, no_change, stored, ignored, or the code of its refusal."""
        self._webhooks.labels(outcome).inc()

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


def log_answer(call: Call, status: int, elapsed_s: float, failure: Exception | None) -> None:
    """Write one line for a request that failed on our side or was slow."""
    if status < _SERVER_ERROR and (elapsed_s < SLOW_S or call.streaming):
        return
    key = call.headers.get(b"idempotency-key")
    fields = {
        "request_id": call.request_id,
        "method": call.scope["method"],
        "route": call.route,
        "status": status,
        "elapsed_ms": round(elapsed_s * 1000, 1),
        "principal_id": call.principal.principal_id if call.principal else None,
        "idempotency_key_sha256": hashlib.sha256(key).hexdigest()[:16] if key else None,
        "code": getattr(failure, "code", None),
    }
    if status == _SERVER_ERROR:
        _log.error("request failed", exc_info=failure, **fields)
    else:
        _log.info("request failed" if status > _SERVER_ERROR else "request was slow", **fields)


@contextlib.contextmanager
def request_span(call: Call) -> Iterator[trace.Span | None]:
    """Wrap a request in a server span, under the caller's trace context; a no-op when nobody traces."""
    if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        yield None
        return
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers.items()}
    tracer = trace.get_tracer("marketplace.http")
    with tracer.start_as_current_span(
        call.scope["method"], context=extract(carrier), kind=SpanKind.SERVER
    ) as span:
        span.set_attribute("http.request.method", call.scope["method"])
        span.set_attribute("marketplace.request_id", call.request_id)
        yield span


def end_span(span: trace.Span | None, call: Call, status: int) -> None:
    """Name the span after its route and record the status."""
    if span is None:
        return
    span.update_name(f"{call.scope['method']} {call.route}")
    span.set_attribute("http.route", call.route)
    span.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        span.set_status(StatusCode.ERROR)
