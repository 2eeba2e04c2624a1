"""Measures one process full of live order grains; ``bench grains`` runs it as a child, reads its last line.

The host, its runtime, the decoding and the decider are production's; only the store answers from memory
(``synthetic_store``). Memory is what the process's resident set grew by, after a garbage collection.
"""

import argparse
import asyncio
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from actors.grains.runtime import GrainLimits
from actors.orders.effects import Effects
from actors.orders.host import OrderHost
from cluster.bench.synthetic_store import STAGES, SyntheticOrders, order_id_of
from deployments.process import GC_THRESHOLDS
from domain.errors import NotFoundError
from domain.orders.commands import RecordPaymentFailure, RecordPaymentVoided
from domain.orders.ports import Books, Fulfiller, OrderStore, PaymentGateway

CONCURRENT = 256  # callers at once, as many as a busy ingress has
COMMANDS_MAX = 50_000
# Nothing is to leave while it is measured: bounds far above what is put in.
LIMITS = GrainLimits(turns_max=2 * CONCURRENT, bytes_max=64 * 2**30, idle_s=1e9)
PAGE_BYTES = resource.getpagesize()
ABSENT = "absent"  # grains of orders that do not exist: what a grain costs without a state


def resident_bytes() -> int:
    """Return this process's resident set, after a collection."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


def _host(store: SyntheticOrders) -> OrderHost:
    # The commands below start no effect, so no outside system is ever called.
    nobody = cast("Any", None)
    effects = Effects(
        cast("PaymentGateway", nobody),
        cast("Books", nobody),
        cast("Fulfiller", nobody),
        _utc_now,
        time.monotonic,
    )
    return OrderHost(cast("OrderStore", store), effects, _utc_now, time.monotonic, LIMITS)


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def _all(keys: Iterable[str], do: Callable[[str], Awaitable[Any]]) -> float:
    """Do it for every key, ``CONCURRENT`` at a time; returns the seconds."""
    waiting = iter(keys)

    async def caller() -> None:
        for key in waiting:
            await do(key)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as callers:
        for _ in range(CONCURRENT):
            callers.create_task(caller())
    return time.perf_counter() - began


async def measure(grains: int, lines: int, stage: str) -> dict[str, Any]:
    """Activate ``grains`` grains, then run commands on them; returns the figures."""
    store = SyntheticOrders(lines, "awaiting_payment" if stage == ABSENT else stage)
    host = _host(store)
    prefix = "none" if stage == ABSENT else ""

    async def activate(order_id: str) -> None:
        try:
            # Nothing to void: the order is read, decided upon and left as it is.
            await host.execute(prefix + order_id, RecordPaymentVoided(_utc_now()))
        except NotFoundError:
            assert stage == ABSENT, "a synthetic order exists"

    await _all([order_id_of(2**40 + number) for number in range(CONCURRENT)], activate)  # warm
    warmed = host.counts()
    before = resident_bytes()
    activating_s = await _all((order_id_of(number) for number in range(grains)), activate)
    added = resident_bytes() - before
    counts = host.counts()
    live = counts.live - warmed.live
    assert live == grains, f"{live} of {grains} grains are live"
    figures: dict[str, Any] = {
        "stage": stage,
        "lines": lines,
        "grains": grains,
        "activations_per_s": round(grains / activating_s),
        "base_mb": round(before / 2**20, 1),
        "added_mb": round(added / 2**20, 1),
        "bytes_per_grain": round(added / grains),
        "weighed_bytes_per_grain": round((counts.live_bytes - warmed.live_bytes) / grains),
    }
    if stage == "awaiting_payment":
        figures |= await _commands(host, grains)
    figures["peak_added_mb"] = round(
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20, 1
    )
    return figures


async def _commands(host: OrderHost, grains: int) -> dict[str, Any]:
    chosen = random.Random(1).sample(range(grains), min(grains, COMMANDS_MAX))  # noqa: S311 - any will do

    async def decline(order_id: str) -> None:
        await host.execute(
            order_id,
            RecordPaymentFailure(f"evt_{order_id}", "card_declined", "Your card was declined.", _utc_now()),
        )

    took_s = await _all([order_id_of(number) for number in chosen], decline)
    return {"commands": len(chosen), "commands_per_s": round(len(chosen) / took_s)}


def main() -> None:
    """Measure as the arguments say; prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grains", type=int, required=True)
    parser.add_argument("--lines", type=int, default=1)
    parser.add_argument("--stage", choices=[*STAGES, ABSENT], default="awaiting_payment")
    chosen = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLDS)
    json.dump(asyncio.run(measure(chosen.grains, chosen.lines, chosen.stage)), sys.stdout)


if __name__ == "__main__":
    main()
