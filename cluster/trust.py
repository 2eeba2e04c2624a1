"""Which platform keys a buyer believes: a file that the buyer names, a root's list, or the keys seen first.

``--trust-key FILE`` holds public keys in PEM that came from a channel the buyer trusts, and is all that
counts. ``--trust-root FILE`` holds the public key of the platform's offline root: the key list that it has
signed is believed, and newer lists take its place, so keys may rotate without anybody's doing.
Otherwise what the marketplace shows at the first contact is pinned beside the buyer's identity (trust on
first use, as ``ssh`` does): its root if it has one, else its keys. Whoever forges the first contact can fool
the buyer, nobody later can. What is not pinned is refused, never added in silence; the text says how to
change that.
An older list than the one pinned is refused: somebody may want a compromised key to be believed again.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cluster.client import ClientError
from cluster.client_documents import PlatformKey, SignedKeyList
from cluster.private_files import alone, read_bounded, read_memory, write_whole
from domain import canonical_json, key_lists, strict_json
from domain.errors import MarketplaceError, RejectedError
from domain.key_lists import KeyList
from domain.signing import KeyRecord, KeyState, key_id_of
from domain.strict_json import DocumentError
from storage.signing import keys

PINS_NAME = "platform-keys.json"
PINS_BYTES_MAX = 1_048_576
KEYS_MAX = key_lists.KEYS_MAX  # more is no platform's; refused and never cut, or a key would be forgotten
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----")
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)  # a PEM file does not say since when its key is used


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Believed keys by id, and words on why they are believed."""

    records: dict[str, KeyRecord]
    source: str
    listed: KeyList | None = None  # the root's list that says so

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
    blocks = _PEM.findall(read_bounded(path, PINS_BYTES_MAX))
    if len(blocks) > KEYS_MAX:
        raise ClientError(f"{path} holds more than {KEYS_MAX} keys.", "trust_key_invalid")
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


class Shows(Protocol):
    """What a marketplace shows of its keys; ``cluster.client.MarketplaceClient``."""

    def platform_keys(self) -> Sequence[PlatformKey]:
        """Return its keys."""

    def key_list(self) -> SignedKeyList | None:
        """Return its signed key list, if it has one."""


def root_from_file(path: Path) -> bytes:
    """Read the root's public key, one PEM block.

    Raises:
        ClientError: ``trust_key_invalid``.
    """
    (record, *more) = from_file(path).records.values()
    if more:
        raise ClientError(f"{path} holds several keys; a root is one.", "trust_key_invalid")
    return record.public_key


def chosen(
    trust_key: Path | None,
    trust_root: Path | None,
    folder: Path,
    base_url: str,
    shows: Shows | None,
    now: datetime,
) -> TrustedKeys:
    """Return the keys that the user names, else those of the root named or pinned; see ``pinned``."""
    if trust_key:
        return from_file(trust_key)
    root = root_from_file(trust_root) if trust_root else None
    return pinned(folder, base_url, shows, now, root)


def pinned(
    folder: Path, base_url: str, shows: Shows | None, now: datetime, root: bytes | None = None
) -> TrustedKeys:
    """Return the keys believed of this address, pinning what it shows at the first contact.

    ``shows`` asks the marketplace; None means to work offline. ``root`` is a root that the buyer names.

    Raises:
        ClientError: ``trust_unknown`` offline without pins, ``pins_damaged``, ``platform_key_invalid``,
            ``key_list_untrusted`` or ``key_list_rollback``.
    """
    path = folder / PINS_NAME
    entry = _read_pins(path).get(base_url)
    if entry is not None and "root" not in entry and root is None:
        return TrustedKeys(_records(entry["keys"], str(path)), f"pinned at first use in {path}")
    if shows is None and (entry is None or "key_list" not in entry):
        raise ClientError(
            f"No key of {base_url} is pinned in {path}. Name the platform's key with --trust-key, or go "
            "online once.",
            "trust_unknown",
        )
    shown = None if shows is None else shows.key_list()
    with alone(path):  # what another command has pinned meanwhile counts, and is never lowered
        pins = _read_pins(path)
        if shown is None and root is None and "root" not in pins.get(base_url, {}):
            assert shows is not None, "offline without pins was refused above"
            return _pin_keys(path, pins, base_url, shows.platform_keys(), now)
        return _pin_list(path, pins, base_url, shown, now, root)


