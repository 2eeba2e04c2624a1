"""Many seeds: run on several processes, added up, and reported.

A failing seed is run once more to write its timeline out, cut to the order that it is about; being the same
seed it fails the same way.
"""

import gc
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.simulation.faults import COMBINATIONS, SITUATIONS, never_exercised
from cluster.simulation.world import Outcome, simulate

TIMELINE_LINES_MAX = 400  # of a failing order; its end is what matters
CHUNK = 8  # seeds handed to a process at once


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a seed gave, as far as it travels between processes."""

    seed: int
    violations: list[tuple[str, str, str]]
    coverage: Counter[str]
    orders: int
    steps: int
    virtual_s: float


@dataclass
class Summary:
    """The sum over seeds."""

    seeds: int = 0
    orders: int = 0
    steps: int = 0
    virtual_s: float = 0.0
    seconds: float = 0.0
    coverage: Counter[str] = field(default_factory=Counter)
    failures: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        """Add one seed."""
        self.seeds += 1
        self.orders += verdict.orders
        self.steps += verdict.steps
        self.virtual_s += verdict.virtual_s
        self.coverage += verdict.coverage
        if verdict.violations:
            self.failures.append(verdict)

    def document(self) -> dict[str, Any]:
        """Return the figures as one JSON object."""
        return {
            "seeds": self.seeds,
            "failures": [
                {
                    "seed": verdict.seed,
                    "violations": [
                        {"invariant": invariant, "order_id": order_id, "detail": detail}
                        for invariant, order_id, detail in verdict.violations
                    ],
                    "replay": replay_command(verdict.seed),
                }
                for verdict in self.failures
            ],
            "seconds": round(self.seconds, 2),
            "virtual_minutes": round(self.virtual_s / 60, 1),
            "orders": self.orders,
            "steps": self.steps,
            "coverage": dict(sorted(self.coverage.items())),
            "never_exercised": never_exercised(self.coverage),
        }


def run(seeds: Iterable[int], jobs: int, on_verdict: Callable[[Verdict], None] | None = None) -> Summary:
    """Simulate seeds on ``jobs`` processes; ``on_verdict`` is told of each as it comes."""
    summary, began_s = Summary(), time.perf_counter()
    for verdict in _verdicts(list(seeds), jobs):
        summary.add(verdict)
        if on_verdict is not None:
            on_verdict(verdict)
    summary.seconds = time.perf_counter() - began_s
    return summary


def verdict_of(seed: int) -> Verdict:
    """Simulate one seed."""
    outcome = simulate(seed)
    return Verdict(
        outcome.seed,
        [(one.invariant, one.order_id, one.detail) for one in outcome.violations],
        outcome.coverage,
        outcome.orders,
        outcome.steps,
        outcome.virtual_s,
    )


def replay_command(seed: int) -> str:
    """Return the command that runs one seed again."""
    return f"marketplace simulate --seed {seed}"


def failure_report(outcome: Outcome) -> Iterator[str]:
    """Write out why a seed failed: its violations, its aims, and the first failing order's timeline."""
    yield f"seed {outcome.seed} fails ({outcome.orders} orders, {outcome.virtual_s:.0f} virtual seconds)"
    for violation in outcome.violations:
        yield f"  {violation.invariant}  {violation.detail}  [{violation.order_id or 'all'}]"
    yield f"  aims: {', '.join(outcome.aims) or 'none'}"
    order_id = next((one.order_id for one in outcome.violations if one.order_id), "")
    lines = outcome.timeline.of(order_id) if order_id else outcome.timeline.all()
    yield f"timeline of {order_id or 'everything'}: virtual time, process, what"
    if len(lines) > TIMELINE_LINES_MAX:
        yield f"  … {len(lines) - TIMELINE_LINES_MAX} earlier lines"
    yield from lines[-TIMELINE_LINES_MAX:]
    yield f"replay: {replay_command(outcome.seed)}"


def coverage_report(coverage: Counter[str]) -> Iterator[str]:
    """Write out how often each fault met each boundary, and each situation came up."""
    by_boundary: dict[str, list[int]] = {}
    for boundary, fault in COMBINATIONS:
        by_boundary.setdefault(boundary, []).append(coverage[f"{boundary}: {fault}"])
    yield "faults that took effect, by call (kinds met / kinds listed, times in all, rarest)"
    for boundary, counts in by_boundary.items():
        met = sum(1 for count in counts if count)
        yield f"  {boundary:<28} {met:>3}/{len(counts):<3} {sum(counts):>6}  {min(counts):>4}"
    yield "situations"
    for name in SITUATIONS:
        yield f"  {name:<45} {coverage[name]:>6}"


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's matter
    gc.freeze()  # what is imported stays: the collector need not look at it once per seed


def _verdicts(seeds: list[int], jobs: int) -> Iterator[Verdict]:
    if jobs <= 1 or len(seeds) <= 1:
        yield from map(verdict_of, seeds)
        return
    with multiprocessing.Pool(jobs, _begin_worker) as pool:
        yield from pool.imap(verdict_of, seeds, CHUNK)
