"""Offline licence files: no byte changed, no part replaced, no key believed that was not believed before."""

import base64
import itertools
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from domain import canonical_json, licences, offline_licences, revocations
from domain.audit.entries import document_record, leaf_of
from domain.audit.proofs import LogProof
from domain.dsse import sign_all
from domain.errors import RejectedError
from domain.licence_verification import Revocations, check
from domain.merkle.tree import Head, fold
from domain.offline_licences import ARMOUR_BEGIN, ARMOUR_END, is_offline_licence, open_file, seal_of, write
from domain.revocations import RevocationList
from domain.signing import KeyRecord, KeyState
from domain.strict_json import DocumentError
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.documents import ISSUED_AT, licence

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
KEY = register(SIGNER.public_key, ISSUED_AT - timedelta(days=1))
TRUSTED = {KEY.key_id: KEY}
NOW = ISSUED_AT + timedelta(hours=2)
LICENCE = sign_all(SIGNER, licences.PAYLOAD_TYPE, [licences.build(licence())])[0].dumps()


def listed(signer=SIGNER, **changes):
    one = replace(RevocationList(7, NOW, NOW + timedelta(hours=24), 0, ["lic_a"]), **changes)
    (envelope,) = sign_all(signer, revocations.PAYLOAD_TYPE, [revocations.build(one)])
    return canonical_json.dumps(revocations.document(one, json.loads(envelope.dumps())))


def sealed(seal, signer=SIGNER):
    return sign_all(signer, offline_licences.PAYLOAD_TYPE, [seal.payload()])[0].dumps()


def made(licence_text=LICENCE, revocation_list=None, keys=(KEY,), signer=SIGNER):
    revocation_list = revocation_list or listed()
    envelope = sealed(seal_of(licence_text, revocation_list, keys, NOW), signer)
    return write(envelope, licence_text, revocation_list, keys)


def refusal(text, trusted=TRUSTED):
    with pytest.raises(RejectedError) as error:
        open_file(text, trusted, verify)
    return error.value.code


def parts(text):
    return json.loads(base64.b64decode("".join(text.splitlines()[1:-1])))


def armoured(members):
    body = base64.b64encode(canonical_json.dumps(members)).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join((ARMOUR_BEGIN, *lines, ARMOUR_END, ""))


def test_a_file_answers_without_a_network():
    opened = open_file(made(), TRUSTED, verify)
    assert (opened.licence, opened.issued_at) == (LICENCE, NOW)
    assert opened.expires_at == opened.listed.expires_at == NOW + timedelta(hours=24)
    assert is_offline_licence(made())
    assert not is_offline_licence(licences.armour(LICENCE))
    for now, state in ((NOW, "not_revoked"), (opened.expires_at, "stale")):
        _, report = check(
            opened.licence, opened.keys, verify, revocations=Revocations.of(opened.listed), now=now
        )
        assert report.revocation.state == state
        assert report.acceptable == (state == "not_revoked")
    assert open_file(made().replace("\n", "\r\n"), TRUSTED, verify) == opened


def test_every_changed_byte_is_refused():
    """Each bit of the file, armour and line ends included."""
    text = made()
    data = text.encode()
    assert open_file(text, TRUSTED, verify)
    for position, bit in itertools.product(range(len(data)), range(8)):
        changed = data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
        with pytest.raises(RejectedError):
            open_file(changed.decode("latin-1"), TRUSTED, verify)


def test_every_cut_is_refused():
    text = made()
    for length in range(0, len(text) - 1, 7):
        with pytest.raises(RejectedError):
            open_file(text[:length], TRUSTED, verify)


@pytest.mark.parametrize("name", ["licence", "revocations", "keys"])
def test_no_part_is_replaced_by_another_genuine_one(name):
    older = made(
        sign_all(SIGNER, licences.PAYLOAD_TYPE, [licences.build(licence(quantity=9))])[0].dumps(),
        listed(version=6, revoked=[]),
        (replace(KEY, state=KeyState.RETIRED),),
    )
    mixed = parts(made()) | {name: parts(older)[name]}
    assert refusal(armoured(mixed)) == "offline_licence_untrusted"


