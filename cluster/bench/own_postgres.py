"""A Postgres of a benchmark's own: the local stack's binaries and settings, in a temporary directory.

The settings are the stack's, fsync included, except that the write-ahead log is kept shorter: a benchmark's
disk is bounded. Everything is removed at the end. Refuses nothing by itself; the launcher's rules on users
and places apply (``cluster.local.postgres``).
"""

import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cluster.local import ports, postgres
from cluster.local.layout import PASSABLE_DIR, Layout, remove_tree
from cluster.local.supervisor import Supervisor

WAL_MAX = "512MB"


@contextmanager
def own_postgres() -> Iterator[str]:
    """Run a server for as long as the block; yields the owner's DSN of database ``market``.

    Raises:
        LaunchError: it cannot run here, with its reason.
    """
    home = Path(tempfile.mkdtemp(prefix="ilv-bench-"))
    layout = Layout(home)
    supervisor = Supervisor(threading.Event(), lambda: None)
    try:
        home.chmod(PASSABLE_DIR)  # Postgres may have to run as another user
        layout.create()
        yield _start(layout, supervisor)
    finally:
        supervisor.stop_all((postgres.NAME,), lambda _name: None)
        supervisor.end()
        remove_tree(home)
        if layout.outside.is_dir():
            remove_tree(layout.outside)


def _start(layout: Layout, supervisor: Supervisor) -> str:
    where = postgres.place(layout)
    port = ports.pick(set())
    password = secrets.token_hex(16)
    owner = postgres.dsn(postgres.OWNER, password, port)
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"}
    child = postgres.spec(where, port, environment, layout.log / "postgres.log")
    child = replace(child, argv=(*child.argv, "-c", f"max_wal_size={WAL_MAX}"))
    postgres.initialise(where, password, supervisor.run_once, child)
    supervisor.start(child)
    while not postgres.connects(owner):
        supervisor.pause(0.1)
    postgres.provision(owner, {role: secrets.token_hex(16) for role in postgres.LOGIN_ROLES})
    return owner
