"""What one round of the relay publishes: outbox rows, gathered per order, cut to a bounded number of events.

Rows of an order stay in the order of their positions, and an order is cut only at its end: what is left out
is the newest part, which the next round continues. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from domain.events.ports import EventRecord, OutboxRow, Span

EVENTS_MAX = 2_000  # about 1 MB in memory, and tens of milliseconds of a consumer's transaction
EVENTS_OF_ORDER_MAX = 100  # one order that catches up must not crowd out the others


@dataclass(slots=True)
class OrderBatch:
    """The rows of one order, oldest first, and the events to publish: ``first_seq`` to ``last_seq``."""

    order_id: str
    first_seq: int
    last_seq: int
    rows: list[OutboxRow] = field(default_factory=list)

    @property
    def span(self) -> Span:
        """What to load."""
        return Span(self.order_id, self.first_seq, self.last_seq)

    @property
    def unfinished_from(self) -> int | None:
        """Where the next round goes on, when the rows hold more events than this batch."""
        rest = max(row.last_seq for row in self.rows) > self.last_seq
        return self.last_seq + 1 if rest else None

    def rows_up_to(self, seq: int) -> list[OutboxRow]:
        """Return the rows, from the oldest on, whose events all have numbers up to ``seq``."""
        return list(takewhile(lambda row: row.last_seq <= seq, self.rows))


def gather(rows: Sequence[OutboxRow], resume_seqs: Mapping[str, int]) -> list[OrderBatch]:
    """Group ``rows`` (sorted by position) by order; stops before ``EVENTS_MAX`` is exceeded.

    ``resume_seqs`` names orders that begin elsewhere than at their first row. At least one order is returned
    when there is a row.
    """
    batches: dict[str, OrderBatch] = {}
    events = 0
    for row in rows:
        batch = batches.get(row.order_id)
        if batch is None:
            first_seq = resume_seqs.get(row.order_id, row.first_seq)
            batch = OrderBatch(row.order_id, first_seq, first_seq - 1)
        last_seq = min(max(batch.last_seq, row.last_seq), batch.first_seq + EVENTS_OF_ORDER_MAX - 1)
        events += last_seq - batch.last_seq
        if events > EVENTS_MAX:
            break
        batch.last_seq = last_seq
        batch.rows.append(row)
        batches[row.order_id] = batch
    return list(batches.values())


def by_order(records: Sequence[EventRecord]) -> Mapping[str, list[EventRecord]]:
    """Group loaded records by order, keeping their sequence."""
    grouped: dict[str, list[EventRecord]] = {}
    for record in records:
        grouped.setdefault(record.order_id, []).append(record)
    return grouped
