"""Release and delivery manifests: valid ones read back, wrong ones are named, all fit a key service."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from domain import delivery_manifests, manifests
from domain.delivery_manifests import FileDigest
from domain.dsse import pae
from domain.licence_policies import OfferedPolicy
from domain.manifests import PreviewRecipe
from domain.semver import parse_version
from domain.signing import MESSAGE_BYTES_MAX
from domain.statements import PAYLOAD_TYPE
from domain.strict_json import DocumentError
from tests.fakes.documents import ISSUED_AT, delivery_manifest, release_manifest


def changed(payload: bytes, changes: dict[str, object]) -> bytes:
    statement = json.loads(payload)
    members = statement["predicate"] | changes
    statement["predicate"] = {name: value for name, value in members.items() if value is not ...}
    return json.dumps(statement).encode()


def refused(parse: Callable[[bytes], Any], code: str, payload: bytes) -> None:
    with pytest.raises(DocumentError) as error:
        parse(payload)
    assert error.value.code == code


def test_a_release_manifest_reads_back() -> None:
    for manifest in (
        release_manifest(),
        release_manifest(version=parse_version("2.0.0-rc.1"), licence_policy=OfferedPolicy(days=30)),
        release_manifest(entry_point="logline.pyz", platform="linux-x86_64"),
        release_manifest(channel="beta", price_refs=("list_2026", "list_edu")),
        release_manifest(preview=PreviewRecipe(("bin/logline", "--serve", "8080"), 8_080)),
    ):
        assert manifests.parse(manifests.build(manifest)) == manifest


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("version_invalid", {"version": "1.2"}),
        ("platform_unknown", {"platform": "amiga"}),
        ("licence_policy_unknown", {"licence_policy": {"kind": "rental"}}),
        ("field_invalid", {"licence_policy": {"kind": "timed", "days": 0}}),
        ("field_invalid", {"size": 0}),
        ("field_invalid", {"size": "1"}),
        ("field_invalid", {"size": 2**40}),
        ("field_invalid", {"description": "x" * 601}),
        ("field_invalid", {"description": "\x07"}),
        ("field_unknown", {"price": 1}),
        ("field_missing", {"entry_point": ...}),
        ("channel_unknown", {"channel": "weekly"}),
        ("channel_unknown", {"channel": ["stable"]}),
        ("field_invalid", {"price_refs": []}),
        ("field_invalid", {"price_refs": "list_2026"}),
        ("field_invalid", {"price_refs": ["a b"]}),
        ("field_invalid", {"price_refs": [1]}),
        ("field_invalid", {"price_refs": ["a", "a"]}),
        ("field_invalid", {"price_refs": [f"p{n}" for n in range(9)]}),
        ("field_invalid", {"preview": None}),
        ("field_missing", {"preview": {"command": ["x"]}}),
        ("field_unknown", {"preview": {"command": ["x"], "port": 8080, "user": "root"}}),
        ("field_invalid", {"preview": {"command": [], "port": 8080}}),
        ("field_invalid", {"preview": {"command": ["x"] * 17, "port": 8080}}),
        ("field_invalid", {"preview": {"command": ["x\u0000"], "port": 8080}}),
        ("field_invalid", {"preview": {"command": "x", "port": 8080}}),
        ("field_invalid", {"preview": {"command": ["x"], "port": 80}}),
        ("field_invalid", {"preview": {"command": ["x"], "port": True}}),
        ("entry_point_invalid", {"entry_point": "/bin/sh"}),
        ("entry_point_invalid", {"entry_point": "../x"}),
        ("entry_point_invalid", {"entry_point": "a/../../x"}),
        ("entry_point_invalid", {"entry_point": "a/./x"}),
        ("entry_point_invalid", {"entry_point": "a//x"}),
        ("entry_point_invalid", {"entry_point": "a\\x"}),
        ("entry_point_invalid", {"entry_point": "a x; rm"}),
    ],
)
def test_malformed_release_manifests_are_refused(code: str, changes: dict[str, object]) -> None:
    refused(manifests.parse, code, changed(manifests.build(release_manifest()), changes))


def test_a_bundle_name_leaves_room_for_the_deliverys_suffixes() -> None:
    longest = "b" * manifests.BUNDLE_NAME_CHARS_MAX
    manifests.build(release_manifest(bundle_name=longest))
    delivery_manifests.build(delivery_manifest(file_name=longest))
    refused(lambda _: manifests.build(release_manifest(bundle_name=longest + "b")), "field_invalid", b"")


def test_the_widest_release_manifest_fits_a_key_service_or_is_refused() -> None:
    widest = release_manifest(
        bundle_name="b" * 100,
        sku="s" * 64,
        version=parse_version("1.0.0-" + "r" * 58),
        entry_point="e" * 200,
        platform="windows-aarch64",
        licence_policy=OfferedPolicy(days=3_660),
        description="🦀" * 600,
    )
    assert len(pae(PAYLOAD_TYPE, manifests.build(widest))) <= MESSAGE_BYTES_MAX
    # A quotation mark takes two bytes; a control character, which would take six, is refused anyway.
    padded = manifests.build(widest).replace(b'"_type"', b" " * 1_000 + b'"_type"')
    refused(manifests.parse, "payload_too_large", padded)


def test_one_kind_of_manifest_never_passes_for_another() -> None:
    refused(manifests.parse, "predicate_type_wrong", delivery_manifests.build(delivery_manifest()))
    refused(delivery_manifests.parse, "predicate_type_wrong", manifests.build(release_manifest()))


def test_a_manifest_is_compared_with_what_was_uploaded() -> None:
    facts: dict[str, Any] = {
        "sku": "logline",
        "version": "1.2.0",
        "channel": "stable",
        "bundle_name": "logline-1.2.0.tar.gz",
        "sha256": "ab" * 32,
        "size": 123_456,
    }
    manifests.require_match(release_manifest(), **facts)
    for name, value in {
        "sku": "x",
        "version": "1.2.1",
        "channel": "beta",
        "bundle_name": "x",
        "sha256": "x",
        "size": 1,
    }.items():
        with pytest.raises(DocumentError) as error:
            manifests.require_match(release_manifest(), **(facts | {name: value}))
        assert error.value.code == "manifest_mismatch"


def test_a_delivery_manifest_reads_back_and_is_small() -> None:
    payload = delivery_manifests.build(delivery_manifest())
    assert delivery_manifests.parse(payload) == delivery_manifest()
    assert len(payload) < 2_200
    predicate = json.loads(payload)["predicate"]
    header = hashlib.sha256(b"h" * 168).hexdigest()
    assert predicate["ciphertext"] == {"parts_sha256": [header, "cd" * 32], "size": 168 + 123_488}
    assert predicate["header"] == {"sha256": header, "size": 168}


def test_the_widest_delivery_manifest_fits_a_key_service() -> None:
    widest = delivery_manifest(
        delivery_id="d" * 40,
        order_id="o" * 40,
        licence_id="l" * 40,
        release_id="r" * 40,
        header=b"h" * 1_024,
        payload=FileDigest(2**53 - 2_000, "ff" * 32),
        plaintext=FileDigest(2**53 - 2_000, "ff" * 32),
        file_name="f" * 100,
    )
    assert len(pae(PAYLOAD_TYPE, delivery_manifests.build(widest))) <= MESSAGE_BYTES_MAX


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("delivery_mode_unknown", {"mode": "post"}),
        ("delivery_mode_unknown", {"mode": ["recipient"]}),
        ("base64_invalid", {"header_b64": "*"}),
        ("field_invalid", {"header_b64": ""}),
        ("field_invalid", {"header_b64": "A" * 1_368}),
        ("field_invalid", {"file_name": "../etc/passwd"}),
        ("field_invalid", {"line_no": 0}),
        ("field_invalid", {"created_at": ISSUED_AT.isoformat()}),
        ("field_unknown", {"url": "x"}),
        ("field_missing", {"header": ...}),
        ("manifest_contradictory", {"header_b64": "aGg="}),
        ("manifest_contradictory", {"header": {"sha256": "ab" * 32, "size": 168}}),
        ("manifest_contradictory", {"payload": {"sha256": "ef" * 32, "size": 123_488}}),
        ("manifest_contradictory", {"payload": {"sha256": "cd" * 32, "size": 123_489}}),
        ("manifest_contradictory", {"plaintext": {"sha256": "ef" * 32, "size": 123_456}}),
        ("manifest_contradictory", {"ciphertext": {"parts_sha256": [], "size": 123_656}}),
        ("manifest_contradictory", {"file_name": "other.tar.gz"}),
    ],
)
def test_malformed_delivery_manifests_are_refused(code: str, changes: dict[str, object]) -> None:
    payload = changed(delivery_manifests.build(delivery_manifest()), changes)
    refused(delivery_manifests.parse, code, payload)


def test_a_delivery_manifest_that_cannot_be_read_back_is_never_built() -> None:
    refused(
        lambda _: delivery_manifests.build(
            delivery_manifest(created_at=ISSUED_AT + timedelta(microseconds=1))
        ),
        "manifest_invalid",
        b"",
    )
