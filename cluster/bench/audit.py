"""``bench audit``: how fast do the events of many orders enter the audit log, and what does one cost?

A scratch Postgres of its own (fsync on) holds delivered orders that the log has not met. One relay with the
consumer ``audit`` and one sequencer with a signer in this process take them in, in the pages in which they do
so in life. The baseline of the same run copies the same facts with a salted digest into a table with the same
indexes by plain SQL: no order, no relay, no tree. The run fails unless the tree is right.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psutil
import psycopg

from actors.audit.sequencer import Sequencer
from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from actors.signer.checkpoints import CheckpointSigner, HeadClaim, LastSigned, SignedHead
from cluster.bench import growth_fill, report
from cluster.bench.own_postgres import own_postgres
from cluster.client import ClientError
from domain.merkle.tree import GrowingTree, leaf_hash
from storage.market.audit_log import SQL, AuditLog, AuditProjection, checkpoint_of, read_newest_notes
from storage.market.consumers import PostgresConsumerStore
from storage.market.outbox import PostgresOutbox
from storage.market.pool import build_pool
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register

ORDERS, ORDERS_MAX = 20_000, 200_000
FILLED = (("events",), ("orders", "licences", "deliveries"))
DATABASE = "bench_audit"
BASELINE = """
CREATE TABLE market.baseline (position bigint PRIMARY KEY, subject_id text UNIQUE, order_id text, seq int,
                              salt bytea, digest bytea);
INSERT INTO market.baseline
SELECT row_number() OVER (), event_id, order_id, seq, salt, sha256(salt || convert_to(record, 'UTF8'))
FROM (SELECT e.*, market.audit_record(e) AS record, uuid_send(gen_random_uuid()) AS salt
      FROM market.order_events AS e) AS facts
"""

Note = Callable[[str], None]


class _Signer:
    """The signer's actor in this process."""

    def __init__(self, dsn: str) -> None:
        self._key = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
        record = register(self._key.public_key, datetime.now(UTC))
        self._checkpoints = CheckpointSigner(lambda: [record], partial(read_newest_notes, dsn))

    async def last_checkpoint(self) -> LastSigned:
        return self._checkpoints.last(self._key)

    async def sign_checkpoint(self, claim: HeadClaim) -> SignedHead:
        return self._checkpoints.sign(claim, self._key)


def run(orders: int, note: Note) -> dict[str, Any]:
    """Fill, measure the baseline and then the log; returns the report.

    Raises:
        LaunchError: Postgres cannot run here.
        ClientError: ``audit_failed``, the tree is not that of the entries, or one is missing.
    """
    with own_postgres() as owner_dsn:
        dsn = growth_fill.create(owner_dsn, DATABASE)
        growth_fill.fill(dsn, orders, note, filled=FILLED)
        with psycopg.connect(dsn, autocommit=True) as connection:
            server = _server(connection)
            began, cpu_s = time.perf_counter(), _cpu_s(server)
            connection.execute(BASELINE.encode())
            baseline_s, baseline_cpu_s = time.perf_counter() - began, _cpu_s(server) - cpu_s
            row = connection.execute("SELECT count(*) FROM market.baseline").fetchone()
            events = int(row[0]) if row else 0
            connection.execute("DROP TABLE market.baseline")
            connection.execute("UPDATE market.audit_log SET history_after = ''")
        note(f"  plain SQL: {events / baseline_s:,.0f} events a second")
        began, cpu_s, own_s = time.perf_counter(), _cpu_s(server), time.process_time()
        rounds = asyncio.run(_take_in(dsn))
        seconds, server_s = time.perf_counter() - began, _cpu_s(server) - cpu_s
        own_s = time.process_time() - own_s
        entries = _require_tree(dsn)
        if entries != events + 2 * orders:  # a licence and a delivery manifest each
            raise ClientError(f"The log has {entries} entries, not all of them.", "audit_failed")
    return {
        "bench": "audit",
        "workload": {
            "what": "events of delivered orders, and their licences and delivery manifests, entering the log",
            "orders": orders,
            "events": events,
            "entries": entries,
        },
        "per_s": round(events / seconds, 1),
        "entries_per_s": round(entries / seconds, 1),
        "seconds": round(seconds, 2),
        "rounds": rounds,
        "cpu_us_per_entry": {
            "postgres": round(server_s * 1e6 / entries, 1),
            "relay": round(own_s * 1e6 / entries, 1),
        },
        "baseline": {
            "what": "INSERT … SELECT of the events with salted digests, one statement",
            "per_s": round(events / baseline_s, 1),
            "cpu_us_per_event": round(baseline_cpu_s * 1e6 / events, 1),
        },
        "machine": report.machine(),
    }


async def _take_in(dsn: str) -> int:
    pool = build_pool(dsn, name="bench-audit", size_max=4)
    await pool.open(wait=True)
    log = AuditLog(pool)
    sequencer = Sequencer(log, _Signer(dsn))
    store = PostgresConsumerStore(pool, lambda: datetime.now(UTC))
    relay = Relay(PostgresOutbox(dsn), PostgresBus([Consumer(store, AuditProjection())]))
    rounds = 0
    try:
        while (await log.state()).history_after is not None:
            await sequencer.once()
            rounds += 1
            while await relay.once():
                pass
        await sequencer.once()
    finally:
        await relay.stop()
        await pool.close()
    return rounds


def _require_tree(dsn: str) -> int:
    tree = GrowingTree()
    with psycopg.connect(dsn) as connection, connection.cursor("entries") as cursor:
        cursor.execute("SELECT digest FROM market.audit_entries ORDER BY position")
        for (digest,) in cursor:
            tree.append(leaf_hash(bytes(digest)))
    with psycopg.connect(dsn) as connection:
        kept = checkpoint_of(connection.execute(SQL["newest_checkpoint"]).fetchall())
    if kept is None or kept.head != tree.head:
        raise ClientError("The last checkpoint is not the root of the entries.", "audit_failed")
    return tree.size


def _server(connection: psycopg.Connection[Any]) -> psutil.Process:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    postmaster = psutil.Process(row[0]).parent() if row else None
    assert postmaster is not None, "a backend has a postmaster"
    return postmaster


def _cpu_s(server: psutil.Process) -> float:
    """CPU seconds of the server's processes so far, those included that have ended."""
    times = server.cpu_times()
    spent = times.user + times.system + times.children_user + times.children_system
    for child in server.children():
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            spent += times.user + times.system
    return spent
