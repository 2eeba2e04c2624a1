"""A consumer: takes each order's events exactly once and in sequence, whatever the bus repeats.

Progress per (consumer, order) and what the projection writes are one transaction. An event numbered up to
the recorded progress is a duplicate and is dropped; one beyond the next is refused (``GapError``) and sent
again from ``order_events``. Many events of many orders share one transaction.

A poison event is found by halving the batch, so the others go through. It is parked, at once if it is refused
for good and after five tries if its failure was not foreseen: its order then stands still for this consumer
only, and is acknowledged to the bus, because a retry continues from ``order_events`` and not from the bus.
Failures of the database are nobody's fault: everything is refused and comes again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from actors.orders.retries import code_of, is_final
from domain.errors import BusyError, DependencyError
from domain.events.errors import GapError
from domain.events.ports import Advance, ConsumerStore, EventRecord, Failure, Progress, Projection

log = logging.getLogger("marketplace.consumer")

ERROR_CHARS_MAX = 500  # enough for a person to see what it is; the traceback is in the log
Tx = TypeVar("Tx")
Outcomes = list[Exception | None]


@dataclass(slots=True)
class _Order:
    """The records of one order that are new to the consumer, and their places in the published batch."""

    order_id: str
    progress: Progress
    records: list[EventRecord] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)  # places of what a gap keeps out

    @property
    def advance(self) -> Advance:
        return Advance(self.order_id, self.progress, self.records[-1].seq)


class Consumer(Generic[Tx]):
    """Feeds one projection. Stateless: any number of instances may run, in any process."""

    def __init__(self, store: ConsumerStore[Tx], projection: Projection[Tx]) -> None:
        self._store = store
        self._projection = projection

    @property
    def name(self) -> str:
        """Name that keys the progress."""
        return self._projection.name

    async def consume(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        """Take records; per record None when taken, dropped as a duplicate or held for a parked order."""
        outcomes: Outcomes = [None] * len(records)
        try:
            orders = await self._new_to_us(records, outcomes)
        except (DependencyError, BusyError) as away:
            return [away] * len(records)
        # What failed before goes alone, so that it costs the others nothing.
        suspects = [order for order in orders if order.progress.attempts]
        await self._take([order for order in orders if not order.progress.attempts], outcomes)
        for order in suspects:
            await self._take([order], outcomes)
        return outcomes

    async def _new_to_us(self, records: Sequence[EventRecord], outcomes: Outcomes) -> list[_Order]:
        """Drop duplicates and parked orders, mark gaps; returns orders that have something new."""
        order_ids = list(dict.fromkeys(record.order_id for record in records))
        progress = await self._store.progress(self.name, order_ids)
        orders = {order_id: _Order(order_id, progress[order_id]) for order_id in order_ids}
        for place, record in enumerate(records):
            order = orders[record.order_id]
            taken_seq = order.records[-1].seq if order.records else order.progress.seq
            if order.progress.parked or record.seq <= taken_seq:
                continue
            if order.behind or record.seq != taken_seq + 1:
                order.behind.append(place)
                outcomes[place] = GapError(taken_seq + 1, record.seq)
                continue
            order.records.append(record)
            order.places.append(place)
        return [order for order in orders.values() if order.records]

    async def _take(self, orders: list[_Order], outcomes: Outcomes) -> None:
        if not orders:
            return
        try:
            await self._apply(orders)
        except (DependencyError, BusyError) as away:
            for order in orders:
                _refuse(order, 0, away, outcomes)
        except Exception as failure:  # noqa: BLE001 - a projection may fail in any way
            if len(orders) == 1:
                await self._take_singly(orders[0], failure, outcomes)
                return
            half = len(orders) // 2
            await self._take(orders[:half], outcomes)
            await self._take(orders[half:], outcomes)

    async def _apply(self, orders: Sequence[_Order]) -> None:
        async with self._store.advancing(self.name, [order.advance for order in orders]) as transaction:
            records = [record for order in orders for record in order.records]
            await self._projection.apply(transaction, records)

    async def _take_singly(self, order: _Order, failure: Exception, outcomes: Outcomes) -> None:
        """Take an order's events one by one, up to the poison one."""
        progress = order.progress
        for index, record in enumerate(order.records):
            single = _Order(order.order_id, progress, [record])
            cause: Exception = failure
            if len(order.records) > 1:
                try:
                    await self._apply([single])
                except Exception as own:  # noqa: BLE001 - judged below
                    cause = own
                else:
                    progress = Progress(record.seq)
                    continue
            if isinstance(cause, DependencyError | BusyError) or not await self._park(
                record, progress, cause
            ):
                _refuse(order, index, cause, outcomes)
            else:
                for place in order.behind:
                    outcomes[place] = None
            return

    async def _park(self, record: EventRecord, progress: Progress, failure: Exception) -> bool:
        """Record a failure of the event after ``progress``; returns whether the event is parked now.

        Only the store knows: another instance may have parked it already, or have taken it meanwhile; then
        the records behind it must come again.
        """
        parked = is_final(failure, progress.attempts)
        log.warning(
            "%s: event %s of order %s %s: %r",
            self.name,
            record.seq,
            record.order_id,
            "is parked" if parked else f"failed (try {progress.attempts + 1})",
            failure,
        )
        error = str(failure)[:ERROR_CHARS_MAX] or type(failure).__name__
        try:
            return await self._store.record_failure(
                self.name, Failure(record.order_id, record.seq, code_of(failure), error, parked)
            )
        except (DependencyError, BusyError):
            return False  # it fails again, and is counted then


def _refuse(order: _Order, index: int, failure: Exception, outcomes: Outcomes) -> None:
    """Refuse an order's records from ``index`` on, and what came behind them."""
    for place in (*order.places[index:], *order.behind):
        outcomes[place] = failure
