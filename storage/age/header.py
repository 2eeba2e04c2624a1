"""age headers: a 16-byte file key wrapped for X25519 recipients, authenticated by the file key itself.

``wrap_file_key`` writes the header of one delivery. ``parse_header`` and ``unwrap_file_key`` read any
age v1 header strictly by the C2SP grammar: canonical unpadded base64, lines of exactly 64 columns, no
carriage returns. Stanzas of other types are skipped, as the format asks; a passphrase stanza beside
others is refused, as the format forbids it. Which identity is tried, and where the file key comes
from, is the caller's business.
"""

import binascii
import hmac
import re
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from storage.age.errors import HeaderError, HeaderMacError, NoMatchError, RecipientError
from storage.age.recipients import KEY_BYTES, public_half

FILE_KEY_BYTES = 16
HEADER_BYTES_MAX = 65_536  # ours take 200 bytes; other tools may add many recipients
STANZAS_MAX = 64  # each of ours costs a key agreement to try
_VERSION_LINE = b"age-encryption.org/v1\n"
_X25519 = "X25519"
_SCRYPT = "scrypt"
_X25519_INFO = b"age-encryption.org/v1/X25519"
_COLUMNS = 64
_ZERO_NONCE = bytes(12)  # each wrapping key encrypts exactly one message
_WRAPPED_BYTES = FILE_KEY_BYTES + 16
_STANZA = re.compile(rb"-> [!-~]+(?: [!-~]+)*")
_MAC = re.compile(rb"--- ([A-Za-z0-9+/]{43})")
_MAC_MARK = b"---"


