"""Measures one Ray actor per order, the usual design; ``bench grains`` runs it as a child for comparison.

Each actor holds the same order as a grain and runs the same decider. Memory is each process's unique set
(what the machine gets back when it ends), because Ray's workers share their libraries' pages.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psutil

from cluster.bench import lone_ray
from cluster.bench.order_actor import OrderActor
from cluster.bench.synthetic_store import order_id_of
from domain.orders.commands import RecordPaymentFailure

ACTORS_MAX = 20  # some 50 MB each; the figure is per actor, so more would only cost time
CALLS_PER_ACTOR = 100
SERIAL_CALLS = 200
CREATE_TIMEOUT_S = 120.0


def measure(actors: int) -> dict[str, Any]:
    """Start Ray and ``actors`` actors; returns the figures."""
    with lone_ray.running(cpus=1) as ray:
        return _measure(ray, actors)


def _measure(ray: Any, actors: int) -> dict[str, Any]:
    made = ray.remote(num_cpus=0)(OrderActor)
    ray.get(made.remote(order_id_of(0)).pid.remote(), timeout=CREATE_TIMEOUT_S)  # imports and forks once
    began = time.perf_counter()
    handles = [made.remote(order_id_of(number)) for number in range(1, actors + 1)]
    pids = ray.get([handle.pid.remote() for handle in handles], timeout=CREATE_TIMEOUT_S)
    creating_s = time.perf_counter() - began
    command = _command()
    began = time.perf_counter()
    ray.get([handle.execute.remote(command) for _ in range(CALLS_PER_ACTOR) for handle in handles])
    calling_s = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(SERIAL_CALLS):
        ray.get(handles[number % actors].execute.remote(command))
    serial_s = time.perf_counter() - began
    unique = [psutil.Process(pid).memory_full_info().uss for pid in pids]
    return {
        "actors": actors,
        "created_s_per_actor": round(creating_s / actors, 3),
        "uss_mb_per_actor": round(sum(unique) / actors / 2**20, 1),
        "uss_bytes_per_actor": round(sum(unique) / actors),
        "calls_per_s": round(actors * CALLS_PER_ACTOR / calling_s),
        "serial_calls_per_s": round(SERIAL_CALLS / serial_s),
    }


def _command() -> RecordPaymentFailure:
    return RecordPaymentFailure("evt_1", "card_declined", "Your card was declined.", datetime.now(UTC))


def main() -> None:
    """Measure as the arguments say; prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--actors", type=int, required=True)
    chosen = parser.parse_args()
    figures = measure(min(chosen.actors, ACTORS_MAX))
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
