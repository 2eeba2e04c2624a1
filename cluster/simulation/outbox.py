"""The outbox and the consumers' progress, modelled, and a relay's way to them over the network.

Ownership is a session's: it ends when Postgres restarts, when the relay's process dies, when the relay gives
the connection up, and when the server finds it idle for too long (a relay under SIGSTOP). A call of an
ended session raises ``SessionLostError`` and executes nothing: its connection is gone. But a statement that
the backend has read already is run to its end, and until then the session keeps its locks, as in Postgres,
which looks at its client again only when it has something to say.
"""

import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.simulation.loop import Process
from cluster.simulation.network import Network, Server
from cluster.simulation.order_store import ANSWER_TIMEOUT_S
from cluster.simulation.postgres import Postgres
from domain.errors import DependencyError
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
from domain.orders.events import KIND_OF

T = TypeVar("T")
IDLE_TIMEOUT_S = 15.0  # as storage.market.outbox
GONE_NOTICED_S = 0.2  # a killed process's sockets are closed by its kernel


@dataclass(eq=False)
class Session:
    """A relay's database session."""

    process: Process
    epoch: int
    used_s: float
    ended: bool = False
    running: int = 0  # statements that the backend has read and not run yet
    left: bool = False  # by its client, while a statement runs


@dataclass
class StuckEvent:
    """A row of ``market.stuck_events``."""

    seq: int
    attempts: int
    code: str
    parked: bool


