"""Orders in Postgres: one statement, one transaction, under the fence.

Adapter of ``domain.orders.ports.OrderStore``. A turn travels as one JSON document that the statement
takes apart, so the Python side binds a handful of parameters however many rows a turn writes.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg.rows import TupleRow

from domain.ids import derive_id
from domain.orders.events import KIND_OF, decode_event
from domain.orders.ports import (
    DueEffect,
    Idempotency,
    IssuedLicence,
    PaymentNews,
    RecordedCommand,
    SealedDelivery,
    StoredOrder,
    Turn,
)
from storage.market.pool import Pool, borrow, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "orders.sql").items()}
EFFECT_LEASE_S = 3  # head start of the grain that committed an effect; then any sweep may take it


@dataclass(frozen=True, slots=True)
class OrderSummary:
    """One row of a buyer's list."""

    order_id: str
    status: str
    currency: str
    total_minor: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One stored event with its number; ``data`` is the event's JSON object."""

    order_id: str
    seq: int
    event_id: str
    kind: str
    data: Mapping[str, Any]
    at: datetime


class PostgresOrderStore:
    """See the port for the contract; raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def place(self, turn: Turn, idempotency: Idempotency) -> bool:
        """Insert the order with its key; False when the key was used before."""
        order = turn.order
        rows = await self._fetch(
            "place_order",
            {
                "turn": _document(turn),
                "buyer_id": order.buyer_id,
                "idempotency_key": idempotency.key,
                "request_digest": idempotency.request_digest,
                "order_id": order.order_id,
                "status": order.status.value,
                "seq": order.seq,
                "currency": order.currency,
                "total_minor": order.total_minor,
            },
        )
        return bool(rows)

    async def commit(self, turn: Turn) -> bool:
        """Commit under the fence; False when zero rows matched it."""
        handle = None if turn.payment_handle is None else orjson.dumps(dict(turn.payment_handle)).decode()
        rows = await self._fetch(
            "commit_turn",
            {
                "turn": _document(turn),
                "seq": turn.order.seq,
                "status": turn.order.status.value,
                "payment_handle": handle,
                "order_id": turn.order.order_id,
                "fence": turn.fence,
                "inbox_event_id": turn.inbox_event_id,
            },
        )
        return bool(rows)

    async def load(self, order_id: str) -> StoredOrder | None:
        """Read the order's events, oldest first."""
        rows = await self._fetch("load_history", {"order_id": order_id})
        if not rows:
            return None
        return StoredOrder([decode_event(kind, data) for _, kind, data in rows], rows[0][0])

    async def find_command(self, principal_id: str, key: str) -> RecordedCommand | None:
        """Look an idempotency key up."""
        rows = await self._fetch("find_command", {"principal_id": principal_id, "idempotency_key": key})
        return RecordedCommand(bytes(rows[0][0]), rows[0][1]) if rows else None

    async def claim_due_effects(
        self, steps: Sequence[str], limit: int, lease_s: float
    ) -> Sequence[DueEffect]:
        """Claim up to ``limit`` overdue effects of these steps, oldest first."""
        rows = await self._fetch(
            "claim_due_effects", {"steps": list(steps), "limit": limit, "lease_s": lease_s}
        )
        return [DueEffect(*row) for row in rows]

    async def defer_effect(self, order_id: str, step: str, delay_s: float, error: str) -> None:
        """Move an effect's due time and keep why."""
        await self._execute(
            "defer_effect", {"order_id": order_id, "step": step, "delay_s": delay_s, "error": error[:500]}
        )

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        """Keep a verified webhook; returns (order is known, stored now and not a duplicate)."""
        payload = {
            "payment_intent_id": news.payment_intent_id,
            "amount_minor": news.amount_minor,
            "currency": news.currency,
            "code": news.code,
            "message": news.message,
        }
        rows = await self._fetch(
            "store_webhook",
            {
                "order_id": news.order_id,
                "event_id": news.event_id,
                "kind": news.kind,
                "payload": orjson.dumps(payload).decode(),
                "lease_s": EFFECT_LEASE_S,
            },
        )
        return rows[0][0], rows[0][1]

    async def claim_due_webhooks(self, limit: int, lease_s: float) -> Sequence[PaymentNews]:
        """Claim up to ``limit`` overdue inbox rows."""
        rows = await self._fetch("claim_due_webhooks", {"limit": limit, "lease_s": lease_s})
        return [_news(row) for row in rows]

    async def close_webhook(self, event_id: str, outcome: str) -> None:
        """Mark an inbox row processed; the order did not change."""
        await self._execute("close_webhook", {"event_id": event_id, "outcome": outcome[:500]})

    async def defer_webhook(self, event_id: str, delay_s: float, error: str) -> None:
        """Move an inbox row's due time and keep why."""
        await self._execute("defer_webhook", {"event_id": event_id, "delay_s": delay_s, "error": error[:500]})

    async def list_of_buyer(self, buyer_id: str, before: str, limit: int) -> list[OrderSummary]:
        """List a buyer's orders, newest first, with ids below ``before``."""
        rows = await self._fetch(
            "list_orders_of_buyer", {"buyer_id": buyer_id, "before": before, "limit": limit}
        )
        return [OrderSummary(*row) for row in rows]

    async def events_since(self, watched: Mapping[str, int]) -> list[EventRecord]:
        """Read what happened to each watched order after the sequence number given for it."""
        rows = await self._fetch("events_since", {"order_ids": list(watched), "seqs": list(watched.values())})
        return [EventRecord(*row) for row in rows]

    async def _fetch(self, name: str, values: Mapping[str, Any]) -> list[TupleRow]:
        return await fetch(self._pool, SQL[name], values)

    async def _execute(self, name: str, values: Mapping[str, Any]) -> None:
        async with borrow(self._pool) as connection:
            await connection.execute(SQL[name], values)


