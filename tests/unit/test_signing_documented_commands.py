"""What others' tools say of our documents: every command of docs/formats.md, and securesystemslib.

The documented shell blocks run in their order in one folder that holds what a buyer has received.
"""

import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope as IndependentEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # upstream lists no __all__

from domain import delivery_manifests, key_lists, licences, manifests, revocations
from domain.delivery_manifests import FileDigest
from domain.dsse import Envelope, pae, sign_all, signing_key
from domain.revocations import RevocationList
from domain.statements import PAYLOAD_TYPE
from storage.age.header import wrap_file_key
from storage.age.payload import encrypt_payload
from storage.age.recipients import identity_text, public_half, recipient_text
from storage.signing import minisig
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register, verify
from tests.fakes.documents import ISSUED_AT, delivery_manifest, licence, release_manifest

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
IDENTITY = bytes(range(32))
BUNDLE = b"a bundle, " * 20_000
NAME = "logline-1.2.0.tar.gz"
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
LISTED = RevocationList(7, ISSUED_AT, ISSUED_AT + timedelta(days=1), 0, ["lic_a"])
KEY = register(SIGNER.public_key, ISSUED_AT)
KEY_LIST = key_lists.reissue(key_lists.add(key_lists.EMPTY, KEY), ISSUED_AT)
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
TOOLS = ("openssl", "minisign", "age", "sha256sum")


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    # Dash's pipelines hide failures of their first part, as a reader's shell would; the checks come last.
    return subprocess.run(
        ["sh", "-eu", "-c", script], cwd=folder, capture_output=True, text=True, timeout=20, check=False
    )


def receive(folder: Path) -> None:
    """Lay out what a buyer has: a licence, a delivery with its payload, and the platform's public keys."""
    file_key, recipient = b"f" * 16, public_half(IDENTITY)
    payload = io.BytesIO()
    digest = encrypt_payload(file_key, io.BytesIO(BUNDLE), payload, nonce=b"n" * 16)
    sha256 = hashlib.sha256(BUNDLE).hexdigest()
    manifest = delivery_manifest(
        recipient=recipient_text(recipient),
        header=wrap_file_key(file_key, recipient),
        payload=FileDigest(digest.payload_size, digest.payload_sha256),
        plaintext=FileDigest(len(BUNDLE), sha256),
        file_name=NAME,
    )
    (issued,) = sign_all(SIGNER, licences.PAYLOAD_TYPE, [licences.build(licence(bundle_sha256=sha256))])
    (delivery,) = sign_all(SIGNER, PAYLOAD_TYPE, [delivery_manifests.build(manifest)])
    folder.joinpath("licence.txt").write_text(licences.armour(issued.dumps()))
    folder.joinpath("delivery.json").write_text(delivery.dumps())
    folder.joinpath(f"{NAME}.age-payload").write_bytes(payload.getvalue())
    folder.joinpath(f"{NAME}.minisig").write_text(
        minisig.sign(SIGNER, hashlib.blake2b(BUNDLE).digest(), "logline 1.2.0")
    )
    folder.joinpath("platform.pem").write_text(public_key_pem(SIGNER.public_key))
    folder.joinpath("minisign.pub").write_text(minisig.public_key_text(SIGNER.public_key))
    folder.joinpath("key.txt").write_text(identity_text(IDENTITY) + "\n")


def needs(script: str) -> list[str]:
    return [tool for tool in TOOLS if re.search(rf"\b{tool}\b ", script) and shutil.which(tool) is None]


def test_the_page_has_its_blocks() -> None:
    assert [sum(tool in block for block in BLOCKS) > 0 for tool in TOOLS] == [True] * 4
    assert len(BLOCKS) == 5


