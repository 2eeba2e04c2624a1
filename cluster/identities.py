"""Keys that users hold: a buyer's age identity and a seller's Ed25519 signing key.

A buyer's file is what ``age-keygen`` writes, a seller's what ``openssl genpkey -algorithm ed25519``
writes, so both kinds can be made and used without us. Secrets never appear in errors or ``repr``.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cluster.client import ClientError
from cluster.private_files import create_secret, read_bounded
from domain.signing import key_id_of
from storage.age.errors import RecipientError
from storage.age.recipients import identity_text, parse_identity, parse_recipient, public_half, recipient_text

KEY_FILE_BYTES_MAX = 16_384  # comments included; both kinds take some 200 bytes
IDENTITY_PREFIX = "AGE-SECRET-KEY-1"


def create_identity(path: Path, now: datetime) -> str:
    """Write a new age identity; returns its recipient (``age1…``).

    Raises:
        ClientError: ``file_exists`` or ``file_unwritable``.
    """
    identity = secrets.token_bytes(32)
    recipient = recipient_text(public_half(identity))
    create_secret(
        path, f"# created: {now:%Y-%m-%dT%H:%M:%SZ}\n# public key: {recipient}\n{identity_text(identity)}\n"
    )
    return recipient


def load_identity(path: Path) -> bytes:
    """Read an age identity file: comments and one ``AGE-SECRET-KEY-1…`` line.

    Raises:
        ClientError: ``identity_missing`` or ``identity_invalid``.
    """
    if not path.exists():
        raise ClientError(
            f"There is no age identity at {path}. Make one with `marketplace buyer keygen`, or name yours "
            "with --identity.",
            "identity_missing",
        )
    text = read_bounded(path, KEY_FILE_BYTES_MAX).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(IDENTITY_PREFIX)]
    if len(lines) != 1:
        raise ClientError(f"{path} must hold exactly one {IDENTITY_PREFIX}… line.", "identity_invalid")
    try:
        return parse_identity(lines[0])
    except RecipientError as error:
        raise ClientError(f"{path}: {error.detail}", "identity_invalid") from None


def load_recipient(path: Path) -> str:
    """Read a recipient file: comments and one ``age1…`` line. An identity file serves too.

    Raises:
        ClientError: ``recipient_invalid``.
    """
    text = read_bounded(path, KEY_FILE_BYTES_MAX).decode("utf-8", "replace")
    if IDENTITY_PREFIX in text:
        return recipient_text(public_half(load_identity(path)))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise ClientError(f"{path} must hold exactly one age1… line.", "recipient_invalid")
    try:
        parse_recipient(lines[0])
    except RecipientError as error:
        raise ClientError(f"{path}: {error.detail}", "recipient_invalid") from None
    return lines[0]


class SellerKey:
    """A seller's signing key: a ``Signer`` of ``domain.signing``."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key = private_key.public_key().public_bytes_raw()
        self.key_id = key_id_of(self.public_key)

    def __repr__(self) -> str:
        return f"SellerKey({self.key_id})"

    @classmethod
    def create(cls, path: Path) -> "SellerKey":
        """Write a new key as PKCS #8 in PEM.

        Raises:
            ClientError: ``file_exists`` or ``file_unwritable``.
        """
        private_key = Ed25519PrivateKey.generate()
        pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_secret(path, pem.decode())
        return cls(private_key)

    @classmethod
    def load(cls, path: Path) -> "SellerKey":
        """Read an unencrypted PKCS #8 PEM file.

        Raises:
            ClientError: ``seller_key_missing`` or ``seller_key_invalid``.
        """
        if not path.exists():
            raise ClientError(
                f"There is no signing key at {path}. Make one with `marketplace seller keygen`, or name "
                "yours "
                "with --key.",
                "seller_key_missing",
            )
        try:
            private_key = load_pem_private_key(read_bounded(path, KEY_FILE_BYTES_MAX), password=None)
        except (ValueError, TypeError):
            private_key = None
        if not isinstance(private_key, Ed25519PrivateKey):
            raise ClientError(
                f"{path} is no Ed25519 key in PEM (PKCS #8, unencrypted). `openssl genpkey -algorithm "
                "ed25519` "
                "makes one.",
                "seller_key_invalid",
            )
        return cls(private_key)

    def sign_many(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message."""
        return [self._private_key.sign(message) for message in messages]
