"""The audit log on a real Postgres, with a signer in this process: what tests of it share."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg

from actors.audit.sequencer import Sequencer
from actors.relay.bus import PostgresBus
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from actors.signer.checkpoints import CheckpointSigner, HeadClaim, LastSigned, SignedHead
from domain.audit.entries import Entry
from domain.events import shard_of
from domain.events.ports import EventRecord, Span
from domain.ids import derive_id, new_id
from domain.merkle.tree import GrowingTree, Head, leaf_hash
from domain.signing import KeyRecord, Signer
from storage.market.audit_log import AuditLog, AuditProjection, read_newest_notes
from storage.market.consumers import PostgresConsumerStore
from storage.market.outbox import PostgresOutbox
from storage.market.pool import Pool

COMMIT = """
WITH moved AS (
    INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)
    VALUES (%(order_id)s, %(buyer_id)s, 'created', %(count)s, 'USD', 1)
    ON CONFLICT (order_id) DO UPDATE SET seq = orders.seq + %(count)s
    RETURNING order_id, seq
)
INSERT INTO market.outbox (shard, order_id, first_seq, last_seq)
SELECT %(shard)s, order_id, seq - %(count)s + 1, seq FROM moved RETURNING first_seq
"""
EVENT = (
    "INSERT INTO market.order_events (order_id, seq, event_id, kind, data)"
    ' VALUES (%s, %s, %s, %s, \'{"note": "é ü", "a": 1}\')'
)


def new_order() -> str:
    return new_id("ord", 1_764_000_000_000, secrets.token_bytes(10))


def commit(
    owner: psycopg.Connection[Any], order_id: str, *kinds: str, buyer_id: str = "buyer_ada"
) -> list[str]:
    """Record events of an order as its own commit would, outbox row and all; returns their ids."""
    with owner.transaction():
        values = {
            "order_id": order_id,
            "buyer_id": buyer_id,
            "count": len(kinds),
            "shard": shard_of(order_id),
        }
        row = owner.execute(COMMIT, values).fetchone()
        assert row is not None
        ids = []
        for seq, kind in enumerate(kinds, row[0]):
            ids.append(derive_id("evt", order_id, str(seq)))
            owner.execute(EVENT, [order_id, seq, ids[-1], kind])
    return ids


class LocalSigner:
    """The signer's actor in this process: a key, the keys on record, and the checkpoint signer over a DSN."""

    def __init__(self, dsn: str, key: Signer, record: Sequence[KeyRecord]) -> None:
        self.key = key
        self.record = list(record)
        self._dsn = dsn
        self.restart()

    def restart(self) -> None:
        self.checkpoints = CheckpointSigner(lambda: self.record, partial(read_newest_notes, self._dsn))

    async def last_checkpoint(self) -> LastSigned:
        return self.checkpoints.last(self.key)

    async def sign_checkpoint(self, claim: HeadClaim) -> SignedHead:
        return self.checkpoints.sign(claim, self.key)


class LogWorld:
    """Relay, consumer ``audit`` and sequencer over one database, as the relay's process has them."""

    def __init__(self, dsn: str, pool: Pool, signer: LocalSigner) -> None:
        self.log = AuditLog(pool)
        self.signer = signer
        self.sequencer = Sequencer(self.log, signer)
        store = PostgresConsumerStore(pool, lambda: datetime.now(UTC))
        self.consumer = Consumer(store, AuditProjection())
        self.outbox = PostgresOutbox(dsn)
        self.relay = Relay(self.outbox, PostgresBus([self.consumer]))

    async def drain(self) -> None:
        """Publish all that waits, then run rounds of the sequencer until nothing is left."""
        while True:
            while await self.relay.once() or await self.waits():
                pass
            state = await self.log.state()
            await self.sequencer.once()
            if state.history_after is None and not await self.waits():
                break

    async def whole(self) -> tuple[list[Entry], Head]:
        """Read everything in the log, in its order, and the head that it makes by the plain definition."""
        found: list[Entry] = []
        tree = GrowingTree()
        while page := await self.log.entries(len(found)):
            found += page
        for one in found:
            tree.append(leaf_hash(one.digest))
        return found, tree.head

    async def load(self, order_id: str, last_seq: int) -> Sequence[EventRecord]:
        """Read an order's events as a relay would."""
        if not self.relay.owned:
            await self.outbox.join()
        return await self.outbox.load([Span(order_id, 1, last_seq)])

    async def waits(self) -> bool:
        """Whether the outbox holds anything."""
        return bool(await self.outbox.read(sorted(self.relay.owned), 1, []))

    async def close(self) -> None:
        await self.relay.stop()