@dataclass
class Relaying:
    """What the relay's tables hold: sessions, shard locks, progress, stuck events, and what was taken.

    ``taken`` is what each consumer's projection has written, for the checks: (consumer, order) to event
    numbers in the order of their commits.
    """

    database: Postgres
    server: Server
    now_s: Callable[[], float]
    sessions: list[Session] = field(default_factory=list)
    owners: dict[int, Session] = field(default_factory=dict)
    progress: dict[tuple[str, str], int] = field(default_factory=dict)
    stuck: dict[tuple[str, str], StuckEvent] = field(default_factory=dict)
    taken: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    lost: int = 0  # calls of sessions that had ended under their relay

    # Sessions and shards.

    def join(self, process: Process) -> Session:
        """Open a session."""
        session = Session(process, self.server.epoch, self.now_s())
        self.sessions.append(session)
        return session

    def leave(self, session: Session) -> None:
        """End a session, now or with the statement that it runs."""
        if session.running:
            session.left = True
            return
        session.ended = True
        self._end_dead_sessions()

    def finish(self, session: Session) -> None:
        """Note that a statement which the backend had read before its client left is done."""
        session.running -= 1
        session.used_s = self.now_s()
        if session.left:
            self.leave(session)

    def check(self, session: Session) -> None:
        """Refuse a call of a session that has ended, and note that it was used."""
        self._end_dead_sessions()
        if session.ended:
            self.lost += 1
            raise SessionLostError("the server has ended it")
        session.used_s = self.now_s()

    def standing(self) -> Standing:
        """Count sessions and look at the locks."""
        return Standing(len(self.sessions), frozenset(self.owners))

    def take(self, session: Session, shard: int) -> bool:
        """Lock a shard."""
        return self.owners.setdefault(shard, session) is session

    def release(self, session: Session, shard: int) -> None:
        """Unlock a shard."""
        if self.owners.get(shard) is session:
            del self.owners[shard]

    def _end_dead_sessions(self) -> None:
        now_s = self.now_s()
        for session in self.sessions:
            idle = not session.running and now_s - session.used_s > IDLE_TIMEOUT_S
            session.ended = session.ended or idle or session.epoch != self.server.epoch
        self.sessions = [session for session in self.sessions if not session.ended]
        self.owners = {shard: owner for shard, owner in self.owners.items() if not owner.ended}

    # Rows.

    def read(self, shards: Sequence[int], rows_per_shard: int, without: Sequence[str]) -> list[OutboxRow]:
        """Read the first rows of each shard, sorted by position."""
        left = dict.fromkeys(shards, rows_per_shard)
        found = []
        for row in self.database.outbox.values():
            if left.get(row.shard, 0) and row.order_id not in without:
                left[row.shard] -= 1
                found.append(row)
        return found

    def load(self, spans: Sequence[Span]) -> list[EventRecord]:
        """Load events."""
        records = []
        for span in sorted(spans, key=lambda span: span.order_id):
            row = self.database.orders[span.order_id]
            for seq in range(span.first_seq, span.last_seq + 1):
                event = row.events[seq - 1]
                records.append(
                    EventRecord(
                        row.event_ids[seq - 1], span.order_id, seq, KIND_OF[type(event)], "{}", event.at
                    )
                )
        return records

    def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Delete published rows."""
        for row in rows:
            self.database.outbox.pop(row.position, None)

    def lag(self, shards: Sequence[int]) -> list[ShardLag]:
        """Count what waits; ages are not needed here."""
        waiting = [row.shard for row in self.database.outbox.values()]
        return [ShardLag(shard, waiting.count(shard), 0.0) for shard in shards]

    # Consumers.

    def progress_of(self, consumer: str, order_ids: Sequence[str]) -> Mapping[str, Progress]:
        """Look up progress."""
        found = {}
        for order_id in order_ids:
            seq = self.progress.get((consumer, order_id), 0)
            stuck = self.stuck.get((consumer, order_id))
            if stuck is None or stuck.seq != seq + 1:
                found[order_id] = Progress(seq)
            else:
                found[order_id] = Progress(seq, stuck.attempts, stuck.parked)
        return found

    def advance(self, consumer: str, advances: Sequence[Advance], written: Sequence[EventRecord]) -> None:
        """Move progress by compare-and-set and keep what the projection wrote: one transaction."""
        self.refuse_if_moved(consumer, advances)
        for step in advances:
            key = (consumer, step.order_id)
            self.progress[key] = step.to_seq
            if key in self.stuck and self.stuck[key].seq <= step.to_seq:
                del self.stuck[key]
        for record in written:
            self.taken.setdefault((consumer, record.order_id), []).append(record.seq)

    def refuse_if_moved(self, consumer: str, advances: Sequence[Advance]) -> None:
        """Compare progress with what the steps start from."""
        for step in advances:
            if self.progress.get((consumer, step.order_id), 0) != step.progress.seq:
                raise ProgressMovedError(consumer)

    def record_failure(self, consumer: str, failure: Failure) -> bool:
        """Count a failure of an order's next event; whether it is parked now."""
        key = (consumer, failure.order_id)
        if self.progress.setdefault(key, failure.seq - 1) != failure.seq - 1:
            return False
        before = self.stuck.get(key)
        if before is None or before.seq != failure.seq:
            self.stuck[key] = StuckEvent(failure.seq, 1, failure.code, failure.parked)
        else:
            # Two instances may fail on the same event; what one has parked the other must not free.
            parked = before.parked or failure.parked
            self.stuck[key] = StuckEvent(failure.seq, before.attempts + 1, failure.code, parked)
        return self.stuck[key].parked

    def retry_parked(self) -> int:
        """Have every parked event tried again, as an operator does; returns how many."""
        parked = [(key, stuck) for key, stuck in self.stuck.items() if stuck.parked]
        for (consumer, order_id), stuck in parked:
            del self.stuck[consumer, order_id]
            self.database.enqueue(order_id, stuck.seq, self.database.orders[order_id].seq)
        return len(parked)


