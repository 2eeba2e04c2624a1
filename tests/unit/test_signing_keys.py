"""Keys, signatures and the development key file."""

import base64
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import DependencyError, MarketplaceError, RejectedError
from domain.signing import MESSAGE_BYTES_MAX, MESSAGES_MAX, KeyRecord, KeyState, KeyWrapper, Signer, key_id_of
from storage.signing import devfile
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.documents import ISSUED_AT, VECTORS, VECTORS_ABSENT

KEYS = DevelopmentKeyFile(b"s" * 32, b"w" * 32)
SIGNER: Signer = KEYS
WRAPPER: KeyWrapper = KEYS
CONTEXT = {"release_id": "rel_1", "purpose": "file-key"}


def refused(code: str, action: object, *arguments: object) -> MarketplaceError:
    with pytest.raises(MarketplaceError) as error:
        action(*arguments)  # type: ignore[operator]  # any callable
    assert error.value.code == code
    return error.value


def test_wycheproof_signatures_are_judged_as_its_authors_do() -> None:
    path = VECTORS / "wycheproof" / "ed25519_test.json"
    if not path.is_file():
        pytest.skip(VECTORS_ABSENT)
    groups = json.loads(path.read_text(encoding="utf-8"))["testGroups"]
    count = 0
    for group in groups:
        public_key = bytes.fromhex(group["publicKey"]["pk"])
        assert register(public_key, ISSUED_AT).public_key == public_key
        for case in group["tests"]:
            valid = verify(public_key, bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
            assert valid == (case["result"] == "valid"), (case["tcId"], case["comment"])
            count += 1
    assert count > 100


SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
)
NOT_CANONICAL = (
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)


@pytest.mark.parametrize("point", [*SMALL_ORDER, *NOT_CANONICAL, "02" + "00" * 31])
def test_unsound_public_keys_are_not_registered(point: str) -> None:
    refused("public_key_invalid", register, bytes.fromhex(point), ISSUED_AT)


@pytest.mark.parametrize("size", [0, 31, 33, 44, 294])  # 44: SubjectPublicKeyInfo around one; 294: RSA's
def test_keys_of_another_kind_are_not_registered(size: int) -> None:
    refused("public_key_type_wrong", register, b"k" * size, ISSUED_AT)


def test_a_key_names_itself() -> None:
    record = register(KEYS.public_key, ISSUED_AT)
    assert record.key_id == KEYS.key_id == key_id_of(KEYS.public_key)
    assert record.key_id.startswith("key_")
    assert len(record.key_id) == 20
    assert (record.algorithm, record.state) == ("ed25519", KeyState.ACTIVE)


@pytest.mark.parametrize(
    "changes",
    [
        {"key_id": "key_0000000000000000"},
        {"public_key": b"short"},
        {"algorithm": "none"},
        {"state": KeyState.COMPROMISED},
        {"compromised_at": ISSUED_AT},
    ],
)
def test_contradictory_key_records_cannot_be_made(changes: dict[str, object]) -> None:
    values = {
        "key_id": KEYS.key_id,
        "public_key": KEYS.public_key,
        "state": KeyState.ACTIVE,
        "not_before": ISSUED_AT,
    } | changes
    with pytest.raises(ValueError, match="key"):
        KeyRecord(**values)


def test_hostile_input_to_the_verifier_is_just_invalid() -> None:
    for key, signature in (
        (b"", bytes(64)),
        (bytes(32), b""),
        (bytes(33), bytes(64)),
        (bytes(32), bytes(64)),
    ):
        assert verify(key, b"message", signature) is False


def test_a_batch_is_signed_in_order() -> None:
    messages = [bytes([i]) * i for i in range(20)]
    signatures = SIGNER.sign_many(messages)
    assert SIGNER.sign_many([]) == []
    for message, signature in zip(messages, signatures, strict=True):
        assert verify(SIGNER.public_key, message, signature)
        assert not verify(SIGNER.public_key, message + b"x", signature)


def test_batches_and_messages_are_bounded() -> None:
    refused("batch_too_large", SIGNER.sign_many, [b""] * (MESSAGES_MAX + 1))
    refused("message_too_large", SIGNER.sign_many, [b"", bytes(MESSAGE_BYTES_MAX + 1)])
    assert len(SIGNER.sign_many([bytes(MESSAGE_BYTES_MAX)])) == 1


def test_a_wrong_signature_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devfile, "crypto_sign", lambda message, _: bytes(64) + message)
    with pytest.raises(DependencyError) as error:
        SIGNER.sign_many([b"message"])
    assert error.value.code == "signature_wrong"


