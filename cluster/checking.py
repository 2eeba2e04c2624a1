"""The invariant checker over live databases: reads all orders page by page and says what is wrong.

Decides where the facts come from (the stack on this machine, or addresses given by the environment), what
is compared as a whole, and what a row of an order that does not exist means. What holds of one order is
decided in ``domain.orders.invariants``. Refuses to repair anything.
"""

import gc
import multiprocessing
import multiprocessing.pool
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cluster.client import ClientError
from cluster.local import postgres
from cluster.local.layout import Layout, read_json
from domain.orders.booking import CLEARING
from domain.orders.invariants import Examination, Violation
from domain.orders.ledger_invariants import check_entry
from domain.orders.publication_invariants import SALES, SalesSums
from domain.orders.totals import Totals
from domain.payouts.invariants import check_payouts
from domain.reconciliation.facts import is_loose
from storage.audit.charges import SpooledCharges, captured_charges, held_balance, spooled
from storage.audit.pages import OrderPages, Page

BATCH_ORDERS = 500  # a page: some 5 MB here, a few milliseconds of a snapshot there
BATCH_ORDERS_MAX = 5_000
# How long the books or Stripe may know what the order does not know yet, and a due row may wait for its
# sweep: above the longest pause between two tries of an effect.
GRACE_S = 90.0
LOG_GRACE_S = 10.0  # events enter the audit log a moment after their commit, whatever else is waited for
PAGES_PER_JOB_MIN = 10  # fewer are checked before a process has started
GC_ALLOCATIONS = 50_000  # facts die by reference count; the default of 700 costs a tenth of a run
STRIPE_API = "https://api.stripe.com"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to read. ``finance_dsn`` or ``stripe_key`` None: not asked, so what needs them is not checked."""

    market_dsn: str = field(repr=False)
    finance_dsn: str | None = field(default=None, repr=False)
    stripe_api: str = STRIPE_API
    stripe_key: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Report:
    """What a run saw. ``found`` counts violations by invariant; money is minor units by currency."""

    orders: int = 0
    events: int = 0
    seconds: float = 0.0
    found: Counter[str] = field(default_factory=Counter)
    totals: Totals = field(default_factory=Totals)
    sales: SalesSums = field(default_factory=SalesSums)
    balances_compared: bool = False  # Finance's with Stripe's: only when nothing moved meanwhile

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    def document(self) -> dict[str, Any]:
        """Return the figures for ``--json``."""
        return {
            "ok": self.clean,
            "orders": self.orders,
            "events": self.events,
            "seconds": round(self.seconds, 3),
            "orders_per_s": round(self.orders / self.seconds, 1) if self.seconds else None,
            "violations": sum(self.found.values()),
            "by_invariant": dict(sorted(self.found.items())),
            "captured_minor": dict(self.totals.captured_minor),
            "booked_minor": dict(self.totals.booked_minor),
            "cleared_minor": dict(self.totals.cleared_minor),
            "charged_minor": dict(self.totals.charged_minor),
            "unbooked_fees_minor": {one: fee for one, fee in self.totals.unbooked_fees_minor.items() if fee},
            "balances_compared": self.balances_compared,
        }


def sources(layout: Layout, environ: Mapping[str, str] | None = None, *, with_stripe: bool) -> Sources:
    """Find the databases: ``MARKET_DSN`` and ``FINANCE_DSN``, else those of the stack in ``layout``.

    With ``with_stripe`` the same for ``STRIPE_API_BASE`` and ``STRIPE_SECRET_KEY``. Each part is read as the
    role that serves it, so the checker can do no more than the product itself.

    Raises:
        ClientError: ``sources_missing``.
    """
    environ = os.environ if environ is None else environ
    local = read_json(layout.local_json)
    settings = read_json(layout.settings_json) if local else {}
    market_dsn = environ.get("MARKET_DSN") or settings.get("postgres_dsn")
    if not market_dsn:
        raise ClientError(
            "No marketplace runs here and no database was named. Start one with `make up`, or set MARKET_DSN "
            "(and FINANCE_DSN) to databases that this user may read.",
            "sources_missing",
        )
    finance_dsn = environ.get("FINANCE_DSN")
    if not finance_dsn and "MARKET_DSN" not in environ:
        finance_dsn = _local_finance_dsn(layout)
    if not with_stripe:
        return Sources(market_dsn, finance_dsn)
    stripe = settings.get("stripe", {}) if "STRIPE_SECRET_KEY" not in environ else {}
    key = environ.get("STRIPE_SECRET_KEY") or stripe.get("secret_key")
    if not key:
        raise ClientError("Set STRIPE_SECRET_KEY to read Stripe's charges.", "sources_missing")
    api = environ.get("STRIPE_API_BASE") or stripe.get("api_base") or STRIPE_API
    return Sources(market_dsn, finance_dsn, api, key)


def _local_finance_dsn(layout: Layout) -> str | None:
    kept = read_json(layout.credentials_json)
    password, port = (
        kept.get("secrets", {}).get("postgres_finance_app"),
        kept.get("ports", {}).get("postgres"),
    )
    return postgres.dsn("finance_app", password, port) if password and port else None


def run(
    where: Sources,
    *,
    batch: int = BATCH_ORDERS,
    grace_s: float = GRACE_S,
    jobs: int = 1,
    on_violation: Callable[[Violation], None],
    on_page: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Check every order; ``on_violation`` is told of each violation as it is found.

    With ``jobs`` above one, that many processes share the pages, if there are enough of them.

    Raises:
        DependencyError: something could not be read; what was told before stands.
    """
    began = time.monotonic()
    report = Report()

    def take(part: Report, violations: list[Violation]) -> None:
        report.orders += part.orders
        report.events += part.events
        report.totals.merge(part.totals)
        report.sales.merge(part.sales)
        for violation in violations:
            report.found[violation.invariant] += 1
            on_violation(violation)
        report.seconds = time.monotonic() - began
        on_page(report)

    with _charges(where) as charges, OrderPages(where.market_dsn, where.finance_dsn, charges) as reader:
        sold_before = reader.sales_sums()
        standing_before = _standing(where, reader)
        finance_now = reader.finance_now()
        cut = finance_now - timedelta(seconds=grace_s) if finance_now else None
        bounds = list(reader.bounds(batch)) if jobs > 1 else []
        after = ""
        if len(bounds) >= PAGES_PER_JOB_MIN * jobs:
            after = bounds[-1][1]
            with _workers(jobs, (where, charges, cut, grace_s)) as pool:
                for part, violations in pool.imap_unordered(_check_bounds, bounds):
                    take(part, violations)
        for page in reader.pages(after, batch):
            take(*_check_page(page, cut, grace_s))
        apart = _check_payouts(reader, batch, grace_s)
        apart += [Violation(invariant, "", words) for invariant, words in reader.check_log()]
        ledger = reader.ledger_totals(cut) if cut else None
        sold_after = reader.sales_sums()
        standing = _standing(where, reader)
    whole = report.totals.violations(ledger)
    report.balances_compared = standing is not None and standing == standing_before
    if standing is not None and report.balances_compared:
        whole += report.totals.against_stripe(*standing)
    if sold_before is not None and sold_after is not None:
        compared = report.sales.violations(sold_before, sold_after)
        whole += [Violation(invariant, "", words) for invariant, words in compared]
    take(Report(), [*whole, *apart])
    return report