def test_openssl_agrees_on_a_licence_and_a_delivery(tmp_path: Path) -> None:
    if missing := needs(BLOCKS[0]):
        pytest.skip(f"not installed: {', '.join(missing)}")
    receive(tmp_path)
    for block in BLOCKS[:2]:
        done = run(tmp_path, block)
        assert done.returncode == 0, done.stderr
        assert "Signature Verified Successfully" in done.stdout
    # Another licence under the same signature is refused by the same commands.
    (other,) = sign_all(SIGNER, licences.PAYLOAD_TYPE, [licences.build(licence(quantity=99))])
    (first,) = sign_all(SIGNER, licences.PAYLOAD_TYPE, [licences.build(licence())])
    forged = Envelope(first.payload_type, other.payload, first.signatures)
    tmp_path.joinpath("licence.txt").write_text(licences.armour(forged.dumps()))
    assert run(tmp_path, BLOCKS[0]).returncode != 0


def test_all_documented_commands_hold_in_their_order(tmp_path: Path) -> None:
    if missing := needs("".join(BLOCKS)):
        pytest.skip(f"not installed: {', '.join(missing)}")
    receive(tmp_path)
    for block in BLOCKS:
        done = run(tmp_path, block)
        assert done.returncode == 0, (block, done.stderr)
    assert tmp_path.joinpath(NAME).read_bytes() == BUNDLE
    # One byte more in the bundle, and neither the digests nor minisign accept it.
    tmp_path.joinpath(NAME).write_bytes(BUNDLE + b"x")
    for block in BLOCKS[-2:]:
        assert run(tmp_path, block).returncode != 0


def test_openssl_refuses_another_key(tmp_path: Path) -> None:
    if missing := needs(BLOCKS[0]):
        pytest.skip(f"not installed: {', '.join(missing)}")
    receive(tmp_path)
    other = DevelopmentKeyFile(b"o" * 32, b"w" * 32)
    tmp_path.joinpath("platform.pem").write_text(public_key_pem(other.public_key))
    assert run(tmp_path, BLOCKS[0]).returncode != 0


def independent_key(signer: DevelopmentKeyFile) -> SSlibKey:
    value = {"public": signer.public_key.hex()}
    return SSlibKey(signer.key_id, "ed25519", "ed25519", value)


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        (licences.PAYLOAD_TYPE, licences.build(licence())),
        (PAYLOAD_TYPE, manifests.build(release_manifest())),
        (PAYLOAD_TYPE, delivery_manifests.build(delivery_manifest())),
        (revocations.PAYLOAD_TYPE, revocations.build(LISTED)),
        (key_lists.PAYLOAD_TYPE, key_lists.build(KEY_LIST)),
    ],
    ids=["licence", "release", "delivery", "revocations", "key list"],
)
def test_an_independent_library_agrees(payload_type: str, payload: bytes) -> None:
    (envelope,) = sign_all(SIGNER, payload_type, [payload])
    independent = IndependentEnvelope.from_dict(json.loads(envelope.dumps()))
    assert independent.pae() == pae(payload_type, payload)
    assert len(independent.verify([independent_key(SIGNER)], 1)) == 1
    with pytest.raises(VerificationError):
        independent.verify([independent_key(DevelopmentKeyFile(b"o" * 32, b"w" * 32))], 1)
    assert Envelope.parse(json.dumps(independent.to_dict())) == envelope


def test_what_an_independent_library_signs_is_verified() -> None:
    signer = CryptoSigner.generate_ed25519()
    theirs = IndependentEnvelope(manifests.build(release_manifest()), PAYLOAD_TYPE, {})
    theirs.sign(signer)
    envelope = Envelope.parse(json.dumps(theirs.to_dict()))
    public_key = bytes.fromhex(signer.public_key.keyval["public"])
    key_id = register(public_key, ISSUED_AT).key_id
    assert signing_key(envelope, {key_id: public_key}, verify) == key_id
    assert manifests.parse(envelope.payload) == release_manifest()
    other = replace(envelope, payload=envelope.payload.replace(b"logline", b"loglink"))
    assert signing_key(other, {key_id: public_key}, verify) is None
