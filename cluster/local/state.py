"""What outlives a launcher: credentials and ports between runs, and the record of the current run.

The file lock is the only proof that a launcher runs: the kernel drops it with the process. The record
beside it says which run that is and which processes belong to it, so that the next launcher can end
what a killed one left. Credentials are generated once and kept, so that data, tokens and links stay
valid; they are never logged. Refuses to overwrite a credentials file that it cannot read.
"""

import fcntl
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.local import processes
from cluster.local.failures import AlreadyRunningError, PreflightError
from cluster.local.layout import PRIVATE_FILE, Layout, read_json, remove_tree, write_json

TOKEN_BYTES = 24
ROLES = ("buyer", "seller", "operator", "operator2", "fraud", "auditor")
_SECRETS = (
    *("postgres_market", "postgres_market_app", "postgres_finance_app"),
    *("s3_secret_key", "ray_token"),
    *("weed_jwt_signing", "weed_jwt_signing_read", "weed_jwt_filer", "weed_jwt_filer_read"),
)


@dataclass(slots=True)
class Credentials:
    """Generated secrets, bearer tokens by role, and the ports of the last run."""

    secrets: dict[str, str] = field(repr=False)
    tokens: dict[str, str] = field(repr=False)
    ports: dict[str, int]


def load_credentials(layout: Layout) -> Credentials:
    """Read the credentials, generating what is missing, and write them back.

    Raises:
        PreflightError: when the file exists and cannot be understood: new passwords would lock out
            the existing data.
    """
    path = layout.credentials_json
    document = read_json(path)
    if path.exists() and not document:
        raise PreflightError(
            f"{path} is damaged. Restore it, or run `make clean` to start over with empty data."
        )
    kept = {name: str(value) for name, value in document.get("secrets", {}).items()}
    for name in _SECRETS:
        kept.setdefault(name, secrets.token_hex(TOKEN_BYTES))
    kept.setdefault("s3_access_key", "ilv" + secrets.token_hex(8))
    kept.setdefault("stripe_secret_key", "sk_test_" + secrets.token_hex(TOKEN_BYTES))
    kept.setdefault("stripe_publishable_key", "pk_test_" + secrets.token_hex(TOKEN_BYTES))
    kept.setdefault("stripe_webhook_secret", "whsec_" + secrets.token_hex(TOKEN_BYTES))
    tokens = {role: str(document.get("tokens", {}).get(role) or _role_token(role)) for role in ROLES}
    ports = {name: int(port) for name, port in document.get("ports", {}).items()}
    credentials = Credentials(kept, tokens, ports)
    save_credentials(layout, credentials)
    return credentials


def save_credentials(layout: Layout, credentials: Credentials) -> None:
    """Write the credentials atomically with mode 0600."""
    write_json(
        layout.credentials_json,
        {"secrets": credentials.secrets, "tokens": credentials.tokens, "ports": credentials.ports},
    )


def _role_token(role: str) -> str:
    return f"ilv_{role}_{secrets.token_urlsafe(TOKEN_BYTES)}"


class RunLock:
    """The exclusive lock of one home directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once.

        Raises:
            AlreadyRunningError: when another launcher holds it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise AlreadyRunningError(
                f"A launcher already runs here (lock {self._path}). `marketplace status` shows it, "
                "`make down` stops it."
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up; the file stays, since removing it would race with the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def held(path: Path) -> bool:
        """Whether some process holds the lock."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    @staticmethod
    def wait_released(path: Path, timeout_s: float) -> bool:
        """Wait until nobody holds the lock; False when that takes longer than ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while RunLock.held(path):
            if time.monotonic() > deadline:
                return False
            time.sleep(processes.POLL_S)
        return True


@dataclass(slots=True)
class RunRecord:
    """One run as written to ``var/run/stack.json``."""

    run_id: str
    launcher: processes.ProcessId
    temporary: str
    status: str = "starting"  # starting, ready, degraded, stopping, failed, cancelled
    message: str = ""
    children: dict[str, processes.ProcessId] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    outside: str = ""
    boot_id: str = field(default_factory=processes.boot_id)

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(
            path,
            {
                "run_id": self.run_id,
                "launcher": _as_json(self.launcher),
                "temporary": self.temporary,
                "outside": self.outside,
                "boot_id": self.boot_id,
                "status": self.status,
                "message": self.message,
                "children": {name: _as_json(process) for name, process in self.children.items()},
                "steps": self.steps,
            },
        )


def read_record(path: Path) -> RunRecord | None:
    """Read the record, None when there is none or it is damaged."""
    raw = read_json(path)
    try:
        return RunRecord(
            run_id=str(raw["run_id"]),
            launcher=_from_json(raw["launcher"]),
            temporary=str(raw["temporary"]),
            status=str(raw["status"]),
            message=str(raw["message"]),
            children={name: _from_json(value) for name, value in raw["children"].items()},
            steps={name: float(value) for name, value in raw["steps"].items()},
            outside=str(raw["outside"]),
            boot_id=str(raw["boot_id"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _as_json(process: processes.ProcessId) -> dict[str, int]:
    return {"pid": process.pid, "start_ticks": process.start_ticks}


def _from_json(raw: Any) -> processes.ProcessId:
    return processes.ProcessId(int(raw["pid"]), int(raw["start_ticks"]))


def sweep(record: RunRecord, folders: tuple[Path, ...], programs: frozenset[str]) -> int:
    """End every process that a dead run left behind; returns how many there were.

    The caller must hold the lock: then no launcher is alive that could own them.
    """

    def left() -> list[processes.ProcessId]:
        found = set(processes.of_run(record.run_id, folders, programs))
        for leader in record.children.values():
            # The kernel reuses a session's number only once the session is empty. Then its new leader
            # shows another start time; and no member of ours is older than its leader.
            if processes.start_ticks(leader.pid) in {None, leader.start_ticks}:
                members = processes.of_session(leader.pid)
                found |= {one for one in members if one.start_ticks >= leader.start_ticks}
        return list(found)

    # Pids and start times say nothing about processes of an earlier boot: none of those is left.
    count = processes.end_all(left) if record.boot_id == processes.boot_id() else 0
    if record.temporary and Path(record.temporary).name.startswith("ilv-"):
        remove_tree(Path(record.temporary))
    return count
