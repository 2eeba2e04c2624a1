"""Examples of the bodies of releases' standing and of deliveries; as in ``serve_app.examples``."""

from typing import Any

from serve_app.examples import (
    _DELIVERY_ID,
    _KEY_ID,
    _ORDER_ID,
    _RECIPIENT,
    _RELEASE_ID,
    _SHA256,
    _TIME,
    DELIVERY,
    ENVELOPE,
    RELEASE,
)

OPENING = {
    "id": _DELIVERY_ID,
    "mode": "recipient",
    "recipient": _RECIPIENT,
    "file_name": "logline-1.2.0.tar.gz",
    "header_base64": DELIVERY["header_base64"],
    "manifest": ENVELOPE,
    "payload": DELIVERY["payload"],
    "encryption": {
        "format": "age-encryption.org/v1",
        "nonce_bytes": 16,
        "chunk_bytes": 65_536,
        "tag_bytes": 16,
        "chunks": 2,
    },
    "plaintext": {"bytes": 123_456, "sha256": _SHA256},
}
JOINED_DELIVERY = {
    "delivery_id": _DELIVERY_ID,
    "file_name": "logline-1.2.0.tar.gz.age",
    "url": "https://s3.example.com/uploads/joined/…?versionId=…&X-Amz-Signature=…",
    "expires_at": _TIME,
    "bytes": 123_672,
}
DELIVERY_LINK = {
    "delivery_id": _DELIVERY_ID,
    "order_id": _ORDER_ID,
    "issued_to": "buyer_ada",
    "kind": "payload",
    "issued_at": _TIME,
    "expires_at": _TIME,
}
YANKED: dict[str, Any] = {
    **RELEASE,
    "state": "yanked",
    "yanked": {"at": _TIME, "reason": "Writes outside its folder; use 1.2.1."},
}
CHANNEL = {
    "channel": "stable",
    "release_id": _RELEASE_ID,
    "version": "1.2.0",
    "bundle_name": "logline-1.2.0.tar.gz",
    "bundle_sha256": _SHA256,
    "bundle_bytes": 123_456,
    "published_at": _TIME,
}
REGISTERED_KEY = {
    "key_id": _KEY_ID,
    "state": "retired",
    "registered_at": _TIME,
    "revoked_at": _TIME,
    "reason": "Rotated.",
}
UPLOAD_PARTS = {
    "part_bytes": 16_777_216,
    "parts_total": 2,
    "parts": [
        {
            "number": 1,
            "bytes": 16_777_216,
            "etag": "9e107d9d372bb6826bd81d3542a419d6",
            "url": "https://s3.example.com/uploads/…?partNumber=1&X-Amz-Signature=…",
        },
        {
            "number": 2,
            "bytes": 3_222_784,
            "etag": None,
            "url": "https://s3.example.com/uploads/…?partNumber=2&X-Amz-Signature=…",
        },
    ],
    "next_part": None,
    "expires_at": _TIME,
}
COMPLETE_UPLOAD = {"release_id": _RELEASE_ID, "bundle_version": "3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY"}
