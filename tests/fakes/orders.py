"""Fakes of the order's ports: real behaviour in memory, with switches for faults.

``FakeOrderStore`` keeps the store's promises (fence, idempotency keys, inbox, due times, dead letters) and is
held to them by the same contract suite as Postgres (tests/contracts/order_store.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from domain.errors import ConflictError, DependencyError, RejectedError
from domain.orders.decide import (
    RELEASED_KEY_TTL_S,
    delivery_id,
    gives_discount_back,
    licence_id,
    step_kind,
)
from domain.orders.events import (
    DeliveryKeysForgotten,
    Event,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
)
from domain.orders.ports import (
    Acknowledgement,
    CapturedPayment,
    DueEffect,
    Fulfilment,
    Idempotency,
    IssuedLicence,
    MadeRefund,
    OpenedPayment,
    PaymentNews,
    RecordedCommand,
    SealedDelivery,
    StoredOrder,
    Turn,
)
from domain.orders.returned import Evidence, Refund
from domain.orders.state import Order, Status
from domain.pricing.discounts import Discount
from storage.market.discounts import FREE_ORDERS_A_DAY_MAX

LEASE_S = 3
STANDINGS = {LicencesSuspended: "suspended", LicencesRestored: "active", LicencesRevoked: "revoked"}


@dataclass
class FakeClock:
    """A clock that moves only when told."""

    now: datetime = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class FakeMonotonic:
    """A process's monotonic clock, in seconds; moves only when told."""

    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class StoredRow:
    buyer_id: str
    seq: int
    status: Status
    events: list[Event]
    payment_handle: dict[str, str] | None = None


@dataclass
class EffectRow:
    due_at: datetime
    attempts: int = 0
    last_error: str | None = None
    dead_code: str | None = None
    unforeseen: int = 0


@dataclass
class InboxRow:
    news: PaymentNews
    due_at: datetime
    attempts: int = 0
    outcome: str | None = None
    processed: bool = False
    dead_code: str | None = None
    unforeseen: int = 0


