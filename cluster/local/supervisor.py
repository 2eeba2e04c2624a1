"""Starts the parts as child processes, restarts one that crashes, and ends them all.

Decides when a crash is worth another try: bounded backoff, and after ``CRASHES_MAX`` crashes within
``CRASH_WINDOW_S`` it gives up and says why. A part that depends on another (Serve on Ray) is ended and
started again when that other one had to be.

Every child is started by one thread that lives as long as this process: Linux sends the parent-death
signal when the *thread* that forked ends. Every child leads its own session, so that a terminal's
Ctrl-C reaches the launcher alone, and so that what a dead child left behind can be found and ended.
Refuses to start anything once stopping has begun.
"""

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cluster.local import processes
from cluster.local.failures import CancelledStartError, ChildFailedError

CRASHES_MAX = 5  # a part that crashes five times in two minutes will not heal by itself
CRASH_WINDOW_S = 120.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 8.0
TICK_S = 0.1  # how often children are looked at; a crash is noticed within this time
RESTART_READY_TIMEOUT_S = 90.0
SPAWN_TIMEOUT_S = 30.0  # fork and exec of one program on a busy machine
LOG_BYTES_MAX = 32 * 1024 * 1024  # a log above this is set aside once, at the next start
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.PyDLL(None) if sys.platform == "linux" else None  # PyDLL keeps the GIL: safe after fork


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start, judge and stop one part.

    ``ready`` answers quickly and never raises; ``user`` is (uid, gid) to run as. ``needs`` names parts
    whose restart makes this one's restart necessary. ``death_signal`` is what the kernel sends when the
    launcher dies, ``stop_signal`` unless given. ``start_retries`` is how often its first start is repeated
    when it exits early.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    log_path: Path
    ready: Callable[[], bool] = lambda: True
    ready_timeout_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    death_signal: signal.Signals | None = None
    user: tuple[int, int] | None = None
    needs: tuple[str, ...] = ()
    start_retries: int = 0


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes]
    identity: processes.ProcessId | None
    started_at: float
    ready: bool = False
    supervised: bool = False  # set once the first start succeeded: from then on a crash is restarted
    stopping: bool = False
    signalled: bool = False  # told to stop
    restart_at: float | None = None
    crashes: deque[float] = field(default_factory=deque)


