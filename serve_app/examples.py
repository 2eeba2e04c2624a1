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
    "price_version": 1,
    "tax_category": "software",
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
    "channel": "stable",
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
    "yanked": None,
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
CART: dict[str, Any] = {
    "lines": [{"sku_id": _SKU_ID, "quantity": 3}],
    "currency": "USD",
    "discount_code": "SPRING-10",
    "country": "DE",
}
_LINE: dict[str, Any] = {
    "line_no": 1,
    "sku_id": _SKU_ID,
    "sku_name": "logline",
    "seller_id": "seller_1",
    "release_id": _RELEASE_ID,
    "version": "1.2.0",
    "quantity": 3,
    "unit_price_minor": 1999,
    "discount_minor": 600,
    "taxes": [{"jurisdiction": "DE", "rate_ppm": 190_000, "amount_minor": 862, "inclusive": True}],
    "rounding_minor": 0,
    "amount_minor": 5397,
}
QUOTE: dict[str, Any] = {
    "currency": "USD",
    "price_minor": 5997,
    "discount_minor": 600,
    "tax_minor": 862,
    "total_minor": 5397,
    "lines": [_LINE],
}
PRICE_LIST: dict[str, Any] = {
    "version": 2,
    "prices": {"USD": 1799, "EUR": 1699},
    "set_by": "seller_1",
    "set_at": _TIME,
}
NEW_DISCOUNT: dict[str, Any] = {
    "code": "spring-10",
    "percent_bps": 1_000,
    "uses_max": 500,
    "uses_per_buyer_max": 1,
    "valid_until": "2026-12-24T00:00:00Z",
}
DISCOUNT: dict[str, Any] = {
    "id": "dsc_01jz3k5v8m2q9x7c4b6n0t1rwf",
    **NEW_DISCOUNT,
    "code": "SPRING-10",
    "seller_id": "seller_1",
    "amounts_minor": {},
    "minimum_minor": {},
    "sku_ids": [],
    "valid_from": _TIME,
    "ended": False,
    "uses": 0,
}
TAX_TABLE: dict[str, Any] = {
    "version": 2,
    "table": {
        "rates": [
            {
                "country": "DE",
                "category": "*",
                "jurisdiction": "DE",
                "rate_ppm": 190_000,
                "inclusive": True,
            }
        ],
        "elsewhere": "refused",
    },
    "set_by": "operator_1",
    "reason": "We are registered in Germany from December on.",
    "set_at": _TIME,
}
NEW_ORDER: dict[str, Any] = {
    **CART,
    "delivery": {"mode": "recipient", "recipient": _RECIPIENT},
}
ORDER: dict[str, Any] = {
    "id": _ORDER_ID,
    "status": "awaiting_payment",
    "buyer_id": "buyer_ada",
    "currency": "USD",
    "discount_minor": 600,
    "tax_minor": 862,
    "total_minor": 5397,
    "lines": [
        {
            **_LINE,
            "licence_id": None,
            "licence_status": None,
            "delivery_id": None,
        }
    ],
    "delivery": {"mode": "recipient", "recipient": _RECIPIENT},
    "country": "DE",
    "payment": {
        "method": "payment_intent",
        "provider": "stripe",
        "payment_intent_id": "pi_3PqR",
        "checkout_session_id": None,
        "client_secret": "pi_3PqR_secret_…",
        "checkout_url": None,
        "publishable_key": "pk_…",
        "error": {
            "code": "card_declined",
            "decline_code": "insufficient_funds",
            "message": "The card has not enough money or credit left. Pay with another card.",
        },
        "next_action": None,
        "attempts_left": 9,
    },
    "review": None,
    "end": None,
    "refunded_minor": 0,
    "refunds": [],
    "disputes": [],
    "created_at": _TIME,
    "updated_at": _TIME,
    "seq": 3,
}
REVIEW: dict[str, Any] = {
    "order_id": _ORDER_ID,
    "status": "open",
    "buyer_id": "buyer_ada",
    "currency": "USD",
    "amount_minor": 899_550,
    "reasons": ["The amount is large enough for a person to look at the order first."],
    "opened_at": _TIME,
    "decide_by": "2026-11-29T09:30:00Z",
    "reviewer_id": None,
    "reason": None,
    "decided_at": None,
    "end_code": None,
}
REVIEW_DECIDED = {"order_id": _ORDER_ID, "status": "approved", "order_status": "in_review"}
REFUND: dict[str, Any] = {
    "id": "rfd_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "status": "requested",
    "amount_minor": 5397,
    "currency": "USD",
    "lines": [{"line_no": 1, "amount_minor": 5397}],
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
    "total_minor": 5397,
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
    "amount_minor": 5397,
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
ISSUED_TOKEN = {"token": "mkt_…", "role": "buyer", "principal_id": "buyer_ada", "replayed": False}
WEBHOOK_RECEIPT = {"received": True, "outcome": "applied"}
READINESS: dict[str, Any] = {
    "status": "ready",
    "checks": {"database": True, "order_hosts": True, "signer": True, "signing_backend": True},
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
OPEN_DISPUTE = {
    "id": "dp_1PqR",
    "order_id": _ORDER_ID,
    "stage": "needs_response",
    "amount_minor": 1999,
    "currency": "USD",
    "fee_minor": 1500,
    "reason": "fraudulent",
    "opened_at": _TIME,
    "due_by": "2026-12-03T09:30:00Z",
    "evidence_submitted": False,
    "drafts": 1,
}
EVIDENCE = {
    "id": "evd_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "dispute_id": "dp_1PqR",
    "state": "sending",
    "submit": True,
    "texts": {"service_date": "2026-11-24", "uncategorized_text": "The buyer opened the bundle twice."},
    "due_by": "2026-12-03T09:30:00Z",
    "prepared_at": _TIME,
    "sent_at": None,
    "failure": None,
}
CASE = {
    "id": "cas_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "kind": "refund_not_recorded",
    "status": "open",
    "order_id": _ORDER_ID,
    "subject": "re_3PqR",
    "currency": "USD",
    "expected_minor": 0,
    "actual_minor": 500,
    "detail": "Stripe returned 500 USD by re_3PqR; the order does not know it.",
    "proposal": "Tell the order what Stripe says, as the webhook would have done.",
    "applicable": True,
    "evidence": {
        "stripe_object": "re_3PqR",
        "payment_intent": "pi_3PqR",
        "stripe_status": "succeeded",
        "waiting_webhooks": [],
    },
    "happened_at": _TIME,
    "opened_at": _TIME,
    "changed_at": _TIME,
    "apply_requested_by": None,
    "applied_at": None,
    "closed_at": None,
    "closed_by": None,
    "reason": None,
    "dismissal": None,
    "gone_at": None,
}
CASE_APPLIED = {
    "id": CASE["id"],
    "decision": "apply_requested",
    "action_id": "act_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "reason": "The dashboard shows the refund.",
    "consequence": "The reconciler makes the fix within a minute, if it still applies, and closes the case "
    "once the difference is gone.",
}
CASE_CLOSED = {
    "id": CASE["id"],
    "decision": "closed",
    "action_id": "act_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "reason": "Settled with the buyer by bank transfer.",
    "consequence": "The case is closed as it is. It opens again if its amounts change, if the difference "
    "comes back after it was gone, and after 90 days.",
}
RECONCILIATION = {
    "id": "rec_01jz3k5v8m2q9x7c4b6n0t1rwf",
    "since": "2026-11-23T00:00:00Z",
    "until": "2026-11-24T00:00:00Z",
    "daily": True,
    "complete": True,
    "started_at": _TIME,
    "finished_at": _TIME,
    "report": {"orders": 1200, "movements": 1214, "entries": 2431, "opened": 0, "open_by_kind": {}},
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
