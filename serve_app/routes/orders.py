"""Orders: placing, reading and following.

A cart is quoted against the catalogue and judged by the domain's own pure rules here, before a hop; the
order's host judges it again, as the authority. Reads come from Postgres, never from a grain. Someone
else's order does not exist.
"""

import functools
from collections.abc import Sequence

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp

from actors.orders.host import PlacedOrder
from domain.errors import ConflictError, MarketplaceError, NotFoundError, RejectedError
from domain.ids import is_id
from domain.orders.commands import CancelOrder, PlaceOrder
from domain.orders.decide import decide
from domain.orders.events import (
    ANSWERED,
    KIND_OF,
    Event,
)
from domain.orders.lines import DeliveryChoice
from domain.orders.ports import Idempotency, NumberedEvent, StoredOrder
from domain.orders.state import TERMINAL, Order, evolve, fold
from serve_app import examples
from serve_app.auth import BUYER, OPERATOR
from serve_app.calls import JSON, Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.limits import ORDER_BODY_BYTES_MAX
from serve_app.operations import Answer, Operation
from serve_app.paging import QUERY, cursor_after, page_of
from serve_app.quoting import QUOTE_PROBLEMS, Quoting
from serve_app.schemas import orders as schemas
from serve_app.sse import EventStream, EventWatcher
from storage.age.errors import RecipientError
from storage.age.recipients import parse_recipient

RECIPIENTS_REMEMBERED = 4_096  # checking one costs a key agreement, and buyers come back
LAST_EVENT_ID_CHARS_MAX = 9

HOST_PROBLEMS = (
    "order_host_unavailable",
    "order_host_busy",
    "host_full",
    "mailbox_full",
    "mailbox_timeout",
    "order_contended",
    "queue_full",
)
PLACE_PROBLEMS = (
    "idempotency_in_progress",
    *QUOTE_PROBLEMS,
    "payees_out_of_range",
    "free_orders_full",
    "recipient_invalid",
    "recipient_unsafe",
    "recipient_mismatch",
    "delivery_mode_unknown",
    "payment_method_unknown",
    "checkout_not_offered",
    "total_out_of_range",
    "policy_blocked",
    *HOST_PROBLEMS,
)

_BUYER = frozenset({BUYER})
_READERS = frozenset({BUYER, OPERATOR})
PRIVATE = {"Cache-Control": "no-store"}


