"""minisign files: ours are read by minisign, and altered ones by nobody."""

import base64
import hashlib
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from domain.strict_json import DocumentError
from storage.signing import minisig
from storage.signing.devfile import DevelopmentKeyFile

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
BUNDLE = bytes(range(256)) * 9_000
COMMENT = "logline 1.2.0 2026-11-24T09:30:00Z"
TEXT = minisig.sign(SIGNER, hashlib.blake2b(BUNDLE).digest(), COMMENT)
DIGEST = minisig.file_digest(io.BytesIO(BUNDLE))


def test_a_signature_reads_back_with_its_comment() -> None:
    assert hashlib.blake2b(BUNDLE).digest() == DIGEST
    assert minisig.check(TEXT, SIGNER.public_key, DIGEST) == COMMENT


def test_every_change_is_refused_except_in_the_untrusted_comment() -> None:
    for position in range(len(TEXT)):
        for change in (1, 6, 32):
            changed = TEXT[:position] + chr(ord(TEXT[position]) ^ change) + TEXT[position + 1 :]
            if changed.split("\n")[1:] == TEXT.split("\n")[1:] and changed.startswith("untrusted comment: "):
                continue
            # The base64 of another alphabet is the same signature; everything else is another one.
            if changed.translate(str.maketrans("-_", "+/")) == TEXT.translate(str.maketrans("-_", "+/")):
                continue
            with pytest.raises(DocumentError):
                minisig.check(changed, SIGNER.public_key, DIGEST)


def test_another_key_or_file_is_refused() -> None:
    other = DevelopmentKeyFile(b"o" * 32, b"w" * 32)
    for public_key, digest in ((other.public_key, DIGEST), (SIGNER.public_key, bytes(64))):
        with pytest.raises(DocumentError) as error:
            minisig.check(TEXT, public_key, digest)
        assert error.value.code == "minisig_refused"


@pytest.mark.parametrize("text", ["", "\n\n\n", TEXT * 2, TEXT.replace("trusted", "x"), "x" * 3_000])
def test_malformed_files_are_refused(text: str) -> None:
    with pytest.raises(DocumentError) as error:
        minisig.check(text, SIGNER.public_key, DIGEST)
    assert error.value.code == "minisig_malformed"


@pytest.mark.parametrize("comment", ["two\nlines", "\x1b[2J", "x" * 513])
def test_comments_are_one_short_printable_line(comment: str) -> None:
    with pytest.raises(DocumentError) as error:
        minisig.sign(SIGNER, DIGEST, comment)
    assert error.value.code == "comment_invalid"


def test_minisign_itself_agrees(tmp_path: Path) -> None:
    minisign = shutil.which("minisign")
    if minisign is None:
        pytest.skip("minisign is not installed")
    bundle, public_key = tmp_path / "bundle", tmp_path / "minisign.pub"
    bundle.write_bytes(BUNDLE)
    tmp_path.joinpath("bundle.minisig").write_text(TEXT)
    public_key.write_text(minisig.public_key_text(SIGNER.public_key))
    command = [minisign, "-V", "-p", str(public_key), "-m", str(bundle)]
    accepted = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert accepted.returncode == 0, accepted.stderr
    assert COMMENT in accepted.stdout
    bundle.write_bytes(BUNDLE + b"x")
    assert subprocess.run(command, capture_output=True, timeout=10, check=False).returncode != 0
    bundle.write_bytes(BUNDLE)
    tmp_path.joinpath("bundle.minisig").write_text(TEXT.replace("1.2.0", "1.2.1"))
    assert subprocess.run(command, capture_output=True, timeout=10, check=False).returncode != 0


def test_we_verify_what_minisign_signs(tmp_path: Path) -> None:
    minisign = shutil.which("minisign")
    if minisign is None:
        pytest.skip("minisign is not installed")
    bundle, public, secret = tmp_path / "bundle", tmp_path / "minisign.pub", tmp_path / "minisign.key"
    bundle.write_bytes(b"signed by the tool itself")
    subprocess.run([minisign, "-G", "-W", "-p", public, "-s", secret], capture_output=True, check=True)
    subprocess.run(
        [minisign, "-S", "-s", secret, "-m", bundle, "-t", "file:bundle"], capture_output=True, check=True
    )
    whole = base64.b64decode(public.read_text().splitlines()[1])
    number, key = whole[2:10], whole[10:]
    text = (tmp_path / "bundle.minisig").read_text()
    with bundle.open("rb") as file:
        digest = minisig.file_digest(file)
    assert minisig.check(text, key, digest, number) == "file:bundle"
    with pytest.raises(DocumentError):
        minisig.check(text, key, digest[:-1] + bytes([digest[-1] ^ 1]), number)
