"""Idempotency keys: the first answer to a key is its answer for 24 hours.

The same key with another caller, path or parameters is refused; while the first request is under way the
key is in use. Answers to requests that were refused as written are not kept: they can be mended and sent
again. The fingerprint of a request is a keyed digest, because its parameters may hold a card number.
Follows https://docs.stripe.com/api/idempotent_requests.
"""

import hashlib

import orjson

from cluster.local.stripe.forms import Pairs
from cluster.local.stripe.refusals import RefusedError, invalid
from cluster.local.stripe.rows import IdempotencyRecord
from cluster.local.stripe.store import Store

KEY_CHARS_MAX = 255  # Stripe's limit
DIGEST_BYTES = 16
DIGEST_KEY_BYTES_MAX = 64  # BLAKE2b's limit


class IdempotencyKeys:
    """Keys that are in use, and those of the store."""

    def __init__(self, store: Store, digest_key: bytes) -> None:
        self._store = store
        self._digest_key = hashlib.blake2b(digest_key, digest_size=DIGEST_KEY_BYTES_MAX).digest()
        self._in_use: set[str] = set()

    def fingerprint(self, caller: str, path: str, pairs: Pairs) -> bytes:
        """Digest what makes two POSTs the same; the order of the parameters does not matter.

        ``caller`` tells the two API keys apart: a browser must not be answered what the shop was told.
        """
        content = orjson.dumps([caller, path, sorted(pairs)])
        return hashlib.blake2b(content, digest_size=DIGEST_BYTES, key=self._digest_key).digest()

    def begin(self, key: str, fingerprint: bytes, now: int) -> IdempotencyRecord | None:
        """Return the first answer, or None after marking the key as in use; then ``end`` must follow.

        Raises:
            RefusedError: 409 while in use, 400 for other parameters than the first time.
        """
        if not key or len(key) > KEY_CHARS_MAX:
            raise invalid(f"Idempotency keys have 1 to {KEY_CHARS_MAX} characters.")
        if key in self._in_use:
            raise RefusedError(
                409,
                "There is currently another in-progress request using this Idempotent Key (that probably "
                "means you submitted twice, and the other request is still going through). Please try again "
                "later.",
                code="idempotency_key_in_use",
                kind="idempotency_error",
            )
        record = self._store.find_idempotency(key, now)
        if record is None:
            self._in_use.add(key)
            return None
        if record.fingerprint != fingerprint:
            raise RefusedError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were first used "
                "with. Try using a key other than this one if you meant to execute a different request.",
                kind="idempotency_error",
            )
        return record

    def end(self, key: str) -> None:
        """Release a key."""
        self._in_use.discard(key)
