"""``bench http``: whole orders over HTTP against a running stack, with its cost and its baseline.

One number of buyers gives one figure; several give a curve, and the best point's figure. ``rate`` measures at
a fixed arrival rate instead. ``overload`` measures the most that the buyers get done, then arrivals at half
of that and at twice of that. Measures, never judges: no threshold fails it. It fails (and says why) only if
an order that the marketplace acknowledged was not delivered in the end, or if nothing could be measured.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from cluster.bench import baseline, process_groups, report
from cluster.bench.load import Tally, Target, Window, closed_loop, open_loop
from cluster.bench.settling import undelivered
from cluster.client import ClientError, MarketplaceClient
from cluster.demo.seeding import BUNDLES, seed
from cluster.local.layout import Layout
from storage.age.recipients import public_half, recipient_text

WARM_UP_S = 10.0  # a stack that was just started still settles: dashboards load, plans are made
NEXT_WARM_UP_S = 3.0  # between measurements in one run: connections are opened, queues empty
SETTLE_TIMEOUT_S = 60.0  # for orders under way at the end: longer than a host's replacement takes
OPEN_LOOP_BUYERS = 64  # tokens that take turns
HALF_LOAD, OVERLOAD = 0.5, 2.0
SKU = BUNDLES[0]
WHAT = "POST /v1/orders, confirm the PaymentIntent, follow events until order.delivered"


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run: measured seconds per point, buyers at once, or arrivals per second."""

    seconds: float
    buyers: tuple[int, ...]
    with_baseline: bool = True
    rate: float | None = None
    overload: bool = False


Load = Callable[[Window, str], Awaitable[Tally]]


class Measurement:
    """One run against one stack: its target, its tokens, and what each point gave."""

    def __init__(self, layout: Layout, local: dict[str, Any], plan: Plan) -> None:
        self._layout = layout
        self._plan = plan
        self._run = secrets.token_hex(4)
        self._tokens = buyer_tokens(local, self._buyers_needed(), self._run)
        self._target = target_of(layout, local)
        self._points = 0
        self.sample_order_id = ""

    def _buyers_needed(self) -> int:
        open_loop_buyers = OPEN_LOOP_BUYERS if self._plan.rate or self._plan.overload else 1
        return max(*self._plan.buyers, open_loop_buyers)

    async def run(self) -> dict[str, Any]:
        """Measure every point of the plan; returns the report without its baseline."""
        plan = self._plan
        if plan.rate:
            return {"bench": "http", **await self._at_rate(plan.rate)}
        curve = [await self._with_buyers(buyers) for buyers in plan.buyers]
        result = {"bench": "http", **max(curve, key=lambda point: point["per_s"])}
        if len(curve) > 1:
            result["curve"] = curve
        if plan.overload:
            result["half_load"] = await self._at_rate(HALF_LOAD * result["per_s"])
            result["overload"] = await self._at_rate(OVERLOAD * result["per_s"])
        lost = [one for point in curve for one in point["acknowledged_not_delivered"]]
        for name in ("half_load", "overload"):
            lost += result.get(name, {}).get("acknowledged_not_delivered", [])
        result["acknowledged_not_delivered"] = lost
        return result

    async def _with_buyers(self, buyers: int) -> dict[str, Any]:
        tokens = self._tokens[:buyers]
        return await self._measure(
            lambda window, run: closed_loop(self._target, tokens, run, window),
            {"what": WHAT, "buyers": buyers},
        )

    async def _at_rate(self, per_s: float) -> dict[str, Any]:
        tokens = self._tokens[:OPEN_LOOP_BUYERS]
        return await self._measure(
            lambda window, run: open_loop(self._target, tokens, run, window, per_s),
            {"what": WHAT, "arrivals_per_s": round(per_s, 1)},
        )

    async def _measure(self, load: Load, workload: dict[str, Any]) -> dict[str, Any]:
        warm_up_s = NEXT_WARM_UP_S if self._points else WARM_UP_S
        self._points += 1
        seconds = self._plan.seconds
        window = Window.after(warm_up_s, seconds)
        loading = asyncio.ensure_future(load(window, f"{self._run}-{self._points}"))
        await asyncio.sleep(warm_up_s)
        # In a thread: reading /proc must not stall the buyers on the event loop.
        before, began = await asyncio.to_thread(process_groups.take, self._layout), time.monotonic()
        await asyncio.sleep(max(0.0, window.end - time.monotonic()))
        after, ended = await asyncio.to_thread(process_groups.take, self._layout), time.monotonic()
        tally = await loading
        lost = await undelivered(self._target, tally, SETTLE_TIMEOUT_S)
        self.sample_order_id = self.sample_order_id or next(
            (one for one in tally.acknowledged if one not in lost), ""
        )
        workload |= {"seconds": seconds, "warm_up_s": warm_up_s, "sku": SKU}
        point = {"workload": workload, **figures(tally, seconds), "acknowledged_not_delivered": lost}
        return point | _costs(before, after, ended - began, point["per_s"])


