"""Examples of licences, what follows them, and keys; as ``serve_app.examples``."""

from typing import Any

from serve_app.examples import (
    _KEY_ID,
    _LICENCE_ID,
    _ORDER_ID,
    _RELEASE_ID,
    _SHA256,
    _SKU_ID,
    _TIME,
    ARMOURED,
    ENVELOPE,
    PUBLIC_KEY,
)

LICENCE: dict[str, Any] = {
    "id": _LICENCE_ID,
    "order_id": _ORDER_ID,
    "line_no": 1,
    "sku_id": _SKU_ID,
    "release_id": _RELEASE_ID,
    "quantity": 3,
    "status": "active",
    "key_id": _KEY_ID,
    "issued_at": _TIME,
    "envelope": {**ENVELOPE, "payloadType": "application/vnd.illuvrse.licence.v1+json"},
    "armoured": ARMOURED,
}
LICENCE_REPORT: dict[str, Any] = {
    "valid": True,
    "signature": {"ok": True, "code": None, "reason": "The licence is exactly what the key signed."},
    "key": {
        "ok": True,
        "state": "active",
        "key_id": _KEY_ID,
        "reason": f"{_KEY_ID} signs for the platform.",
        "recorded_at": None,
        "log_proof": None,
    },
    "expiry": {"ok": True, "status": "perpetual", "reason": "The licence does not expire."},
    "revocation": {
        "ok": True,
        "status": "not_revoked",
        "reason": "The platform has not revoked the licence.",
    },
    "ownership": {"ok": True, "status": "owner", "reason": "The licence was issued to this buyer."},
    "licence": {
        "id": _LICENCE_ID,
        "order_id": _ORDER_ID,
        "line_no": 1,
        "sku_id": _SKU_ID,
        "sku_name": "logline",
        "release_id": _RELEASE_ID,
        "version": "1.2.0",
        "bundle_name": "logline-1.2.0.tar.gz",
        "bundle_sha256": _SHA256,
        "buyer_id": "buyer_ada",
        "seller_id": "seller_1",
        "quantity": 3,
        "policy": {"kind": "perpetual"},
        "issued_at": _TIME,
        "issuer": "illuvrse-marketplace",
    },
}
TRANSFER: dict[str, Any] = {
    "id": "ltr_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "licence_id": _LICENCE_ID,
    "from_buyer_id": "buyer_ada",
    "to_buyer_id": "buyer_bob",
    "status": "offered",
    "new_licence_id": None,
    "offered_at": _TIME,
    "expires_at": "2026-12-01T09:30:00Z",
    "closed_at": None,
}
ACTIVATION: dict[str, Any] = {
    "seat": {
        "id": "lac_01jz3k5v8m2q9x7c4b6n0t1rwf",
        "licence_id": _LICENCE_ID,
        "fingerprint": "9f86d081884c7d65",
        "name": "build-7",
        "kind": "seat",
        "activated_at": _TIME,
        "heartbeat_at": _TIME,
        "held_until": None,
    },
    "expires_at": "2026-11-25T09:30:00Z",
    "envelope": {**ENVELOPE, "payloadType": "application/vnd.illuvrse.activation.v1+json"},
}
OWNER_KEY = {"licence_id": _LICENCE_ID, "key_id": _KEY_ID}
CHALLENGE = {
    "licence_id": _LICENCE_ID,
    "nonce": _SHA256,
    "purpose": "ownership",
    "expires_at": "2026-11-24T09:35:00Z",
    "payload_type": "application/vnd.illuvrse.ownership-proof.v1+json",
    "payload": f'{{"licence_id":"{_LICENCE_ID}","nonce":"{_SHA256}","purpose":"ownership"}}',
}
REVOCATIONS: dict[str, Any] = {
    "version": 2,
    "issued_at": _TIME,
    "expires_at": "2026-11-25T09:30:00Z",
    "grace_days": 0,
    "revoked": [_LICENCE_ID],
    "suspended": [],
    "envelope": {**ENVELOPE, "payloadType": "application/vnd.illuvrse.revocations.v2+json"},
}
PLATFORM_KEY = {
    "key_id": _KEY_ID,
    "public_key": PUBLIC_KEY,
    "pem": "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n",
    "minisign": "untrusted comment: minisign public key …\n…\n",
    "algorithm": "ed25519",
    "state": "active",
    "not_before": _TIME,
    "compromised_at": None,
    "log": None,
}
KEY_LIST: dict[str, Any] = {
    "version": 4,
    "issued_at": _TIME,
    "expires_at": "2027-02-22T09:30:00Z",
    "signs": _KEY_ID,
    "root_public_key": PUBLIC_KEY,
    "envelope": {**ENVELOPE, "payloadType": "application/vnd.illuvrse.key-list.v1+json"},
}
