"""``marketplace simulate``: the order runtime under every fault that we know of, in virtual time.

Exit status 1 when a seed fails: its timeline is printed, cut to the order that it is about, with the command
that replays it. With ``--json`` the last line is one JSON object.
"""

import json
import os
from typing import Annotated

import typer

from cluster.simulation.runner import Verdict, coverage_report, failure_report, run
from cluster.simulation.world import simulate as simulate_seed
from cluster.terminal import EXIT_FAILED, EXIT_INTERRUPTED, JsonFlag

SEEDS_MAX = 1_000_000
TIMELINES_MAX = 3  # printed in one run: the first failures are usually one bug's


def simulate(
    *,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=SEEDS_MAX, help="How many seeds.")] = 500,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Replay this one seed.")] = None,
    first: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Processes; 0 takes all processors.")] = 0,
    timeline: Annotated[bool, typer.Option("--timeline", help="Print a seed's whole timeline.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Simulate the order runtime under faults; a failing seed prints how it failed."""

    def on_verdict(verdict: Verdict) -> None:
        if verdict.violations and not as_json:
            typer.echo(f"seed {verdict.seed}: {verdict.violations[0]}", err=True)

    wanted = range(first, first + seeds) if seed is None else range(seed, seed + 1)
    try:
        summary = run(wanted, jobs or os.cpu_count() or 1, on_verdict)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if seed is not None and timeline:
        typer.echo("\n".join(simulate_seed(seed).timeline.all()))
    if not as_json:
        for failure in summary.failures[:TIMELINES_MAX]:
            typer.echo("\n".join(failure_report(simulate_seed(failure.seed))))
        if seed is None:
            typer.echo("\n".join(coverage_report(summary.coverage)))
        typer.echo(
            f"{summary.seeds} seeds, {len(summary.failures)} failed; {summary.orders} orders, "
            f"{summary.virtual_s / 60:.0f} virtual minutes in {summary.seconds:.1f} s"
        )
    else:
        typer.echo(json.dumps(summary.document()))
    if summary.failures:
        raise typer.Exit(EXIT_FAILED)
