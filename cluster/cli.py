"""The ``marketplace`` command: one Typer application, whose verbs live in ``cluster.cli_*``.

Here are the verbs that start and stop things: ``up``, ``down``, ``status``, ``migrate``. Decides exit
statuses: 0 done (also when ended by Ctrl-C while serving), 1 an expected failure (one message, never a
traceback), 2 wrong usage, 130 interrupted before it served.
Signals: the first Ctrl-C, SIGTERM or SIGHUP stops everything in order, a second one stops it at once.
Refuses to print secrets: they are in ``var/local.json``, for whoever may read that file.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cluster.local import services, state
from cluster.local.failures import AlreadyRunningError, CancelledStartError, LaunchError, log_tail
from cluster.local.launcher import SHUTDOWN_TIMEOUT_S, Stack, Step, end_leftovers
from cluster.local.launcher import migrate as apply_migrations
from cluster.local.layout import Layout, default_home, read_json, remove_tree
from cluster.local.processes import send

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
DETACH_TIMEOUT_S = 600.0  # the sum of the parts' own limits is below this
POLL_S = 0.1
LAUNCHER = ("-m", "cluster.cli", "up")  # what `up --detach` leaves running
RECORD_TIMEOUT_S = 20.0  # between taking the lock and writing the record lies the preflight
# Verbs of other modules: a Typer application is a group of verbs, a function is one verb.
VERBS = (
    ("buyer", "cluster.cli_buyer", "app"),
    ("seller", "cluster.cli_seller", "app"),
    ("bench", "cluster.cli_bench", "app"),
    ("audit", "cluster.cli_audit", "app"),
    ("check", "cluster.cli_check", "check"),
    ("ops", "cluster.cli_ops", "app"),
    ("simulate", "cluster.cli_simulate", "simulate"),
    ("demo", "cluster.cli_demo", "demo"),
)

app = typer.Typer(
    name="marketplace",
    help="A self-hosted marketplace for signed software, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class Checklist:
    """A live list of steps with times; plain lines when the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: dict[str, tuple[Step, float]] = {}
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> "Callable[[Step], None]":
        """Start drawing; returns the listener for ``Stack.start``."""
        if self._console.is_terminal:
            self._live.start()
        return self.on_step

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        if self._console.is_terminal:
            self._live.stop()

    def on_step(self, step: Step) -> None:
        """Take one step's news; may be called from any thread."""
        self._steps[step.name] = (step, time.monotonic())
        if not self._console.is_terminal and step.status != "running":
            self._console.print(_line(step, step.elapsed_s), highlight=False)

    def _render(self) -> Group:
        now = time.monotonic()
        return Group(
            *(
                _line(step, step.elapsed_s if step.status != "running" else now - since)
                for step, since in list(self._steps.values())
            )
        )


def _line(step: Step, elapsed_s: float) -> Text:
    sign, style = {"running": ("…", "yellow"), "done": ("✓", "green"), "failed": ("✗", "red")}[step.status]
    return Text.assemble((f"  {sign} ", style), f"{step.name:<14}", (f"{elapsed_s:6.1f} s", "dim"))


def catch_signals(stack: Stack) -> None:
    """Stop ``stack`` on SIGINT, SIGTERM and SIGHUP; at once on the second."""
    seen = 0

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            stack.cancel()
        else:
            stack.force()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)


def fail(error: Exception) -> typer.Exit:
    """Print an expected failure; returns the exception to raise."""
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
    return typer.Exit(EXIT_FAILED)


@app.command()
def up(
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return once ready; stop with `down`.")] = False,
) -> None:
    """Start everything on this machine and serve until Ctrl-C."""
    layout = Layout(default_home())
    if state.RunLock.held(layout.lock):
        _report_running(layout)
        return
    if detach:
        _up_detached(layout)
    else:
        _up_foreground()


