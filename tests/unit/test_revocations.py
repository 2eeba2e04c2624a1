"""Revocation lists: exactly what was signed, never older than what was seen; grace and suspension."""

import itertools
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from domain import canonical_json, revocations
from domain.dsse import sign_all
from domain.errors import ConflictError, RejectedError
from domain.licence_policies import LicencePolicy
from domain.licence_verification import Revocations, assess
from domain.revocations import LISTED_MAX, RevocationList, Seen, admit, build, open_document
from domain.strict_json import DocumentError
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.documents import ISSUED_AT, licence

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
TRUSTED = {SIGNER.key_id: SIGNER.public_key}
KEY = register(SIGNER.public_key, ISSUED_AT - timedelta(days=1))
LIST = RevocationList(
    7, ISSUED_AT, ISSUED_AT + timedelta(hours=24), 14, ["lic_a", "lic_b"], [licence().licence_id]
)


def document(listed=LIST, signer=SIGNER, **changes):
    (envelope,) = sign_all(signer, revocations.PAYLOAD_TYPE, [build(listed)])
    return canonical_json.dumps(revocations.document(listed, json.loads(envelope.dumps())) | changes)


def refusal(data, trusted=TRUSTED):
    with pytest.raises(RejectedError) as error:
        open_document(data, trusted, verify)
    return error.value.code


def test_a_list_reads_back_as_it_was_signed():
    assert open_document(document(), TRUSTED, verify) == LIST
    assert open_document(document().decode(), TRUSTED, verify) == LIST
    empty = replace(LIST, revoked=[], suspended=[])
    assert open_document(document(empty), TRUSTED, verify) == empty


def test_every_flipped_bit_and_every_cut_is_refused():
    data = document()
    assert len(data) < 4_096
    for position, bit in itertools.product(range(len(data)), range(8)):
        changed = data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
        with pytest.raises(RejectedError):
            open_document(changed, TRUSTED, verify)
    for length in range(len(data)):
        with pytest.raises(RejectedError):
            open_document(data[:length], TRUSTED, verify)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("json_duplicate_key", lambda one: one.replace(b'"version"', b'"version":7,"version"', 1)),
        ("json_number_invalid", lambda one: one.replace(b'"grace_days":14', b'"grace_days":NaN', 1)),
        ("json_number_invalid", lambda one: one.replace(b'"grace_days":14', b'"grace_days":1e400', 1)),
        ("revocations_invalid", lambda one: one.replace(b'"grace_days":14', b'"grace_days":1.5', 1)),
        ("payload_type_wrong", lambda one: one.replace(b"revocations.v2", b"revocations.v1")),
        ("envelope_not_canonical", lambda one: one + b"\n"),
        ("field_unknown", lambda one: one.replace(b'"version"', b'"w":1,"version"')),
        ("revocations_untrusted", lambda one: one.replace(b'"lic_b"', b'"lic_c"')),
        ("revocations_untrusted", lambda one: one.replace(b'"revoked":["lic_a",', b'"revoked":[')),
        ("revocations_invalid", lambda one: one.replace(b'["lic_a","lic_b"]', b'["lic_b","lic_a"]')),
        ("revocations_invalid", lambda one: one.replace(b'["lic_a","lic_b"]', b'"lic_a"')),
    ],
)
def test_bad_input_has_its_own_code(code, change):
    assert refusal(change(document())) == code


def test_another_platforms_list_is_refused():
    other = DevelopmentKeyFile(b"o" * 32, b"w" * 32)
    assert refusal(document(signer=other)) == "revocations_untrusted"
    assert refusal(document(), {}) == "revocations_untrusted"


def test_a_list_that_claims_to_be_good_for_ever_is_refused():
    assert refusal(document(replace(LIST, expires_at=ISSUED_AT + timedelta(days=8)))) == "revocations_invalid"
    assert refusal(document(replace(LIST, expires_at=ISSUED_AT))) == "revocations_invalid"


def test_a_list_that_is_too_long_is_refused_and_never_cut():
    with pytest.raises(RejectedError, match="revocations_too_many"):
        build(replace(LIST, revoked=[f"lic_{n:026d}" for n in range(LISTED_MAX)]))


@pytest.mark.parametrize("ids", [["b", "a"], ["a", "a"], [""], ["a b\n"], ["é"]])
def test_ids_are_plain_and_sorted(ids):
    with pytest.raises(DocumentError, match="revocations_invalid"):
        build(replace(LIST, revoked=ids))


def test_an_older_list_is_refused_once_a_newer_one_was_seen():
    seen = admit(LIST, None)
    assert seen == Seen(7, LIST.content_sha256)
    later = replace(
        LIST, issued_at=ISSUED_AT + timedelta(hours=1), expires_at=ISSUED_AT + timedelta(hours=25)
    )
    assert admit(later, seen) == seen  # the same version, signed anew for its times
    newer = admit(replace(LIST, version=8, suspended=[]), seen)
    assert newer.version == 8
    with pytest.raises(ConflictError, match="revocations_rolled_back"):
        admit(LIST, newer)
    for forked in (
        replace(LIST, revoked=["lic_a"]),
        replace(LIST, suspended=[]),
        replace(LIST, grace_days=1),
    ):
        with pytest.raises(ConflictError, match="revocations_forked"):
            admit(forked, seen)


def judged(listed=LIST, **more):
    facts = {"signature_ok": True, "key": KEY, "now": ISSUED_AT + timedelta(hours=1), "buyer_id": None} | more
    subject = facts.pop("licence", licence())
    return assess(subject, revocations=Revocations.of(listed), **facts)


def test_a_suspension_counts_while_the_list_is_current():
    assert judged().revocation.state == "suspended"
    assert judged(replace(LIST, suspended=[])).revocation.state == "not_revoked"
    assert judged(now=LIST.expires_at).revocation.state == "stale"
    named = replace(LIST, revoked=[licence().licence_id], suspended=[])
    assert judged(named, now=LIST.expires_at).revocation.state == "revoked"
    assert not judged().acceptable


def test_grace_is_acceptable_and_told():
    end = ISSUED_AT + timedelta(minutes=30)
    one = licence(policy=LicencePolicy(end))
    good = replace(LIST, suspended=[])
    found = judged(good, licence=one).expiry
    assert (found.state, found.acceptable) == ("in_grace", True)
    assert "Renew it." in found.reason
    assert judged(good, licence=one, now=end - timedelta(seconds=1)).expiry.state == "current"
    assert judged(good, licence=one, now=end + timedelta(days=14)).expiry.state == "expired"
    assert judged(replace(good, grace_days=0), licence=one).expiry.state == "expired"


def test_a_renewal_does_not_hold_before_it_begins():
    start = ISSUED_AT + timedelta(days=30)
    one = licence(policy=LicencePolicy(start + timedelta(days=365), start))
    good = replace(LIST, suspended=[])
    found = judged(good, licence=one).expiry
    assert (found.state, found.acceptable) == ("not_begun", False)
    assert judged(good, licence=one, now=start).expiry.state == "current"
