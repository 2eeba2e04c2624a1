"""Governed documents and what is signed about them: closed, whole, canonical, and checkable by others."""

import base64
import pickle
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import SSlibKey

from domain.errors import RejectedError
from domain.orders.parts import EARLIER_FEE_BPS
from domain.proposals import documents
from domain.proposals.documents import GENESIS, Kind, canonical, parse, parse_text, sha256
from domain.proposals.fields import GovernedDocumentError
from domain.proposals.history import Replay
from domain.proposals.refusals import EXPIRY_DAYS_MAX, OPEN_MAX, REFUSALS, refusal
from domain.proposals.statements import Action, Statement, open_envelope, sign, signed_by
from storage.market.proposals import CHECKS, is_sound
from storage.signing.keys import verify
from tests.fakes.proposals import FEES, FLOW, KEYS, operators_document, register, statement_on

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SKU = "sku_" + "0" * 26
SPLIT = [{"payee": "seller", "bps": 9_000}, {"payee": "author_ada", "bps": 1_000}]
SOUND = {
    Kind.PRICE_MODEL: {"currencies": ["USD", "EUR"], "discount_percent_max": 40},
    Kind.PLATFORM_FEES: FEES,
    Kind.ROYALTY_SPLITS: {
        "default": SPLIT[:1] and [{"payee": "seller", "bps": 10_000}],
        "skus": {SKU: SPLIT},
    },
    Kind.LICENCE_MODEL: {"policies": ["timed"], "timed_days_max": 400, "grace_days": 14},
    Kind.PAYMENT_FLOW: FLOW,
    Kind.OPERATORS: operators_document(KEYS[:3], 2),
}
MIGRATION = Path(__file__).resolve().parents[2] / "storage/market/migrations/0005_proposals.sql"


@pytest.mark.parametrize("kind", Kind)
def test_a_sound_document_is_read_and_written_unchanged(kind):
    document = parse(kind, SOUND[kind])
    assert document.as_json() == SOUND[kind]
    assert parse_text(kind, canonical(document).decode()) == document
    assert sha256(canonical(document)) == sha256(orjson.dumps(SOUND[kind], option=orjson.OPT_SORT_KEYS))


@pytest.mark.parametrize("kind", Kind)
def test_every_member_is_needed_and_none_other_is_known(kind):
    for name in SOUND[kind]:
        less = {member: value for member, value in SOUND[kind].items() if member != name}
        with pytest.raises(GovernedDocumentError) as missing:
            parse(kind, less)
        assert missing.value.pointer == f"/{name}"
        for value in (None, 1.5, "1", -1, [[]], {"x": {}}):
            with pytest.raises(GovernedDocumentError) as wrong:
                parse(kind, {**SOUND[kind], name: value})
            assert wrong.value.pointer.startswith(f"/{name}")
    with pytest.raises(GovernedDocumentError) as unknown:
        parse(kind, {**SOUND[kind], "extra": 1})
    assert unknown.value.pointer == "/extra"
    for other in (None, [], "x", 1):
        with pytest.raises(GovernedDocumentError):
            parse(kind, other)


