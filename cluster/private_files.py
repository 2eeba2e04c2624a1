"""Files that must be whole or absent, and secrets that nobody else may read.

A result is written beside its final place under a random name, synced, and moved once the caller is
satisfied; whatever goes wrong before leaves nothing behind. Refuses to overwrite a secret.
"""

import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cluster.client import ClientError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


@contextmanager
def whole_file(path: Path, mode: int = PRIVATE_FILE) -> Iterator[IO[bytes]]:
    """Open a temporary file that becomes ``path`` when the block ends well, and vanishes otherwise.

    Raises:
        ClientError: ``file_unwritable``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, mode: int = PRIVATE_FILE) -> None:
    """Write a small file so that it is whole or absent; an older version is replaced."""
    with whole_file(path, mode) as file:
        file.write(data)


def create_secret(path: Path, text: str) -> None:
    """Write a new secret with mode 0600.

    Raises:
        ClientError: ``file_exists``, because a key that is overwritten is lost; ``file_unwritable``.
    """
    try:
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".key-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename, a link never replaces
        finally:
            Path(temporary).unlink()
    except FileExistsError:
        raise ClientError(
            f"{path} exists already, and a key is never overwritten. Choose another file with --out.",
            "file_exists",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """Read a small file.

    Raises:
        ClientError: ``file_unreadable`` or ``file_too_large``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}.", "file_unreadable") from error
    if len(data) > bytes_max:
        raise ClientError(f"{path} is larger than the {bytes_max} bytes expected here.", "file_too_large")
    return data


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file that is read, changed and written back; makes its folder.

    Raises:
        ClientError: ``file_unwritable``.
    """
    try:
        path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("ab")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_memory(path: Path, bytes_max: int) -> bytes | None:
    """Read what an earlier command remembered; None where there is nothing.

    Raises:
        ClientError: ``memory_exposed``, others may have written it; ``file_unreadable``, ``file_too_large``.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}.", "file_unreadable") from error
    # As ssh does with its known hosts: whoever can write this file decides what is believed.
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ClientError(
            f"{path} can be changed by others, so it is not believed. Compare it with the operator's word, "
            "then keep it to yourself: chmod 600.",
            "memory_exposed",
        )
    return read_bounded(path, bytes_max)


def make_folder(path: Path) -> None:
    """Make a folder; raises ClientError ``file_unwritable``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ClientError:
    return ClientError(
        f"{path} cannot be written: {error.strerror or error}. Nothing was left behind; free some space or "
        "choose another place.",
        "file_unwritable",
    )
