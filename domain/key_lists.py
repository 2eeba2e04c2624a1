"""Key lists: which public keys are the platform's, in what state, and which of them signs.

A list is a DSSE envelope by an offline root, so that whoever steals the signer cannot name its successor.
It is versioned, it expires, and a later list may only add keys or take trust away: no key is forgotten,
revived or dated anew. A new key is listed before it signs, so verifiers know it by then.

Decides what a sound list is, what may follow it, and how each step of a key's life changes it. Refuses
every text that differs in a byte from what the root signed. The root itself is known from elsewhere
(``storage.market.signing_keys``, a buyer's file); a new root is a new beginning.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from domain import canonical_json, strict_json
from domain.document_fields import closed_object, format_time, integer_field, time_field, token_field
from domain.dsse import Envelope, Signature, decode_base64, pae
from domain.errors import ConflictError, RejectedError
from domain.merkle.tree import HASH_BYTES, SIZE_MAX, Head
from domain.signing import ALGORITHM, KeyRecord, KeyState, Signer, Verifier, key_id_of
from domain.strict_json import DocumentError

PAYLOAD_TYPE = "application/vnd.illuvrse.key-list.v1+json"
KEYS_MAX = 64  # a platform rotates a few times a year, and perpetual licences need every key for ever
LIST_BYTES_MAX = 32_768  # 64 keys of 200 bytes, in base64
PAYLOAD_BYTES_MAX = 16_384
LIFE_DEFAULT = timedelta(days=90)
LIFE_MAX = timedelta(days=400)  # a verifier learns of a compromise at the latest then
_MEMBERS = frozenset({"version", "issued_at", "expires_at", "signs", "keys"})
_KEY = frozenset({"key_id", "public_key", "algorithm", "state", "not_before", "compromised_at"})
_LOG = frozenset({"size", "root"})
_TRUST = (KeyState.ACTIVE, KeyState.RETIRED, KeyState.COMPROMISED)  # it only ever falls


@dataclass(frozen=True, slots=True)
class KeyList:
    """One version. Times are UTC in whole seconds; ``signs`` is an active key's id, or None: nobody signs."""

    version: int
    issued_at: datetime
    expires_at: datetime
    signs: str | None
    keys: tuple[KeyRecord, ...]

    def find(self, key_id: str) -> KeyRecord | None:
        """Return a key's record."""
        return next((key for key in self.keys if key.key_id == key_id), None)


EMPTY_AT = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
EMPTY = KeyList(0, EMPTY_AT, EMPTY_AT, None, ())
"""What the first list follows: no key, version 0."""


def build(listed: KeyList) -> bytes:
    """Return the payload to sign: equal lists give equal bytes.

    Raises:
        DocumentError: for a list that ``parse`` would refuse; such a thing is never signed.
    """
    payload = canonical_json.dumps(
        {
            "version": listed.version,
            "issued_at": format_time(listed.issued_at),
            "expires_at": format_time(listed.expires_at),
            "signs": listed.signs,
            "keys": [_key_json(key) for key in listed.keys],
        }
    )
    if parse(payload) != listed:
        raise DocumentError("key_list_invalid", "A key list has whole seconds of UTC.")
    return payload


def parse(payload: bytes) -> KeyList:
    """Read a list's payload. Says nothing about who signed it.

    Raises:
        DocumentError: the codes of ``strict_json.loads`` and ``domain.document_fields``, or
            ``key_list_invalid``.
    """
    members = closed_object(strict_json.loads(payload, max_bytes=PAYLOAD_BYTES_MAX), "The key list", _MEMBERS)
    entries = members["keys"]
    if not isinstance(entries, list) or not 1 <= len(entries) <= KEYS_MAX:
        raise _invalid(f"A key list has 1 to {KEYS_MAX} keys.")
    keys = tuple(_parse_key(entry) for entry in entries)
    listed = KeyList(
        version=integer_field(members, "version", 1),
        issued_at=time_field(members, "issued_at"),
        expires_at=time_field(members, "expires_at"),
        signs=None if members["signs"] is None else token_field(members, "signs"),
        keys=keys,
    )
    if len({key.key_id for key in keys}) != len(keys):
        raise _invalid("A key is listed twice.")
    if not listed.issued_at < listed.expires_at <= listed.issued_at + LIFE_MAX:
        raise _invalid(f"A key list expires after its issue, and within {LIFE_MAX.days} days of it.")
    if listed.signs is not None:
        signing = listed.find(listed.signs)
        if signing is None or signing.state is not KeyState.ACTIVE:
            raise _invalid("The key that signs must be a listed, active key.")
    return listed


