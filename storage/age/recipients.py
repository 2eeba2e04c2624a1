"""age recipients and identities: X25519 keys as Bech32 texts (BIP 173, without its length limit).

An identity is any 32 bytes; its recipient is the public half. Refused: mixed case, wrong checksums,
non-zero padding, encodings that are not canonical, and low-order points, under which the file key would
be wrapped with a key that anyone can compute.
"""

import functools
import operator

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from storage.age.errors import RecipientError

KEY_BYTES = 32
TEXT_CHARS_MAX = 128  # a recipient has 62 characters, an identity 74
_RECIPIENT_PREFIX = "age"
_IDENTITY_PREFIX = "age-secret-key-"
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_CHARSET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
# The generator's contribution for each value of the five bits that leave the checksum's register.
_FEEDBACK = tuple(
    functools.reduce(operator.xor, (one for bit, one in enumerate(_GENERATOR) if top >> bit & 1), 0)
    for top in range(32)
)
_CHECKSUM_CHARS = 6
_FIELD_PRIME = 2**255 - 19
_PROBE = bytes(KEY_BYTES)  # clamping makes every scalar a multiple of 8, so any one finds low orders


def recipient_text(public_key: bytes) -> str:
    """Write a 32-byte X25519 public key as ``age1…``."""
    return _encode(_RECIPIENT_PREFIX, public_key)


def identity_text(identity: bytes) -> str:
    """Write a 32-byte identity as ``AGE-SECRET-KEY-1…``. The result is a secret."""
    return _encode(_IDENTITY_PREFIX, identity).upper()


def public_half(identity: bytes) -> bytes:
    """Return the 32-byte public key of a 32-byte identity."""
    return bytes(crypto_scalarmult_base(identity))


def parse_recipient(text: str) -> bytes:
    """Read ``age1…`` into a 32-byte X25519 public key.

    Raises:
        RecipientError: ``age_recipient_invalid`` or ``age_recipient_unsafe``.
    """
    public_key = _decode(text, _RECIPIENT_PREFIX) if text == text.lower() else None
    if public_key is None:
        raise RecipientError(
            "age_recipient_invalid",
            "This is not an age recipient: age1 and 58 more lower-case characters, of an X25519 key. Keys of "
            "plugins, hybrid and SSH keys are not taken; make one with age-keygen.",
        )
    require_safe(public_key)
    return public_key


def parse_identity(text: str) -> bytes:
    """Read ``AGE-SECRET-KEY-1…`` into 32 secret bytes. The text never appears in the error.

    Raises:
        RecipientError: ``age_identity_invalid``.
    """
    identity = _decode(text.lower(), _IDENTITY_PREFIX) if text == text.upper() else None
    if identity is None:
        raise RecipientError(
            "age_identity_invalid", "This is not an age identity: AGE-SECRET-KEY-1 and 58 more capitals."
        )
    return identity


def require_safe(public_key: bytes) -> None:
    """Check that a public key is canonical and not of low order.

    Raises:
        RecipientError: ``age_recipient_unsafe``.
    """
    unsafe = RecipientError("age_recipient_unsafe", "This age recipient is not a sound X25519 key.")
    # A second spelling of a point would be hashed differently by the reader, who could not open the file.
    if int.from_bytes(public_key, "little") >= _FIELD_PRIME:
        raise unsafe
    try:
        crypto_scalarmult(_PROBE, public_key)
    except RuntimeError:  # libsodium's answer to an all-zero result
        raise unsafe from None


def _checksum(values: list[int]) -> int:
    checksum = 1
    for value in values:
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value ^ _FEEDBACK[checksum >> 25]
    return checksum


def _expanded(prefix: str) -> list[int]:
    return [ord(one) >> 5 for one in prefix] + [0] + [ord(one) & 31 for one in prefix]


def _encode(prefix: str, key: bytes) -> str:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    # 256 bits are 51 groups of five and one bit, which is padded with four zero bits.
    number = int.from_bytes(key) << 4
    values = [number >> shift & 31 for shift in range(255, -1, -5)]
    checksum = _checksum(_expanded(prefix) + values + [0] * _CHECKSUM_CHARS) ^ 1
    values += [checksum >> shift & 31 for shift in range(25, -1, -5)]
    return f"{prefix}1{''.join(_CHARSET[value] for value in values)}"


def _decode(text: str, prefix: str) -> bytes | None:
    body = text.removeprefix(f"{prefix}1")
    if (
        len(text) > TEXT_CHARS_MAX
        or len(text) - len(body) != len(prefix) + 1
        or not set(body) <= _VALUES.keys()
    ):
        return None
    values = [_VALUES[character] for character in body]
    if _checksum(_expanded(prefix) + values) != 1:
        return None
    values = values[:-_CHECKSUM_CHARS]
    number = 0
    for value in values:
        number = number << 5 | value
    padding_bits = len(values) * 5 - KEY_BYTES * 8
    if padding_bits != 4 or number & 0xF:  # noqa: PLR2004 - 52 groups of five bits carry 256 and four zeros
        return None
    return (number >> 4).to_bytes(KEY_BYTES)
