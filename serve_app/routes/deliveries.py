"""Deliveries: what an order's lines brought, links to it, the joined file, and released keys.

A link is pinned to a version, lives ``LINK_LIFETIME_S``, and is counted and recorded before it is handed
out; a new one is had by asking again. What was refunded or is disputed is not handed out. Someone else's
delivery does not exist; operators see the record of links, never a link.
"""

from collections.abc import Sequence
from datetime import timedelta

import orjson
from starlette.responses import Response

from domain import delivery_manifests
from domain.dsse import Envelope
from domain.errors import ConflictError, NotFoundError
from domain.ids import is_id
from domain.orders.state import Order, Status, fold
from serve_app import examples, examples_delivery
from serve_app.auth import BUYER, OPERATOR
from serve_app.calls import Call, read_model, reply
from serve_app.idempotency import REPLAYED, write_of
from serve_app.operations import Answer, Operation
from serve_app.routes.orders import HOST_PROBLEMS, PRIVATE, visible_order
from serve_app.schemas import deliveries as schemas
from serve_app.schemas.base import rfc3339
from serve_app.schemas.orders import NoBody
from storage.market.licences import DeliveryRow
from storage.s3 import StoredObject

LINK_LIFETIME_S = 900  # a download that takes longer has begun by then; links are made on demand

_BUYER = frozenset({BUYER})
_READERS = frozenset({BUYER, OPERATOR})
_STORAGE_PROBLEMS = ("storage_unavailable", "storage_busy", "storage_unversioned")


async def list_deliveries(call: Call) -> Response:
    """GET /v1/orders/{order_id}/deliveries."""
    order, _ = await visible_order(call, _BUYER)
    if order.stage is not Status.DELIVERED:
        raise ConflictError(
            "order_not_delivered",
            f"The order is {order.status.value}. Follow /v1/orders/{order.order_id}/events until it is "
            "delivered.",
        )
    rows = [row for row in await call.ports.licences.deliveries(order.order_id) if _stands(order, row)]
    await _record(call, order, rows, "payload")
    items = [
        schemas.delivery_document(
            row,
            call.ports.payloads.link_to_get(row.payload_key, row.payload_version, LINK_LIFETIME_S),
            released=row.delivery_id in order.released_delivery_ids,
        )
        for row in rows
    ]
    return reply(200, {"items": items}, PRIVATE)


async def join(call: Call) -> Response:
    """POST /v1/deliveries/{delivery_id}/joined."""
    value = await call.json(optional=True)
    read_model(NoBody, value)
    order, row = await _own_delivery(call)
    # The answer is a secret that runs out and is not stored: a repetition gets a link of its own.
    earlier = await call.ports.commands.claim(write_of(call, value), row.delivery_id)
    payload = StoredObject(row.payload_key, row.payload_version, row.payload_bytes)
    joined = await call.ports.joiner.joined(row.delivery_id, row.header, payload)
    await _record(call, order, [row], "joined")
    link = call.ports.uploads.link_to_get(joined.key, joined.version_id, LINK_LIFETIME_S)
    document = schemas.joined_document(row, joined, link)
    return reply(200, document, PRIVATE if earlier is None else {**PRIVATE, **REPLAYED})


async def opening(call: Call) -> Response:
    """GET /v1/deliveries/{delivery_id}/opening."""
    order, row = await _own_delivery(call)
    envelope = Envelope.parse(row.manifest)
    await _record(call, order, [row], "payload")
    link = call.ports.payloads.link_to_get(row.payload_key, row.payload_version, LINK_LIFETIME_S)
    manifest = delivery_manifests.parse(envelope.payload)
    return reply(200, schemas.opening_document(manifest, orjson.loads(row.manifest), link), PRIVATE)


async def list_links(call: Call) -> Response:
    """GET /v1/deliveries/{delivery_id}/links."""
    delivery_id = call.parameters["delivery_id"]
    owner = await call.ports.licences.delivery_owner(delivery_id) if is_id("dlv", delivery_id) else None
    if owner is None or (call.caller.role == BUYER and owner.buyer_id != call.caller.principal_id):
        raise _not_found()
    links = await call.ports.deliveries.links(delivery_id)
    return reply(200, {"items": [schemas.link_document(one) for one in links]}, PRIVATE)


async def release_key(call: Call) -> Response:
    """POST /v1/deliveries/{delivery_id}/key."""
    value = await call.json(optional=True)
    read_model(NoBody, value)
    delivery_id = call.parameters["delivery_id"]
    owner = await call.ports.licences.delivery_owner(delivery_id) if is_id("dlv", delivery_id) else None
    if owner is None or owner.buyer_id != call.caller.principal_id:
        raise _not_found()
    # The answer is a secret and is not stored: a repetition is done again, which is harmless.
    earlier = await call.ports.commands.claim(write_of(call, value), delivery_id)
    key = await call.ports.orders.release_key(owner.order_id, delivery_id)
    document = {
        "delivery_id": delivery_id,
        "identity": key.identity,
        "expires_at": rfc3339(key.expires_at),
    }
    return reply(200, document, PRIVATE if earlier is None else {**PRIVATE, **REPLAYED})