def _up_foreground() -> None:
    console = Console()
    stack = Stack()
    catch_signals(stack)
    try:
        with Checklist(console) as on_step:
            stack.start(on_step)
        _print_addresses(console, stack.local, stack.seconds)
        console.print("Serving until Ctrl-C.")
        stack.wait()
    except CancelledStartError:
        console.print("Interrupted while starting: everything has been stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except AlreadyRunningError:
        _report_running(stack.layout)
        return
    except LaunchError as error:
        stack.stop()
        raise fail(error) from None
    console.print("Stopping…")
    stack.stop()
    console.print("Everything has been stopped.")


def _up_detached(layout: Layout) -> None:
    console = Console()
    try:
        layout.create()
    except LaunchError as error:
        raise fail(error) from None
    log_path = layout.log / "launcher.out"
    with log_path.open("wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, *LAUNCHER],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        record = _wait_until_ready(layout, launcher, console)
    except KeyboardInterrupt:
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(SHUTDOWN_TIMEOUT_S)
        console.print("Interrupted while starting: everything has been stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if record is None:
        failed = state.read_record(layout.state_json)
        recorded = failed.message if failed and failed.launcher.pid == launcher.pid else ""
        text = recorded or "\n".join(log_tail(log_path)).removeprefix("error: ")
        raise fail(LaunchError(text or f"the launcher did not become ready; see {log_path}"))
    _print_addresses(console, read_json(layout.local_json), record.steps)
    console.print("Running in the background. Stop it with `make down`.")


def _wait_until_ready(
    layout: Layout, launcher: "subprocess.Popen[bytes]", console: Console
) -> state.RunRecord | None:
    deadline = time.monotonic() + DETACH_TIMEOUT_S
    shown: set[str] = set()
    while time.monotonic() < deadline:
        status = launcher.poll()
        record = state.read_record(layout.state_json)
        if record and record.launcher.pid == launcher.pid:
            for name, elapsed_s in record.steps.items():
                if name not in shown and name != "total":
                    shown.add(name)
                    console.print(_line(Step(name, "done", elapsed_s), elapsed_s), highlight=False)
            if record.status == "ready":
                return record
        if status is not None:
            return None
        time.sleep(POLL_S)
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(SHUTDOWN_TIMEOUT_S)
    return None


def _report_running(layout: Layout) -> None:
    report = inspect(layout)
    console = Console()
    if report["state"] != "ready":
        raise fail(
            LaunchError(f"A launcher already runs here and is {report['state']}. `make down` stops it.")
        )
    console.print("Already running:")
    _print_addresses(console, read_json(layout.local_json), {})
    if not report["healthy"]:
        raise fail(
            LaunchError(f"It does not answer. Look at the logs in {layout.log}, or restart: `make down up`.")
        )


def _print_addresses(console: Console, local: dict[str, Any], seconds: dict[str, float]) -> None:
    if "total" in seconds:
        console.print(f"  ready after {seconds['total']:.1f} s", highlight=False)
    rows = (
        ("API", "base_url"),
        ("Ray dashboard", "ray_dashboard_url"),
        ("Finance", "finance_url"),
    )
    for label, key in rows:
        console.print(f"  {label:<20}{local.get(key, '-')}", highlight=False, soft_wrap=True)
    console.print("  Tokens and passwords are in var/local.json.", highlight=False)


def inspect(layout: Layout) -> dict[str, Any]:
    """Return what runs in ``layout``: ``state``, ``healthy``, ``parts`` with pid and liveness."""
    record = state.read_record(layout.state_json)
    held = state.RunLock.held(layout.lock)
    local = read_json(layout.local_json)
    parts = {
        name: {"pid": process.pid, "running": process.alive()}
        for name, process in (record.children if record else {}).items()
    }
    if held:
        current = record.status if record else "starting"
    else:
        left = any(part["running"] for part in parts.values())
        current = "killed, with processes left behind (`make down` ends them)" if left else "stopped"
    base_url = str(local.get("base_url", ""))
    port = int(base_url.rpartition(":")[2]) if base_url else 0
    return {
        "state": current,
        "healthy": bool(held and port and services.answers(port, "/readyz")),
        "message": record.message if record else "",
        "base_url": base_url or None,
        "ops_url": local.get("ops_url"),
        "ray_dashboard_url": local.get("ray_dashboard_url"),
        "parts": parts,
        "start_seconds": record.steps if record else {},
    }


@app.command()
def status(*, as_json: JsonFlag = False) -> None:
    """Show what runs; exit status 0 only when it is healthy."""
    report = inspect(Layout(default_home()))
    if as_json:
        typer.echo(json.dumps(report))
    else:
        console = Console()
        console.print(
            f"{report['state']}, {'healthy' if report['healthy'] else 'not answering'}", highlight=False
        )
        for name, part in report["parts"].items():
            mark = "running" if part["running"] else "not running"
            console.print(f"  {name:<14}pid {part['pid']:<8}{mark}", highlight=False)
        for key in ("base_url", "ops_url", "ray_dashboard_url"):
            if report[key]:
                console.print(f"  {report[key]}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if report["healthy"] else EXIT_FAILED)


@app.command()
def down() -> None:
    """Stop everything that runs here, and whatever a killed launcher left behind."""
    layout = Layout(default_home())
    console = Console()
    try:
        if state.RunLock.held(layout.lock):
            console.print("Stopping…")
            _stop_launcher(layout)
            end_leftovers(layout)
            console.print("Everything has been stopped.")
        else:
            count = end_leftovers(layout)
            console.print(f"Ended {count} processes left behind." if count else "Nothing runs here.")
    except LaunchError as error:
        raise fail(error) from None


def _stop_launcher(layout: Layout) -> None:
    deadline = time.monotonic() + RECORD_TIMEOUT_S
    # The lock is taken a moment before the record is written, and the old record is another's.
    while not (record := state.read_record(layout.state_json)) or not record.launcher.alive():
        if time.monotonic() > deadline:
            raise LaunchError(f"The lock {layout.lock} is held, but not by a launcher. Find it by `fuser`.")
        if not state.RunLock.held(layout.lock):
            return
        time.sleep(POLL_S)
    send(record.launcher, signal.SIGTERM)
    if not state.RunLock.wait_released(layout.lock, SHUTDOWN_TIMEOUT_S):
        send(record.launcher, signal.SIGKILL)
        state.RunLock.wait_released(layout.lock, SHUTDOWN_TIMEOUT_S)


@app.command()
def migrate(*, as_json: JsonFlag = False) -> None:
    """Apply the migrations to the running database."""
    try:
        applied = apply_migrations(Layout(default_home()))
    except LaunchError as error:
        raise fail(error) from None
    if as_json:
        typer.echo(json.dumps({"applied": applied}))
    else:
        typer.echo("\n".join(applied) if applied else "Nothing to apply: the schemas are up to date.")


@app.command()
def clean(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm: data and keys are removed for good.")] = False,
) -> None:
    """Stop everything and remove its data, keys and logs."""
    layout = Layout(default_home())
    if not yes:
        raise fail(LaunchError(f"This removes {layout.var} for good. Repeat with --yes to confirm."))
    down()
    for folder in (layout.var, layout.outside):
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            remove_tree(folder)


def _add_verbs(called: str | None) -> None:
    """Add the verb that is called; all of them, which takes seconds to import, where it is none (help)."""
    if called in {command.callback.__name__ for command in app.registered_commands if command.callback}:
        return
    for name, module_name, attribute in [verb for verb in VERBS if verb[0] == called] or VERBS:
        if find_spec(module_name):
            verbs = getattr(import_module(module_name), attribute)
            if isinstance(verbs, typer.Typer):
                app.add_typer(verbs, name=name)
            else:
                app.command(name)(verbs)


def main() -> None:
    """Run the command line."""
    _add_verbs(next(iter(sys.argv[1:]), None))
    app()


if __name__ == "__main__":
    main()
