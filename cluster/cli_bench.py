"""``marketplace bench``: benchmarks that measure and never judge.

Each prints one JSON object as the last line. ``http`` uses the marketplace that runs on this machine, or
starts one and stops it again. Exit status 1 only when an acknowledged order was lost or nothing could be
measured: a slow result is a result.
"""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.bench.orders_http import Plan, run
from cluster.local.failures import CancelledStartError, LaunchError
from cluster.local.launcher import Stack, Step
from cluster.local.layout import Layout, default_home, read_json
from cluster.local.services import SERVING_WORDS
from cluster.local.state import RunLock
from cluster.terminal import EXIT_FAILED, EXIT_INTERRUPTED, command

BUYERS_MAX = 256  # each has three connections
SECONDS_MAX = 3_600.0
COMPLETE_TIMEOUT_S = 60.0

app = typer.Typer(help="Measure: http (the default).")


@app.callback(invoke_without_command=True)
def all_benchmarks(context: typer.Context) -> None:
    """Measure: http (the default)."""
    if context.invoked_subcommand is None:
        http()


@app.command()
def http(
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=SECONDS_MAX, help="Measured time.")
    ] = 20.0,
    buyers: Annotated[int, typer.Option("--buyers", min=1, max=BUYERS_MAX, help="Buyers at once.")] = 16,
    baseline: Annotated[bool, typer.Option("--baseline/--no-baseline", help="Also run the bare SQL.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object only.")] = False,
) -> None:
    """Measure whole orders over HTTP."""
    with command(as_json=as_json) as terminal:
        layout = Layout(default_home())
        plan = Plan(seconds, buyers, baseline)
        if RunLock.held(layout.lock):
            terminal.note("Using the marketplace that runs here.")
            result = run(layout, read_json(layout.local_json), plan)
        else:
            result = _with_own_stack(layout, plan, terminal.note)
    if not as_json:
        _print_summary(result)
    typer.echo(json.dumps(result))
    if result["acknowledged_not_delivered"]:
        raise typer.Exit(EXIT_FAILED)


def _with_own_stack(layout: Layout, plan: Plan, note: Any) -> dict[str, Any]:
    stack = Stack(layout.home)

    def tell(step: Step) -> None:
        if step.status == "done":
            note(f"  {step.name} {step.elapsed_s:.1f} s")

    note("No marketplace runs here: starting one.")
    try:
        stack.start(tell)
        _wait_until_complete(layout)
        return run(layout, stack.local, plan)
    except LaunchError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except (CancelledStartError, KeyboardInterrupt):
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        stack.stop()


def _wait_until_complete(layout: Layout) -> None:
    """Wait for the replicas that join after the first ones serve: starting them is no part of a purchase."""
    log = layout.log / "marketplace.log"
    deadline = time.monotonic() + COMPLETE_TIMEOUT_S
    while SERVING_WORDS not in log.read_text(encoding="utf-8") and time.monotonic() < deadline:
        time.sleep(0.2)


def _print_summary(result: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{result['per_s']} orders/s delivered by {result['workload']['buyers']} buyers")
    for name in ("place_order", "paid_to_delivered", "purchase"):
        times = result[name]
        console.print(f"  {name:<18} p50 {times['p50_ms']}  p95 {times['p95_ms']}  p99 {times['p99_ms']} ms")
    console.print(f"  CPU {result['cpu_ms_per_op_total']} ms an order: {result['cpu_ms_per_op']}")
    if "baseline" in result:
        share = f"{result['ratio_to_baseline']:.1%}"
        console.print(f"  bare SQL {result['baseline']['per_s']} orders/s, so this is {share} of it")
