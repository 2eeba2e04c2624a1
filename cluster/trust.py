"""Which platform keys a buyer believes: a file that the buyer names, or the keys seen first.

``--trust-key FILE`` holds public keys in PEM that came from a channel the buyer trusts, and is all that
counts. Otherwise the keys that the marketplace shows at the first contact are pinned beside the buyer's
identity (trust on first use, as ``ssh`` does): whoever forges the first contact can fool the buyer, nobody
later can. A key that is not pinned is refused, never added in silence; the text says how to change that.
"""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cluster.client import ClientError
from cluster.client_documents import PlatformKey
from cluster.private_files import PRIVATE_FOLDER, read_bounded, write_whole
from domain.errors import RejectedError
from domain.signing import KeyRecord, KeyState, key_id_of
from storage.signing import keys

PINS_NAME = "platform-keys.json"
PINS_BYTES_MAX = 1_048_576
KEYS_MAX = 32  # a platform rotates a few times a year
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----")
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)  # a PEM file does not say since when its key is used


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Believed keys by id, and a sentence on why they are believed."""

    records: dict[str, KeyRecord]
    source: str

    @property
    def public_keys(self) -> dict[str, bytes]:
        """Public keys by id, of keys that still verify."""
        return {
            key_id: record.public_key
            for key_id, record in self.records.items()
            if record.state is not KeyState.COMPROMISED
        }


def from_file(path: Path) -> TrustedKeys:
    """Read one or more PEM public keys.

    Raises:
        ClientError: ``trust_key_invalid``.
    """
    blocks = _PEM.findall(read_bounded(path, PINS_BYTES_MAX))[:KEYS_MAX]
    records = {}
    for block in blocks:
        try:
            key = load_pem_public_key(block)
            if not isinstance(key, Ed25519PublicKey):
                raise ClientError(f"{path} holds a key that is not Ed25519.", "trust_key_invalid")
            record = keys.register(key.public_bytes_raw(), _ALWAYS)
        except (ValueError, UnsupportedAlgorithm, RejectedError):
            raise ClientError(f"{path} holds a public key that is not sound.", "trust_key_invalid") from None
        records[record.key_id] = record
    if not records:
        raise ClientError(
            f"{path} holds no PEM public key (-----BEGIN PUBLIC KEY-----). Ask the operator for "
            "platform.pem.",
            "trust_key_invalid",
        )
    return TrustedKeys(records, f"the key file {path} that you named")


def pinned(
    folder: Path, base_url: str, show_keys: Callable[[], Sequence[PlatformKey]] | None, now: datetime
) -> TrustedKeys:
    """Return the keys pinned for this address, pinning those shown now at the first contact.

    ``show_keys`` asks the marketplace; None means to work offline.

    Raises:
        ClientError: ``trust_unknown`` offline without pins, ``pins_damaged``, ``platform_key_invalid``.
    """
    path = folder / PINS_NAME
    pins = _read_pins(path)
    if base_url in pins:
        return TrustedKeys(_records(pins[base_url]["keys"], str(path)), f"pinned at first use in {path}")
    if show_keys is None:
        raise ClientError(
            f"No key of {base_url} is pinned in {path}. Name the platform's key with --trust-key, or go "
            "online "
            "once.",
            "trust_unknown",
        )
    shown = [
        {"public_key": key["public_key"], "state": key["state"], "not_before": key["not_before"]}
        for key in list(show_keys())[:KEYS_MAX]
        if key["state"] != "compromised"
    ]
    records = _records(shown, base_url)
    if not records:
        raise ClientError(
            f"{base_url} shows no usable signing key. Tell the operator.", "platform_key_invalid"
        )
    pins[base_url] = {"pinned_at": f"{now:%Y-%m-%dT%H:%M:%SZ}", "keys": shown}
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    write_whole(path, (json.dumps(pins, indent=2, sort_keys=True) + "\n").encode())
    return TrustedKeys(
        records, f"seen for the first time and pinned in {path} (compare it with the operator's)"
    )


def unknown_key_text(trusted: TrustedKeys) -> str:
    """Say why a signature by no believed key is refused, and what to do."""
    return (
        "no key that you trust has signed it. Either it was forged, or the platform has a new key: compare "
        "GET /v1/keys with the operator's announcement, then name the new key with --trust-key FILE. "
        f"Trusted now: {', '.join(sorted(trusted.records)) or 'none'}, {trusted.source}."
    )


def _read_pins(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        pins = json.loads(read_bounded(path, PINS_BYTES_MAX))
    except ValueError:
        pins = None
    if not isinstance(pins, dict):
        raise ClientError(
            f"{path} is damaged. Restore it, or remove it to pin the platform's keys anew.", "pins_damaged"
        )
    return pins


def _records(entries: Sequence[Any], where: str) -> dict[str, KeyRecord]:
    records = {}
    try:
        for entry in entries:
            public_key = base64.b64decode(entry["public_key"], validate=True)
            since = datetime.fromisoformat(entry["not_before"]).astimezone(UTC)
            state = KeyState.RETIRED if entry["state"] == "retired" else KeyState.ACTIVE
            records[key_id_of(public_key)] = keys.register(public_key, since, state)
    except (KeyError, TypeError, ValueError, RejectedError):
        raise ClientError(f"{where} shows a signing key that is not sound.", "platform_key_invalid") from None
    return records
