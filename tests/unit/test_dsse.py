"""DSSE, in-toto statements and the strict JSON below them."""

import base64
import json
import pickle
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import canonical_json, strict_json
from domain.dsse import (
    ENVELOPE_BYTES_MAX,
    SIGNATURES_MAX,
    TRUSTED_KEYS_MAX,
    Envelope,
    Signature,
    decode_base64,
    pae,
    sign_all,
    signing_key,
)
from domain.signing import MESSAGE_BYTES_MAX
from domain.statements import Statement, Subject
from domain.strict_json import DocumentError
from tests.fakes.documents import VECTORS, VECTORS_ABSENT


def refused(code: str, data: bytes | str, max_bytes: int = 1_000) -> None:
    with pytest.raises(DocumentError) as error:
        strict_json.loads(data, max_bytes=max_bytes)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("json_duplicate_key", '{"a":1,"a":1}'),
        ("json_duplicate_key", '{"a":1,"\\u0061":1}'),
        ("json_duplicate_key", '[{"b":{"a":1,"a":2}}]'),
        ("json_number_invalid", "NaN"),
        ("json_number_invalid", "[Infinity]"),
        ("json_number_invalid", "[-Infinity]"),
        ("json_number_invalid", "1e400"),
        ("json_number_invalid", "-1e400"),
        ("json_number_invalid", "9007199254740992"),
        ("json_number_invalid", "9" * 999),
        ("json_malformed", "{"),
        ("json_malformed", ""),
        ("json_malformed", "{} {}"),
        ("json_malformed", "{'a':1}"),
        ("json_malformed", '"\n"'),
        ("json_malformed", "\ufeff{}"),
        ("json_malformed", "01"),
        ("json_text_invalid", '"\\ud800"'),
        ("json_text_invalid", '{"\\udfff":1}'),
        ("json_too_deep", "[" * 40 + "]" * 40),
        ("json_not_utf8", b'"\xff"'),
        ("json_not_utf8", "\ud800"),
        ("json_not_utf8", '"a"'.encode("utf-16")),
    ],
)
def test_json_that_readers_disagree_about_is_refused(code: str, text: bytes | str) -> None:
    refused(code, text)


def test_json_deeper_than_the_interpreter_can_go_is_refused() -> None:
    depth = sys.getrecursionlimit() * 20
    refused("json_too_deep", "[" * depth + "]" * depth, max_bytes=10**6)


def test_json_size_is_counted_in_bytes() -> None:
    refused("document_too_large", '"' + "é" * 10 + '"', max_bytes=21)
    assert strict_json.loads('"' + "é" * 10 + '"', max_bytes=22) == "é" * 10


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    )
)
def test_json_of_any_value_reads_back(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert strict_json.loads(text, max_bytes=10**6) == value


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DocumentError("json_malformed", "why")))
    assert (error.code, error.detail) == ("json_malformed", "why")


def test_canonical_json_is_that_of_rfc_8785_within_its_subset() -> None:
    if not VECTORS.is_dir():
        pytest.skip(VECTORS_ABSENT)
    outside = set()
    for source in sorted((VECTORS / "jcs" / "testdata" / "input").glob("*.json")):
        value = json.loads(source.read_text(encoding="utf-8"))
        expected = source.parent.parent.joinpath("output", source.name).read_bytes()
        try:
            assert canonical_json.dumps(value) == expected, source.name
        except ValueError:
            outside.add(source.stem)
    # Floats, and member names outside ASCII.
    assert outside == {"structures", "values", "french", "weird"}


