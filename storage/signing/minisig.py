"""minisign signatures: a ``.minisig`` beside each bundle, checked by ``minisign -V`` without our software.

Format: jedisct1's minisign, prehashed (``ED``): Ed25519 over the 64-byte BLAKE2b of the file, then a
second ("global") signature over the first one and the trusted comment. Only this form is written and
read; the legacy form over the whole file is refused, since it needs the file in memory.

The 8-byte key number is an unauthenticated hint: the first bytes of SHA-256 of the public key.
"""

import base64
import hashlib
from typing import Protocol

from domain.dsse import decode_base64
from domain.signing import SIGNATURE_BYTES, Signer
from domain.strict_json import DocumentError
from storage.signing.keys import verify

DIGEST_BYTES = 64  # BLAKE2b-512
COMMENT_CHARS_MAX = 512  # minisign itself reads 8,192 bytes; ours name a file, a version and a time
MINISIG_CHARS_MAX = 2_048  # four lines: two comments and two signatures
_READ_BYTES = 2**20
_KEY_NUMBER_BYTES = 8
_UNTRUSTED = "untrusted comment: "
_TRUSTED = "trusted comment: "
_LINES = 4


class Reader(Protocol):
    """Anything with ``read``; it may return less than asked, and empty only at the end."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""


def file_digest(reader: Reader) -> bytes:
    """BLAKE2b-512 of all that ``reader`` gives, in constant memory."""
    digest = hashlib.blake2b()
    while block := reader.read(_READ_BYTES):
        digest.update(block)
    return digest.digest()


def key_number(public_key: bytes) -> bytes:
    """Return the 8 bytes that stand for this key in ``.pub`` and ``.minisig`` files."""
    return hashlib.sha256(public_key).digest()[:_KEY_NUMBER_BYTES]


def public_key_text(public_key: bytes) -> str:
    """Content of a ``minisign.pub`` file for this key."""
    number = key_number(public_key)
    # minisign prints the number as a little-endian integer.
    name = f"{int.from_bytes(number, 'little'):016X}"
    body = base64.b64encode(b"Ed" + number + public_key).decode()
    return f"{_UNTRUSTED}minisign public key {name}\n{body}\n"


def sign(signer: Signer, digest: bytes, trusted_comment: str, untrusted_comment: str = "signature") -> str:
    """Write the ``.minisig`` of a file from its BLAKE2b-512. ``trusted_comment`` is signed as well.

    Raises:
        DocumentError: ``comment_invalid``; and whatever the signer raises.
    """
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"the digest is BLAKE2b of {DIGEST_BYTES} bytes, not {len(digest)}")
    for comment in (trusted_comment, untrusted_comment):
        if not comment.isprintable() or len(comment) > COMMENT_CHARS_MAX:
            raise DocumentError(
                "comment_invalid", f"A comment is one line of at most {COMMENT_CHARS_MAX} characters."
            )
    (signature,) = signer.sign_many([digest])
    (global_signature,) = signer.sign_many([signature + trusted_comment.encode()])
    body = base64.b64encode(b"ED" + key_number(signer.public_key) + signature).decode()
    return (
        f"{_UNTRUSTED}{untrusted_comment}\n{body}\n"
        f"{_TRUSTED}{trusted_comment}\n{base64.b64encode(global_signature).decode()}\n"
    )


def check(text: str, public_key: bytes, digest: bytes, number: bytes | None = None) -> str:
    """Check both signatures of a ``.minisig`` text over a file's BLAKE2b-512; return the trusted comment.

    ``number`` is the key's number as its owner chose it; by default the one that ours is given.

    Raises:
        DocumentError: ``minisig_malformed`` or ``minisig_refused``.
    """
    lines = text.removesuffix("\n").split("\n") if len(text) <= MINISIG_CHARS_MAX else []
    if (
        len(lines) != _LINES
        or not "".join(lines).isprintable()
        or not lines[0].startswith(_UNTRUSTED)
        or not lines[2].startswith(_TRUSTED)
    ):
        raise DocumentError("minisig_malformed", "A .minisig has two comments and two signatures.")
    first = decode_base64(lines[1], "The signature")
    global_signature = decode_base64(lines[3], "The global signature")
    head = b"ED" + (key_number(public_key) if number is None else number)
    if len(first) != len(head) + SIGNATURE_BYTES or not first.startswith(b"ED"):
        raise DocumentError("minisig_malformed", "Only prehashed minisign signatures are read.")
    signature = first[len(head) :]
    trusted_comment = lines[2].removeprefix(_TRUSTED)
    if not (
        first.startswith(head)
        and verify(public_key, digest, signature)
        and verify(public_key, signature + trusted_comment.encode(), global_signature)
    ):
        raise DocumentError("minisig_refused", "The signature is not by this key over this file and comment.")
    return trusted_comment
