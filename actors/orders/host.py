"""OrderHost: runs the commands of many orders, each a grain, each command one transaction.

    request -> decide -> one commit -> effects run at once -> their results return as commands

An effect that moves nothing outside joins the commit that makes it due: a booked order is licensed and
delivered in the same transaction, and only if the signer fails is the booking committed alone.

What it refuses to do: decide anything itself (``domain.orders.decide`` does), keep anything in memory
that is not also in Postgres, or wait without a bound. Several hosts may run the same order at once: the
fence lets one commit win and the other starts over from what is stored.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from actors.grains.runtime import GrainCounts, GrainLimits, Grains, StaleStateError
from actors.orders.effects import EffectResult, Effects
from actors.orders.news import command_of
from actors.orders.retries import UNFORESEEN_TRIES_MAX, backoff_s, code_of, is_final, is_unforeseen
from domain.errors import (
    BusyError,
    ConflictError,
    DependencyError,
    MarketplaceError,
    NotFoundError,
    RejectedError,
)
from domain.orders.commands import (
    CancelOrder,
    Command,
    DecideReview,
    PlaceOrder,
    PrepareEvidence,
    ReleaseDeliveryKey,
    RequestRefund,
)
from domain.orders.decide import OPEN_PAYMENT, Effect, decide, turn_effects
from domain.orders.events import ANSWERED, Event
from domain.orders.ports import Idempotency, OrderStore, PaymentNews, Turn
from domain.orders.returned import Dispute, Evidence, Refund
from domain.orders.state import Order, evolve, fold

log = logging.getLogger("marketplace.orders")

OPEN_PAYMENT_WAIT_S = 5.0  # a buyer's POST waits this long for Stripe; afterwards the sweep goes on
REPLAY_POLL_S, REPLAY_POLL_S_MAX = 0.05, 0.8  # doubling: a repeated key must not become a query loop
# Orders being placed at once, and orders whose payment is known and whose booking or licence is at work.
# Above either buyers are told to come back: at 150 orders a second the last of them waits under a second, and
# nobody who has paid stands behind those who have not ordered yet.
PLACING_MAX = 128
PAID_WAITING_MAX = 128
RUNNING_EFFECTS_MAX = 256  # outside calls in flight per host; beyond it the sweep takes them up later
STATE_BYTES, LINE_BYTES = 1_600, 950  # of a grain's state, measured by `marketplace bench grains`
JOIN_WAIT_S = 2.0  # a commit waits this long for what may join it: meanwhile its order's mailbox stands still
RESULT_WITHOUT_CHANGE = "its result changed nothing"
CLOSE_WAIT_S = 20.0  # effects in flight at shutdown get this long; what is left is a row in Postgres


@dataclass(frozen=True, slots=True)
class Cached:
    """A grain's state: the order and what its buyer needs to pay."""

    order: Order
    payment_handle: Mapping[str, str] | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """Reply to ``place``: the order as it became payable, and whether an earlier request did it."""

    order: Order
    payment_handle: Mapping[str, str] | None = field(repr=False)
    replayed: bool


@dataclass(frozen=True, slots=True)
class ReleasedKey:
    """The age identity of a ``released_key`` delivery. A secret: for the buyer, never for logs."""

    identity: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RefundReply:
    """Reply to ``refund``: where it stands, and whether an earlier, equal request had made it."""

    refund: Refund
    currency: str
    replayed: bool


@dataclass(frozen=True, slots=True)
class ActedOrder:
    """Reply to ``act``: the order after it, and whether an earlier, equal request had done it."""

    order: Order
    replayed: bool


@dataclass(frozen=True, slots=True)
class EvidenceReply:
    """Reply to ``prepare_evidence``: the evidence with its dispute, and whether it was there before."""

    dispute: Dispute
    evidence: Evidence
    replayed: bool


