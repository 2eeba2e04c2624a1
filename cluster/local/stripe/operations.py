"""Which request is which decision: routes, the parameters that each takes, and lists.

What is not in the table does not exist here (404). Only retrieving and confirming a PaymentIntent is open
to the publishable key, and then only with the intent's client secret.
"""

from cluster.local.stripe import (
    charging,
    checkout_sessions,
    kinds,
    lists,
    money_operations,
    payment_intents,
    payment_methods,
    refunds,
    tax,
    webhook_endpoints,
)
from cluster.local.stripe.balance import Balances
from cluster.local.stripe.deliveries import DeliveryRecord
from cluster.local.stripe.parameters import (
    EXPAND,
    PAGE,
    Specification,
    Values,
    boolean,
    text,
    texts,
)
from cluster.local.stripe.refusals import Document, RefusedError, invalid
from cluster.local.stripe.routing import Operation, Result, Route
from cluster.local.stripe.turn import Turn
from cluster.local.stripe.webhook_endpoints import Registry

RETRIEVE: Specification = EXPAND
API_PREFIX = "/v1/"
CHARGES: Specification = {**PAGE, "payment_intent": text}
REFUNDS: Specification = {**PAGE, "payment_intent": text, "charge": text}
SESSIONS: Specification = {**PAGE, "payment_intent": text}
EVENTS: Specification = {**PAGE, "type": text, "types": texts, "delivery_success": boolean}
EVENT_TYPES_MAX = 20  # of one list; Stripe's limit
NESTED = frozenset({"checkout", "tax"})  # resources of two words
PARTS_OF_A_PART = 3  # transfers/ID/reversals/ID


class Operations:
    """The table of routes: (method, resource, number of parts after it, action)."""

    def __init__(self, registry: Registry, deliveries: DeliveryRecord, balances: Balances) -> None:
        self._deliveries = deliveries
        self._routes: dict[Route, Operation] = {
            **_payments(),
            **_sessions(),
            **_endpoints(registry),
            **money_operations.routes(balances),
            ("POST", "tax/calculations", 0, ""): Operation(
                tax.create, tax.CREATE, ("currency", "line_items")
            ),
            ("GET", "events", 0, ""): Operation(self._list_events, EVENTS),
            ("GET", "events", 1, ""): Operation(self._retrieve_event, RETRIEVE),
        }

    def find(self, method: str, path: str) -> tuple[Operation, str]:
        """Return the operation of a request and the id that its path names, ``""`` or ``id/id of its part``.

        Raises:
            RefusedError: 404.
        """
        parts = path.removeprefix(API_PREFIX).split("/")
        depth = 2 if parts[0] in NESTED else 1
        rest = parts[depth:]
        route = (method, "/".join(parts[:depth]), len(rest), rest[1] if len(rest) > 1 else "")
        operation = self._routes.get(route)
        if operation is None:
            raise RefusedError(
                404, f"Unrecognized request URL ({method}: {path[:200]}) at this Stripe simulator."
            )
        if len(rest) == PARTS_OF_A_PART:
            return operation, f"{rest[0]}/{rest[2]}"
        return operation, rest[0] if rest else ""

    def _list_events(self, turn: Turn, _object_id: str, values: Values) -> Document:
        if "type" in values and "types" in values:
            raise invalid("You may only specify one of these parameters: type, types.", "types")
        types = (values["type"],) if "type" in values else tuple(values.get("types", ())) or None
        if types is not None and len(types) > EVENT_TYPES_MAX:
            raise invalid(f"At most {EVENT_TYPES_MAX} types can be listed at once.", "types")
        found = lists.page(turn, kinds.EVENT, "/v1/events", values, topics=types)
        pending = self._deliveries.pending_by_event([event["id"] for event in found["data"]])
        for event in found["data"]:
            event["pending_webhooks"] = pending.get(event["id"], 0)
        return found

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
        ("POST", name, 1, ""): Operation(registry.update, webhook_endpoints.UPDATE),
        ("DELETE", name, 1, ""): Operation(registry.delete, {}),
    }


def _capture(turn: Turn, object_id: str, values: Values) -> Result:
    body = payment_intents.capture(turn, object_id, values)
    checkout_sessions.follow(turn, object_id)
    return body


def _retrieve_charge(turn: Turn, object_id: str, _values: Values) -> Document:
    return turn.require(charging.CHARGE, object_id, "charge", "id")


def _list_intents(turn: Turn, _object_id: str, values: Values) -> Document:
    return lists.page(turn, charging.KIND, "/v1/payment_intents", values)


def _list_charges(turn: Turn, _object_id: str, values: Values) -> Document:
    return lists.page(turn, charging.CHARGE, "/v1/charges", values, parent=values.get("payment_intent"))


def _list_refunds(turn: Turn, _object_id: str, values: Values) -> Document:
    parent = values.get("payment_intent")
    if "charge" in values:
        # An intent has one successful charge at most, and only that one has refunds.
        charge = turn.require(charging.CHARGE, values["charge"], "charge", "charge")
        if parent not in {None, charge["payment_intent"]}:
            return lists.empty("/v1/refunds")
        parent = charge["payment_intent"]
    return lists.page(turn, kinds.REFUND, "/v1/refunds", values, parent=parent)


def _list_sessions(turn: Turn, _object_id: str, values: Values) -> Document:
    return lists.page(
        turn,
        checkout_sessions.KIND,
        "/v1/checkout/sessions",
        values,
        parent=values.get("payment_intent"),
        shown=lambda record: checkout_sessions.view(record, values),
    )