def _standing(where: Sources, reader: OrderPages) -> tuple[dict[str, int], dict[str, int]] | None:
    """What Finance and Stripe say that Stripe holds; comparable when nothing moved during the whole run."""
    clearing = reader.clearing() if where.stripe_key is not None else None
    if clearing is None or where.stripe_key is None:
        return None
    return clearing, held_balance(where.stripe_api, where.stripe_key)


@contextmanager
def _charges(where: Sources) -> Iterator[SpooledCharges | None]:
    if where.stripe_key is None:
        yield None
        return
    listed_from = datetime.now(UTC)
    with spooled(captured_charges(where.stripe_api, where.stripe_key), listed_from) as charges:
        yield charges


_Task = tuple[Sources, SpooledCharges | None, datetime | None, float]


@contextmanager
def _workers(jobs: int, task: _Task) -> Iterator["multiprocessing.pool.Pool"]:
    # Spawned, because a forked child would share the parent's connections.
    with multiprocessing.get_context("spawn").Pool(jobs, _Worker.start, (task,)) as pool:
        yield pool


class _Worker:
    """A worker process's own connections, made by the pool's initialiser."""

    current: "_Worker | None" = None

    def __init__(self, task: _Task) -> None:
        self.where, charges, self.cut, self.grace_s = task
        self.charges = charges
        self.reader: OrderPages | None = None

    @staticmethod
    def start(task: _Task) -> None:
        """Prepare a worker. It connects with its first page: a pool would replace a failing one for ever."""
        gc.set_threshold(GC_ALLOCATIONS)
        _Worker.current = _Worker(task)

    def check(self, after: str, last: str) -> tuple[Report, list[Violation]]:
        """Read and check one page."""
        if self.reader is None:
            self.reader = OrderPages(self.where.market_dsn, self.where.finance_dsn, self.charges)
        return _check_page(self.reader.page(after, last), self.cut, self.grace_s)