class OrderHost:
    """See the module. One per process; all methods run on one event loop. ``now_s`` is monotonic seconds."""

    def __init__(
        self,
        store: OrderStore,
        effects: Effects,
        clock: Callable[[], datetime],
        now_s: Callable[[], float],
        limits: GrainLimits | None = None,
    ) -> None:
        self._store = store
        self._effects = effects
        self._clock = clock
        self._grains: Grains[Cached] = Grains(self._load, weigh=_weigh, now_s=now_s, limits=limits)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[tuple[str, str]] = set()
        self._closing = False
        self._placing = self._receiving = 0

    def counts(self) -> GrainCounts:
        """Tell what the grains hold and did."""
        return self._grains.counts()

    @property
    def running_effects(self) -> int:
        """How many effects are at work."""
        return len(self._running)

    def passivate(self) -> int:
        """Drop the states of orders that nobody asked for lately; returns how many."""
        return self._grains.passivate()

    async def place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        """Create the order and open its payment; one that costs nothing is fulfilled right after.

        Raises:
            RejectedError: the cart is wrong, or ``idempotency_key_reused`` with another body.
            ConflictError: ``idempotency_in_progress``; the first request's commit is not visible yet. Or what
                the order needs is used up: ``discount_used_up``, ``free_orders_full``.
            BusyError: ``host_full``; nothing was written.
        """
        if self._placing >= PLACING_MAX or self._receiving + len(self._tasks) >= PAID_WAITING_MAX:
            raise BusyError("host_full", "More orders come in than can be taken now. Try again shortly.")
        self._placing += 1
        try:
            return await self._place(command, idempotency)
        finally:
            self._placing -= 1

    async def _place(self, command: PlaceOrder, idempotency: Idempotency) -> PlacedOrder:
        order_id = command.order_id
        events = decide(None, command)
        order = fold(order_id, events)
        assert order is not None
        due, done = turn_effects(events)
        turn = Turn(order=order, fence=0, events=events, due=due, done=done)
        if not await self._store.place(turn, idempotency):
            return await self._replay(command.buyer_id, idempotency)
        self._grains.assume(order_id, Cached(order, None))
        for effect in due:
            if effect.step == OPEN_PAYMENT:
                await self._open_payment(order_id)
            elif effect.delay_s == 0:
                self._start(self.run_effect(order_id, effect.step))
        cached = await self._grains.turn(order_id, _peek)
        return PlacedOrder(cached.order, cached.payment_handle, replayed=False)

    async def _open_payment(self, order_id: str) -> None:
        try:
            async with asyncio.timeout(OPEN_PAYMENT_WAIT_S):
                await self.run_effect(order_id, OPEN_PAYMENT)
        except TimeoutError:
            log.warning("payment of %s is not open yet; the sweep goes on", order_id)

    async def receive(self, news: PaymentNews) -> str:
        """Apply a verified webhook; when this returns it is kept, with its outcome. Safe to repeat.

        Returns ``applied``, ``no_change``, or the code with which the order refuses it: such a webhook is
        a dead letter, because money may have moved that this order cannot use.

        Raises:
            NotFoundError: ``order_not_found``; nothing is kept.
            DependencyError, BusyError: not known to be kept; send it again.
        """
        self._receiving += 1
        try:
            changed = await self.execute(
                news.order_id, command_of(news, self._clock()), EffectResult(news=news)
            )
        except (RejectedError, ConflictError) as refused:
            log.error("webhook %s refused by %s: %s", news.event_id, news.order_id, refused)
            await self._store.bury_webhook(news, refused.code, str(refused))
            return refused.code
        finally:
            self._receiving -= 1
        if changed:
            return "applied"
        await self._store.settle_webhook(news, "no_change")
        return "no_change"

    async def release_key(self, order_id: str, delivery_id: str) -> ReleasedKey:
        """Record that the key is released, then unwrap it (write the intent before the release).

        Raises:
            NotFoundError, ConflictError, RejectedError: see the decider and the fulfiller.
        """
        command = ReleaseDeliveryKey(delivery_id, self._clock())

        async def allowed(cached: Cached | None, fresh: bool) -> tuple[Cached | None, None]:  # noqa: FBT001 - the runtime's signature
            self._decide(order_id, cached, command, fresh=fresh)
            return cached, None

        await self._grains.turn(order_id, allowed)
        # Opened in memory first: an expired key must leave no event that says it was handed out.
        released = ReleasedKey(*await self._effects.open_identity(order_id, delivery_id))
        await self.execute(order_id, command)
        return released

    async def refund(self, order_id: str, command: RequestRefund) -> RefundReply:
        """Record that money is to go back; Stripe is asked right after. An equal request changes nothing.

        Raises:
            NotFoundError, ConflictError, RejectedError: see ``domain.orders.returns``; nothing is written.
        """
        asked = await self.execute(order_id, command)
        order = (await self._grains.turn(order_id, _peek)).order
        refund = order.find_refund(command.refund_id)
        assert refund is not None, "it is on record, by this request or an earlier one"
        return RefundReply(refund, order.currency, replayed=not asked)

    async def act(self, order_id: str, command: CancelOrder | DecideReview) -> ActedOrder:
        """Take a buyer's or a reviewer's decision; an equal one changes nothing.

        Raises:
            NotFoundError, ConflictError, RejectedError: see ``domain.orders.payments``; nothing is written.
        """
        changed = await self.execute(order_id, command)
        order = (await self._grains.turn(order_id, _peek)).order
        return ActedOrder(order, replayed=not changed)

    async def prepare_evidence(self, order_id: str, command: PrepareEvidence) -> EvidenceReply:
        """Record what an operator says to the bank; Stripe is given it right after.

        An equal request does nothing.

        Raises:
            NotFoundError, ConflictError, RejectedError: see ``domain.orders.evidence``; nothing is written.
        """
        fresh = await self.execute(order_id, command)
        order = (await self._grains.turn(order_id, _peek)).order
        found = order.find_evidence(command.evidence_id)
        assert found is not None, "it is on record, by this request or an earlier one"
        return EvidenceReply(*found, replayed=not fresh)

    async def execute(self, order_id: str, command: Command, result: EffectResult | None = None) -> bool:
        """Decide, commit, and start the effects that follow; False when nothing was left to do."""
        first = result or EffectResult()

        async def act(cached: Cached | None, fresh: bool) -> tuple[Cached | None, list[Effect] | None]:  # noqa: FBT001 - the runtime's signature
            events = self._decide(order_id, cached, command, fresh=fresh)
            if not events:
                if fresh:
                    return cached, None
                raise StaleStateError(order_id)
            assert cached is not None
            turn = await self._join(_turn(cached.order, events, first))
            if not await self._store.commit(turn):
                raise StaleStateError(order_id)
            return Cached(turn.order, turn.payment_handle or cached.payment_handle), list(turn.due)

        due = await self._grains.turn(order_id, act)
        if due is None:
            return False
        for effect in due:
            if effect.delay_s == 0:
                self._start(self.run_effect(order_id, effect.step))
        return True

    async def run_effect(self, order_id: str, step: str, attempts: int = 0, unforeseen: int = 0) -> None:
        """Do one effect's outside work and execute its result; a failure is deferred, never lost.

        ``attempts`` counts the sweeps' claims, ``unforeseen`` the failures so far that nobody foresaw.
        """
        if (order_id, step) in self._running:
            return  # this host is at it already; a slow call outlives its lease
        self._running.add((order_id, step))
        try:
            await self._run_effect(order_id, step, attempts, unforeseen)
        finally:
            self._running.discard((order_id, step))

    async def close(self) -> None:
        """Let running effects finish within a bound; what is left is in Postgres for the next host."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WAIT_S)
        for task in self._tasks:
            task.cancel()

    async def _run_effect(self, order_id: str, step: str, attempts: int, unforeseen: int) -> None:
        if attempts:
            # A sweep found it overdue, so another host may have gone on without us: read again.
            self._grains.forget(order_id)
        try:
            cached = await self._grains.turn(order_id, _peek)
            command, result = await self._effects.run(step, cached.order)
            if not await self.execute(order_id, command, result):
                await self._settle(order_id, step, attempts)
        except Exception as failure:  # noqa: BLE001 - whatever it was, its row must be deferred or buried
            await self._failed(order_id, step, attempts, unforeseen, failure)

    async def _join(self, turn: Turn) -> Turn:
        """Do what may join this commit; if it cannot be done now the turn stays as it is."""
        effect = next((effect for effect in turn.due if effect.joins), None)
        if effect is None:
            return turn
        order = turn.order
        try:
            async with asyncio.timeout(JOIN_WAIT_S):
                command, result = await self._effects.run(effect.step, order)
            events = decide(order, command)
        except Exception as failure:  # noqa: BLE001 - whatever it was, it must not cost us this commit
            log.warning("%s of %s does not join its commit: %r", effect.step, order.order_id, failure)
            return turn
        if not events:
            return turn  # its row then says what is left to do
        joined = _turn(order, events, result)
        return replace(
            joined,
            fence=turn.fence,
            events=[*turn.events, *events],
            due=[*(one for one in turn.due if one is not effect), *joined.due],
            done=[*turn.done, *joined.done],
            payment_handle=turn.payment_handle,
            news=turn.news,
        )

    def _decide(self, order_id: str, cached: Cached | None, command: Command, *, fresh: bool) -> list[Event]:
        """Decide; refused only if the store says so too."""
        try:
            return decide(cached.order if cached else None, command)
        except MarketplaceError:
            if fresh:
                raise
            raise StaleStateError(order_id) from None

    async def _settle(self, order_id: str, step: str, attempts: int) -> None:
        """A result changed nothing: another host recorded it first, or the step became pointless.

        The commit that did so has deleted the row, and both of these then touch nothing. A row that is still
        there after several tries is nobody's: it becomes a dead letter instead of running for ever.
        """
        if attempts + 1 >= UNFORESEEN_TRIES_MAX:
            await self._store.bury_effect(
                order_id, step, "effect_without_result", "Its result changes nothing."
            )
        else:
            await self._store.defer_effect(order_id, step, 60.0, RESULT_WITHOUT_CHANGE)

    async def _replay(self, buyer_id: str, idempotency: Idempotency) -> PlacedOrder:
        """Answer a repeated request with the order as the first one saw it become payable.

        Waits as long for that as the first request did; then the order is answered as it is.
        """
        recorded = await self._store.find_command(buyer_id, idempotency.key)
        if recorded is None:
            raise _in_progress()  # its commit is not visible yet, or it was purged a moment ago
        if recorded.request_digest != idempotency.request_digest:
            raise RejectedError(
                "idempotency_key_reused",
                "This Idempotency-Key was used with another request. Use a new key for a new request.",
            )
        waited_s, pause_s = 0.0, REPLAY_POLL_S
        while True:
            stored = await self._store.load(recorded.subject)
            if stored is None:
                raise _in_progress()
            seen: list[Event] = []
            for event in stored.events:
                seen.append(event)
                if isinstance(event, ANSWERED):
                    break
            if isinstance(seen[-1], ANSWERED) or waited_s >= OPEN_PAYMENT_WAIT_S:
                order = fold(recorded.subject, seen)
                assert order is not None
                return PlacedOrder(order, stored.payment_handle, replayed=True)
            await asyncio.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(2 * pause_s, REPLAY_POLL_S_MAX)

    async def _load(self, order_id: str) -> Cached | None:
        stored = await self._store.load(order_id)
        if stored is None:
            return None
        order = fold(order_id, stored.events)
        assert order is not None
        return Cached(order, stored.payment_handle)

    async def _failed(
        self, order_id: str, step: str, attempts: int, unforeseen: int, failure: Exception
    ) -> None:
        with contextlib.suppress(DependencyError):  # the lease runs out by itself and a sweep takes the row
            if is_final(failure, unforeseen):
                log.error("%s of %s is given up", step, order_id, exc_info=failure)
                await self._store.bury_effect(order_id, step, code_of(failure), str(failure))
                return
            delay_s = backoff_s(attempts)
            log.warning("%s of %s failed, again in %.1f s: %s", step, order_id, delay_s, failure)
            await self._store.defer_effect(
                order_id, step, delay_s, str(failure), unforeseen=is_unforeseen(failure)
            )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closing or len(self._tasks) >= RUNNING_EFFECTS_MAX:
            work.close()  # the row is in Postgres; a sweep takes it when its lease runs out
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("effect task failed", exc_info=error)


def _in_progress() -> ConflictError:
    return ConflictError("idempotency_in_progress", "The first request with this key has not finished yet.")


def _turn(order: Order, events: list[Event], result: EffectResult) -> Turn:
    fence = order.seq
    due, done = turn_effects(events)
    for event in events:
        order = evolve(order.order_id, order, event)
    return Turn(
        order=order,
        fence=fence,
        events=events,
        due=due,
        done=done,
        payment_handle=result.payment_handle,
        news=result.news,
        licences=result.licences,
        deliveries=result.deliveries,
    )


def _weigh(cached: Cached) -> int:
    return STATE_BYTES + LINE_BYTES * len(cached.order.lines)


async def _peek(cached: Cached | None, fresh: bool) -> tuple[Cached | None, Cached]:  # noqa: FBT001 - the runtime's signature
    if cached is None and not fresh:
        raise StaleStateError
    if cached is None:
        raise NotFoundError("order_not_found", "There is no such order.")
    return cached, cached
