"""``marketplace bench``: benchmarks that measure and never judge.

Each prints one JSON object as the last line. ``http``, ``deliver``, ``recovery`` and ``sign`` use the
marketplace that runs on this machine, or start one and stop it again; the others need none. Exit status 1
only when an acknowledged order was lost or nothing could be measured: a slow result is a result.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cluster.bench import audit as audit_bench
from cluster.bench import deliver as deliver_bench
from cluster.bench import grains as grains_bench
from cluster.bench import growth as growth_bench
from cluster.bench import orders_http, plots, report
from cluster.bench import payouts as payouts_bench
from cluster.bench import reconcile as reconcile_bench
from cluster.bench import recovery as recovery_bench
from cluster.bench import signing as signing_bench
from cluster.client import ClientError
from cluster.local.failures import CancelledStartError, LaunchError
from cluster.local.launcher import Stack, Step
from cluster.local.layout import Layout, default_home, read_json
from cluster.local.services import SERVING_WORDS
from cluster.local.state import RunLock
from cluster.terminal import EXIT_FAILED, EXIT_INTERRUPTED, command

BUYERS_MAX = 256  # each has two connections
RATE_MAX = 2_000.0  # arrivals per second: more than one generator can make
SECONDS_MAX = 3_600.0
COMPLETE_TIMEOUT_S = 60.0

app = typer.Typer(
    help="Measure: http (the default), audit, deliver, grains, growth, payouts, reconcile, recovery, sign."
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the JSON object only.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Write the result and its plots (SVG) into this directory.")
]
Note = Callable[[str], None]


@app.callback(invoke_without_command=True)
def all_benchmarks(context: typer.Context) -> None:
    """Measure: http (the default), audit, deliver, grains, growth, payouts, reconcile, recovery, sign."""
    if context.invoked_subcommand is None:
        http()


@app.command()
def http(
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=SECONDS_MAX, help="Measured time of each point.")
    ] = 20.0,
    buyers: Annotated[
        str, typer.Option("--buyers", help="Buyers at once; several numbers (1,4,16,64) give a curve.")
    ] = "16",
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.1, max=RATE_MAX, help="Fixed arrivals per second, instead of buyers."),
    ] = None,
    overload: Annotated[
        bool, typer.Option("--overload", help="Then arrivals at half and at twice of what was reached.")
    ] = False,
    baseline: Annotated[bool, typer.Option("--baseline/--no-baseline", help="Also run the bare SQL.")] = True,
    plot: PlotOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure whole orders over HTTP."""
    with command(as_json=as_json) as terminal:
        plan = orders_http.Plan(
            seconds,
            _numbers(buyers, "--buyers", BUYERS_MAX),
            with_baseline=baseline,
            rate=rate,
            overload=overload,
        )
        with _marketplace(terminal.note) as (layout, local):
            result = orders_http.run(layout, local, plan)
    if not as_json:
        _print_http(result)
    _finish(result, plot)


@app.command()
def deliver(
    *,
    purchases: Annotated[
        int, typer.Option("--purchases", min=5, max=2_000, help="Purchases of each size.")
    ] = deliver_bench.PURCHASES,
    large_mb: Annotated[
        int, typer.Option("--large-mb", min=20, max=8_000, help="Size of the large bundle in megabytes.")
    ] = deliver_bench.LARGE_BYTES // 1_000_000,
    plot: PlotOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure from paid to delivered for a small and a large release, and what encrypting one costs."""
    with command(as_json=as_json) as terminal, _marketplace(terminal.note) as (layout, local):
        plan = deliver_bench.Plan(purchases, large_bytes=large_mb * 1_000_000)
        result = deliver_bench.run(layout, local, plan, terminal.note)
    _finish(result, plot)


@app.command()
def grains(
    *,
    count: Annotated[
        int, typer.Option("--grains", min=1_000, max=grains_bench.GRAINS_MAX, help="Live orders.")
    ] = grains_bench.GRAINS,
    actors: Annotated[
        int, typer.Option("--actors", min=0, max=20, help="Ray actors to compare with; 0 for none.")
    ] = grains_bench.ACTORS,
    plot: PlotOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how many live orders fit in memory, as grains and as Ray actors."""
    with command(as_json=as_json) as terminal:
        result = grains_bench.run(count, actors, terminal.note)
    _finish(result, plot)


@app.command()
def payouts(
    *,
    payees: Annotated[
        int, typer.Option("--payees", min=1, max=payouts_bench.PAYEES_MAX, help="Payees of the batch.")
    ] = payouts_bench.PAYEES,
    as_json: JsonFlag = False,
) -> None:
    """Measure one batch of payouts, from its draft to the last settled one, on parts of its own."""
    with command(as_json=as_json) as terminal:
        try:
            result = payouts_bench.run(payees, terminal.note)
        except LaunchError as error:
            raise ClientError(str(error), "postgres_not_started") from None
    _finish(result, None)


@app.command()
def sign(
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=SECONDS_MAX, help="Measured time of each part.")
    ] = signing_bench.SECONDS,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Also verify licences over HTTP.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Measure signing through an actor against libsodium alone, and verification over HTTP."""
    with command(as_json=as_json) as terminal:
        result: dict[str, Any] = {"bench": "sign", **signing_bench.run_signing(seconds, terminal.note)}
        if verify:
            with _marketplace(terminal.note) as (layout, local):
                result["verification"] = signing_bench.run_verifying(layout, local, seconds, terminal.note)
        result["machine"] = report.machine()
    _finish(result, None)


@app.command()
def growth(
    *,
    orders: Annotated[
        str, typer.Option("--orders", help="Sizes to compare, in orders that lie in the database.")
    ] = ",".join(str(size) for size in growth_bench.ORDERS),
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=50, help="Rounds per size.")] = (
        growth_bench.ROUNDS
    ),
    plot: PlotOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what a new order costs when many lie in the database; a Postgres of its own, dropped after."""
    with command(as_json=as_json) as terminal:
        sizes = _numbers(orders, "--orders", growth_bench.ORDERS_MAX)
        try:
            result = growth_bench.run(sizes, None, terminal.note, rounds)
        except LaunchError as error:
            raise ClientError(str(error), "postgres_not_started") from None
    _finish(result, plot)


