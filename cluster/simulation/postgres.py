"""Postgres, modelled: the tables of the orders and every promise that ``OrderStore`` makes of them.

Each method is one transaction at one instant, by the database's own clock: fence, unique keys, claims that
move due times, dead letters, the outbox. What the real schema refuses (a second licence for a line, an
effect that is already due) raises ``IntegrityError`` here too. Held to the real adapter's contract suite.

Beyond the tables it keeps a history, which no crash loses: every commit with its fence, every claim. The
invariants are checked over that, not only over what is left at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from domain.errors import ConflictError
from domain.events import shard_of
from domain.events.ports import OutboxRow
from domain.ids import derive_id
from domain.orders import decide
from domain.orders.decide import licence_id, step_kind
from domain.orders.events import (
    DeliveryKeysForgotten,
    Event,
    LicencesRestored,
    LicencesRevoked,
    LicencesSuspended,
    OrderPaid,
)
from domain.orders.ports import (
    DueEffect,
    Idempotency,
    IssuedLicence,
    PaymentNews,
    RecordedCommand,
    SealedDelivery,
    StoredOrder,
    Turn,
)
from domain.orders.state import Order
from domain.pricing.discounts import Discount
from storage.market.discounts import FREE_ORDERS_A_DAY_MAX

STANDINGS = {LicencesSuspended: "suspended", LicencesRestored: "active", LicencesRevoked: "revoked"}
EFFECT_LEASE_S = 3  # as in storage.market.turn_rows: the head start of the grain that committed an effect


class IntegrityError(Exception):
    """A constraint of the schema refused a row; the transaction did nothing."""


@dataclass
class OrderRow:
    """A row of ``market.orders`` with its events; ``event_ids`` by position."""

    buyer_id: str
    seq: int
    status: str
    currency: str
    total_minor: int
    events: list[Event]
    event_ids: list[str]
    payment_handle: Mapping[str, str] | None = None
    returned_minor: int = 0


@dataclass
class EffectRow:
    """A row of ``market.effects``."""

    due_at: datetime
    attempts: int = 0
    unforeseen: int = 0
    last_error: str | None = None
    dead_code: str | None = None


@dataclass
class InboxRow:
    """A row of ``market.inbox``."""

    news: PaymentNews
    due_at: datetime
    attempts: int = 0
    unforeseen: int = 0
    processed: bool = False
    outcome: str | None = None
    dead_code: str | None = None


@dataclass
class DeliveryRow:
    """A row of ``market.deliveries``."""

    order_id: str
    delivery: SealedDelivery
    wrapped_identity: bytes | None
    key_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed turn, for the history; ``seq_before`` is what the row said when it was written."""

    at: datetime
    order_id: str
    fence: int
    seq_before: int
    turn: Turn


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of an effect, for the history."""

    at: datetime
    order_id: str
    step: str
    lease_s: float
    attempts: int  # counts this claim; 1 again after an operator's retry


@dataclass(frozen=True, slots=True)
class Burial:
    """One dead letter, for the history; ``step`` is empty for a webhook, ``unforeseen`` as in its row."""

    order_id: str
    step: str
    code: str
    unforeseen: int


@dataclass
class Postgres:
    """See the module. ``clock`` is the database's."""

    clock: Callable[[], datetime]
    orders: dict[str, OrderRow] = field(default_factory=dict)
    effects: dict[tuple[str, str], EffectRow] = field(default_factory=dict)
    inbox: dict[str, InboxRow] = field(default_factory=dict)
    commands: dict[tuple[str, str], RecordedCommand] = field(default_factory=dict)
    licences: dict[str, tuple[str, IssuedLicence]] = field(default_factory=dict)
    standings: dict[str, str] = field(default_factory=dict)  # each licence's status, by its id
    deliveries: dict[str, DeliveryRow] = field(default_factory=dict)
    outbox: dict[int, OutboxRow] = field(default_factory=dict)  # by position
    commits: list[Commit] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    burials: list[Burial] = field(default_factory=list)
    discounts: dict[str, Discount] = field(default_factory=dict)
    discount_uses: dict[str, tuple[str, str]] = field(default_factory=dict)  # (discount, buyer) by order
    free_since: dict[str, list[datetime]] = field(default_factory=dict)  # when a buyer placed free orders
    dropped: set[tuple[str, str]] = field(default_factory=set)  # effects, by order and step
    dropped_webhooks: set[str] = field(default_factory=set)
    watchers: list[Callable[[Commit], None]] = field(default_factory=list)
    _position: int = 0

    # What the port offers.

    def place(self, turn: Turn, idempotency: Idempotency) -> bool:
        """Insert an order with its key; False when the key was used before.

        Raises:
            ConflictError: ``discount_used_up``, ``free_orders_full``; nothing was written.
        """
        order = turn.order
        key = (order.buyer_id, idempotency.key)
        if key in self.commands:
            return False
        if order.order_id in self.orders:
            raise IntegrityError(f"orders: {order.order_id} exists")
        self.require_use(order)
        self._require_free(order)
        self.commands[key] = RecordedCommand(idempotency.request_digest, order.order_id)
        self.orders[order.order_id] = OrderRow(
            order.buyer_id, 0, "", order.currency, order.total_minor, [], []
        )
        if order.discount_id is not None:
            self.discount_uses[order.order_id] = (order.discount_id, order.buyer_id)
        if not order.total_minor:
            self.free_since.setdefault(order.buyer_id, []).append(self.clock())
        self._write(turn, seq_before=0)
        return True

    def commit(self, turn: Turn) -> bool:
        """Write a turn under its fence; False when the fence has moved."""
        row = self.orders.get(turn.order.order_id)
        if row is None or not self.fence_holds(row, turn):
            return False
        kept = None if turn.news is None else self.inbox.get(turn.news.event_id)
        if kept is not None and kept.outcome == "dropped":
            raise ConflictError("webhook_dropped", "An operator has dropped this webhook.")
        self._write(turn, seq_before=row.seq)
        return True

    def require_use(self, order: Order) -> None:
        """Refuse a code that is used up; ``place`` counts the use in the same transaction."""
        if order.discount_id is None:
            return
        rule = self.discounts[order.discount_id]
        buyers = [buyer for used, buyer in self.discount_uses.values() if used == order.discount_id]
        full = rule.uses_max is not None and len(buyers) >= rule.uses_max
        per_buyer = rule.uses_per_buyer_max
        if rule.ended_at or full or (per_buyer and buyers.count(order.buyer_id) >= per_buyer):
            raise ConflictError("discount_used_up", "This code was used as often as it may be.")

    def _require_free(self, order: Order) -> None:
        day_ago = self.clock() - timedelta(days=1)
        lately = [at for at in self.free_since.get(order.buyer_id, ()) if at > day_ago]
        if not order.total_minor and len(lately) >= FREE_ORDERS_A_DAY_MAX:
            raise ConflictError("free_orders_full", "You have had as many free orders as a day has.")

    def fence_holds(self, row: OrderRow, turn: Turn) -> bool:
        """``WHERE seq = fence``."""
        return row.seq == turn.fence

    def load(self, order_id: str) -> StoredOrder | None:
        """Read an order's history."""
        row = self.orders.get(order_id)
        return None if row is None else StoredOrder(tuple(row.events), row.payment_handle)

    def find_command(self, principal_id: str, key: str) -> RecordedCommand | None:
        """Look an idempotency key up."""
        return self.commands.get((principal_id, key))

    def order_of_payment(self, payment_intent_id: str) -> str | None:
        """Find the order that a PaymentIntent has paid."""
        for order_id, row in self.orders.items():
            for event in row.events:
                if isinstance(event, OrderPaid) and event.payment_intent_id == payment_intent_id:
                    return order_id
        return None

    def claim_due_effects(self, steps: Sequence[str], limit: int, lease_s: float) -> list[DueEffect]:
        """Claim overdue effects, oldest first; moving the due time is the claim."""
        now = self.clock()
        due = sorted(
            (row.due_at, key)
            for key, row in self.effects.items()
            if row.due_at <= now and row.dead_code is None and step_kind(key[1]) in steps
        )
        claimed = []
        for _, (order_id, step) in due[:limit]:
            row = self.effects[order_id, step]
            row.attempts += 1
            self._move_due(row, now, lease_s)
            self.claims.append(Claim(now, order_id, step, lease_s, row.attempts))
            claimed.append(DueEffect(order_id, step, row.attempts, row.unforeseen))
        return claimed

    def _move_due(self, row: EffectRow | InboxRow, now: datetime, delay_s: float) -> None:
        row.due_at = now + timedelta(seconds=delay_s)

    def defer_effect(self, order_id: str, step: str, delay_s: float, error: str, *, unforeseen: bool) -> None:
        """Move an effect's due time."""
        row = self.effects.get((order_id, step))
        if row is not None:
            row.unforeseen += unforeseen
            self._move_due(row, self.clock(), delay_s)
            row.last_error = error

    def bury_effect(self, order_id: str, step: str, code: str, error: str) -> None:
        """Make an effect a dead letter."""
        row = self.effects.get((order_id, step))
        if row is not None:
            self.burials.append(Burial(order_id, step, code, row.unforeseen))
            row.dead_code, row.last_error = code, error
            row.attempts += 1

    def store_webhook(self, news: PaymentNews) -> tuple[bool, bool]:
        """Keep a webhook for a sweep; (order is known, stored now and no duplicate)."""
        if news.order_id not in self.orders:
            return False, False
        if news.event_id in self.inbox:
            return True, False
        due_at = self.clock() + timedelta(seconds=EFFECT_LEASE_S)
        self.inbox[news.event_id] = InboxRow(replace(news, attempts=0, unforeseen=0), due_at)
        return True, True

    def claim_due_webhooks(self, limit: int, lease_s: float) -> list[PaymentNews]:
        """Claim overdue inbox rows, oldest first."""
        now = self.clock()
        due = sorted(
            (row.due_at, event_id)
            for event_id, row in self.inbox.items()
            if not row.processed and row.dead_code is None and row.due_at <= now
        )
        claimed = []
        for _, event_id in due[:limit]:
            row = self.inbox[event_id]
            row.attempts += 1
            self._move_due(row, now, lease_s)
            claimed.append(replace(row.news, attempts=row.attempts, unforeseen=row.unforeseen))
        return claimed

    def settle_webhook(self, news: PaymentNews, outcome: str) -> None:
        """Keep a webhook as processed, unless it was before."""
        row = self.inbox.setdefault(
            news.event_id, InboxRow(replace(news, attempts=0, unforeseen=0), self.clock())
        )
        if not row.processed:
            row.processed, row.outcome, row.dead_code = True, outcome, None

    def defer_webhook(self, event_id: str, delay_s: float, error: str, *, unforeseen: bool) -> None:
        """Move an inbox row's due time."""
        row = self.inbox.get(event_id)
        if row is not None and not row.processed:
            row.unforeseen += unforeseen
            self._move_due(row, self.clock(), delay_s)
            row.outcome = error

    def bury_webhook(self, news: PaymentNews, code: str, error: str) -> None:
        """Keep a webhook as a dead letter, unless it was processed before."""
        row = self.inbox.setdefault(
            news.event_id, InboxRow(replace(news, attempts=0, unforeseen=0), self.clock())
        )
        if not row.processed:
            self.burials.append(Burial(news.order_id, "", code, row.unforeseen))
            row.dead_code, row.outcome = code, error

    # What operators do.

    def drop_webhook(self, event_id: str) -> None:
        """Let a dead webhook go for good."""
        row = self.inbox[event_id]
        row.processed, row.outcome, row.dead_code = True, "dropped", None

    def retry_dead_letters(self) -> int:
        """Have every dead letter tried again; returns how many there were."""
        rows: list[EffectRow | InboxRow] = [*self.effects.values(), *self.inbox.values()]
        dead = [row for row in rows if row.dead_code is not None]
        for row in dead:
            row.dead_code, row.due_at, row.attempts, row.unforeseen = None, self.clock(), 0, 0
        return len(dead)

    def drop_dead_letters(self, is_hopeless: Callable[[str], bool]) -> int:
        """Give up dead letters by their codes; returns how many. A dropped webhook counts as processed."""
        hopeless = [key for key, row in self.effects.items() if row.dead_code and is_hopeless(row.dead_code)]
        for key in hopeless:
            del self.effects[key]
            self.dropped.add(key)
        count = len(hopeless)
        for event_id, news in self.inbox.items():
            if news.dead_code and is_hopeless(news.dead_code):
                news.dead_code, news.processed, news.outcome = None, True, "dropped"
                self.dropped_webhooks.add(event_id)
                count += 1
        return count

    # One transaction's writes.

    def _write(self, turn: Turn, seq_before: int) -> None:
        order = turn.order
        order_id = order.order_id
        row = self.orders[order_id]
        now = self.clock()
        self._refuse_duplicates(turn)
        self.commits.append(Commit(now, order_id, turn.fence, seq_before, turn))
        first_seq = order.seq - len(turn.events) + 1
        row.events += turn.events
        row.event_ids += [self.event_id(order_id, seq) for seq in range(first_seq, order.seq + 1)]
        row.seq, row.status, row.returned_minor = order.seq, order.status.value, order.returned_minor
        if turn.payment_handle is not None:
            row.payment_handle = dict(turn.payment_handle)
        for step in turn.done:
            self.effects.pop((order_id, step), None)
        for effect in turn.due:
            self.effects[order_id, effect.step] = EffectRow(
                now + timedelta(seconds=effect.delay_s or EFFECT_LEASE_S)
            )
        if turn.news is not None:
            self.settle_webhook(turn.news, "applied")
        for licence in turn.licences:
            self.licences[licence.licence_id] = (order_id, licence)
            self.standings[licence.licence_id] = "active"
        for event in turn.events:
            self._judge(order_id, event)
        for delivery in turn.deliveries:
            self.deliveries[delivery.delivery_id] = _delivery_row(order_id, delivery, now)
        if any(isinstance(event, DeliveryKeysForgotten) for event in turn.events):
            for delivered in self.deliveries.values():
                if delivered.order_id == order_id:
                    delivered.wrapped_identity = None
        if decide.gives_discount_back(turn.events):
            self.discount_uses.pop(order_id, None)
        self.enqueue(order_id, first_seq, order.seq)
        for watcher in self.watchers:
            watcher(self.commits[-1])

    def _judge(self, order_id: str, event: Event) -> None:
        """Let a licence's status follow; revoked is for ever, as the schema has it."""
        if not isinstance(event, LicencesSuspended | LicencesRestored | LicencesRevoked):
            return
        status = STANDINGS[type(event)]
        for line_no in event.line_nos:
            name = licence_id(order_id, line_no)
            if name in self.standings:
                self.standings[name] = status

    def enqueue(self, order_id: str, first_seq: int, last_seq: int) -> None:
        """Put a stretch of an order's events into the outbox."""
        self._position += 1
        row = OutboxRow(self._position, shard_of(order_id), order_id, first_seq, last_seq)
        self.outbox[row.position] = row

    def event_id(self, order_id: str, seq: int) -> str:
        """Return the id of an order's event, as the adapter derives it."""
        return derive_id("evt", order_id, str(seq))

    def _refuse_duplicates(self, turn: Turn) -> None:
        # Not refused is an event number twice, so that the checks see what the fence alone is worth.
        order_id = turn.order.order_id
        if not 0 <= turn.order.returned_minor <= turn.order.total_minor:
            raise IntegrityError(f"orders: {order_id} returns {turn.order.returned_minor}")
        for event in turn.events:
            if isinstance(event, LicencesSuspended | LicencesRestored):
                names = {licence_id(order_id, line_no) for line_no in event.line_nos}
                if any(self.standings.get(name) == "revoked" for name in names):
                    raise IntegrityError(f"licences: one of {order_id} is revoked for good")
        for licence in turn.licences:
            if licence.licence_id in self.licences:
                raise IntegrityError(f"licences: {licence.licence_id} exists")
        for delivery in turn.deliveries:
            if delivery.delivery_id in self.deliveries:
                raise IntegrityError(f"deliveries: {delivery.delivery_id} exists")
        done = set(turn.done)
        for effect in turn.due:
            # Statements of one transaction see the rows as they were before it: a step that the same
            # turn ends and starts again would collide.
            if (order_id, effect.step) in self.effects and effect.step not in done:
                raise IntegrityError(f"effects: {order_id} {effect.step} exists")


def _delivery_row(order_id: str, delivery: SealedDelivery, now: datetime) -> DeliveryRow:
    ttl_s = delivery.key_ttl_s
    expires_at = None if ttl_s is None else now + timedelta(seconds=ttl_s)
    return DeliveryRow(order_id, delivery, delivery.wrapped_identity, expires_at)
