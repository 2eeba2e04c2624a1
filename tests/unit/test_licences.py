"""Licences: one byte sequence, strict reading, armour, and five findings that are kept apart."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from domain import licences
from domain.dsse import Envelope, Signature, pae, sign_all
from domain.licence_policies import LicencePolicy, OfferedPolicy
from domain.licence_verification import CLOCK_SKEW, Revocations, VerificationReport, assess, check
from domain.semver import parse_version
from domain.signing import KeyRecord, KeyState
from domain.strict_json import DocumentError
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.documents import ISSUED_AT, licence

SIGNER = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
KEY = register(SIGNER.public_key, ISSUED_AT - timedelta(days=1))
KEYS = {KEY.key_id: KEY}
NOW = ISSUED_AT + timedelta(days=10)
LIST = Revocations(version=7, expires_at=NOW + timedelta(hours=1), reasons={"lic_other": "refund"})


def signed(payload: bytes, payload_type: str = licences.PAYLOAD_TYPE) -> str:
    return sign_all(SIGNER, payload_type, [payload])[0].dumps()


ENVELOPE_TEXT = signed(licences.build(licence()))


def test_a_licences_bytes_never_change() -> None:
    payload = licences.build(licence())
    assert hashlib.sha256(payload).hexdigest() == (
        "9cdaa8aea2f07219b9de7acd011ebc74fffc49ddc070c23936cab1c61dd3ced8"
    )
    assert len(pae(licences.PAYLOAD_TYPE, payload)) < 1_000
    assert licences.build(licence()) == payload
    assert licences.parse(payload) == licence()
    assert json.loads(payload)["subject"] == [
        {"digest": {"sha256": "ab" * 32}, "name": "logline-1.2.0.tar.gz"}
    ]


def test_a_timed_licence_reads_back() -> None:
    timed = licence(policy=OfferedPolicy(days=365).granted(ISSUED_AT))
    assert timed.policy.expires_at == datetime(2027, 11, 24, 9, 30, tzinfo=UTC)
    assert licences.parse(licences.build(timed)) == timed


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": 0},
        {"quantity": True},
        {"quantity": 100_001},
        {"line_no": 0},
        {"buyer_id": ""},
        {"buyer_id": "a b"},
        {"buyer_id": "x" * 129},
        {"sku_name": "a\x1b[2J"},
        {"issuer": "a\u202eb"},
        {"version": "1.2"},
        {"bundle_name": "../x"},
        {"bundle_sha256": "AB" * 32},
        {"issued_at": ISSUED_AT + timedelta(microseconds=1)},
    ],
)
def test_what_cannot_be_read_back_is_never_built(changes: dict[str, object]) -> None:
    with pytest.raises(DocumentError):
        licences.build(licence(**changes))


def test_a_time_without_a_zone_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="zone"):
        licences.build(licence(issued_at=ISSUED_AT.replace(tzinfo=None)))


def test_a_time_in_another_zone_is_written_in_utc() -> None:
    elsewhere = ISSUED_AT.astimezone(timezone(timedelta(hours=9)))
    assert licences.build(licence(issued_at=elsewhere)) == licences.build(licence())


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("licence_policy_unknown", {"policy": {"kind": "rental"}}),
        ("licence_policy_unknown", {"policy": "perpetual"}),
        ("licence_policy_unknown", {"policy": {}}),
        ("field_unknown", {"policy": {"kind": "perpetual", "expires_at": "2026-11-24T09:30:00Z"}}),
        ("field_missing", {"policy": {"kind": "timed"}}),
        ("field_unknown", {"seats": 3}),
        ("field_missing", {"issuer": ...}),
        ("field_invalid", {"issued_at": "2026-11-24T09:30:00+00:00"}),
        ("field_invalid", {"issued_at": "2026-11-24 09:30:00Z"}),
        ("field_invalid", {"issued_at": "2026-02-30T09:30:00Z"}),
        ("field_invalid", {"issued_at": 1}),
        ("field_invalid", {"quantity": 1.0}),
        ("version_invalid", {"version": "01.2.3"}),
    ],
)
def test_malformed_licences_are_refused(code: str, changes: dict[str, object]) -> None:
    statement = json.loads(licences.build(licence()))
    members = statement["predicate"] | changes
    statement["predicate"] = {name: value for name, value in members.items() if value is not ...}
    with pytest.raises(DocumentError) as error:
        licences.parse(json.dumps(statement).encode())
    assert error.value.code == code


def report(text: str = ENVELOPE_TEXT, **changes: object) -> VerificationReport:
    facts: dict[str, object] = {"keys": KEYS, "revocations": LIST, "now": NOW, "buyer_id": "buyer_ada"}
    facts |= changes
    return check(text, verify=verify, **facts)[1]  # type: ignore[arg-type]  # facts are replaceable here


def states(result: VerificationReport) -> tuple[str, ...]:
    findings = (result.signature, result.key_state, result.expiry, result.revocation, result.ownership)
    assert all(finding.reason.endswith(".") for finding in findings)
    assert result.acceptable == all(finding.acceptable for finding in findings)
    return tuple(finding.state for finding in findings)


def test_a_good_licence_has_five_good_findings() -> None:
    assert states(report()) == ("valid", "active", "perpetual", "not_revoked", "owner")
    assert report().acceptable


def test_every_change_of_one_byte_is_refused() -> None:
    text = ENVELOPE_TEXT.encode()
    for position in range(len(text)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 0x06):  # every bit, and '+' to '-'
            changed = text[:position] + bytes([text[position] ^ change]) + text[position + 1 :]
            try:
                result = report(changed.decode("latin-1"))
            except DocumentError:
                continue
            assert not result.acceptable, (position, change)
            assert not result.signature.acceptable, (position, change)


def test_every_cut_and_every_appended_byte_is_refused() -> None:
    for length in range(len(ENVELOPE_TEXT)):
        with pytest.raises(DocumentError):
            report(ENVELOPE_TEXT[:length])
    for more in ("\n", " ", "{", "\0"):
        with pytest.raises(DocumentError):
            report(ENVELOPE_TEXT + more)


def test_another_alphabet_or_spacing_is_not_what_was_issued() -> None:
    envelope = Envelope.parse(ENVELOPE_TEXT)
    spaced = json.dumps(json.loads(ENVELOPE_TEXT))
    assert Envelope.parse(spaced) == envelope
    with pytest.raises(DocumentError) as error:
        report(spaced)
    assert error.value.code == "envelope_not_canonical"


def test_a_licence_signed_under_another_type_is_not_a_licence() -> None:
    with pytest.raises(DocumentError) as error:
        report(signed(licences.build(licence()), "application/vnd.in-toto+json"))
    assert error.value.code == "payload_type_wrong"


@pytest.mark.parametrize("count", [0, 2])
def test_a_licence_has_exactly_one_signature_with_its_key(count: int) -> None:
    envelope = Envelope.parse(ENVELOPE_TEXT)
    signature = envelope.signatures[0]
    signatures = (signature,) * count or (Signature(None, signature.sig),)
    with pytest.raises(DocumentError) as error:
        report(replace(envelope, signatures=signatures).dumps())
    assert error.value.code == "signatures_invalid"


def test_another_key_of_ours_does_not_vouch() -> None:
    other = DevelopmentKeyFile(b"o" * 32, b"w" * 32)
    record = register(other.public_key, KEY.not_before)
    envelope = Envelope.parse(ENVELOPE_TEXT)
    relabelled = replace(envelope, signatures=(Signature(record.key_id, envelope.signatures[0].sig),))
    result = report(relabelled.dumps(), keys=KEYS | {record.key_id: record})
    assert states(result) == ("invalid", "active", "perpetual", "not_revoked", "owner")


def test_an_unknown_key_proves_nothing() -> None:
    assert states(report(keys={}))[:2] == ("invalid", "unknown")


def test_findings_are_kept_apart() -> None:
    result = report(revocations=replace(LIST, reasons={licence().licence_id: "refund"}), buyer_id="buyer_eve")
    assert states(result) == ("valid", "active", "perpetual", "revoked", "other_buyer")
    assert not result.acceptable
    assert result.signature.acceptable


def record(state: KeyState, **changes: datetime | None) -> dict[str, KeyRecord]:
    return {KEY.key_id: replace(KEY, state=state, **changes)}  # type: ignore[arg-type]  # times only


def test_a_retired_key_still_verifies() -> None:
    assert report(keys=record(KeyState.RETIRED)).key_state.state == "retired"
    assert report(keys=record(KeyState.RETIRED)).acceptable


def test_a_compromised_key_verifies_only_what_was_logged_before() -> None:
    keys = record(KeyState.COMPROMISED, compromised_at=NOW)
    assert report(keys=keys).key_state.state == "compromised"
    assert not report(keys=keys, logged_at=NOW).acceptable
    assert report(keys=keys, logged_at=NOW - timedelta(seconds=1)).key_state.state == "compromised_later"
    assert report(keys=keys, logged_at=NOW - timedelta(seconds=1)).acceptable


def test_a_key_cannot_sign_before_its_time() -> None:
    assert report(keys=record(KeyState.ACTIVE, not_before=NOW)).key_state.state == "not_yet_valid"


def test_expiry_is_exclusive_and_the_future_is_refused() -> None:
    timed = signed(licences.build(licence(policy=LicencePolicy(NOW))))
    assert report(timed, now=NOW - timedelta(seconds=1)).expiry.state == "current"
    assert report(timed, now=NOW).expiry.state == "expired"
    assert report(now=ISSUED_AT - CLOCK_SKEW).acceptable
    assert report(now=ISSUED_AT - CLOCK_SKEW - timedelta(seconds=1)).expiry.state == "not_yet_valid"


def test_without_a_current_list_revocation_is_not_denied_but_unknown() -> None:
    assert report(revocations=None).revocation.state == "unknown"
    stale = replace(LIST, expires_at=NOW)
    assert report(revocations=stale).revocation.state == "stale"
    assert not report(revocations=stale).acceptable
    # What was once revoked stays so, however old the list.
    named = replace(stale, reasons={licence().licence_id: "dispute"})
    assert report(revocations=named).revocation.state == "revoked"


def test_ownership_is_not_asked_about_without_a_buyer() -> None:
    assert report(buyer_id=None).ownership.state == "not_asked"
    assert report(buyer_id=None).acceptable


def test_assess_takes_the_callers_word_on_the_signature() -> None:
    result = assess(licence(), signature_ok=False, key=KEY, revocations=LIST, now=NOW, buyer_id=None)
    assert states(result)[0] == "invalid"


def test_armour_reads_back_through_mail() -> None:
    text = licences.armour(ENVELOPE_TEXT)
    lines = text.splitlines()
    assert (lines[0], lines[-1]) == (licences.ARMOUR_BEGIN, licences.ARMOUR_END)
    assert max(map(len, lines)) == 64
    for sent in (text, text.rstrip("\n"), text.replace("\n", "\r\n")):
        assert licences.unarmour(sent) == ENVELOPE_TEXT


def test_armour_changed_anywhere_is_refused_or_the_same() -> None:
    text = licences.armour(ENVELOPE_TEXT)
    for position in range(len(text)):
        for change in (0x01, 0x07, 0x20):
            changed = text[:position] + chr(ord(text[position]) ^ change) + text[position + 1 :]
            try:
                envelope_text = licences.unarmour(changed)
            except DocumentError:
                continue
            try:
                assert not report(envelope_text).acceptable
            except DocumentError:
                continue


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda text: " " + text,
        lambda text: text + "\n",
        lambda text: text.replace("BEGIN", "BEGIN PGP"),
        lambda text: text.replace("\n", "", 2),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("=", ""),
        lambda text: text * 30,
        lambda _: f"{licences.ARMOUR_BEGIN}\n/w==\n{licences.ARMOUR_END}\n",
    ],
    ids=[
        "nothing",
        "space before",
        "line after",
        "other begin",
        "lines joined",
        "other line ends",
        "no padding",
        "many times",
        "no document",
    ],
)
def test_malformed_armour_is_refused(change: object) -> None:
    text = licences.armour(ENVELOPE_TEXT)
    changed = change(text)  # type: ignore[operator]  # a lambda above
    if changed == text:
        pytest.skip("this envelope needs no padding")
    with pytest.raises(DocumentError):
        licences.unarmour(changed)


def test_versions_are_ordered_as_semver_says() -> None:
    ordered = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 "
    ordered += "1.0.0 1.0.1-0 1.0.1 1.2.0 1.10.0 2.0.0"
    versions = [parse_version(text) for text in ordered.split()]
    backwards = versions[::-1]
    assert sorted(backwards) == versions
    assert [str(version) for version in versions] == ordered.split()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.2",
        "1.2.3-é",
        "-1.2.3",
        "1.2.3 ",
        "1." + "2" * 70 + ".3",
        "١.٢.٣",
        "v1.2.3",
        "1.2.3.4",
        "01.2.3",
        "1.2.3-",
        "1.2.3-01",
        "1.2.3-a..b",
        "1.2.3+b",
        "1.2.3\n",
    ],
)
def test_malformed_versions_are_refused(text: str) -> None:
    with pytest.raises(DocumentError) as error:
        parse_version(text)
    assert error.value.code == "version_invalid"
