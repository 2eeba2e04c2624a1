"""Fakes of the relay's ports: one shared "database", a session per relay, with switches for faults.

Held to the same contract suite as Postgres (tests/contracts/outbox.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from domain.events import shard_of
from domain.events.errors import ProgressMovedError, SessionLostError
from domain.events.ports import (
    Advance,
    EventRecord,
    Failure,
    OutboxRow,
    Progress,
    ShardLag,
    Span,
    Standing,
)

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@dataclass
class FakeOutboxDatabase:
    """Events, outbox rows and shard locks that sessions share."""

    events: dict[str, list[EventRecord]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[int, OutboxRow] = field(default_factory=dict)
    owners: dict[int, FakeOutbox] = field(default_factory=dict)
    members: list[FakeOutbox] = field(default_factory=list)
    position: int = 0
    now: datetime = START
    down: bool = False

    def commit(self, order_id: str, *kinds: str, data: str = "{}") -> list[EventRecord]:
        """Record events of one order, and their outbox row."""
        history = self.events[order_id]
        first_seq = len(history) + 1
        for seq, kind in enumerate(kinds, first_seq):
            history.append(EventRecord(f"evt_{order_id}_{seq}", order_id, seq, kind, data, self.now))
        self.enqueue(order_id, first_seq, len(history))
        return history[first_seq - 1 :]

    def enqueue(self, order_id: str, first_seq: int, last_seq: int) -> None:
        self.position += 1
        row = OutboxRow(self.position, shard_of(order_id), order_id, first_seq, last_seq)
        self.rows[row.position] = row

    def end_session(self, session: FakeOutbox) -> None:
        """What Postgres does when a session ends, for whatever reason."""
        self.owners = {shard: owner for shard, owner in self.owners.items() if owner is not session}
        self.members = [member for member in self.members if member is not session]


@dataclass(eq=False)
class FakeOutbox:
    """One relay's session. ``before`` is called with each method's name, and may raise or cut the session."""

    database: FakeOutboxDatabase
    before: Callable[[str], None] = lambda _name: None

    async def join(self) -> None:
        self.database.end_session(self)
        if self.database.down:
            raise SessionLostError("down")
        self.database.members.append(self)

    async def leave(self) -> None:
        self.database.end_session(self)

    async def standing(self) -> Standing:
        self._check("standing")
        return Standing(len(self.database.members), frozenset(self.database.owners))

    async def take(self, shard: int) -> bool:
        self._check("take")
        return self.database.owners.setdefault(shard, self) is self

    async def release(self, shard: int) -> None:
        self._check("release")
        if self.database.owners.get(shard) is self:
            del self.database.owners[shard]

    async def read(
        self, shards: Sequence[int], rows_per_shard: int, without: Sequence[str]
    ) -> Sequence[OutboxRow]:
        self._check("read")
        assert all(self.database.owners.get(shard) is self for shard in shards), "read of a shard not owned"
        found: list[OutboxRow] = []
        for shard in shards:
            rows = [
                row
                for _, row in sorted(self.database.rows.items())
                if row.shard == shard and row.order_id not in without
            ]
            found += rows[:rows_per_shard]
        return sorted(found, key=lambda row: row.position)

    async def load(self, spans: Sequence[Span]) -> Sequence[EventRecord]:
        self._check("load")
        return [
            record
            for span in sorted(spans, key=lambda span: span.order_id)
            for record in self.database.events[span.order_id]
            if span.first_seq <= record.seq <= span.last_seq
        ]

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        self._check("delete")
        for row in rows:
            self.database.rows.pop(row.position, None)

    async def lag(self, shards: Sequence[int]) -> Sequence[ShardLag]:
        self._check("lag")
        lags = []
        for shard in shards:
            rows = [row for _, row in sorted(self.database.rows.items()) if row.shard == shard]
            age_s = 0.0
            if rows:
                oldest = self.database.events[rows[0].order_id][rows[0].first_seq - 1]
                age_s = (self.database.now - oldest.at).total_seconds()
            lags.append(ShardLag(shard, len(rows), age_s))
        return lags

    def _check(self, name: str) -> None:
        self.before(name)
        if self.database.down:
            self.database.end_session(self)
        if self not in self.database.members:
            raise SessionLostError(name)


@dataclass
class StuckEvent:
    seq: int
    attempts: int
    code: str
    error: str
    parked: bool


@dataclass
class FakeConsumerStore:
    """Progress in memory. A transaction is a list; committing adds it to ``written``."""

    database: FakeOutboxDatabase = field(default_factory=FakeOutboxDatabase)
    seqs: dict[tuple[str, str], int] = field(default_factory=dict)
    stuck: dict[tuple[str, str], StuckEvent] = field(default_factory=dict)
    settled_before: dict[str, datetime] = field(default_factory=dict)
    registered: dict[str, datetime] = field(default_factory=dict)
    written: list[EventRecord] = field(default_factory=list)
    transactions: int = 0
    fail_before: list[Exception] = field(default_factory=list)
    fail_after: list[Exception] = field(default_factory=list)  # committed, and its answer lost

    async def progress(self, consumer: str, order_ids: Sequence[str]) -> Mapping[str, Progress]:
        return {order_id: self._progress(consumer, order_id) for order_id in order_ids}

    @asynccontextmanager
    async def advancing(self, consumer: str, advances: Sequence[Advance]) -> AsyncIterator[list[EventRecord]]:
        if self.fail_before:
            raise self.fail_before.pop(0)
        written: list[EventRecord] = []
        yield written
        # The compare-and-set and the commit are one step here, as row locks make them in Postgres.
        for advance in advances:
            key = (consumer, advance.order_id)
            now = self.seqs.get(key)
            if now not in (None, advance.progress.seq):
                raise ProgressMovedError(consumer)
        self.transactions += 1
        for advance in advances:
            key = (consumer, advance.order_id)
            self.seqs[key] = advance.to_seq
            if key in self.stuck and self.stuck[key].seq <= advance.to_seq:
                del self.stuck[key]
        self.written += written
        if self.fail_after:
            raise self.fail_after.pop(0)

    async def record_failure(self, consumer: str, failure: Failure) -> bool:
        key = (consumer, failure.order_id)
        if self.seqs.setdefault(key, failure.seq - 1) != failure.seq - 1:
            return False
        before = self.stuck.get(key)
        same = before if before and before.seq == failure.seq else None
        attempts = same.attempts + 1 if same else 1
        parked = failure.parked or (same is not None and same.parked)
        self.stuck[key] = StuckEvent(failure.seq, attempts, failure.code, failure.error, parked)
        return parked

    async def settle(self, consumer: str, quiet_s: float, limit: int, after: str) -> str | None:
        cutoff = self.database.now - timedelta(seconds=quiet_s)
        if self.registered.setdefault(consumer, self.database.now) >= cutoff or self.database.rows:
            return None
        for (name, order_id), seq in list(self.seqs.items()):
            history = self.database.events[order_id]
            if name == consumer and seq == len(history) and history[-1].at < cutoff:
                del self.seqs[name, order_id]
        self.settled_before[consumer] = cutoff
        return None

    async def parked(self) -> Mapping[str, int]:
        counts: dict[str, int] = defaultdict(int)
        for (consumer, _), stuck in self.stuck.items():
            counts[consumer] += stuck.parked
        return {consumer: count for consumer, count in counts.items() if count}

    async def retry_parked(self, consumer: str, order_id: str) -> bool:
        """What an operator's retry does (storage.market.dead_letters)."""
        return self._free(consumer, order_id, drop=False)

    async def drop_parked(self, consumer: str, order_id: str) -> bool:
        """What an operator's drop does."""
        return self._free(consumer, order_id, drop=True)

    def _progress(self, consumer: str, order_id: str) -> Progress:
        seq = self.seqs.get((consumer, order_id))
        if seq is None:
            settled = self.settled_before.get(consumer, START - timedelta(days=10_000))
            taken = [record.seq for record in self.database.events[order_id] if record.at < settled]
            return Progress(max(taken, default=0))
        stuck = self.stuck.get((consumer, order_id))
        if stuck is None or stuck.seq != seq + 1:
            return Progress(seq)
        return Progress(seq, attempts=stuck.attempts, parked=stuck.parked)

    def _free(self, consumer: str, order_id: str, *, drop: bool) -> bool:
        key = (consumer, order_id)
        stuck = self.stuck.get(key)
        if stuck is None or not stuck.parked:
            return False
        del self.stuck[key]
        if drop:
            self.seqs[key] = stuck.seq
        self.database.enqueue(order_id, stuck.seq, len(self.database.events[order_id]))
        return True