@dataclass
class FakeOrderStore:
    """See the module. ``fail_before`` / ``fail_after`` make that many next commits lose their connection."""

    clock: FakeClock = field(default_factory=FakeClock)
    orders: dict[str, StoredRow] = field(default_factory=dict)
    effects: dict[tuple[str, str], EffectRow] = field(default_factory=dict)
    inbox: dict[str, InboxRow] = field(default_factory=dict)
    commands: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    licences: dict[str, IssuedLicence] = field(default_factory=dict)
    deliveries: dict[str, SealedDelivery] = field(default_factory=dict)
    standings: dict[str, str] = field(default_factory=dict)
    discounts: dict[str, Discount] = field(default_factory=dict)
    discount_uses: dict[str, tuple[str, str]] = field(default_factory=dict)  # order -> (discount, buyer)
    placed_at: dict[str, datetime] = field(default_factory=dict)
    fail_before: int = 0
    fail_after: int = 0
    followers: list[Callable[[Turn], None]] = field(default_factory=list)

    async def place(self, turn: Turn, idempotency: Idempotency) -> bool:
        self._maybe_fail("before")
        key = (turn.order.buyer_id, idempotency.key)
        if key in self.commands:
            return False
        self._take_use(turn.order)
        self._require_free_order(turn.order)
        self.placed_at[turn.order.order_id] = self.clock()
        self.commands[key] = (idempotency.request_digest, turn.order.order_id)
        self.orders[turn.order.order_id] = StoredRow(
            turn.order.buyer_id, turn.order.seq, turn.order.status, list(turn.events)
        )
        self._effects_of(turn)
        self._maybe_fail("after")
        return True

    async def commit(self, turn: Turn) -> bool:
        self._maybe_fail("before")
        row = self.orders.get(turn.order.order_id)
        if row is None or row.seq != turn.fence:
            return False
        kept = None if turn.news is None else self.inbox.get(turn.news.event_id)
        if kept is not None and kept.outcome == "dropped":
            raise ConflictError("webhook_dropped", "An operator has dropped this webhook.")
        for licence in turn.licences:
            assert licence.licence_id not in self.licences, "I3: a second licence for a line"
        row.seq, row.status = turn.order.seq, turn.order.status
        row.events += turn.events
        if gives_discount_back(turn.events):
            self.discount_uses.pop(turn.order.order_id, None)
        if turn.payment_handle is not None:
            row.payment_handle = dict(turn.payment_handle)
        self._effects_of(turn)
        if turn.news is not None:
            self._process(turn.news, "applied")
        self.licences.update({licence.licence_id: licence for licence in turn.licences})
        self.deliveries.update({delivery.delivery_id: delivery for delivery in turn.deliveries})
        assert 0 <= turn.order.returned_minor <= turn.order.total_minor, "the schema's CHECK"
        for event in turn.events:
            if isinstance(event, LicencesSuspended | LicencesRestored | LicencesRevoked):
                word = STANDINGS[type(event)]
                for line_no in event.line_nos:
                    if (one := licence_id(turn.order.order_id, line_no)) in self.licences:
                        assert self.standings.get(one) != "revoked", "I5: revoked is for ever"
                        self.standings[one] = word
        if any(isinstance(event, DeliveryKeysForgotten) for event in turn.events):
            for delivery in turn.order.delivery_ids:
                self.deliveries[delivery] = replace(self.deliveries[delivery], wrapped_identity=None)
        self._maybe_fail("after")
        for follower in self.followers:
            follower(turn)
        return True

    async def load(self, order_id: str) -> StoredOrder | None:
        row = self.orders.get(order_id)
        return StoredOrder(list(row.events), row.payment_handle) if row else None

    async def find_command(self, principal_id: str, key: str) -> RecordedCommand | None:
        found = self.commands.get((principal_id, key))
        return RecordedCommand(*found) if found else None

    async def claim_due_effects(
        self, steps: Sequence[str], limit: int, lease_s: float
    ) -> Sequence[DueEffect]:
        due = sorted(
            (row.due_at, key)
            for key, row in self.effects.items()
            if row.due_at <= self.clock() and row.dead_code is None and step_kind(key[1]) in steps
        )
        claimed = []
        for _, key in due[:limit]:
            row = self.effects[key]
            row.attempts += 1
            row.due_at = self.clock() + timedelta(seconds=lease_s)
            claimed.append(DueEffect(*key, row.attempts, row.unforeseen))
        return claimed

    async def defer_effect(
        self, order_id: str, step: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        row = self.effects.get((order_id, step))
        if row is not None:
            row.unforeseen += unforeseen
            row.due_at, row.last_error = self.clock() + timedelta(seconds=delay_s), error

    async def bury_effect(self, order_id: str, step: str, code: str, error: str) -> None:
        row = self.effects.get((order_id, step))
        if row is not None:
            row.dead_code, row.last_error = code, error
            row.attempts += 1

    async def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        if news.order_id not in self.orders:
            return False, False
        if news.event_id in self.inbox:
            return True, False
        self.inbox[news.event_id] = InboxRow(news, self.clock() + timedelta(seconds=LEASE_S))
        return True, True

    async def claim_due_webhooks(self, limit: int, lease_s: float) -> Sequence[PaymentNews]:
        due = [
            row
            for row in self.inbox.values()
            if not row.processed and row.dead_code is None and row.due_at <= self.clock()
        ]
        for row in due[:limit]:
            row.attempts += 1
            row.due_at = self.clock() + timedelta(seconds=lease_s)
        return [replace(row.news, attempts=row.attempts, unforeseen=row.unforeseen) for row in due[:limit]]

    async def settle_webhook(self, news: PaymentNews, outcome: str) -> None:
        self._process(news, outcome)

    async def defer_webhook(
        self, event_id: str, delay_s: float, error: str, *, unforeseen: bool = False
    ) -> None:
        row = self.inbox.get(event_id)
        if row is not None and not row.processed:
            row.unforeseen += unforeseen
            row.due_at, row.outcome = self.clock() + timedelta(seconds=delay_s), error

    async def bury_webhook(self, news: PaymentNews, code: str, error: str) -> None:
        row = self.inbox.setdefault(news.event_id, InboxRow(news, self.clock()))
        if not row.processed:
            row.dead_code, row.outcome = code, error

    def drop_webhook(self, event_id: str) -> None:
        """What an operator's drop does (storage.market.dead_letters)."""
        row = self.inbox[event_id]
        row.processed, row.outcome, row.dead_code = True, "dropped", None

    def _process(self, news: PaymentNews, outcome: str) -> None:
        row = self.inbox.setdefault(news.event_id, InboxRow(news, self.clock()))
        if not row.processed:
            row.processed, row.outcome, row.dead_code = True, outcome, None

    def _take_use(self, order: Order) -> None:
        if order.discount_id is None:
            return
        rule = self.discounts[order.discount_id]
        buyers = [buyer for used, buyer in self.discount_uses.values() if used == order.discount_id]
        if (
            rule.ended_at is not None
            or (rule.uses_max is not None and len(buyers) >= rule.uses_max)
            or (
                rule.uses_per_buyer_max is not None
                and buyers.count(order.buyer_id) >= rule.uses_per_buyer_max
            )
        ):
            raise ConflictError("discount_used_up", "used up")
        self.discount_uses[order.order_id] = (order.discount_id, order.buyer_id)

    def _require_free_order(self, order: Order) -> None:
        if order.total_minor:
            return
        day_ago = self.clock() - timedelta(days=1)
        lately = [
            order_id
            for order_id, row in self.orders.items()
            if row.buyer_id == order.buyer_id
            and row.events[0].lines
            and not sum(line.amount_minor for line in row.events[0].lines)
            and self.placed_at[order_id] > day_ago
        ]
        if len(lately) >= FREE_ORDERS_A_DAY_MAX:
            raise ConflictError("free_orders_full", "full")

    def _effects_of(self, turn: Turn) -> None:
        for step in turn.done:
            self.effects.pop((turn.order.order_id, step), None)
        for effect in turn.due:
            due_at = self.clock() + timedelta(seconds=effect.delay_s or LEASE_S)
            self.effects[turn.order.order_id, effect.step] = EffectRow(due_at)

    def _maybe_fail(self, when: str) -> None:
        name = f"fail_{when}"
        if getattr(self, name) > 0:
            setattr(self, name, getattr(self, name) - 1)
            raise DependencyError("database_unavailable", f"connection lost {when} the commit")


@dataclass
class FakeGateway:
    """Stripe: idempotent by order; ``failures`` are raised first, in turn."""

    intents: dict[str, str] = field(default_factory=dict)
    voided: set[str] = field(default_factory=set)
    refunds: dict[str, int] = field(default_factory=dict)
    refund_status: str = "succeeded"
    evidence: dict[str, bool] = field(default_factory=dict)
    paid: dict[str, CapturedPayment] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    hook: Callable[[Order], None] | None = None
    captures: list[str] = field(default_factory=list)
    lapsed: set[str] = field(default_factory=set)

    async def capture_payment(self, order: Order) -> CapturedPayment:
        if self.failures:
            raise self.failures.pop(0)
        if order.order_id in self.lapsed | self.voided:
            raise RejectedError("capture_refused", "The authorisation ended before it was captured.")
        self.captures.append(order.order_id)
        captured = CapturedPayment(self.intents[order.order_id], order.total_minor, order.currency)
        return self.paid.setdefault(order.order_id, captured)

    async def open_payment(self, order: Order) -> OpenedPayment:
        if self.failures:
            raise self.failures.pop(0)
        intent = self.intents.setdefault(order.order_id, f"pi_{len(self.intents) + 1}")
        if self.hook:
            self.hook(order)
        return OpenedPayment(intent, None, {"client_secret": f"{intent}_secret"})

    async def refund(self, order: Order, refund: Refund) -> MadeRefund:
        if self.failures:
            raise self.failures.pop(0)
        made = f"re_{refund.refund_id}"
        self.refunds[made] = refund.amount_minor
        return MadeRefund(made, self.refund_status)

    async def send_evidence(self, order: Order, dispute_id: str, evidence: Evidence) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.evidence[evidence.evidence_id] = evidence.submit
        return "under_review" if evidence.submit else "needs_response"

    async def void_payment(self, order: Order) -> CapturedPayment | None:
        if order.order_id not in self.paid:
            self.voided.add(order.order_id)
        return self.paid.get(order.order_id)


@dataclass
class FakeBooks:
    """Finance: one entry per key, the amounts echoed; ``failures`` first, ``skew_minor`` lies."""

    entries: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)
    skew_minor: int = 0

    async def book(
        self, entry_key: str, currency: str, at: datetime, postings: Sequence[tuple[str, int]]
    ) -> Acknowledgement:
        if self.failures:
            raise self.failures.pop(0)
        stored = self.entries.setdefault(entry_key, list(postings))
        echoed = [(account, amount + self.skew_minor) for account, amount in stored]
        return Acknowledgement(entry_key, f"ent_{entry_key}", currency, echoed)