@pytest.mark.parametrize("value", [[1.0], [2**53], [{1: 1}], [{"é": 1}], [b""], [float("nan")], [object()]])
def test_canonical_json_refuses_what_it_cannot_write_the_same_everywhere(value: list[object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        canonical_json.dumps(value)


def test_canonical_json_escapes_as_rfc_8785_does() -> None:
    assert canonical_json.dumps({"b": 'é\x00\x1f\n\t\b"\\/\x7f\u2028', "a": [True, None]}) == (
        '{"a":[true,null],"b":"é\\u0000\\u001f\\n\\t\\b\\"\\\\/\x7f\u2028"}'.encode()
    )


def test_pae_is_the_specifications_example() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


ENVELOPE = Envelope("text/x", b"\xfb\xef\xff", (Signature("key_1", bytes(64)),))


def test_an_envelope_reads_back_and_is_compact() -> None:
    text = ENVELOPE.dumps()
    assert text == (
        '{"payload":"++//","payloadType":"text/x","signatures":[{"keyid":"key_1","sig":"'
        + "A" * 86
        + '=="}]}'
    )
    assert Envelope.parse(text) == Envelope.parse(text.encode()) == ENVELOPE


def test_both_base64_alphabets_are_read_and_no_mixture() -> None:
    assert Envelope.parse(ENVELOPE.dumps().replace("++//", "--__")) == ENVELOPE
    for wrong in ("+-//", "++/_", "++/", "++//=", "+ +//", "++//\\n", "Zh==", "é+//"):
        with pytest.raises(DocumentError) as error:
            Envelope.parse(ENVELOPE.dumps().replace("++//", wrong))
        assert error.value.code == "base64_invalid"


def test_a_missing_and_an_empty_keyid_are_the_same() -> None:
    bare = Envelope("text/x", b"", (Signature(None, b"s"),))
    assert bare.dumps() == '{"payload":"","payloadType":"text/x","signatures":[{"sig":"cw=="}]}'
    assert Envelope.parse(bare.dumps()) == bare
    assert Envelope.parse(bare.dumps().replace('{"sig"', '{"keyid":"","sig"')) == bare


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("field_unknown", {"more": 1}),
        ("field_missing", {"payload": ...}),
        ("field_missing", {"payloadType": ...}),
        ("field_invalid", {"payloadType": 1}),
        ("field_invalid", {"payloadType": ""}),
        ("field_invalid", {"payloadType": "x" * 129}),
        ("base64_invalid", {"payload": None}),
        ("signatures_invalid", {"signatures": []}),
        ("signatures_invalid", {"signatures": {}}),
        ("signatures_invalid", {"signatures": [{"sig": "cw=="}] * (SIGNATURES_MAX + 1)}),
        ("field_invalid", {"signatures": ["cw=="]}),
        ("field_missing", {"signatures": [{"keyid": "k"}]}),
        ("field_unknown", {"signatures": [{"sig": "cw==", "cert": "x"}]}),
        ("field_invalid", {"signatures": [{"sig": "A" * 1028}]}),
        ("field_invalid", {"signatures": [{"sig": 1}]}),
        ("field_invalid", {"signatures": [{"sig": "cw==", "keyid": 1}]}),
        ("field_invalid", {"signatures": [{"sig": "cw==", "keyid": "\u202e"}]}),
    ],
)
def test_malformed_envelopes_are_refused(code: str, changes: dict[str, object]) -> None:
    members = json.loads(ENVELOPE.dumps()) | changes
    members = {name: value for name, value in members.items() if value is not ...}
    with pytest.raises(DocumentError) as error:
        Envelope.parse(json.dumps(members))
    assert error.value.code == code


def test_an_envelope_above_the_bound_is_refused_unread() -> None:
    with pytest.raises(DocumentError) as error:
        Envelope.parse(" " * (ENVELOPE_BYTES_MAX + 1))
    assert error.value.code == "document_too_large"


class CountingSigner:
    key_id = "key_1"
    public_key = b"1" * 32

    def sign_many(self, messages: Sequence[bytes]) -> list[bytes]:
        return [toy_signature(self.public_key, message) for message in messages]


def toy_signature(public_key: bytes, message: bytes) -> bytes:
    return (public_key + message).ljust(64, b".")[:64]


def toy_verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return signature == toy_signature(public_key, message)


def test_signing_keeps_the_order_and_the_size_a_key_service_takes() -> None:
    first, second = sign_all(CountingSigner(), "text/x", [b"a", b"b"])
    assert (first.payload, second.payload) == (b"a", b"b")
    assert first.signatures[0].key_id == "key_1"
    room = MESSAGE_BYTES_MAX - len(pae("text/x", b"")) - 3  # the length grows from one digit to four
    sign_all(CountingSigner(), "text/x", [b"x" * room])
    with pytest.raises(DocumentError) as error:
        sign_all(CountingSigner(), "text/x", [b"x" * (room + 1)])
    assert error.value.code == "payload_too_large"


