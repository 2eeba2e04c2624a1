"""Webhook endpoints: who hears of which events, and the secret that signs them.

Besides the endpoints made over the API, the process may be started with one of its own; it is listed like
the others, and can be neither changed nor deleted. A secret is shown once, by ``create``. A disabled
endpoint hears of nothing: events of that time are not sent later. Follows
https://docs.stripe.com/api/webhook_endpoints.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from cluster.local.stripe import documents
from cluster.local.stripe.parameters import (
    EXPAND,
    Specification,
    Values,
    boolean,
    event_names,
    merged_metadata,
    metadata,
    text,
    web_url,
)
from cluster.local.stripe.refusals import Document, RefusedError, not_found
from cluster.local.stripe.turn import Turn

KIND = "webhook_endpoint"
NOUN = "webhook endpoint"
ENVIRONMENT_ID = "we_environment"
ENABLED, DISABLED = "enabled", "disabled"
ENDPOINTS_MAX = 16  # Stripe's limit
SECRET_BYTES = 24

CREATE: Specification = {
    "url": web_url,
    "enabled_events": event_names,
    "description": text,
    "metadata": metadata,
    "api_version": text,
    **EXPAND,
}
UPDATE: Specification = {
    "url": web_url,
    "enabled_events": event_names,
    "description": text,
    "metadata": metadata,
    "disabled": boolean,
    **EXPAND,
}
NOTHING: Specification = EXPAND


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to send, what, and how it is signed."""

    endpoint_id: str
    url: str
    secret: str
    enabled_events: frozenset[str]
    document: Document

    def wants(self, event_type: str) -> bool:
        """Whether this endpoint asked for ``event_type``."""
        if self.document["status"] != ENABLED:
            return False
        return event_type in self.enabled_events or "*" in self.enabled_events


def environment_endpoint(url: str, secret: str, enabled_events: Sequence[str]) -> Endpoint:
    """The endpoint that the process was started with."""
    document = documents.webhook_endpoint(
        ENVIRONMENT_ID, 0, url, enabled_events, {"description": "Set by the environment of the simulator"}
    )
    return Endpoint(ENVIRONMENT_ID, url, secret, frozenset(enabled_events), document)


class Registry:
    """All endpoints, in memory; ``refresh`` follows the stored ones."""

    def __init__(self, environment: Endpoint | None) -> None:
        self._environment = environment
        self._endpoints: dict[str, Endpoint] = {}
        self._subscribers: dict[str, tuple[str, ...]] = {}
        self.refresh([])

    def refresh(self, bodies: Sequence[bytes]) -> None:
        """Take the stored endpoints' records."""
        found = [self._environment] if self._environment is not None else []
        for body in bodies:
            record = orjson.loads(body)
            shown = record["endpoint"]
            events = frozenset(shown["enabled_events"])
            found.append(Endpoint(record["id"], shown["url"], record["secret"], events, shown))
        self._endpoints = {endpoint.endpoint_id: endpoint for endpoint in found}
        self._subscribers = {}

    def endpoint_ids(self) -> tuple[str, ...]:
        """Return the ids of all endpoints."""
        return tuple(self._endpoints)

    def find(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint, or None when it was deleted."""
        return self._endpoints.get(endpoint_id)

    def subscribers(self, event_type: str) -> tuple[str, ...]:
        """Return the ids of the endpoints that want ``event_type``."""
        known = self._subscribers.get(event_type)
        if known is None:
            known = tuple(name for name, endpoint in self._endpoints.items() if endpoint.wants(event_type))
            self._subscribers[event_type] = known
        return known

    def create(self, turn: Turn, _object_id: str, values: Values) -> Document:
        """Store a new endpoint and show its secret.

        Raises:
            RefusedError: 400 when there are too many.
        """
        if len(self._endpoints) >= ENDPOINTS_MAX:
            raise RefusedError(
                400, f"You have reached the maximum of {ENDPOINTS_MAX} webhook endpoints.", executed=True
            )
        endpoint_id = turn.new_id("we")
        shown = documents.webhook_endpoint(
            endpoint_id, turn.now, values["url"], values["enabled_events"], values
        )
        secret = f"whsec_{secrets.token_urlsafe(SECRET_BYTES)}"
        turn.put(KIND, {"id": endpoint_id, "created": turn.now, "endpoint": shown, "secret": secret})
        return {**shown, "secret": secret}

    def update(self, turn: Turn, object_id: str, values: Values) -> Document:
        """Change an endpoint; ``disabled`` switches it off or on.

        Raises:
            RefusedError: 404, or 400 for the environment's own endpoint.
        """
        self.retrieve(turn, object_id, values)
        if object_id == ENVIRONMENT_ID:
            raise RefusedError(
                400,
                "This endpoint is set by the environment of the simulator and cannot be changed.",
                executed=True,
            )
        record = turn.require(KIND, object_id, NOUN, "webhook_endpoint")
        shown = record["endpoint"]
        shown |= {name: values[name] for name in ("url", "description") if name in values}
        if "enabled_events" in values:
            shown["enabled_events"] = list(values["enabled_events"])
        if "metadata" in values:
            shown["metadata"] = merged_metadata(shown["metadata"], values["metadata"])
        if "disabled" in values:
            shown["status"] = DISABLED if values["disabled"] else ENABLED
        turn.put(KIND, record)
        return dict(shown)

    def retrieve(self, _turn: Turn, object_id: str, _values: Values) -> Document:
        """Return an endpoint without its secret.

        Raises:
            RefusedError: 404.
        """
        endpoint = self._endpoints.get(object_id)
        if endpoint is None:
            raise not_found(NOUN, object_id)
        return endpoint.document

    def list(self, _turn: Turn, _object_id: str, _values: Values) -> Document:
        """Return all endpoints on one page, newest first: there are never more than a page holds."""
        newest_first = [endpoint.document for endpoint in reversed(self._endpoints.values())]
        return documents.page("/v1/webhook_endpoints", newest_first, has_more=False)

    def delete(self, turn: Turn, object_id: str, values: Values) -> Document:
        """Remove an endpoint; what is still pending for it will be marked failed.

        Raises:
            RefusedError: 404, or 400 for the environment's own endpoint.
        """
        self.retrieve(turn, object_id, values)
        if object_id == ENVIRONMENT_ID:
            raise RefusedError(
                400,
                "This endpoint is set by the environment of the simulator and cannot be deleted.",
                executed=True,
            )
        turn.remove(object_id)
        return {"id": object_id, "object": KIND, "deleted": True}
