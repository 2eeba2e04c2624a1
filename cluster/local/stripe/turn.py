"""One request's turn: what it reads, what it changes and what it announces, apart from any storage.

Decisions get a turn and documents, and put changed documents back; the store writes the whole turn in one
transaction or not at all. Time is fixed once, at construction. A turn sees its own changes. An event
carries its object as it was at that moment, and is addressed to the endpoints that asked for its type.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from cluster.local.stripe.dials import Dials
from cluster.local.stripe.refusals import Document, not_found

API_VERSION = "2026-10-28.endive"
TICKS_PER_MS = 4_096
TIME_DIGITS = 14  # of an id, in hexadecimal
RANDOM_BYTES = 5  # of an id: what comes after its time
RANDOM_DIGITS = 2 * RANDOM_BYTES
MINTED_AT_ONCE = 200
DEFAULT_DIALS = Dials()
SECRET_BYTES = 16  # of a client secret or a hosted page's address: not to be guessed


class Source(Protocol):
    """What a turn reads: committed objects, and those of the transaction under way."""

    def load(self, kind: str, object_id: str) -> bytes | None:
        """Return an object's JSON, or None."""

    def children(self, kind: str, parent: str) -> Sequence[bytes]:
        """Return the objects of ``kind`` that belong to ``parent``, oldest first."""

    def page(self, query: "PageQuery") -> tuple[Sequence[bytes], bool]:
        """Return objects, newest first, and whether there are more.

        Raises:
            RefusedError: 404 for a cursor that names no object of this kind.
        """


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A page of a list.

    ``topics`` are what objects of this kind are told apart by (``Stored``), with ``*`` for any text;
    ``created`` holds bounds ``gt``, ``gte``, ``lt``, ``lte`` in Unix seconds. ``delivery_success`` chooses
    events all of whose webhooks arrived, or not.
    """

    kind: str
    parent: str | None
    topics: tuple[str, ...] | None
    limit: int
    starting_after: str | None
    ending_before: str | None
    created: Mapping[str, int]
    currency: str | None = None
    delivery_success: bool | None = None


@dataclass(slots=True)
class Stored:
    """A changed object. ``due_at`` (Unix seconds) asks for a visit by the sweep at that time.

    ``topic`` is what lists choose by, a balance transaction's type or a transfer's destination, and for ever.
    """

    kind: str
    object_id: str
    parent: str | None
    created_at: int
    due_at: int | None
    body: bytes
    topic: str | None = None

    def row(self) -> tuple[str, str | None, str | None, int, int | None, bytes]:
        """What the store keeps, in the order of its statement."""
        return self.object_id, self.parent, self.topic, self.created_at, self.due_at, self.body


@dataclass(frozen=True, slots=True)
class Event:
    """An event's JSON and the ids of the endpoints that it is for."""

    event_id: str
    type: str
    created_at: int
    body: bytes
    endpoint_ids: tuple[str, ...]


class IdSource:
    """Mints ids that only grow, so that the order of ids is the order of creation.

    Lists follow that order, and indexes grow at one end. An id holds its time in 1/4096 ms, then chance.
    """

    def __init__(self) -> None:
        self._last = 0
        self._chance = ""
        self._at = 0

    def mint(self, prefix: str, now_ms: int) -> str:
        """Mint an id like ``pi_…``."""
        self._last = last = max(self._last + 1, now_ms * TICKS_PER_MS)
        at = self._at
        if at == len(self._chance):
            # The system is asked for many ids' chance at once: asking costs more than all else here.
            self._chance, at = secrets.token_hex(RANDOM_BYTES * MINTED_AT_ONCE), 0
        self._at = at + RANDOM_DIGITS
        return f"{prefix}_{last:014x}{self._chance[at : at + RANDOM_DIGITS]}"


def time_digits(at_s: int) -> str:
    """How the ids that were minted at ``at_s`` (Unix seconds) begin, behind their prefix."""
    ticks = min(max(at_s, 0) * 1_000 * TICKS_PER_MS, 16**TIME_DIGITS - 1)
    return f"{ticks:0{TIME_DIGITS}x}"


