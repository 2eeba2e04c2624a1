"""Activations and proofs of ownership: exactly what was signed, for one machine, licence and time."""

import base64
import itertools
import json
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest

from domain import activations, canonical_json, ownership
from domain.activations import Activation, build, check, kind_of, life_of, open_envelope, parse
from domain.dsse import sign_all
from domain.licence_policies import LicencePolicy
from domain.ownership import Challenge, open_proof
from domain.signing import KeyRecord, KeyState
from domain.strict_json import DocumentError
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import public_key_pem, register, verify
from tests.fakes.documents import ISSUED_AT

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
KEY = register(SIGNER.public_key, ISSUED_AT - timedelta(days=1))
KEYS = {KEY.key_id: KEY}
SEAT = Activation("lac_1", "lic_1", "machine-1", "seat", ISSUED_AT, ISSUED_AT + timedelta(hours=24))
CHALLENGE = Challenge("lic_1", "ab" * 32, "ownership")


def signed(activation=SEAT, signer=SIGNER):
    return sign_all(signer, activations.PAYLOAD_TYPE, [build(activation)])[0].dumps()


def judged(text, keys=KEYS, **changes):
    facts = {"licence_id": "lic_1", "fingerprint": "machine-1", "now": ISSUED_AT} | changes
    return check(text, keys, verify, **facts)


def test_an_activation_reads_back_and_holds_for_its_machine_licence_and_time():
    assert parse(build(SEAT)) == SEAT
    assert open_envelope(signed())[1] == SEAT
    text = signed()
    assert (judged(text).state, judged(text).acceptable) == ("active", True)
    wrong = {
        "other_machine": {"fingerprint": "machine-2"},
        "other_licence": {"licence_id": "lic_2"},
        "expired": {"now": SEAT.expires_at},
        "not_yet_valid": {"now": ISSUED_AT - timedelta(minutes=6)},
    }
    for state, changes in wrong.items():
        found = judged(text, **changes)
        assert (found.state, found.acceptable) == (state, False)


def test_a_key_that_is_not_ours_or_compromised_is_refused():
    stolen = KeyRecord(KEY.key_id, KEY.public_key, KeyState.COMPROMISED, KEY.not_before, ISSUED_AT)
    retired = replace(KEY, state=KeyState.RETIRED)
    assert judged(signed(), {KEY.key_id: stolen}).state == "compromised"
    assert judged(signed(), {KEY.key_id: retired}).state == "active"
    assert judged(signed(), {}).state == "invalid"
    assert judged(signed(signer=DevelopmentKeyFile(b"o" * 32, b"w" * 32))).state == "invalid"


def test_every_flipped_bit_and_every_cut_is_refused():
    text = signed().encode()
    assert len(text) < 4_096
    for position, bit in itertools.product(range(len(text)), range(8)):
        changed = text[:position] + bytes([text[position] ^ 1 << bit]) + text[position + 1 :]
        try:
            found = judged(changed.decode("latin-1"))
        except DocumentError:
            continue
        assert not found.acceptable, (position, bit)
    for length in range(len(text)):
        with pytest.raises(DocumentError):
            judged(text[:length].decode())


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("json_duplicate_key", lambda one: one.replace(b'"kind"', b'"kind":"seat","kind"')),
        ("json_number_invalid", lambda one: one.replace(b'"machine-1"', b"NaN")),
        ("field_unknown", lambda one: one.replace(b'"kind"', b'"admin":true,"kind"')),
        ("field_missing", lambda one: one.replace(b'"kind":"seat",', b"")),
        ("field_invalid", lambda one: one.replace(b'"seat"', b'"site"')),
        ("field_invalid", lambda one: one.replace(b'"machine-1"', b'"machine 1"')),
        ("json_malformed", lambda one: one[:-1]),
    ],
)
def test_bad_input_has_its_own_code(code, change):
    with pytest.raises(DocumentError) as error:
        parse(change(build(SEAT)))
    assert error.value.code == code


def test_another_kind_of_document_is_no_activation():
    (envelope,) = sign_all(SIGNER, "application/vnd.illuvrse.licence.v1+json", [build(SEAT)])
    with pytest.raises(DocumentError, match="payload_type_wrong"):
        open_envelope(envelope.dumps())


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": ""},
        {"fingerprint": "x" * 129},
        {"kind": "site"},
        {"issued_at": ISSUED_AT + timedelta(microseconds=1)},
    ],
)
def test_what_cannot_be_read_back_is_never_built(changes):
    with pytest.raises(DocumentError):
        build(replace(SEAT, **changes))