@pytest.mark.parametrize("hint", ["key_1", "key_2", "unheard of", None])
def test_the_keyid_is_only_a_hint(hint: str | None) -> None:
    (envelope,) = sign_all(CountingSigner(), "text/x", [b"a"])
    hinted = Envelope("text/x", b"a", (Signature(hint, envelope.signatures[0].sig),))
    trusted = {"key_2": b"2" * 32, "key_1": b"1" * 32}
    assert signing_key(hinted, trusted, toy_verify) == "key_1"
    assert signing_key(hinted, {"key_1": b"2" * 32}, toy_verify) is None
    assert signing_key(hinted, {}, toy_verify) is None


def test_signatures_of_other_lengths_are_passed_over() -> None:
    (envelope,) = sign_all(CountingSigner(), "text/x", [b"a"])
    mixed = Envelope("text/x", b"a", (Signature("key_1", b"rsa" * 85), *envelope.signatures))
    assert signing_key(mixed, {"key_1": b"1" * 32}, toy_verify) == "key_1"


def test_the_number_of_trusted_keys_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most"):
        signing_key(ENVELOPE, {str(i): bytes(32) for i in range(TRUSTED_KEYS_MAX + 1)}, toy_verify)


STATEMENT = Statement((Subject("a.tar.gz", "ab" * 32),), "urn:x", {"n": 1})


def test_a_statement_reads_back_and_is_in_toto() -> None:
    payload = STATEMENT.build()
    assert json.loads(payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a.tar.gz", "digest": {"sha256": "ab" * 32}}],
        "predicateType": "urn:x",
        "predicate": {"n": 1},
    }
    assert Statement.parse(payload, predicate_type="urn:x") == STATEMENT


SUBJECT = {"name": "a", "digest": {"sha256": "ab" * 32}}


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("statement_type_unknown", {"_type": "https://in-toto.io/Statement/v0.1"}),
        ("predicate_type_wrong", {"predicateType": "urn:y"}),
        ("field_invalid", {"predicate": []}),
        ("field_unknown", {"more": 1}),
        ("field_missing", {"subject": ...}),
        ("subjects_invalid", {"subject": []}),
        ("subjects_invalid", {"subject": [SUBJECT, SUBJECT]}),
        ("subjects_invalid", {"subject": [SUBJECT] * 9}),
        ("field_unknown", {"subject": [{**SUBJECT, "uri": "x"}]}),
        ("field_missing", {"subject": [{**SUBJECT, "digest": {}}]}),
        ("field_unknown", {"subject": [{**SUBJECT, "digest": {"sha256": "ab" * 32, "md5": "x"}}]}),
        ("field_invalid", {"subject": [{**SUBJECT, "digest": {"sha256": "AB" * 32}}]}),
        ("field_invalid", {"subject": [{**SUBJECT, "digest": {"sha256": "ab" * 31}}]}),
        ("field_invalid", {"subject": [{**SUBJECT, "name": "../a"}]}),
        ("field_invalid", {"subject": [{**SUBJECT, "name": ".a"}]}),
        ("field_invalid", {"subject": [{**SUBJECT, "name": "a\n"}]}),
        ("field_invalid", {"subject": [{**SUBJECT, "name": ""}]}),
    ],
)
def test_malformed_statements_are_refused(code: str, changes: dict[str, object]) -> None:
    members = json.loads(STATEMENT.build()) | changes
    members = {name: value for name, value in members.items() if value is not ...}
    with pytest.raises(DocumentError) as error:
        Statement.parse(json.dumps(members).encode(), predicate_type="urn:x")
    assert error.value.code == code


def test_base64_of_any_bytes_reads_back_in_both_alphabets() -> None:
    for length in range(70):
        raw = bytes((251 + length * 7 * i) % 256 for i in range(length))
        assert decode_base64(base64.b64encode(raw).decode(), "x") == raw
        assert decode_base64(base64.urlsafe_b64encode(raw).decode(), "x") == raw
