"""Orders in Postgres: one statement, one transaction, under the fence, shared by the turns that wait.

Adapter of ``domain.orders.ports.OrderStore``. Turns of different orders that arrive while a commit is under
way share the next one (group commit): half of a commit's cost does not depend on how much it writes. If a
shared commit fails for a reason that one turn may have caused, each turn is committed by itself. So is a turn
that takes or gives back what orders share (a code's uses, a buyer's free orders): it may have to be undone.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg.rows import TupleRow

from domain.errors import BusyError, ConflictError, DependencyError, MarketplaceError
from domain.orders.decide import gives_discount_back
from domain.orders.events import decode_event
from domain.orders.ports import (
    DueEffect,
    Idempotency,
    NumberedEvent,
    PaymentNews,
    RecordedCommand,
    StoredOrder,
    Turn,
)
from storage.batching import Batcher
from storage.market import discounts
from storage.market.pool import Pool, borrow, fetch
from storage.market.turn_rows import EFFECT_LEASE_S, SOME_MEMBERS, placing_rows, turn_rows, webhook_payload
from storage.sql import load_queries

log = logging.getLogger("marketplace.storage")

SQL = {name: text.encode() for name, text in load_queries("storage.market", "orders.sql").items()}
GROUP_MAX = 64  # turns per commit: a hundred rows or two, well under a millisecond of locks
WAITING_MAX = 2_048  # turns waiting for a commit; beyond it callers are told to come back
LINGER_S = (
    0.002  # a turn waits this long for company; a commit's fixed cost is 0.3 ms here and 0.3 in Postgres
)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
ERROR_CHARS_MAX = 500
Follower = Callable[[Turn], None]
Connection = psycopg.AsyncConnection[TupleRow]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class OrderSummary:
    """One row of a buyer's list."""

    order_id: str
    status: str
    currency: str
    total_minor: int
    created_at: datetime
    updated_at: datetime


