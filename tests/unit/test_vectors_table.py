"""Others' test vectors: those that no other test runs, and the table of docs/vectors.md held to all."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult

from tests.fakes.documents import VECTORS, VECTORS_ABSENT

PAGE = Path(__file__).parents[2] / "docs" / "vectors.md"
NONCE_BYTES = 12


def cases(name: str) -> Iterator[dict[str, Any]]:
    path = VECTORS / "wycheproof" / f"{name}_test.json"
    if not path.is_file():
        pytest.skip(VECTORS_ABSENT)
    for group in json.loads(path.read_text(encoding="utf-8"))["testGroups"]:
        yield from group["tests"]


def data(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def test_wycheproof_x25519_agrees_and_shared_zeros_are_refused() -> None:
    agreed = refused = 0
    for case in cases("x25519"):
        private, public, shared = data(case, "private", "public", "shared")
        if "ZeroSharedSecret" in case["flags"]:
            with pytest.raises(RuntimeError):
                crypto_scalarmult(private, public)
            refused += 1
        else:
            assert crypto_scalarmult(private, public) == shared, case["tcId"]
            agreed += 1
    assert figures("x25519") == (agreed + refused, agreed, refused)


def test_wycheproof_chacha20_poly1305_agrees() -> None:
    count = 0
    for case in cases("chacha20_poly1305"):
        key, nonce, associated, message, sealed, tag = data(case, "key", "iv", "aad", "msg", "ct", "tag")
        valid = case["result"] == "valid"
        if len(nonce) != NONCE_BYTES:
            assert not valid
            with pytest.raises(ValueError, match="Nonce"):
                ChaCha20Poly1305(key).decrypt(nonce, sealed + tag, associated)
        elif valid:
            cipher = ChaCha20Poly1305(key)
            assert cipher.decrypt(nonce, sealed + tag, associated) == message
            assert cipher.encrypt(nonce, message, associated) == sealed + tag
        else:
            with pytest.raises(InvalidTag):
                ChaCha20Poly1305(key).decrypt(nonce, sealed + tag, associated)
        count += 1
    assert figures("chacha20_poly1305") == (count, count, 0)


def test_the_other_rows_count_what_is_there() -> None:
    ed25519 = len(list(cases("ed25519")))
    assert figures("ed25519") == (ed25519, ed25519, 0)
    hkdf = list(cases("hkdf_sha256"))
    one_block = sum(case["size"] <= 32 and case["result"] == "valid" for case in hkdf)
    assert figures("hkdf_sha256") == (len(hkdf), one_block, len(hkdf) - one_block)
    jcs = len(list((VECTORS / "jcs" / "testdata" / "input").glob("*.json")))
    assert figures("jcs") == (jcs, jcs - 4, 4)
    folder = VECTORS / "cctv" / "age" / "testdata"
    heads = {path.name: path.read_bytes().partition(b"\n\n")[0] for path in folder.iterdir()}
    left_out = sum(
        name.startswith("armor_") or b"identity: AGE-SECRET-KEY-1" not in head for name, head in heads.items()
    )
    assert figures("age") == (len(heads), len(heads) - left_out, left_out)
    merkle = len(list((VECTORS / "merkle").rglob("*.json")))
    assert figures("merkle") == (merkle, merkle, 0), "tests/unit/test_merkle.py runs them all"


def figures(name: str) -> tuple[int, ...]:
    """The three numbers of a row of the table: vectors, as expected, deviating or left out."""
    row = re.search(
        rf"^\| `{name}` \|[^|]*\| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert row, name
    return tuple(int(number) for number in row.groups())