@dataclass(slots=True)
class Turn:
    """``subscribers`` maps an event type to the endpoints that want it; ``base_url`` is our own address."""

    source: Source
    now_ms: int
    base_url: str
    subscribers: Callable[[str], tuple[str, ...]]
    page_token: Callable[[str], str]
    ids: IdSource
    request_id: str | None = None
    idempotency_key: str | None = None
    dials: Dials = DEFAULT_DIALS
    changed: dict[str, Stored] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def now(self) -> int:
        """The time of this turn in Unix seconds."""
        return self.now_ms // 1000

    def new_id(self, prefix: str) -> str:
        """Mint an id."""
        return self.ids.mint(prefix, self.now_ms)

    def new_secret_id(self, prefix: str) -> str:
        """Mint an id that nobody can guess."""
        return f"{self.new_id(prefix)}{secrets.token_hex(SECRET_BYTES)}"

    def find(self, kind: str, object_id: str) -> Document | None:
        """Return a copy of an object that may be changed, or None."""
        mine = self.changed.get(object_id)
        body = self.source.load(kind, object_id) if mine is None else mine.body
        if body is None:
            return None
        document: Document = orjson.loads(body)
        return document

    def require(self, kind: str, object_id: str, noun: str, param: str) -> Document:
        """Return a copy of an object that may be changed.

        Raises:
            RefusedError: 404 ``resource_missing``, in ``noun``'s words and naming ``param``.
        """
        document = self.find(kind, object_id)
        if document is None:
            raise not_found(noun, object_id, param)
        return document

    def children(self, kind: str, parent: str) -> Iterator[Document]:
        """Yield the objects of ``kind`` that belong to ``parent``, oldest first."""
        seen = set()
        for body in self.source.children(kind, parent):
            document: Document = orjson.loads(body)
            mine = self.changed.get(document["id"])
            seen.add(document["id"])
            yield document if mine is None else orjson.loads(mine.body)
        for stored in list(self.changed.values()):
            if stored.kind == kind and stored.parent == parent and stored.object_id not in seen:
                yield orjson.loads(stored.body)

    def put(
        self,
        kind: str,
        document: Document,
        *,
        parent: str | None = None,
        due_at: int | None = None,
        topic: str | None = None,
    ) -> None:
        """Store ``document`` as it is now."""
        object_id = document["id"]
        self.changed[object_id] = Stored(
            kind, object_id, parent, document["created"], due_at, orjson.dumps(document), topic
        )

    def remove(self, object_id: str) -> None:
        """Delete an object."""
        self.changed.pop(object_id, None)
        self.removed.append(object_id)

    def forget(self) -> None:
        """Drop every change and event: the decision was to refuse."""
        self.changed.clear()
        self.removed.clear()
        self.events.clear()

    def emit(
        self,
        event_type: str,
        snapshot: bytes,
        previous: Document | None = None,
        account: str | None = None,
    ) -> None:
        """Announce ``event_type`` about the object whose JSON is ``snapshot``.

        ``previous`` holds the old values of the attributes that an update changed; ``account`` is the
        connected account that it happened at, None for our own.
        """
        event_id = self.new_id("evt")
        endpoint_ids = self.subscribers(event_type)
        data: Document = {"object": orjson.Fragment(snapshot)}
        if previous is not None:
            data["previous_attributes"] = previous
        body = orjson.dumps(
            {
                "id": event_id,
                "object": "event",
                **({"account": account} if account else {}),
                "api_version": API_VERSION,
                "created": self.now,
                "data": data,
                "livemode": False,
                "pending_webhooks": len(endpoint_ids),
                "request": {"id": self.request_id, "idempotency_key": self.idempotency_key},
                "type": event_type,
            }
        )
        self.events.append(Event(event_id, event_type, self.now, body, endpoint_ids))

    def announce(
        self,
        event_type: str,
        object_id: str,
        previous: Document | None = None,
        account: str | None = None,
    ) -> None:
        """Announce ``event_type`` about an object that this turn has put; see ``emit``."""
        self.emit(event_type, self.changed[object_id].body, previous, account)

    def announce_document(self, event_type: str, document: Document) -> None:
        """Announce ``event_type`` about ``document``, which is stored in another form than it is shown."""
        self.emit(event_type, orjson.dumps(document))
