"""No single bit of a delivery can change unnoticed: of its manifest, its header, its payload.

``age`` is asked about the same spoiled files where it is installed: what we refuse, it refuses.
"""

import io
import json
import shutil
import subprocess
from datetime import UTC, datetime

import pytest

from cluster.client import ClientError
from cluster.trust import TrustedKeys
from cluster.verification import open_delivery_manifest
from domain import delivery_manifests
from domain.delivery_manifests import FileDigest
from domain.dsse import sign_all
from domain.statements import PAYLOAD_TYPE
from storage.age.errors import AgeError
from storage.age.files import decrypt
from storage.age.header import wrap_file_key
from storage.age.payload import encrypt_payload
from storage.age.recipients import identity_text, public_half, recipient_text
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.documents import delivery_manifest

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
IDENTITY, FILE_KEY = b"i" * 32, b"f" * 16
PLAINTEXT = b"a small bundle " * 20
RECORD = register(SIGNER.public_key, datetime(2026, 1, 1, tzinfo=UTC))
TRUSTED = TrustedKeys({RECORD.key_id: RECORD}, "test")
FOUR_KIB = 4_096


def sealed():
    header = wrap_file_key(FILE_KEY, public_half(IDENTITY), ephemeral=b"e" * 32)
    payload = io.BytesIO()
    digest = encrypt_payload(FILE_KEY, io.BytesIO(PLAINTEXT), payload, nonce=b"n" * 16)
    manifest = delivery_manifest(
        header=header,
        recipient=recipient_text(public_half(IDENTITY)),
        payload=FileDigest(digest.payload_size, digest.payload_sha256),
        plaintext=FileDigest(digest.plaintext_size, digest.plaintext_sha256),
    )
    (envelope,) = sign_all(SIGNER, PAYLOAD_TYPE, [delivery_manifests.build(manifest)])
    return header, payload.getvalue(), envelope.dumps()


HEADER, PAYLOAD, ENVELOPE = sealed()


def flips(data):
    for at in range(len(data)):
        for bit in range(8):
            spoiled = bytearray(data)
            spoiled[at] ^= 1 << bit
            yield at, bytes(spoiled)


def opens(envelope):
    try:
        open_delivery_manifest(envelope.decode("utf-8", "replace"), TRUSTED)
    except ClientError:
        return False
    return True


def decrypts(data, out):
    try:
        decrypt(io.BytesIO(data), IDENTITY, out)
    except AgeError:
        return False
    return True


def test_every_flipped_bit_of_the_manifest_is_refused():
    data = ENVELOPE.encode()
    assert len(data) < FOUR_KIB
    assert open_delivery_manifest(ENVELOPE, TRUSTED).header == HEADER
    assert [at for at, spoiled in flips(data) if opens(spoiled)] == []


def test_every_other_byte_in_the_manifests_place_is_refused():
    """Any value, not only flips, of a byte in each member."""
    envelope = json.loads(ENVELOPE)
    for member in (envelope["payload"], envelope["payloadType"], *envelope["signatures"][0].values()):
        at = ENVELOPE.index(member) + len(member) // 2
        for value in set(range(256)) - {ord(ENVELOPE[at])}:
            spoiled = ENVELOPE.encode()[:at] + bytes([value]) + ENVELOPE.encode()[at + 1 :]
            assert not opens(spoiled), (member[:10], value)


def test_every_flipped_bit_of_the_header_and_the_payload_is_refused():
    whole = HEADER + PAYLOAD
    out = io.BytesIO()
    decrypt(io.BytesIO(whole), IDENTITY, out)
    assert out.getvalue() == PLAINTEXT
    for at, spoiled in flips(whole):
        out = io.BytesIO()
        assert not decrypts(spoiled, out), at
        assert out.getvalue() == b""  # one chunk: nothing of it is released


def test_every_cut_of_a_delivery_is_refused():
    whole = HEADER + PAYLOAD
    for end in range(len(whole)):
        with pytest.raises(AgeError):
            decrypt(io.BytesIO(whole[:end]), IDENTITY, io.BytesIO())
    with pytest.raises(AgeError):
        decrypt(io.BytesIO(whole + b"x"), IDENTITY, io.BytesIO())


needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="there is no age here")


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key.txt"
    path.write_text(identity_text(IDENTITY) + "\n")
    return path


@needs_age
def test_age_opens_ours_and_refuses_it_spoiled(key):
    def opened(data):
        return subprocess.run(["age", "-d", "-i", key], input=data, capture_output=True, check=False)

    assert opened(HEADER + PAYLOAD).stdout == PLAINTEXT
    whole = bytearray(HEADER + PAYLOAD)
    for at in (0, 30, 90, len(HEADER) - 2, len(HEADER), len(HEADER) + 16, len(whole) - 1):
        spoiled = bytes(whole[:at]) + bytes([whole[at] ^ 1]) + bytes(whole[at + 1 :])
        answer = opened(spoiled)
        assert answer.returncode != 0, at


@needs_age
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_we_open_what_age_makes(size):
    plaintext = bytes(range(256)) * (size // 256) + bytes(size % 256)
    recipient = recipient_text(public_half(IDENTITY))
    made = subprocess.run(["age", "-r", recipient], input=plaintext, capture_output=True, check=True)
    out = io.BytesIO()
    decrypt(io.BytesIO(made.stdout), IDENTITY, out)
    assert out.getvalue() == plaintext
    spoiled = bytearray(made.stdout)
    spoiled[-1] ^= 1
    with pytest.raises(AgeError):
        decrypt(io.BytesIO(bytes(spoiled)), IDENTITY, io.BytesIO())


@needs_age
def test_we_open_what_age_makes_for_several(tmp_path):
    others = []
    for number in range(3):
        path = tmp_path / f"other-{number}"
        subprocess.run(["age-keygen", "-o", path], capture_output=True, check=True)
        public = subprocess.run(["age-keygen", "-y", path], capture_output=True, text=True, check=True)
        others += ["-r", public.stdout.strip()]
    ours = recipient_text(public_half(IDENTITY))
    made = subprocess.run(
        ["age", *others, "-r", ours], input=b"for four", capture_output=True, check=True
    ).stdout
    out = io.BytesIO()
    decrypt(io.BytesIO(made), IDENTITY, out)
    assert out.getvalue() == b"for four"
