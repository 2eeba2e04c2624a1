"""Opens revocation lists and remembers, for each marketplace, the newest one that was accepted.

A list that is older than the one remembered is refused (``domain.revocations.admit``): without a memory, an
attacker between a buyer and the marketplace could replay a day-old list. The memory lies beside the pinned
keys, mode 0600, and is replaced as a whole under a lock, so that two commands at once cannot lower it.
"""

import json
from pathlib import Path

from cluster.client import ClientError
from cluster.private_files import alone, read_bounded, write_whole
from cluster.trust import TrustedKeys
from domain import revocations
from domain.errors import MarketplaceError
from domain.revocations import RevocationList, Seen
from storage.signing.keys import verify

MEMORY_NAME = "revocations-seen.json"
MEMORY_BYTES_MAX = 1_048_576  # some thousands of marketplaces


def accept(data: bytes, trusted: TrustedKeys, folder: Path, base_url: str) -> RevocationList:
    """Verify a list, refuse one that is older than what was seen of this marketplace, and remember it.

    Raises:
        ClientError: ``revocations_rolled_back``, ``revocations_forked``, ``revocations_untrusted``, the
            codes of a malformed document, ``memory_damaged`` or ``file_unwritable``.
    """
    path = folder / MEMORY_NAME
    try:
        listed = revocations.open_document(data, trusted.public_keys, verify)
        with alone(path):
            memory = _read(path)
            seen = memory.get(base_url)
            found = revocations.admit(listed, seen)
            if found != seen:
                _write(path, memory | {base_url: found})
    except MarketplaceError as error:
        raise ClientError(f"The revocation list is refused: {error.detail}", error.code) from None
    return listed


def _read(path: Path) -> dict[str, Seen]:
    if not path.exists():
        return {}
    try:
        return {
            base_url: Seen(int(one["version"]), str(one["content_sha256"]))
            for base_url, one in json.loads(read_bounded(path, MEMORY_BYTES_MAX)).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ClientError(
            f"{path} is damaged, so nobody knows which revocation lists were seen. Restore it; removing it "
            "gives up the protection against old lists until the next one is seen.",
            "memory_damaged",
        ) from None


def _write(path: Path, memory: dict[str, Seen]) -> None:
    document = {
        base_url: {"version": seen.version, "content_sha256": seen.content_sha256}
        for base_url, seen in memory.items()
    }
    write_whole(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
