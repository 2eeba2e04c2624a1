"""``bench growth``: does a new order cost more when a million lie in the database already?

One database per size lies on one server at the same time, and rounds go round them, so that whatever else
the machine does meets each alike. A round writes new orders from placing to delivery through
``PostgresOrderStore`` and Finance's ``LedgerStore`` as the services do, several at once; then reads. The
answer is the median over rounds of each round's cost against the smallest size in that same round.
Measures, never judges. Bounds: disk (some 8 KB an order, checked before) and orders.
"""

import asyncio
import contextlib
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import psutil
import psycopg

from cluster.bench import growth_fill, report
from cluster.bench.order_life import CURRENCY, order_id_at, place_command, whole_life
from cluster.bench.own_postgres import own_postgres
from cluster.client import ClientError
from domain.ledger import Entry, Posting
from domain.orders.booking import capture_entry_key, capture_postings
from domain.orders.decide import BOOK, FULFIL, OPEN_PAYMENT
from domain.orders.events import OrderBooked
from domain.orders.ports import Idempotency, Turn
from storage.finance.ledger_store import LedgerStore
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool

ORDERS = (10_000, 100_000, 1_000_000)
ORDERS_MAX = 1_000_000
BYTES_PER_ORDER = 7_500  # tables and indexes, measured
DISK_RESERVE_BYTES = 1_500_000_000  # write-ahead log, new orders, and room for others
ROUNDS = 7
ORDERS_PER_ROUND = 400
WRITERS = 32  # orders under way at once: enough that the store's wait for company hides no cost
READS_PER_ROUND = 100
PAGE_ORDERS = 20
CLAIM_LIMIT, CLAIM_LEASE_S = 50, 3.0
POOL_MAX = 8
LAST_ID = "ord_" + "z" * 26
STEPS = (OPEN_PAYMENT, BOOK, FULFIL)

Note = Callable[[str], None]


@dataclass(slots=True)
class Round:
    """One round at one size. Times are milliseconds."""

    per_s: float = 0.0
    server_cpu_ms: float = 0.0
    order_ms: list[float] = field(default_factory=list)
    reads_ms: dict[str, list[float]] = field(default_factory=dict)


class Subject:
    """One database of ``orders`` orders with the stores that work on it."""

    def __init__(self, dsn: str, orders: int) -> None:
        self.orders = orders
        self.rounds: list[Round] = []
        self.dsn = dsn
        self._pool = build_pool(dsn, name=f"growth-{orders}", size_max=POOL_MAX)
        self._store = PostgresOrderStore(self._pool)
        self._ledger = LedgerStore(dsn, pool_max=POOL_MAX)
        self._server: list[psutil.Process] = []
        self._keys = count()
        self._random = random.Random(orders)  # noqa: S311 - which orders are read, the same in every run

    async def open(self) -> None:
        """Connect."""
        await self._pool.open(wait=True)
        await self._ledger.open()
        await self.run_round(WRITERS)  # opens the pools' connections
        async with self._pool.connection() as connection:
            row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
        assert row is not None, "a function gives a row"
        postmaster = psutil.Process(row[0]).parent()
        self._server = [postmaster, *postmaster.children()] if postmaster else []

    def _server_cpu_s(self) -> float:
        """CPU seconds of the server's processes so far; what one spent that ended meanwhile is lost."""
        spent = 0.0
        for process in self._server:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent += times.user + times.system
        return spent

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()
        await self._ledger.close()

    async def run_round(self, orders: int) -> Round:
        """Write ``orders`` new orders and read old ones."""
        lives = iter([self._new_life() for _ in range(orders)])
        done = Round()
        cpu_s, began = self._server_cpu_s(), time.perf_counter()
        async with asyncio.TaskGroup() as writers:
            for _ in range(WRITERS):
                writers.create_task(self._write(lives, done))
        done.per_s = orders / (time.perf_counter() - began)
        done.server_cpu_ms = (self._server_cpu_s() - cpu_s) * 1_000 / orders
        await self._read(done)
        return done

    def _new_life(self) -> list[Turn]:
        # Made before the clock runs: what Python spends on deciding does not grow with the database.
        now = datetime.now(UTC)
        buyer_id = growth_fill.buyer_id_of(self._random.randint(1, self.orders), self.orders)
        return whole_life(place_command(order_id_at(int(now.timestamp() * 1_000)), buyer_id, now))

    async def _write(self, lives: Iterator[list[Turn]], done: Round) -> None:
        for placed, *later in lives:
            began = time.perf_counter()
            key = f"growth-{self._random.getrandbits(64):016x}-{next(self._keys)}"
            _require(await self._store.place(placed, Idempotency(key, bytes(32))))
            for turn in later:
                if any(isinstance(event, OrderBooked) for event in turn.events):
                    await self._ledger.post([_entry(turn)])
                _require(await self._store.commit(turn))
            done.order_ms.append((time.perf_counter() - began) * 1_000)

    async def _read(self, done: Round) -> None:
        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "load": lambda: self._store.load(self._old_order()),
            "list_page": lambda: self._store.list_of_buyer(
                growth_fill.buyer_id_of(self._random.randint(1, self.orders), self.orders),
                *(LAST_ID, PAGE_ORDERS),
            ),
            "events_since": lambda: self._store.events_since({self._old_order(): 0}),
            "claim_effects": lambda: self._store.claim_due_effects(STEPS, CLAIM_LIMIT, CLAIM_LEASE_S),
            "claim_webhooks": lambda: self._store.claim_due_webhooks(CLAIM_LIMIT, CLAIM_LEASE_S),
        }
        for name, read in reads.items():
            times = done.reads_ms[name] = []
            for _ in range(READS_PER_ROUND):
                began = time.perf_counter()
                await read()
                times.append((time.perf_counter() - began) * 1_000)

    def _old_order(self) -> str:
        return growth_fill.order_id_of(self._random.randint(1, self.orders))