def sign(listed: KeyList, root: Signer) -> str:
    """Return the signed list's text.

    Raises:
        DocumentError: see ``build``, and ``key_list_invalid`` for a list that would mislead; or whatever the
            root's signer raises.
    """
    payload = build(listed)
    if listed.find(root.key_id) is not None:
        raise _invalid("The root signs lists and nothing else: its own key is no signing key.")
    signing = None if listed.signs is None else listed.find(listed.signs)
    if signing is not None and signing.not_before > listed.issued_at:
        raise _invalid(f"{signing.key_id} cannot sign before its time, {format_time(signing.not_before)}.")
    (signature,) = root.sign_many([pae(PAYLOAD_TYPE, payload)])
    return Envelope(PAYLOAD_TYPE, payload, (Signature(root.key_id, signature),)).dumps()


def open_list(text: str, root: bytes, verify: Verifier) -> KeyList:
    """Verify a signed list against the root's 32-byte public key and read it.

    Raises:
        DocumentError: ``key_list_untrusted``, another key signed or a byte differs; ``payload_type_wrong``;
            or the codes of ``Envelope.parse`` and ``parse``.
    """
    envelope = Envelope.parse(text, max_bytes=LIST_BYTES_MAX)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise DocumentError("payload_type_wrong", f"The payload type of a key list is {PAYLOAD_TYPE}.")
    if len(envelope.signatures) != 1 or envelope.dumps() != text:
        raise _invalid("This is not a key list as a root signs it.")
    # The id is a hint and not signed; but a list is refused for any byte that differs.
    if envelope.signatures[0].key_id != key_id_of(root) or not verify(
        root, pae(PAYLOAD_TYPE, envelope.payload), envelope.signatures[0].sig
    ):
        raise DocumentError("key_list_untrusted", "The key list was altered, or another root signed it.")
    return parse(envelope.payload)


def require_successor(old: KeyList, new: KeyList) -> None:
    """Check that ``new`` may follow ``old``.

    Raises:
        ConflictError: ``key_list_not_newer``, a rollback or a repetition.
        RejectedError: ``key_list_refused``, it forgets, revives or redates a key.
    """
    if new.version <= old.version:
        raise ConflictError(
            "key_list_not_newer",
            f"Version {new.version} does not follow {old.version}. Fetch the current list and start from it.",
        )
    for before in old.keys:
        after = new.find(before.key_id)
        if after is None:
            raise _refused(f"It forgets {before.key_id}; what that key signed could not be verified.")
        if _TRUST.index(after.state) < _TRUST.index(before.state):
            raise _refused(f"It revives {before.key_id}, which is {before.state}.")
        if after.not_before != before.not_before:
            raise _refused(f"It dates {before.key_id} anew.")
        if (
            before.compromised_at is not None
            and after.compromised_at is not None
            and after.compromised_at > before.compromised_at
        ):
            raise _refused(f"It declares {before.key_id} compromised later than before.")
        if before.log is not None and (
            after.log is None
            or after.log.size > before.log.size
            or (after.log.size == before.log.size and after.log != before.log)
        ):
            raise _refused(f"It believes more of {before.key_id} than before: the log's head was another.")


def add(listed: KeyList, key: KeyRecord) -> KeyList:
    """List a new key: it verifies from now on, and does not sign yet.

    Raises:
        ConflictError: ``key_listed`` or ``key_list_full``.
    """
    if listed.find(key.key_id) is not None:
        raise ConflictError("key_listed", f"{key.key_id} is listed already.")
    if len(listed.keys) >= KEYS_MAX:
        raise ConflictError("key_list_full", f"A list has at most {KEYS_MAX} keys.")
    return replace(listed, keys=(*listed.keys, key))


def activate(listed: KeyList, key_id: str) -> KeyList:
    """Have a listed, active key sign.

    Raises:
        RejectedError: ``key_unlisted`` or ``key_not_active``.
    """
    key = _listed(listed, key_id)
    if key.state is not KeyState.ACTIVE:
        raise RejectedError("key_not_active", f"{key_id} is {key.state} and never signs again.")
    return replace(listed, signs=key_id)


