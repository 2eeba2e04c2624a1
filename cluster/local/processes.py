"""Who a process is, and how to end it for certain.

A bare pid is never trusted: pids are reused. A process is known by pid *and* start time (clock ticks
since boot, ``/proc/<pid>/stat`` field 22). What belongs to a run is found in three ways, because each
has a hole: the ``ILLUVRSE_RUN`` marker in its environment (Postgres and some Ray agents overwrite
theirs to set a title), its session id (a child is started as a session leader), and, for the program
files that we started, a working directory or command line inside the run's directories.
Refuses to look for processes by name alone. Linux only, like the binaries that it runs.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

RUN_MARKER = "ILLUVRSE_RUN"
END_GRACE_S = 5.0  # between asking and forcing
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with the start time that makes it unique until the next boot."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks


def boot_id() -> str:
    """Return the kernel's identifier of the current boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the command name may itself hold spaces and brackets


def start_ticks(pid: int) -> int | None:
    """Return the start time in clock ticks since boot, None when dead or a zombie."""
    fields = _stat_fields(pid)
    if not fields or fields[0] in {"Z", "X"}:
        return None
    return int(fields[19])


def session_id(pid: int) -> int | None:
    """Return the session that the process belongs to, None when it is gone."""
    fields = _stat_fields(pid)
    return int(fields[3]) if fields else None


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a live process, None when it is dead."""
    ticks = start_ticks(pid)
    return None if ticks is None else ProcessId(pid, ticks)


def _live_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]  # noqa: PTH208 - names are wanted, not paths


def _has_marker(pid: int, marker: bytes) -> bool:
    try:
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _works_inside(pid: int, folders: tuple[Path, ...], programs: frozenset[str]) -> bool:
    # Limited to program files that we start, so that a shell or a `tail` in the folder is left alone.
    try:
        if str(Path(f"/proc/{pid}/exe").readlink()) not in programs:
            return False
        cwd = Path(f"/proc/{pid}/cwd").readlink()
        if any(cwd.is_relative_to(folder) for folder in folders):
            return True
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(os.fsencode(folder) + b"/" in command for folder in folders)


def of_session(leader_pid: int) -> list[ProcessId]:
    """Return the live processes of the session that ``leader_pid`` leads or led."""
    return _identified(pid for pid in _live_pids() if session_id(pid) == leader_pid)


def of_run(
    run_id: str, folders: tuple[Path, ...] = (), programs: frozenset[str] = frozenset()
) -> list[ProcessId]:
    """Return the live processes of a run, never this one.

    Args:
        run_id: value of the marker in their environment.
        folders: directories of the run alone.
        programs: resolved program files which, when working inside ``folders``, belong to the run.
    """
    marker = f"{RUN_MARKER}={run_id}".encode()
    return _identified(
        pid for pid in _live_pids() if _has_marker(pid, marker) or _works_inside(pid, folders, programs)
    )


def _identified(pids: Iterable[int]) -> list[ProcessId]:
    return [process for process in map(identify, pids) if process is not None]


def send(process: ProcessId, number: signal.Signals) -> None:
    """Signal the process if it is still that process."""
    if process.alive():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)


def wait_gone(processes: list[ProcessId], timeout_s: float) -> list[ProcessId]:
    """Wait until all are gone; returns those that are not after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [process for process in processes if process.alive()]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(POLL_S)


def end_all(find: Callable[[], list[ProcessId]], grace_s: float = END_GRACE_S) -> int:
    """End whatever ``find`` returns, first asked, then forced; returns how many were found at first."""
    found = find()
    for process in found:
        send(process, signal.SIGTERM)
    if found:
        wait_gone(found, grace_s)
    rounds_max = 3  # a dying parent may have forked once more between the look and the kill
    for _ in range(rounds_max):
        left = find()
        if not left:
            break
        for process in left:
            send(process, signal.SIGKILL)
        wait_gone(left, END_GRACE_S)
    return len(found)