def test_floating_licences_are_leased_and_others_seated():
    assert kind_of(LicencePolicy(activation="floating")) == "lease"
    assert {kind_of(LicencePolicy()), kind_of(LicencePolicy(activation="seats"))} == {"seat"}
    assert life_of("lease") < life_of("seat")


# -- proofs --------------------------------------------------------------------------------------------


def proof(challenge=CHALLENGE, signer=SIGNER):
    return sign_all(signer, ownership.PAYLOAD_TYPE, [challenge.payload()])[0].dumps()


def test_a_proof_is_read_in_both_forms_and_judged_by_the_registered_key():
    for form in (proof(), json.loads(proof())):
        found = open_proof(form)
        assert found.challenge == CHALLENGE
        assert found.signed_by(SIGNER.public_key, verify)
        assert not found.signed_by(DevelopmentKeyFile(b"o" * 32, b"w" * 32).public_key, verify)
    assert len(CHALLENGE.nonce_sha256) == 32
    assert CHALLENGE.message().startswith(b"DSSEv1 ")


def test_every_flipped_bit_of_a_proof_is_refused():
    text = proof().encode()
    for position, bit in itertools.product(range(len(text)), range(8)):
        changed = text[:position] + bytes([text[position] ^ 1 << bit]) + text[position + 1 :]
        try:
            found = open_proof(changed.decode("latin-1"))
        except DocumentError:
            continue
        # The owner's tools may write the envelope as they like: the unsigned hint alone may differ.
        if found.signed_by(SIGNER.public_key, verify):
            assert found.challenge == CHALLENGE
            assert replace(found.envelope.signatures[0], key_id=None) == replace(
                open_proof(proof()).envelope.signatures[0], key_id=None
            )


@pytest.mark.parametrize(
    ("code", "document"),
    [
        ("json_duplicate_key", '{"payload":"eA==","payload":"eA=="}'),
        ("json_number_invalid", '{"payload":Infinity}'),
        ("field_invalid", {"payload": 1.5}),
        ("field_invalid", 7.5),
        ("payload_type_wrong", json.loads(signed())),
        ("field_invalid", proof(Challenge("lic_1", "AB" * 32, "ownership"))),
        ("field_invalid", proof(Challenge("lic_1", "ab" * 31, "ownership"))),
        ("field_invalid", proof(Challenge("lic_1", "ab" * 32, "anything"))),
        ("document_too_large", "x" * 20_000),
    ],
)
def test_a_malformed_proof_has_its_own_code(code, document):
    with pytest.raises(DocumentError) as error:
        open_proof(document)
    assert error.value.code == code


def test_the_payload_to_sign_is_canonical():
    assert CHALLENGE.payload() == canonical_json.dumps(json.loads(CHALLENGE.payload()))


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_an_owner_needs_nothing_but_openssl(tmp_path):
    """The challenge's payload as it is shown, framed by a shell's means and signed by another tool's key."""
    key, message = tmp_path / "key.pem", tmp_path / "message"
    key.write_bytes(openssl("genpkey", "-algorithm", "ed25519"))
    public_key = openssl("pkey", "-in", str(key), "-pubout", "-outform", "DER")[-32:]
    payload = CHALLENGE.payload()
    message.write_bytes(
        f"DSSEv1 {len(ownership.PAYLOAD_TYPE)} {ownership.PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    )
    signature = openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(message))
    shown = {
        "payloadType": ownership.PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    found = open_proof(shown)
    assert found.challenge == CHALLENGE
    assert found.signed_by(public_key, verify)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_verifies_an_activation(tmp_path):
    envelope = json.loads(signed())
    payload = base64.b64decode(envelope["payload"])
    (tmp_path / "message").write_bytes(
        f"DSSEv1 {len(activations.PAYLOAD_TYPE)} {activations.PAYLOAD_TYPE} {len(payload)} ".encode()
        + payload
    )
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "platform.pem").write_text(public_key_pem(SIGNER.public_key))
    said = openssl(
        "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(tmp_path / "platform.pem"),
        "-sigfile", str(tmp_path / "sig"), "-in", str(tmp_path / "message"),
    )  # fmt: skip
    assert b"Signature Verified Successfully" in said
