"""Entries and charges as the checker knows them: what holds of each by itself (I1).

A part of ``domain.orders.invariants``, which compares them with an order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.orders.booking import CORRECTED, cleared_minor, fee_postings
from domain.orders.events import OrderPaid


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """An entry in Finance's books. ``posted_at`` None: long ago.

    ``undone``: it was reversed or is a reversal, so the two come to nothing.
    """

    entry_key: str
    currency: str
    postings: Sequence[tuple[str, int]]
    posted_at: datetime | None = None
    undone: bool = False

    @property
    def cleared_minor(self) -> int:
        """What it says that Stripe holds for us."""
        return cleared_minor(self.postings)


@dataclass(frozen=True, slots=True)
class Charge:
    """A payment that Stripe says has succeeded. ``captured_at`` None: long ago.

    ``refunded_minor`` and ``disputed_minor`` are what it returned since, ``dispute_fee_minor`` what disputes
    cost in its currency, ``fee_minor`` what Stripe took for it, in ``fee_currency``; None is "not asked".
    """

    payment_intent_id: str
    amount_minor: int
    currency: str
    captured_at: datetime | None = None
    refunded_minor: int | None = None
    disputed_minor: int | None = None
    fee_minor: int | None = None
    fee_currency: str = ""
    dispute_fee_minor: int | None = None


def check_entry(entry: LedgerEntry) -> Iterator[tuple[str, str]]:
    """Check an entry by itself, whatever it is for; yields (invariant, words)."""
    sum_minor = sum(amount for _, amount in entry.postings)
    if sum_minor:
        yield "I1", f"entry {entry.entry_key} sums to {sum_minor} {entry.currency} instead of zero"


def check_fee(
    entry: LedgerEntry, paid: OrderPaid | None, charges: Sequence[Charge] | None
) -> Iterator[tuple[str, str]]:
    """Check a processing fee: it takes from clearing what it costs. How much that is, Stripe knows."""
    if sorted(entry.postings) != sorted(fee_postings(-entry.cleared_minor)):
        yield "I1", f"Finance booked {words(entry)} as a processing fee"
    if charges is None or paid is None or entry.entry_key.removesuffix(CORRECTED).count(":") != 1:
        return
    for charge in charges:
        if charge.payment_intent_id != paid.payment_intent_id or charge.fee_minor is None:
            continue
        if (-entry.cleared_minor, entry.currency) != (charge.fee_minor, charge.fee_currency):
            yield "I1", f"Finance booked {words(entry)}, Stripe took {charge.fee_minor} {charge.fee_currency}"


def words(entry: LedgerEntry) -> str:
    """Write an entry's postings."""
    return f"{list(entry.postings)} {entry.currency}"
