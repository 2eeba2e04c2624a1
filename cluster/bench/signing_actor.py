"""Signing through a Ray actor in batches, against libsodium in a loop; ``bench sign`` runs it as a child.

The actor holds a development key and does what the signer does with every signature: it verifies it against
the public key before it answers. A check costs twice a signature, so the plain loop is given both ways.
A Ray of its own on loopback; everything that it starts ends with it.
"""

import argparse
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from cluster.local.layout import make_temporary, remove_tree, write_private
from domain.signing import MESSAGES_MAX, SIGNATURE_BYTES
from storage.signing.devfile import DevelopmentKeyFile

OBJECT_STORE_BYTES = 100 * 1024 * 1024
MESSAGE_BYTES_MAX = 4_096
ACTOR_THREADS = 2  # libsodium lets go of the interpreter's lock, so two batches use two cores
IN_FLIGHT = 4  # batches that are under way, so that the actor never waits for its caller
SEED = b"s" * 32
ROUNDS = 5  # each way in turns: a machine's speed changes within seconds


class SigningActor:
    """The signer's key and its check, for any bytes: production's actor takes orders, never bytes."""

    def __init__(self) -> None:
        self._keys = DevelopmentKeyFile(SEED, b"w" * 32)

    def sign(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign a batch; each signature has been verified."""
        return self._keys.sign_many(messages)


def measure(seconds: float, batch: int, size: int) -> dict[str, Any]:
    """Measure each way for ``seconds`` in all, in turns; returns the medians of signatures per second."""
    messages = [secrets.token_bytes(size) for _ in range(batch)]
    public_key, secret_key = crypto_sign_seed_keypair(SEED)

    def sign() -> int:
        for message in messages:
            crypto_sign(message, secret_key)
        return len(messages)

    def sign_and_verify() -> int:
        for message in messages:
            signature = crypto_sign(message, secret_key)[:SIGNATURE_BYTES]
            crypto_sign_open(signature + message, public_key)
        return len(messages)

    with _actor() as (ray, actor):
        ray.get(actor.sign.remote(messages))
        rounds = [
            (
                _rate(sign, seconds / ROUNDS),
                _rate(sign_and_verify, seconds / ROUNDS),
                _through_actor(ray, actor, messages, seconds / ROUNDS),
            )
            for _ in range(ROUNDS)
        ]
    alone, checked, acting = (round(statistics.median(column)) for column in zip(*rounds, strict=True))
    return {"sign_per_s": alone, "sign_and_verify_per_s": checked, "actor_per_s": acting, "rounds": rounds}


def _rate(work: Callable[[], int], seconds: float) -> int:
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        done += work()
    return round(done / took)


def _through_actor(ray: Any, actor: Any, messages: Sequence[bytes], seconds: float) -> int:
    waiting = [actor.sign.remote(messages) for _ in range(IN_FLIGHT)]
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        ready, waiting = ray.wait(waiting)
        done += sum(len(signed) for signed in ray.get(ready))
        waiting.append(actor.sign.remote(messages))
    # What is under way is waited for and counted, or the next round would share the cores with it.
    done += sum(len(signed) for signed in ray.get(waiting))
    return round(done / (time.perf_counter() - began))


@contextmanager
def _actor() -> Iterator[tuple[Any, Any]]:
    """Give Ray and an actor of its own."""
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
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(temporary / "ray"),
        )
        yield ray, ray.remote(num_cpus=0, max_concurrency=ACTOR_THREADS)(SigningActor).remote()
    finally:
        ray.shutdown()
        remove_tree(temporary)


def main() -> None:
    """Measure as the arguments say; prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    chosen = parser.parse_args()
    figures = measure(chosen.seconds, min(chosen.batch, MESSAGES_MAX), min(chosen.size, MESSAGE_BYTES_MAX))
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
