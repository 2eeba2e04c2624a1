"""Public keys and signatures: libsodium alone decides what is valid.

Ed25519 verifiers disagree about crafted keys and signatures (small-order and non-canonical points).
So there is one verifier, libsodium's, and a key is checked for being a canonical point of the main
subgroup when it is registered: after that check almost no disagreement with other verifiers is left.
"""

import base64
from collections.abc import Sequence
from datetime import datetime

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open
from nacl.exceptions import BadSignatureError

from domain.errors import DependencyError, RejectedError
from domain.signing import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    KeyRecord,
    KeyState,
    key_id_of,
)

# DER of SubjectPublicKeyInfo for Ed25519 up to the key itself (RFC 8410, section 4): always these bytes.
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")


def register(public_key: bytes, not_before: datetime, state: KeyState = KeyState.ACTIVE) -> KeyRecord:
    """Make the record of a public key, after checking that it is a sound point.

    Raises:
        RejectedError: ``public_key_type_wrong``, another length; ``public_key_invalid``, no canonical point
            of the main subgroup, one of low order for example.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise RejectedError(
            "public_key_type_wrong",
            f"This is no Ed25519 public key: it has {len(public_key)} bytes, and such a key has "
            f"{PUBLIC_KEY_BYTES}. Send the key itself, not a PEM or DER around it.",
        )
    if not crypto_core_ed25519_is_valid_point(public_key):
        raise RejectedError(
            "public_key_invalid",
            "This is not a sound Ed25519 public key: it is no canonical point of the main subgroup.",
        )
    return KeyRecord(key_id_of(public_key), public_key, state, not_before)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is a valid Ed25519 signature: the ``Verifier`` of ``domain.signing``."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def require_valid(public_key: bytes, messages: Sequence[bytes], signatures: list[bytes]) -> list[bytes]:
    """Return ``signatures`` if each is valid for its message; a signer calls this before anybody sees them.

    A wrong signature can leak the key and would be found by a buyer: a fault in memory or in a backend,
    or a backend that signs with another key, must stop here.

    Raises:
        DependencyError: ``signature_wrong``.
    """
    if len(signatures) != len(messages) or not all(
        verify(public_key, message, signature)
        for message, signature in zip(messages, signatures, strict=True)
    ):
        raise DependencyError(
            "signature_wrong", f"{key_id_of(public_key)} made a signature that is not valid."
        )
    return signatures


def public_key_pem(public_key: bytes) -> str:
    """SubjectPublicKeyInfo in PEM, as ``openssl pkeyutl -pubin`` reads it."""
    body = base64.b64encode(SPKI_PREFIX + public_key).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
