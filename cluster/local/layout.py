"""Where a marketplace on one machine keeps its files.

Everything lies in ``var/`` below the home directory (the checkout, or ``MARKETPLACE_HOME``), with two
exceptions that the state file records: Postgres' data and programs when the unprivileged user that
must run it cannot reach ``var/`` (a checkout below ``/root``), and a short directory under the system's
temporary directory, because a unix socket's path ends at 107 bytes.
Refuses to change the mode of any directory that it did not make.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.local.failures import PreflightError

TEMP_ROOT_CHARS_MAX = 24  # the rest of Ray's socket path needs some 75 of the 107
PRIVATE_DIR, PASSABLE_DIR, PRIVATE_FILE = 0o700, 0o711, 0o600


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one home directory; nothing is created by naming them."""

    home: Path

    @property
    def var(self) -> Path:
        """Everything that the local parts write."""
        return self.home / "var"

    @property
    def log(self) -> Path:
        """One log per part."""
        return self.var / "log"

    @property
    def run(self) -> Path:
        """What is valid while a launcher runs."""
        return self.var / "run"

    @property
    def data(self) -> Path:
        """The parts' data."""
        return self.var / "data"

    @property
    def keys(self) -> Path:
        """Credentials and keys, kept between runs."""
        return self.var / "keys"

    @property
    def local_json(self) -> Path:
        """The contract with outside tools: addresses and credentials of the running stack."""
        return self.var / "local.json"

    @property
    def settings_json(self) -> Path:
        """What the Serve application is told."""
        return self.run / "settings.json"

    @property
    def state_json(self) -> Path:
        """The launcher's own record of a run."""
        return self.run / "stack.json"

    @property
    def lock(self) -> Path:
        """Held by the launcher as long as it runs."""
        return self.run / "lock"

    @property
    def credentials_json(self) -> Path:
        """Generated passwords, tokens and remembered ports."""
        return self.keys / "local-credentials.json"

    @property
    def signing_key(self) -> Path:
        """The development signing key."""
        return self.keys / "dev-signing.json"

    @property
    def finance_certificates(self) -> Path:
        """The development CA and the certificates of Finance and of its callers."""
        return self.keys / "finance-tls"

    @property
    def ray_token(self) -> Path:
        """The token that Ray's processes ask of each other."""
        return self.keys / "ray-token"

    @property
    def outside(self) -> Path:
        """The directory used when ``var/`` is out of reach for Postgres' user; one per home and user."""
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path("/var/tmp") / f"illuvrse-{digest}-{os.getuid()}"  # noqa: S108 - must outlive a reboot; owner and mode are checked

    def create(self) -> None:
        """Make the directories of ``var/``.

        Raises:
            PreflightError: when they cannot be made or written.
        """
        try:
            for folder, mode in (
                (self.var, PASSABLE_DIR),  # passable: Postgres' own user must get through to its data
                (self.data, PASSABLE_DIR),
                (self.log, PRIVATE_DIR),
                (self.run, PRIVATE_DIR),
                (self.keys, PRIVATE_DIR),
            ):
                folder.mkdir(mode=mode, parents=True, exist_ok=True)
                folder.chmod(mode)
            write_private(self.run / "write-test", "")
            (self.run / "write-test").unlink()
        except OSError as error:
            raise PreflightError(
                f"Cannot write below {self.var}: {error.strerror or error}. Free some space or make the "
                "directory writable for this user, or set MARKETPLACE_HOME to another directory."
            ) from error


def default_home() -> Path:
    """``MARKETPLACE_HOME`` if set, else the checkout that this code lies in."""
    chosen = os.environ.get("MARKETPLACE_HOME")
    return Path(chosen).resolve() if chosen else Path(__file__).resolve().parents[2]


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` atomically by a file that only this user can read."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Any) -> None:
    """``write_private`` of a JSON document."""
    write_private(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an absent or torn file reads as empty."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def make_temporary() -> Path:
    """Make the run's short private directory and return it."""
    root = Path(tempfile.gettempdir())
    if len(os.fsencode(root)) > TEMP_ROOT_CHARS_MAX:
        root = Path("/tmp")  # noqa: S108 - mkdtemp below makes a private directory with a random name
    return Path(tempfile.mkdtemp(prefix="ilv-", dir=root))


def remove_tree(path: Path) -> None:
    """Remove a directory of ours as far as possible; what resists is left."""
    shutil.rmtree(path, ignore_errors=True)
