"""What the rows of the database are: their statements, and pages of lists.

Every value is bound; the statements are put together from constants of this module alone.
"""

from dataclasses import dataclass
from typing import Any

from cluster.local.stripe.kinds import CHECKOUT_SESSION, PREFIXES
from cluster.local.stripe.turn import PageQuery, time_digits

CLOCK_SET_BACK_S_MAX = 86_400  # how far a clock may be set back before lists by time miss objects

UPSERT = """
INSERT INTO objects (id, parent, topic, created_at, due_at, body) VALUES (?, ?, ?, ?, ?, ?)
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
_UNDELIVERED = (
    "EXISTS (SELECT 1 FROM deliveries WHERE event_id = objects.id AND state IN ('pending', 'failed'))"
)
_BOUNDS = {"gt": "created_at > ?", "gte": "created_at >= ?", "lt": "created_at < ?", "lte": "created_at <= ?"}


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
        conditions.append(f"({' OR '.join(['topic GLOB ?'] * len(query.topics))})")
        values.extend(query.topics)
    if query.currency is not None:
        conditions.append("json_extract(CAST(body AS TEXT), '$.currency') = ?")
        values.append(query.currency)
    if query.delivery_success is not None:
        conditions.append(f"{'NOT ' * query.delivery_success}{_UNDELIVERED}")
    for bound, at in query.created.items():
        conditions.append(_BOUNDS[bound])
        values.append(at)
    _bound_ids(query, conditions, values)
    if query.starting_after is not None:
        conditions.append("id < ?")
        values.append(query.starting_after)
    if query.ending_before is not None:
        conditions.append("id > ?")
        values.append(query.ending_before)
    order = "DESC" if query.ending_before is None else "ASC"
    statement = f"SELECT body FROM objects WHERE {' AND '.join(conditions)} ORDER BY id {order} LIMIT ?"  # noqa: S608 - constants
    return statement, [*values, query.limit + 1]


def _bound_ids(query: PageQuery, conditions: list[str], values: list[Any]) -> None:
    """Narrow the range of ids by the time of creation, which ids hold: a window's list reads the window.

    An id's time is never before its object's creation, and after it only when the clock was set back.
    """
    if query.kind == CHECKOUT_SESSION:
        return  # their ids begin with more than the prefix
    prefix = PREFIXES[query.kind]
    for bound, at in query.created.items():
        low = bound in {"gt", "gte"}
        conditions.append("id >= ?" if low else "id < ?")
        values.append(prefix + time_digits(at if low else at + CLOCK_SET_BACK_S_MAX))


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
