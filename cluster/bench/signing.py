"""``marketplace bench sign``: signing through an actor against libsodium alone, and verification over HTTP.

Both halves run one after the other on the same machine. Verification asks a whole marketplace about a
licence that it has issued, as a shop's till would: POST /v1/licences/verify, some connections at once.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import psycopg

from cluster.bench import orders_http, process_groups, report
from cluster.bench.children import run_child
from cluster.bench.http_client import OK, HttpConnection
from cluster.client import ClientError
from cluster.local.layout import Layout
from domain.licences import armour

SECONDS = 5.0
BATCH = 500
MESSAGE_BYTES = 1_024  # a licence's signed bytes
CONNECTIONS = 16
WARM_UP_S = 3.0
SEED_SECONDS = 3.0
_LICENCE = "SELECT envelope FROM market.licences WHERE status = 'active' ORDER BY licence_id DESC LIMIT 1"


def run_signing(seconds: float, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure signing; no marketplace is needed."""
    note("Signing: libsodium in a loop, and in batches through an actor")
    figures = run_child(
        "cluster.bench.signing_actor",
        *("--seconds", str(seconds), "--batch", str(BATCH), "--size", str(MESSAGE_BYTES)),
    )
    return {
        "workload": {
            "what": "Ed25519 signatures, each verified against the public key before it is answered",
            "batch": BATCH,
            "message_bytes": MESSAGE_BYTES,
            "seconds": seconds,
        },
        "per_s": figures["actor_per_s"],
        "baseline": {
            "what": "libsodium in a loop on one core: signing only, and signing with the same check",
            **figures,
        },
        "ratio_to_signing": round(figures["actor_per_s"] / figures["sign_per_s"], 3),
        "ratio_to_signing_and_verifying": round(figures["actor_per_s"] / figures["sign_and_verify_per_s"], 3),
    }


def run_verifying(
    layout: Layout, local: dict[str, Any], seconds: float, note: Callable[[str], None]
) -> dict[str, Any]:
    """Measure verification over HTTP on a running marketplace.

    Raises:
        ClientError: ``measurement_failed``; it issued no licence, or an answer was not the expected one.
    """
    armoured = _some_licence(layout, local)
    note(f"Verifying a licence over HTTP, {CONNECTIONS} connections")
    return asyncio.run(_verify(layout, str(local["base_url"]), armoured, seconds))


def _some_licence(layout: Layout, local: dict[str, Any]) -> str:
    for attempt in range(2):
        with psycopg.connect(local["postgres_dsn"], autocommit=True) as connection:
            row = connection.execute(_LICENCE).fetchone()
        if row is not None:
            return armour(row[0])
        if attempt == 0:
            plan = orders_http.Plan(SEED_SECONDS, (2,), with_baseline=False)
            orders_http.run(layout, local, plan)
    raise ClientError("The marketplace has issued no licence to be verified.", "measurement_failed")


async def _verify(layout: Layout, origin: str, armoured: str, seconds: float) -> dict[str, Any]:
    body = json.dumps({"licence": armoured}).encode()
    times_ms: list[float] = []
    began = time.monotonic() + WARM_UP_S
    end = began + seconds

    async def ask() -> None:
        connection = HttpConnection(origin)
        try:
            while (started := time.monotonic()) < end:
                answer = await connection.request(
                    "POST", "/v1/licences/verify", "Content-Type: application/json\r\n", body
                )
                if answer.status != OK or b'"valid":true' not in answer.body:
                    raise ClientError(
                        f"Verification answered {answer.status}: {answer.body[:200]!r}", "measurement_failed"
                    )
                if started >= began:
                    times_ms.append((time.monotonic() - started) * 1_000)
        finally:
            connection.close()

    asking = [asyncio.ensure_future(ask()) for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP_S)
    before = await asyncio.to_thread(process_groups.take, layout)
    await asyncio.gather(*asking)
    after = await asyncio.to_thread(process_groups.take, layout)
    used, _ = process_groups.cpu_seconds(before, after)
    count = max(1, len(times_ms))
    return {
        "workload": {"what": "POST /v1/licences/verify", "connections": CONNECTIONS, "seconds": seconds},
        "per_s": round(len(times_ms) / seconds, 1),
        **report.latencies(times_ms),
        "cpu_ms_per_op": {name: round(value * 1_000 / count, 3) for name, value in sorted(used.items())},
    }
