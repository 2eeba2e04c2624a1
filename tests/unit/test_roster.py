"""Which backend signs: what is on record decides, and a backend proves itself before it serves."""

from dataclasses import replace
from datetime import timedelta

import pytest

from actors.signer import rehearsal
from actors.signer.roster import Roster, WrapperRing
from domain import key_lists
from domain.errors import DependencyError, RejectedError
from domain.signing import KeyState
from storage.market.signing_keys import KeysOnRecord
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.carts import NOW

FIRST = DevelopmentKeyFile(b"1" * 32, b"w" * 32)
SECOND = DevelopmentKeyFile(b"2" * 32, b"x" * 32)
CONTEXT = {"release_id": "rel_1"}


class World:
    """The record, and backends by address; ``away`` cannot be opened, ``calls`` counts what was signed."""

    def __init__(self, **backends):
        self.backends = backends
        self.away = set()
        self.record = KeysOnRecord(())

    def open(self, address):
        if address in self.away:
            raise DependencyError("signer_unavailable", "away")
        return self.backends[address]

    def enrol(self, public_key):
        self.record = KeysOnRecord((register(public_key, NOW),))

    def publish(self, signs, *keys):
        records = tuple(keys)
        listed = key_lists.KeyList(1, NOW, NOW + timedelta(days=90), signs, records)
        self.record = KeysOnRecord(records, listed, "text")

    def roster(self):
        return Roster(list(self.backends), self.open, lambda: self.record, self.enrol)


def record_of(keys):
    return register(keys.public_key, NOW)


@pytest.fixture
def world():
    return World(first=FIRST, second=SECOND)


def test_the_first_start_puts_its_first_backends_key_on_record(world):
    roster = world.roster()
    assert not roster.available
    with pytest.raises(DependencyError, match="signer_unavailable"):
        _ = roster.desk
    roster.refresh()
    assert [key.key_id for key in world.record.keys] == [FIRST.key_id]
    assert roster.available
    assert roster.desk.keys is FIRST


def test_a_later_start_with_another_key_is_refused_and_says_what_to_do(world):
    world.record = KeysOnRecord((register(b"\x58" + b"\x66" * 31, NOW),))  # the base point: nobody's key
    roster = world.roster()
    with pytest.raises(DependencyError, match="signing_key_unrecorded") as told:
        roster.refresh()
    assert FIRST.key_id in told.value.detail
    assert "docs/runbooks/signing-keys.md" in told.value.detail
    with pytest.raises(DependencyError, match="signer_refused"):
        _ = roster.desk


def test_rotation_switches_at_the_next_look_and_old_secrets_still_open(world):
    roster = world.roster()
    world.publish(FIRST.key_id, record_of(FIRST))
    roster.refresh()
    wrapped = roster.desk.issuer._wrapper.wrap(b"sixteen byte key", CONTEXT)
    during = roster.desk  # a call that has begun keeps its key to its end
    world.publish(FIRST.key_id, record_of(FIRST), record_of(SECOND))
    roster.refresh()
    assert roster.desk is during, "a listed key does not sign yet"
    world.publish(SECOND.key_id, record_of(FIRST), record_of(SECOND))
    roster.refresh()
    assert (roster.desk.keys, during.keys) == (SECOND, FIRST)
    ring = roster.desk.issuer._wrapper
    assert ring.unwrap(wrapped, CONTEXT) == b"sixteen byte key"
    assert ring.unwrap(SECOND.wrap(b"new", CONTEXT), CONTEXT) == b"new"
    with pytest.raises(RejectedError, match="unwrap_refused"):
        ring.unwrap(wrapped, {"release_id": "rel_2"})


@pytest.mark.parametrize("state", [KeyState.RETIRED, KeyState.COMPROMISED])
def test_a_key_that_is_not_active_stops_signing(world, state):
    roster = world.roster()
    roster.refresh()
    at = NOW if state is KeyState.COMPROMISED else None
    world.publish(None, replace(record_of(FIRST), state=state, compromised_at=at))
    with pytest.raises(DependencyError, match="signing_key_unrecorded"):
        roster.refresh()
    with pytest.raises(DependencyError, match="names none"):
        _ = roster.desk


def test_a_backend_that_is_away_at_the_start_joins_later(world):
    world.away = {"first"}
    world.publish(FIRST.key_id, record_of(FIRST))
    roster = world.roster()
    roster.refresh()
    assert not roster.available
    world.away = set()
    roster.refresh()
    assert roster.desk.keys is FIRST


def test_an_old_backend_that_joins_late_can_still_unwrap(world):
    world.away = {"second"}
    roster = world.roster()
    roster.refresh()
    wrapped = SECOND.wrap(b"secret", CONTEXT)
    with pytest.raises(RejectedError, match="unwrap_refused"):
        roster.desk.issuer._wrapper.unwrap(wrapped, CONTEXT)
    world.away = set()
    roster.refresh()
    assert roster.desk.issuer._wrapper.unwrap(wrapped, CONTEXT) == b"secret"


class Away:
    """A backend that does not answer."""

    key_id, public_key, available = FIRST.key_id, FIRST.public_key, False

    def unwrap(self, wrapped, context):
        raise DependencyError("signer_unavailable", "away")


def test_a_backend_that_is_away_does_not_keep_another_from_opening_its_own():
    wrapped = SECOND.wrap(b"secret", CONTEXT)
    third = DevelopmentKeyFile(b"3" * 32, b"y" * 32)
    assert WrapperRing([third, Away(), SECOND]).unwrap(wrapped, CONTEXT) == b"secret"
    with pytest.raises(DependencyError, match="signer_unavailable"):  # it may be that one's
        WrapperRing([third, Away(), FIRST]).unwrap(wrapped, CONTEXT)


def test_a_database_that_is_away_changes_nothing(world):
    roster = world.roster()
    roster.refresh()
    desk = roster.desk

    def down():
        raise DependencyError("database_unavailable", "down")

    roster._on_record = down
    roster.refresh()
    assert roster.desk is desk


class Lying:
    """Shows one public key and signs with another."""

    key_id, public_key, available = FIRST.key_id, FIRST.public_key, True
    sign_many, wrap, unwrap = SECOND.sign_many, SECOND.wrap, SECOND.unwrap

    def close(self):
        pass


def test_a_backend_that_signs_with_another_key_is_never_used():
    world = World(first=Lying())
    world.record = KeysOnRecord((record_of(FIRST),))
    roster = world.roster()
    with pytest.raises(DependencyError, match="signing_key_mismatch"):
        roster.refresh()
    with pytest.raises(DependencyError, match="signer_refused"):
        _ = roster.desk


class Forgetful(Lying):
    sign_many, wrap = FIRST.sign_many, FIRST.wrap

    def unwrap(self, wrapped, context):
        return bytes(16)


def test_a_backend_that_does_not_open_what_it_wrapped_is_refused():
    with pytest.raises(DependencyError, match="wrapping_key_broken"):
        rehearsal.rehearse(Forgetful(), FIRST.public_key)


def test_addresses_are_few_and_at_least_one(world):
    for addresses in ([], ["x"] * 9):
        with pytest.raises(RejectedError, match="signing_backend_invalid"):
            Roster(addresses, world.open, lambda: world.record, world.enrol)
