"""The whole marketplace on one machine: starts the parts in the right order, keeps them, stops them.

Order: Postgres (then migrations), SeaweedFS (then buckets), Stripe simulator and Ray start at once;
Finance follows its schema, the Serve application follows everything. ``Stack`` is one run: it holds the
directory's lock for as long as it lives, so a second one is refused, and it ends what a killed earlier
one left behind before it starts anything. It can be driven from any thread, and never prints.
Refuses to start twice, and to leave a process behind: ``stop`` ends with a search for the run's marker.
"""

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from cluster.local import (
    certificates,
    postgres,
    preflight,
    processes,
    ray_head,
    seaweed,
    services,
    settings_file,
    state,
)
from cluster.local import ports as port_choice
from cluster.local.failures import CancelledStartError, LaunchError
from cluster.local.layout import (
    Layout,
    default_home,
    make_temporary,
    remove_tree,
    write_json,
    write_private,
)
from cluster.local.ports import HOST
from cluster.local.supervisor import ChildSpec, Supervisor
from deployments.clock import utc_now
from storage import migrations
from storage.signing.devfile import DevelopmentKeyFile

PORT_VARIABLE = "MARKETPLACE_PORT"
SCHEMAS = (("finance", "storage.finance"), ("market", "storage.market"))
DASHBOARD_TIMEOUT_S = 60.0
STOP_ORDER = (
    services.SERVING,
    ray_head.NAME,
    services.FINANCE,
    services.STRIPE,
    seaweed.NAME,
    postgres.NAME,
)
PORT_NAMES = ("http", "postgres", "stripe", "finance", *seaweed.PORT_NAMES, *ray_head.PORT_NAMES)
SHUTDOWN_TIMEOUT_S = 120.0  # the sum of the parts' own limits, for whoever waits from outside

