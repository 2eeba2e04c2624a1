"""``marketplace check``: the invariants of every order, read from live databases.

Exit statuses: 0 nothing found, 1 violations (each printed with its invariant, order and words), 2 it could
not be run or not to its end. Refuses to call a run complete that was not.
"""

import gc
import os
from typing import Annotated, Any

import typer

from cluster import checking
from cluster.client import ClientError
from cluster.local.layout import Layout, default_home
from cluster.terminal import EXIT_INTERRUPTED, JsonFlag, Terminal
from domain.errors import MarketplaceError
from domain.orders.invariants import Violation

EXIT_FOUND, EXIT_CANNOT_RUN = 1, 2
JSON_VIOLATIONS_MAX = 1_000  # the object is made in memory; all of them are counted
PROGRESS_ORDERS = 50_000
GRACE_S_MAX = 86_400.0
JOBS_MAX = 16
JOBS = min(4, os.cpu_count() or 1)  # the database needs processors too


def check(
    *,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=checking.BATCH_ORDERS_MAX, help="Orders read at a time.")
    ] = checking.BATCH_ORDERS,
    grace_s: Annotated[
        float,
        typer.Option(
            "--grace-s", min=0, max=GRACE_S_MAX, help="Seconds that running work may take to be seen."
        ),
    ] = checking.GRACE_S,
    stripe: Annotated[
        bool, typer.Option("--stripe", help="Also match Stripe's captured charges with the orders.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=JOBS_MAX, help="Processes.")] = JOBS,
    as_json: JsonFlag = False,
) -> None:
    """Check the invariants of every order in the running databases."""
    terminal = Terminal(as_json=as_json)
    gc.set_threshold(checking.GC_ALLOCATIONS)
    kept: list[dict[str, str]] = []

    def tell(violation: Violation) -> None:
        if len(kept) < JSON_VIOLATIONS_MAX:
            kept.append(
                {
                    "invariant": violation.invariant,
                    "order_id": violation.order_id,
                    "detail": violation.detail,
                }
            )
        terminal.say(f"{violation.invariant:<4} {violation.order_id or 'all orders'}: {violation.detail}")

    try:
        where = checking.sources(Layout(default_home()), with_stripe=stripe)
        if where.finance_dsn is None:
            terminal.note("FINANCE_DSN is not set: Finance's books are not compared.")
        report = checking.run(
            where,
            batch=batch,
            grace_s=grace_s,
            jobs=jobs,
            on_violation=tell,
            on_page=_Progress(terminal, batch),
        )
    except (ClientError, MarketplaceError) as error:
        terminal.error(error)
        raise typer.Exit(EXIT_CANNOT_RUN) from None
    except KeyboardInterrupt:
        terminal.note("Interrupted: not all orders were checked.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if stripe and where.finance_dsn is not None and not report.balances_compared:
        terminal.note("Money moved meanwhile: Finance's and Stripe's balances were not compared.")
    terminal.result({**report.document(), "finance": where.finance_dsn is not None, "list": kept})
    terminal.say(_summary(report))
    if not report.clean:
        raise typer.Exit(EXIT_FOUND)


def _summary(report: checking.Report) -> str:
    figures: dict[str, Any] = report.document()
    if report.clean:
        verdict = "Nothing found"
    else:
        verdict = f"{figures['violations']} violations ({figures['by_invariant']})"
    return f"{verdict} in {report.orders} orders, {report.events} events, {report.seconds:.1f} s."


class _Progress:
    """Says how far it is, now and then."""

    def __init__(self, terminal: Terminal, batch: int) -> None:
        self._terminal = terminal
        self._every = max(1, PROGRESS_ORDERS // batch)
        self._pages = 0

    def __call__(self, report: checking.Report) -> None:
        self._pages += 1
        if self._pages % self._every == 0:
            self._terminal.note(f"{report.orders} orders, {report.orders / report.seconds:.0f} a second")