@pytest.mark.parametrize(
    ("kind", "change", "pointer"),
    [
        (Kind.PLATFORM_FEES, {"fee_bps": True}, "/fee_bps"),
        (Kind.PLATFORM_FEES, {"fee_bps": 10_001}, "/fee_bps"),
        (Kind.PLATFORM_FEES, {"fee_fixed_minor": {"XXX": 1}}, "/fee_fixed_minor/XXX"),
        (Kind.PLATFORM_FEES, {"fee_fixed_minor": {"ISK": 50}}, "/fee_fixed_minor/ISK"),
        (Kind.PLATFORM_FEES, {"holdback_days": 181}, "/holdback_days"),
        (Kind.ROYALTY_SPLITS, {"default": SPLIT[:1]}, "/default"),
        (Kind.ROYALTY_SPLITS, {"default": [*SPLIT, {"payee": "x", "bps": 0}]}, "/default/2/bps"),
        (Kind.ROYALTY_SPLITS, {"default": [{"payee": "a", "bps": 5_000}] * 2}, "/default/1"),
        (Kind.ROYALTY_SPLITS, {"skus": {SKU: SPLIT[:1]}}, f"/skus/{SKU}"),
        (Kind.ROYALTY_SPLITS, {"skus": {"logline": SPLIT}}, "/skus/logline"),
        (Kind.PRICE_MODEL, {"currencies": ["USD", "USD"]}, "/currencies/1"),
        (Kind.PRICE_MODEL, {"currencies": []}, "/currencies"),
        (Kind.LICENCE_MODEL, {"policies": ["rental"]}, "/policies/0"),
        (Kind.LICENCE_MODEL, {"transfers_forbidden": False}, "/transfers_forbidden"),
        (Kind.LICENCE_MODEL, {"transfers_forbidden": 1}, "/transfers_forbidden"),
        (Kind.PAYMENT_FLOW, {"capture": "manual"}, "/capture"),
        (Kind.PAYMENT_FLOW, {"checkout_allowed": 1}, "/checkout_allowed"),
        (Kind.PAYMENT_FLOW, {"authorisation_deadline_s": 604_801}, "/authorisation_deadline_s"),
        (Kind.OPERATORS, {"threshold": 3}, "/threshold"),
        (Kind.OPERATORS, {"threshold": 0}, "/threshold"),
        (Kind.OPERATORS, {"operators": SOUND[Kind.OPERATORS]["operators"][:1]}, "/operators"),
        (Kind.OPERATORS, {"operators": SOUND[Kind.OPERATORS]["operators"][:1] * 3}, "/operators/1"),
        (Kind.OPERATORS, {"operators": [{"name": "a", "public_key": "AAAA"}] * 3}, "/operators/0/public_key"),
    ],
)
def test_what_a_document_may_not_say(kind, change, pointer):
    with pytest.raises(GovernedDocumentError) as error:
        parse(kind, {**SOUND[kind], **change})
    assert error.value.pointer == pointer
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.code, again.pointer) == ("proposal_document_invalid", pointer)


def test_a_document_is_bounded():
    shares = [{"payee": "a" + "x" * 99, "bps": 10_000}]
    skus = {f"sku_{number:026d}": shares for number in range(500)}
    with pytest.raises(GovernedDocumentError, match="bytes"):
        parse(Kind.ROYALTY_SPLITS, {"default": shares, "skus": skus})


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32, b"x", b"x" * 33])
def test_operators_keys_are_sound_points(key):
    assert not is_sound(key)
    assert is_sound(KEYS[0].public_key)


def test_the_first_versions_are_todays_rules_and_stand_in_the_migration():
    assert GENESIS[Kind.PLATFORM_FEES].fee_bps == EARLIER_FEE_BPS
    text = MIGRATION.read_text(encoding="utf-8")
    for kind, document in GENESIS.items():
        assert parse(kind, document.as_json()) == document
        literal = canonical(document).decode()
        assert f"('{kind.value}', 1,\n     '{literal}',\n     '{sha256(canonical(document))}')" in text


def test_the_databases_bounds_are_those_of_the_domain():
    text = MIGRATION.read_text(encoding="utf-8")
    assert f"interval '{EXPIRY_DAYS_MAX * 24} hours'" in text
    assert f"status = 'open') >= {OPEN_MAX} THEN" in text
    assert text.count(f"octet_length(document) <= {documents.DOCUMENT_BYTES_MAX})") == 2
    raised = {part.partition("'")[0] for part in text.split("refuse_proposal('")[1:]}
    assert {code for code in raised if code not in REFUSALS} == {
        "governed_isolation",  # never by a caller of the API: only by whoever opens another transaction
        "proposal_document_invalid",
        "proposal_unapproved",
        "proposal_",
    }
    for code in REFUSALS:
        assert refusal(code).code == code


