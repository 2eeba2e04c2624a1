"""What every ``Outbox`` and ``ConsumerStore`` promises; run on the fakes and on Postgres.

Subclasses provide ``outbox`` and ``rival`` (two sessions over one database), ``store``, ``projection``,
``written()`` (how many records it wrote) and ``commit(order_id, *kinds)`` (events and their outbox row).
"""

from dataclasses import replace

import pytest

from domain.events import SHARDS, shard_of
from domain.events.errors import ProgressMovedError, SessionLostError
from domain.events.ports import Advance, EventRecord, Failure, Progress, Span
from tests.fakes.carts import NOW, order_id

A, B = order_id(1), order_id(2)
NAME = "contract"


def record(order, seq, kind="order.created"):
    return EventRecord(f"evt_{order}_{seq}", order, seq, kind, "{}", NOW)


class OutboxContract:
    """The outbox through a session."""

    async def test_rows_are_read_by_position_loaded_and_deleted(self, outbox, commit):
        await outbox.join()
        await commit(A, "order.created", "order.screened")
        await commit(B, "order.created")
        await commit(A, "order.paid")
        for shard in {shard_of(A), shard_of(B)}:
            assert await outbox.take(shard)
        shards = sorted({shard_of(A), shard_of(B)})
        rows = await outbox.read(shards, 10, [])
        assert [(row.order_id, row.first_seq, row.last_seq) for row in rows] == [
            (A, 1, 2),
            (B, 1, 1),
            (A, 3, 3),
        ]
        assert [row.position for row in rows] == sorted(row.position for row in rows)
        assert {row.shard for row in rows} == set(shards)
        records = await outbox.load([Span(A, 2, 3), Span(B, 1, 1)])
        assert [(one.order_id, one.seq, one.kind) for one in records] == [
            (A, 2, "order.screened"),
            (A, 3, "order.paid"),
            (B, 1, "order.created"),
        ]
        assert len({one.event_id for one in records}) == 3
        await outbox.delete(rows[:2])
        await outbox.delete(rows[:2])
        assert [row.order_id for row in await outbox.read(shards, 10, [])] == [A]

    async def test_reads_are_bounded_per_shard_and_leave_orders_out(self, outbox, commit):
        await outbox.join()
        await outbox.take(shard_of(A))
        for _ in range(3):
            await commit(A, "order.paid")
        assert [row.first_seq for row in await outbox.read([shard_of(A)], 2, [])] == [1, 2]
        assert await outbox.read([shard_of(A)], 2, [A]) == []

    async def test_a_shard_has_one_owner_until_it_is_released_or_its_session_ends(self, outbox, rival):
        await outbox.join()
        await rival.join()
        assert await outbox.take(1)
        assert not await rival.take(1)
        assert await rival.take(2)
        standing = await rival.standing()
        assert (standing.relays, standing.taken) == (2, frozenset({1, 2}))
        await outbox.release(1)
        assert await rival.take(1)
        await rival.leave()
        assert await outbox.take(1)
        standing = await outbox.standing()
        assert (standing.relays, standing.taken) == (1, frozenset({1}))

    async def test_without_a_session_nothing_works(self, outbox):
        for call in (outbox.standing(), outbox.take(1), outbox.read([], 1, []), outbox.lag([1])):
            with pytest.raises(SessionLostError):
                await call
        await outbox.join()
        await outbox.leave()
        await outbox.leave()
        with pytest.raises(SessionLostError):
            await outbox.standing()

    async def test_joining_again_begins_without_shards(self, outbox, rival):
        await outbox.join()
        await outbox.take(1)
        await outbox.join()
        assert (await outbox.standing()).taken == frozenset()
        await rival.join()
        assert await rival.take(1)

    async def test_lag_counts_what_waits(self, outbox, commit):
        await outbox.join()
        await commit(A, "order.created")
        await commit(A, "order.paid")
        lags = {lag.shard: lag for lag in await outbox.lag(range(SHARDS))}
        assert len(lags) == SHARDS
        assert lags.pop(shard_of(A)).unpublished == 2
        assert {(lag.unpublished, lag.oldest_age_s) for lag in lags.values()} == {(0, 0.0)}


