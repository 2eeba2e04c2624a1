"""Which request is which decision: routes, the parameters that each takes, and lists.

What is not in the table does not exist here (404). Only retrieving and confirming a PaymentIntent is open
to the publishable key, and then only with the intent's client secret.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from cluster.local.stripe import (
    charging,
    checkout_sessions,
    payment_intents,
    payment_methods,
    refunds,
    webhook_endpoints,
)
from cluster.local.stripe.deliveries import DeliveryRecord
from cluster.local.stripe.parameters import (
    EXPAND,
    LIST_LIMIT_DEFAULT,
    PAGE,
    Specification,
    Values,
    text,
    texts,
)
from cluster.local.stripe.refusals import Document, RefusedError, invalid
from cluster.local.stripe.turn import PageQuery, Turn
from cluster.local.stripe.webhook_endpoints import Registry

Result = Document | bytes
Run = Callable[[Turn, str, Values], Result]
Route = tuple[str, str, int, str]

RETRIEVE: Specification = EXPAND
API_PREFIX = "/v1/"
CHARGES: Specification = {**PAGE, "payment_intent": text}
REFUNDS: Specification = {**PAGE, "payment_intent": text, "charge": text}
SESSIONS: Specification = {**PAGE, "payment_intent": text}
EVENTS: Specification = {**PAGE, "type": text, "types": texts}


@dataclass(frozen=True, slots=True)
class Operation:
    """One documented request."""

    run: Run
    specification: Specification
    required: tuple[str, ...] = ()
    publishable: bool = False


class Operations:
    """The table of routes: (method, resource, number of parts after it, action)."""

    def __init__(self, registry: Registry, deliveries: DeliveryRecord) -> None:
        self._deliveries = deliveries
        self._routes: dict[Route, Operation] = {
            **_payments(),
            **_sessions(),
            **_endpoints(registry),
            ("GET", "events", 0, ""): Operation(self._list_events, EVENTS),
            ("GET", "events", 1, ""): Operation(self._retrieve_event, RETRIEVE),
        }

    def find(self, method: str, path: str) -> tuple[Operation, str]:
        """Return the operation of a request and the id that its path names (or ``""``).

        Raises:
            RefusedError: 404.
        """
        parts = path.removeprefix(API_PREFIX).split("/")
        depth = 2 if parts[0] == "checkout" else 1
        rest = parts[depth:]
        route = (method, "/".join(parts[:depth]), len(rest), rest[1] if len(rest) > 1 else "")
        operation = self._routes.get(route)
        if operation is None:
            raise RefusedError(
                404, f"Unrecognized request URL ({method}: {path[:200]}) at this Stripe simulator."
            )
        return operation, rest[0] if rest else ""

    def _list_events(self, turn: Turn, _object_id: str, values: Values) -> Document:
        if "type" in values and "types" in values:
            raise invalid("You may only specify one of these parameters: type, types.", "types")
        types = (values["type"],) if "type" in values else tuple(values.get("types", ())) or None
        bodies, has_more = turn.source.page(_query("event", None, values, types))
        events = [orjson.loads(body) for body in bodies]
        pending = self._deliveries.pending_by_event([event["id"] for event in events])
        for event in events:
            event["pending_webhooks"] = pending.get(event["id"], 0)
        return {"object": "list", "data": events, "has_more": has_more, "url": "/v1/events"}

    def _retrieve_event(self, turn: Turn, object_id: str, _values: Values) -> Document:
        event = turn.require("event", object_id, "event", "id")
        event["pending_webhooks"] = self._deliveries.pending_by_event([object_id]).get(object_id, 0)
        return event


def _payments() -> dict[Route, Operation]:
    intents, secret = payment_intents, {"client_secret": text}
    return {
        ("POST", "payment_intents", 0, ""): Operation(intents.create, intents.CREATE, ("amount", "currency")),
        ("GET", "payment_intents", 0, ""): Operation(_list_intents, PAGE),
        ("GET", "payment_intents", 1, ""): Operation(
            intents.retrieve, {**RETRIEVE, **secret}, publishable=True
        ),
        ("POST", "payment_intents", 1, ""): Operation(intents.update, intents.UPDATE),
        ("POST", "payment_intents", 2, "confirm"): Operation(
            intents.confirm, intents.CONFIRM, publishable=True
        ),
        ("POST", "payment_intents", 2, "capture"): Operation(_capture, intents.CAPTURE),
        ("POST", "payment_intents", 2, "cancel"): Operation(intents.cancel, intents.CANCEL),
        ("GET", "charges", 0, ""): Operation(_list_charges, CHARGES),
        ("GET", "charges", 1, ""): Operation(_retrieve_charge, RETRIEVE),
        ("POST", "refunds", 0, ""): Operation(refunds.create, refunds.CREATE),
        ("GET", "refunds", 0, ""): Operation(_list_refunds, REFUNDS),
        ("GET", "refunds", 1, ""): Operation(refunds.retrieve, RETRIEVE),
        ("POST", "refunds", 1, ""): Operation(refunds.update, refunds.UPDATE),
        ("POST", "payment_methods", 0, ""): Operation(
            payment_methods.create, payment_methods.CREATE, ("type",)
        ),
        ("GET", "payment_methods", 1, ""): Operation(payment_methods.retrieve, RETRIEVE),
    }


def _sessions() -> dict[Route, Operation]:
    name, sessions = "checkout/sessions", checkout_sessions
    return {
        ("POST", name, 0, ""): Operation(
            sessions.create, sessions.CREATE, ("mode", "line_items", "success_url")
        ),
        ("GET", name, 0, ""): Operation(_list_sessions, SESSIONS),
        ("GET", name, 1, ""): Operation(sessions.retrieve, RETRIEVE),
        ("POST", name, 2, "expire"): Operation(sessions.expire, EXPAND),
        ("GET", name, 2, "line_items"): Operation(sessions.list_line_items, PAGE),
    }


def _endpoints(registry: Registry) -> dict[Route, Operation]:
    name = "webhook_endpoints"
    return {
        ("POST", name, 0, ""): Operation(
            registry.create, webhook_endpoints.CREATE, ("url", "enabled_events")
        ),
        ("GET", name, 0, ""): Operation(registry.list, PAGE),
        ("GET", name, 1, ""): Operation(registry.retrieve, RETRIEVE),
        ("DELETE", name, 1, ""): Operation(registry.delete, {}),
    }


def _capture(turn: Turn, object_id: str, values: Values) -> Result:
    body = payment_intents.capture(turn, object_id, values)
    checkout_sessions.follow(turn, object_id)
    return body


def _retrieve_charge(turn: Turn, object_id: str, _values: Values) -> Document:
    return turn.require(charging.CHARGE, object_id, "charge", "id")


def _list_intents(turn: Turn, _object_id: str, values: Values) -> Document:
    return _page(turn, charging.KIND, "/v1/payment_intents", None, values)


def _list_charges(turn: Turn, _object_id: str, values: Values) -> Document:
    return _page(turn, charging.CHARGE, "/v1/charges", values.get("payment_intent"), values)


def _list_refunds(turn: Turn, _object_id: str, values: Values) -> Document:
    parent = values.get("payment_intent")
    if "charge" in values:
        # An intent has one successful charge at most, and only that one has refunds.
        charge = turn.require(charging.CHARGE, values["charge"], "charge", "charge")
        if parent not in {None, charge["payment_intent"]}:
            return {"object": "list", "data": [], "has_more": False, "url": "/v1/refunds"}
        parent = charge["payment_intent"]
    return _page(turn, refunds.KIND, "/v1/refunds", parent, values)


def _list_sessions(turn: Turn, _object_id: str, values: Values) -> Document:
    bodies, has_more = turn.source.page(_query(checkout_sessions.KIND, values.get("payment_intent"), values))
    data = [checkout_sessions.view(orjson.loads(body), values) for body in bodies]
    return {"object": "list", "data": data, "has_more": has_more, "url": "/v1/checkout/sessions"}


def _page(turn: Turn, kind: str, url: str, parent: str | None, values: Values) -> Document:
    bodies, has_more = turn.source.page(_query(kind, parent, values))
    data: list[Any] = [orjson.loads(body) for body in bodies]
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def _query(kind: str, parent: str | None, values: Values, topics: tuple[str, ...] | None = None) -> PageQuery:
    if "starting_after" in values and "ending_before" in values:
        raise invalid("You may only specify one of starting_after, ending_before.", "ending_before")
    return PageQuery(
        kind=kind,
        parent=parent,
        topics=topics,
        limit=values.get("limit", LIST_LIMIT_DEFAULT),
        starting_after=values.get("starting_after"),
        ending_before=values.get("ending_before"),
        created=values.get("created", {}),
    )