@app.command()
def audit(
    *,
    orders: Annotated[
        int,
        typer.Option("--orders", min=100, max=audit_bench.ORDERS_MAX, help="Delivered orders."),
    ] = audit_bench.ORDERS,
    as_json: JsonFlag = False,
) -> None:
    """Measure how fast orders' events enter the audit log; the Postgres is its own."""
    with command(as_json=as_json) as terminal:
        try:
            result = audit_bench.run(orders, terminal.note)
        except LaunchError as error:
            raise ClientError(str(error), "postgres_not_started") from None
    _finish(result, None)


@app.command()
def reconcile(
    *,
    orders: Annotated[
        int,
        typer.Option("--orders", min=1, max=reconcile_bench.ORDERS_MAX, help="Sound orders."),
    ] = reconcile_bench.ORDERS,
    fees_booked: Annotated[
        bool, typer.Option("--fees-booked/--fees-open", help="Whether Stripe's fees are in the books before.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Measure a reconciliation with planted differences; the parts that it needs are its own."""
    with command(as_json=as_json) as terminal:
        try:
            result = reconcile_bench.run(orders, terminal.note, fees_booked=fees_booked)
        except LaunchError as error:
            raise ClientError(str(error), "parts_not_started") from None
    _finish(result, None)


@app.command()
def recovery(
    *,
    orders: Annotated[
        int, typer.Option("--orders", min=10, max=5_000, help="Orders under way when the replica dies.")
    ] = recovery_bench.ORDERS,
    plot: PlotOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how long a killed replica's orders take to be delivered all the same."""
    with command(as_json=as_json) as terminal, _marketplace(terminal.note) as (layout, local):
        result = recovery_bench.run(layout, local, orders)
    _finish(result, plot)


def _numbers(text: str, option: str, highest: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(1 <= number <= highest for number in numbers):
        raise typer.BadParameter(
            f"give numbers from 1 to {highest:,}, separated by commas", param_hint=option
        )
    return numbers


@contextmanager
def _marketplace(note: Note) -> Iterator[tuple[Layout, dict[str, Any]]]:
    """Give the marketplace that runs here, or one that is started for the block."""
    layout = Layout(default_home())
    if RunLock.held(layout.lock):
        note("Using the marketplace that runs here.")
        _wait_until_complete(layout)
        yield layout, read_json(layout.local_json)
        return
    stack = Stack(layout.home)

    def tell(step: Step) -> None:
        if step.status == "done":
            note(f"  {step.name} {step.elapsed_s:.1f} s")

    note("No marketplace runs here: starting one.")
    try:
        stack.start(tell)
        _wait_until_complete(layout)
        yield layout, stack.local
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


def _finish(result: dict[str, Any], plot: Path | None) -> None:
    """Write what was asked for, print the JSON object, and fail if an order was lost."""
    if plot is not None:
        plots.write(plot, result)
    typer.echo(json.dumps(result))
    if result.get("acknowledged_not_delivered"):
        raise typer.Exit(EXIT_FAILED)


def _print_http(result: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for point in result.get("curve", [result]):
        _print_point(console, point)
    for name in ("half_load", "overload"):
        if name in result:
            console.print(name.replace("_", " "))
            _print_point(console, result[name])
    if "baseline" in result:
        share = f"{result['ratio_to_baseline']:.1%}"
        console.print(f"  bare SQL {result['baseline']['per_s']} orders/s, so this is {share} of it")


def _print_point(console: Console, point: dict[str, Any]) -> None:
    workload = point["workload"]
    by = (
        f"{workload['buyers']} buyers"
        if "buyers" in workload
        else f"{workload['arrivals_per_s']} arrivals a second"
    )
    console.print(f"{point['per_s']} orders/s delivered, {by}")
    for name in ("place_order", "webhook_to_licence", "paid_to_delivered", "purchase"):
        times = point[name]
        console.print(f"  {name:<18} p50 {times['p50_ms']}  p95 {times['p95_ms']}  p99 {times['p99_ms']} ms")
    if point["shed"]:
        console.print(f"  shed {sum(point['shed'].values())} of {point['started']}: {point['shed']}")
    console.print(f"  CPU {point['cpu_ms_per_op_total']} ms an order: {point['cpu_ms_per_op']}")
