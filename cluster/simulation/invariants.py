"""What must hold in a simulated world: at every commit (safety), and once faults have healed (liveness).

The facts of one order go through ``domain.orders.invariants``, the same checks that run on a live database;
here they run after each commit of that order, so that a violation that heals by itself is seen too. Added
is what only a simulation knows: the fence of each commit, what was acknowledged to whom, Stripe's whole
truth, the leases of claims, and that everything comes to its end.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from actors.orders.retries import UNFORESEEN_TRIES_MAX
from cluster.simulation.hosts import Outside
from cluster.simulation.ingress import Acknowledgements
from cluster.simulation.postgres import Commit, Postgres
from cluster.simulation.returned import Dispute, Refund
from cluster.simulation.stripe import Charge
from domain.orders import decide
from domain.orders.events import (
    DeliveryKeyReleased,
    DeliveryKeysForgotten,
    DisputeFeeChanged,
    DisputeLost,
    DisputeWon,
    Event,
    OrderCancelled,
    OrderDelivered,
    OrderDisputed,
    OrderExpired,
    OrderRefunded,
    PaymentActionRequired,
    PaymentAuthorised,
    PaymentFailed,
    PaymentOpened,
    PaymentVoided,
    RefundAccepted,
    RefundRequested,
    ReturnBooked,
    ReviewApproved,
    ReviewRejected,
)
from domain.orders.holding_invariants import DeliveryTerms, LicenceTerms
from domain.orders.invariants import (
    OrderFacts,
    OrderRow,
    RecordedEvent,
    StoredDelivery,
    StoredEffect,
    StoredLicence,
    StoredWebhook,
    Violation,
    check_order,
)
from domain.orders.ledger_invariants import Charge as KnownCharge
from domain.orders.ledger_invariants import LedgerEntry
from domain.orders.payments import REVIEW_EXPIRED
from domain.orders.state import TERMINAL, Order, Status, fold

# Refusals that no operator can mend by trying again: money that the order cannot use, and what follows.
FINAL_CODES = frozenset({"amount_mismatch", "payment_intent_mismatch", "second_charge", "order_cancelled"})
TRANSIENT_CODES = frozenset(
    {
        "database_unavailable",
        "payment_provider_unavailable",
        "finance_unavailable",
        "signer_unavailable",
        "circuit_open",
        "request_cancelled",
        "queue_full",
        "order_contended",
        "mailbox_full",
        "mailbox_timeout",
        "host_full",
        "refund_undecided",
        "payment_not_recorded",
        "fulfilment_held",
        "fulfilment_outdated",
    }
)
CLAIM_GAP_S = 0.45  # the shortest backoff is half a second; a faster second claim means that one was not kept


class SafetyWatch:
    """Checks each commit as it happens; ``violations`` are all that were seen, each once."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self.violations: list[Violation] = []
        self._since: dict[tuple[str, type[Event]], datetime] = {}
        outside.database.watchers.append(self._committed)

    def _committed(self, commit: Commit) -> None:
        if commit.fence != commit.seq_before:
            self._add(
                "I8",
                commit.order_id,
                f"a commit under fence {commit.fence} was written over event {commit.seq_before}",
            )
        for violation in check_order(facts_of(commit.order_id, self._outside, charges=None)):
            self._add(violation.invariant, violation.order_id, violation.detail)
        self._check_timers(commit)
        self._check_uses(commit)
        for kind in repeated_facts(self._outside.database.orders[commit.order_id].events):
            self._add("I6", commit.order_id, f"the same fact is recorded twice: {kind}")

    def _check_uses(self, commit: Commit) -> None:
        """No code is used more often than it may be, at any moment."""
        discount_id = commit.turn.order.discount_id
        if discount_id is None:
            return
        database = self._outside.database
        uses = [buyer for used, buyer in database.discount_uses.values() if used == discount_id]
        rule = database.discounts[discount_id]
        if rule.uses_max is not None and len(uses) > rule.uses_max:
            words = f"{discount_id} is used {len(uses)} times, and may be {rule.uses_max} times"
            self._add("I6", commit.order_id, words)

    def _check_timers(self, commit: Commit) -> None:
        """No timer fires before its time by the database's clock, whatever a host's own clock says."""
        kinds = {type(event) for event in commit.turn.events}
        for of, timer, wait_s in (
            (PaymentOpened, OrderExpired, decide.PAYMENT_DEADLINE_S),
            (OrderDelivered, DeliveryKeysForgotten, decide.RELEASED_KEY_TTL_S),
        ):
            if of in kinds:
                self._since[commit.order_id, timer] = commit.at
            if timer in kinds:
                waited = commit.at - self._since.get((commit.order_id, timer), commit.at)
                if waited < timedelta(seconds=wait_s):
                    self._add("I9", commit.order_id, f"{timer.__name__} after {waited.total_seconds()} s")
        for event in commit.turn.events:
            if isinstance(event, PaymentAuthorised):
                self._since[commit.order_id, PaymentAuthorised] = commit.at
            elif isinstance(event, OrderCancelled) and event.code == REVIEW_EXPIRED:
                waited = commit.at - self._since[commit.order_id, PaymentAuthorised]
                if waited < timedelta(seconds=commit.turn.order.review_s):
                    self._add("I9", commit.order_id, f"the review ended after {waited.total_seconds()} s")

    def _add(self, invariant: str, order_id: str, detail: str) -> None:
        violation = Violation(invariant, order_id, detail)
        if violation not in self.violations:
            self.violations.append(violation)


