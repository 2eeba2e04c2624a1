"""age payloads: a nonce of 16 bytes, then ChaCha20-Poly1305 in chunks of 64 KiB (STREAM).

Every chunk's nonce carries its number and whether it is the last, so a cut, reordered, repeated or
extended payload is refused. Both directions run in constant memory. The decryptor releases a chunk only
after its tag was checked; but a prefix of the plaintext has been released when a later chunk fails, so
callers write to a temporary file and rename it once ``decrypt_payload`` returned.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from storage.age.errors import HeaderError, PayloadError
from storage.age.header import hkdf

NONCE_BYTES = 16
CHUNK_BYTES = 65_536
TAG_BYTES = 16
BLOCK_CHUNKS = 4  # 256 KiB a read: calls cost nothing, and all of it stays in the cache (measured)
_SEALED_BYTES = CHUNK_BYTES + TAG_BYTES


class Reader(Protocol):
    """Anything with ``read``; it may return less than asked, and empty only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""


class Writer(Protocol):
    """Anything with ``write`` that takes all it is given, and keeps no reference to it."""

    def write(self, data: memoryview, /) -> object:
        """Write all of ``data``."""


@dataclass(frozen=True, slots=True)
class PayloadDigest:
    """Lengths in bytes and SHA-256 (lower-case hexadecimal) of a plaintext and of its payload."""

    plaintext_size: int
    plaintext_sha256: str
    payload_size: int
    payload_sha256: str


def encrypt_payload(file_key: bytes, reader: Reader, writer: Writer, *, nonce: bytes) -> PayloadDigest:
    """Encrypt all of ``reader`` into ``writer``, nonce first. ``nonce`` (16 bytes) is never used twice."""
    plaintext_digest, payload_digest = hashlib.sha256(), hashlib.sha256(nonce)
    plaintext_size, payload_size = 0, NONCE_BYTES
    writer.write(memoryview(nonce))
    for block, sealed in sealed_blocks(file_key, reader, nonce=nonce):
        plaintext_digest.update(block)
        payload_digest.update(sealed)
        writer.write(sealed)
        plaintext_size += len(block)
        payload_size += len(sealed)
    return PayloadDigest(
        plaintext_size, plaintext_digest.hexdigest(), payload_size, payload_digest.hexdigest()
    )


def sealed_blocks(
    file_key: bytes, reader: Reader, *, nonce: bytes
) -> Iterator[tuple[memoryview, memoryview]]:
    """Yield blocks of plaintext, each with its sealed chunks, which are good until the next is asked for.

    The payload is ``nonce`` (16 bytes, never used twice) followed by all sealed chunks.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a payload's nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    cipher = ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))
    buffer = memoryview(bytearray(BLOCK_CHUNKS * _SEALED_BYTES))
    counter = 0
    for block, final in _blocks(reader, BLOCK_CHUNKS * CHUNK_BYTES):
        filled = 0
        for start in range(0, max(len(block), 1), CHUNK_BYTES):
            chunk = block[start : start + CHUNK_BYTES]
            last = final and start + CHUNK_BYTES >= len(block)
            end = filled + len(chunk) + TAG_BYTES
            cipher.encrypt_into(_nonce(counter, last=last), chunk, None, buffer[filled:end])
            filled = end
            counter += 1
        yield block, buffer[:filled]


def decrypt_payload(file_key: bytes, reader: Reader, writer: Writer) -> PayloadDigest:
    """Decrypt all of ``reader``, which starts with the nonce, into ``writer``.

    Raises:
        HeaderError: ``age_header_invalid``, where the nonce is cut off.
        PayloadError: ``age_payload_altered`` or ``age_payload_cut``. What was written before is authentic
            and incomplete: throw it away.
    """
    nonce = read_fully(reader, NONCE_BYTES)
    if len(nonce) < NONCE_BYTES:
        # The C2SP vectors count the nonce to the header: nothing of the payload was seen.
        raise HeaderError("age_header_invalid", "The age file ends within its nonce.")
    cipher = ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))
    plaintext_digest, payload_digest = hashlib.sha256(), hashlib.sha256(nonce)
    plaintext_size, payload_size, counter = 0, NONCE_BYTES, 0
    buffer = memoryview(bytearray(BLOCK_CHUNKS * CHUNK_BYTES))
    for block, final in _blocks(reader, BLOCK_CHUNKS * _SEALED_BYTES):
        filled = 0
        try:
            for start in range(0, max(len(block), 1), _SEALED_BYTES):
                chunk = block[start : start + _SEALED_BYTES]
                last = final and start + _SEALED_BYTES >= len(block)
                _require_size(len(chunk), counter)
                end = filled + len(chunk) - TAG_BYTES
                cipher.decrypt_into(_nonce(counter, last=last), chunk, None, buffer[filled:end])
                filled = end
                counter += 1
        except InvalidTag:
            raise PayloadError(
                "age_payload_altered", f"Chunk {counter} of the age file was altered, or the file was cut."
            ) from None
        finally:
            # Also before a refusal: chunks ahead of the bad one are authentic, and a stream releases them.
            plaintext_digest.update(buffer[:filled])
            writer.write(buffer[:filled])
        payload_digest.update(block)
        plaintext_size += filled
        payload_size += len(block)
    return PayloadDigest(
        plaintext_size, plaintext_digest.hexdigest(), payload_size, payload_digest.hexdigest()
    )


def _require_size(sealed_bytes: int, counter: int) -> None:
    if sealed_bytes < TAG_BYTES:
        raise PayloadError("age_payload_cut", "The age file ends within a chunk.")
    # Only an empty file has an empty chunk, else one plaintext would have two encodings.
    if sealed_bytes == TAG_BYTES and counter > 0:
        raise PayloadError("age_payload_altered", "The age file has an empty last chunk.")


def _nonce(counter: int, *, last: bool) -> bytes:
    return (counter << 8 | last).to_bytes(12)


def _blocks(reader: Reader, size: int) -> Iterator[tuple[memoryview, bool]]:
    """Blocks of exactly ``size`` bytes, the last one shorter or not, and whether each is the last."""
    block = read_fully(reader, size)
    while len(block) == size and (following := read_fully(reader, size)):
        yield memoryview(block), False
        block = following
    yield memoryview(block), True


def read_fully(reader: Reader, size: int) -> bytes:
    """Read ``size`` bytes, or all that is left when that is less."""
    data = reader.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (part := reader.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
