"""Planted bugs: each patches production code (or a port's promise) in the way in which people get it wrong.

``PLANTED`` maps a name to the patch and to the first seed in which it is known to show, so that the suite
looks there first. docs/simulation.md lists them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from actors.grains.runtime import Grains, StaleStateError
from actors.orders import breakers
from actors.orders import host as host_module
from actors.orders import sweep as sweep_module
from actors.orders.effects import EffectResult, Effects
from actors.orders.host import OrderHost, PlacedOrder, ReleasedKey
from actors.orders.sweep import Sweep
from actors.relay.consumer import Consumer
from actors.relay.relay import Relay
from cluster.simulation.order_store import SimulatedOrderStore
from cluster.simulation.outbox import Relaying
from cluster.simulation.postgres import Postgres
from domain.errors import BusyError, ConflictError, DependencyError, NotFoundError, RejectedError
from domain.ids import derive_id
from domain.orders import commands as c
from domain.orders import decide as decide_module
from domain.orders.booking import capture_entry_key
from domain.orders.decide import decide
from domain.orders.events import OrderPaid, PaymentVoided
from domain.orders.ports import RecordedCommand
from domain.orders.state import Status
from storage.stripe_gateway import StripeGateway

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Planted:
    """One bug: how to plant it, and the first seed in which it showed when this was written."""

    plant: Callable[[Patch], None]
    shows_at: int


PLANTED: dict[str, Planted] = {}


def planted(shows_at: int) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTED[plant.__name__] = Planted(plant, shows_at)
        return plant

    return register


# The store's promises.


@planted(1)
def no_fencing(patch: Patch) -> None:
    """The commit does not compare the sequence number."""
    patch.setattr(Postgres, "fence_holds", lambda _self, _row, _turn: True)


@planted(1)
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


# The host.


@planted(21)
def webhook_marked_before_its_effect(patch: Patch) -> None:
    """The inbox says "done" first; then the order is changed, unless something happens in between."""

    async def receive(self: OrderHost, news: Any) -> str:
        known, stored = await self._store.store_webhook(news)
        if not known:
            raise NotFoundError("order_not_found", "There is no such order.")
        if not stored and not news.attempts:
            return "no_change"
        await self._store.settle_webhook(news, "applied")
        try:
            await self.execute(news.order_id, self._command_of(news), EffectResult())
        except (RejectedError, ConflictError) as refused:
            self._store._database.inbox[news.event_id].processed = False  # type: ignore[attr-defined]
            await self._store.bury_webhook(news, refused.code, str(refused))
            return refused.code
        return "applied"

    patch.setattr(OrderHost, "receive", receive)


@planted(0)
def cached_state_kept_after_a_lost_race(patch: Patch) -> None:
    """A grain whose commit was fenced off decides again on the same old state."""

    async def run(self: Grains[Any], key: str, grain: Any, act: Any) -> Any:
        for _ in range(4):
            fresh = not grain.loaded
            if fresh:
                grain.state = await self._load(key)
                grain.loaded = True
            try:
                grain.state, reply = await act(grain.state, fresh)
            except StaleStateError:
                continue
            return reply
        raise BusyError("order_contended", "Try again shortly.")

    patch.setattr(Grains, "_run", run)


@planted(5)
def lost_commit_taken_for_done(patch: Patch) -> None:
    """The connection broke inside COMMIT; the host goes on as if it had been committed."""
    real = SimulatedOrderStore.commit

    async def commit(self: SimulatedOrderStore, turn: Any) -> bool:
        try:
            return await real(self, turn)
        except DependencyError:
            return True

    patch.setattr(SimulatedOrderStore, "commit", commit)


@planted(12)
def cancelled_turn_keeps_its_lock(patch: Patch) -> None:
    """A caller gives up in the middle of a turn, and the order's mailbox stays shut in this host."""

    async def turn(self: Grains[Any], key: str, act: Any) -> Any:
        grain = self._activate(key)
        await self._enter(grain)
        try:
            reply = await self._run(key, grain, act)
        except Exception:
            grain.lock.release()
            raise
        grain.lock.release()
        return reply

    patch.setattr(Grains, "turn", turn)