class SimulatedOutbox:
    """``Outbox`` over the network: one relay's session."""

    def __init__(self, network: Network, process: Process, relaying: Relaying) -> None:
        self._network = network
        self._process = process
        self._relaying = relaying
        self._session: Session | None = None

    async def join(self) -> None:
        """See the port."""
        await self.leave()
        self._session = await self._call("join_relays", self._open)

    async def leave(self) -> None:
        """See the port."""
        session, self._session = self._session, None
        if session is not None:
            self._relaying.leave(session)

    async def standing(self) -> Standing:
        """See the port."""
        return await self._run("standing", lambda _session: self._relaying.standing())

    async def take(self, shard: int) -> bool:
        """See the port."""
        return await self._run("take_shard", lambda session: self._relaying.take(session, shard))

    async def release(self, shard: int) -> None:
        """See the port."""
        await self._run("release_shard", lambda session: self._relaying.release(session, shard))

    async def read(
        self, shards: Sequence[int], rows_per_shard: int, without: Sequence[str]
    ) -> Sequence[OutboxRow]:
        """See the port."""
        return await self._run(
            "read_outbox", lambda _session: self._relaying.read(shards, rows_per_shard, without)
        )

    async def load(self, spans: Sequence[Span]) -> Sequence[EventRecord]:
        """See the port."""
        return await self._run("load_events", lambda _session: self._relaying.load(spans))

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        """See the port."""
        await self._run("delete_published", lambda _session: self._relaying.delete(rows))

    async def lag(self, shards: Sequence[int]) -> Sequence[ShardLag]:
        """See the port."""
        return await self._run("outbox_lag", lambda _session: self._relaying.lag(shards))

    def _open(self) -> Session:
        session = self._relaying.join(self._process)
        self._process.on_death(functools.partial(self._end_soon, session))
        return session

    def _end_soon(self, session: Session) -> None:
        network = self._network
        network.loop.call_later(GONE_NOTICED_S, self._relaying.leave, session, context=network.context)

    async def _run(self, statement: str, work: Callable[[Session], T]) -> T:
        session = self._session
        if session is None:
            raise SessionLostError("there is none")

        received = False

        def receive() -> None:
            nonlocal received
            received = True
            session.running += 1

        def execute() -> T:
            self._relaying.check(session)
            try:
                return work(session)
            finally:
                if received:
                    self._relaying.finish(session)

        try:
            return await self._call(statement, execute, receive)
        except SessionLostError:
            await self.leave()
            raise

    async def _call(
        self, statement: str, execute: Callable[[], T], on_received: Callable[[], None] | None = None
    ) -> T:
        return await self._network.call(
            self._process,
            self._relaying.server,
            f"postgres.{statement}",
            "",
            execute,
            SessionLostError,
            ANSWER_TIMEOUT_S,
            on_received,
        )


class SimulatedConsumerStore:
    """``ConsumerStore`` over the network; a transaction is the list of what the projection writes."""

    def __init__(self, network: Network, process: Process, relaying: Relaying) -> None:
        self._network = network
        self._process = process
        self._relaying = relaying

    async def progress(self, consumer: str, order_ids: Sequence[str]) -> Mapping[str, Progress]:
        """See the port."""
        return await self._call("consumer_progress", lambda: self._relaying.progress_of(consumer, order_ids))

    @asynccontextmanager
    async def advancing(self, consumer: str, advances: Sequence[Advance]) -> AsyncIterator[list[EventRecord]]:
        """See the port; the rows' locks are compared again at the commit, which is as good."""
        await self._call("begin_consumer", lambda: self._relaying.refuse_if_moved(consumer, advances))
        written: list[EventRecord] = []
        yield written
        await self._call("commit_consumer", lambda: self._relaying.advance(consumer, advances, written))

    async def record_failure(self, consumer: str, failure: Failure) -> bool:
        """See the port."""
        return await self._call(
            "record_failure", lambda: self._relaying.record_failure(consumer, failure), failure.order_id
        )

    async def _call(self, statement: str, execute: Callable[[], T], subject: str = "") -> T:
        return await self._network.call(
            self._process,
            self._relaying.server,
            f"postgres.{statement}",
            subject,
            execute,
            _unavailable,
            ANSWER_TIMEOUT_S,
        )


class Counting:
    """A projection that only writes down what it was given."""

    name = "counting"

    async def apply(self, transaction: list[EventRecord], records: Sequence[EventRecord]) -> None:
        """Take everything."""
        transaction += records


class Squeamish:
    """A projection with a bug: it cannot stand the payments of one shard's orders, until it is mended."""

    name = "squeamish"

    def __init__(self, poison_shards: frozenset[int], is_mended: Callable[[], bool]) -> None:
        self._poison_shards = poison_shards
        self._is_mended = is_mended

    async def apply(self, transaction: list[EventRecord], records: Sequence[EventRecord]) -> None:
        """Take everything but the poison."""
        for record in records:
            poisonous = record.kind == "order.paid" and shard_of(record.order_id) in self._poison_shards
            if poisonous and not self._is_mended():
                raise ValueError("the projection has a bug")
        transaction += records


def _unavailable(why: str) -> DependencyError:
    return DependencyError("database_unavailable", f"The database did not answer: {why}.", 2)
