"""The published delivery vector: made anew it is the same, and implementations that are not ours open it."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import pyrage
import pytest
from nacl.signing import VerifyKey

from cluster.vectors import PATH, delivery_vector, plaintext
from domain.dsse import pae
from storage.age.errors import AgeError
from storage.age.files import decrypt
from storage.age.recipients import parse_identity

ROOT = Path(__file__).parents[2]
VECTOR = json.loads((ROOT / PATH).read_text(encoding="utf-8"))
SCRIPT = ROOT / "docs" / "vectors" / "open-delivery.mjs"
SHA256 = hashlib.sha256(plaintext()).hexdigest()


def whole_file():
    return base64.b64decode(VECTOR["opening"]["header_base64"]) + base64.b64decode(VECTOR["payload_base64"])


def test_the_vector_is_what_the_command_makes():
    assert json.loads(json.dumps(delivery_vector())) == VECTOR


def test_our_reader_opens_it():
    out = io.BytesIO()
    digest = decrypt(io.BytesIO(whole_file()), parse_identity(VECTOR["identity"]), out)
    assert out.getvalue() == plaintext()
    assert VECTOR["plaintext"] == {"size": digest.plaintext_size, "sha256": digest.plaintext_sha256}


def test_pyrage_opens_it():
    identity = pyrage.x25519.Identity.from_str(VECTOR["identity"])
    assert pyrage.decrypt(whole_file(), [identity]) == plaintext()


@pytest.mark.skipif(shutil.which("age") is None, reason="there is no age here")
def test_age_opens_it(tmp_path):
    key = tmp_path / "key.txt"
    key.write_text(VECTOR["identity"] + "\n")
    opened = subprocess.run(["age", "-d", "-i", key], input=whole_file(), capture_output=True, check=True)
    assert opened.stdout == plaintext()


def test_libsodium_verifies_its_manifest():
    envelope = VECTOR["opening"]["manifest"]
    key = VerifyKey(base64.b64decode(VECTOR["platform_public_key"]))
    message = pae(envelope["payloadType"], base64.b64decode(envelope["payload"]))
    key.verify(message, base64.b64decode(envelope["signatures"][0]["sig"]))


@pytest.fixture(scope="module")
def node():
    """What an implementation in JavaScript says: opened whole, and refused however it is spoiled."""
    if shutil.which("node") is None:
        pytest.skip("there is no node here")
    driver = Path(__file__).with_name("open_vector.mjs")
    done = subprocess.run(
        ["node", driver, SCRIPT, ROOT / PATH], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_browsers_script_opens_it_in_pieces_of_any_size(node):
    assert [one.get("opened") for one in node["whole"]] == [SHA256] * 4
    assert {one["delivery"] for one in node["whole"]} == {VECTOR["opening"]["id"]}


def test_a_browsers_script_refuses_it_spoiled(node):
    assert len(node["refused"]) == len(VECTOR["refused"])
    for one in node["refused"]:
        assert "refused" in one, one["what"]
        assert "opened" not in one, one["what"]


def test_a_browsers_script_believes_the_manifest_alone(node):
    assert node["unsigned"]["opened"] == SHA256


def test_a_browser_without_x25519_computes_the_same(node):
    assert node["same"] is True


@pytest.mark.parametrize(
    "spoilt", [one for one in VECTOR["refused"] if one["part"] == "payload"], ids=lambda one: one["what"]
)
def test_our_reader_refuses_it_spoiled(spoilt):
    payload = bytearray(base64.b64decode(VECTOR["payload_base64"]))
    if "flip" in spoilt:
        payload[spoilt["flip"]] ^= 1
    else:
        del payload[spoilt["cut"] :]
    data = base64.b64decode(VECTOR["opening"]["header_base64"]) + bytes(payload)
    with pytest.raises(AgeError):
        decrypt(io.BytesIO(data), parse_identity(VECTOR["identity"]), io.BytesIO())
