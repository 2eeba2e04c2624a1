"""One reconciliation: reads the three sources of a window, compares them order by order, keeps cases.

    Stripe's balance transactions ─┐
    Finance's entries              ├─► spool ─► orders, page by page ─► compare ─► all facts ─► cases, fixes
    orders of the window           ┘                                    of the window   of what does not match

A window's facts are only ever grounds for suspicion: an order that does not match, and every order with an
open case, is looked at in full, by direct questions to all three, and that decides. So neither the edges of
a window nor what happens meanwhile makes a case. Processing fees are booked on the way, in batches.

Nothing is corrected that another side has not said: fixes are news through the order's inbox, entries under
their own keys, and reversals that an operator asked for. Bounds: what is looked at in full, and time.
Synchronous: it runs in a thread or a process of its own.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, pairwise

from actors.reconciliation.transfers import SETTLING, Payouts, judge, still_open
from domain.errors import MarketplaceError, RejectedError
from domain.ids import is_id
from domain.orders.state import Order
from domain.reconciliation.cases import BY_ITSELF, case_id
from domain.reconciliation.compare import examine, suspects
from domain.reconciliation.facts import (
    Booked,
    Difference,
    Facts,
    Fix,
    Kind,
    Post,
    Rebook,
    Reverse,
    StripeObject,
    TellOrder,
    is_loose,
)
from domain.reconciliation.report import Report
from storage.reconciliation.ahead import ahead
from storage.reconciliation.ledger import Ledger
from storage.reconciliation.market import Market, OpenCase
from storage.reconciliation.spool import Spool, spool
from storage.reconciliation.stripe_moves import ENABLED, Move, StripeMoves

PAGE_ORDERS = 500  # some 2 MB of histories
# How far the clocks of the three may be apart, and how long a payment takes: read beyond the window by this.
MARGIN = timedelta(hours=1)
GRACE = timedelta(minutes=10)  # what is younger is not judged: the others may not have heard of it yet
LOOKED_AT_MAX = 2_000  # orders in full per run, some 40 ms each; more differences than that have one cause
ASKED_CHARGES_MAX = 1_000  # charges of refunds and disputes that nothing else names
SLICES = 4  # of a window, read from Stripe at once: it answers a page in tenths of a second, and 100 in one
ACCEPTED_LOOKED_AT_MAX = 200  # dismissed cases per run, to see whether their difference is gone
TRANSFERS_MAX = 50_000  # of one window, held in memory
UNDELIVERED_DAYS = 3  # Stripe gives an event up after that
_CAUSES_MAX = f"more than {LOOKED_AT_MAX} orders differ; look for one cause, then run it again"
_Page = tuple[list[str], Mapping[str, Order], Mapping[str, Mapping[int, str]]]
_TRANSFERS = frozenset({"transfer", "transfer_refund", "transfer_cancel", "transfer_failure"})


class StoppedError(Exception):
    """The process is ending; the run is given up. What it did stays, and the next run goes over it again."""


@dataclass(frozen=True, slots=True)
class Window:
    """From ``since`` up to, not including, ``until``."""

    since: datetime
    until: datetime

    def holds(self, at: datetime) -> bool:
        """Whether an instant lies in it."""
        return self.since <= at < self.until


@dataclass(slots=True)
class _Taken:
    """What is met on the way that belongs to no order."""

    window: Window
    transfers: list[Move] = field(default_factory=list)
    loose: list[Difference] = field(default_factory=list)


class Reconciler:
    """One run's collaborators. ``stopping`` is asked between pages; ``note`` is told of progress."""

    def __init__(
        self,
        market: Market,
        ledger: Ledger,
        stripe: StripeMoves,
        *,
        payouts: Payouts | None = None,
        note: Callable[[str], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._market = market
        self._ledger = ledger
        self._stripe = stripe
        self._payouts = payouts
        self._note = note
        self._stopping = stopping
        self._accepted: list[str] = []  # dismissed cases that this run looks for

    def run(self, window: Window, *, apply: bool, grace: timedelta = GRACE) -> Report:
        """Reconcile a window and look at all open cases again; ``apply`` also makes the harmless fixes.

        Raises:
            DependencyError: a source went away; what was kept stands, and the run is to be repeated.
            StoppedError: see there.
        """
        began = time.monotonic()
        report = Report(window.since, window.until)
        accepted = self._market.accepted_cases(ACCEPTED_LOOKED_AT_MAX)
        self._accepted = [one.case_id for one in accepted]
        known = [*self._market.open_cases(), *accepted]
        with spool() as spooled:
            loose = self._gather(spooled, window, report)
            payments = self._touch(spooled, window, known)
            settled_before = self._market.now() - grace
            suspected = self._compare(spooled, window, settled_before, payments, report)
            by_order = defaultdict(set, {one: set(found) for one, found in payments.items()})
            for order_id, intents in suspected.items():
                by_order[order_id] |= intents
            self._look_at(by_order, settled_before, known, report, apply=apply)
        self._loose_ends(loose, window, known, report, apply=apply)
        if report.complete:
            self._market.seen(self._accepted)
        report.unreadable_orders = len(self._market.unreadable)
        report.open_by_kind = self._market.open_by_kind()
        report.stripe_minor = self._stripe.balance()
        report.finance_minor = self._ledger.balances()
        report.seconds = time.monotonic() - began
        return report

    def look_again(self, *, apply: bool, grace: timedelta = GRACE) -> Report:
        """Look at the orders of open cases only."""
        began = time.monotonic()
        now = self._market.now()
        report = Report(now, now)
        self._accepted = []
        open_cases = self._market.open_cases()
        payments = _payments(open_cases)
        self._look_at(payments, now - grace, open_cases, report, apply=apply)
        self._loose_entries([], open_cases, report)
        self._settled_transfers(open_cases, report)
        report.open_by_kind = self._market.open_by_kind()
        report.seconds = time.monotonic() - began
        return report

    # -- a window's facts ---------------------------------------------------------------------------------

    def _gather(self, spooled: Spool, window: Window, report: Report) -> list[Difference]:
        """Fill the spool; returns differences about no order: transfers, unexplained entries."""
        wide = Window(window.since - MARGIN, window.until + MARGIN)
        taken = _Taken(window)
        sources: list[Iterable[Sequence[Move | Booked]]] = [
            self._stripe.moves(part.since, part.until) for part in _slices(wide)
        ]
        sources += [self._ledger.window(one, wide.since, wide.until) for one in self._ledger.balances()]
        for page in ahead(*sources):
            self._pause()
            for one in page:
                if isinstance(one, Move):
                    report.movements += 1
                    self._take_move(spooled, one, taken, report)
                else:
                    report.entries += 1
                    self._take_entry(spooled, one, taken)
        if len(taken.transfers) > TRANSFERS_MAX:
            report.stopped_by = f"more than {TRANSFERS_MAX} transfers in one window"
        self._note(f"{report.movements} movements at Stripe, {report.entries} entries at Finance")
        self._name(spooled)
        spooled.seal()
        report.foreign_charges = spooled.foreign()[0]
        return [*taken.loose, *self._judge_transfers(taken.transfers, window)]

    def _take_move(self, spooled: Spool, move: Move, taken: _Taken, report: Report) -> None:
        if move.about is not None and move.about.amount_minor:
            spooled.add_object(move.order_id, move.charge_id, move.about)
            return
        report.other_movements[move.type] += 1
        if move.type in _TRANSFERS and taken.window.holds(move.at) and len(taken.transfers) <= TRANSFERS_MAX:
            taken.transfers.append(move)

    def _take_entry(self, spooled: Spool, entry: Booked, taken: _Taken) -> None:
        order_id = entry.entry_key.partition(":")[0]
        if is_id("ord", order_id):
            spooled.add_entry(order_id, entry)
        elif is_loose(entry) and taken.window.holds(entry.occurred_at):
            taken.loose.append(_loose_entry(entry))

    def _name(self, spooled: Spool) -> None:
        """Find the orders of refunds and disputes: by charge, by payment, then by asking Stripe."""
        spooled.name_by_charges()
        payments = [payment for _, payment in spooled.unnamed() if payment]
        spooled.name_by_payment(self._market.orders_of_payments(payments))
        left = islice(spooled.unnamed(), ASKED_CHARGES_MAX)
        asked = {payment: self._stripe.charge(charge)[0] for charge, payment in left if charge and payment}
        spooled.name_by_payment({payment: order_id for payment, order_id in asked.items() if order_id})

    def _touch(self, spooled: Spool, window: Window, open_cases: Sequence[OpenCase]) -> dict[str, set[str]]:
        """Add orders that only Postgres may know of; returns the payments of orders with open cases."""
        for page in self._market.orders_placed(window.since - MARGIN, window.until):
            spooled.touch(page)
        spooled.touch(self._market.orders_returned(window.since, window.until))
        payments = _payments(open_cases)
        spooled.touch(payments)
        return payments

    def _compare(
        self,
        spooled: Spool,
        window: Window,
        settled_before: datetime,
        payments: Mapping[str, set[str]],
        report: Report,
    ) -> dict[str, set[str]]:
        """Compare page by page and book fees; returns the orders that do not match, with their payments."""
        suspected: dict[str, set[str]] = {}
        for order_ids, orders, licences in ahead(self._pages_of_orders(spooled)):
            self._pause()
            objects, entries = spooled.objects_of(order_ids), spooled.entries_of(order_ids)
            fees: list[tuple[str, Post]] = []
            for order_id in order_ids:
                if order_id in self._market.unreadable:
                    continue
                report.orders += 1
                facts = Facts(
                    order_id,
                    orders.get(order_id),
                    objects.get(order_id, ()),
                    entries.get(order_id, ()),
                    licences.get(order_id, {}),
                )
                findings = examine(facts, settled_before)
                fees += [(order_id, fee) for fee in findings.fees]
                if order_id not in payments and suspects(findings, window.since, window.until):
                    suspected[order_id] = {one.payment_intent_id for one in facts.objects}
            for order_id in self._book_fees(fees, report):
                suspected.setdefault(order_id, {one.payment_intent_id for one in objects.get(order_id, ())})
            if report.orders % (20 * PAGE_ORDERS) < PAGE_ORDERS:
                self._note(f"{report.orders} orders compared")
        return suspected

    def _pages_of_orders(self, spooled: Spool) -> Iterator[_Page]:
        for order_ids in spooled.order_ids(PAGE_ORDERS):
            orders = self._market.orders(order_ids, money_only=True)
            yield order_ids, orders, self._market.licences(order_ids)

    def _book_fees(self, fees: Sequence[tuple[str, Post]], report: Report) -> list[str]:
        """Book fees; returns the orders of those that Finance refuses."""
        refused = []
        for (order_id, _), outcome in zip(fees, self._ledger.post([fee for _, fee in fees]), strict=True):
            if outcome is True:
                report.fees_booked += 1
            elif isinstance(outcome, MarketplaceError):
                refused.append(order_id)
        return refused

    # -- all facts of an order ----------------------------------------------------------------------------

    def _look_at(
        self,
        payments: Mapping[str, set[str]],
        settled_before: datetime,
        open_cases: Sequence[OpenCase],
        report: Report,
        *,
        apply: bool,
    ) -> None:
        """Look at orders in full, keep what differs, close what does not any more, mend what may be."""
        order_ids = sorted(payments)
        if len(order_ids) > LOOKED_AT_MAX:
            report.stopped_by = _CAUSES_MAX
            order_ids = order_ids[:LOOKED_AT_MAX]
        asked = {one.case_id for one in open_cases if one.asked}
        for first in range(0, len(order_ids), PAGE_ORDERS):
            page = order_ids[first : first + PAGE_ORDERS]
            found = [
                one
                for order_id in page
                if order_id not in self._market.unreadable
                for one in self._examine_in_full(order_id, payments[order_id], settled_before, report)
            ]
            kept = self._keep(found, report)
            read = [order_id for order_id in page if order_id not in self._market.unreadable]
            report.resolved += self._market.resolve(read, [case_id(one) for one in found], self._accepted)
            for one in kept:
                self._mend(one, report, wanted=apply, asked=case_id(one) in asked)

    def _examine_in_full(
        self, order_id: str, payments: set[str], settled_before: datetime, report: Report
    ) -> Sequence[Difference]:
        self._pause()
        report.looked_at += 1
        order = self._market.orders([order_id]).get(order_id)
        if order_id in self._market.unreadable:  # a newer build has moved it: it is not unknown
            return ()
        if order is not None and order.payment_intent_id is not None:
            payments = payments | {order.payment_intent_id}
        entries = self._ledger.of_order(order_id)
        payments = payments | {self._stripe.charge(one)[1] for one in _charges_of_fees(entries)}
        objects: dict[str, StripeObject] = {}
        for payment in sorted(payments - {""}):
            objects |= {one.object_id: one for _, one in self._stripe.of_payment(payment)}
        facts = Facts(
            order_id,
            order,
            list(objects.values()),
            entries,
            self._market.licences([order_id]).get(order_id, {}),
            self._market.waiting([order_id]).get(order_id, ()),
        )
        return examine(facts, settled_before).differences

    def _keep(self, found: Sequence[Difference], report: Report) -> Sequence[Difference]:
        """Keep differences as cases; returns those that no operator has accepted as they are."""
        counted = self._market.record(found)
        report.opened += counted["opened"]
        report.changed += counted["changed"]
        dismissed = self._market.dismissed([case_id(one) for one in found])
        standing = [one for one in found if case_id(one) not in dismissed]
        report.dismissed += len(found) - len(standing)
        report.differences += standing
        return standing

    def _mend(self, difference: Difference, report: Report, *, wanted: bool, asked: bool) -> None:
        fix = difference.fix
        if fix is None or not (asked or isinstance(fix, BY_ITSELF)):
            return
        if not (wanted or asked):
            report.applicable += 1
            return
        done, words = self._make(fix)
        if done or asked:
            self._market.applied(case_id(difference), words)
            report.applied += done

    def _make(self, fix: Fix) -> tuple[bool, str]:
        """Make a fix; returns whether that is new, and what came of it."""
        match fix:
            case TellOrder():
                told = self._market.tell(fix.news)
                return told, "the order was told" if told else "the order was told before and has not changed"
            case Post():
                return self._post(fix)
            case Reverse():
                return self._reverse(fix.entry_key)
            case Rebook():
                reversed_now, words = self._reverse(fix.wrong_key)
                posted, more = self._post(fix.right)
                return reversed_now or posted, f"{words}; {more}"

    def _post(self, post: Post) -> tuple[bool, str]:
        outcome = self._ledger.post([post])[0]
        if isinstance(outcome, MarketplaceError):
            return False, f"Finance refuses {post.entry_key}: {outcome}"
        return outcome, f"posted {post.entry_key}" if outcome else f"{post.entry_key} was posted before"

    def _reverse(self, entry_key: str) -> tuple[bool, str]:
        try:
            done = self._ledger.reverse(entry_key)
        except RejectedError as refused:
            return False, f"Finance refuses to reverse {entry_key}: {refused}"
        return done, f"reversed {entry_key}" if done else f"{entry_key} was reversed before"

    # -- what is about no order ---------------------------------------------------------------------------

    def _judge_transfers(self, moves: Sequence[Move], window: Window) -> list[Difference]:
        if self._payouts is None:
            return []
        # A transfer that was made a moment ago may not be recorded yet.
        return judge(self._payouts, moves, window.since, min(window.until, self._market.now() - GRACE))

    def _settled_transfers(self, open_cases: Sequence[OpenCase], report: Report) -> None:
        """Close cases of transfers and reversals that their payouts have recorded since."""
        known = [one for one in open_cases if one.kind in SETTLING]
        if self._payouts is not None and known:
            still = still_open(self._payouts, known)
            report.resolved += self._market.resolve_loose(SETTLING, still, self._accepted)

    def _loose_ends(
        self,
        loose: Sequence[Difference],
        window: Window,
        open_cases: Sequence[OpenCase],
        report: Report,
        *,
        apply: bool,
    ) -> None:
        told = self._webhooks(window)
        self._keep(told, report)
        kinds = [Kind.WEBHOOK_ENDPOINT_DISABLED.value, Kind.EVENTS_UNDELIVERED.value]
        report.resolved += self._market.resolve_loose(kinds, [case_id(one) for one in told], self._accepted)
        transfers = [one for one in loose if one.kind is not Kind.BOOKED_WITHOUT_ORDER]
        self._settled_transfers(open_cases, report)
        for one in self._keep(transfers, report):
            # What its webhook would have done, and no more: the runner asks Stripe and books.
            if apply and self._payouts is not None and (transfer := one.evidence.get("transfer")):
                report.applied += self._payouts.look_at(transfer)
                self._market.applied(case_id(one), "its payout looks at Stripe again")
        self._loose_entries(
            [one for one in loose if one.kind is Kind.BOOKED_WITHOUT_ORDER], open_cases, report
        )

    def _loose_entries(
        self, found: Sequence[Difference], open_cases: Sequence[OpenCase], report: Report
    ) -> None:
        """Keep entries that belong to nothing, of this window and of open cases, until reversed."""
        kept = {one.subject: one for one in found}
        known = [one for one in open_cases if not one.order_id and one.kind == Kind.BOOKED_WITHOUT_ORDER]
        for one in known:
            entry = self._ledger.entry(one.subject)
            if entry is not None and not entry.undone:
                kept[one.subject] = _loose_entry(entry)
        standing = self._keep(list(kept.values()), report)
        asked = {one.case_id for one in known if one.asked}
        report.resolved += self._market.resolve_loose(
            [Kind.BOOKED_WITHOUT_ORDER.value], [case_id(one) for one in kept.values()], self._accepted
        )
        for loose in standing:
            self._mend(loose, report, wanted=False, asked=case_id(loose) in asked)

    def _webhooks(self, window: Window) -> list[Difference]:
        now = self._market.now()
        endpoints = self._stripe.endpoints()
        found = [
            _of_webhooks(
                Kind.WEBHOOK_ENDPOINT_DISABLED, one, now, f"Webhook endpoint {one} ({url}) is {status}."
            )
            for one, url, status in endpoints
            if status != ENABLED
        ]
        if not endpoints:
            words = "Stripe has no webhook endpoint: orders hear of payments by reconciliation only."
            found.append(_of_webhooks(Kind.WEBHOOK_ENDPOINT_DISABLED, "none", now, words))
        since = max(window.since, now - timedelta(days=UNDELIVERED_DAYS))
        until = min(window.until, now - GRACE)
        events = self._stripe.undelivered(since, until) if since < until else []
        if events:
            words = f"{len(events)} events of Stripe's have not been delivered, the newest is {events[0]}."
            found.append(_of_webhooks(Kind.EVENTS_UNDELIVERED, "events", now, words))
        return found

    def _pause(self) -> None:
        if self._stopping():
            raise StoppedError


def _slices(window: Window) -> list[Window]:
    """Cut a window into equal parts of whole seconds, which is how Stripe tells time."""
    cuts = [window.since + (window.until - window.since) * n / SLICES for n in range(SLICES)]
    bounds = [*(cut.replace(microsecond=0) for cut in cuts), window.until]
    return [Window(since, until) for since, until in pairwise(bounds)]


def _charges_of_fees(entries: Sequence[Booked]) -> set[str]:
    """Return charges besides the order's own whose fees are booked: nothing else may name them any more."""
    parts = [entry.entry_key.split(":") for entry in entries]
    return {part[2] for part in parts if part[1:2] == ["fee"] and part[2:3] and part[2].startswith("ch_")}


def _payments(open_cases: Sequence[OpenCase]) -> dict[str, set[str]]:
    """Return the payments that open cases are about, by order."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for one in open_cases:
        if one.order_id:
            found[one.order_id].add(one.payment_intent_id)
    return dict(found)


def _loose_entry(entry: Booked) -> Difference:
    return Difference(
        Kind.BOOKED_WITHOUT_ORDER,
        "",
        entry.entry_key,
        entry.occurred_at,
        entry.currency,
        0,
        sum(amount for account, amount in entry.postings if account == "stripe:clearing"),
        f"Finance has entry {entry.entry_key} on stripe:clearing, which belongs to no order and no payout.",
        {"postings": [[account, amount] for account, amount in entry.postings]},
        Reverse(entry.entry_key),
    )


def _of_webhooks(kind: Kind, subject: str, at: datetime, words: str) -> Difference:
    return Difference(kind, "", subject, at, "", None, None, words)
