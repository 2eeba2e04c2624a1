"""Examples of bodies, shown in /openapi.json; a test holds each against its schema."""

from typing import Any

PUBLIC_KEY = "Gz5tXo2c0v0l1o1WnJ2bQy4z0J8y3m9sT5uV7wXyZ0E="
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_TIME = "2026-11-24T09:30:00Z"
_SKU_ID = "sku_01jz3k5v8m2q9x7c4b6n0t1rwf"
_RELEASE_ID = "rel_01jz3k5v8m2q9x7c4b6n0t1rwf"
_ORDER_ID = "ord_01jz3k5v8m2q9x7c4b6n0t1rwf"
_LICENCE_ID = "lic_01jz3k5v8m2q9x7c4b6n0t1rwf"
_DELIVERY_ID = "dlv_01jz3k5v8m2q9x7c4b6n0t1rwf"
_KEY_ID = "key_0123456789abcdef"
_RECIPIENT = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
ARMOURED = "-----BEGIN ILLUVRSE LICENCE-----\n…\n-----END ILLUVRSE LICENCE-----\n"

ENVELOPE: dict[str, Any] = {
    "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
    "payloadType": "application/vnd.in-toto+json",
    "signatures": [{"keyid": _KEY_ID, "sig": "c2lnbmF0dXJl"}],
}
NEW_SKU: dict[str, Any] = {
    "name": "logline",
    "title": "Logline",
    "description": "Turns web-server logs into a summary.",
    "prices": {"USD": 1999, "EUR": 1899, "JPY": 2980},
}
SKU: dict[str, Any] = {
    "id": _SKU_ID,
    **NEW_SKU,
    "seller_id": "seller_1",
    "created_at": _TIME,
    "latest_release": {
        "id": _RELEASE_ID,
        "version": "1.2.0",
        "bundle_name": "logline-1.2.0.tar.gz",
        "bundle_sha256": _SHA256,
        "bundle_bytes": 123_456,
        "published_at": _TIME,
    },
}
SELLER_KEY = {"key_id": _KEY_ID, "seller_id": "seller_1", "state": "active"}
_RELEASE_HEAD = {
    "id": _RELEASE_ID,
    "sku_id": _SKU_ID,
    "version": "1.2.0",
    "bundle_name": "logline-1.2.0.tar.gz",
}
DRAFT: dict[str, Any] = {
    **_RELEASE_HEAD,
    "state": "draft",
    "upload": {
        "url": "https://s3.example.com/uploads/…?X-Amz-Signature=…",
        "method": "PUT",
        "headers": {},
        "expires_at": _TIME,
    },
}
RELEASE: dict[str, Any] = {
    **_RELEASE_HEAD,
    "state": "published",
    "bundle_sha256": _SHA256,
    "bundle_bytes": 123_456,
    "payload_sha256": _SHA256,
    "payload_bytes": 123_504,
    "published_at": _TIME,
    "manifest": ENVELOPE,
    "countersignature": ENVELOPE,
    "minisig": "untrusted comment: signature\n…\ntrusted comment: file:logline-1.2.0.tar.gz\n…\n",
}
NEW_ORDER: dict[str, Any] = {
    "lines": [{"sku_id": _SKU_ID, "quantity": 3}],
    "currency": "USD",
    "delivery": {"mode": "recipient", "recipient": _RECIPIENT},
}
ORDER: dict[str, Any] = {
    "id": _ORDER_ID,
    "status": "awaiting_payment",
    "buyer_id": "buyer_ada",
    "currency": "USD",
    "total_minor": 5997,
    "lines": [
        {
            "line_no": 1,
            "sku_id": _SKU_ID,
            "sku_name": "logline",
            "seller_id": "seller_1",
            "release_id": _RELEASE_ID,
            "version": "1.2.0",
            "quantity": 3,
            "unit_price_minor": 1999,
            "amount_minor": 5997,
            "licence_id": None,
            "licence_status": None,
            "delivery_id": None,
        }
    ],
    "delivery": {"mode": "recipient", "recipient": _RECIPIENT},
    "country": None,
    "payment": {
        "method": "payment_intent",
        "provider": "stripe",
        "payment_intent_id": "pi_3PqR",
        "checkout_session_id": None,
        "client_secret": "pi_3PqR_secret_…",
        "checkout_url": None,
        "publishable_key": "pk_…",
        "error": None,
    },
    "end": None,
    "refunded_minor": 0,
    "refunds": [],
    "disputes": [],
    "created_at": _TIME,
    "updated_at": _TIME,
    "seq": 3,
}
REFUND: dict[str, Any] = {
    "id": "rfd_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "status": "requested",
    "amount_minor": 5997,
    "currency": "USD",
    "lines": [{"line_no": 1, "amount_minor": 5997}],
    "origin": "buyer",
    "reason": "Bought by mistake.",
    "stripe_refund_id": None,
    "failure": None,
    "requested_at": _TIME,
    "ended_at": None,
}
SUMMARY = {
    "id": _ORDER_ID,
    "status": "delivered",
    "currency": "USD",
    "total_minor": 5997,
    "created_at": _TIME,
    "updated_at": _TIME,
}
EVENT = {
    "order_id": _ORDER_ID,
    "seq": 4,
    "kind": "order.paid",
    "at": _TIME,
    "status": "paid",
    "payment_intent_id": "pi_3PqR",
    "amount_minor": 5997,
    "currency": "USD",
}
DELIVERY: dict[str, Any] = {
    "id": _DELIVERY_ID,
    "line_no": 1,
    "release_id": _RELEASE_ID,
    "licence_id": _LICENCE_ID,
    "mode": "recipient",
    "recipient": _RECIPIENT,
    "file_name": "logline-1.2.0.tar.gz",
    "header_base64": "YWdlLWVuY3J5cHRpb24ub3JnL3YxCg==",
    "manifest": ENVELOPE,
    "payload": {
        "url": "https://s3.example.com/payloads/…?versionId=…&X-Amz-Signature=…",
        "expires_at": _TIME,
        "bytes": 123_504,
        "sha256": _SHA256,
    },
    "licence": {"id": _LICENCE_ID, "armoured": ARMOURED, "envelope": ENVELOPE},
    "key_release": None,
}
RELEASED_KEY = {"delivery_id": _DELIVERY_ID, "identity": "AGE-SECRET-KEY-1…", "expires_at": _TIME}
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
    "signature": {"ok": True, "reason": "The licence is exactly what the key signed."},
    "key": {
        "ok": True,
        "state": "active",
        "key_id": _KEY_ID,
        "reason": f"{_KEY_ID} signs for the platform.",
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
}
ISSUED_TOKEN = {"token": "mkt_…", "role": "buyer", "principal_id": "buyer_ada", "replayed": False}
WEBHOOK_RECEIPT = {"received": True, "outcome": "applied"}
READINESS: dict[str, Any] = {
    "status": "ready",
    "checks": {"database": True, "order_hosts": True, "signer": True},
}
DEAD_LETTER = {
    "id": f"effect:{_ORDER_ID}:book",
    "kind": "effect",
    "subject": _ORDER_ID,
    "work": "book",
    "code": "booking_mismatch",
    "error": "Finance booked other amounts than were asked.",
    "attempts": 1,
    "dead_since": _TIME,
}
RETRIED_LETTER = {
    "id": f"effect:{_ORDER_ID}:book",
    "decision": "retried",
    "action_id": "act_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "reason": "Finance has mended its rounding.",
    "consequence": "It is due now and has all its tries again. If it dies again it comes back to the list.",
}
DROPPED_LETTER = {
    "id": "webhook:evt_1Pq",
    "decision": "dropped",
    "action_id": "act_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "reason": "Returned at Stripe by hand, re_3PqR.",
    "consequence": "The order never learns of it. If money moved, nobody will return it but you, at Stripe.",
}
SALES_DAY = {
    "day": "2026-11-24",
    "sku_id": "sku_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "currency": "USD",
    "orders": 3,
    "units": 4,
    "gross_minor": 19_600,
}
PROBLEM = {
    "type": "urn:illuvrse:problem:sku_not_found",
    "title": "No such SKU",
    "status": 404,
    "detail": "There is no such SKU on sale.",
    "code": "sku_not_found",
    "instance": "0d6f2c1b9a8e4f7380d1c2b3a4958677",
}
