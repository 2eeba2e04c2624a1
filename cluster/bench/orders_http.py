"""``bench http``: whole orders over HTTP against a running stack, with its cost and its baseline.

Measures, never judges: no threshold fails it. It fails (and says why) only if an order that the
marketplace acknowledged was not delivered in the end, or if nothing could be measured.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Any

from cluster.bench import baseline, process_groups, report
from cluster.bench.load import Target, count_undelivered, run_load
from cluster.client import ClientError, MarketplaceClient
from cluster.demo.seeding import BUNDLES, seed
from cluster.local.layout import Layout
from storage.age.recipients import public_half, recipient_text

WARM_UP_S = 10.0  # a stack that was just started still settles: dashboards load, plans are made
SETTLE_TIMEOUT_S = 30.0  # for orders under way at the end: longer than a host's replacement takes
SKU = BUNDLES[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run: measured seconds and concurrent buyers."""

    seconds: float
    buyers: int
    with_baseline: bool = True


def run(layout: Layout, local: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Run the benchmark against the stack that ``local`` describes; returns the report.

    Raises:
        ClientError: nothing could be measured.
    """
    run_id = secrets.token_hex(4)
    tokens = _tokens(local, plan.buyers, run_id)
    seed(layout, local)
    with MarketplaceClient(local["base_url"]) as client:
        sku_id = client.sku(SKU)["id"]
    target = Target(
        origin=local["base_url"],
        stripe_origin=local["stripe"]["api_base"],
        sku_id=sku_id,
        currency="USD",
        recipient=recipient_text(public_half(secrets.token_bytes(32))),
    )
    measured = asyncio.run(_measure(layout, target, tokens, run_id, plan))
    if not measured["delivered"]:
        raise ClientError(f"No order was delivered in the window: {measured['errors']}.", "nothing_measured")
    if plan.with_baseline:
        sample = baseline.sample_order(local["postgres_dsn"], measured.pop("sample_order_id"))
        measured["baseline"] = baseline.run(local["postgres_dsn"], sample)
        measured["ratio_to_baseline"] = round(measured["per_s"] / measured["baseline"]["per_s"], 4)
    else:
        measured.pop("sample_order_id")
    return measured


def _tokens(local: dict[str, Any], buyers: int, run_id: str) -> list[str]:
    tokens = []
    with MarketplaceClient(local["base_url"], local["tokens"]["operator"]) as client:
        for number in range(buyers):
            issued = client.issue_token("buyer", f"usr_bench_{run_id}_{number}", f"bench-{run_id}-{number}")
            if not issued["token"]:
                raise ClientError("The marketplace did not show a new token.", "token_missing")
            tokens.append(issued["token"])
    return tokens


async def _measure(
    layout: Layout, target: Target, tokens: list[str], run_id: str, plan: Plan
) -> dict[str, Any]:
    load = asyncio.create_task(run_load(target, tokens, run_id, WARM_UP_S, plan.seconds))
    await asyncio.sleep(WARM_UP_S)
    # In a thread: reading /proc must not stall the buyers on the event loop.
    before, began = await asyncio.to_thread(process_groups.take, layout), time.monotonic()
    await asyncio.sleep(max(0.0, plan.seconds - (time.monotonic() - began)))
    after, ended = await asyncio.to_thread(process_groups.take, layout), time.monotonic()
    tally, _, _ = await load
    undelivered = await count_undelivered(target, tally, SETTLE_TIMEOUT_S)
    spent, gone = process_groups.cpu_seconds(before, after)
    per_s = tally.delivered / plan.seconds
    # CPU is of the window between the snapshots, so it is divided by the orders of such a window.
    orders_in_window = per_s * (ended - began)
    cpu_ms = {
        group: round(seconds * 1000 / orders_in_window, 3) if orders_in_window else None
        for group, seconds in sorted(spent.items())
    }
    return {
        "bench": "http",
        "workload": {
            "what": "POST /v1/orders, confirm the PaymentIntent, follow events until order.delivered",
            "buyers": plan.buyers,
            "seconds": plan.seconds,
            "warm_up_s": WARM_UP_S,
            "sku": SKU,
        },
        "per_s": round(per_s, 2),
        "delivered": tally.delivered,
        "place_order": report.latencies(tally.place_ms),
        "paid_to_delivered": report.latencies(tally.fulfil_ms),
        "purchase": report.latencies(tally.purchase_ms),
        **report.latencies(tally.purchase_ms),
        "errors": dict(tally.errors),
        "acknowledged": len(tally.acknowledged),
        "acknowledged_not_delivered": undelivered,
        "cpu_ms_per_op": cpu_ms,
        "cpu_ms_per_op_total": round(sum(value for value in cpu_ms.values() if value), 3),
        "cores_used": round(sum(spent.values()) / (ended - began), 3),
        "processes_ended": gone,
        "rss_mb": process_groups.rss_mb(after),
        "machine": report.machine(),
        "sample_order_id": next((one for one in tally.acknowledged if one not in undelivered), ""),
    }
