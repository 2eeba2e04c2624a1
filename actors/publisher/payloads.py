"""From an uploaded bundle to its payload: download once, measure, encrypt. Blocking, in constant memory.

What is checked and what is encrypted is one temporary file, so nobody can change it in between.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import IO

from storage.age.payload import NONCE_BYTES, PayloadDigest, encrypt_payload
from storage.s3 import Bucket, StoredObject

_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """A bundle's digests and its length in bytes; ``sha256`` is lower-case hexadecimal."""

    sha256: str
    blake2b: bytes
    size: int


def download(uploads: Bucket, upload: StoredObject, file: IO[bytes]) -> Measured:
    """Read one version of an upload into ``file``.

    Raises:
        OSError: there is no room for it.
    """
    sha256, blake2b, size = hashlib.sha256(), hashlib.blake2b(), 0
    with uploads.opened(upload) as body:
        while block := body.read(_READ_BYTES):
            sha256.update(block)
            blake2b.update(block)
            size += len(block)
            file.write(block)
    return Measured(sha256.hexdigest(), blake2b.digest(), size)


def encrypt(
    payloads: Bucket, key: str, file: IO[bytes], file_key: bytes
) -> tuple[PayloadDigest, StoredObject]:
    """Write the payload of all of ``file`` under ``key``, with a nonce of its own."""
    file.seek(0)
    with payloads.writer(key) as writer:
        digest = encrypt_payload(file_key, file, writer, nonce=secrets.token_bytes(NONCE_BYTES))
        return digest, writer.finish()