def statement(**change):
    base = statement_on(register(KEYS[:3], 1, NOW).current[Kind.PLATFORM_FEES], FEES, NOW)
    return base if not change else Statement(**{**{f: getattr(base, f) for f in base.__slots__}, **change})


def test_a_statement_is_the_six_members_in_canonical_form():
    one = statement()
    assert orjson.loads(one.build()) == {
        "kind": "platform_fees",
        "base_version": 1,
        "previous_hash": one.previous_hash,
        "new_hash": one.new_hash,
        "expires_at": "2026-12-01T12:00:00Z",
        "proposal_id": one.proposal_id,
    }
    assert Statement.parse(one.build()) == one
    for wrong in (b"", b"{}", one.build() + b" ", one.build().replace(b":1,", b":1.0,")):
        with pytest.raises(RejectedError, match="proposal_envelope_invalid"):
            Statement.parse(wrong)


def test_other_peoples_tools_check_an_approval():
    text = sign(KEYS[0], Action.APPROVAL, statement())
    envelope = OtherEnvelope.from_dict(
        {
            **orjson.loads(text),
            "signatures": [{"keyid": "k", "sig": orjson.loads(text)["signatures"][0]["sig"]}],
        }
    )
    key = SSlibKey("k", "ed25519", "ed25519", {"public": KEYS[0].public_key.hex()})
    assert envelope.payload_type == "application/vnd.illuvrse.governance-approval.v1+json"
    assert list(envelope.verify([key], 1)) == ["k"]


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("taken_for", Action)
def test_a_signature_does_one_thing(action, taken_for):
    one = statement()
    document = orjson.loads(sign(KEYS[0], action, one))
    trusted = {KEYS[0].key_id: KEYS[0].public_key}
    if action is taken_for:
        envelope, read = open_envelope(orjson.dumps(document).decode(), taken_for)
        assert (signed_by(envelope, trusted, verify), read) == (KEYS[0].key_id, one)
        with pytest.raises(RejectedError, match="approval_key_unknown"):
            signed_by(envelope, {}, verify)
        return
    with pytest.raises(RejectedError, match="proposal_envelope_invalid"):
        open_envelope(orjson.dumps(document).decode(), taken_for)
    document["payloadType"] = taken_for.payload_type
    envelope, _ = open_envelope(orjson.dumps(document).decode(), taken_for)
    with pytest.raises(RejectedError, match="approval_signature_invalid"):
        signed_by(envelope, trusted, verify)


def test_a_signature_has_one_form():
    """Ed25519 signatures are malleable where S is not reduced: such a twin is refused."""
    document = orjson.loads(sign(KEYS[0], Action.APPROVAL, statement()))
    raw = base64.b64decode(document["signatures"][0]["sig"])
    order = 2**252 + 27742317777372353535851937790883648493
    twin = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    document["signatures"][0]["sig"] = base64.b64encode(twin).decode()
    envelope, _ = open_envelope(orjson.dumps(document).decode(), Action.APPROVAL)
    with pytest.raises(RejectedError, match="approval_signature_invalid"):
        signed_by(envelope, {KEYS[0].key_id: KEYS[0].public_key}, verify)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(Kind), value=JSON, member=st.integers(0, 5))
def test_no_document_makes_the_reader_stumble(kind, value, member):
    names = sorted(SOUND[kind])
    for document in (value, {**SOUND[kind], names[member % len(names)]: value}):
        try:
            parsed = parse(kind, document)
        except GovernedDocumentError:
            continue
        else:
            assert parse(kind, parsed.as_json()) == parsed


def test_a_replay_takes_first_versions_once():
    replay = Replay(CHECKS)
    for version in register(KEYS[:3], 1, NOW).current.values():
        replay.version(version, None)
    assert (replay.findings, replay.versions, set(replay.genesis)) == ([], 6, set(Kind))
    replay.version(version, None)
    assert [finding.detail for finding in replay.findings] == ["It has no proposal and is not the first."]
