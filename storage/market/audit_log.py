"""The audit log in Postgres: what is appended, and everything that proofs and tiles are read from.

Appending is left to functions of the database's owner, which read the facts themselves (migration 0015); this
module names which. Positions, digests and subtrees are theirs, so two sequencers at once cannot fork the
tree. Hashes are read as rows of at most a tile; what lies between stored levels is made from them
(``domain.merkle.tiles``).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from domain.audit.entries import Entry
from domain.audit.proofs import LogProof
from domain.errors import DependencyError
from domain.events.ports import EventRecord
from domain.merkle import proofs
from domain.merkle.proofs import Stretch
from domain.merkle.tiles import StoredRow, Tile, node_from, parted, row_below
from domain.merkle.tree import HASH_BYTES, Head, cover, fold
from storage.market.pool import CONNECT_TIMEOUT_S, Pool, borrow, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "audit_log.sql").items()}
CONSUMER = "audit"
DOCUMENTS_MAX = 500  # of one append: some 2 MB of envelopes that the database reads and hashes
PAGE_ORDERS = 250  # looked at, and queued, at a time: some 1,700 events, one batch of a relay
PAGES_MAX = 20  # of orders that lack nothing, in one round
BACKLOG_MAX = 500  # commits in the outbox beyond which history waits: what happens now goes first
ENTRIES_MAX = 256  # of one page
NOTES_MAX = 64  # each forged one needs a tree of another size: more are not by accident


@dataclass(frozen=True, slots=True)
class LogState:
    """The log's name and size; ``history_after``: up to which order earlier events were sent, None: all."""

    origin: str
    size: int
    history_after: str | None


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A head that was signed, its note, by which key, and when it was kept (the database's time)."""

    head: Head
    note: str
    key_id: str
    at: datetime


class AuditProjection:
    """The consumer ``audit``: appends orders' events, in the transaction that moves its progress."""

    name = CONSUMER

    async def apply(self, transaction: AsyncConnection[TupleRow], records: Sequence[EventRecord]) -> None:
        """Append the records, an order's as one stretch."""
        spans = []
        for order_id, run in groupby(records, key=lambda record: record.order_id):
            seqs = [record.seq for record in run]
            spans.append({"order_id": order_id, "first_seq": seqs[0], "last_seq": seqs[-1]})
        await transaction.execute(SQL["append_order_events"], {"spans": orjson.dumps(spans).decode()})


class AuditLog:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def state(self) -> LogState:
        """Read the log's name and size."""
        return LogState(*(await fetch(self._pool, SQL["state"], {}))[0])

    async def newest_checkpoint(self) -> KeptCheckpoint | None:
        """Read the last checkpoint."""
        return checkpoint_of(await fetch(self._pool, SQL["newest_checkpoint"], {}))

    async def checkpoint_before(self, before: datetime) -> KeptCheckpoint | None:
        """Read the last checkpoint that was kept before a time."""
        return checkpoint_of(await fetch(self._pool, SQL["checkpoint_before"], {"before": before}))

    async def checkpoint_of_size(self, size: int) -> KeptCheckpoint | None:
        """Read the first checkpoint of a size."""
        return checkpoint_of(await fetch(self._pool, SQL["checkpoint_of_size"], {"size": size}))

    async def keep_checkpoint(self, head: Head, key_id: str, note: str) -> bool:
        """Keep a signed head; False when it is kept already.

        Raises:
            DependencyError: ``checkpoint_refused``; it does not follow the last one.
        """
        values = {"size": head.size, "key_id": key_id, "root": head.root, "note": note}
        try:
            return bool((await fetch(self._pool, SQL["keep_checkpoint"], values))[0][0])
        except psycopg.IntegrityError as error:
            raise DependencyError(
                "checkpoint_refused", "The database holds a checkpoint that this one does not follow."
            ) from error

    async def append_waiting_documents(self, limit: int = DOCUMENTS_MAX) -> int:
        """Append documents that no order event issued; returns how many."""
        return int((await fetch(self._pool, SQL["append_waiting_documents"], {"limit": limit}))[0][0])

    async def send_unlogged(self, after: str, *, keep: bool) -> str | None:
        """Have events published again that orders above ``after`` recorded and the log has not taken.

        Goes on for pages of orders that lack nothing, and ends with one that lacked something, or when enough
        waits in the outbox already. Returns where to go on, None at the end; ``keep`` puts that on record.
        """
        going: str | None = after
        for _ in range(PAGES_MAX):
            ((waiting,),) = await fetch(self._pool, SQL["backlog"], {"limit": BACKLOG_MAX})
            if waiting >= BACKLOG_MAX or going is None:
                break
            values = {"after": going, "limit": PAGE_ORDERS, "consumer": CONSUMER}
            ((last, count, behind),) = await fetch(self._pool, SQL["send_unlogged"], values)
            going = last if count == PAGE_ORDERS else None
            if behind:
                break
        if keep and going != after:
            async with borrow(self._pool) as connection:
                await connection.execute(SQL["history_sent"], {"after": going})
        return going

    async def head(self, size: int) -> Head:
        """Return the tree of the first ``size`` entries."""
        nodes = list(cover(0, size))
        return Head(size, fold(await self._rows_folded([row_below(node) for node in nodes])))

    async def proof(self, stretches: Sequence[Stretch]) -> list[bytes]:
        """Return the proof that these stretches make up (``domain.merkle.proofs``)."""
        nodes = proofs.nodes(stretches)
        hashes = await self._rows_folded([row_below(node) for node in nodes])
        return proofs.assemble(stretches, dict(zip(nodes, hashes, strict=True)))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the tree of ``new`` entries begins with that of ``old``."""
        return await self.proof(proofs.consistency(old, new))

    async def inclusion(self, entry: Entry, size: int) -> LogProof | None:
        """Return the proof that an entry is in the tree of ``size``; None if it came later or was erased."""
        if entry.salt is None or entry.position >= size:
            return None
        path = await self.proof(proofs.inclusion(entry.position, size))
        return LogProof(entry.position, entry.salt, size, tuple(path))

    async def tile(self, tile: Tile) -> bytes | None:
        """Return a tile's hashes; None while the tree has not got them all."""
        (row,) = await self._rows([StoredRow(tile.level, tile.begin, tile.width)])
        return row if len(row) == tile.width * HASH_BYTES else None

    async def bundle(self, tile: Tile) -> list[bytes] | None:
        """Return the entries below a tile of level 0; None while there are not all of them."""
        values = {"begin": tile.begin, "end": tile.begin + tile.width}
        rows = await fetch(self._pool, SQL["digests"], values)
        return [bytes(row[0]) for row in rows] if len(rows) == tile.width else None

    async def entry(self, subject_id: str) -> Entry | None:
        """Read the entry of an event, licence or delivery, with what it is about."""
        rows = await fetch(self._pool, SQL["entry"], {"subject_id": subject_id})
        return _entry(rows[0]) if rows else None

    async def entries(self, begin: int, limit: int = ENTRIES_MAX) -> list[Entry]:
        """Read entries from a position on, with what they are about."""
        values = {"begin": begin, "end": begin + min(limit, ENTRIES_MAX)}
        return [_entry(row) for row in await fetch(self._pool, SQL["entries"], values)]

    async def is_party(self, subject_id: str, buyer_id: str) -> bool:
        """Whether an entry is about this buyer's order or document."""
        values = {"subject_id": subject_id, "buyer_id": buyer_id}
        return bool((await fetch(self._pool, SQL["is_party"], values))[0][0])

    async def _rows_folded(self, rows: Sequence[StoredRow]) -> list[bytes]:
        hashes = []
        for row, joined in zip(rows, await self._rows(rows), strict=True):
            parts = parted(joined)
            if len(parts) != row.count:
                raise DependencyError(
                    "audit_log_damaged", "The audit log lacks hashes that it must have.", 10
                )
            hashes.append(node_from(parts))
        return hashes

    async def _rows(self, rows: Sequence[StoredRow]) -> list[bytes]:
        if not rows:
            return []
        values = {"rows": orjson.dumps([asdict(row) for row in rows]).decode()}
        return [bytes(row[0]) for row in await fetch(self._pool, SQL["rows"], values)]


def read_newest_notes(dsn: str, key_ids: Sequence[str]) -> list[str] | None:
    """Read the notes of these keys' last checkpoints, newest first, over a connection of one's own.

    At most ``NOTES_MAX``; None while nobody has signed any. Nothing is verified: a note may name a key that
    did not sign it.

    Raises:
        psycopg.Error: when the database is unreachable.
    """
    values = {"key_ids": list(key_ids), "limit": NOTES_MAX}
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        notes = [row[0] for row in connection.execute(SQL["newest_checkpoints_by"], values)]
        known = notes or connection.execute(SQL["has_checkpoints"]).fetchall()[0][0]
        return notes if known else None


def checkpoint_of(rows: Sequence[TupleRow]) -> KeptCheckpoint | None:
    """Read the one row of a checkpoint's query."""
    if not rows:
        return None
    size, root, note, key_id, at = rows[0]
    return KeptCheckpoint(Head(size, bytes(root)), note, key_id, at)


def _entry(row: TupleRow) -> Entry:
    position, kind, subject_id, salt, digest, record = row
    return Entry(position, kind, subject_id, None if salt is None else bytes(salt), bytes(digest), record)
