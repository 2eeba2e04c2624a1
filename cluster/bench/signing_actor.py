"""Signing through a Ray actor in batches, against libsodium in a loop; ``bench sign`` runs it as a child.

The actor holds a development key and does what the signer does with every signature: it verifies it against
the public key before it answers. A check costs twice a signature, so the plain loop is given both ways.
"""

import argparse
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair

from cluster.bench import lone_ray
from domain.signing import MESSAGES_MAX, SIGNATURE_BYTES
from storage.signing.devfile import DevelopmentKeyFile

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

    with lone_ray.running(cpus=2) as ray:
        actor = ray.remote(num_cpus=0, max_concurrency=ACTOR_THREADS)(SigningActor).remote()
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
