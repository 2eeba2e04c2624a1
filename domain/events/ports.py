"""What the relay and its consumers need of the world; ``storage`` adapts it, ``tests/fakes`` imitate it.

Promises that everything else rests on:

* ``Outbox``: an order's rows become readable in the order of its events, with rising positions.
* ``Outbox``: a shard is owned through a session. When the session ends, by whatever cause, ownership ends,
  and every later call on it raises ``SessionLostError`` until ``join`` is called again.
* ``Bus``: takes an order's records in the order given, and refuses those behind one that it refused.
* ``ConsumerStore``: progress and what the projection wrote are one transaction.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One order event as it leaves. The key is ``order_id``; ``event_id`` is the same at every delivery.

    ``data`` is the event's JSON text, undecoded: most consumers look into few kinds. ``at`` is when it was
    recorded, by the database's clock; the event's own time is inside ``data``.
    """

    event_id: str
    order_id: str
    seq: int
    kind: str
    data: str
    at: datetime


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One commit that has not been published: events ``first_seq`` to ``last_seq`` of an order."""

    position: int
    shard: int
    order_id: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive events of one order, both ends included."""

    order_id: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is there: how many relays have joined, this one included, and which shards are owned by any."""

    relays: int
    taken: frozenset[int]


@dataclass(frozen=True, slots=True)
class ShardLag:
    """What waits in a shard: rows (counted up to the adapter's bound) and the age of the oldest, seconds."""

    shard: int
    unpublished: int
    oldest_age_s: float


class Outbox(Protocol):
    """The outbox as one relay sees it, through a session of its own.

    Every method but ``join`` and ``leave`` raises ``SessionLostError`` once the session has ended.
    """

    async def join(self) -> None:
        """Begin a new session that owns no shard; an earlier one is ended. Raises ``DependencyError``."""

    async def leave(self) -> None:
        """End the session: its shards are free at once. Never raises."""

    async def standing(self) -> Standing:
        """Count the relays and look which shards are owned."""

    async def take(self, shard: int) -> bool:
        """Become the owner of a shard, unless another relay is."""

    async def release(self, shard: int) -> None:
        """Stop owning a shard."""

    async def read(
        self, shards: Sequence[int], rows_per_shard: int, without: Sequence[str]
    ) -> Sequence[OutboxRow]:
        """Read the first rows of each shard, leaving the orders ``without`` out; sorted by position."""

    async def load(self, spans: Sequence[Span]) -> Sequence[EventRecord]:
        """Load events; each order's by rising number. Spans name an order once."""

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Forget published rows; those already gone are ignored."""

    async def lag(self, shards: Sequence[int]) -> Sequence[ShardLag]:
        """Measure what waits in these shards."""


class Bus(Protocol):
    """Where records go. See the module for what it promises about order."""

    async def publish(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        """Deliver, and return per record None once it is acknowledged, else why it is not."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a consumer is with one order.

    ``seq`` is the last event taken. ``attempts`` counts failures of the next one; ``parked``: it is given up.
    """

    seq: int
    attempts: int = 0
    parked: bool = False


@dataclass(frozen=True, slots=True)
class Advance:
    """A step of one order from ``progress`` to event ``to_seq``."""

    order_id: str
    progress: Progress
    to_seq: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event was refused; ``parked`` gives it up until an operator retries or drops it."""

    order_id: str
    seq: int
    code: str
    error: str
    parked: bool


Tx_co = TypeVar("Tx_co", covariant=True)
Tx_contra = TypeVar("Tx_contra", contravariant=True)


class ConsumerStore(Protocol[Tx_co]):
    """Where consumers keep how far they are. Raises ``DependencyError`` when the database is away."""

    async def progress(self, consumer: str, order_ids: Sequence[str]) -> Mapping[str, Progress]:
        """Look up progress; the answer holds every order asked for."""

    def advancing(self, consumer: str, advances: Sequence[Advance]) -> AbstractAsyncContextManager[Tx_co]:
        """Open a transaction that makes these steps; what is written in it commits with them, or nothing.

        Raises ``ProgressMovedError`` on entry when progress is not what the steps start from.
        """

    async def record_failure(self, consumer: str, failure: Failure) -> bool:
        """Count a failure of an order's next event; returns whether that event is parked now.

        A parked event stays parked. Ignored, and False, when the consumer has moved on since.
        """


class Projection(Protocol[Tx_contra]):
    """A consumer's own logic: turns events into something to read. Writes only through ``transaction``."""

    @property
    def name(self) -> str:
        """Name of the consumer: stable, it keys its progress."""

    async def apply(self, transaction: Tx_contra, records: Sequence[EventRecord]) -> None:
        """Apply records of several orders, each order's in sequence and none twice.

        A ``MarketplaceError`` other than ``DependencyError`` or ``BusyError`` refuses an event for good.
        """