class OrderRoutes:
    """Handlers; ``watcher`` feeds the progress streams, ``quoting`` knows what a cart costs."""

    def __init__(self, watcher: EventWatcher, quoting: Quoting) -> None:
        self._watcher = watcher
        self._quoting = quoting

    async def place(self, call: Call) -> Response:
        """POST /v1/orders."""
        value = await call.json(ORDER_BODY_BYTES_MAX)
        cart = read_model(schemas.NewOrder, value)
        write = write_of(call, value)
        try:
            command = await self._command(call, cart)
        except (NotFoundError, ConflictError, RejectedError):
            # A SKU may have left the catalogue since: an equal request is still answered as before.
            replayed = await _replay(call, value)
            if replayed is None:
                raise
            return _placed(call, replayed)
        return _placed(
            call, await call.ports.orders.place(command, Idempotency(write.key, write.request_digest))
        )

    async def _command(self, call: Call, cart: schemas.NewOrder) -> PlaceOrder:
        """Turn a cart into a command with frozen terms; raises what is wrong with it."""
        if cart.delivery.recipient is not None:
            _require_recipient(cart.delivery.recipient)
        quoted = await self._quoting.quote(call, cart)
        command = PlaceOrder(
            order_id=call.ports.new_id("ord"),
            buyer_id=call.caller.principal_id,
            currency=cart.currency,
            lines=quoted.lines,
            delivery=DeliveryChoice(cart.delivery.mode, cart.delivery.recipient),
            payment_method=cart.payment_method,
            country=cart.country,
            at=call.ports.clock(),
            discount_id=quoted.discount_id,
            payment_terms=await call.ports.terms.payment_terms(),
        )
        decide(None, command)  # refuses here what the order's host would refuse a hop later
        return command

    async def list_own(self, call: Call) -> Response:
        """GET /v1/orders."""
        before, limit = page_of(call, "ord")
        rows = await call.ports.reads.list_of_buyer(call.caller.principal_id, before, limit + 1)
        page = rows[:limit]
        cursor = cursor_after(page[-1].order_id) if len(rows) > limit else None
        return reply(200, {"items": [schemas.summary_document(row) for row in page], "next_cursor": cursor})

    async def get(self, call: Call) -> Response:
        """GET /v1/orders/{order_id}."""
        order, stored = await visible_order(call)
        document = schemas.order_document(
            order,
            stored.payment_handle,
            call.ports.settings.publishable_key,
            for_buyer=_is_buyer(call, order.buyer_id),
        )
        return reply(200, document)

    async def cancel(self, call: Call) -> Response:
        """POST /v1/orders/{order_id}/cancellation."""
        value = await call.json(optional=True)
        read_model(schemas.NoBody, value)
        order, stored = await visible_order(call, _BUYER)
        write = write_of(call, value)
        # Read first, so that a key of another request is refused with nothing written.
        earlier = await call.ports.commands.find(write)
        acted = await call.ports.orders.act(order.order_id, CancelOrder(call.ports.clock()))
        if earlier is None:
            await call.ports.commands.claim(write, order.order_id)
        document = schemas.order_document(
            acted.order, stored.payment_handle, call.ports.settings.publishable_key, for_buyer=True
        )
        return reply(200, document, {**PRIVATE, **(REPLAYED if acted.replayed else {})})

    async def events(self, call: Call) -> ASGIApp:
        """GET /v1/orders/{order_id}/events."""
        order_id = call.parameters["order_id"]
        _, stored = await visible_order(call)
        events = [NumberedEvent(order_id, seq, event) for seq, event in enumerate(stored.events, 1)]
        progress = _Progress(order_id)
        if JSON.encode() in call.headers.get(b"accept", b""):
            return reply(200, {"items": [progress.document(event) for event in events]})
        call.stream()
        return EventStream(
            self._watcher, order_id, events, _last_event_id(call, len(events)), progress.render
        )


class _Progress:
    """Turns events into documents; the status after each one is built up from the first one on."""

    def __init__(self, order_id: str) -> None:
        self._order_id = order_id
        self._order: Order | None = None

    def document(self, numbered: NumberedEvent) -> dict[str, object]:
        self._order = evolve(self._order_id, self._order, numbered.event)
        return schemas.event_document(self._order, KIND_OF[type(numbered.event)], numbered.event)

    def render(self, numbered: NumberedEvent) -> tuple[bytes, bool]:
        data = self.document(numbered)
        kind = KIND_OF[type(numbered.event)].encode()
        return (
            b"id: %d\nevent: %b\ndata: %b\n\n" % (numbered.seq, kind, orjson.dumps(data)),
            data["status"] in TERMINAL,
        )


@functools.lru_cache(RECIPIENTS_REMEMBERED)
def _require_recipient(text: str) -> None:
    try:
        parse_recipient(text)
    except RecipientError as error:
        raise RejectedError(error.code.removeprefix("age_"), error.detail) from error


async def _replay(call: Call, value: object) -> PlacedOrder | None:
    """Answer an equal earlier request from what is stored, as it was seen then; None if there is none."""
    try:
        earlier = await call.ports.commands.find(write_of(call, value))
    except MarketplaceError:
        return None  # then what is wrong with this request is the better answer
    stored = None if earlier is None else await call.ports.reads.load(earlier.subject)
    if earlier is None or stored is None:
        return None
    seen: list[Event] = []
    for event in stored.events:
        seen.append(event)
        if isinstance(event, ANSWERED):
            break
    order = fold(earlier.subject, seen)
    assert order is not None, "an order has at least the event that created it"
    return PlacedOrder(order, stored.payment_handle, replayed=True)


