"""Planted bugs in what the store promises, and in the relay and its consumers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from actors.orders import sweep as sweep_module
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from cluster.simulation.order_store import SimulatedOrderStore
from cluster.simulation.outbox import Relaying
from cluster.simulation.postgres import Postgres
from domain.ids import derive_id
from tests.simulation.planting import Patch, planted

# The store's promises.


@planted(0)
def no_fencing(patch: Patch) -> None:
    """The commit does not compare the sequence number."""
    patch.setattr(Postgres, "fence_holds", lambda _self, _row, _turn: True)


@planted(0)
def stale_decision_written_on_top(patch: Patch) -> None:
    """A host that lost the race numbers its events anew instead of deciding again: "I hold the lease"."""

    async def commit(self: SimulatedOrderStore, turn: Any) -> bool:
        def write() -> bool:
            row = self._database.orders[turn.order.order_id]
            moved = replace(turn.order, seq=row.seq + len(turn.events))
            return self._database.commit(replace(turn, order=moved, fence=row.seq))

        return await self._run("commit", turn.order.order_id, write)

    patch.setattr(SimulatedOrderStore, "commit", commit)


@planted(0)
def idempotency_key_not_unique(patch: Patch) -> None:
    """A used key does not stop a second order."""
    real = Postgres.place

    def place(self: Postgres, turn: Any, idempotency: Any) -> bool:
        self.commands.pop((turn.order.buyer_id, idempotency.key), None)
        return real(self, turn, idempotency)

    patch.setattr(Postgres, "place", place)


@planted(0)
def claim_moves_no_due_time(patch: Patch) -> None:
    """A sweep takes rows without a lease, and so does every other sweep."""
    patch.setattr(sweep_module, "LEASE_S", 0.0)


@planted(0)
def effect_row_deleted_when_claimed(patch: Patch) -> None:
    """The to-do is removed before its result is recorded."""
    real = Postgres.claim_due_effects

    def claim(self: Postgres, *args: Any) -> Any:
        claimed = real(self, *args)
        for effect in claimed:
            del self.effects[effect.order_id, effect.step]
        return claimed

    patch.setattr(Postgres, "claim_due_effects", claim)


@planted(0)
def timers_on_the_hosts_clock(patch: Patch) -> None:
    """What is due is decided by the clock of the host that asks."""
    real = SimulatedOrderStore._claim_effects

    def claim(self: SimulatedOrderStore, *args: Any) -> Any:
        database, skew_s = self._database, self.connection.process.skew_s
        kept = database.clock
        database.clock = lambda: kept() + timedelta(seconds=skew_s)
        try:
            return real(self, *args)
        finally:
            database.clock = kept

    patch.setattr(SimulatedOrderStore, "_claim_effects", claim)


@planted(0)
def event_ids_from_the_wall_clock(patch: Patch) -> None:
    """An event's id is when it was written, not which one it is."""
    patch.setattr(
        Postgres,
        "event_id",
        lambda self, order_id, _seq: derive_id("evt", order_id, self.clock().isoformat()),
    )


@planted(0)
def webhook_acknowledged_before_it_is_stored(patch: Patch) -> None:
    """No host could be reached; 200 is answered all the same."""

    async def store_webhook(self: SimulatedOrderStore, news: Any) -> tuple[bool, bool]:
        return news.order_id in self._database.orders, True

    patch.setattr(SimulatedOrderStore, "store_webhook", store_webhook)


@planted(0)
def dropped_letter_comes_back(patch: Patch) -> None:
    """A webhook that an operator dropped is a dead letter again when Stripe repeats it."""
    real = Postgres.bury_webhook

    def bury(self: Postgres, news: Any, code: str, error: str) -> None:
        if news.event_id in self.inbox:
            self.inbox[news.event_id].processed = False
        real(self, news, code, error)

    patch.setattr(Postgres, "bury_webhook", bury)


@planted(0)
def licence_row_of_another_sku(patch: Patch) -> None:
    """A licence's row takes its SKU from another order of the same commit."""
    real = Postgres._write

    def write(self: Postgres, turn: Any, seq_before: int) -> None:
        licences = [replace(one, sku_id="sku_of_another") for one in turn.licences]
        real(self, replace(turn, licences=licences), seq_before)

    patch.setattr(Postgres, "_write", write)