@dataclass
class RecordingProjection:
    """Writes what it applies; ``failures`` by event id are raised (the last one again and again)."""

    name: str = "recording"
    failures: dict[str, list[Exception]] = field(default_factory=dict)

    async def apply(self, transaction: list[EventRecord], records: Sequence[EventRecord]) -> None:
        for record in records:
            queue = self.failures.get(record.event_id)
            if queue:
                raise queue.pop(0) if len(queue) > 1 else queue[0]
        transaction += records


@dataclass
class RecordingBus:
    """Acknowledges all but what ``refusals`` names by event id; ``down`` refuses everything."""

    published: list[EventRecord] = field(default_factory=list)
    refusals: dict[str, Exception] = field(default_factory=dict)
    down: Exception | None = None
    calls: int = 0

    async def publish(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        self.calls += 1
        if self.down is not None:
            raise self.down
        outcomes: list[Exception | None] = []
        refused: dict[str, Exception] = {}
        for record in records:
            failure = refused.get(record.order_id) or self.refusals.get(record.event_id)
            if failure is None:
                self.published.append(record)
            else:
                refused[record.order_id] = failure
            outcomes.append(failure)
        return outcomes

    def seqs_of(self, order_id: str) -> list[int]:
        return [record.seq for record in self.published if record.order_id == order_id]


def event_json(**values: object) -> str:
    """Event data as the event table holds it."""
    return json.dumps(values)
