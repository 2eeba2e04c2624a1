"""Group commit: grouping, isolation of outcomes, bounds, cancellation."""

import asyncio
from datetime import UTC, datetime

import pytest

from domain.errors import BusyError, DependencyError
from domain.ledger import Entry, EntryConflictError, Posting
from storage.finance import group_commit
from storage.finance.group_commit import GroupCommit
from storage.finance.ledger_store import PostedEntry

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def make(key: str) -> Entry:
    return Entry(key, "USD", NOON, "", (Posting("a", 1), Posting("b", -1)))


class FakeStore:
    """Keeps each group; a group is answered when the test opens the gate."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def post(self, entries):
        self.groups.append([entry.entry_key for entry in entries])
        await self.gate.wait()
        if self.failure:
            raise self.failure
        return [
            EntryConflictError(entry.entry_key)
            if entry.entry_key.startswith("taken")
            else PostedEntry(entry, 1, NOON, replayed=False)
            for entry in entries
        ]


async def start_posting(commit: GroupCommit, *keys: str) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(commit.post(make(key))) for key in keys]
    await asyncio.sleep(0)  # lets every task queue its entry
    await asyncio.sleep(0)  # lets the first group start
    return tasks


async def test_the_first_does_not_wait_and_the_rest_share_the_next_transaction() -> None:
    store = FakeStore()
    commit = GroupCommit(store)
    first = await start_posting(commit, "a")
    rest = await start_posting(commit, "b", "taken", "c")
    assert store.groups == [["a"]]
    store.gate.set()
    outcomes = await asyncio.gather(*first, *rest)
    assert store.groups == [["a"], ["b", "taken", "c"]]
    assert [getattr(o, "code", None) for o in outcomes] == [None, None, "entry_conflict", None]
    assert outcomes[1].entry.entry_key == "b"


async def test_groups_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(group_commit, "GROUP_MAX", 2)
    store = FakeStore()
    sizes: list[int] = []
    commit = GroupCommit(store, observe_group=sizes.append)
    tasks = await start_posting(commit, "a", "b", "c", "d", "e")
    store.gate.set()
    await asyncio.gather(*tasks)
    assert max(sizes) == 2
    assert sum(sizes) == 5


async def test_a_failure_reaches_each_caller_as_its_own_exception() -> None:
    store = FakeStore()
    store.failure = DependencyError("ledger_unavailable", "down", 7)
    store.gate.set()
    commit = GroupCommit(store)
    failures = await asyncio.gather(*await start_posting(commit, "a", "b"), return_exceptions=True)
    assert [f.code for f in failures] == ["ledger_unavailable"] * 2
    assert [f.retry_after_s for f in failures] == [7, 7]
    assert failures[0] is not failures[1]


async def test_an_unexpected_failure_is_answered_too_and_the_next_group_runs(caplog) -> None:
    store = FakeStore()
    store.failure = ZeroDivisionError()
    store.gate.set()
    commit = GroupCommit(store)
    with pytest.raises(DependencyError):
        await commit.post(make("a"))
    assert "unexpectedly" in caplog.text
    store.failure = None
    assert (await commit.post(make("b"))).entry.entry_key == "b"


async def test_an_entry_whose_caller_gave_up_is_not_posted() -> None:
    store = FakeStore()
    commit = GroupCommit(store)
    first = await start_posting(commit, "a")
    given_up, kept = await start_posting(commit, "b", "c")
    given_up.cancel()
    store.gate.set()
    await asyncio.gather(*first, kept)
    assert store.groups == [["a"], ["c"]]
    assert given_up.cancelled()


async def test_the_queue_is_bounded_and_says_so(monkeypatch) -> None:
    monkeypatch.setattr(group_commit, "WAITING_MAX", 1)
    store = FakeStore()
    commit = GroupCommit(store)
    running = await start_posting(commit, "a")
    waiting = await start_posting(commit, "b")
    with pytest.raises(BusyError) as busy:
        await commit.post(make("c"))
    assert busy.value.code == "ledger_busy"
    store.gate.set()
    await asyncio.gather(*running, *waiting)


async def test_draining_answers_all_that_was_accepted() -> None:
    store = FakeStore()
    commit = GroupCommit(store)
    tasks = await start_posting(commit, "a", "b")
    store.gate.set()
    await commit.drain()
    await asyncio.sleep(0)  # the callers' tasks resume after their futures
    assert all(task.done() for task in tasks)


async def test_an_entry_that_follows_an_answer_at_once_is_not_forgotten() -> None:
    """The caller resumes before the task that answered it is seen as done."""
    store = FakeStore()
    store.gate.set()
    commit = GroupCommit(store)
    for n in range(20):
        await asyncio.wait_for(commit.post(make(str(n))), 5)
    assert store.groups == [[str(n)] for n in range(20)]