def test_keys_inside_take_trust_away_and_never_give_it():
    other = DevelopmentKeyFile(b"o" * 32, b"w" * 32)
    theirs = register(other.public_key, ISSUED_AT - timedelta(days=1))
    forged = made(revocation_list=listed(other), keys=(theirs, KEY), signer=other)
    assert refusal(forged) == "offline_licence_untrusted"
    assert refusal(made(), {}) == "offline_licence_untrusted"
    stolen = KeyRecord(KEY.key_id, KEY.public_key, KeyState.COMPROMISED, KEY.not_before, ISSUED_AT)
    assert refusal(made(keys=(stolen,))) == "offline_licence_untrusted"
    retired = replace(KEY, state=KeyState.RETIRED)
    assert open_file(made(keys=(retired,)), TRUSTED, verify).keys[KEY.key_id].state is KeyState.RETIRED
    both = TRUSTED | {theirs.key_id: theirs}
    told = made(keys=(KEY, KeyRecord(theirs.key_id, theirs.public_key, KeyState.COMPROMISED, NOW, NOW)))
    assert open_file(told, both, verify).keys[theirs.key_id].state is KeyState.COMPROMISED


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("armour_invalid", lambda one: armoured(one).replace("OFFLINE ", "")),
        ("armour_invalid", lambda _: ""),
        ("armour_invalid", lambda _: f"{ARMOUR_BEGIN}\n{ARMOUR_END}\n"),
        ("field_unknown", lambda one: armoured(one | {"more": "x"})),
        ("field_missing", lambda one: armoured({"licence": one["licence"]})),
        ("payload_type_wrong", lambda one: armoured(one | {"envelope": one["licence"]})),
        ("field_invalid", lambda one: armoured(one | {"licence": 7})),
        ("json_malformed", lambda one: armoured(one | {"keys": "x"})),
        ("offline_licence_invalid", lambda one: armoured(one | {"keys": "{}"})),
        (
            "offline_licence_invalid",
            lambda one: armoured(one | {"keys": one["keys"].replace(':"key_', ':"kay_')}),
        ),
    ],
)
def test_bad_input_has_its_own_code(code, change):
    assert refusal(change(parts(made()))) == code


def test_an_inside_with_a_duplicate_key_is_refused():
    body = canonical_json.dumps(parts(made())).replace(b'"keys":', b'"keys":"[]","keys":', 1)
    lines = base64.b64encode(body).decode()
    text = "\n".join(
        (ARMOUR_BEGIN, *[lines[at : at + 64] for at in range(0, len(lines), 64)], ARMOUR_END, "")
    )
    with pytest.raises(DocumentError, match="json_duplicate_key"):
        open_file(text, TRUSTED, verify)


# -- a licence whose key was compromised later -----------------------------------------------------------

NEXT = DevelopmentKeyFile(b"n" * 32, b"w" * 32)
NEXT_KEY = register(NEXT.public_key, ISSUED_AT)
SALT = b"0123456789abcdef"
LEAVES = [leaf_of(SALT, document_record("licence", LICENCE)), *(bytes([n]) * 32 for n in range(2))]
PROOF = LogProof(0, SALT, 3, (LEAVES[1], LEAVES[2]))
HEAD = Head(3, fold([fold(LEAVES[:2]), LEAVES[2]]))
STOLEN = replace(KEY, state=KeyState.COMPROMISED, compromised_at=ISSUED_AT, log=HEAD)
LATER = {KEY.key_id: STOLEN, NEXT_KEY.key_id: NEXT_KEY}


def with_proof(proof=PROOF):
    parts = LICENCE, listed(NEXT), (STOLEN, NEXT_KEY)
    return write(sealed(seal_of(*parts, NOW, proof), NEXT), *parts, proof)


def judged(text, trusted=LATER):
    opened = open_file(text, trusted, verify)
    _, report = check(
        opened.licence,
        opened.keys,
        verify,
        revocations=Revocations.of(opened.listed),
        now=NOW,
        log_proof=opened.log_proof,
    )
    return report.key_state.state, report.acceptable


def test_a_file_with_its_log_proof_answers_for_a_compromised_key():
    assert judged(with_proof()) == ("compromised_later", True)
    assert judged(with_proof(None)) == ("compromised", False)


def test_a_reader_that_did_not_know_of_the_compromise_hears_of_it_and_of_the_log():
    assert judged(with_proof(), LATER | {KEY.key_id: KEY}) == ("compromised_later", True)
    assert judged(with_proof(None), LATER | {KEY.key_id: KEY}) == ("compromised", False)


def test_a_proof_that_leads_elsewhere_proves_nothing():
    for wrong in (
        replace(PROOF, position=1),
        replace(PROOF, size=4),
        replace(PROOF, salt=bytes(16)),
        replace(PROOF, path=PROOF.path[:1]),
        replace(PROOF, path=(*PROOF.path, bytes(32))),
        replace(PROOF, path=PROOF.path[::-1]),
    ):
        assert judged(with_proof(wrong)) == ("compromised", False)
    for log in (Head(3, bytes(32)), Head(2, HEAD.root), None):
        trusted = LATER | {KEY.key_id: replace(STOLEN, log=log)}
        assert judged(with_proof(), trusted) == ("compromised", False)


def test_no_bit_of_a_file_with_a_proof_can_be_changed():
    whole = with_proof()
    members = parts(whole)
    for name in members:
        text = members[name]
        for place in range(0, len(text), 1 if name == "log_proof" else 7):
            for bit in (0, 1, 5):
                spoilt = text[:place] + chr(ord(text[place]) ^ (1 << bit)) + text[place + 1 :]
                with pytest.raises(RejectedError):
                    open_file(armoured(members | {name: spoilt}), LATER, verify)
    for name in members:
        with pytest.raises(RejectedError):
            open_file(armoured({one: text for one, text in members.items() if one != name}), LATER, verify)
    with pytest.raises(RejectedError):
        open_file(armoured(parts(with_proof(None)) | {"log_proof": members["log_proof"]}), LATER, verify)
