"""The order's invariants, checked on facts: what must hold of one order whoever stored it, and whenever.

Decides what is a violation (DESIGN: I1 money, I2 one charge, I3 one licence per line, I4 none before Finance,
I6 events 1..n, I9 nothing is forgotten, I10 nothing acknowledged is lost). Reviews are in
``payment_invariants``; what goes back, I5 with it, is in ``return_invariants``. I8 shows as a gap or a
repetition in I6. Refuses to guess: a part of the facts that the caller does not have is ``None`` and is not
checked, and it never reads anything by itself.

Facts may be read while orders run. What the books, Stripe and the order say of the same payment is then
not of one instant: ``grace_s`` is how long one of them may be ahead of another.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta

from domain.ids import derive_id
from domain.orders.booking import (
    capture_entry_key,
    capture_postings,
    is_fee_entry,
    return_entry_key,
    standing,
)
from domain.orders.decide import delivery_id, effects_after, licence_id
from domain.orders.events import (
    KIND_OF,
    Event,
    OrderBooked,
    OrderCreated,
    OrderDelivered,
    OrderGranted,
    OrderLicensed,
    OrderPaid,
)
from domain.orders.holding_invariants import (
    DeliveryTerms,
    LicenceTerms,
    StoredSuccessor,
    check_deliveries,
    check_licences,
)
from domain.orders.ledger_invariants import (
    Charge,
    LedgerEntry,
    check_entry,
    check_fee,
    words,
)
from domain.orders.lines import Line
from domain.orders.payment_invariants import check_before_payment
from domain.orders.publication_invariants import Publication, check_publication
from domain.orders.return_invariants import (
    check_bound,
    check_refunded,
    check_standing,
    issued_lines,
    return_entries,
)
from domain.orders.state import TERMINAL, Order, fold
from domain.orders.terms_invariants import check_terms, check_uses

# A capture that Stripe told of itself, when asked (``void_payment``), and not by a webhook.
RETRIEVED_SUFFIX = ":retrieved"
CAPTURED = "payment_intent.succeeded"  # the only kind of webhook that tells of a capture
INBOX_KEPT_DAYS_MIN = 4  # processed webhooks are kept at least while Stripe may repeat them, three days
# Each happens at most once, and only after the one before it. The invariant is the one that breaks.
_MILESTONES: tuple[tuple[type[Event], str, str], ...] = (
    (OrderPaid, "I2", "I6"),
    (OrderBooked, "I1", "I4"),
    (OrderLicensed, "I3", "I4"),
    (OrderDelivered, "I3", "I3"),
)
_FREE_MILESTONES: tuple[tuple[type[Event], str, str], ...] = (
    (OrderGranted, "I6", "I6"),
    (OrderLicensed, "I3", "I4"),
    (OrderDelivered, "I3", "I3"),
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong. ``order_id`` is empty when it is about all orders together."""

    invariant: str
    order_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """A stored event; ``event`` is None when this build cannot read it."""

    seq: int
    event_id: str
    event: Event | None


@dataclass(frozen=True, slots=True)
class OrderRow:
    """The order's own row: what lists and fences are made of."""

    status: str
    seq: int
    buyer_id: str
    currency: str
    total_minor: int
    returned_minor: int = 0


