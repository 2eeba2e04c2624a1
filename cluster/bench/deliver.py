"""``bench deliver``: what a delivery costs for a small and a large release, and what encrypting one costs.

Two bundles, one a hundred times the other, are published as any seller publishes; then one buyer buys them
in turn. Timed is from paid to delivered, that is until licence, age header and signed manifest are
committed: the payload was encrypted when the release was published, so the bundle's size should not show.
Beside it: the cipher's CPU work per byte as the product runs it, paired with bare ChaCha20-Poly1305 on
equal chunks; and of publishing, apart from each other, the upload, the wait until it is public, the ingress
replicas' CPU and the memory that it adds to one of them. Measures, never judges.
"""

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cluster.bench import process_groups, report
from cluster.bench.large_bundle import publish_large
from cluster.bench.load import Buyer, Tally, Target, Window
from cluster.bench.orders_http import buyer_tokens
from cluster.client import ClientError, MarketplaceClient
from cluster.demo.seeding import seller_key
from cluster.local.layout import Layout
from storage.age.payload import CHUNK_BYTES, TAG_BYTES, encrypt_payload, sealed_blocks
from storage.age.recipients import public_half, recipient_text

SMALL_BYTES, LARGE_BYTES = 10_000_000, 1_000_000_000
PURCHASES = 100  # of each size
WARM_UP_PURCHASES = 10  # connections are opened, releases' material is cached
RUN_S_MAX = 900.0
CIPHER_BYTES = 256 * 2**20  # per round: a tenth of a second
CIPHER_ROUNDS = 5
SAMPLE_PAUSE_S = 0.1  # each looks at every process of the run: a few milliseconds of CPU
WHAT = "buy one of each in turn, one buyer; from order.paid to order.delivered"

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many purchases of each size, and the sizes in bytes."""

    purchases: int = PURCHASES
    small_bytes: int = SMALL_BYTES
    large_bytes: int = LARGE_BYTES


def run(layout: Layout, local: dict[str, Any], plan: Plan, note: Note) -> dict[str, Any]:
    """Run against the stack that ``local`` describes; returns the report.

    Raises:
        ClientError: a bundle could not be published, or nothing was delivered.
    """
    note("cipher")
    result: dict[str, Any] = {"bench": "deliver", "cipher": cipher()}
    key = seller_key(layout)
    targets: dict[str, Target] = {}
    published: dict[str, dict[str, Any]] = {}
    with MarketplaceClient(local["base_url"], local["tokens"]["seller"]) as client:
        for name, size in (("small", plan.small_bytes), ("large", plan.large_bytes)):
            note(f"publish {size / 1e6:.0f} MB")
            with _watched(layout) as watch:
                made = publish_large(client, key, size)
            fresh = made.publish_s is not None
            published[name] = {
                "bundle_bytes": size,
                # A second run finds the release published: then there is nothing to tell.
                "upload_s": made.upload_s,
                "publish_s": made.publish_s,
                "publish_ingress_cpu_s": watch.cpu_s() if fresh else None,
                "ingress_memory_added_mb": watch.added_mb() if fresh else None,
            }
            targets[name] = _target(local, made.sku_id)
    note(f"{plan.purchases} purchases of each")
    (token,) = buyer_tokens(local, 1, secrets.token_hex(4))
    tallies = uvloop.run(_purchases(targets, token, plan.purchases))
    for name, tally in tallies.items():
        published[name] |= _figures(tally)
    small, large = (published[name]["paid_to_delivered"]["p50_ms"] for name in ("small", "large"))
    if not small or not large:
        raise ClientError(f"Nothing was delivered: {dict(tallies['small'].errors)}.", "nothing_measured")
    result |= {
        "workload": {"what": WHAT, "purchases": plan.purchases},
        **published,
        "p50_large_to_small": round(large / small, 3),
        **published["large"]["paid_to_delivered"],
        "machine": report.machine(),
    }
    return result


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "delivered": tally.delivered,
        "paid_to_delivered": report.latencies(tally.fulfil_ms),
        "confirmed_to_licence_heard": report.latencies(tally.webhook_to_licence_ms),
        "purchase": report.latencies(tally.purchase_ms),
        "errors": dict(tally.errors + tally.shed),
    }


def _target(local: dict[str, Any], sku_id: str) -> Target:
    recipient = recipient_text(public_half(secrets.token_bytes(32)))
    return Target(local["base_url"], local["stripe"]["api_base"], sku_id, "USD", recipient)


async def _purchases(targets: dict[str, Target], token: str, count: int) -> dict[str, Tally]:
    window = Window.after(0.0, RUN_S_MAX)
    run_id = secrets.token_hex(4)
    tallies = {name: Tally() for name in targets}
    warm_up = {name: Buyer(token, target, Tally(), window) for name, target in targets.items()}
    buyers = {name: Buyer(token, target, tallies[name], window) for name, target in targets.items()}
    try:
        for number in range(WARM_UP_PURCHASES + count):
            # In turn, so that whatever else the machine does hits both sizes alike.
            for name in targets:
                buyer = warm_up[name] if number < WARM_UP_PURCHASES else buyers[name]
                await buyer.purchase(f"bench-{run_id}-{name}-{number}", time.monotonic(), _always)
                await asyncio.sleep(0)
    finally:
        for buyer in (*warm_up.values(), *buyers.values()):
            buyer.close()
    return tallies


def _always(_due: float, _delivered_at: float) -> bool:
    return True


class _Watch:
    """The ingress replicas meanwhile: CPU seconds of all, and the mebibytes that one of them grew by most."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._first = self._last = self._sample()
        self._most = {key: one.rss_bytes for key, one in self._first.items()}

    def _sample(self) -> dict[tuple[int, float], process_groups.Usage]:
        usage = process_groups.take(self._layout).usage
        return {key: one for key, one in usage.items() if one.group == "ingress"}

    def look(self) -> None:
        self._last = self._sample()
        for key, one in self._last.items():
            self._most[key] = max(self._most.get(key, 0), one.rss_bytes)

    def until(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLE_PAUSE_S):
            self.look()

    def added_mb(self) -> float:
        grown = [most - self._first[key].rss_bytes for key, most in self._most.items() if key in self._first]
        return round(max(grown, default=0) / process_groups.MEBI, 1)

    def cpu_s(self) -> float:
        spent = (one.cpu_s - self._first[key].cpu_s for key, one in self._last.items() if key in self._first)
        return round(sum(spent), 2)


