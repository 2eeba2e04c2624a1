"""``marketplace demo``: start everything, sell three real bundles, buy one, prove it, keep serving.

Where a marketplace runs here already, that one is used and left running. Exit statuses: 0 every step
held (with ``--exit``, or against a marketplace that runs already), 1 a step did not hold (named, with the
reason and where the logs are), 130 interrupted. Refuses to call anything done that it did not check.
"""

import signal
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cluster.client import ClientError
from cluster.demo.checklist import Checklist, Item
from cluster.demo.walkthrough import Outcome, run
from cluster.local.failures import CancelledStartError, LaunchError
from cluster.local.launcher import Stack, Step
from cluster.local.layout import Layout, default_home, read_json
from cluster.local.state import RunLock
from cluster.terminal import EXIT_FAILED, EXIT_INTERRUPTED
from domain.errors import MarketplaceError


def demo(
    *,
    exit_after: Annotated[bool, typer.Option("--exit", help="Stop everything after the purchase.")] = False,
) -> None:
    """Start everything, sell, buy, prove it, and serve until Ctrl-C."""
    console = Console(highlight=False, soft_wrap=True)
    layout = Layout(default_home())
    if RunLock.held(layout.lock):
        console.print("A marketplace runs here already: the purchase is made there, and it stays up.")
        local = read_json(layout.local_json)
        if not local:
            raise _failed(console, "start", "It is not ready yet. Wait for `marketplace status`.", layout)
        _purchase(console, Checklist(console), layout, local)
        return
    stack = Stack(layout.home)
    signals = _Signals(stack)
    status = EXIT_INTERRUPTED
    try:
        status = _run(console, stack, signals, exit_after=exit_after)
    except (CancelledStartError, KeyboardInterrupt):
        console.print("Interrupted.")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: stack.force())  # a second one stops at once
        console.print("Stopping…")
        stack.stop()
        console.print("Everything has been stopped.")
    raise typer.Exit(status)


def _run(console: Console, stack: Stack, signals: "_Signals", *, exit_after: bool) -> int:
    checklist = Checklist(console)
    layout = stack.layout
    try:
        with checklist:
            _start(stack, checklist)
        signals.starting = False
        outcome = _purchase(console, checklist, layout, stack.local)
        if exit_after:
            return 0
        _print_next(console, stack.local, outcome)
        stack.wait()
    except LaunchError as error:
        failed = checklist.failed
        raise _failed(console, failed.title if failed else "serving", str(error), layout) from None
    return EXIT_INTERRUPTED


def _start(stack: Stack, checklist: Checklist) -> None:
    items: dict[str, Item] = {}

    def on_step(step: Step) -> None:
        if step.status == "running":
            items[step.name] = checklist.begin(f"start {step.name}")
        elif step.name in items:
            checklist.end(items[step.name], step.status, step.elapsed_s)

    stack.start(on_step)


def _purchase(console: Console, checklist: Checklist, layout: Layout, local: dict[str, Any]) -> Outcome:
    try:
        with checklist:
            return run(checklist, layout, local)
    except (ClientError, MarketplaceError) as error:
        item = checklist.failed
        raise _failed(console, item.title if item else "purchase", str(error), layout) from None


def _failed(console: Console, step: str, reason: str, layout: Layout) -> typer.Exit:
    console.print(Text.assemble(("failed: ", "bold red"), f"{step}: {reason}"))
    console.print(f"  Logs: {layout.log}")
    return typer.Exit(EXIT_FAILED)


def _print_next(console: Console, local: dict[str, Any], outcome: Outcome) -> None:
    rows = (
        ("API and shop", local["base_url"]),
        ("Ray dashboard", local["ray_dashboard_url"]),
        ("The bundle bought", outcome.bundle),
        ("Its licence", outcome.licence),
    )
    for label, value in rows:
        console.print(f"  {label:<20}{value}")
    console.print("Next, in another terminal (tokens are taken from var/local.json):")
    console.print("  marketplace seller list")
    console.print("  marketplace buyer keygen && marketplace buyer buy tidycsv --currency EUR")
    console.print(f"  marketplace buyer verify {outcome.licence} --identity {outcome.identity}")
    console.print("Serving until Ctrl-C.")


class _Signals:
    """The first signal interrupts whatever runs: a start, the purchase, or serving."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.starting = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._stack.cancel()
        # A start ends by itself, in order, once it is cancelled; everything else is interrupted.
        if not self.starting:
            raise KeyboardInterrupt