def retire(listed: KeyList, key_id: str) -> KeyList:
    """End a key's signing; what it signed stays valid.

    Raises:
        RejectedError: ``key_unlisted``, ``key_not_active`` or ``key_signs``, activate another one before.
    """
    key = _listed(listed, key_id)
    if listed.signs == key_id:
        raise RejectedError("key_signs", f"{key_id} signs now. Activate another key before it retires.")
    if key.state is not KeyState.ACTIVE:
        raise RejectedError("key_not_active", f"{key_id} is {key.state}.")
    return _replaced(listed, replace(key, state=KeyState.RETIRED))


def compromise(listed: KeyList, key_id: str, since: datetime, log: Head | None = None) -> KeyList:
    """Take trust away from what a key signed since ``since``; if it signs now, nobody does afterwards.

    ``log`` is the audit log's head as of the last checkpoint before ``since``: what is in that tree stays
    valid. A key that was declared compromised before keeps the earlier time and the shorter tree.

    Raises:
        RejectedError: ``key_unlisted``.
    """
    key = _listed(listed, key_id)
    earliest = since if key.compromised_at is None else min(since, key.compromised_at)
    heads = [head for head in (log, key.log) if head is not None]
    shortest = min(heads, key=lambda head: head.size) if heads else None
    changed = _replaced(
        listed,
        replace(
            key,
            state=KeyState.COMPROMISED,
            compromised_at=earliest.replace(microsecond=0),
            log=shortest,
        ),
    )
    return replace(changed, signs=None if changed.signs == key_id else changed.signs)


def reissue(listed: KeyList, now: datetime, life: timedelta = LIFE_DEFAULT) -> KeyList:
    """Return the next version, issued now."""
    issued_at = now.replace(microsecond=0)
    return replace(listed, version=listed.version + 1, issued_at=issued_at, expires_at=issued_at + life)


def _listed(listed: KeyList, key_id: str) -> KeyRecord:
    key = listed.find(key_id)
    if key is None:
        raise RejectedError("key_unlisted", f"{key_id} is not on the list.")
    return key


def _replaced(listed: KeyList, key: KeyRecord) -> KeyList:
    return replace(listed, keys=tuple(key if one.key_id == key.key_id else one for one in listed.keys))


def _key_json(key: KeyRecord) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "public_key": base64.b64encode(key.public_key).decode(),
        "algorithm": key.algorithm,
        "state": key.state.value,
        "not_before": format_time(key.not_before),
        "compromised_at": None if key.compromised_at is None else format_time(key.compromised_at),
    } | log_json(key.log)


def log_json(log: Head | None) -> dict[str, Any]:
    """Write a key's head of the log as a member; none where there is none, as before the log existed."""
    return {} if log is None else {"log": {"size": log.size, "root": base64.b64encode(log.root).decode()}}


def read_log(members: dict[str, Any]) -> Head | None:
    """Read the member that ``log_json`` writes.

    Raises:
        DocumentError: the codes of ``domain.document_fields``, ``base64_invalid`` or ``field_invalid``.
    """
    if "log" not in members:
        return None
    log = closed_object(members["log"], "A key's log", _LOG)
    root = decode_base64(log["root"], "root")
    if len(root) != HASH_BYTES:
        raise DocumentError("field_invalid", f"The root of a log has {HASH_BYTES} bytes.")
    return Head(integer_field(log, "size", 0, SIZE_MAX), root)


def _parse_key(entry: object) -> KeyRecord:
    members = closed_object(entry, "A listed key", _KEY, frozenset({"log"}))
    if members["algorithm"] != ALGORITHM or members["state"] not in list(KeyState):
        raise _invalid("A listed key has an algorithm or a state that is not known here.")
    try:
        return KeyRecord(
            key_id=token_field(members, "key_id"),
            public_key=decode_base64(members["public_key"], "public_key"),
            state=KeyState(members["state"]),
            not_before=time_field(members, "not_before"),
            compromised_at=None
            if members["compromised_at"] is None
            else time_field(members, "compromised_at"),
            log=read_log(members),
        )
    except ValueError as error:
        raise _invalid(f"A listed key is not sound: {error}.") from None


def newest_first(keys: Sequence[KeyRecord]) -> list[KeyRecord]:
    """Order keys as people look for them."""
    return sorted(sorted(keys, key=lambda key: key.key_id), key=lambda key: key.not_before, reverse=True)


def _invalid(detail: str) -> DocumentError:
    return DocumentError("key_list_invalid", detail)


def _refused(detail: str) -> RejectedError:
    return RejectedError("key_list_refused", detail)
