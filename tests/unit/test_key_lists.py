"""Key lists: what a root signs, what may follow it, and how each step of a key's life changes it."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cluster.identities import SellerKey
from domain import canonical_json, key_lists
from domain.dsse import Envelope, Signature, pae
from domain.errors import MarketplaceError
from domain.key_lists import EMPTY, KeyList
from domain.merkle.tree import Head
from domain.signing import KeyState
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.carts import NOW

ROOT = DevelopmentKeyFile(b"r" * 32, b"w" * 32)
OTHER_ROOT = DevelopmentKeyFile(b"R" * 32, b"w" * 32)
KEYS = [DevelopmentKeyFile(bytes([number]) * 32, b"w" * 32) for number in range(1, 5)]
A, B, C = (register(one.public_key, NOW) for one in KEYS[:3])
AT = NOW.replace(microsecond=0)


def listed(*steps):
    current = EMPTY
    for step in steps:
        current = key_lists.reissue(step(current), NOW)
    return current


def adding(key):
    return lambda current: key_lists.add(current, key)


def activating(key):
    return lambda current: key_lists.activate(current, key.key_id)


TWO = listed(adding(A), activating(A), adding(B))
SIGNED = key_lists.sign(TWO, ROOT)


def refused(code, work, *arguments):
    with pytest.raises(MarketplaceError) as error:
        work(*arguments)
    assert error.value.code == code, error.value


def opened(text):
    return key_lists.open_list(text, ROOT.public_key, verify)


def test_a_list_is_read_as_it_was_signed():
    assert opened(SIGNED) == TWO
    assert (TWO.version, TWO.signs, [key.state for key in TWO.keys]) == (3, A.key_id, ["active", "active"])
    assert TWO.expires_at - TWO.issued_at == key_lists.LIFE_DEFAULT
    assert key_lists.sign(TWO, ROOT) == SIGNED, "equal lists give equal bytes"


def test_every_flipped_byte_is_refused():
    data = SIGNED.encode()
    assert len(data) < 4_096
    for position in range(len(data)):
        for flip in (1, 0x20, 0x80):
            changed = bytearray(data)
            changed[position] ^= flip
            with pytest.raises(MarketplaceError):
                key_lists.open_list(bytes(changed).decode("latin-1"), ROOT.public_key, verify)


def test_every_cut_and_every_addition_is_refused():
    for length in range(0, len(SIGNED), 7):
        with pytest.raises(MarketplaceError):
            opened(SIGNED[:length])
    for text in (SIGNED + " ", SIGNED + SIGNED, "\n" + SIGNED, SIGNED.replace(":", ": ", 1)):
        with pytest.raises(MarketplaceError):
            opened(text)


def test_another_root_is_refused():
    refused("key_list_untrusted", opened, key_lists.sign(TWO, OTHER_ROOT))


def test_a_signing_key_cannot_name_its_successor():
    envelope = Envelope.parse(SIGNED)
    (signature,) = KEYS[0].sign_many([pae(envelope.payload_type, envelope.payload)])
    for hint in (KEYS[0].key_id, ROOT.key_id):
        forged = replace(envelope, signatures=(Signature(hint, signature),)).dumps()
        refused("key_list_untrusted", opened, forged)


def test_another_document_of_the_root_is_no_list():
    envelope = Envelope.parse(SIGNED)
    other = replace(envelope, payload_type="application/vnd.in-toto+json").dumps()
    refused("payload_type_wrong", opened, other)
    twice = replace(envelope, signatures=envelope.signatures * 2).dumps()
    refused("key_list_invalid", opened, twice)


PAYLOAD = json.loads(key_lists.build(TWO))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": True},
        {"version": 1.5},
        {"signs": "key_0000000000000000"},
        {"signs": 1},
        {"keys": []},
        {"keys": {}},
        {"keys": PAYLOAD["keys"] * 2},
        {"keys": PAYLOAD["keys"] * 40},
        {"expires_at": PAYLOAD["issued_at"]},
        {"expires_at": "2099-01-01T00:00:00Z"},
        {"expires_at": "soon"},
        {"more": 1},
        *(
            {"keys": [PAYLOAD["keys"][0] | fault]}
            for fault in (
                {"algorithm": "rsa"},
                {"state": "expired"},
                {"state": []},
                {"state": "compromised"},
                {"compromised_at": PAYLOAD["issued_at"]},
                {"state": "retired"},
                {"key_id": B.key_id},
                {"public_key": "AAAA"},
                {"public_key": None},
                {"not_before": "2026-13-01T00:00:00Z"},
            )
        ),
    ],
)
def test_unsound_lists_are_not_read(change):
    payload = json.dumps(PAYLOAD | change, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(MarketplaceError):
        key_lists.parse(payload)


def test_unsound_lists_are_not_signed():
    for changes in ({"version": 0}, {"issued_at": NOW.replace(microsecond=5)}, {"signs": C.key_id}):
        with pytest.raises(MarketplaceError):
            key_lists.sign(replace(TWO, **changes), ROOT)


def test_the_roots_own_key_and_a_key_that_is_not_in_use_yet_do_not_sign():
    own = register(ROOT.public_key, NOW)
    refused("key_list_invalid", key_lists.sign, listed(adding(A), adding(own)), ROOT)
    later = replace(A, not_before=NOW + timedelta(minutes=1))
    refused("key_list_invalid", key_lists.sign, listed(adding(later), activating(later)), ROOT)
    assert key_lists.sign(
        listed(adding(A), activating(A), adding(replace(B, not_before=later.not_before))), ROOT
    )


def test_sixty_four_keys_fit_and_not_one_more():
    current = EMPTY
    for number in range(key_lists.KEYS_MAX):
        seed = DevelopmentKeyFile(number.to_bytes(32), b"w" * 32)
        current = key_lists.add(current, register(seed.public_key, NOW))
    full = key_lists.reissue(current, NOW)
    root = SellerKey(
        Ed25519PrivateKey.from_private_bytes(b"r" * 32)
    )  # a file's key signs texts of any length
    assert opened(key_lists.sign(full, root)) == full
    refused("key_list_full", key_lists.add, full, A)


# -- a key's life ------------------------------------------------------------------------------------


def test_rotation_lists_then_activates_then_retires():
    rotated = listed(
        adding(A), activating(A), adding(B), activating(B), lambda one: key_lists.retire(one, A.key_id)
    )
    assert (rotated.signs, rotated.find(A.key_id).state) == (B.key_id, KeyState.RETIRED)
    refused("key_signs", key_lists.retire, rotated, B.key_id)
    refused("key_not_active", key_lists.activate, rotated, A.key_id)
    refused("key_not_active", key_lists.retire, rotated, A.key_id)
    refused("key_listed", key_lists.add, rotated, A)
    for step in (key_lists.activate, key_lists.retire):
        refused("key_unlisted", step, rotated, C.key_id)
    refused("key_unlisted", key_lists.compromise, rotated, C.key_id, NOW)


def test_a_compromised_signing_key_signs_no_more():
    changed = key_lists.compromise(TWO, A.key_id, NOW - timedelta(hours=1))
    assert (changed.signs, changed.find(A.key_id).state) == (None, KeyState.COMPROMISED)
    assert changed.find(A.key_id).compromised_at == AT - timedelta(hours=1)
    assert key_lists.activate(changed, B.key_id).signs == B.key_id
    later = key_lists.compromise(changed, A.key_id, NOW)
    assert later.find(A.key_id).compromised_at == AT - timedelta(hours=1), "the earliest counts"


COMPROMISED = key_lists.reissue(key_lists.compromise(TWO, A.key_id, NOW), NOW)
FORBIDDEN: dict[str, tuple[KeyList, KeyList]] = {
    "forgotten": (TWO, replace(TWO, version=9, keys=(A,))),
    "revived": (COMPROMISED, replace(TWO, version=9)),
    "redated": (TWO, replace(TWO, version=9, keys=(A, replace(B, not_before=NOW - timedelta(days=1))))),
    "compromised later": (
        COMPROMISED,
        replace(
            COMPROMISED,
            version=9,
            keys=tuple(
                replace(key, compromised_at=NOW + timedelta(days=1)) if key.compromised_at else key
                for key in COMPROMISED.keys
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_later_list_only_takes_trust_away(name):
    refused("key_list_refused", key_lists.require_successor, *FORBIDDEN[name])


def test_a_rollback_is_refused():
    newer = key_lists.reissue(TWO, NOW)
    key_lists.require_successor(TWO, newer)
    for before, after in ((newer, TWO), (TWO, TWO)):
        refused("key_list_not_newer", key_lists.require_successor, before, after)


def test_lists_are_canonical():
    assert canonical_json.dumps(json.loads(SIGNED)).decode() == SIGNED


# -- the audit log in a compromise --------------------------------------------------------------------

LOG = Head(4711, bytes(range(32)))


def compromised(log, since=AT, current=TWO):
    return key_lists.reissue(key_lists.compromise(current, A.key_id, since, log), NOW)


def test_a_compromise_names_the_logs_head():
    named = opened(key_lists.sign(compromised(LOG), ROOT))
    assert named.find(A.key_id).log == LOG
    assert named.find(B.key_id).log is None
    key_lists.require_successor(TWO, named)


def test_lists_from_before_the_log_read_as_they_did():
    old = compromised(None)
    text = key_lists.sign(old, ROOT)
    assert b'"log"' not in key_lists.build(old)
    assert opened(text) == old
    key_lists.require_successor(old, key_lists.reissue(key_lists.compromise(old, A.key_id, AT, LOG), NOW))


@pytest.mark.parametrize(
    "log", [None, Head(4712, LOG.root), Head(4711, bytes(32))], ids=["none", "longer", "another"]
)
def test_what_a_list_believes_of_the_log_only_falls(log):
    current = compromised(LOG)
    (key, *rest) = current.keys
    refused(
        "key_list_refused",
        key_lists.require_successor,
        current,
        key_lists.reissue(replace(current, keys=(replace(key, log=log), *rest)), NOW),
    )
    assert key_lists.compromise(current, A.key_id, AT, log).find(A.key_id).log.size == 4711
    shorter = key_lists.compromise(current, A.key_id, AT, Head(7, LOG.root))
    assert shorter.find(A.key_id).log.size == 7
    key_lists.require_successor(current, key_lists.reissue(shorter, NOW))


@pytest.mark.parametrize(
    "log",
    [{}, {"size": 1}, {"size": -1, "root": "x"}, {"size": 1, "root": "AAAA"}, None, {"size": 1, "root": 1}],
)
def test_a_malformed_head_is_refused(log):
    document = json.loads(key_lists.build(compromised(LOG)))
    document["keys"][0]["log"] = log
    with pytest.raises(MarketplaceError):
        key_lists.parse(canonical_json.dumps(document))


def test_only_a_compromised_key_names_a_head():
    with pytest.raises(ValueError, match="only a compromised key"):
        replace(A, log=LOG)
