"""Planted bugs in hosts, in recovery, in calls to the outside, and in the decider."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from actors.grains.runtime import Grains, StaleStateError
from actors.orders import breakers
from actors.orders import host as host_module
from actors.orders import sweep as sweep_module
from actors.orders.effects import EffectResult, Effects
from actors.orders.host import OrderHost, PlacedOrder, ReleasedKey
from actors.orders.sweep import Sweep
from cluster.simulation.order_store import SimulatedOrderStore
from domain.errors import BusyError, ConflictError, DependencyError, NotFoundError, RejectedError
from domain.orders import commands as c
from domain.orders import decide as decide_module
from domain.orders.booking import capture_entry_key
from domain.orders.decide import decide
from domain.orders.events import OrderPaid, PaymentVoided
from domain.orders.ports import RecordedCommand
from domain.orders.state import Status
from storage.stripe_gateway import StripeGateway
from tests.simulation.planting import Patch, planted

# The host.


@planted(0)
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


@planted(10)
def lost_commit_taken_for_done(patch: Patch) -> None:
    """The connection broke inside COMMIT; the host goes on as if it had been committed."""
    real = SimulatedOrderStore.commit

    async def commit(self: SimulatedOrderStore, turn: Any) -> bool:
        try:
            return await real(self, turn)
        except DependencyError:
            return True

    patch.setattr(SimulatedOrderStore, "commit", commit)


@planted(50)
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


@planted(5)
def joined_effect_dropped_when_the_signer_fails(patch: Patch) -> None:
    """The booking is committed alone, and the fulfilment that should have joined it is forgotten."""
    real = OrderHost._join

    async def join(self: OrderHost, turn: Any) -> Any:
        joined = await real(self, turn)
        return replace(joined, due=[effect for effect in joined.due if not effect.joins])

    patch.setattr(OrderHost, "_join", join)


@planted(1)
def shutdown_parks_what_still_runs(patch: Patch) -> None:
    """A host that stops puts off the work in its hands so far that nobody takes it up."""
    real = OrderHost.close

    async def close(self: OrderHost) -> None:
        for order_id, step in list(self._running):
            with contextlib.suppress(DependencyError):
                await self._store.defer_effect(order_id, step, 1e7, "host is stopping")
        await real(self)

    patch.setattr(OrderHost, "close", close)


@planted(1)
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


@planted(0)
def unforeseen_error_retried_for_ever_by_nobody(patch: Patch) -> None:
    """An error that nobody foresaw leaves its row neither due nor dead: it is put off for ever."""
    real = OrderHost._failed

    async def failed(self: OrderHost, order_id: str, step: str, attempts: int, failure: Exception) -> None:
        if not isinstance(failure, DependencyError | BusyError):
            await self._store.defer_effect(order_id, step, 1e7, str(failure))
            return
        await real(self, order_id, step, attempts, failure)

    patch.setattr(OrderHost, "_failed", failed)


@planted(119)
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


@planted(13)
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


# The decider.


def _patch_decide(patch: Patch, decider: Callable[[Any, Any], Any]) -> None:
    patch.setattr(host_module, "decide", decider)


@planted(1)
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


@planted(1)
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


@planted(1)
def second_charge_shrugged_off(patch: Patch) -> None:
    """A second charge counts as news that is known: nobody will ever return the money."""

    def decider(state: Any, command: Any) -> Any:
        if isinstance(command, c.ConfirmPayment) and state and state.paid_at is not None:
            return []
        return decide(state, command)

    _patch_decide(patch, decider)


@planted(4)
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

    patch.setattr(decide_module, "effects_after", effects)


def _booked(effects: Effects, order: Any) -> c.RecordBooking:
    key = capture_entry_key(order.order_id)
    return c.RecordBooking(key, f"ent_{key}", order.currency, order.total_minor, effects._clock())