@dataclass(frozen=True, slots=True)
class Stanza:
    """One recipient stanza: its type and further arguments, and its body."""

    arguments: tuple[str, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: ``mac`` is over ``authenticated``; ``size`` is the header's length in bytes."""

    stanzas: tuple[Stanza, ...]
    authenticated: bytes
    mac: bytes
    size: int


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 (RFC 5869) for one block of 32 bytes, which is all that age derives."""
    extracted = hmac.digest(salt or bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def wrap_file_key(file_key: bytes, recipient: bytes, *, ephemeral: bytes | None = None) -> bytes:
    """Write the header that lets ``recipient`` (a 32-byte public key) open files under ``file_key``.

    ``ephemeral`` (32 secret bytes) is for tests; by default it is fresh from the system's randomness.

    Raises:
        RecipientError: ``age_recipient_unsafe``.
    """
    if len(file_key) != FILE_KEY_BYTES or len(recipient) != KEY_BYTES:
        raise ValueError(f"a file key has {FILE_KEY_BYTES} bytes and a recipient {KEY_BYTES}")
    secret = secrets.token_bytes(KEY_BYTES) if ephemeral is None else ephemeral
    share = crypto_scalarmult_base(secret)
    wrapping_key = _wrapping_key(secret, recipient, share + recipient)
    body = ChaCha20Poly1305(wrapping_key).encrypt(_ZERO_NONCE, file_key, None)
    # 32 bytes take 43 base64 characters, so the body is one line that is shorter than a full one.
    authenticated = b"%b-> X25519 %b\n%b\n%b" % (_VERSION_LINE, _encode(share), _encode(body), _MAC_MARK)
    mac = hmac.digest(hkdf(file_key, b"", b"header"), authenticated, "sha256")
    return b"%b %b\n" % (authenticated, _encode(mac))


def parse_header(data: bytes) -> Header:
    """Read the header at the start of ``data``, which may go on with the payload.

    Raises:
        HeaderError: ``age_header_invalid``, also where ``data`` ends before the header does.
    """
    if not data.startswith(_VERSION_LINE):
        raise HeaderError("age_header_invalid", "This is not an age v1 file.")
    position = len(_VERSION_LINE)
    stanzas: list[Stanza] = []
    while True:
        line, after = _line(data, position)
        if line.startswith(_MAC_MARK):
            break
        if len(stanzas) == STANZAS_MAX:
            raise HeaderError("age_header_invalid", f"An age header here has at most {STANZAS_MAX} stanzas.")
        stanza, position = _stanza(data, line, after)
        stanzas.append(stanza)
    match = _MAC.fullmatch(line)
    if match is None or not stanzas:
        raise HeaderError("age_header_invalid", "The age header lacks its stanzas or its MAC.")
    kinds = [stanza.arguments[0] for stanza in stanzas]
    if _SCRYPT in kinds and len(kinds) > 1:
        raise HeaderError("age_header_invalid", "A passphrase stanza stands beside other recipients.")
    return Header(tuple(stanzas), data[: position + len(_MAC_MARK)], _decode(match[1]), after)


def unwrap_file_key(header: Header, identity: bytes) -> bytes:
    """Find the file key with a 32-byte identity, and check the header with it.

    Raises:
        HeaderError: ``age_header_invalid``, for a malformed X25519 stanza.
        NoMatchError: ``age_no_match``.
        HeaderMacError: ``age_header_altered``.
    """
    recipient = public_half(identity)
    # All stanzas are checked for form before any is opened, so a file is refused for all readers alike.
    candidates = [_x25519(stanza) for stanza in header.stanzas if stanza.arguments[0] == _X25519]
    for share, body in candidates:
        try:
            wrapping_key = _wrapping_key(identity, share, share + recipient)
        except RecipientError:
            raise HeaderError("age_header_invalid", "A stanza's share is of low order.") from None
        try:
            file_key = ChaCha20Poly1305(wrapping_key).decrypt(_ZERO_NONCE, body, None)
        except InvalidTag:
            continue
        mac = hmac.digest(hkdf(file_key, b"", b"header"), header.authenticated, "sha256")
        if not hmac.compare_digest(mac, header.mac):
            raise HeaderMacError("age_header_altered", "The age header was altered.")
        return file_key
    raise NoMatchError("age_no_match", "This age file is not encrypted to this identity.")


def _wrapping_key(secret: bytes, public_key: bytes, salt: bytes) -> bytes:
    try:
        shared = crypto_scalarmult(secret, public_key)
    except RuntimeError:  # libsodium's answer to an all-zero result, that is a low-order point
        raise RecipientError(
            "age_recipient_unsafe", "This age recipient is not a sound X25519 key."
        ) from None
    return hkdf(shared, salt, _X25519_INFO)


def _x25519(stanza: Stanza) -> tuple[bytes, bytes]:
    if len(stanza.arguments) != 2 or len(stanza.body) != _WRAPPED_BYTES:  # noqa: PLR2004 - type and share
        raise HeaderError("age_header_invalid", "An X25519 stanza has one share and a body of 32 bytes.")
    share = _decode(stanza.arguments[1].encode())
    if len(share) != KEY_BYTES:
        raise HeaderError("age_header_invalid", f"An X25519 share has {KEY_BYTES} bytes.")
    return share, stanza.body


def _line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position, HEADER_BYTES_MAX)
    if end < 0:
        raise HeaderError("age_header_invalid", "The age header is cut off, or too long.")
    return data[position:end], end + 1


def _stanza(data: bytes, first_line: bytes, position: int) -> tuple[Stanza, int]:
    if not _STANZA.fullmatch(first_line):
        raise HeaderError("age_header_invalid", "A recipient stanza is malformed.")
    body = bytearray()
    while True:
        line, position = _line(data, position)
        if len(line) > _COLUMNS:
            raise HeaderError("age_header_invalid", f"A stanza's body has lines of {_COLUMNS} columns.")
        body += line
        if len(line) < _COLUMNS:
            break
    return Stanza(tuple(first_line.decode().split(" ")[1:]), _decode(bytes(body))), position


def _encode(raw: bytes) -> bytes:
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=")


def _decode(text: bytes) -> bytes:
    try:
        raw = binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error:
        raise HeaderError("age_header_invalid", "The age header holds malformed base64.") from None
    # Encoding again finds padding and unused bits that are not zero.
    if _encode(raw) != text:
        raise HeaderError("age_header_invalid", "The age header holds base64 that is not canonical.")
    return raw