class Supervisor:
    """Owns the children of one launcher; its methods may be called from any thread."""

    def __init__(self, cancelled: threading.Event, on_change: Callable[[], None]) -> None:
        """Args: ``cancelled`` ends all waits; ``on_change`` is told when a child's pid changes."""
        self._cancelled = cancelled
        self._on_change = on_change
        self._children: dict[str, _Child] = {}
        self._requests: queue.SimpleQueue[tuple[ChildSpec, Future[_Child]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._force = threading.Event()
        self.failure: ChildFailedError | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def identities(self) -> dict[str, processes.ProcessId]:
        """Return the pid and start time of each child that runs."""
        with self._lock:
            return {name: child.identity for name, child in self._children.items() if child.identity}

    def start(self, spec: ChildSpec) -> None:
        """Start a part and wait until it is ready; from then on it is restarted when it crashes.

        Raises:
            ChildFailedError: when it exits early or is not ready in time.
            CancelledStartError: when the start was cancelled meanwhile.
        """
        child, retries = self._spawn(spec), spec.start_retries
        deadline = time.monotonic() + spec.ready_timeout_s
        while not spec.ready():
            status = child.process.poll()
            if status is not None and retries:
                retries -= 1
                self._reap(child)
                child = self._spawn(spec)
            elif status is not None:
                raise ChildFailedError(f"{spec.name} {_exit_text(status)} while starting.", spec.log_path)
            if time.monotonic() > deadline:
                raise ChildFailedError(
                    f"{spec.name} was not ready within {spec.ready_timeout_s:.0f} s.", spec.log_path
                )
            self.pause(TICK_S)
        child.ready = child.supervised = True

    def run_once(self, spec: ChildSpec) -> None:
        """Run a program to its end, bounded by ``ready_timeout_s``.

        Raises:
            ChildFailedError: on a non-zero exit status or when it takes too long.
            CancelledStartError: when the start was cancelled meanwhile.
        """
        child = self._spawn(spec)
        deadline = time.monotonic() + spec.ready_timeout_s
        while (status := child.process.poll()) is None:
            if time.monotonic() > deadline:
                raise ChildFailedError(
                    f"{spec.name} took more than {spec.ready_timeout_s:.0f} s.", spec.log_path
                )
            self.pause(TICK_S / 2)
        with self._lock:
            self._children.pop(spec.name, None)
        if status:
            raise ChildFailedError(f"{spec.name} {_exit_text(status)}.", spec.log_path)

    def pause(self, duration_s: float) -> None:
        """Wait ``duration_s`` seconds.

        Raises:
            CancelledStartError: when the start is or gets cancelled.
        """
        if self._cancelled.wait(duration_s):
            raise CancelledStartError

    def force(self) -> None:
        """Make a running ``stop_all`` kill instead of waiting."""
        self._force.set()

    def stop_all(self, order: tuple[str, ...], on_stop: Callable[[str], None]) -> None:
        """Stop every child, those in ``order`` first and in that order; nothing is started afterwards."""
        self._closing.set()
        self._ended.wait(SPAWN_TIMEOUT_S)
        rest = [name for name in reversed(list(self._children)) if name not in order]
        names = [*(name for name in order if name in self._children), *rest]
        for position, name in enumerate(names):
            child = self._children[name]
            child.stopping = True
            if child.process.poll() is None:
                on_stop(name)
            self._stop(child)
            if position == 0:
                # Nobody calls the parts between the first and the last any more: they stop together.
                for other in names[1:-1]:
                    self._children[other].stopping = True
                    self._signal(self._children[other])
        with self._lock:
            self._children.clear()

    def end(self) -> None:
        """Let the spawning thread end. Call when no child is left: its end signals their death."""
        self._closing.set()
        self._thread.join(SPAWN_TIMEOUT_S)

    # -- the spawning thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set():
            self._serve_request()
            now = time.monotonic()
            for child in list(self._children.values()):
                try:
                    self._look_after(child, now)
                except ChildFailedError as failure:
                    self.failure = self.failure or failure
        self._ended.set()
        # Stay alive while children are being stopped: their parent-death signal would cut that short.
        while any(child.process.poll() is None for child in list(self._children.values())):
            time.sleep(TICK_S)

    def _serve_request(self) -> None:
        try:
            spec, answer = self._requests.get(timeout=TICK_S)
        except queue.Empty:
            return
        if not answer.set_running_or_notify_cancel():
            return
        try:
            if self._closing.is_set() or self._cancelled.is_set():
                raise CancelledStartError  # noqa: TRY301 - carried to the caller by the future
            answer.set_result(self._fork(spec, deque()))
        except BaseException as error:  # noqa: BLE001 - every outcome belongs to the waiting caller
            answer.set_exception(error)

    def _spawn(self, spec: ChildSpec) -> _Child:
        if self._closing.is_set():
            raise CancelledStartError
        answer: Future[_Child] = Future()
        self._requests.put((spec, answer))
        deadline = time.monotonic() + SPAWN_TIMEOUT_S
        while not answer.done():
            if self._ended.is_set() or time.monotonic() > deadline:
                raise CancelledStartError
            time.sleep(TICK_S / 10)
        return answer.result()

    def _fork(self, spec: ChildSpec, crashes: deque[float]) -> _Child:
        _set_aside(spec.log_path)
        user, group = spec.user or (None, None)
        try:
            with _open_log(spec.log_path) as log:
                process = subprocess.Popen(
                    spec.argv,
                    cwd=spec.cwd,
                    env=dict(spec.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    user=user,
                    group=group,
                    extra_groups=[] if spec.user else None,
                    preexec_fn=_die_with(spec.death_signal or spec.stop_signal),  # noqa: PLW1509 - one prctl by a function bound beforehand, GIL held
                )
        except OSError as error:
            raise ChildFailedError(
                f"{spec.name} cannot be started: {spec.argv[0]}: {error.strerror or error}. "
                "Run `make dev` to install what is missing."
            ) from error
        child = _Child(spec, process, processes.identify(process.pid), time.monotonic(), crashes=crashes)
        with self._lock:
            self._children[spec.name] = child
        self._on_change()
        return child

    def _look_after(self, child: _Child, now: float) -> None:
        if not child.supervised or child.stopping:
            return
        if child.restart_at is not None:
            needed = [self._children.get(name) for name in child.spec.needs]
            if now >= child.restart_at and all(need and need.ready for need in needed):
                self._restart(child)
            return
        status = child.process.poll()
        if status is not None:
            self._crashed(child, now, f"{child.spec.name} {_exit_text(status)}")
        elif not child.ready:
            if child.spec.ready():
                child.ready = True
            elif now - child.started_at > RESTART_READY_TIMEOUT_S:
                child.process.kill()

    def _restart(self, child: _Child) -> None:
        fresh = self._fork(child.spec, child.crashes)
        fresh.supervised = True

    def _crashed(self, child: _Child, now: float, what: str) -> None:
        child.ready = False
        child.identity = None
        processes.end_all(lambda: processes.of_session(child.process.pid), grace_s=1.0)
        while child.crashes and now - child.crashes[0] > CRASH_WINDOW_S:
            child.crashes.popleft()
        child.crashes.append(now)
        if len(child.crashes) >= CRASHES_MAX:
            child.stopping = True
            raise ChildFailedError(
                f"{what} for the {len(child.crashes)}th time within {CRASH_WINDOW_S:.0f} s; giving up.",
                child.spec.log_path,
            )
        child.restart_at = now + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (len(child.crashes) - 1))
        self._on_change()
        for other in list(self._children.values()):
            if child.spec.name in other.spec.needs and other.restart_at is None and other.supervised:
                other.ready = False
                other.process.terminate()
                other.restart_at = now + BACKOFF_FIRST_S
                self._reap(other)

    def _reap(self, child: _Child) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(1.0)
        processes.end_all(lambda: processes.of_session(child.process.pid), grace_s=1.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(processes.END_GRACE_S)
        child.identity = None

    def _signal(self, child: _Child) -> None:
        """Send the stop signal once: for some programs a second one means to give up at once."""
        if not child.signalled and child.process.poll() is None:
            child.signalled = True
            child.process.send_signal(child.spec.stop_signal)

    def _stop(self, child: _Child) -> None:
        process, spec = child.process, child.spec
        if process.poll() is None:
            self._signal(child)
            deadline = time.monotonic() + spec.stop_timeout_s
            while process.poll() is None and time.monotonic() < deadline and not self._force.is_set():
                time.sleep(processes.POLL_S)
        session = process.pid
        grace_s = 0.0 if self._force.is_set() else 1.0
        processes.end_all(lambda: processes.of_session(session), grace_s=grace_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(processes.END_GRACE_S)


def _die_with(number: signal.Signals) -> Callable[[], None] | None:
    if _LIBC is None:
        return None
    prctl, parent = _LIBC.prctl, os.getpid()

    def bind_to_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # the launcher died between fork and prctl
            os._exit(1)

    return bind_to_parent


def _open_log(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "ab", buffering=0)


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))


def _exit_text(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
