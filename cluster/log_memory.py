"""Remembers, for each marketplace, the last checkpoint of its audit log that was verified here.

Without a memory, a log that was cut short or told anew looks like any other: what is remembered is held
against every later checkpoint. It lies beside the pinned keys, mode 0600, and never goes back.
"""

import base64
import json
from pathlib import Path

from cluster.client import ClientError
from cluster.private_files import alone, read_bounded, write_whole
from domain.audit.checkpoints import Checkpoint
from domain.merkle.tree import Head

MEMORY_NAME = "log-seen.json"
MEMORY_BYTES_MAX = 1_048_576  # some thousands of marketplaces


def recall(folder: Path, base_url: str) -> Checkpoint | None:
    """Return the last checkpoint of this address that was verified.

    Raises:
        ClientError: ``memory_damaged``.
    """
    return _read(folder / MEMORY_NAME).get(base_url)


def remember(folder: Path, base_url: str, checkpoint: Checkpoint) -> None:
    """Keep a checkpoint that was verified and continues the one before; a later one is not replaced.

    Raises:
        ClientError: ``memory_damaged`` or ``file_unwritable``.
    """
    path = folder / MEMORY_NAME
    with alone(path):
        memory = _read(path)
        seen = memory.get(base_url)
        if seen is None or seen.head.size <= checkpoint.head.size:
            _write(path, memory | {base_url: checkpoint})


def _read(path: Path) -> dict[str, Checkpoint]:
    if not path.exists():
        return {}
    try:
        return {
            base_url: Checkpoint(
                str(one["origin"]), Head(int(one["size"]), base64.b64decode(one["root"], validate=True))
            )
            for base_url, one in json.loads(read_bounded(path, MEMORY_BYTES_MAX)).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ClientError(
            f"{path} is damaged, so nobody knows which checkpoints were seen. Restore it; removing it gives "
            "up the protection against a log that was rewritten until the next one is seen.",
            "memory_damaged",
        ) from None


def _write(path: Path, memory: dict[str, Checkpoint]) -> None:
    document = {
        base_url: {
            "origin": one.origin,
            "size": one.head.size,
            "root": base64.b64encode(one.head.root).decode(),
        }
        for base_url, one in memory.items()
    }
    write_whole(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