def facts_of(order_id: str, outside: Outside, charges: list[Charge] | None) -> OrderFacts:
    """Gather one order's facts, all of the same instant."""
    database = outside.database
    row = database.orders[order_id]
    return OrderFacts(
        order_id=order_id,
        events=[
            RecordedEvent(seq, event_id, event)
            for seq, (event_id, event) in enumerate(zip(row.event_ids, row.events, strict=True), 1)
        ],
        row=OrderRow(row.status, row.seq, row.buyer_id, row.currency, row.total_minor, row.returned_minor),
        licences=[
            StoredLicence(
                one.licence_id,
                one.line_no,
                one.release_id,
                one.quantity,
                database.standings[one.licence_id],
                terms=LicenceTerms(one.sku_id),
            )
            for of_order, one in database.licences.values()
            if of_order == order_id
        ],
        deliveries=[
            StoredDelivery(
                one.delivery.delivery_id,
                one.delivery.line_no,
                one.delivery.release_id,
                one.wrapped_identity is not None,
                DeliveryTerms(one.delivery.mode, one.delivery.recipient),
            )
            for one in database.deliveries.values()
            if one.order_id == order_id
        ],
        effects=[
            StoredEffect(step, effect.due_at, effect.dead_code is not None)
            for (of_order, step), effect in database.effects.items()
            if of_order == order_id
        ],
        discount_uses=[use for of_order, use in database.discount_uses.items() if of_order == order_id],
        dropped_steps=[step for of_order, step in database.dropped if of_order == order_id],
        webhooks=[
            StoredWebhook(
                one.news.event_id, one.processed, one.due_at, one.dead_code is not None, one.news.kind
            )
            for one in database.inbox.values()
            if one.news.order_id == order_id
        ],
        entries=[
            LedgerEntry(entry.entry_key, entry.currency, entry.postings)
            for entry in outside.finance.entries.values()
            if entry.entry_key.startswith(order_id)
        ],
        charges=None if charges is None else [_known_charge(one, outside) for one in charges],
    )


def _known_charge(charge: Charge, outside: Outside) -> KnownCharge:
    returns = outside.stripe.returns
    of_charge = [one for one in returns.disputes.values() if one.intent_id == charge.intent_id]
    return KnownCharge(
        charge.intent_id,
        charge.amount_minor,
        charge.currency,
        refunded_minor=_gone(returns.refunds.values(), charge.intent_id),
        disputed_minor=_gone(of_charge, charge.intent_id),
        dispute_fee_minor=sum(dispute.fee_minor for dispute in of_charge),
    )