@given(st.binary(min_size=1, max_size=200))
def test_wrapped_secrets_open_under_their_context_only(secret: bytes) -> None:
    wrapped = WRAPPER.wrap(secret, CONTEXT)
    assert WRAPPER.unwrap(wrapped, dict(reversed(CONTEXT.items()))) == secret
    for context in ({**CONTEXT, "release_id": "rel_2"}, {"release_id": "rel_1"}):
        refused("unwrap_refused", WRAPPER.unwrap, wrapped, context)
    refused("unwrap_refused", DevelopmentKeyFile(b"s" * 32, b"x" * 32).unwrap, wrapped, CONTEXT)


def test_every_change_and_cut_of_a_wrapped_secret_is_refused() -> None:
    wrapped = WRAPPER.wrap(b"sixteen byte key", CONTEXT)
    assert WRAPPER.wrap(b"sixteen byte key", CONTEXT) != wrapped
    for position in range(len(wrapped)):
        changed = wrapped[:position] + bytes([wrapped[position] ^ 1]) + wrapped[position + 1 :]
        refused("unwrap_refused", WRAPPER.unwrap, changed, CONTEXT)
        refused("unwrap_refused", WRAPPER.unwrap, wrapped[:position], CONTEXT)


@pytest.mark.parametrize(
    "context", [{}, {str(i): "x" for i in range(9)}, {"é": "x"}, {"a": 1}, {"a": "x" * 256}]
)
def test_contexts_are_short_ids(context: dict[str, str]) -> None:
    refused("context_invalid", WRAPPER.wrap, b"secret", context)


def test_wrapped_secrets_are_short_and_not_empty() -> None:
    refused("secret_too_large", WRAPPER.wrap, b"", CONTEXT)
    refused("secret_too_large", WRAPPER.wrap, bytes(4_097), CONTEXT)


def test_a_key_file_is_private_marked_and_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "dev-key.json"
    created = DevelopmentKeyFile.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "DEVELOPMENT" in json.loads(path.read_text())["warning"]
    loaded = DevelopmentKeyFile.load(path)
    assert loaded.key_id == created.key_id
    assert loaded.unwrap(created.wrap(b"secret", CONTEXT), CONTEXT) == b"secret"
    before = path.read_bytes()
    refused("key_file_exists", DevelopmentKeyFile.create, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["dev-key.json"]
    assert DevelopmentKeyFile.load_or_create(path).key_id == created.key_id
    assert DevelopmentKeyFile.load_or_create(tmp_path / "other.json").key_id != created.key_id


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev-key.json"
    DevelopmentKeyFile.create(path)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        assert "chmod 600" in refused("key_file_exposed", DevelopmentKeyFile.load, path).detail


def test_links_folders_and_absent_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dev-key.json"
    refused("key_file_missing", DevelopmentKeyFile.load, path)
    DevelopmentKeyFile.create(path)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    refused("key_file_invalid", DevelopmentKeyFile.load, link)
    refused("key_file_invalid", DevelopmentKeyFile.load, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "x"}, {"signing_seed": "AAAA"}, {"wrapping_key": "*"}, {"more": 1}, {"warning": ...}],
)
def test_malformed_key_files_are_refused_without_showing_a_key(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    path = tmp_path / "dev-key.json"
    DevelopmentKeyFile.create(path)
    document = json.loads(path.read_text())
    members = {name: value for name, value in (document | changes).items() if value is not ...}
    path.write_text(json.dumps(members))
    with pytest.raises(RejectedError) as error:
        DevelopmentKeyFile.load(path)
    assert document["signing_seed"] not in str(error.value)


def test_keys_do_not_show() -> None:
    assert base64.b64encode(b"s" * 32).decode() not in repr(KEYS)
    assert repr(KEYS) == f"DevelopmentKeyFile({KEYS.key_id})"
    assert not hasattr(KEYS, "__dict__")


def test_two_creators_at_once_get_one_key(tmp_path: Path) -> None:
    path = tmp_path / "dev-key.json"
    start = threading.Barrier(4)

    def load_or_create(_: int) -> str:
        start.wait(timeout=10)
        return DevelopmentKeyFile.load_or_create(path).key_id

    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(load_or_create, range(4)))
    assert names == {DevelopmentKeyFile.load(path).key_id}
    assert [entry.name for entry in tmp_path.iterdir()] == ["dev-key.json"]
