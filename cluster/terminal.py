"""How commands speak: text for people, one JSON object with ``--json``, one line for an error.

Decides exit statuses: 0 done, 1 an expected failure (or a check that failed), 2 wrong usage (Typer's),
130 interrupted. An error line says what happened, why, and what to do; there is never a traceback for an
expected failure. With ``--json``, standard output holds exactly one JSON object also when it failed, and
progress goes nowhere; without, progress and errors go to standard error, so that results can be piped.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from cluster.client import ApiError, ClientError
from cluster.verification import FAILED, OK, Check
from domain.errors import MarketplaceError

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130
SIGNS = {OK: ("✓", "green"), FAILED: ("✗", "red")}

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


class Terminal:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Tell of progress."""
        if not self.as_json:
            self._err.print(Text(_shown(text), style="dim"))

    def say(self, text: str) -> None:
        """Print a result for people."""
        if not self.as_json:
            self._out.print(Text(_shown(text)))

    def checks(self, checks: list[Check]) -> None:
        """Print checks, one a line; what failed with its code."""
        for check in checks:
            sign, style = SIGNS.get(check.state, ("–", "yellow"))
            why = _on_one_line(check.reason if check.code is None else f"{check.reason} [{check.code}]")
            self._print(Text.assemble((f"{sign} ", style), f"{check.name:<22} ", (why, "dim")))

    def result(self, document: dict[str, Any]) -> None:
        """Print the JSON object, if that was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(document) + "\n")

    def error(self, error: ClientError | MarketplaceError) -> None:
        """Print an expected failure in one line."""
        if self.as_json:
            document: dict[str, Any] = {"code": error.code, "message": _one_line(error)}
            if isinstance(error, ApiError):
                document |= {"status": error.status, "request_id": error.request_id, "errors": error.errors}
            self.result({"ok": False, "error": document})
        else:
            self._err.print(Text.assemble(("error: ", "bold red"), _one_line(error)))

    @contextmanager
    def download(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show a progress bar while something is fetched; gives the listener for its bytes."""
        if self.as_json or not self._err.is_terminal:
            yield lambda _received, _total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=self._err, transient=True) as progress:
            task: TaskID = progress.add_task(title, total=None)
            yield lambda received, total: progress.update(task, completed=received, total=total)

    def _print(self, text: Text) -> None:
        if not self.as_json:
            self._out.print(text)


def _one_line(error: ClientError | MarketplaceError) -> str:
    return _on_one_line(error.text if isinstance(error, ClientError) else f"{error.detail} [{error.code}]")


def _on_one_line(text: str) -> str:
    return _shown(" ".join(text.split()))


def _shown(text: str) -> str:
    """Words of servers and sellers reach the terminal as printable characters and line ends only."""
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text)


@contextmanager
def command(*, as_json: bool) -> Iterator[Terminal]:
    """Run a command's body: expected failures become one line and status 1, Ctrl-C status 130."""
    terminal = Terminal(as_json=as_json)
    try:
        yield terminal
    except (ClientError, MarketplaceError) as error:
        terminal.error(error)
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        terminal.note("Interrupted. What was placed or paid goes on by itself, and a download where it was.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
