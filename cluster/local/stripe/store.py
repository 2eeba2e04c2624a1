"""sqlite: the one place where objects, events, idempotency records and deliveries are.

Writes go into one open transaction at once, so that later reads on this connection see them; the commit is
shared by all requests of the same moment, and a reply waits for it (``settled``). So nothing that was
acknowledged is lost when the process is killed. When a write or a commit fails, everything of that
transaction is rolled back and every waiting request is told. Runs on the event loop's thread: a commit
writes to the page cache only; the slow part, the checkpoint, runs in a thread on its own connection.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.local.stripe.kinds import is_kind
from cluster.local.stripe.refusals import not_found
from cluster.local.stripe.rows import (
    INSERT_DELIVERY,
    INSERT_EVENT,
    INSERT_IDEMPOTENCY,
    UPSERT,
    Delivery,
    IdempotencyRecord,
    page_statement,
    range_of,
)
from cluster.local.stripe.schema import connect, open_database
from cluster.local.stripe.turn import PageQuery, Turn

# What somebody waits for is committed together with what comes in this time: a commit costs as much as all
# other work of a request, and Stripe itself takes a hundred times longer to answer.
URGENT_COMMIT_DELAY_S = 0.002
LAZY_COMMIT_DELAY_S = 0.05  # for what nobody waits for: a webhook's success, at worst sent twice
WAL_BYTES_BEFORE_CHECKPOINT = 67_108_864  # keeps restarts and disk use small, and writes hot pages rarely
IDEMPOTENCY_KEPT_S = 24 * 3_600  # Stripe prunes keys after 24 hours
DELIVERY_KEPT_S = 3 * 24 * 3_600  # finished deliveries, for people who look into what happened
PRUNE_BATCH = 1_000  # rows per visit: a few milliseconds

LOG = logging.getLogger(__name__)


class StoreFailedError(Exception):
    """The database did not take a transaction; nothing of it was kept."""


class Store:
    """One per process. ``on_commit`` hears of the deliveries that a commit made due."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_database(path)
        self._waiters: list[asyncio.Future[None]] = []
        self._fresh: list[Delivery] = []
        self._timer: asyncio.Handle | None = None
        self._urgent = False
        self.rollbacks = 0  # what was read from a transaction that was rolled back is void
        self._last_delivery_id: int = self._one("SELECT coalesce(max(id), 0) FROM deliveries")
        self.on_commit: Callable[[list[Delivery]], None] = lambda _fresh: None

    # -- reading ------------------------------------------------------------------------------------------

    def load(self, kind: str, object_id: str) -> bytes | None:
        """Return an object's JSON, or None."""
        if not is_kind(kind, object_id):
            return None
        row = self._db.execute("SELECT body FROM objects WHERE id = ?", (object_id,)).fetchone()
        return row[0] if row else None

    def children(self, kind: str, parent: str) -> Sequence[bytes]:
        """Return the objects of ``kind`` that belong to ``parent``, oldest first."""
        rows = self._db.execute("SELECT id, body FROM objects WHERE parent = ? ORDER BY id", (parent,))
        return [body for object_id, body in rows if is_kind(kind, object_id)]

    def all_of(self, kind: str) -> Sequence[bytes]:
        """Return every object of a kind that is few by nature, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM objects WHERE id >= ? AND id < ? ORDER BY id", range_of(kind)
        )
        return [row[0] for row in rows]

    def page(self, query: PageQuery) -> tuple[Sequence[bytes], bool]:
        """Return a page of objects, newest first, and whether there are more.

        Raises:
            RefusedError: 404 for a cursor that names no object of this kind.
        """
        for cursor, name in (
            (query.starting_after, "starting_after"),
            (query.ending_before, "ending_before"),
        ):
            if cursor is not None and self.load(query.kind, cursor) is None:
                raise not_found(query.kind, cursor, name)
        rows = self._db.execute(*page_statement(query)).fetchall()
        bodies = [row[0] for row in rows[: query.limit]]
        return (bodies[::-1] if query.ending_before is not None else bodies), len(rows) > query.limit

    def due_objects(self, now: int, limit: int) -> Sequence[str]:
        """Return ids of objects whose time has come, the longest overdue first."""
        rows = self._db.execute(
            "SELECT id FROM objects WHERE due_at <= ? ORDER BY due_at LIMIT ?", (now, limit)
        )
        return [row[0] for row in rows]

    def find_idempotency(self, key: str, now: int) -> IdempotencyRecord | None:
        """Return the first answer to ``key`` unless it is too old."""
        row = self._db.execute(
            "SELECT key, fingerprint, status, body, request_id, created_at FROM idempotency "
            "WHERE key = ? AND created_at > ?",
            (key, now - IDEMPOTENCY_KEPT_S),
        ).fetchone()
        return IdempotencyRecord(*row) if row else None

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, turn: Turn, record: IdempotencyRecord | None) -> None:
        """Put a turn and its answer into the open transaction; ``settled`` tells when they are safe.

        Raises:
            StoreFailedError: nothing was kept.
        """
        fresh: list[Delivery] = []
        try:
            self._begin()
            execute = self._db.execute
            self._db.executemany(UPSERT, [stored.row() for stored in turn.changed.values()])
            for object_id in turn.removed:
                execute("DELETE FROM objects WHERE id = ?", (object_id,))
            for event in turn.events:
                execute(INSERT_EVENT, (event.event_id, event.type, event.created_at, event.body))
                fresh += [
                    self._insert_delivery(event.event_id, endpoint_id, turn.now_ms, event.body)
                    for endpoint_id in event.endpoint_ids
                ]
            if record is not None:
                execute(
                    INSERT_IDEMPOTENCY,
                    (
                        record.key,
                        record.fingerprint,
                        record.status,
                        record.body,
                        record.request_id,
                        record.created_at,
                    ),
                )
        except sqlite3.Error as error:
            self._fail(error)
            raise StoreFailedError(str(error)) from error
        self._fresh.extend(fresh)
        self._schedule(urgent=True)

    async def settled(self) -> None:
        """Wait until everything that was written or read so far is committed.

        Raises:
            StoreFailedError: it was rolled back.
        """
        if not self._db.in_transaction:
            return
        self._schedule(urgent=True)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def execute_lazily(self, statement: str, values: Sequence[Any]) -> None:
        """Run a write that nobody waits for; it is committed within ``LAZY_COMMIT_DELAY_S``.

        Raises:
            StoreFailedError: nothing was kept.
        """
        try:
            self._begin()
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            self._fail(error)
            raise StoreFailedError(str(error)) from error
        self._schedule(urgent=False)

    def after(self, kind: str, object_id: str, limit: int) -> list[tuple[str, bytes]]:
        """Return (id, JSON) of up to ``limit`` objects of a kind that came after ``object_id``, in order."""
        first, end = range_of(kind)
        return self.query(
            "SELECT id, body FROM objects WHERE id > ? AND id < ? ORDER BY id LIMIT ?",
            (max(object_id, first), end, limit),
        )

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a read."""
        return self._db.execute(statement, values).fetchall()

    def add_delivery(self, event_id: str, endpoint_id: str, due_at_ms: int, body: bytes) -> None:
        """Send an event to an endpoint once more.

        Raises:
            StoreFailedError: nothing was kept.
        """
        try:
            self._begin()
            self._fresh.append(self._insert_delivery(event_id, endpoint_id, due_at_ms, body))
        except sqlite3.Error as error:
            self._fail(error)
            raise StoreFailedError(str(error)) from error
        self._schedule(urgent=True)

    # -- housekeeping -------------------------------------------------------------------------------------

    def prune(self, now: int) -> None:
        """Remove what is too old to matter, a bounded number of rows at a time.

        Raises:
            StoreFailedError: nothing was kept.
        """
        self.execute_lazily(
            "DELETE FROM idempotency WHERE seq IN "
            "(SELECT seq FROM idempotency ORDER BY seq LIMIT ?) AND created_at <= ?",
            (PRUNE_BATCH, now - IDEMPOTENCY_KEPT_S),
        )
        self.execute_lazily(
            "DELETE FROM deliveries WHERE id IN "
            "(SELECT id FROM deliveries ORDER BY id LIMIT ?) AND finished_at <= ?",
            (PRUNE_BATCH, now - DELIVERY_KEPT_S),
        )

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the database once it is large.

        The bulk and its fsync happen in a thread; the rest, written meanwhile, is moved at once here, so that
        the next write starts the log over.
        """
        log_path = self._path.with_name(self._path.name + "-wal")
        try:
            if log_path.stat().st_size < WAL_BYTES_BEFORE_CHECKPOINT:
                return
        except FileNotFoundError:
            return
        await asyncio.to_thread(self._checkpoint_apart)
        self._commit()  # a checkpoint cannot run inside the open transaction
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Commit what is open and close; the log is folded into the database."""
        self._commit()
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._db.close()

    def _checkpoint_apart(self) -> None:
        with contextlib.closing(connect(self._path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _insert_delivery(self, event_id: str, endpoint_id: str, due_at_ms: int, body: bytes) -> Delivery:
        self._last_delivery_id += 1
        self._db.execute(INSERT_DELIVERY, (self._last_delivery_id, event_id, endpoint_id, due_at_ms))
        return Delivery(self._last_delivery_id, event_id, endpoint_id, 0, body)

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _schedule(self, *, urgent: bool) -> None:
        if self._timer is not None:
            if self._urgent or not urgent:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._urgent = urgent
        self._timer = loop.call_later(URGENT_COMMIT_DELAY_S if urgent else LAZY_COMMIT_DELAY_S, self._commit)

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._db.in_transaction:
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(error)
            return
        waiters, self._waiters = self._waiters, []
        fresh, self._fresh = self._fresh, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if fresh:
            self.on_commit(fresh)

    def _fail(self, error: sqlite3.Error) -> None:
        """Roll the open transaction back and tell everyone who is in it."""
        LOG.error("the database refused a transaction: %s", error)
        self.rollbacks += 1
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        waiters, self._waiters = self._waiters, []
        self._fresh = []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(StoreFailedError(str(error)))

    def _one(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()[0]
