"""No signed document passes for another, no key for one of another kind: each reader takes its own only."""

import itertools
import json
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import timedelta

import pytest

from actors.publisher.sealing import ReleaseSealer
from domain import activations, canonical_json, key_lists, licences, offline_licences, revocations
from domain.activations import SEAT, Activation
from domain.dsse import Envelope, Signature, pae
from domain.errors import RejectedError
from domain.key_lists import EMPTY
from domain.licence_verification import check
from domain.offline_licences import open_file, seal_of, write
from domain.ownership import PAYLOAD_TYPE as PROOF_TYPE
from domain.ownership import Challenge, open_proof
from domain.revocations import RevocationList
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.documents import ISSUED_AT, licence

PLATFORM, SELLER, ROOT, OWNER = (DevelopmentKeyFile(one * 32, b"w" * 32) for one in (b"p", b"s", b"r", b"o"))
KEY = register(PLATFORM.public_key, ISSUED_AT)
KEYS = {KEY.key_id: KEY}
PUBLIC = {KEY.key_id: KEY.public_key}
LISTED = RevocationList(7, ISSUED_AT, ISSUED_AT + timedelta(hours=24), 0, ["lic_a"])
KEY_LIST = key_lists.reissue(key_lists.activate(key_lists.add(EMPTY, KEY), KEY.key_id), ISSUED_AT)
LICENCE = ReleaseSealer(PLATFORM, PLATFORM).sign_licensing(licence())
REVOCATIONS = canonical_json.dumps(
    revocations.document(LISTED, json.loads(ReleaseSealer(PLATFORM, PLATFORM).sign_revocations(LISTED)))
)
SEAL = seal_of(LICENCE, REVOCATIONS, [KEY], ISSUED_AT)
PAYLOADS = {
    licences.PAYLOAD_TYPE: licences.build(licence()),
    activations.PAYLOAD_TYPE: activations.build(
        Activation("lac_1", licence().licence_id, "m1", SEAT, ISSUED_AT, ISSUED_AT + timedelta(hours=24))
    ),
    revocations.PAYLOAD_TYPE: revocations.build(LISTED),
    offline_licences.PAYLOAD_TYPE: SEAL.payload(),
    key_lists.PAYLOAD_TYPE: key_lists.build(KEY_LIST),
    PROOF_TYPE: Challenge(licence().licence_id, "0" * 64, "ownership").payload(),
}


def read_licence(text):
    _, report = check(text, KEYS, verify, revocations=None, now=ISSUED_AT)
    return report.signature.acceptable


def read_activation(text):
    asked = {"licence_id": licence().licence_id, "fingerprint": "m1", "now": ISSUED_AT}
    return activations.check(text, KEYS, verify, **asked).acceptable


def read_revocations(text):
    return revocations.open_document(
        canonical_json.dumps(revocations.document(LISTED, json.loads(text))), PUBLIC, verify
    )


def read_offline(text):
    return open_file(write(text, LICENCE, REVOCATIONS, [KEY]), KEYS, verify)


def read_key_list(text):
    return key_lists.open_list(text, ROOT.public_key, verify)


def read_proof(text):
    return open_proof(text).signed_by(OWNER.public_key, verify)


READERS = {
    licences.PAYLOAD_TYPE: (read_licence, PLATFORM),
    activations.PAYLOAD_TYPE: (read_activation, PLATFORM),
    revocations.PAYLOAD_TYPE: (read_revocations, PLATFORM),
    offline_licences.PAYLOAD_TYPE: (read_offline, PLATFORM),
    key_lists.PAYLOAD_TYPE: (read_key_list, ROOT),
    PROOF_TYPE: (read_proof, OWNER),
}
NAMES = {one: one.rpartition(".illuvrse.")[2] for one in READERS}


def signed(payload_type, payload, signer, hint=None):
    (signature,) = signer.sign_many([pae(payload_type, payload)])
    return Envelope(payload_type, payload, (Signature(hint or signer.key_id, signature),)).dumps()


def accepted(read, text):
    try:
        return bool(read(text))
    except RejectedError:
        return False


@pytest.mark.parametrize("kind", READERS, ids=NAMES.get)
def test_each_reader_takes_its_own_document_by_its_own_key(kind):
    read, signer = READERS[kind]
    assert accepted(read, signed(kind, PAYLOADS[kind], signer))


OTHERS = [
    (kind, thief)
    for kind, (_, signer) in READERS.items()
    for thief in (PLATFORM, SELLER, ROOT, OWNER)
    if thief is not signer
]


@pytest.mark.parametrize(("kind", "thief"), OTHERS)
def test_a_key_of_another_kind_signs_nothing_that_counts(kind, thief):
    read, signer = READERS[kind]
    for hint in (thief.key_id, signer.key_id):  # the id in an envelope is not signed
        assert not accepted(read, signed(kind, PAYLOADS[kind], thief, hint))


@pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(READERS, 2)))
def test_a_document_of_one_kind_is_none_of_another(kind, other):
    read, signer = READERS[kind]
    assert not accepted(read, signed(other, PAYLOADS[other], signer)), "as it is"
    relabelled = Envelope.parse(signed(other, PAYLOADS[other], signer))
    assert not accepted(read, replace(relabelled, payload_type=kind).dumps()), (
        "with the other's type, unsigned"
    )
    assert not accepted(read, signed(kind, PAYLOADS[other], signer)), "with the other's type, signed"


# A revocation list's envelope is an object within one canonical text (``test_revocations``).
@pytest.mark.parametrize(
    "kind", [one for one in READERS if one not in (PROOF_TYPE, revocations.PAYLOAD_TYPE)], ids=NAMES.get
)
def test_what_the_platform_writes_is_read_in_one_form(kind):
    """Both base64 alphabets are DSSE's; here there is one writer, and any other text is somebody else's."""
    read, signer = READERS[kind]
    text = signed(kind, PAYLOADS[kind], signer)
    members = json.loads(text)
    one = members["signatures"][0]
    forms = {
        "spaces": text.replace(":", ": ", 1),
        "order": json.dumps(dict(reversed(members.items())), separators=(",", ":")),
        "url-safe": text.replace(one["sig"], one["sig"].replace("+", "-").replace("/", "_")),
        "escapes": text.replace("payload", "p\\u0061yload", 1),
        "no hint": json.dumps(members | {"signatures": [{"sig": one["sig"]}]}),
        "twice": json.dumps(members | {"signatures": [one, one]}),
        "duplicate": text.replace('"payload":', '"payload":"","payload":', 1),
        "nested duplicate": text.replace('"sig":', '"sig":"","sig":', 1),
        "malleable": text.replace(one["sig"], malleable(one["sig"])),
    }
    for name, other in forms.items():
        if other != text:
            assert not accepted(read, other), name


def malleable(text):
    """s + L: what a verifier without RFC 8032's check of the range would take for the same signature."""
    order = 2**252 + 27742317777372353535851937790883648493
    raw = b64decode(text)
    s = int.from_bytes(raw[32:], "little") + order
    return b64encode(raw[:32] + s.to_bytes(32, "little")).decode()