@dataclass(frozen=True, slots=True)
class StoredLicence:
    """A licence row. ``status`` empty: not asked."""

    licence_id: str
    line_no: int
    release_id: str
    quantity: int
    status: str = ""
    terms: LicenceTerms | None = None
    successors: Sequence[StoredSuccessor] = ()


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A delivery row; ``holds_key``: the wrapped identity of a released-key delivery is still there."""

    delivery_id: str
    line_no: int
    release_id: str
    holds_key: bool = False
    terms: DeliveryTerms | None = None


@dataclass(frozen=True, slots=True)
class StoredEffect:
    """A row of the to-do list. ``due_at`` None: not known, so never overdue."""

    step: str
    due_at: datetime | None = None
    dead: bool = False


@dataclass(frozen=True, slots=True)
class StoredWebhook:
    """A row of the inbox. Needed are those that wait, and the one that the order was paid by."""

    event_id: str
    processed: bool
    due_at: datetime | None = None
    dead: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """All that is known of one order; ``None`` is "not asked", an empty sequence is "there is none".

    ``dropped_steps`` are effects that an operator gave up by hand. ``as_of`` is when the order's rows were
    read, by their database's clock; None means that nothing moved while the facts were gathered.
    ``charges_as_of`` is the same for the charges.
    """

    order_id: str
    events: Sequence[RecordedEvent]
    row: OrderRow | None = None
    licences: Sequence[StoredLicence] | None = None
    deliveries: Sequence[StoredDelivery] | None = None
    effects: Sequence[StoredEffect] | None = None
    dropped_steps: Sequence[str] = ()
    webhooks: Sequence[StoredWebhook] | None = None
    entries: Sequence[LedgerEntry] | None = None
    charges: Sequence[Charge] | None = None
    publication: Publication | None = None
    discount_uses: Sequence[tuple[str, str]] | None = None  # (discount, buyer)
    as_of: datetime | None = None
    charges_as_of: datetime | None = None


def check_order(facts: OrderFacts, *, grace_s: float = 0.0) -> list[Violation]:
    """Return everything that is wrong with one order; an empty list when nothing is."""
    return Examination(facts, grace_s).violations


class Examination:
    """One order's facts, read once: what is wrong with it, and the fold of its events if they allow one."""

    def __init__(self, facts: OrderFacts, grace_s: float) -> None:
        self.facts = facts
        self.order: Order | None = None
        self.paid: OrderPaid | None = None
        self.granted: OrderGranted | None = None
        self.booked: OrderBooked | None = None
        self.violations: list[Violation] = []
        self._grace = timedelta(seconds=grace_s)
        self._issued: tuple[Line, ...] = ()
        self._licence_ids: tuple[str, ...] = ()
        self._delivery_ids: tuple[str, ...] = ()
        for invariant, detail in self._examine():
            self.violations.append(Violation(invariant, facts.order_id, detail))

    def _examine(self) -> Iterator[tuple[str, str]]:
        facts = self.facts
        yield from _sequence(facts)
        events = [recorded.event for recorded in facts.events if recorded.event is not None]
        if len(events) < len(facts.events):
            return  # without all of them nothing else is certain
        if not events or type(events[0]) is not OrderCreated:
            yield "I6", "does not begin with order.created" if events else "has no events"
            return
        if any(type(event) is OrderCreated for event in events[1:]):
            yield "I6", "was created twice"
            return
        self.order = order = fold(facts.order_id, events)
        assert order is not None, "there is a first event"
        # Derived once: of what a check costs, a tenth is spent on ids.
        if order.licence_ids or order.delivery_ids:
            self._issued = issued_lines(order)
            self._licence_ids = tuple(licence_id(order.order_id, line.line_no) for line in self._issued)
            self._delivery_ids = tuple(delivery_id(order.order_id, line.line_no) for line in self._issued)
        for event in events:
            if isinstance(event, OrderPaid):
                self.paid = event
            elif isinstance(event, OrderGranted):
                self.granted = event
            elif isinstance(event, OrderBooked):
                self.booked = event
        yield from _milestones(events)
        yield from self._payment(order, events)
        yield from check_before_payment(order, events)
        yield from _row(facts.row, order)
        yield from check_bound(order)
        yield from self._licences(order)
        yield from check_standing(order, events)
        yield from self._deliveries(order)
        yield from self._effects(order, events)
        yield from self._webhooks()
        if facts.publication is not None:
            yield from check_publication(facts.publication, order.seq)
        yield from self._entries(order)
        yield from self._charges(order)

    def _settled(self, when: datetime | None, as_of: datetime | None) -> bool:
        """Whether something of ``when`` must be known everywhere by ``as_of``."""
        return when is None or as_of is None or when <= as_of - self._grace

    def _payment(self, order: Order, events: Sequence[Event]) -> Iterator[tuple[str, str]]:
        yield from check_terms(order, self.granted)
        if self.facts.discount_uses is not None:
            yield from check_uses(order, events, self.facts.discount_uses)
        total_minor = sum(line.amount_minor for line in order.lines)
        if total_minor != order.total_minor:
            yield "I1", f"totals {order.total_minor}, but its lines sum to {total_minor}"
        paid = self.paid
        if paid and (paid.amount_minor, paid.currency) != (order.total_minor, order.currency):
            total = f"{order.total_minor} {order.currency}"
            yield "I1", f"was paid {paid.amount_minor} {paid.currency} for a total of {total}"

    def _licences(self, order: Order) -> Iterator[tuple[str, str]]:
        rows = self.facts.licences
        if order.licence_ids and order.licence_ids != self._licence_ids:
            yield "I3", f"order.licensed names {order.licence_ids} instead of one licence per line"
        if rows is None:
            return
        if not order.licence_ids:
            for row in rows:
                yield "I4", f"licence {row.licence_id} exists, but no event says that the order was licensed"
            return
        expected = {
            (derived, line.line_no, line.release_id, line.quantity)
            for derived, line in zip(self._licence_ids, self._issued, strict=True)
        }
        stored = {(row.licence_id, row.line_no, row.release_id, row.quantity) for row in rows}
        yield from _compared("I3", "licence", expected, stored, len(rows))
        yield from check_licences(order, rows)

    def _deliveries(self, order: Order) -> Iterator[tuple[str, str]]:
        rows = self.facts.deliveries
        if order.delivery_ids and order.delivery_ids != self._delivery_ids:
            yield "I3", f"order.delivered names {order.delivery_ids} instead of one delivery per line"
        if rows is None:
            return
        if not order.delivery_ids:
            for row in rows:
                yield (
                    "I3",
                    f"delivery {row.delivery_id} exists, but no event says that the order was delivered",
                )
            return
        expected = {
            (derived, line.line_no, line.release_id)
            for derived, line in zip(self._delivery_ids, self._issued, strict=True)
        }
        stored = {(row.delivery_id, row.line_no, row.release_id) for row in rows}
        yield from _compared("I3", "delivery", expected, stored, len(rows))
        yield from check_deliveries(order, rows)
        if order.keys_forgotten:
            for row in rows:
                if row.holds_key:
                    yield "I6", f"delivery {row.delivery_id} still holds the key that was forgotten"

    def _effects(self, order: Order, events: Sequence[Event]) -> Iterator[tuple[str, str]]:
        if self.facts.effects is None:
            return
        expected: set[str] = set()
        for event in events:
            due, done = effects_after(event)
            expected.difference_update(done)
            expected.update(effect.step for effect in due)
        stored = {effect.step for effect in self.facts.effects}
        dropped = set(self.facts.dropped_steps)
        for step in sorted(expected - stored):
            if step not in dropped:
                yield "I9", f"nothing will ever {step}: the effect has no row, live or dead"
            elif order.status not in TERMINAL:
                yield "I9", f"nothing will ever {step}: an operator dropped it, and the order has not ended"
        for step in sorted(stored - expected):
            yield "I9", f"effect {step} has a row, though it is done or was never due"
        for effect in self.facts.effects:
            if not effect.dead and effect.due_at is not None and self._overdue(effect.due_at):
                yield (
                    "I9",
                    f"effect {effect.step} is due since {effect.due_at.isoformat()} and nobody takes it",
                )

    def _webhooks(self) -> Iterator[tuple[str, str]]:
        rows = self.facts.webhooks
        if rows is None:
            return
        for row in rows:
            waits = not row.processed and not row.dead
            if waits and row.due_at is not None and self._overdue(row.due_at):
                yield (
                    "I9",
                    f"webhook {row.event_id} is due since {row.due_at.isoformat()} and nobody takes it",
                )
        paid = self.paid
        if paid and not paid.stripe_event_id.endswith(RETRIEVED_SUFFIX) and not self._purged(paid.at):
            processed = {row.event_id for row in rows if row.processed}
            if paid.stripe_event_id not in processed:
                yield (
                    "I10",
                    f"was paid by webhook {paid.stripe_event_id}, which is not in the inbox as processed",
                )

    def _purged(self, processed_at: datetime) -> bool:
        as_of = self.facts.as_of
        return as_of is not None and processed_at < as_of - timedelta(days=INBOX_KEPT_DAYS_MIN)

    def _overdue(self, due_at: datetime) -> bool:
        return self.facts.as_of is not None and due_at < self.facts.as_of - self._grace

    def _entries(self, order: Order) -> Iterator[tuple[str, str]]:
        entries = self.facts.entries
        if entries is None:
            return
        capture_key = capture_entry_key(order.order_id)
        if self.booked and self.booked.entry_key != capture_key:
            yield "I4", f"order.booked names entry {self.booked.entry_key} instead of {capture_key}"
        held = dict(standing(entries))
        if self.booked and capture_key not in held:
            yield "I4", f"is booked, but Finance has no entry {capture_key}"
        returned = return_entries(order) if order.refunds or order.disputes else {}
        for movement in sorted(order.booked_returns):
            if return_entry_key(order.order_id, movement) not in held:
                yield "I1", f"Finance acknowledged {movement}, and has no entry of it"
        for entry in entries:
            yield from check_entry(entry)
        for key, entry in held.items():
            if is_fee_entry(order.order_id, key):
                yield from check_fee(entry, self.paid, self.facts.charges)
            elif key in returned:
                if sorted(entry.postings) != sorted(returned[key]):
                    yield "I1", f"Finance booked {words(entry)}, the return is {returned[key]}"
            elif key != capture_key:
                yield "I1", f"Finance has entry {entry.entry_key}, which nothing in the order explains"
            elif self.paid is None:
                if self._settled(entry.posted_at, self.facts.as_of):
                    yield "I1", f"Finance has entry {capture_key}, but the order was never paid"
            elif entry.currency != order.currency or sorted(entry.postings) != sorted(
                capture_postings(order)
            ):
                yield (
                    "I1",
                    f"Finance booked {words(entry)}, the sale is {capture_postings(order)} {order.currency}",
                )

    def _charges(self, order: Order) -> Iterator[tuple[str, str]]:
        charges, paid = self.facts.charges, self.paid
        if charges is None:
            return
        # What the order cannot use and somebody has returned in full is settled.
        used = paid and paid.payment_intent_id
        charges = [
            one for one in charges if one.payment_intent_id == used or one.refunded_minor != one.amount_minor
        ]
        if len(charges) > 1:
            names = ", ".join(sorted(charge.payment_intent_id for charge in charges))
            yield "I2", f"was charged {len(charges)} times: {names}"
        if paid is None:
            # News of a capture that waits, or lies refused before an operator, is an open case.
            webhooks = self.facts.webhooks or ()
            known = any(row.kind == CAPTURED and not row.processed for row in webhooks)
            for charge in charges:
                if not known and self._settled(charge.captured_at, self.facts.as_of):
                    yield "I1", f"Stripe captured {charge.payment_intent_id}, but the order does not know"
            return
        own = [charge for charge in charges if charge.payment_intent_id == paid.payment_intent_id]
        if not own and self._settled(paid.at, self.facts.charges_as_of):
            yield "I1", f"is paid by {paid.payment_intent_id}, of which Stripe has no capture"
        for charge in own:
            if (charge.amount_minor, charge.currency) != (order.total_minor, order.currency):
                total = f"{order.total_minor} {order.currency}"
                yield "I1", f"Stripe captured {charge.amount_minor} {charge.currency} for a total of {total}"
            if self._settled(order.updated_at, self.facts.charges_as_of):
                yield from check_refunded(order, charge)