# The relay and its consumers.


@planted(0)
def published_marked_early(patch: Patch) -> None:
    """Outbox rows are deleted before their events are acknowledged."""
    real = Relay._publish

    async def publish(self: Relay, batches: Any) -> None:
        await self._outbox.delete([row for batch in batches for row in batch.rows])
        await real(self, batches)

    patch.setattr(Relay, "_publish", publish)


@planted(0)
def refused_event_passed_by(patch: Patch) -> None:
    """An order whose event the bus refuses goes on with its next one."""

    async def deliver(self: Relay, records: Any) -> Any:
        answers = await real(self, records)
        return [None] * len(answers)

    real = Relay._deliver
    patch.setattr(Relay, "_deliver", deliver)


@planted(0)
def consumer_takes_duplicates(patch: Patch) -> None:
    """A consumer takes the first event that it is sent for the next one."""

    async def new_to_us(self: Consumer[Any], records: Any, outcomes: Any) -> Any:
        first: dict[str, int] = {}
        for record in records:
            first.setdefault(record.order_id, record.seq)

        async def progress(_consumer: str, order_ids: Any) -> Any:
            found = await store.progress(_consumer, order_ids)
            return {order_id: replace(one, seq=first[order_id] - 1) for order_id, one in found.items()}

        store = self._store
        return await real(Consumer(SimpleNamespace(progress=progress), self._projection), records, outcomes)  # type: ignore[arg-type]

    real = Consumer._new_to_us
    patch.setattr(Consumer, "_new_to_us", new_to_us)
    patch.setattr(Relaying, "refuse_if_moved", lambda _self, _consumer, _advances: None)


@planted(35)
def progress_not_compared_at_commit(patch: Patch) -> None:
    """Two instances of a consumer both take what both have read as new."""
    patch.setattr(Relaying, "refuse_if_moved", lambda _self, _consumer, _advances: None)


@planted(0)
def poison_blocks_everything(patch: Patch) -> None:
    """An event that a consumer cannot stand is tried for ever, and its batch with it."""

    async def take(self: Consumer[Any], orders: Any, outcomes: Any) -> None:
        if orders:
            try:
                await self._apply(orders)
            except Exception as failure:  # noqa: BLE001 - one for all, that is the bug
                for order in orders:
                    for place in order.places:
                        outcomes[place] = failure

    patch.setattr(Consumer, "_take", take)


@planted(0)
def parked_order_goes_on_behind_the_poison(patch: Patch) -> None:
    """A parked event is skipped, and its order's later events are taken without it."""

    async def park(self: Consumer[Any], record: Any, progress: Any, failure: Exception) -> bool:
        parked = await real(self, record, progress, failure)
        if parked:
            self._store._relaying.progress[self.name, record.order_id] = record.seq  # type: ignore[attr-defined]
            self._store._relaying.stuck.pop((self.name, record.order_id), None)  # type: ignore[attr-defined]
        return parked

    real = Consumer._park
    patch.setattr(Consumer, "_park", park)


@planted(4)
def late_failure_unparks_an_event(patch: Patch) -> None:
    """The failure of an instance that lagged behind overwrites that the event was parked."""
    real = Relaying.record_failure

    def record(self: Relaying, consumer: str, failure: Any) -> Any:
        before = self.stuck.get((consumer, failure.order_id))
        parked = real(self, consumer, failure)
        after = self.stuck.get((consumer, failure.order_id))
        if before is not None and after is not None and after is not before:
            after.parked = parked = failure.parked
        return parked

    patch.setattr(Relaying, "record_failure", record)


@planted(0)
def outbox_read_from_a_cursor(patch: Patch) -> None:
    """A relay remembers the highest position that it has seen and never looks below it again."""

    def read(self: Any, shards: Any, rows_per_shard: int, without: Any) -> Any:
        rows = [row for row in real(self, shards, 10_000, without) if row.position > self.cursor]
        self.cursor = max([row.position for row in rows], default=self.cursor)
        return rows

    real = Relaying.read
    patch.setattr(Relaying, "read", read)
    patch.setattr(Relaying, "cursor", 0, raising=False)