def _document(turn: Turn) -> str:
    order_id = turn.order.order_id
    first_seq = turn.order.seq - len(turn.events) + 1
    return orjson.dumps(
        {
            "events": [
                {
                    "seq": seq,
                    "event_id": derive_id("evt", order_id, str(seq)),
                    "kind": KIND_OF[type(event)],
                    "data": event,
                }
                for seq, event in enumerate(turn.events, first_seq)
            ],
            # An effect that is due at once gets a lease, so that sweeps leave it to this grain first.
            "due": [
                {"step": effect.step, "delay_s": effect.delay_s or EFFECT_LEASE_S} for effect in turn.due
            ],
            "done": list(turn.done),
            "licences": [_licence_row(licence) for licence in turn.licences],
            "deliveries": [_delivery_row(delivery) for delivery in turn.deliveries],
        }
    ).decode()


def _licence_row(licence: IssuedLicence) -> dict[str, Any]:
    return {
        "licence_id": licence.licence_id,
        "line_no": licence.line_no,
        "sku_id": licence.sku_id,
        "release_id": licence.release_id,
        "quantity": licence.quantity,
        "key_id": licence.key_id,
        "envelope": licence.envelope,
        "issued_at": licence.issued_at,
    }


def _delivery_row(delivery: SealedDelivery) -> dict[str, Any]:
    identity = delivery.wrapped_identity
    return {
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


def _news(row: TupleRow) -> PaymentNews:
    event_id, order_id, kind, payload, attempts = row
    # By name, so that a member which a newer build added does not make the row unreadable here.
    return PaymentNews(
        event_id=event_id,
        order_id=order_id,
        kind=kind,
        payment_intent_id=payload["payment_intent_id"],
        amount_minor=payload["amount_minor"],
        currency=payload["currency"],
        code=payload["code"],
        message=payload["message"],
        attempts=attempts,
    )
