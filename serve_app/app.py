"""The ingress as one ASGI application: ports in, application out.

    middleware.Edge (request id, bounds, deadline, problems) -> router -> operations.Endpoint (who may)
    -> a route

Plain Starlette routing rather than FastAPI: a cart through FastAPI's dependency and response machinery
costs 550 µs of CPU, through this 36 µs (measured on one core), and the description is derived from the
operations all the same.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from serve_app.auth import Authenticator
from serve_app.limits import REQUEST_DEADLINE_S
from serve_app.middleware import Edge
from serve_app.observability import IngressMetrics
from serve_app.openapi import openapi_document
from serve_app.operations import Endpoint, Guard, Operation
from serve_app.ports import IngressPorts
from serve_app.quoting import Quoting
from serve_app.routes import (
    audit,
    cases,
    catalogue,
    dead_letters,
    deliveries,
    discounts,
    disputes,
    licences,
    ops,
    orders,
    payees,
    payouts,
    proposals,
    quotes,
    refunds,
    releases,
    reviews,
    sales,
    service,
    tax_tables,
    webhooks,
)
from serve_app.sse import EventWatcher


def build_app(
    ports: IngressPorts,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    deadline_s: float = REQUEST_DEADLINE_S,
) -> ASGIApp:
    """Build the application; its lifespan ends streams and lets background work finish."""
    metrics = IngressMetrics()
    for collector in ports.collectors:
        metrics.registry.register(collector)
    guard = Guard(Authenticator(ports.access, monotonic), ports.settings, monotonic)
    watcher = EventWatcher(ports.reads.events_since, on_count=metrics.streams)
    ports.reads.follow(watcher.push)
    quoting = Quoting(monotonic)
    hooks = webhooks.WebhookRoutes(metrics)
    described: list[bytes] = []

    def description() -> bytes:
        if not described:  # made when first asked for: its schemas take a tenth of a second
            described.append(orjson.dumps(openapi_document(listed, ports.settings.base_url)))
        return described[0]

    # The router looks from the top, so what is called most comes first.
    listed = (
        *webhooks.operations(hooks),
        *orders.operations(watcher, quoting),
        *deliveries.operations(),
        *licences.operations(guard, monotonic),
        *audit.operations(),
        *quotes.operations(quoting),
        *refunds.operations(),
        *disputes.operations(),
        *catalogue.operations(guard),
        *releases.operations(),
        *ops.operations(),
        *dead_letters.operations(),
        *cases.operations(),
        *reviews.operations(),
        *sales.operations(),
        *discounts.operations(),
        *tax_tables.operations(),
        *proposals.operations(ports.proposals),
        *payouts.operations(),
        *payees.operations(),
        *service.operations(service.ServiceRoutes(metrics, description, monotonic)),
    )

    @asynccontextmanager
    async def lifespan(_app: object) -> AsyncIterator[None]:
        yield
        await watcher.close()

    router = Router([_route(one, guard) for one in listed], redirect_slashes=False, lifespan=lifespan)
    return Edge(router, ports, metrics, deadline_s=deadline_s)


def _route(operation: Operation, guard: Guard) -> Route:
    return Route(operation.path, Endpoint(operation, guard), methods=[operation.method])