@dataclass
class FakeFulfiller:
    """The signer: deterministic envelopes; counts its calls."""

    failures: list[Exception] = field(default_factory=list)
    calls: int = 0

    async def fulfil(self, order: Order) -> Fulfilment:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        assert order.booked_at is not None, "I4: a licence before Finance acknowledged"
        sealed = (b"wrapped", RELEASED_KEY_TTL_S) if order.delivery.mode == "released_key" else (None, None)
        licences = [
            IssuedLicence(
                licence_id(order.order_id, line.line_no),
                line.line_no,
                line.sku_id,
                line.release_id,
                line.quantity,
                "key_1",
                f"envelope of {order.order_id}/{line.line_no}",
                order.booked_at,
            )
            for line in order.lines
        ]
        deliveries = [
            SealedDelivery(
                delivery_id(order.order_id, line.line_no),
                line.line_no,
                line.release_id,
                order.delivery.mode,
                order.delivery.recipient or "age1made",
                b"header",
                "manifest",
                *sealed,
            )
            for line in order.lines
        ]
        return Fulfilment(licences, deliveries)

    async def open_identity(self, order_id: str, delivery_id: str) -> tuple[str, datetime]:
        return "AGE-SECRET-KEY-1FAKE", datetime(2026, 11, 25, tzinfo=UTC)
