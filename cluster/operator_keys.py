"""Operators' approval keys: files that nobody else can read, and the public halves that are handed in.

A key is Ed25519 in PEM (PKCS #8), as ``openssl genpkey -algorithm ed25519`` writes it. Refused: key files
that others can read, links, and files of other users. Key bytes never appear in errors.
"""

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from cluster.client import ClientError
from cluster.connection import config_folder
from cluster.identities import SellerKey as SigningKey
from cluster.private_files import read_bounded
from domain.proposals.documents import Operator

KEY_NAME = "operator-key.pem"
KEY_FILE_BYTES_MAX = 16_384  # a PEM of some 120 bytes, and comments


def load_key(chosen: Path | None) -> SigningKey:
    """Read an approval key that nobody else can read.

    Raises:
        ClientError: ``operator_key_missing``, ``operator_key_exposed`` or ``operator_key_invalid``.
    """
    path = chosen or config_folder() / KEY_NAME
    try:
        with open(path, "rb", opener=_open_private) as file:
            status = os.fstat(file.fileno())
            data = file.read(KEY_FILE_BYTES_MAX) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        raise ClientError(
            f"There is no approval key at {path}. Make one with `marketplace ops operator-keygen`, or name "
            "yours with --key.",
            "operator_key_missing",
        ) from None
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}.", "operator_key_invalid") from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid != os.geteuid():
        raise ClientError(
            f"{path} must belong to you and have mode 0600: chmod 600 it. If others could read it, make "
            "a new key and propose it in place of this one.",
            "operator_key_exposed",
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ClientError(f"{path} is no Ed25519 key in PEM (PKCS #8, unencrypted).", "operator_key_invalid")
    return SigningKey(key)


def read_operator(text: str) -> Operator:
    """Read ``NAME=PUBLIC.pem``; raises ClientError ``operator_invalid``."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise ClientError(f"--operator {text}: write NAME=PUBLIC.pem.", "operator_invalid")
    try:
        key = load_pem_public_key(read_bounded(Path(path), KEY_FILE_BYTES_MAX))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ClientError(f"{path} is no Ed25519 public key in PEM.", "operator_invalid")
    return Operator(name, key.public_bytes_raw())


def _open_private(path: str, flags: int) -> int:
    # No links: whoever places one chooses the key. Not blocking: a named pipe would hold us for ever.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
