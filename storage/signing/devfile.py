"""A development key file: signs and wraps without a KMS, and says so wherever it is read.

One JSON file, mode 0600, holds an Ed25519 seed and a symmetric wrapping key. It stands in for a KMS on a
developer's machine: whoever reads the file can sign as the platform. It is created once, whole, and never
overwritten; it is refused if others can read it, if it is a link, or if it belongs to someone else.
Key bytes never appear in errors, logs or ``repr``.

Wrapped secrets are ``version || nonce || XChaCha20-Poly1305``: 24-byte random nonces never collide in
practice, so one key wraps any number of secrets. The context is authenticated with them.
"""

import base64
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_sign,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from domain import strict_json
from domain.document_fields import closed_object
from domain.dsse import decode_base64
from domain.errors import RejectedError
from domain.signing import SIGNATURE_BYTES, context_bytes, key_id_of, require_batch, require_secret
from storage.signing.keys import require_valid

KIND = "illuvrse-development-key-file"
WARNING = (
    "DEVELOPMENT KEY. Whoever can read this file can sign as the platform and open wrapped secrets. "
    "Use a KMS or an HSM wherever real money or real buyers are involved."
)
FILE_BYTES_MAX = 4_096  # the file takes 500 bytes; anything longer is not ours
WRAP_VERSION = b"\x01"
_SECRET_BYTES = 32
_NONCE_BYTES = 24
_TAG_BYTES = 16
_MEMBERS = frozenset({"kind", "warning", "signing_seed", "wrapping_key"})


class DevelopmentKeyFile:
    """``Signer`` and ``KeyWrapper`` over one development key file."""

    __slots__ = ("_secret_key", "_wrapping_key", "key_id", "public_key")

    def __init__(self, signing_seed: bytes, wrapping_key: bytes) -> None:
        self.public_key, self._secret_key = crypto_sign_seed_keypair(signing_seed)
        self.key_id = key_id_of(self.public_key)
        self._wrapping_key = wrapping_key

    def __repr__(self) -> str:
        return f"DevelopmentKeyFile({self.key_id})"

    @classmethod
    def create(cls, path: Path) -> "DevelopmentKeyFile":
        """Write new keys to ``path``, atomically and with mode 0600.

        Raises:
            RejectedError: ``key_file_exists``; an existing key is never replaced.
        """
        keys = (secrets.token_bytes(_SECRET_BYTES), secrets.token_bytes(_SECRET_BYTES))
        document = {
            "kind": KIND,
            "warning": WARNING,
            "signing_seed": base64.b64encode(keys[0]).decode(),
            "wrapping_key": base64.b64encode(keys[1]).decode(),
        }
        # mkstemp opens with O_EXCL and 0600. Linking the finished file cannot overwrite, unlike a rename,
        # and a reader never sees half of it.
        handle, temporary = tempfile.mkstemp(prefix=".key-", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(document, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            raise RejectedError("key_file_exists", f"{path} exists; a key is never replaced.") from None
        finally:
            Path(temporary).unlink()
        _sync_directory(path.parent)
        return cls(*keys)

    @classmethod
    def load(cls, path: Path) -> "DevelopmentKeyFile":
        """Read the keys in ``path``.

        Raises:
            RejectedError: ``key_file_missing``, ``key_file_exposed`` or ``key_file_invalid``.
        """
        document = _read(path)
        seed = decode_base64(document["signing_seed"], "signing_seed")
        wrapping_key = decode_base64(document["wrapping_key"], "wrapping_key")
        if len(seed) != _SECRET_BYTES or len(wrapping_key) != _SECRET_BYTES:
            raise RejectedError("key_file_invalid", f"{path} holds keys of a wrong length.")
        return cls(seed, wrapping_key)

    @classmethod
    def load_or_create(cls, path: Path) -> "DevelopmentKeyFile":
        """Load ``path``, or create it when there is none; of two creators at once, one wins for both."""
        if not path.exists():
            try:
                return cls.create(path)
            except RejectedError as error:
                if error.code != "key_file_exists":
                    raise
        return cls.load(path)

    @property
    def available(self) -> bool:
        """Always: the keys are in this process."""
        return True

    def close(self) -> None:
        """Nothing is held open."""

    def sign_many(self, messages: Sequence[bytes]) -> list[bytes]:
        """Sign each message; see ``domain.signing.Signer``."""
        require_batch(messages)
        signatures = [crypto_sign(message, self._secret_key)[:SIGNATURE_BYTES] for message in messages]
        return require_valid(self.public_key, messages, signatures)

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt a short secret under a context; see ``domain.signing.KeyWrapper``."""
        require_secret(plaintext)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
            plaintext, _associated_data(context), nonce, self._wrapping_key
        )
        return WRAP_VERSION + nonce + bytes(sealed)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """Decrypt what ``wrap`` gave; see ``domain.signing.KeyWrapper``."""
        associated = _associated_data(context)
        head = len(WRAP_VERSION) + _NONCE_BYTES
        refused = RejectedError(
            "unwrap_refused", "The wrapped secret is damaged, or belongs to another key or context."
        )
        if wrapped[: len(WRAP_VERSION)] != WRAP_VERSION or len(wrapped) < head + _TAG_BYTES:
            raise refused
        try:
            return bytes(
                crypto_aead_xchacha20poly1305_ietf_decrypt(
                    wrapped[head:],
                    associated,
                    wrapped[len(WRAP_VERSION) : head],
                    self._wrapping_key,
                )
            )
        except CryptoError:
            raise refused from None


def _associated_data(context: Mapping[str, str]) -> bytes:
    return WRAP_VERSION + context_bytes(context)


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb", opener=_open_private) as file:
            status = os.fstat(file.fileno())
            content = file.read(FILE_BYTES_MAX + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        raise RejectedError("key_file_missing", f"There is no key file at {path}.") from None
    except OSError as error:
        raise RejectedError("key_file_invalid", f"{path} cannot be read: {error.strerror}.") from None
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid != os.geteuid():
        raise RejectedError(
            "key_file_exposed", f"{path} must belong to this user and have mode 0600: chmod 600 it."
        )
    document = closed_object(strict_json.loads(content, max_bytes=FILE_BYTES_MAX), "The key file", _MEMBERS)
    if document["kind"] != KIND:
        raise RejectedError("key_file_invalid", f"{path} is not a development key file.")
    return document


def _open_private(path: str, flags: int) -> int:
    # No links: whoever places one chooses the key. Not blocking: a named pipe would hold us forever.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
