"""How turns travel to Postgres: flat lists of rows as JSON, one list per table, for ``orders.sql``.

Flat because Postgres takes a list of rows apart in one pass, and because the Python side then binds the
same few parameters however many turns share a commit.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from domain.events import shard_of
from domain.ids import derive_id
from domain.orders.events import (
    KIND_OF,
    DeliveryKeysForgotten,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
)
from domain.orders.ports import Idempotency, IssuedLicence, PaymentNews, SealedDelivery, Turn

EFFECT_LEASE_S = 3  # head start of the grain that committed an effect; then any sweep may take it

# Members that only some kinds of news have; left out of the payload where they say nothing.
SOME_MEMBERS = ("object_id", "object_status", "refund_id", "fee_minor", "decline_code", "due_by_s", "fees")
_STANDINGS = {LicencesSuspended: "suspended", LicencesRestored: "active", LicencesRevoked: "revoked"}

Row = dict[str, Any]


def placing_rows(group: Sequence[tuple[Turn, Idempotency]]) -> Mapping[str, str]:
    """Return the parameters of ``place_orders``."""
    orders = [
        {
            "order_id": turn.order.order_id,
            "buyer_id": turn.order.buyer_id,
            "key": idempotency.key,
            "digest": idempotency.request_digest.hex(),
            "status": turn.order.status,
            "seq": turn.order.seq,
            "currency": turn.order.currency,
            "total_minor": turn.order.total_minor,
            "shard": shard_of(turn.order.order_id),
        }
        for turn, idempotency in group
    ]
    turns = [turn for turn, _ in group]
    return _encoded(orders=orders, events=_events(turns), due=_due(turns))


def turn_rows(turns: Sequence[Turn]) -> Mapping[str, str]:
    """Return the parameters of ``commit_turns``."""
    return _encoded(
        turns=[
            {
                "order_id": turn.order.order_id,
                "fence": turn.fence,
                "seq": turn.order.seq,
                "status": turn.order.status,
                "returned_minor": turn.order.returned_minor,
                "payment_handle": turn.payment_handle,
                "shard": shard_of(turn.order.order_id),
            }
            for turn in turns
        ],
        events=_events(turns),
        due=_due(turns),
        done=[{"order_id": turn.order.order_id, "step": step} for turn in turns for step in turn.done],
        news=[
            {
                "order_id": turn.news.order_id,
                "event_id": turn.news.event_id,
                "kind": turn.news.kind,
                "payload": webhook_payload(turn.news),
            }
            for turn in turns
            if turn.news is not None
        ],
        licences=[_licence(turn.order.order_id, one) for turn in turns for one in turn.licences],
        deliveries=[_delivery(turn.order.order_id, one) for turn in turns for one in turn.deliveries],
        forgotten=[
            turn.order.order_id
            for turn in turns
            if any(isinstance(event, DeliveryKeysForgotten) for event in turn.events)
        ],
        standings=[row for turn in turns for row in _standings(turn)],
    )


def webhook_payload(news: PaymentNews) -> Row:
    """Return what the inbox keeps of a webhook besides its ids."""
    return {
        "payment_intent_id": news.payment_intent_id,
        "amount_minor": news.amount_minor,
        "currency": news.currency,
        "code": news.code,
        "message": news.message,
    } | {name: value for name in SOME_MEMBERS if (value := getattr(news, name))}


def _encoded(**rows: list[Any]) -> Mapping[str, str]:
    return {name: orjson.dumps(listed).decode() if listed else "[]" for name, listed in rows.items()}


def _events(turns: Sequence[Turn]) -> list[Row]:
    rows = []
    for turn in turns:
        order_id = turn.order.order_id
        first_seq = turn.order.seq - len(turn.events) + 1
        for seq, event in enumerate(turn.events, first_seq):
            rows.append(
                {
                    "order_id": order_id,
                    "seq": seq,
                    "event_id": derive_id("evt", order_id, str(seq)),
                    "kind": KIND_OF[type(event)],
                    "data": event,
                }
            )
    return rows


def _due(turns: Sequence[Turn]) -> list[Row]:
    # An effect that is due at once gets a lease, so that sweeps leave it to this grain first.
    return [
        {
            "order_id": turn.order.order_id,
            "step": effect.step,
            "delay_s": effect.delay_s or EFFECT_LEASE_S,
        }
        for turn in turns
        for effect in turn.due
    ]


def _standings(turn: Turn) -> list[Row]:
    """What becomes of licences, at the end of the turn: one row per line, for an UPDATE joins each once."""
    status_of: dict[int, str] = {}
    for event in turn.events:
        if isinstance(event, LicencesSuspended | LicencesRestored | LicencesRevoked):
            status_of |= dict.fromkeys(event.line_nos, _STANDINGS[type(event)])
    return [
        {"order_id": turn.order.order_id, "line_no": line_no, "status": status}
        for line_no, status in status_of.items()
    ]


def _licence(order_id: str, licence: IssuedLicence) -> Row:
    return {
        "order_id": order_id,
        "licence_id": licence.licence_id,
        "line_no": licence.line_no,
        "sku_id": licence.sku_id,
        "release_id": licence.release_id,
        "quantity": licence.quantity,
        "key_id": licence.key_id,
        "envelope": licence.envelope,
        "issued_at": licence.issued_at,
    }


def _delivery(order_id: str, delivery: SealedDelivery) -> Row:
    identity = delivery.wrapped_identity
    return {
        "order_id": order_id,
        "delivery_id": delivery.delivery_id,
        "line_no": delivery.line_no,
        "release_id": delivery.release_id,
        "mode": delivery.mode,
        "recipient": delivery.recipient,
        "header": base64.b64encode(delivery.header).decode(),
        "manifest": delivery.manifest,
        "wrapped_identity": None if identity is None else base64.b64encode(identity).decode(),
        "key_ttl_s": delivery.key_ttl_s,
    }
