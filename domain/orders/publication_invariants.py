"""What left, checked on facts: every event waits in the outbox, is behind a parked one, or was taken (I6).

A part of ``domain.orders.invariants``. Decides when an event is lost on its way to a registered consumer, and
which sums the consumer ``sales`` must have reached. What is asked holds of every single snapshot: a commit
writes its outbox row with its events, and a row goes only after every consumer has moved on. So nothing here
has a grace. Follows docs/events.md.

Cannot tell: an event whose outbox row was lost and whose order has no progress row, once the consumer's
``settled_before`` has passed it; from then on the database itself says that it was taken.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

from domain.orders.events import OrderGranted, OrderPaid
from domain.orders.state import Order

SALES = "sales"  # the consumer whose sums are compared
_MEASURES = ("orders", "units", "gross_minor")

SumsKey = tuple[str, str, str]  # ("sku" or "day", which one, currency)
Sums = Mapping[SumsKey, tuple[int, int, int]]  # orders, units, gross in minor units


@dataclass(frozen=True, slots=True)
class Behind:
    """How far a consumer is with an order of which it has not certainly taken everything.

    ``unasked_seq``: events up to this one were recorded before the consumer was registered, and need not have
    been sent to it; 0: there are none. ``parked_seq``: the event that is given up until an operator decides.
    """

    consumer: str
    taken_seq: int
    unasked_seq: int = 0
    parked_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """An order's stretches in the outbox (first and last event), and the consumers that are behind.

    A registered consumer that is not among them has taken everything.
    """

    outbox: Sequence[tuple[int, int]] = ()
    behind: Sequence[Behind] = ()


def check_publication(publication: Publication, last_seq: int) -> Iterator[tuple[str, str]]:
    """Check the way out of an order's events 1 to ``last_seq``; yields (invariant, words)."""
    for first, last in publication.outbox:
        if not 1 <= first <= last <= last_seq:
            yield "I6", f"the outbox holds its events {first} to {last} of {last_seq}"
    for one in publication.behind:
        if one.taken_seq > last_seq:
            yield "I6", f"{one.consumer} took event {one.taken_seq} of {last_seq}"
        for seq in range(max(one.taken_seq, one.unasked_seq) + 1, last_seq + 1):
            if one.parked_seq is not None and seq >= one.parked_seq:
                break  # sent again from the events when an operator has decided
            if not any(first <= seq <= last for first, last in publication.outbox):
                yield "I6", f"event {seq} is neither in the outbox nor taken by {one.consumer}"
                break


class SalesSums:
    """What ``sales`` must hold, by SKU and by day; as large as the catalogue and the calendar.

    Orders are read while sales go on. ``taken`` sums what had been taken by sales when its order was read:
    no less than sales held before the first order was read, no more than after the last. ``open`` sums paid
    orders that nobody can be sure of: from before the consumer was registered, dropped by an operator, or
    told apart as wrong already. ``unread`` counts orders whose events cannot be read: then only the most is
    known.
    """

    def __init__(self) -> None:
        self.taken: Counter[tuple[SumsKey, str]] = Counter()
        self.open: Counter[tuple[SumsKey, str]] = Counter()
        self.unread = 0

    def add(
        self,
        order: Order,
        sold: OrderPaid | OrderGranted,
        sold_seq: int,
        publication: Publication,
        *,
        sure: bool,
    ) -> None:
        """Add an order that was paid, or granted for nothing; ``sold_seq`` is the number of that event."""
        behind = next((one for one in publication.behind if one.consumer == SALES), None)
        if not sure or (behind is not None and sold_seq <= behind.unasked_seq):
            sums = self.open
        elif behind is not None and sold_seq > behind.taken_seq:
            return
        else:
            sums = self.taken
        day = sold.at.astimezone(UTC).date().isoformat()
        by_sku: dict[str, tuple[int, int]] = {}
        for line in order.lines:
            units, gross_minor = by_sku.get(line.sku_id, (0, 0))
            gross_minor += line.price_minor - line.discount_minor
            by_sku[line.sku_id] = (units + line.quantity, gross_minor)
        for sku_id, (units, gross_minor) in by_sku.items():
            for key in (("sku", sku_id, order.currency), ("day", day, order.currency)):
                sums[key, "orders"] += 1
                sums[key, "units"] += units
                sums[key, "gross_minor"] += gross_minor

    def merge(self, other: "SalesSums") -> None:
        """Add the sums of other orders."""
        self.taken.update(other.taken)
        self.open.update(other.open)
        self.unread += other.unread

    def violations(self, before: Sums, after: Sums) -> Iterator[tuple[str, str]]:
        """Compare with what sales held before the first order was read and after the last."""
        keys = {key for key, _ in (*self.taken, *self.open)} | before.keys() | after.keys()
        for key in sorted(keys):
            axis, name, currency = key
            least, most = before.get(key, (0, 0, 0)), after.get(key, (0, 0, 0))
            for place, measure in enumerate(_MEASURES):
                summed = self.taken[key, measure]
                missing = not self.unread and summed + self.open[key, measure] < least[place]
                if summed > most[place] or missing:
                    sums = f"{measure} is {most[place]}, the paid orders sum to {summed}"
                    yield "I6", f"sales of {axis} {name} in {currency}: {sums}"
                    break