def _placed(call: Call, placed: PlacedOrder) -> Response:
    document = schemas.order_document(
        placed.order, placed.payment_handle, call.ports.settings.publishable_key, for_buyer=True
    )
    headers = {"Location": f"/v1/orders/{placed.order.order_id}", **PRIVATE}
    return reply(201, document, {**headers, **REPLAYED} if placed.replayed else headers)


async def visible_order(call: Call, roles: frozenset[str] = _READERS) -> tuple[Order, StoredOrder]:
    """Read the order that the path names.

    Raises:
        NotFoundError: ``order_not_found``; there is none, or it is not the caller's to see.
    """
    order_id = call.parameters["order_id"]
    stored = await call.ports.reads.load(order_id) if is_id("ord", order_id) else None
    if stored is not None:
        order = fold(order_id, stored.events)
        if order is not None and _may_read(call, order.buyer_id) and call.caller.role in roles:
            return order, stored
    raise NotFoundError("order_not_found", "You have no such order.")


def _is_buyer(call: Call, buyer_id: str) -> bool:
    return call.caller.role == BUYER and call.caller.principal_id == buyer_id


def _may_read(call: Call, buyer_id: str) -> bool:
    return call.caller.role == OPERATOR or _is_buyer(call, buyer_id)


def _last_event_id(call: Call, last_seq: int) -> int:
    text = call.headers.get(b"last-event-id", b"")
    # Anything else is no id of ours: the stream then starts at the beginning, which loses nothing.
    seen_seq = int(text) if text.isdigit() and len(text) <= LAST_EVENT_ID_CHARS_MAX else 0
    return seen_seq if seen_seq <= last_seq else 0


def operations(watcher: EventWatcher, quoting: Quoting) -> Sequence[Operation]:
    """List the orders' operations."""
    routes = OrderRoutes(watcher, quoting)
    return (
        Operation(
            "POST",
            "/v1/orders",
            "placeOrder",
            "Place an order; the answer says how to pay it",
            routes.place,
            {201: Answer("Placed", schemas.Order, examples.ORDER)},
            roles=_BUYER,
            write=True,
            request=schemas.NewOrder,
            request_example=examples.NEW_ORDER,
            problems=PLACE_PROBLEMS,
        ),
        Operation(
            "GET",
            "/v1/orders/{order_id}",
            "getOrder",
            "One of your orders",
            routes.get,
            {200: Answer("The order", schemas.Order, examples.ORDER)},
            roles=_READERS,
            problems=("order_not_found",),
        ),
        Operation(
            "POST",
            "/v1/orders/{order_id}/cancellation",
            "cancelOrder",
            "Cancel an order that is not paid yet; a payment that is faster counts",
            routes.cancel,
            {200: Answer("Cancelled; its payment is made unpayable", schemas.Order, examples.ORDER)},
            roles=_BUYER,
            write=True,
            request=schemas.NoBody,
            request_example={},
            request_optional=True,
            problems=("order_not_found", "order_not_cancellable", *HOST_PROBLEMS),
        ),
        Operation(
            "GET",
            "/v1/orders/{order_id}/events",
            "followOrder",
            "Follow an order's progress as server-sent events, or list its events as JSON",
            routes.events,
            {
                200: Answer(
                    "Events; text/event-stream unless Accept asks for JSON",
                    schemas.OrderEvents,
                    {"items": [examples.EVENT]},
                ),
                204: Answer("The order has ended and you have seen its end: do not reconnect"),
            },
            roles=_READERS,
            problems=("order_not_found", "streams_full"),
        ),
        Operation(
            "GET",
            "/v1/orders",
            "listOrders",
            "Your orders, newest first",
            routes.list_own,
            {200: Answer("A page", schemas.OrderPage, {"items": [examples.SUMMARY], "next_cursor": None})},
            roles=_BUYER,
            query=QUERY,
            problems=("cursor_invalid", "query_invalid"),
        ),
    )
