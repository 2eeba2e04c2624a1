"""Ports and records of signing: who can sign, what is known of a key, how secrets are wrapped.

Trust comes from ``KeyRecord``, never from the document: the algorithm and the state belong to the key
that we recorded. The cryptography itself stays behind ``Verifier``, ``Signer`` and ``KeyWrapper``;
libsodium decides validity (``storage.signing``), a development key file or a KMS holds the secrets.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from domain import canonical_json
from domain.errors import RejectedError
from domain.merkle.tree import Head

ALGORITHM = "ed25519"
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
MESSAGE_BYTES_MAX = 4_096  # AWS KMS refuses a longer RAW message, so nothing longer is ever signed
MESSAGES_MAX = 1_000  # one second of the KMS quota; a larger batch would time out as a whole
WRAPPED_PLAINTEXT_BYTES_MAX = 4_096  # AWS KMS Encrypt takes no more
CONTEXT_PAIRS_MAX = 8  # an encryption context names ids, it is no place for data
CONTEXT_CHARS_MAX = 256  # of a name and its value: names and ids only

Verifier = Callable[[bytes, bytes, bytes], bool]
"""``(public_key, message, signature) -> valid``; never raises for hostile input."""


class KeyState(StrEnum):
    """``active`` signs and verifies, ``retired`` verifies, ``compromised`` needs proof of an earlier time."""

    ACTIVE = "active"
    RETIRED = "retired"
    COMPROMISED = "compromised"


def key_id_of(public_key: bytes) -> str:
    """Name a key by itself: ``key_`` and the first 16 hexadecimal digits of SHA-256 of its 32 bytes."""
    return f"key_{hashlib.sha256(public_key).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What we recorded of a public key. Times are UTC; ``compromised_at`` is set only in that state.

    ``log`` is the audit log's head as of the last checkpoint before ``compromised_at``: what the key signed
    holds only if it is in that tree. A record from before the audit log has none.
    """

    key_id: str
    public_key: bytes
    state: KeyState
    not_before: datetime
    compromised_at: datetime | None = None
    algorithm: str = ALGORITHM
    log: Head | None = None

    def __post_init__(self) -> None:
        if self.algorithm != ALGORITHM or len(self.public_key) != PUBLIC_KEY_BYTES:
            raise ValueError("a key record holds an Ed25519 key of 32 bytes")
        if self.key_id != key_id_of(self.public_key):
            raise ValueError("the key id is not that of the public key")
        if (self.state is KeyState.COMPROMISED) != (self.compromised_at is not None):
            raise ValueError("a key has a time of compromise exactly when it is compromised")
        if self.log is not None and self.state is not KeyState.COMPROMISED:
            raise ValueError("only a compromised key names a head of the audit log")


class Signer(Protocol):
    """Signs with one key that never leaves it."""

    @property
    def key_id(self) -> str:
        """Id of the signing key, as in its ``KeyRecord``."""

    @property
    def public_key(self) -> bytes:
        """The recorded 32-byte public key that every signature is checked against."""

    def sign_many(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign up to ``MESSAGES_MAX`` messages of up to ``MESSAGE_BYTES_MAX`` bytes, in order.

        Each signature has been verified against ``public_key`` before it is returned.

        Raises:
            RejectedError: ``batch_too_large`` or ``message_too_large``; nothing was signed.
            DependencyError: ``signature_wrong``, ``signer_unavailable`` (away for now) or ``signer_refused``
                (operators must mend a permission, a key or a setting).
            BusyError: ``signer_busy``, the backend's quota is used up.
        """


class KeyWrapper(Protocol):
    """Wraps short secrets under a key that never leaves it, bound to a context of ids."""

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt ``plaintext``; the same ``context`` is needed to open it.

        Raises:
            RejectedError: ``secret_too_large`` or ``context_invalid``.
            DependencyError, BusyError: as ``Signer.sign_many``.
        """

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what ``wrap`` gave.

        Raises:
            RejectedError: ``unwrap_refused``, for a damaged blob, another key or another context.
            DependencyError, BusyError: as ``Signer.sign_many``.
        """


class Keys(Signer, KeyWrapper, Protocol):
    """A signing backend: one signing key and one wrapping key."""

    @property
    def available(self) -> bool:
        """Whether calls reach the backend now, as far as the last ones told."""

    def close(self) -> None:
        """Let go of connections and sessions."""


def require_batch(messages: Sequence[bytes]) -> None:
    """Check the bounds of ``Signer.sign_many``.

    Raises:
        RejectedError: ``batch_too_large`` or ``message_too_large``.
    """
    if len(messages) > MESSAGES_MAX:
        raise RejectedError("batch_too_large", f"A batch has at most {MESSAGES_MAX} messages.")
    if any(len(message) > MESSAGE_BYTES_MAX for message in messages):
        raise RejectedError("message_too_large", f"A message has at most {MESSAGE_BYTES_MAX} bytes.")


def require_secret(plaintext: bytes) -> None:
    """Check the bounds of ``KeyWrapper.wrap``.

    Raises:
        RejectedError: ``secret_too_large``.
    """
    if not 1 <= len(plaintext) <= WRAPPED_PLAINTEXT_BYTES_MAX:
        raise RejectedError(
            "secret_too_large", f"A wrapped secret has 1 to {WRAPPED_PLAINTEXT_BYTES_MAX} bytes."
        )


def context_bytes(context: Mapping[str, str]) -> bytes:
    """Write an encryption context as the one byte sequence that is authenticated with a wrapped secret.

    Raises:
        RejectedError: ``context_invalid``.
    """
    if not 1 <= len(context) <= CONTEXT_PAIRS_MAX or not all(
        isinstance(value, str) and name.isascii() and len(name) + len(value) <= CONTEXT_CHARS_MAX
        for name, value in context.items()
    ):
        raise RejectedError(
            "context_invalid", f"A context is 1 to {CONTEXT_PAIRS_MAX} pairs of short names and ids."
        )
    return canonical_json.dumps(dict(context))
