"""What can go wrong when parts are started on one machine, grouped by whose move is next.

    LaunchError            expected; its text says what happened, why, and what to do
    ├── PreflightError     this machine lacks something; nothing was started
    ├── ChildFailedError   a part did not start or kept crashing; carries the end of its log
    └── AlreadyRunningError another launcher holds this directory
    CancelledStartError    the user interrupted the start; not a failure

Nothing here prints or exits: the command line does.
"""

from pathlib import Path

LOG_TAIL_LINES = 12  # enough for a traceback's end, short enough to read in a terminal
LOG_TAIL_BYTES_MAX = 16_384


class LaunchError(RuntimeError):
    """An expected failure; ``str()`` is the whole message for the user."""


class PreflightError(LaunchError):
    """The machine or the directory cannot host the parts; nothing was started."""


class AlreadyRunningError(LaunchError):
    """Another launcher runs in this directory."""


class CancelledStartError(Exception):
    """The start was interrupted on purpose."""


class ChildFailedError(LaunchError):
    """A part failed; the message ends with the last lines of its log and the log's path."""

    def __init__(self, what: str, log_path: Path | None = None) -> None:
        super().__init__(what, log_path)
        self.what = what
        self.log_path = log_path

    def __str__(self) -> str:
        if self.log_path is None:
            return self.what
        tail = log_tail(self.log_path)
        shown = "\n".join(f"    {line}" for line in tail) if tail else "    (the log is empty)"
        return f"{self.what}\n  Last lines of {self.log_path}:\n{shown}"


def log_tail(path: Path) -> list[str]:
    """Return the last lines of a log file, bounded; empty when it cannot be read."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - LOG_TAIL_BYTES_MAX))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LOG_TAIL_LINES:]