def _sequence(facts: OrderFacts) -> Iterator[tuple[str, str]]:
    seqs = [recorded.seq for recorded in facts.events]
    if seqs != list(range(1, len(seqs) + 1)):
        yield "I6", f"events are numbered {seqs} instead of 1 to {len(seqs)}"
    for recorded in facts.events:
        if recorded.event_id != derive_id("evt", facts.order_id, str(recorded.seq)):
            yield "I6", f"event {recorded.seq} has the id {recorded.event_id}, which is not its own"
        if recorded.event is None:
            yield "I6", f"event {recorded.seq} cannot be read by this build"


def _milestones(events: Sequence[Event]) -> Iterator[tuple[str, str]]:
    kinds = [type(event) for event in events]
    free = OrderGranted in kinds
    if free and (OrderPaid in kinds or OrderBooked in kinds):
        yield "I1", "costs nothing, and was paid or booked"
    previous: type[Event] = OrderCreated
    for kind, repeated, unprepared in _FREE_MILESTONES if free else _MILESTONES:
        if kind in kinds:
            if kinds.count(kind) > 1:
                yield repeated, f"has {kinds.count(kind)} events {KIND_OF[kind]}"
            if previous not in kinds[: kinds.index(kind)]:
                yield unprepared, f"{KIND_OF[kind]} without {KIND_OF[previous]} before it"
        previous = kind


def _row(row: OrderRow | None, order: Order) -> Iterator[tuple[str, str]]:
    if row is None:
        return
    folded = OrderRow(
        order.status.value,
        order.seq,
        order.buyer_id,
        order.currency,
        order.total_minor,
        order.returned_minor,
    )
    if row != folded:
        yield "I6", f"its row says {_row_words(row)}, its events say {_row_words(folded)}"


def _row_words(row: OrderRow) -> str:
    return f"{row.status} at {row.seq}, {row.total_minor} {row.currency} by {row.buyer_id}"


def _compared(
    invariant: str, what: str, expected: AbstractSet[object], stored: AbstractSet[object], rows: int
) -> Iterator[tuple[str, str]]:
    if stored == expected and rows == len(expected):
        return
    missing, stray = sorted(map(str, expected - stored)), sorted(map(str, stored - expected))
    yield (
        invariant,
        f"has {rows} {what} rows for {len(expected)} lines; missing {missing}, unexplained {stray}",
    )