@contextlib.contextmanager
def _watched(layout: Layout) -> Iterator[_Watch]:
    watch, stop = _Watch(layout), threading.Event()
    watcher = threading.Thread(target=watch.until, args=(stop,), daemon=True)
    watcher.start()
    try:
        yield watch
    finally:
        stop.set()
        watcher.join()
        watch.look()


class _Zeros:
    """A reader of a fixed number of zero bytes: what is read does not matter to a stream cipher's speed."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int, /) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


class _Nowhere:
    def write(self, data: memoryview, /) -> int:
        return len(data)


def cipher(size: int = CIPHER_BYTES, rounds: int = CIPHER_ROUNDS) -> dict[str, float]:
    """Return gigabytes per second of CPU, best of ``rounds`` taken in turn.

    ``cipher``: sealing as publication does it; ``raw``: bare ChaCha20-Poly1305 over equal chunks, the
    ceiling; ``with_digests``: sealing and both SHA-256, which is the whole of ``encrypt_payload``.
    """
    best = {"raw": 0.0, "cipher": 0.0, "with_digests": 0.0}
    work = {"raw": _raw, "cipher": _sealing, "with_digests": _encrypting}
    for _ in range(rounds):
        for name, once in work.items():
            began = time.process_time()
            once(size)
            best[name] = max(best[name], size / (time.process_time() - began) / 1e9)
    figures = {f"{name}_gb_per_cpu_s": round(value, 2) for name, value in best.items()}
    return figures | {"cipher_to_raw": round(best["cipher"] / best["raw"], 3)}


def _raw(size: int) -> None:
    aead = ChaCha20Poly1305(secrets.token_bytes(32))
    chunk, sealed = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES + TAG_BYTES)
    for counter in range(size // CHUNK_BYTES):
        aead.encrypt_into(counter.to_bytes(12), chunk, None, sealed)


def _sealing(size: int) -> None:
    for _ in sealed_blocks(secrets.token_bytes(16), _Zeros(size), nonce=secrets.token_bytes(16)):
        pass


def _encrypting(size: int) -> None:
    encrypt_payload(secrets.token_bytes(16), _Zeros(size), _Nowhere(), nonce=secrets.token_bytes(16))