@planted(3)
def joined_effect_dropped_when_the_signer_fails(patch: Patch) -> None:
    """The booking is committed alone, and the fulfilment that should have joined it is forgotten."""
    real = OrderHost._join

    async def join(self: OrderHost, turn: Any) -> Any:
        joined = await real(self, turn)
        return replace(joined, due=[effect for effect in joined.due if not effect.joins])

    patch.setattr(OrderHost, "_join", join)


@planted(9)
def shutdown_parks_what_still_runs(patch: Patch) -> None:
    """A host that stops puts off the work in its hands so far that nobody takes it up."""
    real = OrderHost.close

    async def close(self: OrderHost) -> None:
        for order_id, step in list(self._running):
            with contextlib.suppress(DependencyError):
                await self._store.defer_effect(order_id, step, 1e7, "host is stopping")
        await real(self)

    patch.setattr(OrderHost, "close", close)


@planted(0)
def key_handed_out_before_it_is_recorded(patch: Patch) -> None:
    """The buyer gets the key; the event follows in the background."""

    async def release_key(self: OrderHost, order_id: str, delivery_id: str) -> ReleasedKey:
        released = ReleasedKey(*await self._effects.open_identity(order_id, delivery_id))
        record = c.ReleaseDeliveryKey(delivery_id, self._clock())
        self._start(self.execute(order_id, record))  # type: ignore[arg-type]
        return released

    patch.setattr(OrderHost, "release_key", release_key)


@planted(0)
def replay_ignores_the_body(patch: Patch) -> None:
    """A used key answers any request with the first one's order."""
    real = OrderHost._replay

    async def replay(self: OrderHost, buyer_id: str, idempotency: Any) -> PlacedOrder:
        recorded: RecordedCommand | None = await self._store.find_command(buyer_id, idempotency.key)
        if recorded is not None:
            idempotency = replace(idempotency, request_digest=recorded.request_digest)
        return await real(self, buyer_id, idempotency)

    patch.setattr(OrderHost, "_replay", replay)


# Recovery.


@planted(0)
def no_recovery_scan(patch: Patch) -> None:
    """Nobody finishes what a dead host left."""
    patch.setattr(Sweep, "start", lambda _self: None)


@planted(0)
def recovery_only_at_start(patch: Patch) -> None:
    """Hosts look once, when they start."""

    def start(self: Sweep) -> None:
        self._lanes = [asyncio.create_task(self.once())]  # type: ignore[list-item]

    patch.setattr(Sweep, "start", start)


@planted(0)
def passing_failure_is_final(patch: Patch) -> None:
    """An effect whose other side is down for a moment becomes a dead letter."""
    for module in (host_module, sweep_module):
        patch.setattr(module, "is_final", lambda _failure, _attempts: True)


@planted(4)
def unforeseen_error_retried_for_ever_by_nobody(patch: Patch) -> None:
    """An error that nobody foresaw leaves its row neither due nor dead: it is put off for ever."""
    real = OrderHost._failed

    async def failed(self: OrderHost, order_id: str, step: str, attempts: int, failure: Exception) -> None:
        if not isinstance(failure, DependencyError | BusyError):
            await self._store.defer_effect(order_id, step, 1e7, str(failure))
            return
        await real(self, order_id, step, attempts, failure)

    patch.setattr(OrderHost, "_failed", failed)


@planted(22)
def breaker_never_closes(patch: Patch) -> None:
    """A circuit that has opened once stays open."""
    patch.setattr(breakers, "OPEN_S", 1e9)


# The outside.


@planted(0)
def fresh_idempotency_key_per_attempt(patch: Patch) -> None:
    """Each attempt at opening a payment names a new one."""
    numbers = itertools.count()
    real = StripeGateway._post

    async def post(self: StripeGateway, path: str, params: Any, key: str) -> Any:
        return await real(self, path, params, f"{key}:{next(numbers)}")

    patch.setattr(StripeGateway, "_post", post)


@planted(2)
def timeout_taken_as_acknowledgement(patch: Patch) -> None:
    """Finance did not answer in time, so it will have booked."""
    real = Effects._book

    async def book(self: Effects, order: Any) -> Any:
        try:
            return await real(self, order)
        except DependencyError:
            return _booked(self, order), EffectResult()

    patch.setattr(Effects, "_book", book)


