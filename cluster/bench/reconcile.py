"""``bench reconcile``: how long does reconciling many orders take, and is exactly what was planted found?

Postgres, Finance and the Stripe simulator are processes of its own and are read as in production: Finance and
Stripe over HTTP. All orders are sound, then twenty-one differences are planted by the parts themselves. The
reconciliation runs in a process of its own, twice: the second run must change nothing.
"""

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from actors.reconciliation.run import Reconciler, Window
from cluster.bench import growth_fill, report
from cluster.bench.own_parts import Parts, own_parts
from cluster.bench.reconcile_fill import fill_stripe
from cluster.bench.reconcile_plants import Planter, plant
from cluster.client import ClientError
from domain.errors import MarketplaceError
from domain.reconciliation.report import kinds_of
from storage.finance.client_tls import ClientTls
from storage.market.order_store import PostgresOrderStore
from storage.market.pool import build_pool
from storage.reconciliation.ledger import Ledger
from storage.reconciliation.market import Market
from storage.reconciliation.stripe_moves import StripeMoves

ORDERS, ORDERS_MAX = 100_000, 1_000_000
AGO = timedelta(hours=3)  # when the sound orders were paid
SUMMED_UP_TIMEOUT_S = 300.0
LANES = (("events", "entries"), ("orders", "licences"))
WITH_FEES = (("events", "entries", "fees"), ("orders", "licences"))
NO_GRACE = timedelta(0)  # nothing runs meanwhile

Note = Callable[[str], None]


def run(orders: int, note: Note, *, fees_booked: bool = True) -> dict[str, Any]:
    """Fill, plant, reconcile twice; returns the report.

    Raises:
        LaunchError: a part cannot run here.
        ClientError: ``reconcile_failed``, a run ended with an error.
    """
    paid_at = datetime.now(UTC).replace(microsecond=0) - AGO
    window = Window(paid_at - timedelta(hours=1), datetime.now(UTC) + timedelta(days=1))

    def fill(dsn: str, stripe_data: Path) -> None:
        growth_fill.fill(dsn, orders, note, at=paid_at, filled=WITH_FEES if fees_booked else LANES)
        fill_stripe(stripe_data, orders, paid_at)
        note(f"  {orders:,} payments are at Stripe")

    with own_parts(fill) as parts:
        _wait_until_summed_up(parts)
        expected = asyncio.run(_plant(parts))
        note(f"  {sum(expected.values())} differences are planted")
        first, second = (_in_its_own_process(parts, window, note) for _ in range(2))
    found = first["kinds"]
    return {
        "bench": "reconcile",
        "workload": {
            "what": "orders, Finance over HTTP and Stripe over HTTP, compared whole",
            "orders": orders,
            "fees_booked_before": fees_booked,
            "planted": sum(expected.values()),
        },
        "seconds": first["report"]["seconds"],
        "per_s": round(orders / first["report"]["seconds"], 1),
        "rss_mb": first["rss_mb"],
        "found_exactly_what_was_planted": found == expected,
        "found": found,
        "missed_or_too_many": {
            kind: [expected.get(kind, 0), found.get(kind, 0)]
            for kind in sorted({*expected, *found})
            if expected.get(kind, 0) != found.get(kind, 0)
        },
        "first_run": _figures(first),
        "second_run": _figures(second),
        "second_run_changed_nothing": not any(
            second["report"][name] for name in ("opened", "changed", "resolved", "applied", "fees_booked")
        ),
        "machine": report.machine(),
    }


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    names = (
        "seconds",
        "movements",
        "entries",
        "orders",
        "looked_at",
        "fees_booked",
        "opened",
        "changed",
        "resolved",
    )
    return {name: result["report"][name] for name in names} | {"rss_mb": result["rss_mb"]}


def _wait_until_summed_up(parts: Parts) -> None:
    """Let Finance sum up what was written behind its back; then its balances cost what they cost in life."""
    deadline = time.monotonic() + SUMMED_UP_TIMEOUT_S
    with Ledger(parts.finance_url, "", tls=ClientTls(parts.back_office)) as ledger:
        while True:
            began = time.monotonic()
            try:
                if ledger.balances() and time.monotonic() - began < 1:
                    return
            except MarketplaceError:
                pass  # it takes longer than Finance's own deadline still
            if time.monotonic() > deadline:
                raise ClientError("Finance did not sum up its entries in time.", "reconcile_failed")
            time.sleep(1)


async def _plant(parts: Parts) -> dict[str, int]:
    pool = build_pool(parts.market_dsn, name="plant", size_max=2)
    await pool.open(wait=True)
    tls = ClientTls(parts.back_office).context()
    try:
        with httpx.Client(base_url=parts.finance_url, verify=tls, timeout=30) as finance:
            store = PostgresOrderStore(pool)
            planter = Planter(store, parts.owner_dsn, finance, parts.stripe_api, parts.stripe_key)
            with closing(planter):
                return await plant(planter)
    finally:
        await pool.close()


def _in_its_own_process(parts: Parts, window: Window, note: Note) -> dict[str, Any]:
    # Spawned: its memory is the run's alone.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: dict[str, Any] = pool.apply(reconcile_once, (parts, window))
    note(f"  {result['report']['orders']:,} orders in {result['report']['seconds']:.1f} s")
    return result


def reconcile_once(parts: Parts, window: Window) -> dict[str, Any]:
    """Run one reconciliation; returns its report, what it found by kind, and this process's peak memory."""
    with (
        Market(parts.market_dsn) as market,
        Ledger(parts.finance_url, "", tls=ClientTls(parts.back_office)) as ledger,
        StripeMoves(parts.stripe_api, parts.stripe_key) as stripe,
    ):
        done = Reconciler(market, ledger, stripe).run(window, apply=False, grace=NO_GRACE)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "report": done.document(),
        "kinds": kinds_of(done.differences),
        "rss_mb": round(peak_kib / 1024, 1),
    }
