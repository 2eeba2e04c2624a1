"""The outbox relay: publishes what orders committed, each order's events in order, none lost.

A round reads the first unpublished rows of the shards that this relay owns, loads their events, publishes
them, and deletes the rows only after every record of them is acknowledged. A crash in between publishes
again: delivery is at least once, consumers drop what they have seen. Measured (docs/events.md): only
unpublished rows by position, with one relay per shard, loses nothing and keeps order.

Refused: to publish from a shard without owning it (every read runs in the session that holds the ownership,
so a lost one is noticed before the next publish), to pass an event of an order by, and to spin: every failure
waits, ever longer. An order that the bus refuses stands still; a destination that is down pauses everything.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.relay.batches import OrderBatch, by_order, gather
from actors.relay.shares import candidates, fair_share, surplus
from actors.relay.stopped_keys import StoppedKeys, backoff_s
from domain.errors import BusyError, DependencyError, MarketplaceError
from domain.events.errors import GapError
from domain.events.ports import Bus, EventRecord, Outbox, OutboxRow, ShardLag

log = logging.getLogger("marketplace.relay")

POLL_S = 0.5  # between rounds that found little: an event waits half of it on average, and batches get large
REBALANCE_S = 2.0  # bounds how long a dead relay's shards stand still, once Postgres has seen it go
LAG_S = 5.0  # between looks at what waits: fresh enough for an alert, a few index look-ups each
ROWS_MAX = 1_024  # rows of one round; with 16 shards 64 of each, twice what half a second of full load brings
PUBLISH_TIMEOUT_S = 8.0  # below the time after which Postgres ends an idle session, and with it ownership
PAUSE_CAP_S = 10.0  # an outage's end is noticed within this time


@dataclass(frozen=True, slots=True)
class RelayFigures:
    """What a relay did and what waits: plain numbers, the lag as of the last look (every ``LAG_S``)."""

    shards: int
    published: int
    published_per_s: float
    refused: int
    stopped_orders: int
    pauses: int
    lag: Sequence[ShardLag]


class Relay:
    """One per process. ``outbox`` is this relay's own: its session is the ownership."""

    def __init__(self, outbox: Outbox, bus: Bus, *, poll_s: float = POLL_S) -> None:
        self._outbox = outbox
        self._bus = bus
        self._poll_s = poll_s
        self._joined = False
        self._owned: frozenset[int] = frozenset()
        self._rebalance_at = 0.0
        self._stopped = StoppedKeys()
        self._failures = 0  # in a row, of the session or the destination
        self._published = self._refused = self._pauses = 0
        self._lag: Sequence[ShardLag] = ()
        self._lag_at = 0.0
        self._rate = (0, 0.0, 0.0)  # published and loop time at the last look, events per second before it
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the loop runs; a host without its relay should be replaced."""
        return self._task is not None and not self._task.done()

    @property
    def owned(self) -> frozenset[int]:
        """The shards that were this relay's when it last looked."""
        return self._owned

    def figures(self) -> RelayFigures:
        """Return the counters and the last measured lag; costs nothing."""
        return RelayFigures(
            shards=len(self._owned),
            published=self._published,
            published_per_s=self._rate[2],
            refused=self._refused,
            stopped_orders=len(self._stopped),
            pauses=self._pauses,
            lag=self._lag,
        )

    def start(self) -> None:
        """Begin on the running loop."""
        self._task = asyncio.create_task(self._forever())

    async def stop(self) -> None:
        """Stop at once and give the shards up. What was published but not yet deleted is published again."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(self._task, return_exceptions=True)
        await self._give_up()

    async def once(self) -> bool:
        """Run one round; returns whether more is known to wait.

        Raises:
            DependencyError: the database or the destination is away; nothing is lost.
        """
        now = asyncio.get_running_loop().time()
        if not self._joined:
            await self._outbox.join()
            self._joined, self._rebalance_at = True, now
        if now >= self._rebalance_at:
            await self._rebalance()
            self._rebalance_at = now + REBALANCE_S
        if now >= self._lag_at:
            await self._measure(now)
        if not self._owned:
            return False
        rows_per_shard = max(1, ROWS_MAX // len(self._owned))
        rows = await self._outbox.read(sorted(self._owned), rows_per_shard, self._stopped.waiting(now))
        if not rows:
            return False
        batches = gather(rows, self._resume_seqs({row.order_id for row in rows}))
        await self._publish(batches)
        left_out = sum(len(batch.rows) for batch in batches) < len(rows)
        return left_out or max(Counter(row.shard for row in rows).values()) >= rows_per_shard

    async def _forever(self) -> None:
        while True:
            try:
                more = await self.once()
            except MarketplaceError as failure:
                await self._pause(failure)
                continue
            except Exception as failure:
                # Whatever it was, events must not stop leaving because of it.
                log.exception("relay round failed")
                await self._pause(failure)
                continue
            self._failures = 0
            await asyncio.sleep(0 if more else self._poll_s)

    async def _pause(self, failure: Exception) -> None:
        self._failures += 1
        self._pauses += 1
        if not isinstance(failure, _DestinationAwayError):
            await self._give_up()
        delay_s = backoff_s(self._failures, PAUSE_CAP_S)
        log.warning("relay waits %.1f s: %s", delay_s, failure)
        await asyncio.sleep(delay_s)

    async def _give_up(self) -> None:
        self._joined, self._owned, self._lag = False, frozenset(), ()
        self._stopped.keep_shards(self._owned)
        await self._outbox.leave()

    async def _rebalance(self) -> None:
        standing = await self._outbox.standing()
        owned = set(self._owned)
        for shard in surplus(owned, standing):
            # Forgotten first: should the call fail half-way, the shard must not count as ours.
            owned.discard(shard)
            self._owned = frozenset(owned)
            await self._outbox.release(shard)
        for shard in candidates(owned, standing):
            if len(owned) >= fair_share(standing.relays):
                break
            if await self._outbox.take(shard):
                owned.add(shard)
        if self._owned != owned:
            log.info("relay owns %d shards of %d relays' share", len(owned), standing.relays)
        self._owned = frozenset(owned)
        self._stopped.keep_shards(self._owned)

    async def _measure(self, now: float) -> None:
        self._lag = await self._outbox.lag(sorted(self._owned)) if self._owned else ()
        published, since, _ = self._rate
        elapsed_s = now - since
        per_s = (self._published - published) / elapsed_s if elapsed_s > 0 else 0.0
        self._rate = (self._published, now, per_s)
        self._lag_at = now + LAG_S

    def _resume_seqs(self, order_ids: set[str]) -> Mapping[str, int]:
        if not len(self._stopped):
            return {}
        found = {order_id: self._stopped.resume_seq(order_id) for order_id in order_ids}
        return {order_id: seq for order_id, seq in found.items() if seq is not None}

    async def _publish(self, batches: Sequence[OrderBatch]) -> None:
        loaded = by_order(await self._outbox.load([batch.span for batch in batches]))
        whole: list[OrderBatch] = []
        failed: list[tuple[OrderBatch, EventRecord | None, Exception]] = []
        for batch in batches:
            if len(loaded.get(batch.order_id, ())) == batch.last_seq - batch.first_seq + 1:
                whole.append(batch)
            else:
                # Rows and events are one transaction, so this is damage: keep the row, tell, go on.
                failed.append((batch, None, LookupError(f"events of {batch.span} are missing")))
        records = [record for batch in whole for record in loaded[batch.order_id]]
        outcomes = iter(await self._deliver(records))
        done: list[OutboxRow] = []
        for batch in whole:
            refusal: tuple[EventRecord, Exception] | None = None
            for record in loaded[batch.order_id]:
                outcome = next(outcomes)
                if outcome is not None and refusal is None:
                    refusal = (record, outcome)
            acknowledged_seq = batch.last_seq if refusal is None else refusal[0].seq - 1
            self._published += max(0, acknowledged_seq - batch.first_seq + 1)
            done += batch.rows_up_to(acknowledged_seq)
            if refusal is not None:
                failed.append((batch, *refusal))
            elif batch.unfinished_from is not None:
                self._stopped.resume_from(batch.order_id, batch.unfinished_from, 0.0)
            else:
                self._stopped.clear(batch.order_id)
        if done:
            await self._outbox.delete(done)
        self._stop_orders(failed, of=len(batches))

    async def _deliver(self, records: Sequence[EventRecord]) -> Sequence[Exception | None]:
        if not records:
            return ()
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                outcomes = await self._bus.publish(records)
        except TimeoutError:
            timed_out = DependencyError("bus_timeout", f"No acknowledgement within {PUBLISH_TIMEOUT_S:g} s.")
            return [timed_out] * len(records)
        except Exception as failure:  # noqa: BLE001 - the error belongs to the records, whatever it is
            return [failure] * len(records)
        assert len(outcomes) == len(records), "a bus answers for every record"
        return outcomes

    def _stop_orders(
        self, failed: Sequence[tuple[OrderBatch, EventRecord | None, Exception]], *, of: int
    ) -> None:
        now = asyncio.get_running_loop().time()
        away = [failure for _, _, failure in failed if _is_away(failure)]
        if len(away) == of > 1:  # a single order may have a trouble of its own: stop it, and try others
            raise _DestinationAwayError(away[0])
        for batch, record, failure in failed:
            order_id = batch.order_id
            if isinstance(failure, GapError) and self._stopped.resume_seq(order_id) != failure.expected_seq:
                self._stopped.resume_from(order_id, failure.expected_seq, now)
                continue
            self._refused += 1
            if self._stopped.full:
                raise _DestinationAwayError(failure)
            delay_s = self._stopped.stop(order_id, now)
            log.warning(
                "order %s stands still at event %s for %.1f s: %s",
                order_id,
                record.seq if record else batch.first_seq,
                delay_s,
                failure,
            )


class _DestinationAwayError(DependencyError):
    """Nothing gets through, for a reason that is not an order's own: pause, and keep the shards."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("bus_unavailable", f"Nothing could be published: {cause}")


def _is_away(failure: Exception) -> bool:
    return isinstance(failure, DependencyError | BusyError) and not isinstance(failure, GapError)
