"""The record of deliveries: what is due, what became of each attempt, and sending an event once more.

Retries back off exponentially with jitter, from one second to a minute, and end after
``ATTEMPTS_MAX`` attempts: an endpoint that is down for half an hour still gets everything.
"""

import random
from collections.abc import Sequence
from typing import Any

import orjson

from cluster.local.stripe.refusals import Document, not_found
from cluster.local.stripe.rows import Delivery
from cluster.local.stripe.store import Store
from cluster.local.stripe.webhook_endpoints import Registry

RETRY_FIRST_S = 1.0
RETRY_S_MAX = 60.0
JITTER = 0.25  # of the delay, either way: retries of one outage spread out
ATTEMPTS_MAX = 40  # 1 + 2 + 4 + … + 33 × 60 s, about 35 minutes
LISTED_MAX = 1_000
MILLISECONDS = 1_000

DELIVERED = "delivered"
PENDING = "pending"
FAILED = "failed"
NO_ENDPOINT = "the endpoint no longer exists"

_DUE = """
SELECT id, event_id, endpoint_id, attempts, NULL FROM deliveries
WHERE state = 'pending' AND endpoint_id = ? AND due_at_ms <= ? ORDER BY due_at_ms LIMIT ?
"""
_ABANDON = """
UPDATE deliveries SET state = 'failed', finished_at = ?, log = json_insert(log, '$[#]', json(?))
WHERE state = 'pending' AND endpoint_id NOT IN (SELECT value FROM json_each(?))
"""
_NEXT_DUE = """
SELECT min(due_at_ms) FROM deliveries WHERE state = 'pending' AND endpoint_id = ? AND due_at_ms > ?
"""
_RECORD = """
UPDATE deliveries SET state = ?, attempts = ?, due_at_ms = ?, finished_at = ?,
    log = json_insert(log, '$[#]', json(?))
WHERE id = ?
"""
_LIST = """
SELECT id, event_id, endpoint_id, state, attempts, due_at_ms, log FROM deliveries
WHERE (?1 IS NULL OR event_id = ?1) AND (?2 IS NULL OR state = ?2) ORDER BY id DESC LIMIT ?3
"""


def retry_delay_s(attempts: int, spread: float) -> float:
    """How long to wait after ``attempts`` failed attempts; ``spread`` in [-1, 1] is the jitter's share."""
    delay = min(RETRY_FIRST_S * 2 ** min(attempts - 1, 16), RETRY_S_MAX)
    return float(delay * (1 + JITTER * spread))


class DeliveryRecord:
    """Reads and writes the deliveries of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    def due(self, endpoint_id: str, now_ms: int, limit: int) -> list[Delivery]:
        """Return an endpoint's pending deliveries whose time has come, the longest overdue first."""
        return [Delivery(*row) for row in self._store.query(_DUE, (endpoint_id, now_ms, limit))]

    def next_due_ms(self, endpoint_id: str, after_ms: int) -> int | None:
        """Return when the endpoint's next delivery is due that was not due yet at ``after_ms``."""
        found: int | None = self._store.query(_NEXT_DUE, (endpoint_id, after_ms))[0][0]
        return found

    def body_of(self, delivery: Delivery) -> bytes:
        """Return what to send."""
        body = delivery.body or self._store.load("event", delivery.event_id)
        assert body is not None, "events are never removed"
        return body

    def abandon_unknown(self, endpoint_ids: Sequence[str], now_ms: int) -> None:
        """Give up what is pending for endpoints that are no longer there.

        Raises:
            StoreFailedError: nothing was changed.
        """
        entry = orjson.dumps({"at_ms": now_ms, "error": NO_ENDPOINT}).decode()
        known = orjson.dumps(list(endpoint_ids)).decode()
        self._store.execute_lazily(_ABANDON, (now_ms // MILLISECONDS, entry, known))

    def succeeded(self, delivery: Delivery, now_ms: int, status: int) -> None:
        """The endpoint answered 2xx."""
        self._record(delivery, DELIVERED, now_ms, now_ms, {"status": status})

    def failed(self, delivery: Delivery, now_ms: int, outcome: Document) -> None:
        """Something else happened: retry later, or give up."""
        delivery.attempts += 1
        over = delivery.attempts >= ATTEMPTS_MAX
        delay_s = retry_delay_s(delivery.attempts, self._random.uniform(-1, 1))
        delivery.attempts -= 1
        self._record(
            delivery, FAILED if over else PENDING, now_ms, now_ms + int(delay_s * MILLISECONDS), outcome
        )

    def abandoned(self, delivery: Delivery, now_ms: int) -> None:
        """Nobody is there to send it to any more."""
        self._record(delivery, FAILED, now_ms, now_ms, {"error": NO_ENDPOINT})

    def dropped(self, delivery: Delivery, now_ms: int) -> None:
        """A fault lost it: it is never sent."""
        self._record(delivery, FAILED, now_ms, now_ms, {"error": "dropped by a fault"})

    def held_up(self, delivery: Delivery, now_ms: int, delay_ms: int) -> None:
        """A fault makes it late; this counts as an attempt, so that it is not struck again."""
        self._record(
            delivery, PENDING, now_ms, now_ms + delay_ms, {"error": f"held up by a fault: {delay_ms} ms"}
        )

    def is_pending(self, delivery: Delivery) -> bool:
        """Whether it has still to be sent."""
        rows = self._store.query("SELECT state FROM deliveries WHERE id = ?", (delivery.delivery_id,))
        return rows == [(PENDING,)]

    def recent(self, event_id: str | None, state: str | None, limit: int) -> Document:
        """Return deliveries, newest first, with every attempt."""
        rows = self._store.query(_LIST, (event_id, state, min(limit, LISTED_MAX)))
        names = ("id", "event", "endpoint", "state", "attempts", "due_at_ms")
        data: list[dict[str, Any]] = [
            {**dict(zip(names, row, strict=False)), "log": orjson.loads(row[6])} for row in rows
        ]
        return {"object": "list", "data": data}

    def pending_by_event(self, event_ids: list[str]) -> dict[str, int]:
        """Return how many deliveries of each event are still pending."""
        marks = ",".join("?" * len(event_ids))
        rows = self._store.query(
            f"SELECT event_id, count(*) FROM deliveries WHERE event_id IN ({marks}) "  # noqa: S608 - only marks
            "AND state = 'pending' GROUP BY event_id",
            event_ids,
        )
        return dict(rows)

    def resend(self, registry: Registry, event_id: str, now_ms: int) -> int:
        """Send an event once more to every endpoint that wants it; return to how many.

        Raises:
            RefusedError: 404.
            StoreFailedError: the database did not take it.
        """
        body = self._store.load("event", event_id)
        if body is None:
            raise not_found("event", event_id)
        endpoint_ids = registry.subscribers(orjson.loads(body)["type"])
        for endpoint_id in endpoint_ids:
            self._store.add_delivery(event_id, endpoint_id, now_ms, body)
        return len(endpoint_ids)

    def _record(self, delivery: Delivery, state: str, now_ms: int, due_at_ms: int, outcome: Document) -> None:
        delivery.attempts += 1
        finished_at = None if state == PENDING else now_ms // MILLISECONDS
        entry = orjson.dumps({"at_ms": now_ms, **outcome}).decode()
        self._store.execute_lazily(
            _RECORD, (state, delivery.attempts, due_at_ms, finished_at, entry, delivery.delivery_id)
        )
