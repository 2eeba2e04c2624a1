"""Opens revocation lists and remembers the newest one that was accepted of each platform.

A list that is older than the one remembered is refused (``domain.revocations.admit``): without a memory, an
attacker between a buyer and the marketplace could replay a day-old list. A platform is known by its keys: by
whatever address a list came, or by none, it is compared with the newest that any key believed here has
signed. What a key signed that is compromised since counts no more: a thief's list of a huge version would
otherwise have every true one refused. The memory lies beside the pinned keys, mode 0600, and is replaced as a
whole under a lock, so that two commands at once cannot lower it.
"""

import json
from pathlib import Path

from cluster.client import ClientError
from cluster.private_files import alone, read_memory, write_whole
from cluster.trust import TrustedKeys
from domain import revocations, strict_json
from domain.document_fields import closed_object, integer_field, sha256_field
from domain.errors import MarketplaceError
from domain.revocations import RevocationList, Seen
from domain.strict_json import DocumentError
from storage.signing.keys import verify

MEMORY_NAME = "revocations-seen.json"
MEMORY_BYTES_MAX = 1_048_576  # some thousands of keys
_ENTRY = frozenset({"version", "content_sha256"})


def accept(data: bytes, trusted: TrustedKeys, folder: Path, base_url: str) -> RevocationList:
    """Verify a list, refuse one that is older than what was seen of this platform, and remember it.

    ``base_url`` is looked up as well: entries used to be kept by address.

    Raises:
        ClientError: ``revocations_rolled_back``, ``revocations_forked``, ``revocations_untrusted``, the
            codes of a malformed document, ``memory_damaged``, ``memory_exposed`` or ``file_unwritable``.
    """
    path = folder / MEMORY_NAME
    try:
        key_id, listed = revocations.open_signed(data, trusted.public_keys, verify)
        with alone(path):
            memory = _read(path)
            known = [memory[name] for name in (base_url, *trusted.public_keys) if name in memory]
            found = revocations.admit(listed, max(known, key=lambda one: one.version, default=None))
            if found != memory.get(key_id):
                _write(path, memory | {key_id: found})
    except MarketplaceError as error:
        raise ClientError(f"The revocation list is refused: {error.detail}", error.code) from None
    return listed


def unbelieved(data: bytes, licence_id: str) -> str:
    """Say what a list that was refused says of a licence: to be followed up, not to be relied on."""
    try:
        _, listed = revocations.read_document(data)
    except DocumentError:
        return "Nothing in it can be read."
    if licence_id in listed.revoked:
        said = "it names this licence as revoked"
    elif licence_id in listed.suspended:
        said = "it names this licence as suspended"
    else:
        said = "it does not name this licence"
    until = f"{listed.expires_at:%Y-%m-%d %H:%M} UTC"
    return f"Unbelieved, it is version {listed.version}, good until {until}, and {said}."


def _read(path: Path) -> dict[str, Seen]:
    data = read_memory(path, MEMORY_BYTES_MAX)
    if data is None:
        return {}
    try:
        memory = strict_json.loads(data, max_bytes=MEMORY_BYTES_MAX)
        return {name: _seen(entry) for name, entry in memory.items()}
    except (DocumentError, AttributeError):  # no sound JSON, or no object
        raise ClientError(
            f"{path} is damaged, so nobody knows which revocation lists were seen. Restore it; removing it "
            "gives up the protection against old lists until the next one is seen.",
            "memory_damaged",
        ) from None


def _seen(entry: object) -> Seen:
    members = closed_object(entry, "What was seen", _ENTRY)
    return Seen(integer_field(members, "version", 1), sha256_field(members, "content_sha256"))


def _write(path: Path, memory: dict[str, Seen]) -> None:
    document = {
        name: {"version": seen.version, "content_sha256": seen.content_sha256}
        for name, seen in memory.items()
    }
    write_whole(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