def _gone(returns: Iterable[Refund | Dispute], intent_id: str) -> int:
    return sum(one.amount_minor for one in returns if one.intent_id == intent_id and one.returns)


def repeated_facts(events: list[Event]) -> list[str]:
    """Name what is recorded twice though it can happen once only."""
    counts: Counter[str] = Counter()
    for event in events:
        match event:
            case PaymentFailed():
                counts[f"PaymentFailed {event.stripe_event_id}"] += 1
            case DeliveryKeyReleased():
                counts[f"DeliveryKeyReleased {event.delivery_id}"] += 1
            case PaymentActionRequired():
                counts[f"PaymentActionRequired {event.stripe_event_id}"] += 1
            case PaymentOpened() | OrderExpired() | PaymentVoided() | DeliveryKeysForgotten():
                counts[type(event).__name__] += 1
            case PaymentAuthorised() | ReviewApproved() | ReviewRejected() | OrderCancelled():
                counts[type(event).__name__] += 1
            case RefundRequested() | RefundAccepted() | OrderRefunded():
                counts[f"{type(event).__name__} {event.refund_id}"] += 1
            case OrderDisputed() | DisputeWon() | DisputeLost():
                counts[f"{type(event).__name__} {event.dispute_id}"] += 1
            case DisputeFeeChanged():
                counts[f"DisputeFeeChanged {event.dispute_id} {event.transaction_id}"] += 1
            case ReturnBooked():
                counts[f"ReturnBooked {event.movement}"] += 1
            case _:
                pass
    return [what for what, count in counts.items() if count > 1]


def settled(outside: Outside) -> bool:
    """Whether every order has come to its end, or to a dead letter that only a person can end."""
    database = outside.database
    if any(row.dead_code not in FINAL_CODES for row in database.effects.values()):
        return False
    if any(not row.processed and row.dead_code not in FINAL_CODES for row in database.inbox.values()):
        return False
    return all(row.status in TERMINAL for row in database.orders.values())


def final_violations(outside: Outside, acknowledged: Acknowledgements) -> list[Violation]:
    """Check the end: everything acknowledged is kept, everything paid is delivered, nothing is left over."""
    found = [Violation(*broken) for broken in acknowledged.broken]
    database = outside.database
    for order_id, row in database.orders.items():
        order = fold(order_id, row.events)
        assert order is not None, "the safety checks have seen its first event"
        found += _order_violations(order, outside)
    for (buyer_id, key), order_ids in acknowledged.orders.items():
        for order_id in order_ids - set(database.orders):
            found.append(Violation("I10", order_id, f"acknowledged to {buyer_id} under {key}, and gone"))
    for event_id in acknowledged.webhooks:
        inbox = database.inbox.get(event_id)
        if inbox is None or not (inbox.processed or inbox.dead_code in FINAL_CODES):
            found.append(
                Violation("I10", "", f"webhook {event_id} was acknowledged, and nobody deals with it")
            )
    found += [
        Violation("I4", order_id, "a licence was signed before Finance held the exact entry")
        for order_id in outside.signer.early
    ]
    for event_id in sorted(database.dropped_webhooks):
        if not database.inbox[event_id].processed or database.inbox[event_id].dead_code is not None:
            order_id = database.inbox[event_id].news.order_id
            found.append(Violation("L3", order_id, f"webhook {event_id} was dropped, and is a letter again"))
    return found + _claim_violations(database) + _burial_violations(database)