def _pin_list(
    path: Path,
    pins: dict[str, Any],
    base_url: str,
    shown: SignedKeyList | None,
    now: datetime,
    root: bytes | None,
) -> TrustedKeys:
    """Believe the newest list of the root that was named, else of the pinned one, else of the one shown."""
    entry = pins.get(base_url)
    trusted_root = root or _pinned_root(entry, path)
    source = "the root that you named" if root is not None else f"the root pinned at first use in {path}"
    if trusted_root is None:
        assert shown is not None, "without a list there is no root to be seen"
        trusted_root = _decoded(shown["root_public_key"], base_url)
        source = (
            f"the root seen for the first time and pinned in {path} (compare {key_id_of(trusted_root)} with "
            "the operator's)"
        )
    same_root = entry is not None and _pinned_root(entry, path) == trusted_root
    held = entry["key_list"] if same_root and entry is not None else None
    listed, text = _newest(trusted_root, held, shown, base_url)
    pins[base_url] = {
        "pinned_at": entry["pinned_at"] if entry is not None else f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "root": base64.b64encode(trusted_root).decode(),
        "key_list": text,
    }
    if pins[base_url] != entry:
        _write_pins(path, pins)
    records = {key.key_id: key for key in listed.keys}
    return TrustedKeys(records, f"on version {listed.version} of the key list of {source}", listed)


def _newest(root: bytes, held: str | None, shown: SignedKeyList | None, where: str) -> tuple[KeyList, str]:
    """Return the newer of the list that is held and the one that is shown, with its text."""
    before = None if held is None else _open(held, root, "The pinned key list")
    if shown is None:
        if before is None or held is None:
            raise ClientError(f"{where} shows no key list for your root.", "key_list_untrusted")
        return before, held
    try:
        text = canonical_json.dumps(shown["envelope"]).decode()
    except ValueError:
        raise ClientError(f"{where} shows no sound key list.", "key_list_untrusted") from None
    after = _open(text, root, f"The key list of {where}")
    if before is None or text == held:
        return after, text
    try:
        key_lists.require_successor(before, after)
    except MarketplaceError as refused:
        raise ClientError(
            f"{where} shows version {after.version} of its key list, and you hold {before.version}. "
            f"{refused.detail} Tell the operator; somebody may be replaying an old list.",
            "key_list_rollback",
        ) from None
    return after, text


def _open(text: str, root: bytes, what: str) -> KeyList:
    try:
        listed = key_lists.open_list(text, root, keys.verify)
        for key in listed.keys:
            keys.register(key.public_key, key.not_before)
    except MarketplaceError as refused:
        raise ClientError(
            f"{what} is not to be trusted: {refused.detail} If the platform has a new root, compare it with "
            "the operator's announcement and name it with --trust-root FILE.",
            "key_list_untrusted",
        ) from None
    return listed


def _pinned_root(entry: dict[str, Any] | None, path: Path) -> bytes | None:
    return None if entry is None or "root" not in entry else _decoded(entry["root"], str(path))


def _decoded(text: object, where: str) -> bytes:
    try:
        return keys.register(base64.b64decode(str(text), validate=True), _ALWAYS).public_key
    except (ValueError, RejectedError):
        raise ClientError(f"{where} shows a root that is not sound.", "platform_key_invalid") from None


def _pin_keys(
    path: Path, pins: dict[str, Any], base_url: str, shows: Sequence[PlatformKey], now: datetime
) -> TrustedKeys:
    shown = [
        {"public_key": key["public_key"], "state": key["state"], "not_before": key["not_before"]}
        for key in list(shows)[:KEYS_MAX]
        if key["state"] != "compromised"
    ]
    records = _records(shown, base_url)
    if not records:
        raise ClientError(
            f"{base_url} shows no usable signing key. Tell the operator.", "platform_key_invalid"
        )
    pins[base_url] = {"pinned_at": f"{now:%Y-%m-%dT%H:%M:%SZ}", "keys": shown}
    _write_pins(path, pins)
    return TrustedKeys(
        records, f"seen for the first time and pinned in {path} (compare it with the operator's)"
    )


def _write_pins(path: Path, pins: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(pins, indent=2, sort_keys=True) + "\n").encode())


def unknown_key_text(trusted: TrustedKeys) -> str:
    """Say why a signature by no believed key is refused, and what to do."""
    return (
        "no key that you trust has signed it. Either it was forged, or the platform has a new key: compare "
        "GET /v1/keys with the operator's announcement, then name the new key with --trust-key FILE, or "
        "better its root with --trust-root FILE. "
        f"Trusted now: {', '.join(sorted(trusted.records)) or 'none'}, {trusted.source}."
    )


def _read_pins(path: Path) -> dict[str, dict[str, Any]]:
    data = read_memory(path, PINS_BYTES_MAX)
    if data is None:
        return {}
    try:
        pins = strict_json.loads(data, max_bytes=PINS_BYTES_MAX)
    except DocumentError:
        pins = None
    if not isinstance(pins, dict) or not all(_is_pin(entry) for entry in pins.values()):
        raise ClientError(
            f"{path} is damaged. Restore it, or remove it to pin the platform's keys anew.", "pins_damaged"
        )
    return pins


def _is_pin(entry: Any) -> bool:
    """Whether an entry has one of the two forms: keys, or a root with its list."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("pinned_at"), str)
        and (
            (entry.keys() == {"pinned_at", "keys"} and isinstance(entry["keys"], list))
            or (
                entry.keys() == {"pinned_at", "root", "key_list"}
                and isinstance(entry["root"], str)
                and isinstance(entry["key_list"], str)
            )
        )
    )


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
