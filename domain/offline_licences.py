"""The offline licence file: a licence and all that is needed to judge it without a network, for a day.

It holds the licence's envelope, the revocation list of the moment and the platform's keys as they stood,
under one more signature of the platform over the digests of the three: no byte can be changed and no part
replaced by an older one. It ends with its revocation list; later it is *stale*.

Where the key that signed the licence is compromised, the file also carries the proof that the licence was in
the audit log before; it leads to the root that the reader's key list names, so nobody has to be believed.

The keys inside are told, not trusted: a reader believes the keys that it had before, and the file can only
take trust away (a key that was compromised since). Armoured text, read only as it was written.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from domain import canonical_json, revocations, strict_json
from domain.audit.proofs import LogProof, proof_json, read_proof
from domain.document_fields import closed_object, format_time, sha256_field, text_field, time_field
from domain.dsse import decode_base64
from domain.errors import RejectedError
from domain.key_lists import log_json, read_log
from domain.licences import ARMOUR_COLUMNS
from domain.platform_documents import named_key_signed, open_exactly
from domain.revocations import RevocationList
from domain.signing import KeyRecord, KeyState, Verifier
from domain.strict_json import DocumentError

PAYLOAD_TYPE = "application/vnd.illuvrse.offline-licence.v1+json"
ARMOUR_BEGIN = "-----BEGIN ILLUVRSE OFFLINE LICENCE-----"
ARMOUR_END = "-----END ILLUVRSE OFFLINE LICENCE-----"
FILE_BYTES_MAX = 12 * 1024 * 1024  # the longest revocation list in base64
KEYS_MAX = 64
PROOF_BYTES_MAX = 8_192  # 64 hashes in base64
_FILE = frozenset({"envelope", "licence", "revocations", "keys"})
_SEAL = frozenset({"licence_sha256", "revocations_sha256", "keys_sha256", "issued_at", "expires_at"})
_PROOF = frozenset({"log_proof"})
_KEY = frozenset({"key_id", "public_key", "algorithm", "state", "not_before", "compromised_at"})


@dataclass(frozen=True, slots=True)
class OfflineSeal:
    """What the platform signs of a file: digests (lower-case hexadecimal) and times (UTC, whole seconds)."""

    licence_sha256: str
    revocations_sha256: str
    keys_sha256: str
    issued_at: datetime
    expires_at: datetime
    log_proof_sha256: str | None = None

    def payload(self) -> bytes:
        """Return the payload to sign."""
        return canonical_json.dumps(
            {
                "licence_sha256": self.licence_sha256,
                "revocations_sha256": self.revocations_sha256,
                "keys_sha256": self.keys_sha256,
                "issued_at": format_time(self.issued_at),
                "expires_at": format_time(self.expires_at),
            }
            | ({} if self.log_proof_sha256 is None else {"log_proof_sha256": self.log_proof_sha256})
        )


@dataclass(frozen=True, slots=True)
class OfflineLicence:
    """A file that was opened: the licence's envelope, the verified list, the keys, and when it ends."""

    licence: str
    listed: RevocationList
    keys: Mapping[str, KeyRecord]
    issued_at: datetime
    expires_at: datetime
    revocations: bytes
    log_proof: LogProof | None = None


def seal_of(
    licence: str,
    revocation_list: bytes,
    keys: Sequence[KeyRecord],
    now: datetime,
    log_proof: LogProof | None = None,
) -> OfflineSeal:
    """Return what is to be signed for these parts; the file ends with its list."""
    expires_at = strict_json.loads(revocation_list, max_bytes=revocations.DOCUMENT_BYTES_MAX)["expires_at"]
    return OfflineSeal(
        _sha256(licence.encode()),
        _sha256(revocation_list),
        _sha256(_keys_text(keys)),
        now.replace(microsecond=0),
        datetime.fromisoformat(expires_at),
        None if log_proof is None else _sha256(_proof_text(log_proof)),
    )


def write(
    envelope: str,
    licence: str,
    revocation_list: bytes,
    keys: Sequence[KeyRecord],
    log_proof: LogProof | None = None,
) -> str:
    """Return the armoured file; ``envelope`` signs ``seal_of`` the same parts."""
    members = {
        "envelope": envelope,
        "licence": licence,
        "revocations": revocation_list.decode(),
        "keys": _keys_text(keys).decode(),
    }
    if log_proof is not None:
        members["log_proof"] = _proof_text(log_proof).decode()
    text = base64.b64encode(canonical_json.dumps(members)).decode()
    lines = [text[start : start + ARMOUR_COLUMNS] for start in range(0, len(text), ARMOUR_COLUMNS)]
    return "\n".join((ARMOUR_BEGIN, *lines, ARMOUR_END, ""))


def is_offline_licence(text: str) -> bool:
    """Whether a text says that it is such a file, and not a bare licence."""
    return text.lstrip().startswith(ARMOUR_BEGIN)