def _check_bounds(bounds: tuple[str, str]) -> tuple[Report, list[Violation]]:
    assert _Worker.current is not None, "the pool's initialiser has run"
    return _Worker.current.check(*bounds)


def _check_payouts(reader: OrderPages, batch: int, grace_s: float) -> list[Violation]:
    # The books first: what they had by then, a payout must explain that is read after.
    settled_before = datetime.now(UTC) - timedelta(seconds=grace_s)
    entries = reader.payout_entries()
    found = check_payouts(reader.payouts(batch), entries, settled_before)
    return [Violation("I7", payout_id, words) for payout_id, words in found]


def _check_page(page: Page, cut: datetime | None, grace_s: float) -> tuple[Report, list[Violation]]:
    report = Report(orders=len(page.orders))
    violations = []
    for facts in page.orders:
        examined = Examination(facts, grace_s)
        violations += examined.violations
        report.totals.add(examined)
        _add_sale(report.sales, examined)
        report.events += len(facts.events)
    report.totals.add_entries(page.entries, cut)
    settled_before = page.as_of - timedelta(seconds=grace_s)
    violations += _strays(page, settled_before)
    violations += _unlogged(page, page.as_of - timedelta(seconds=max(grace_s, LOG_GRACE_S)))
    return report, violations


def _add_sale(sales: SalesSums, examined: Examination) -> None:
    order, sold, facts = examined.order, examined.paid or examined.granted, examined.facts
    if order is None:
        sales.unread += 1
    elif sold is not None and facts.publication is not None:
        sold_seq = next(recorded.seq for recorded in facts.events if recorded.event is sold)
        sure = not examined.violations and SALES not in facts.dropped_steps
        sales.add(order, sold, sold_seq, facts.publication, sure=sure)


def _unlogged(page: Page, settled_before: datetime) -> Iterator[Violation]:
    for order_id, facts in page.unlogged.items():
        for fact in facts:
            if words := fact.words(settled_before):
                yield Violation("I6", order_id, words)


def _strays(page: Page, settled_before: datetime) -> Iterator[Violation]:
    """What belongs to no order. The books and Stripe may know one that was placed after the page was read."""
    for table, order_ids in page.strays.items():
        for order_id in sorted(order_ids):
            yield Violation("I6", order_id, f"has rows in market.{table}, but there is no such order")
    for entry in page.loose_entries:
        for invariant, words in check_entry(entry):
            yield Violation(invariant, "", words)
        old = entry.posted_at is None or entry.posted_at <= settled_before
        if old and is_loose(entry):
            yield Violation("I1", "", f"entry {entry.entry_key} moves {CLEARING} and belongs to no order")
    for order_id, charges in page.loose_charges.items():
        for charge in charges:
            if charge.captured_at is None or charge.captured_at <= settled_before:
                intent = charge.payment_intent_id
                yield Violation("I1", order_id, f"Stripe captured {intent} for an order that does not exist")
