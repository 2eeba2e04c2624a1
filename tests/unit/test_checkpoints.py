"""Checkpoints as signed notes, and proof files: what is written is read, and nothing else."""

import base64
import shutil
import subprocess

import pytest

from domain.audit import checkpoints, entries, proof_files
from domain.audit.checkpoints import Checkpoint, CheckpointError
from domain.audit.proofs import LogProof, proof_json, read_proof
from domain.errors import RejectedError
from domain.merkle.tree import EMPTY_HEAD, GrowingTree, Head
from domain.strict_json import DocumentError
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, verify
from tests.fakes.audit_proofs import KEY, ORIGIN, SALT, proof_file

OTHER = DevelopmentKeyFile(b"t" * 32, b"w" * 32)
HEAD = Head(4711, bytes(range(32)))
NOTE = checkpoints.sign(Checkpoint(ORIGIN, HEAD), KEY)


def refused(note, *trusted):
    with pytest.raises(CheckpointError) as told:
        checkpoints.open_note(note, trusted or (KEY.public_key,), verify)
    return told.value.code


def test_a_note_is_as_the_specification_writes_it():
    text, line = NOTE.split("\n\n")
    assert text == f"{ORIGIN}\n4711\n{base64.b64encode(HEAD.root).decode()}"
    assert line.startswith(f"— {ORIGIN} ")
    assert line.endswith("\n")
    assert checkpoints.open_note(NOTE, [OTHER.public_key, KEY.public_key], verify) == (
        Checkpoint(ORIGIN, HEAD),
        KEY.public_key,
    )
    assert checkpoints.read(NOTE) == Checkpoint(ORIGIN, HEAD)


def test_the_key_hash_of_the_specifications_example():
    """sum.golang.org's key, as Go publishes it: name+hash+key."""
    known = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    public_key = base64.b64decode(known.split("+", 2)[2])[1:]
    assert checkpoints.verifier_key("sum.golang.org", public_key) == known


def test_openssl_verifies_a_note(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    text, line = NOTE.split("\n\n")
    (tmp_path / "platform.pem").write_text(public_key_pem(KEY.public_key))
    (tmp_path / "text").write_text(f"{text}\n")
    (tmp_path / "sig").write_bytes(base64.b64decode(line.split(" ")[2])[4:])
    told = subprocess.run(
        [
            "openssl",
            "pkeyutl",
            "-verify",
            "-rawin",
            "-pubin",
            "-inkey",
            "platform.pem",
            "-sigfile",
            "sig",
            "-in",
            "text",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr


def test_every_bit_of_a_note_counts():
    data = NOTE.encode()
    for place in range(len(data)):
        for bit in range(8):
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << bit
            try:
                text = spoilt.decode()
            except UnicodeDecodeError:
                continue
            assert refused(text) in ("checkpoint_invalid", "checkpoint_untrusted")


@pytest.mark.parametrize(
    "note",
    [
        "", "\n", NOTE + "\n", "\n" + NOTE, NOTE[:-1], NOTE.replace("4711", "04711"),
        NOTE.replace("4711", "٤٧"),
        NOTE.replace("4711", "4711 "), NOTE.replace("\n\n", "\nextension\n\n"), NOTE.replace("— ", "- "),
        NOTE.replace("\n\n", "\r\n\r\n"), NOTE.replace("4711", str(2**53)),
        NOTE.partition("\n\n")[0] + "\n\n",
        NOTE.replace(f"— {ORIGIN} ", f"— {ORIGIN}  "), NOTE + NOTE.split("\n\n")[1] * 16, NOTE + "x" * 5_000,
    ],
)  # fmt: skip
def test_other_spellings_are_refused(note):
    assert refused(note) == "checkpoint_invalid"


def test_unknown_signatures_are_passed_over_and_wrong_ones_are_not():
    witness = f"— witness.example {base64.b64encode(b'1234' + b'x' * 72).decode()}\n"
    assert checkpoints.open_note(NOTE + witness, [KEY.public_key], verify)[0].head == HEAD
    assert refused(NOTE, OTHER.public_key) == "checkpoint_untrusted"
    assert refused(NOTE.replace("4711", "4712")) == "checkpoint_untrusted"
    forged = checkpoints.key_hash(ORIGIN, KEY.public_key) + b"x" * 64
    line = f"— {ORIGIN} {base64.b64encode(forged).decode()}\n"
    assert refused(NOTE + line) == "checkpoint_untrusted", "a wrong signature beside a good one"
    text = NOTE.partition("\n\n")[0]
    assert refused(f"{text}\n\n{witness}") == "checkpoint_untrusted"


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "a\nb", "DSSEv1 28 x", "ü", "x" * 129])
def test_no_other_document_can_be_signed_as_a_checkpoint(origin):
    assert not checkpoints.is_origin(origin)
    with pytest.raises(CheckpointError):
        checkpoints.sign(Checkpoint(origin, HEAD), KEY)
    with pytest.raises(CheckpointError):
        checkpoints.sign(Checkpoint(ORIGIN, Head(-1, HEAD.root)), KEY)
    with pytest.raises(CheckpointError):
        checkpoints.sign(Checkpoint(ORIGIN, Head(1, b"short")), KEY)


def test_the_empty_log_has_a_checkpoint():
    note = checkpoints.sign(Checkpoint(ORIGIN, EMPTY_HEAD), KEY)
    assert checkpoints.read(note).head == EMPTY_HEAD


def test_a_proof_file_is_checked_by_itself():
    file = proof_files.read(proof_file().dumps())
    assert file == proof_file()
    assert file.check([KEY.public_key], verify).head.size == 6
    with pytest.raises(CheckpointError):
        file.check([OTHER.public_key], verify)


def test_every_bit_of_a_proof_file_counts():
    data = proof_file().dumps()
    for place in range(len(data)):
        for bit in (0, 1, 2, 5, 6):
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << bit
            with pytest.raises(RejectedError):
                proof_files.read(bytes(spoilt)).check([KEY.public_key], verify)


@pytest.mark.parametrize(
    "change",
    [
        {"position": -1}, {"position": "2"}, {"position": True}, {"size": 0}, {"size": 2**53}, {"salt": ""},
        {"salt": "AAAA"}, {"salt": None}, {"path": "x"}, {"path": [""]}, {"path": [None]}, {"path": ["AAAA"]},
        {"path": [base64.b64encode(bytes(32)).decode()] * 65}, {"more": 1},
        {"path": [base64.urlsafe_b64encode(b"\xff" * 32).decode()]},
    ],
)  # fmt: skip
def test_a_malformed_proof_is_refused(change):
    members = proof_json(proof_file().proof)
    with pytest.raises(DocumentError):
        read_proof(members | change)


def test_a_proof_of_another_kind_of_document_does_not_pass():
    salted = entries.leaf_of(SALT, entries.document_record(entries.LICENCE, "{}"))
    tree = GrowingTree()
    tree.append(salted)
    proof = LogProof(0, SALT, 1, ())
    assert proof.holds_document(tree.head, entries.LICENCE, "{}")
    assert not proof.holds_document(tree.head, entries.DELIVERY, "{}")
    assert not proof.holds_document(Head(2, tree.root), entries.LICENCE, "{}")