StepStatus = Literal["running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the start-up checklist; ``elapsed_s`` counts from the step's own beginning."""

    name: str
    status: StepStatus
    elapsed_s: float
    detail: str = ""


def ignore_step(_step: Step) -> None:
    """Drop a step: the default listener."""


class Stack:
    """One run of all local parts in one home directory.

    Use as a context manager, or call ``start`` and ``stop``. ``application=False`` leaves out Ray and
    the Serve application, for tests of the services alone.
    """

    def __init__(
        self, home: Path | None = None, *, application: bool = True, modules: services.Modules | None = None
    ) -> None:
        self.layout = Layout(home or default_home())
        self._application = application
        self._modules = modules or services.Modules()
        self._cancelled = threading.Event()
        self._lock = state.RunLock(self.layout.lock)
        self._guard = threading.RLock()
        self._supervisor: Supervisor | None = None
        self._record: state.RunRecord | None = None
        self._credentials: state.Credentials | None = None
        self._tls: certificates.LocalCertificates | None = None
        self._ports: dict[str, int] = {}
        self._environment: dict[str, str] = {}
        self._place: postgres.PostgresPlace | None = None
        self._on_step: Callable[[Step], None] = ignore_step

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def local(self) -> dict[str, Any]:
        """The contract document, as in ``var/local.json``."""
        assert self._credentials is not None, "the stack was never started"
        assert self._tls is not None
        return settings_file.local_document(self._credentials, self._ports, self._tls, self._pids())

    @property
    def ray_environment(self) -> dict[str, str]:
        """The variables that a driver of this run's Ray cluster needs."""
        return ray_head.environment(self._temporary, self.layout.ray_token, self._ports)

    @property
    def seconds(self) -> dict[str, float]:
        """How long each step of the start took, in seconds."""
        return dict(self._record.steps) if self._record else {}

    @property
    def failure(self) -> LaunchError | None:
        """Why the stack can no longer serve, None while it can."""
        return self._supervisor.failure if self._supervisor else None

    def start(self, on_step: Callable[[Step], None] = ignore_step) -> None:
        """Start everything; returns when the application answers.

        Raises:
            PreflightError: the machine or the directory cannot host the parts.
            AlreadyRunningError: another launcher holds the directory.
            ChildFailedError: a part did not start; everything has been stopped again.
            CancelledStartError: ``cancel`` was called; everything has been stopped again.
        """
        self._on_step = on_step
        began = time.monotonic()
        try:
            self._step("preflight", self._prepare)
            self._start_parts()
            self._publish("ready")
        except BaseException as error:
            self._stop("cancelled" if isinstance(error, CancelledStartError) else "failed", str(error))
            raise
        assert self._record is not None
        self._record.steps["total"] = time.monotonic() - began
        self._record.write(self.layout.state_json)

    def cancel(self) -> None:
        """Make a running ``start`` or ``wait`` end soon; callable from a signal handler."""
        self._cancelled.set()

    def force(self) -> None:
        """Make a running ``stop`` kill instead of waiting; callable from a signal handler."""
        if self._supervisor:
            self._supervisor.force()

    def wait(self) -> None:
        """Block until ``cancel`` is called.

        Raises:
            ChildFailedError: when a part kept crashing.
        """
        while not self._cancelled.wait(0.2):
            if self.failure:
                raise self.failure

    def stop(self, on_step: Callable[[Step], None] = ignore_step) -> None:
        """Stop everything that this stack started; harmless when nothing runs."""
        self._on_step = on_step
        self._stop("stopping", "")

    # -- start -----------------------------------------------------------------------------------

    @property
    def _temporary(self) -> Path:
        assert self._record is not None, "the stack was never started"
        return Path(self._record.temporary)

    def _prepare(self) -> None:
        preflight.check(self.layout)
        self._lock.acquire()
        stale = state.read_record(self.layout.state_json)
        self._place = postgres.place(self.layout)
        if stale:
            state.sweep(stale, _folders(stale, self._place.data), _programs(self._place))
        self.layout.local_json.unlink(missing_ok=True)
        credentials = state.load_credentials(self.layout)
        fixed = port_choice.environment_port(PORT_VARIABLE)
        self._ports = port_choice.allot(PORT_NAMES, credentials.ports, {"http": fixed} if fixed else {})
        self._ports[ray_head.SERVE_REPLICAS] = port_choice.pick_block()
        credentials.ports = self._ports
        state.save_credentials(self.layout, credentials)
        self._credentials = credentials
        write_private(self.layout.ray_token, credentials.secrets["ray_token"])
        DevelopmentKeyFile.load_or_create(self.layout.signing_key)
        launcher = processes.identify(os.getpid())
        assert launcher is not None
        run_id = secrets.token_hex(8)
        outside = str(self.layout.outside) if self.layout.outside.exists() else ""
        self._record = state.RunRecord(run_id, launcher, str(make_temporary()), outside=outside)
        self._record.write(self.layout.state_json)
        self._environment = services.clean_environment(os.environ, run_id, self.layout.home)
        self._tls = certificates.ensure(self.layout.finance_certificates, [HOST, "localhost"], utc_now())
        settings = settings_file.settings(self.layout, credentials, self._ports, self._tls)
        write_json(self.layout.settings_json, settings)
        for log in self.layout.log.glob("*.log"):
            log.unlink()  # each start's logs begin empty; the last failure's was shown when it happened
        self._supervisor = Supervisor(self._cancelled, self._children_changed)

    def _start_parts(self) -> None:
        migrated = threading.Event()
        tasks: list[Callable[[], None]] = [
            lambda: self._start_postgres(migrated),
            self._start_seaweed,
            self._start_stripe,
            lambda: self._start_finance(migrated),
        ]
        if self._application:
            tasks.append(self._start_ray)
        self._together(tasks)
        if self._application:
            self._together([self._start_serving, self._wait_for_dashboard])

    def _together(self, tasks: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(len(tasks), thread_name_prefix="start") as pool:
            futures: list[Future[None]] = [pool.submit(task) for task in tasks]
            try:
                # Short waits let a signal handler of the main thread run in between.
                while wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION).not_done:
                    if self._cancelled.is_set() or any(f.done() and f.exception() for f in futures):
                        break
            finally:
                unfinished = any(not future.done() for future in futures)
                if unfinished:
                    self._cancelled.set()  # the others stop waiting; what they started is stopped below
        failures = [error for future in futures if (error := future.exception())]
        for error in failures:
            if not isinstance(error, CancelledStartError):
                raise error
        if failures or self._cancelled.is_set():
            raise CancelledStartError

    def _start_postgres(self, migrated: threading.Event) -> None:
        supervisor, secret = self._running(), self._secrets()
        assert self._place is not None
        where = self._place
        owner = self._owner_dsn()
        child = postgres.spec(
            where, self._ports["postgres"], self._environment, self.layout.log / "postgres.log"
        )

        def start() -> None:
            postgres.initialise(where, secret["postgres_market"], supervisor.run_once, child)
            supervisor.start(child)
            while not postgres.connects(owner):  # the port accepts a little before recovery is over
                supervisor.pause(0.1)
            postgres.provision(owner, {role: secret[f"postgres_{role}"] for role in postgres.LOGIN_ROLES})

        self._step("postgres", start)
        self._step("migrations", lambda: _migrate(owner))
        migrated.set()

    def _start_seaweed(self) -> None:
        secret = self._secrets()
        child = seaweed.spec(
            self.layout.data / "seaweedfs",
            self._temporary,
            self._ports,
            secret,
            self._environment,
            self.layout.log / "seaweedfs.log",
        )
        self._step("seaweedfs", lambda: self._running().start(child))
        self._step("buckets", lambda: seaweed.make_buckets(seaweed.client(self._ports, secret)))

    def _start_stripe(self) -> None:
        child = services.stripe(
            self._modules.stripe,
            self.layout,
            self._ports,
            self._secrets(),
            self._environment,
            settings_file.base_url(self._ports),
        )
        self._step("stripe", lambda: self._running().start(child))

    def _start_finance(self, migrated: threading.Event) -> None:
        while not migrated.is_set():
            self._running().pause(0.05)
        self._step("finance", lambda: self._running().start(self._finance(self._ports["postgres"])))

    def _finance(self, postgres_port: int) -> ChildSpec:
        assert self._tls is not None
        dsn = postgres.dsn("finance_app", self._secrets()["postgres_finance_app"], postgres_port)
        return services.finance(
            self._modules.finance, self.layout, self._ports, self._tls, dsn, self._environment
        )

    def _start_ray(self) -> None:
        ray_head.prepare(self._temporary)
        child = ray_head.spec(
            self._temporary, self._ports, self._driver_environment(), self.layout.log / "ray.log"
        )
        self._step("ray", lambda: self._running().start(child))

    def _start_serving(self) -> None:
        empty = self._temporary / "serving"  # workers put the driver's directory before site-packages
        empty.mkdir(exist_ok=True)
        child = services.serving(
            self._modules.serving, self.layout, self._ports, self._driver_environment(), empty
        )
        self._step("marketplace", lambda: self._running().start(child))

    def _wait_for_dashboard(self) -> None:
        def answers() -> None:
            deadline = time.monotonic() + DASHBOARD_TIMEOUT_S
            while not services.answers(self._ports["ray_dashboard"], "/"):
                if time.monotonic() > deadline:
                    raise LaunchError(
                        f"Ray's dashboard did not answer within {DASHBOARD_TIMEOUT_S:.0f} s. "
                        f"See {self._temporary}/ray/session_latest/logs/dashboard.log."
                    )
                self._running().pause(0.2)

        self._step("dashboard", answers)

    def _driver_environment(self) -> dict[str, str]:
        return {**self._environment, **self.ray_environment}

    def _owner_dsn(self) -> str:
        return postgres.dsn(postgres.OWNER, self._secrets()["postgres_market"], self._ports["postgres"])

    def _secrets(self) -> dict[str, str]:
        assert self._credentials is not None
        return self._credentials.secrets

    def _running(self) -> Supervisor:
        assert self._supervisor is not None
        return self._supervisor

    def _step(self, name: str, action: Callable[[], object]) -> None:
        began = time.monotonic()
        self._on_step(Step(name, "running", 0.0))
        try:
            action()
        except CancelledStartError:
            raise
        except BaseException as error:
            if self._cancelled.is_set():  # a part that is being stopped fails whoever talks to it
                raise CancelledStartError from error
            self._on_step(Step(name, "failed", time.monotonic() - began))
            if isinstance(error, (OSError, psycopg.Error, BotoCoreError, ClientError)):
                raise LaunchError(_unexpected(name, error, self.layout)) from error
            raise
        elapsed_s = time.monotonic() - began
        with self._guard:
            if self._record:
                self._record.steps[name] = elapsed_s
                self._record.write(self.layout.state_json)
        self._on_step(Step(name, "done", elapsed_s))

    # -- while it runs, and the end ----------------------------------------------------------------

    def _pids(self) -> dict[str, int]:
        children = self._supervisor.identities() if self._supervisor else {}
        return {"launcher": os.getpid(), **{name: process.pid for name, process in children.items()}}

    def _children_changed(self) -> None:
        with self._guard:
            if self._record is None or self._supervisor is None:
                return
            self._record.children = self._supervisor.identities()
            self._record.write(self.layout.state_json)
            if self._record.status == "ready":
                write_json(self.layout.local_json, self.local)

    def _publish(self, status: str) -> None:
        with self._guard:
            assert self._record is not None
            write_json(self.layout.local_json, self.local)
            self._record.status = status
            self._record.write(self.layout.state_json)

    def _stop(self, status: str, message: str) -> None:
        self._cancelled.set()
        record, supervisor = self._record, self._supervisor
        if record is None:
            self._lock.release()
            return
        with self._guard:
            record.status, record.message = status, message
            record.write(self.layout.state_json)
        self.layout.local_json.unlink(missing_ok=True)
        if supervisor:
            supervisor.stop_all(STOP_ORDER, lambda name: self._on_step(Step(f"stop {name}", "running", 0.0)))
            supervisor.end()
        assert self._place is not None
        state.sweep(record, _folders(record, self._place.data), _programs(self._place))
        if status != "failed":  # a failure's record stays, for `status` and for a waiting parent
            self.layout.state_json.unlink(missing_ok=True)
        remove_tree(Path(record.temporary))
        self._record = None
        self._lock.release()


def _migrate(owner_dsn: str) -> list[str]:
    applied: list[str] = []
    for schema, package in SCHEMAS:
        try:
            applied += [
                f"{schema}.{name}" for name in migrations.apply(owner_dsn, package=package, schema=schema)
            ]
        except migrations.MigrationRefusedError as refusal:
            raise LaunchError(str(refusal)) from refusal
    return applied


def _unexpected(step: str, error: BaseException, layout: Layout) -> str:
    # psycopg and boto errors may span lines; passwords are in neither.
    return (
        f"{step} failed: {type(error).__name__}: {error}".rstrip()
        + f"\n  See the logs in {layout.log}; a full disk and a server ended by hand are the usual causes."
    )


def _folders(record: state.RunRecord, data: Path) -> tuple[Path, ...]:
    return tuple(folder for folder in (Path(record.temporary), data) if str(folder) != ".")


def _programs(where: postgres.PostgresPlace) -> frozenset[str]:
    # Resolved, as /proc shows them. Only these are ended for working inside the run's directories.
    paths = (where.program("postgres"), ray_head.haproxy_program(), Path(sys.executable))
    return frozenset(str(path.resolve()) for path in paths)


def end_leftovers(layout: Layout) -> int:
    """End what a killed launcher left behind; returns the number of processes ended.

    Raises:
        AlreadyRunningError: when a launcher runs after all.
    """
    record = state.read_record(layout.state_json)
    if record is None:
        return 0
    lock = state.RunLock(layout.lock)
    lock.acquire()
    try:
        where = postgres.place(layout)
        count = state.sweep(record, _folders(record, where.data), _programs(where))
        layout.state_json.unlink(missing_ok=True)
        layout.local_json.unlink(missing_ok=True)
    finally:
        lock.release()
    return count


def migrate(layout: Layout) -> list[str]:
    """Apply migrations to the database of the running stack; returns the names applied now.

    Raises:
        LaunchError: when nothing runs here, or the database refuses.
    """
    credentials = state.load_credentials(layout)
    port = credentials.ports.get("postgres")
    if not state.RunLock.held(layout.lock) or port is None:
        raise LaunchError("No stack runs here, so there is no database to migrate. Start one: `make up`.")
    return _migrate(postgres.dsn(postgres.OWNER, credentials.secrets["postgres_market"], port))
