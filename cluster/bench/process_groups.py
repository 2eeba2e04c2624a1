"""CPU time and memory by group of processes: who spends the two cores.

A run's processes are found by its marker and by descent from the launcher's children (Postgres and Ray's
workers overwrite their environment), and are named by their command line. CPU is the difference of two
snapshots over processes present in both, plus the whole of those that began in between; what a process
spent that ended in between is lost, and ``ended`` counts such processes.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil

from cluster.local import processes, state
from cluster.local.layout import Layout

LOAD_GENERATOR = "load_generator"
MEBI = 1_048_576
# First match wins; the texts are part of the command lines that these programs give themselves.
_BY_TEXT = (
    ("serve_app.finance", "finance"),
    ("cluster.finance", "finance"),
    ("cluster.local.stripe", "stripe_simulator"),
    ("cluster.serving", "serving"),
    ("cluster.cli", "launcher"),
    ("haproxy", "haproxy"),
    ("postgres", "postgres"),
    ("weed", "weed"),
)
_BY_DEPLOYMENT = (
    ("ingress", "ingress"),
    ("order", "order_hosts"),
    ("signer", "signer"),
    ("background", "background"),
)
_REPLICA = "ServeReplica:"


def group_of(command_line: str) -> str:
    """Name the group that a command line belongs to."""
    if command_line.startswith("ray::") or _REPLICA in command_line:
        if _REPLICA in command_line:
            name = command_line.split(_REPLICA, 1)[1].split(maxsplit=1)[0].lower()
            return next((group for text, group in _BY_DEPLOYMENT if text in name), f"replica_{name}")
        return "ray_system"
    return next((group for text, group in _BY_TEXT if text in command_line), "ray_system")


@dataclass(frozen=True, slots=True)
class Usage:
    """One process: its group, CPU seconds so far, resident bytes."""

    group: str
    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All processes of the run by (pid, start time), and the whole machine's CPU seconds so far."""

    usage: dict[tuple[int, float], Usage] = field(default_factory=dict)
    machine_cpu_s: float = 0.0


def take(layout: Layout) -> Snapshot:
    """Measure every process of the run in ``layout`` and this one."""
    usage: dict[tuple[int, float], Usage] = {}
    for process in members(layout):
        try:
            with process.oneshot():
                times, command = process.cpu_times(), " ".join(process.cmdline()) or process.name()
                group = LOAD_GENERATOR if process.pid == os.getpid() else group_of(command)
                usage[process.pid, process.create_time()] = Usage(
                    group, times.user + times.system, process.memory_info().rss
                )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    whole = psutil.cpu_times()
    return Snapshot(usage, sum(whole) - whole.idle - getattr(whole, "iowait", 0.0) - whole.guest)


def members(layout: Layout) -> Iterable[psutil.Process]:
    """Yield the processes of the run in ``layout``, and this one."""
    record = state.read_record(layout.state_json)
    pids = {os.getpid()}
    if record:
        pids |= {found.pid for found in processes.of_run(record.run_id)}
        for child in record.children.values():
            if child.alive():
                pids |= {child.pid, *_descendants(child.pid)}
        # The launcher is in the list only when it is another process than this one.
        pids.add(record.launcher.pid)
    for pid in pids:
        try:
            yield psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(before: Snapshot, after: Snapshot) -> tuple[dict[str, float], int]:
    """Return CPU seconds by group between two snapshots, and how many processes ended in between."""
    spent: dict[str, float] = {}
    for key, usage in after.usage.items():
        earlier = before.usage.get(key)
        spent[usage.group] = spent.get(usage.group, 0.0) + usage.cpu_s - (earlier.cpu_s if earlier else 0.0)
    return spent, len(before.usage.keys() - after.usage.keys())


def rss_mb(snapshot: Snapshot) -> dict[str, float]:
    """Return resident mebibytes by group; pages shared between processes count in each."""
    total: dict[str, float] = {}
    for usage in snapshot.usage.values():
        total[usage.group] = total.get(usage.group, 0.0) + usage.rss_bytes / MEBI
    return {group: round(value, 1) for group, value in sorted(total.items())}
