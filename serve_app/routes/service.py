"""The service itself: liveness, readiness, metrics, its own description, and a page to start from."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import Any

from starlette.responses import Response

from serve_app import examples
from serve_app.calls import JSON, Call, reply
from serve_app.observability import IngressMetrics
from serve_app.operations import Answer, Operation
from serve_app.schemas.operators import Liveness, Readiness

log = logging.getLogger("marketplace.readiness")

READINESS_TTL_S = 1.0  # probes of several balancers share one look at the parts
CHECK_DEADLINE_S = 3.0
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class ServiceRoutes:
    """Handlers. ``openapi`` gives the description's bytes once it exists."""

    def __init__(
        self,
        metrics: IngressMetrics,
        openapi: Callable[[], bytes],
        monotonic: Callable[[], float],
    ) -> None:
        self._metrics = metrics
        self._openapi = openapi
        self._monotonic = monotonic
        self._page = resources.files("serve_app").joinpath("pages/landing.html").read_bytes()
        self._readiness: tuple[float, dict[str, bool]] = (float("-inf"), {})
        self._readiness_lock = asyncio.Lock()

    async def live(self, _call: Call) -> Response:
        """GET /livez."""
        return reply(200, {"status": "alive"})

    async def ready(self, call: Call) -> Response:
        """GET /readyz."""
        async with self._readiness_lock:
            until_s, checks = self._readiness
            if self._monotonic() >= until_s:
                names = list(call.ports.checks)
                results = await asyncio.gather(*(_passes(name, call) for name in names))
                checks = dict(zip(names, results, strict=True))
                self._readiness = (self._monotonic() + READINESS_TTL_S, checks)
        passed = all(checks[name] for name in checks if name not in call.ports.deferrable)
        document = {"status": "ready" if passed else "not_ready", "checks": checks}
        return reply(200, document) if passed else reply(503, document, {"Retry-After": "2"})

    async def metrics(self, call: Call) -> Response:
        """GET /metrics."""
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        parts = await asyncio.gather(*(_exposition(read) for read in call.ports.expositions))
        return Response(b"".join((self._metrics.exposition(), *parts)), 200, media_type=media_type)

    async def openapi(self, _call: Call) -> Response:
        """GET /openapi.json."""
        return Response(self._openapi(), 200, {"Access-Control-Allow-Origin": "*"}, JSON)

    async def landing(self, _call: Call) -> Response:
        """GET /."""
        return Response(self._page, 200, _PAGE_HEADERS, "text/html; charset=utf-8")


async def _exposition(read: Callable[[], Awaitable[bytes]]) -> bytes:
    try:
        async with asyncio.timeout(CHECK_DEADLINE_S):
            return await read()
    except Exception as failure:  # noqa: BLE001 - a part that is down must not hide the others' series
        log.warning("a part's metrics are missing: %s", failure)
        return b""


async def _passes(name: str, call: Call) -> bool:
    try:
        async with asyncio.timeout(CHECK_DEADLINE_S):
            return await call.ports.checks[name]()
    except Exception as failure:  # noqa: BLE001 - whatever fails, the part is not ready
        log.warning("%s is not ready: %s", name, failure)
        return False


def operations(routes: ServiceRoutes) -> Sequence[Operation]:
    """List the service's operations."""
    text: dict[str, Any] = {"media_type": "text/plain"}
    return (
        Operation(
            "GET",
            "/livez",
            "live",
            "The process answers",
            routes.live,
            {200: Answer("Alive", Liveness, {"status": "alive"})},
            public=True,
            rated=False,
        ),
        Operation(
            "GET",
            "/readyz",
            "ready",
            "The parts that a purchase needs answer",
            routes.ready,
            {
                200: Answer("Ready", Readiness, examples.READINESS),
                503: Answer("Not ready", Readiness, {**examples.READINESS, "status": "not_ready"}),
            },
            public=True,
            rated=False,
        ),
        Operation(
            "GET",
            "/metrics",
            "metrics",
            "This process's metrics for Prometheus",
            routes.metrics,
            {200: Answer("Prometheus' text format", **text)},
            public=True,
            rated=False,
        ),
        Operation(
            "GET",
            "/openapi.json",
            "openapi",
            "This description",
            routes.openapi,
            {200: Answer("OpenAPI 3.1")},
            public=True,
        ),
        Operation(
            "GET",
            "/",
            "landing",
            "A page to start from",
            routes.landing,
            {200: Answer("The page", media_type="text/html")},
            public=True,
        ),
    )