def figures(tally: Tally, seconds: float) -> dict[str, Any]:
    """Return what buyers saw in ``seconds`` of measured time."""
    return {
        "per_s": round(tally.delivered / seconds, 2),
        "delivered": tally.delivered,
        "place_order": report.latencies(tally.place_ms),
        "webhook_to_licence": report.latencies(tally.webhook_to_licence_ms),
        "paid_to_licensed": report.latencies(tally.paid_to_licensed_ms),
        "paid_to_delivered": report.latencies(tally.fulfil_ms),
        "purchase": report.latencies(tally.purchase_ms),
        **report.latencies(tally.purchase_ms),
        "started": tally.started,
        "shed": dict(tally.shed),
        "errors": dict(tally.errors),
        "acknowledged": len(tally.acknowledged),
    }


def _costs(
    before: process_groups.Snapshot, after: process_groups.Snapshot, elapsed_s: float, per_s: float
) -> dict[str, Any]:
    spent, gone = process_groups.cpu_seconds(before, after)
    # CPU is of the window between the snapshots, so it is divided by the orders of such a window.
    orders = per_s * elapsed_s
    cpu_ms = {
        group: round(seconds * 1000 / orders, 3) if orders else None
        for group, seconds in sorted(spent.items())
    }
    return {
        "cpu_ms_per_op": cpu_ms,
        "cpu_ms_per_op_total": round(sum(value for value in cpu_ms.values() if value), 3),
        "cores_used": round(sum(spent.values()) / elapsed_s, 3),
        # What other programs took meanwhile: above some hundredths the figures are not of a quiet machine.
        "cores_used_by_others": round(
            max(0.0, after.machine_cpu_s - before.machine_cpu_s - sum(spent.values())) / elapsed_s, 3
        ),
        "processes_ended": gone,
        "rss_mb": process_groups.rss_mb(after),
        "machine": report.machine(),
    }


def run(layout: Layout, local: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Run the benchmark against the stack that ``local`` describes; returns the report.

    Raises:
        ClientError: nothing could be measured.
    """
    measurement = Measurement(layout, local, plan)
    measured = uvloop.run(measurement.run())
    if not measured["delivered"]:
        raise ClientError(f"No order was delivered in the window: {measured['errors']}.", "nothing_measured")
    if plan.with_baseline:
        sample = baseline.sample_order(local["postgres_dsn"], measurement.sample_order_id)
        measured["baseline"] = baseline.run(local["postgres_dsn"], sample)
        measured["ratio_to_baseline"] = round(measured["per_s"] / measured["baseline"]["per_s"], 4)
    return measured


def target_of(layout: Layout, local: dict[str, Any]) -> Target:
    """Seed the catalogue and return what the load buys."""
    seed(layout, local)
    with MarketplaceClient(local["base_url"]) as client:
        sku_id = client.sku(SKU)["id"]
    return Target(
        origin=local["base_url"],
        stripe_origin=local["stripe"]["api_base"],
        sku_id=sku_id,
        currency="USD",
        recipient=recipient_text(public_half(secrets.token_bytes(32))),
    )


def buyer_tokens(local: dict[str, Any], buyers: int, run_id: str) -> Sequence[str]:
    """Issue one token per buyer.

    Raises:
        ClientError: ``token_missing``.
    """
    tokens = []
    with MarketplaceClient(local["base_url"], local["tokens"]["operator"]) as client:
        for number in range(buyers):
            issued = client.issue_token("buyer", f"usr_bench_{run_id}_{number}", f"bench-{run_id}-{number}")
            if not issued["token"]:
                raise ClientError("The marketplace did not show a new token.", "token_missing")
            tokens.append(issued["token"])
    return tokens