class ConsumerStoreContract:
    """Progress and its transactions."""

    async def take(self, store, projection, *records):
        progress = await store.progress(NAME, [one.order_id for one in records])
        advances = [Advance(one.order_id, progress[one.order_id], one.seq) for one in records]
        async with store.advancing(NAME, advances) as transaction:
            await projection.apply(transaction, records)

    async def test_progress_begins_at_nothing_and_moves(self, store, projection, commit):
        await commit(A, "order.created", "order.paid")
        await commit(B, "order.created")
        assert await store.progress(NAME, [A, B]) == {
            A: Progress(0),
            B: Progress(0),
        }
        await self.take(store, projection, record(A, 1), record(B, 1))
        await self.take(store, projection, record(A, 2))
        assert await store.progress(NAME, [A, B]) == {
            A: Progress(2),
            B: Progress(1),
        }
        assert await store.progress("other", [A]) == {A: Progress(0)}

    async def test_a_step_from_elsewhere_is_refused_with_all_its_neighbours(self, store, projection, commit):
        await commit(A, "order.created", "order.paid")
        await commit(B, "order.created")
        stale = await store.progress(NAME, [A, B])
        await self.take(store, projection, record(A, 1))
        for progress in (stale[A], Progress(5)):
            advances = [Advance(B, stale[B], 1), Advance(A, progress, 6)]
            with pytest.raises(ProgressMovedError):
                async with store.advancing(NAME, advances) as transaction:
                    await projection.apply(transaction, [record(B, 1)])
        assert (await store.progress(NAME, [A, B])) == {
            A: Progress(1),
            B: Progress(0),
        }

    async def test_what_a_projection_that_fails_wrote_is_gone(self, store, projection, commit, written):
        await commit(A, "order.created")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - a transaction is a block
            async with store.advancing(NAME, [Advance(A, Progress(0), 1)]) as transaction:
                await projection.apply(transaction, [record(A, 1)])
                raise ZeroDivisionError
        assert await store.progress(NAME, [A]) == {A: Progress(0)}
        assert await written() == 0
        await self.take(store, projection, record(A, 1))
        assert await written() == 1

    async def test_failures_are_counted_parked_and_forgotten_with_progress(self, store, projection, commit):
        await commit(A, "order.created", "order.paid")
        failure = Failure(A, 1, "internal_error", "KeyError", parked=False)
        assert not await store.record_failure(NAME, failure)
        assert not await store.record_failure(NAME, failure)
        assert await store.progress(NAME, [A]) == {A: Progress(0, attempts=2)}
        await self.take(store, projection, record(A, 1))
        assert await store.progress(NAME, [A]) == {A: Progress(1)}
        await store.record_failure(NAME, failure)
        assert await store.progress(NAME, [A]) == {A: Progress(1)}, "late news of a past event"
        assert not await store.record_failure(NAME, replace(failure, parked=True)), "and it cannot be parked"
        assert await store.record_failure(NAME, replace(failure, seq=2, parked=True))
        assert await store.progress(NAME, [A]) == {A: Progress(1, attempts=1, parked=True)}
        assert await store.parked() == {NAME: 1}

    async def test_a_parked_event_stays_parked_whatever_is_reported_late(self, store, commit):
        await commit(A, "order.created")
        failure = Failure(A, 1, "unreadable", "no", parked=True)
        assert await store.record_failure(NAME, failure)
        assert await store.record_failure(NAME, replace(failure, code="internal_error", parked=False))
        assert (await store.progress(NAME, [A]))[A].parked
        assert await store.parked() == {NAME: 1}