def _require(done: bool) -> None:  # noqa: FBT001 - an answer, passed on at once
    if not done:
        raise ClientError("A new order was refused by the store; the figures would be of nothing.", "refused")


def _entry(turn: Turn) -> Entry:
    order = turn.order
    assert order.paid_at is not None, "a booked order was paid"
    return Entry(
        entry_key=capture_entry_key(order.order_id),
        currency=CURRENCY,
        occurred_at=order.paid_at,
        description="Sale",
        postings=tuple(Posting(account, amount) for account, amount in capture_postings(order)),
    )


def run(sizes: Sequence[int], owner_dsn: str | None, note: Note, rounds: int = ROUNDS) -> dict[str, Any]:
    """Fill one database per size, measure, drop them; returns the report.

    ``owner_dsn`` names a server to use (its owner must be allowed to create databases); None starts one.

    Raises:
        ClientError: ``sizes_wrong`` or ``disk_short``.
    """
    sizes = sorted(set(sizes))
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= ORDERS_MAX:
        raise ClientError(f"Sizes are 1 to {ORDERS_MAX:,} orders.", "sizes_wrong")
    needed = sum(sizes) * BYTES_PER_ORDER + DISK_RESERVE_BYTES
    if shutil.disk_usage(tempfile.gettempdir()).free < needed:
        raise ClientError(
            f"This needs {needed / 1e9:.1f} GB of free disk. Use smaller --orders.", "disk_short"
        )
    with _server(owner_dsn) as owner:
        names = [f"bench_growth_{size}" for size in sizes]
        try:
            filled = [fill_one(owner, name, size, note) for name, size in zip(names, sizes, strict=True)]
            return measure(sizes, filled, note, rounds)
        finally:
            for name in names:
                growth_fill.drop(owner, name)


@contextmanager
def _server(owner_dsn: str | None) -> Iterator[str]:
    if owner_dsn is not None:
        yield owner_dsn
        return
    with own_postgres() as owner:
        yield owner


def fill_one(owner: str, name: str, size: int, note: Note) -> tuple[str, float]:
    """Make the database of one size; returns its DSN and the seconds that filling took."""
    began = time.monotonic()
    dsn = growth_fill.create(owner, name)
    growth_fill.fill(dsn, size, note)
    return dsn, time.monotonic() - began


def measure(
    sizes: Sequence[int], filled: Sequence[tuple[str, float]], note: Note, rounds: int
) -> dict[str, Any]:
    """Run the rounds over filled databases; returns the report."""
    with psycopg.connect(filled[0][0], autocommit=True) as connection:
        connection.execute("CHECKPOINT")  # none of what filling left must fall into a round
    subjects = [Subject(dsn, size) for (dsn, _), size in zip(filled, sizes, strict=True)]
    asyncio.run(_rounds(subjects, rounds, note))
    results = [
        _result(subject, seconds, subjects[0]) for subject, (_, seconds) in zip(subjects, filled, strict=True)
    ]
    return {
        "bench": "growth",
        "workload": {
            "what": "place to delivery through order store and ledger, then reads, in each round and size",
            "writers": WRITERS,
            "rounds": rounds,
            "orders_per_round": ORDERS_PER_ROUND,
            "reads_per_round": READS_PER_ROUND,
        },
        "sizes": results,
        "cost_ratio_largest_to_smallest": results[-1]["cost_ratio"],
        "machine": report.machine(),
    }


async def _rounds(subjects: Sequence[Subject], rounds: int, note: Note) -> None:
    for subject in subjects:
        await subject.open()
    try:
        for subject in subjects:
            await subject.run_round(ORDERS_PER_ROUND)  # warms plans and caches; not counted
        for number in range(rounds):
            # Each size comes first in turn: what a round leaves behind meets all alike.
            turned = number % len(subjects)
            for subject in [*subjects[turned:], *subjects[:turned]]:
                subject.rounds.append(await subject.run_round(ORDERS_PER_ROUND))
            note(
                f"  round {number + 1}: "
                + ", ".join(f"{one.orders:,}: {one.rounds[-1].per_s:.0f}/s" for one in subjects)
            )
    finally:
        for subject in subjects:
            await subject.close()


def _result(subject: Subject, fill_s: float, smallest: Subject) -> dict[str, Any]:
    size_bytes, _, events = growth_fill.sizes(subject.dsn)
    order_ms = [value for one in subject.rounds for value in one.order_ms]
    pairs = list(zip(subject.rounds, smallest.rounds, strict=True))
    return {
        "orders": subject.orders,
        "events_in_the_end": events,
        "database_mb": round(size_bytes / 2**20),
        "fill_s": round(fill_s, 1),
        "per_s": round(statistics.median(one.per_s for one in subject.rounds), 1),
        "server_cpu_ms_per_order": round(statistics.median(one.server_cpu_ms for one in subject.rounds), 3),
        **report.latencies(order_ms),
        # More time per order than at the smallest size, in the same round.
        "cost_ratio": round(statistics.median(small.per_s / one.per_s for one, small in pairs), 3),
        "p50_ratio": round(
            statistics.median(
                statistics.median(one.order_ms) / statistics.median(small.order_ms) for one, small in pairs
            ),
            3,
        ),
        "server_cpu_ratio": round(
            statistics.median(
                one.server_cpu_ms / small.server_cpu_ms if small.server_cpu_ms else 1.0
                for one, small in pairs
            ),
            3,
        ),
        "reads": {
            name: report.latencies([value for one in subject.rounds for value in one.reads_ms[name]])
            for name in subject.rounds[0].reads_ms
        },
    }