class PostgresOrderStore:
    """See the port for the contract; raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._followers: list[Follower] = []
        self._placing = _grouped(self._place_group)
        self._committing = _grouped(self._commit_group)
        self._loading = _grouped(
            self._load_group, linger_s=0.0
        )  # a read costs too little to wait for company

    async def place(self, turn: Turn, idempotency: Idempotency) -> bool:
        """Insert the order with its key; False when the key was used before."""
        if turn.order.discount_id is not None or turn.order.total_minor == 0:
            return await self._alone(lambda connection: _place_alone(connection, turn, idempotency))
        return await self._placing.submit((turn, idempotency))

    async def commit(self, turn: Turn) -> bool:
        """Commit under the fence; False when zero rows matched it."""
        if turn.order.discount_id is not None and gives_discount_back(turn.events):
            committed = await self._alone(lambda connection: _commit_alone(connection, turn))
            self._tell([turn], [committed])
            return committed
        return await self._committing.submit(turn)

    async def load(self, order_id: str) -> StoredOrder | None:
        """Read the order's events, oldest first."""
        return await self._loading.submit(order_id)

    def follow(self, follower: Follower) -> None:
        """Have ``follower`` called with each turn that this process commits, right after its commit."""
        self._followers.append(follower)

    async def _place_group(self, group: Sequence[tuple[Turn, Idempotency]]) -> list[bool | Exception]:
        return await self._group("place_orders", placing_rows, group, lambda one: one[0].order.order_id)

    async def _commit_group(self, turns: Sequence[Turn]) -> list[bool | Exception]:
        # Two turns of one order cannot share a statement: both would see the same fence.
        order_ids = {turn.order.order_id for turn in turns}
        if len(order_ids) < len(turns):
            answers = await self._one_by_one("commit_turns", turn_rows, turns, _order_id)
        else:
            answers = await self._group("commit_turns", turn_rows, turns, _order_id)
        self._tell(turns, answers)
        return answers

    def _tell(self, turns: Sequence[Turn], answers: Sequence[bool | Exception]) -> None:
        for follower in self._followers:
            for turn, answer in zip(turns, answers, strict=True):
                if answer is True:
                    follower(turn)

    async def _alone(self, work: Callable[[Connection], Awaitable[bool]]) -> bool:
        async with borrow(self._pool) as connection:
            try:
                async with connection.transaction():
                    return await work(connection)
            except psycopg.errors.LockNotAvailable as error:
                raise BusyError(
                    "order_contended", "Somebody else holds this at the moment. Try again shortly."
                ) from error

    async def _group(
        self,
        name: str,
        rows_of: Callable[[Sequence[T]], Mapping[str, str]],
        group: Sequence[T],
        id_of: Callable[[T], str],
    ) -> list[bool | Exception]:
        try:
            written: dict[str, bool] = dict(await self._fetch(name, rows_of(group)))
        except (psycopg.Error, BusyError):
            if len(group) == 1:
                raise
            return await self._one_by_one(name, rows_of, group, id_of)
        return [_written(written.get(id_of(one))) for one in group]

    async def _one_by_one(
        self,
        name: str,
        rows_of: Callable[[Sequence[T]], Mapping[str, str]],
        group: Sequence[T],
        id_of: Callable[[T], str],
    ) -> list[bool | Exception]:
        answers: list[bool | Exception] = []
        for one in group:
            try:
                written: dict[str, bool] = dict(await self._fetch(name, rows_of([one])))
                answers.append(_written(written.get(id_of(one))))
            except (psycopg.Error, MarketplaceError) as failure:
                answers.append(failure)
        return answers

    async def _load_group(self, order_ids: Sequence[str]) -> list[StoredOrder | Exception | None]:
        rows = await self._fetch("load_histories", {"order_ids": list(set(order_ids))})
        stored: dict[str, StoredOrder | Exception] = {}
        for order_id, events in groupby(rows, key=itemgetter(0)):
            history = list(events)
            try:
                stored[order_id] = StoredOrder(
                    [decode_event(kind, data) for _, _, kind, data in history], history[0][1]
                )
            except (KeyError, TypeError, ValueError):
                # A rolling update: those who share this read must not suffer, and a newer build goes on.
                stored[order_id] = DependencyError(
                    "order_unreadable", "A newer build of the marketplace has moved this order. Try again."
                )
        return [stored.get(order_id) for order_id in order_ids]

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

    async def defer_effect(
        self, order_id: str, step: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        """Move an effect's due time and keep why."""
        await self._execute(
            "defer_effect",
            {
                "order_id": order_id,
                "step": step,
                "delay_s": delay_s,
                "error": error[:ERROR_CHARS_MAX],
                "unforeseen": unforeseen,
            },
        )

    async def bury_effect(self, order_id: str, step: str, code: str, error: str) -> None:
        """Make an effect a dead letter."""
        await self._execute(
            "bury_effect",
            {"order_id": order_id, "step": step, "code": code, "error": error[:ERROR_CHARS_MAX]},
        )

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        """Keep a verified webhook; returns (order is known, stored now and not a duplicate)."""
        rows = await self._fetch("store_webhook", {**_webhook_row(news), "lease_s": EFFECT_LEASE_S})
        return rows[0][0], rows[0][1]

    async def claim_due_webhooks(self, limit: int, lease_s: float) -> Sequence[PaymentNews]:
        """Claim up to ``limit`` overdue inbox rows."""
        rows = await self._fetch("claim_due_webhooks", {"limit": limit, "lease_s": lease_s})
        return [_news(row) for row in rows]

    async def settle_webhook(self, news: PaymentNews, outcome: str) -> None:
        """Keep a webhook as processed; the order did not change."""
        await self._execute("settle_webhook", {**_webhook_row(news), "outcome": outcome})

    async def defer_webhook(
        self, event_id: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        """Move an inbox row's due time and keep why."""
        await self._execute(
            "defer_webhook",
            {
                "event_id": event_id,
                "delay_s": delay_s,
                "error": error[:ERROR_CHARS_MAX],
                "unforeseen": unforeseen,
            },
        )

    async def bury_webhook(self, news: PaymentNews, code: str, error: str) -> None:
        """Keep a webhook as a dead letter."""
        await self._execute(
            "bury_webhook", {**_webhook_row(news), "code": code, "error": error[:ERROR_CHARS_MAX]}
        )

    async def order_of_payment(self, payment_intent_id: str) -> str | None:
        """Find the order that a PaymentIntent has paid."""
        rows = await self._fetch("order_of_payment", {"payment_intent_id": payment_intent_id})
        return str(rows[0][0]) if rows else None

    async def disputed(
        self, before: tuple[datetime, str, str] | None, limit: int
    ) -> list[tuple[str, str, datetime]]:
        """List disputes of disputed orders: (order, dispute, when), newest first, below ``before``."""
        at, order_id, dispute_id = before or (_END_OF_TIME, "", "")
        rows = await self._fetch(
            "disputed_orders",
            {"before": at, "before_order": order_id, "before_dispute": dispute_id, "limit": limit},
        )
        return [(row[0], row[1], row[2]) for row in rows]

    async def list_of_buyer(self, buyer_id: str, before: str, limit: int) -> list[OrderSummary]:
        """List a buyer's orders, newest first, with ids below ``before``."""
        rows = await self._fetch(
            "list_orders_of_buyer", {"buyer_id": buyer_id, "before": before, "limit": limit}
        )
        return [OrderSummary(*row) for row in rows]

    async def events_since(self, watched: Mapping[str, int]) -> list[NumberedEvent]:
        """Read what happened to each watched order after the sequence number given for it, in order."""
        rows = await self._fetch("events_since", {"order_ids": list(watched), "seqs": list(watched.values())})
        events = []
        for order_id, of_order in groupby(rows, key=itemgetter(0)):
            try:
                events += [
                    NumberedEvent(order_id, seq, decode_event(kind, data)) for _, seq, kind, data in of_order
                ]
            except (KeyError, TypeError, ValueError):
                # A newer build's event during a rolling update: the others' streams must not stand still.
                log.debug("an event of %s is not known to this build", order_id)
        return events

    async def _fetch(self, name: str, values: Mapping[str, Any]) -> list[TupleRow]:
        return await fetch(self._pool, SQL[name], values)

    async def _execute(self, name: str, values: Mapping[str, Any]) -> None:
        async with borrow(self._pool) as connection:
            await connection.execute(SQL[name], values)


async def _place_alone(connection: Connection, turn: Turn, idempotency: Idempotency) -> bool:
    order = turn.order
    if order.total_minor == 0:
        await discounts.lock_free_orders(connection, order.buyer_id)
    rows = placing_rows([(turn, idempotency)])
    if not await (await connection.execute(SQL["place_orders"], rows)).fetchall():
        return False
    # After the key: a repetition takes nothing, and is answered as before even when nothing is left.
    if order.total_minor == 0:
        await discounts.require_free_order(connection, order.buyer_id)
    if order.discount_id is not None:
        await discounts.take_use(connection, order.discount_id, order.order_id, order.buyer_id)
    return True


async def _commit_alone(connection: Connection, turn: Turn) -> bool:
    written: dict[str, bool] = dict(
        await (await connection.execute(SQL["commit_turns"], turn_rows([turn]))).fetchall()
    )
    committed = _written(written.get(turn.order.order_id))
    if isinstance(committed, Exception):
        raise committed
    if committed:
        await discounts.give_use_back(connection, turn.order.order_id)
    return committed


def _grouped(
    send: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]], linger_s: float = LINGER_S
) -> Batcher[T, R]:
    return Batcher(send, batch_max=GROUP_MAX, waiting_max=WAITING_MAX, linger_s=linger_s)


def _order_id(turn: Turn) -> str:
    return turn.order.order_id


def _written(answer: bool | None) -> bool | Exception:  # noqa: FBT001 - a row's own value
    if answer is None:
        return False
    return answer or ConflictError("webhook_dropped", "An operator has dropped this webhook.")


def _webhook_row(news: PaymentNews) -> dict[str, Any]:
    return {
        "order_id": news.order_id,
        "event_id": news.event_id,
        "kind": news.kind,
        "payload": orjson.dumps(webhook_payload(news)).decode(),
    }


def _news(row: TupleRow) -> PaymentNews:
    event_id, order_id, kind, payload, attempts, unforeseen = row
    if "fees" in payload:
        payload["fees"] = tuple((transaction_id, minor) for transaction_id, minor in payload["fees"])
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
        unforeseen=unforeseen,
        **{name: payload[name] for name in SOME_MEMBERS if name in payload},
    )
