"""What the rows of the database are: their statements, the kinds of objects, and pages of lists.

Every value is bound; the statements are put together from constants of this module alone.
"""

from dataclasses import dataclass
from typing import Any

from cluster.local.stripe.turn import PageQuery

# What an id begins with tells its kind; an index of kinds would be one more to keep.
PREFIXES = {
    "payment_intent": "pi_",
    "payment_method": "pm_",
    "charge": "ch_",
    "refund": "re_",
    "checkout.session": "cs_",
    "event": "evt_",
    "webhook_endpoint": "we_",
}
UPSERT = """
INSERT INTO objects (id, parent, created_at, due_at, body) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    parent = coalesce(excluded.parent, parent), due_at = excluded.due_at, body = excluded.body
"""
INSERT_EVENT = "INSERT INTO objects (id, topic, created_at, body) VALUES (?, ?, ?, ?)"
INSERT_IDEMPOTENCY = """
INSERT OR REPLACE INTO idempotency (key, fingerprint, status, body, request_id, created_at)
VALUES (?, ?, ?, ?, ?, ?)
"""
INSERT_DELIVERY = """
INSERT INTO deliveries (id, event_id, endpoint_id, state, due_at_ms) VALUES (?, ?, ?, 'pending', ?)
"""
_BOUNDS = {"gt": "created_at > ?", "gte": "created_at >= ?", "lt": "created_at < ?", "lte": "created_at <= ?"}


def is_kind(kind: str, object_id: str) -> bool:
    """Whether an id is one of ``kind``."""
    return object_id.startswith(PREFIXES[kind])


def range_of(kind: str) -> tuple[str, str]:
    """The ids of a kind: from its prefix up to, not including, the next."""
    prefix = PREFIXES[kind]
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)


def page_statement(query: PageQuery) -> tuple[str, list[Any]]:
    """Return the statement of a page and its values; it asks for one row more than the page has."""
    conditions = ["id >= ?", "id < ?"]
    values: list[Any] = list(range_of(query.kind))
    if query.parent is not None:
        conditions.append("parent = ?")
        values.append(query.parent)
    if query.topics is not None:
        conditions.append(f"topic IN ({','.join('?' * len(query.topics))})")
        values.extend(query.topics)
    for bound, at in query.created.items():
        conditions.append(_BOUNDS[bound])
        values.append(at)
    if query.starting_after is not None:
        conditions.append("id < ?")
        values.append(query.starting_after)
    if query.ending_before is not None:
        conditions.append("id > ?")
        values.append(query.ending_before)
    order = "DESC" if query.ending_before is None else "ASC"
    statement = f"SELECT body FROM objects WHERE {' AND '.join(conditions)} ORDER BY id {order} LIMIT ?"  # noqa: S608 - constants
    return statement, [*values, query.limit + 1]


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """The first answer to an idempotency key."""

    key: str
    fingerprint: bytes
    status: int
    body: bytes
    request_id: str
    created_at: int


@dataclass(slots=True)
class Delivery:
    """One event for one endpoint.

    ``attempts`` counts those made so far; ``body`` is None when the event has to be read first.
    """

    delivery_id: int
    event_id: str
    endpoint_id: str
    attempts: int
    body: bytes | None