def _order_violations(order: Order, outside: Outside) -> list[Violation]:
    database, found = outside.database, []
    charges = [one for one in outside.stripe.charges if one.order_id == order.order_id]
    refused = {
        row.news.payment_intent_id
        for event_id, row in database.inbox.items()
        if row.dead_code in FINAL_CODES or event_id in database.dropped_webhooks
    }
    used = [one for one in charges if one.intent_id not in refused]
    found += check_order(facts_of(order.order_id, outside, used))
    effects = {step: row for (order_id, step), row in database.effects.items() if order_id == order.order_id}
    for step, effect in effects.items():
        if effect.dead_code not in FINAL_CODES:
            state = effect.dead_code or "alive"
            found.append(
                Violation("I9", order.order_id, f"effect {step} is {state} long after all has healed")
            )
    if order.status not in TERMINAL:
        found.append(Violation("I9", order.order_id, f"is still {order.status} long after all has healed"))
    delivered = order.stage is Status.DELIVERED or order.end_code == "returned_before_delivery"
    if used and not delivered:
        found.append(
            Violation("I1", order.order_id, f"took money by {used[0].intent_id} and is {order.status}")
        )
    dropped = any(order_id == order.order_id for order_id, _ in database.dropped)
    found += _payment_violations(order, outside, dead=bool(effects) or dropped)
    made = Counter(
        one.metadata["refund_id"]
        for one in outside.stripe.returns.refunds.values()
        if one.order_id == order.order_id and one.metadata
    )
    found += [
        Violation("I1", order.order_id, f"refund {refund_id} was made {count} times at Stripe")
        for refund_id, count in made.items()
        if count > 1
    ]
    return found


def _payment_violations(order: Order, outside: Outside, *, dead: bool) -> list[Violation]:
    """One payment was opened per order, and one that can no longer be used can no longer be paid."""
    stripe, found = outside.stripe, []
    of_sessions = {session.intent_id for session in stripe.sessions.values()}
    opened = [
        intent.intent_id
        for intent in stripe.intents.values()
        if intent.order_id == order.order_id and not intent.stray and intent.intent_id not in of_sessions
    ] + [one.session_id for one in stripe.sessions.values() if one.order_id == order.order_id]
    if len(opened) > 1 and order.order_id not in stripe.reopened:
        found.append(Violation("I2", order.order_id, f"several payments were opened: {opened}"))
    if order.stage in (Status.EXPIRED, Status.CANCELLED) and order.paid_at is None and not dead:
        own = [one for one in stripe.intents.values() if one.order_id == order.order_id and not one.stray]
        payable = [
            one.intent_id for one in own if one.status in ("requires_payment_method", "requires_capture")
        ] + [one for one in opened if one in stripe.sessions and stripe.sessions[one].status == "open"]
        if payable and order.order_id not in stripe.reopened:
            found.append(Violation("I9", order.order_id, f"is {order.status}, yet {payable} can be paid"))
    return found


def _claim_violations(database: Postgres) -> list[Violation]:
    last: dict[tuple[str, str], object] = {}
    found = []
    gap = timedelta(seconds=CLAIM_GAP_S)
    for claim in database.claims:
        key = (claim.order_id, claim.step)
        before = last.get(key)
        # The first claim after an operator's retry may come at any time.
        again = claim.attempts > 1 and before is not None
        if again and claim.at - before < gap:  # type: ignore[operator]  # datetimes, both
            found.append(
                Violation("L1", claim.order_id, f"{claim.step} was claimed twice within {CLAIM_GAP_S} s")
            )
        last[key] = claim.at
    return found[:1]


def _burial_violations(database: Postgres) -> list[Violation]:
    found = []
    for burial in database.burials:
        what = burial.step or "a webhook"
        if burial.code in TRANSIENT_CODES:
            found.append(
                Violation("L2", burial.order_id, f"{what} was given up for a passing failure: {burial.code}")
            )
        elif burial.code == "internal_error" and burial.unforeseen + 1 < UNFORESEEN_TRIES_MAX:
            found.append(
                Violation(
                    "L2",
                    burial.order_id,
                    f"{what} was given up after {burial.unforeseen} unforeseen failures",
                )
            )
    return found