@planted(0)
def licence_before_finances_acknowledgement(patch: Patch) -> None:
    """The booking is sent off, and the order goes on at once."""
    real = Effects._book

    async def book(self: Effects, order: Any) -> Any:
        async def later() -> None:
            try:
                await real(self, order)
            except Exception:  # noqa: BLE001 - fire and forget, that is the bug
                return

        self.__dict__.setdefault("_sent", set()).add(asyncio.create_task(later()))
        return _booked(self, order), EffectResult()

    patch.setattr(Effects, "_book", book)


@planted(0)
def acknowledged_amounts_not_compared(patch: Patch) -> None:
    """Any 200 of Finance's is taken for the right entry."""

    async def book(self: Effects, order: Any) -> Any:
        key = capture_entry_key(order.order_id)
        await self._books.book(
            key, order.currency, order.paid_at, [("stripe:clearing", 1), ("platform:fees", -1)]
        )
        return _booked(self, order), EffectResult()

    patch.setattr(Effects, "_book", book)


@planted(1)
def void_ignores_that_it_was_paid(patch: Patch) -> None:
    """Stripe says that the expired order was paid after all; nobody listens."""

    async def void(self: Effects, order: Any) -> Any:
        if order.status is Status.EXPIRED:
            await self._payments.void_payment(order)
        return c.RecordPaymentVoided(self._clock()), EffectResult()

    patch.setattr(Effects, "_void_payment", void)


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


@planted(15)
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


@planted(2)
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


@planted(31)
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


# The decider.


def _patch_decide(patch: Patch, decider: Callable[[Any, Any], Any]) -> None:
    patch.setattr(host_module, "decide", decider)


@planted(4)
def amount_not_checked(patch: Patch) -> None:
    """Whatever Stripe captured pays the order."""

    def decider(state: Any, command: Any) -> Any:
        if isinstance(command, c.ConfirmPayment) and state is not None:
            command = replace(command, amount_minor=state.total_minor)
        return decide(state, command)

    _patch_decide(patch, decider)


@planted(0)
def expiry_beats_a_capture(patch: Patch) -> None:
    """A payment that arrives after the deadline is dropped."""

    def decider(state: Any, command: Any) -> Any:
        if isinstance(command, c.ConfirmPayment) and state and state.status is Status.EXPIRED:
            return []
        return decide(state, command)

    _patch_decide(patch, decider)


@planted(0)
def second_charge_accepted(patch: Patch) -> None:
    """A paid order is paid again."""

    def decider(state: Any, command: Any) -> Any:
        if (
            isinstance(command, c.ConfirmPayment)
            and state
            and state.paid_at is not None
            and state.payment_intent_id != command.payment_intent_id
        ):
            return [
                OrderPaid(
                    command.payment_intent_id,
                    command.stripe_event_id,
                    command.amount_minor,
                    command.currency,
                    command.at,
                )
            ]
        return decide(state, command)

    _patch_decide(patch, decider)


@planted(0)
def second_charge_shrugged_off(patch: Patch) -> None:
    """A second charge counts as news that is known: nobody will ever return the money."""

    def decider(state: Any, command: Any) -> Any:
        if isinstance(command, c.ConfirmPayment) and state and state.paid_at is not None:
            return []
        return decide(state, command)

    _patch_decide(patch, decider)


@planted(6)
def void_recorded_at_each_repeat(patch: Patch) -> None:
    """The command that records a result is not harmless the second time."""

    def decider(state: Any, command: Any) -> Any:
        if isinstance(command, c.RecordPaymentVoided) and state and state.status is Status.EXPIRED:
            return [PaymentVoided(command.at)]
        return decide(state, command)

    _patch_decide(patch, decider)


@planted(0)
def expiry_forgets_to_void(patch: Patch) -> None:
    """An order expires, and its payment can still be made."""
    real = decide_module.effects_after

    def effects(event: Any) -> Any:
        due, done = real(event)
        return [effect for effect in due if effect.step != decide_module.VOID_PAYMENT], done

    patch.setattr(host_module, "effects_after", effects)


def _booked(effects: Effects, order: Any) -> c.RecordBooking:
    key = capture_entry_key(order.order_id)
    return c.RecordBooking(key, f"ent_{key}", order.currency, order.total_minor, effects._clock())