async def _own_delivery(call: Call) -> tuple[Order, DeliveryRow]:
    """Read the delivery that the path names.

    Raises:
        NotFoundError: ``delivery_not_found``; there is none, or it is not the caller's.
        ConflictError: ``licence_not_active``.
    """
    delivery_id = call.parameters["delivery_id"]
    owner = await call.ports.licences.delivery_owner(delivery_id) if is_id("dlv", delivery_id) else None
    if owner is None or owner.buyer_id != call.caller.principal_id:
        raise _not_found()
    stored = await call.ports.reads.load(owner.order_id)
    order = fold(owner.order_id, stored.events) if stored is not None else None
    assert order is not None, "a delivery has an order"
    rows = await call.ports.licences.deliveries(owner.order_id)
    row = next(one for one in rows if one.delivery_id == delivery_id)
    if not _stands(order, row):
        raise ConflictError(
            "licence_not_active", "The line was refunded or is disputed: what it brought is not handed out."
        )
    return order, row


def _stands(order: Order, row: DeliveryRow) -> bool:
    return row.line_no not in order.suspended_lines and row.line_no not in order.revoked_lines


async def _record(call: Call, order: Order, rows: Sequence[DeliveryRow], kind: str) -> None:
    """Count and record links before they are made: none exists that was not written down."""
    if rows:
        await call.ports.deliveries.take_links(
            order.order_id,
            [row.delivery_id for row in rows],
            call.caller.principal_id,
            kind,
            call.ports.clock() + timedelta(seconds=LINK_LIFETIME_S),
        )


def _not_found() -> NotFoundError:
    return NotFoundError("delivery_not_found", "You have no such delivery.")


def operations() -> Sequence[Operation]:
    """List the deliveries' operations."""
    return (*_file_operations(), *_record_operations())


def _file_operations() -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/orders/{order_id}/deliveries",
            "listDeliveries",
            "What you receive: one delivery and licence per line",
            list_deliveries,
            {200: Answer("The deliveries", schemas.Deliveries, {"items": [examples.DELIVERY]})},
            roles=_BUYER,
            problems=("order_not_found", "order_not_delivered", "delivery_links_limited"),
        ),
        Operation(
            "POST",
            "/v1/deliveries/{delivery_id}/joined",
            "joinDelivery",
            "Get header and payload as one age file; put together when first asked for",
            join,
            {200: Answer("The file", schemas.JoinedDelivery, examples_delivery.JOINED_DELIVERY)},
            roles=_BUYER,
            write=True,
            request=NoBody,
            request_example={},
            request_optional=True,
            problems=(
                "delivery_not_found",
                "licence_not_active",
                "delivery_links_limited",
                "delivery_joining",
                "joiner_busy",
                *_STORAGE_PROBLEMS,
            ),
        ),
        Operation(
            "GET",
            "/v1/deliveries/{delivery_id}/opening",
            "openDelivery",
            "What a browser needs to fetch, open and verify a delivery by itself",
            opening,
            {200: Answer("What opens it, but for your key", schemas.Opening, examples_delivery.OPENING)},
            roles=_BUYER,
            problems=("delivery_not_found", "licence_not_active", "delivery_links_limited"),
        ),
    )


def _record_operations() -> Sequence[Operation]:
    return (
        Operation(
            "GET",
            "/v1/deliveries/{delivery_id}/links",
            "listDeliveryLinks",
            "Which links to a delivery were handed out, newest first",
            list_links,
            {200: Answer("The links", schemas.DeliveryLinks, {"items": [examples_delivery.DELIVERY_LINK]})},
            roles=_READERS,
            problems=("delivery_not_found",),
        ),
        Operation(
            "POST",
            "/v1/deliveries/{delivery_id}/key",
            "releaseDeliveryKey",
            "Ask for the key of a released-key delivery; it is recorded that you did",
            release_key,
            {200: Answer("The key, a secret", schemas.ReleasedKey, examples.RELEASED_KEY)},
            roles=_BUYER,
            write=True,
            request=NoBody,
            request_example={},
            request_optional=True,
            problems=(
                "delivery_not_found",
                "delivery_has_recipient",
                "delivery_key_expired",
                "licence_not_active",
                *HOST_PROBLEMS,
                "signer_unavailable",
                "signer_busy",
                "unwrap_refused",
            ),
        ),
    )