def open_file(text: str, trusted: Mapping[str, KeyRecord], verify: Verifier) -> OfflineLicence:
    """Read a file that a trusted key has sealed; ``trusted`` are the keys that the reader believed before.

    Raises:
        DocumentError: ``armour_invalid``, ``offline_licence_invalid``, and the codes of the documents inside.
        RejectedError: ``offline_licence_untrusted``, ``revocations_untrusted``.
    """
    members = closed_object(
        strict_json.loads(_unarmoured(text), max_bytes=FILE_BYTES_MAX), "The offline licence", _FILE, _PROOF
    )
    parts = {name: text_field(members, name, FILE_BYTES_MAX) for name in sorted(members)}
    seal = open_exactly(parts["envelope"], PAYLOAD_TYPE, "an offline licence")
    keys = _parse_keys(parts["keys"])
    believed = {
        key_id: record.public_key
        for key_id, record in trusted.items()
        if KeyState.COMPROMISED not in (record.state, keys.get(key_id, record).state)
    }
    if not named_key_signed(seal, believed, verify):
        raise RejectedError(
            "offline_licence_untrusted", "No key that is trusted here has sealed this offline licence."
        )
    sealed = _parse_seal(seal.payload)
    for name in ("licence", "revocations", "keys", "log_proof"):
        if (_sha256(parts[name].encode()) if name in parts else None) != sealed.get(f"{name}_sha256"):
            raise RejectedError(
                "offline_licence_untrusted", f"The {name} inside are not those that were sealed."
            )
    return OfflineLicence(
        parts["licence"],
        revocations.open_document(parts["revocations"], believed, verify),
        {key_id: _lowered(record, keys.get(key_id)) for key_id, record in trusted.items()},
        time_field(sealed, "issued_at"),
        time_field(sealed, "expires_at"),
        parts["revocations"].encode(),
        read_proof(strict_json.loads(parts["log_proof"], max_bytes=PROOF_BYTES_MAX))
        if "log_proof" in parts
        else None,
    )


def _lowered(ours: KeyRecord, told: KeyRecord | None) -> KeyRecord:
    """Take over that a key was compromised or retired, and nothing else."""
    if told is None or told.state is KeyState.ACTIVE or ours.state is KeyState.COMPROMISED:
        return ours
    return replace(ours, state=told.state, compromised_at=told.compromised_at, log=told.log)


def _unarmoured(text: str) -> bytes:
    if len(text) > FILE_BYTES_MAX:
        raise DocumentError("document_too_large", f"The file has more than {FILE_BYTES_MAX} bytes.")
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    inner = lines[1:-1]
    whole = (
        lines[0] == ARMOUR_BEGIN
        and lines[-1] == ARMOUR_END
        and len(inner) > 0
        and all(len(line) == ARMOUR_COLUMNS for line in inner[:-1])
        and 0 < len(inner[-1]) <= ARMOUR_COLUMNS
    )
    body = decode_base64("".join(inner), "The offline licence") if whole else b""
    if not whole or canonical_json.dumps(strict_json.loads(body, max_bytes=FILE_BYTES_MAX)) != body:
        raise DocumentError("armour_invalid", "The offline licence is not as it was written. Fetch it again.")
    return body


def _parse_seal(payload: bytes) -> dict[str, Any]:
    proof = frozenset({"log_proof_sha256"})
    members = closed_object(strict_json.loads(payload, max_bytes=4_096), "The seal", _SEAL, proof)
    for name in members.keys() - {"issued_at", "expires_at"}:
        sha256_field(members, name)
    if time_field(members, "issued_at") >= time_field(members, "expires_at"):
        raise DocumentError("offline_licence_invalid", "The offline licence ends before it begins.")
    return members


def _keys_text(keys: Sequence[KeyRecord]) -> bytes:
    return canonical_json.dumps(
        [
            {
                "key_id": one.key_id,
                "public_key": base64.b64encode(one.public_key).decode(),
                "algorithm": one.algorithm,
                "state": one.state.value,
                "not_before": format_time(one.not_before),
                "compromised_at": None if one.compromised_at is None else format_time(one.compromised_at),
            }
            | log_json(one.log)
            for one in keys
        ]
    )


def _parse_keys(text: str) -> dict[str, KeyRecord]:
    entries = strict_json.loads(text, max_bytes=65_536)
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise DocumentError(
            "offline_licence_invalid", f"An offline licence tells of at most {KEYS_MAX} keys."
        )
    found = {}
    for entry in entries:
        members = closed_object(entry, "A key", _KEY, frozenset({"log"}))
        try:
            record = KeyRecord(
                members["key_id"],
                decode_base64(members["public_key"], "public_key"),
                KeyState(members["state"]),
                time_field(members, "not_before"),
                None if members["compromised_at"] is None else time_field(members, "compromised_at"),
                members["algorithm"],
                read_log(members),
            )
        except ValueError as error:
            raise DocumentError("offline_licence_invalid", f"A key is not sound: {error}.") from None
        found[record.key_id] = record
    return found


def _proof_text(log_proof: LogProof) -> bytes:
    return canonical_json.dumps(proof_json(log_proof))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
