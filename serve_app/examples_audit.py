"""Examples of the audit log for the API's description; tests hold them to their schemas."""

from typing import Any

_HASH = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
_EVENT_ID = "evt_01jz3k5v8m2q9x7c4b6n0t1rwf"
_SALT = "AAECAwQFBgcICQoLDA0ODw=="
_RECORD = (
    f"event\n{_EVENT_ID}\nord_01jz3k5v8m2q9x7c4b6n0t1rwf\n4\norder.paid\n2026-11-24T09:30:00.123456Z\n"
    '{"at": "2026-11-24T09:30:00.120000Z"}'
)
_NOTE = f"illuvrse.marketplace/audit/5b2c\n4711\n{_HASH}\n\n— illuvrse.marketplace/audit/5b2c Az3grlgt…\n"
PROOF: dict[str, Any] = {
    "kind": "event",
    "subject_id": _EVENT_ID,
    "record": _RECORD,
    "proof": {"position": 42, "salt": _SALT, "size": 4711, "path": [_HASH]},
    "root": _HASH,
    "checkpoint": _NOTE,
    "consistency": {"from_size": 100, "size": 4711, "path": [_HASH]},
}
ENTRIES: dict[str, Any] = {
    "items": [
        {
            "position": 42,
            "kind": "event",
            "subject_id": _EVENT_ID,
            "salt": _SALT,
            "digest": _HASH,
            "record": _RECORD,
        }
    ],
    "next_from": 43,
}
CHECKPOINT: dict[str, Any] = {
    "size": 4711,
    "root": _HASH,
    "key_id": "key_4f5e6d7c8b9a0f1e",
    "kept_at": "2026-11-24T09:30:01.5Z",
    "note": _NOTE,
}
