"""Measures one Ray actor per order, the usual design; ``bench grains`` runs it as a child for comparison.

A Ray of its own on loopback, with a token and without a dashboard; each actor holds the same order as a grain
and runs the same decider. Memory is each process's unique set (what the machine gets back when it ends),
because Ray's workers share their libraries' pages. Everything that it starts ends with it.
"""

import argparse
import json
import os
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psutil

from cluster.bench.order_actor import OrderActor
from cluster.bench.synthetic_store import order_id_of
from cluster.local.layout import make_temporary, remove_tree, write_private
from domain.orders.commands import RecordPaymentFailure

ACTORS_MAX = 20  # some 50 MB each; the figure is per actor, so more would only cost time
CALLS_PER_ACTOR = 100
SERIAL_CALLS = 200
OBJECT_STORE_BYTES = 100 * 1024 * 1024
CREATE_TIMEOUT_S = 120.0


def measure(actors: int) -> dict[str, Any]:
    """Start Ray and ``actors`` actors; returns the figures."""
    temporary = make_temporary()
    token_file = temporary / "ray-token"
    write_private(token_file, secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token_file),
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # keeps 127.0.0.1 as the node's address
        RAY_USAGE_STATS_ENABLED="0",
        RAY_worker_niceness="0",
    )
    import ray  # noqa: PLC0415 - reads the environment above when it is imported

    try:
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(temporary / "ray"),
        )
        return _measure(ray, actors)
    finally:
        ray.shutdown()
        remove_tree(temporary)


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
