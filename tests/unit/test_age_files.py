"""age files of ours: read by an independent reader, and by ours whatever the sizes and the reads."""

import hashlib
import io
import json
import random
import shutil
import subprocess
from pathlib import Path

import pyrage
import pytest

from storage.age import header as age_header
from storage.age import payload as age_payload
from storage.age.errors import (
    AgeError,
    HeaderError,
    HeaderMacError,
    NoMatchError,
    PayloadError,
    RecipientError,
)
from storage.age.files import decrypt
from storage.age.header import parse_header, unwrap_file_key, wrap_file_key
from storage.age.payload import PayloadDigest, encrypt_payload
from storage.age.recipients import (
    identity_text,
    parse_identity,
    parse_recipient,
    public_half,
    recipient_text,
)
from tests.fakes.documents import VECTORS, VECTORS_ABSENT

IDENTITY = bytes(range(32))
RECIPIENT = public_half(IDENTITY)
FILE_KEY = b"YELLOW SUBMARINE"
NONCE = b"n" * 16
CHUNK = age_payload.CHUNK_BYTES
BLOCK = age_payload.BLOCK_CHUNKS * CHUNK
SIZES = [0, 1, 15, 16, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]


class Dribble:
    """A reader that gives less than it is asked for, as sockets do."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._random = random.Random(7)

    def read(self, size: int, /) -> bytes:
        return self._file.read(self._random.randint(1, min(size, 50_000)))


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def sealed(plaintext: bytes) -> tuple[bytes, PayloadDigest]:
    out = io.BytesIO()
    digest = encrypt_payload(FILE_KEY, io.BytesIO(plaintext), out, nonce=NONCE)
    return out.getvalue(), digest


def opened(file: bytes, identity: bytes = IDENTITY) -> bytes:
    out = io.BytesIO()
    decrypt(io.BytesIO(file), identity, out)
    return out.getvalue()


def pyrage_identity(identity: bytes = IDENTITY) -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.from_str(identity_text(identity))


@pytest.mark.parametrize("size", SIZES)
def test_an_independent_reader_opens_ours_and_we_open_its(size: int) -> None:
    plaintext = content(size)
    payload, digest = sealed(plaintext)
    file = wrap_file_key(FILE_KEY, RECIPIENT) + payload
    assert pyrage.decrypt(file, [pyrage_identity()]) == plaintext
    assert opened(file) == plaintext
    theirs = pyrage.encrypt(plaintext, [pyrage.x25519.Recipient.from_str(recipient_text(RECIPIENT))])
    assert opened(theirs) == plaintext
    assert digest == PayloadDigest(
        size, hashlib.sha256(plaintext).hexdigest(), len(payload), hashlib.sha256(payload).hexdigest()
    )
    assert len(payload) == 16 + size + 16 * max(1, -(-size // CHUNK))


def test_reads_of_any_length_give_the_same() -> None:
    plaintext = content(2 * BLOCK + 7)
    payload, digest = sealed(plaintext)
    out = io.BytesIO()
    assert encrypt_payload(FILE_KEY, Dribble(plaintext), out, nonce=NONCE) == digest
    assert out.getvalue() == payload
    plain = io.BytesIO()
    assert decrypt(Dribble(wrap_file_key(FILE_KEY, RECIPIENT) + payload), IDENTITY, plain) == digest
    assert plain.getvalue() == plaintext


def test_one_payload_serves_many_buyers() -> None:
    payload, _ = sealed(b"bundle")
    for number in range(3):
        identity = bytes([number + 1]) * 32
        file = wrap_file_key(FILE_KEY, public_half(identity)) + payload
        assert opened(file, identity) == b"bundle"
        with pytest.raises(NoMatchError):
            opened(file)


def test_a_header_depends_only_on_its_keys() -> None:
    header = wrap_file_key(FILE_KEY, RECIPIENT, ephemeral=b"e" * 32)
    assert header == wrap_file_key(FILE_KEY, RECIPIENT, ephemeral=b"e" * 32)
    assert header != wrap_file_key(FILE_KEY, RECIPIENT)
    assert len(header) == 168
    parsed = parse_header(header + b"payload")
    assert parsed.size == len(header)
    assert unwrap_file_key(parsed, IDENTITY) == FILE_KEY


def test_every_change_of_the_header_is_refused() -> None:
    header = wrap_file_key(FILE_KEY, RECIPIENT, ephemeral=b"e" * 32)
    payload, _ = sealed(b"x")
    for position in range(len(header)):
        for bit in range(8):
            changed = header[:position] + bytes([header[position] ^ 1 << bit]) + header[position + 1 :]
            with pytest.raises(AgeError):
                opened(changed + payload)
        with pytest.raises(HeaderError):
            opened(header[:position])


def test_every_change_and_cut_of_the_payload_is_refused() -> None:
    header = wrap_file_key(FILE_KEY, RECIPIENT)
    payload, _ = sealed(content(40))
    for position in range(len(payload)):
        changed = payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]
        with pytest.raises(PayloadError):
            opened(header + changed)
        with pytest.raises((PayloadError, HeaderError)):
            opened(header + payload[:position])
    with pytest.raises(PayloadError):
        opened(header + payload + b"x")


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2), (0, 1), (0, 0, 2), (0, 1, 2, 2), (2,), (0, 1, 1)])
def test_chunks_cannot_be_reordered_dropped_or_repeated(order: tuple[int, ...]) -> None:
    plaintext = content(3 * CHUNK)
    payload, _ = sealed(plaintext)
    chunks = [payload[start : start + CHUNK + 16] for start in range(16, len(payload), CHUNK + 16)]
    file = wrap_file_key(FILE_KEY, RECIPIENT) + NONCE + b"".join(chunks[index] for index in order)
    out = io.BytesIO()
    with pytest.raises(PayloadError):
        decrypt(io.BytesIO(file), IDENTITY, out)
    # Only authentic bytes were released, and never the whole.
    assert plaintext.startswith(out.getvalue())
    assert len(out.getvalue()) < len(plaintext)


def test_nothing_of_a_bad_block_is_written_behind_the_last_good_chunk() -> None:
    plaintext = content(BLOCK + 3 * CHUNK)
    bad = BLOCK // CHUNK + 2
    payload = bytearray(sealed(plaintext)[0])
    payload[16 + bad * (CHUNK + 16)] ^= 1  # its first byte
    out = io.BytesIO()
    with pytest.raises(PayloadError, match=f"Chunk {bad}"):
        decrypt(io.BytesIO(wrap_file_key(FILE_KEY, RECIPIENT) + payload), IDENTITY, out)
    assert out.getvalue() == plaintext[: bad * CHUNK]


def test_a_header_by_someone_without_the_file_key_is_refused() -> None:
    header = wrap_file_key(FILE_KEY, RECIPIENT)
    start = header.index(b"--- ") + 4
    forged = header[:start] + b"A" * 43 + b"\n"
    with pytest.raises(HeaderMacError):
        opened(forged + sealed(b"x")[0])


def test_recipients_are_written_as_age_writes_them() -> None:
    assert str(pyrage_identity().to_public()) == recipient_text(RECIPIENT)
    theirs = pyrage.x25519.Identity.generate()
    identity = parse_identity(str(theirs))
    assert identity_text(identity) == str(theirs)
    assert recipient_text(public_half(identity)) == str(theirs.to_public())
    assert parse_recipient(str(theirs.to_public())) == public_half(identity)


GOOD = recipient_text(RECIPIENT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        GOOD.upper(),
        GOOD.capitalize(),
        GOOD[:-1],
        GOOD + "q",
        " " + GOOD,
        GOOD + "\n",
        GOOD.replace("age1", "age2"),
        GOOD.replace("age1", "agf1"),
        GOOD[:10] + "b" + GOOD[11:],
        "age1" + "q" * 58,
        "age1" * 40,
        identity_text(IDENTITY),
        "age1pq1" + GOOD[4:],
        "é" + GOOD,
    ],
)
def test_malformed_recipients_are_refused(text: str) -> None:
    with pytest.raises(RecipientError) as error:
        parse_recipient(text)
    assert error.value.code == "age_recipient_invalid"


def test_every_wrong_character_of_a_recipient_is_noticed() -> None:
    for position in range(4, len(GOOD)):
        for character in "qpzry9x8gf2tvdw0s3jn54khce6mua7l1bio":
            if character != GOOD[position]:
                with pytest.raises(RecipientError):
                    parse_recipient(GOOD[:position] + character + GOOD[position + 1 :])


@pytest.mark.parametrize("text", ["", identity_text(IDENTITY).lower(), identity_text(IDENTITY)[:-1], GOOD])
def test_malformed_identities_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(RecipientError) as error:
        parse_identity(text)
    assert error.value.code == "age_identity_invalid"
    assert not text or text not in str(error.value)


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(RecipientError):
        # The same key with its four padding bits set, and a checksum that fits.
        parse_recipient(recipient_with_padding(RECIPIENT, 0xF))
    assert parse_recipient(recipient_with_padding(RECIPIENT, 0)) == RECIPIENT


def recipient_with_padding(public_key: bytes, padding: int) -> str:
    charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    number = int.from_bytes(public_key) << 4 | padding
    values = [number >> shift & 31 for shift in range(255, -1, -5)]
    prefix = [3, 3, 3, 0, 1, 7, 5]
    checksum = 1
    for value in [*prefix, *values, 0, 0, 0, 0, 0, 0]:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, one in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= one if top >> bit & 1 else 0
    checksum ^= 1
    values += [checksum >> shift & 31 for shift in range(25, -1, -5)]
    return "age1" + "".join(charset[value] for value in values)


LOW_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
)
NOT_CANONICAL = (
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0900000000000000000000000000000000000000000000000000000000000080",
)


@pytest.mark.parametrize("point", [*LOW_ORDER, *NOT_CANONICAL])
def test_unsafe_recipients_are_refused(point: str) -> None:
    with pytest.raises(RecipientError) as error:
        parse_recipient(recipient_text(bytes.fromhex(point)))
    assert error.value.code == "age_recipient_unsafe"


@pytest.mark.parametrize("point", LOW_ORDER)
def test_no_file_key_is_wrapped_for_a_low_order_point(point: str) -> None:
    with pytest.raises(RecipientError):
        wrap_file_key(FILE_KEY, bytes.fromhex(point))


def test_wrong_lengths_are_the_callers_mistake() -> None:
    for file_key, recipient in ((b"short", RECIPIENT), (FILE_KEY, b"short")):
        with pytest.raises(ValueError, match="bytes"):
            wrap_file_key(file_key, recipient)
    with pytest.raises(ValueError, match="nonce"):
        encrypt_payload(FILE_KEY, io.BytesIO(), io.BytesIO(), nonce=b"short")
    with pytest.raises(ValueError, match="bytes"):
        recipient_text(b"short")


@pytest.mark.parametrize(
    "head",
    [
        b"age-encryption.org/v1\n--- " + b"A" * 43 + b"\n",
        b"age-encryption.org/v1\n" + b"-> grease x\n\n" * 65,
        b"age-encryption.org/v1\n-> x " + b"y" * 70_000 + b"\n\n",
        b"age-encryption.org/v1\n-> x\n" + b"A" * 70_000,
    ],
    ids=["no stanza", "many stanzas", "long argument", "long body"],
)
def test_headers_are_bounded_and_never_empty(head: bytes) -> None:
    with pytest.raises(HeaderError):
        parse_header(head)


def test_wycheproof_hkdf_agrees() -> None:
    path = VECTORS / "wycheproof" / "hkdf_sha256_test.json"
    if not path.is_file():
        pytest.skip(VECTORS_ABSENT)
    count = 0
    for group in json.loads(path.read_text(encoding="utf-8"))["testGroups"]:
        for case in group["tests"]:
            if case["size"] <= 32 and case["result"] == "valid":
                ikm, salt, info = (bytes.fromhex(case[name]) for name in ("ikm", "salt", "info"))
                assert age_header.hkdf(ikm, salt, info)[: case["size"]].hex() == case["okm"]
                count += 1
    assert count > 10


def test_age_itself_opens_ours(tmp_path: Path) -> None:
    age = shutil.which("age")
    if age is None:
        pytest.skip("age is not installed")
    key, file = tmp_path / "key.txt", tmp_path / "bundle.age"
    key.write_text(identity_text(IDENTITY) + "\n")
    plaintext = content(3 * CHUNK + 5)
    file.write_bytes(wrap_file_key(FILE_KEY, RECIPIENT) + sealed(plaintext)[0])
    done = subprocess.run(
        [age, "-d", "-i", str(key), str(file)], capture_output=True, timeout=10, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == plaintext
