"""Sums over all orders, for what holds of them together (I1): a few numbers, however many orders there are.

An order that is wrong by itself is left out of what is compared, or it would be told of twice.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from domain.orders.booking import (
    CLEARING,
    capture_entry_key,
    cleared_minor,
    is_fee_entry,
    return_entry_key,
    standing,
)
from domain.orders.invariants import Examination, Violation
from domain.orders.ledger_invariants import LedgerEntry
from domain.orders.return_invariants import return_entries


@dataclass(frozen=True, slots=True)
class LedgerTotal:
    """Finance's own sums of everything posted up to an instant, in one currency."""

    currency: str
    cleared_minor: int
    sum_minor: int


class Totals:
    """Sums over all orders, by currency; I1 as a whole. Holds a few numbers, however many orders."""

    def __init__(self) -> None:
        self.captured_minor: Counter[str] = Counter()  # by order.paid
        self.booked_minor: Counter[str] = Counter()  # by order.booked, of sound orders
        self.charged_minor: Counter[str] = Counter()  # by Stripe
        self.cleared_minor: Counter[str] = Counter()  # by Finance's entries of the same orders
        self.ledger_minor: Counter[str] = Counter()  # by every entry that is older than the cut
        self.unbooked_fees_minor: Counter[str] = Counter()  # Stripe's, less those that Finance has

    def add(self, examined: Examination) -> None:
        """Add one order."""
        order = examined.order
        if order is not None and examined.paid is not None:
            self.captured_minor[order.currency] += examined.paid.amount_minor
        # An order that has been told apart already would only be told again, as a difference of sums.
        if order is not None and examined.booked is not None and not examined.violations:
            known = {return_entry_key(order.order_id, one) for one in order.booked_returns}
            returned = {key: postings for key, postings in return_entries(order).items() if key in known}
            booked_minor = order.total_minor + sum(map(cleared_minor, returned.values()))
            self.booked_minor[order.currency] += booked_minor
            # Not those that Finance knows and the order does not yet.
            known.add(capture_entry_key(order.order_id))
            for key, entry in standing(examined.facts.entries or ()):
                if key in known:
                    self.cleared_minor[entry.currency] += entry.cleared_minor
        self._add_charges(examined)

    def _add_charges(self, examined: Examination) -> None:
        if examined.facts.charges is None:
            return
        for charge in examined.facts.charges:
            self.charged_minor[charge.currency] += charge.amount_minor
            self.unbooked_fees_minor[charge.fee_currency] += charge.fee_minor or 0
        for key, entry in standing(examined.facts.entries or ()):
            if is_fee_entry(examined.facts.order_id, key):
                self.unbooked_fees_minor[entry.currency] += entry.cleared_minor

    def add_entries(self, entries: Iterable[LedgerEntry], cut: datetime | None) -> None:
        """Add entries, of orders or not, for the comparison with Finance's own sums up to ``cut``."""
        for entry in entries:
            if cut is None or entry.posted_at is None or entry.posted_at < cut:
                self.ledger_minor[entry.currency] += entry.cleared_minor

    def merge(self, other: "Totals") -> None:
        """Add the sums of other orders."""
        for name, sums in vars(other).items():
            getattr(self, name).update(sums)

    def violations(self, ledger: Mapping[str, LedgerTotal] | None) -> list[Violation]:
        """Compare; ``ledger`` are Finance's sums up to the same cut, by currency, None if not asked."""
        found = []
        if ledger is not None:
            for currency in sorted({*self.booked_minor, *self.cleared_minor}):
                booked, cleared = self.booked_minor[currency], self.cleared_minor[currency]
                if booked != cleared:
                    found.append(f"orders were booked at {booked} {currency}, their entries clear {cleared}")
            for currency in sorted({*self.ledger_minor, *ledger}):
                total = ledger.get(currency, LedgerTotal(currency, 0, 0))
                if total.sum_minor:
                    found.append(f"the ledger sums to {total.sum_minor} {currency} instead of zero")
                if total.cleared_minor != self.ledger_minor[currency]:
                    found.append(
                        f"Finance's {CLEARING} holds {total.cleared_minor} {currency}, "
                        f"its entries one by one {self.ledger_minor[currency]}"
                    )
        return [Violation("I1", "", detail) for detail in found]

    def against_stripe(
        self, clearing_minor: Mapping[str, int], held_minor: Mapping[str, int]
    ) -> list[Violation]:
        """Compare what Finance says that Stripe holds with what Stripe says; both of one quiet moment."""
        found = []
        for currency in sorted({*clearing_minor, *held_minor}):
            clearing, held = clearing_minor.get(currency, 0), held_minor.get(currency, 0)
            unbooked = self.unbooked_fees_minor[currency]
            if clearing - unbooked != held:
                found.append(
                    f"Finance's {CLEARING} holds {clearing} {currency}, less {unbooked} of fees that are not "
                    f"booked yet; Stripe's balance is {held}"
                )
        return [Violation("I1", "", detail) for detail in found]
