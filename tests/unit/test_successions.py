"""Transfers and renewals as documents: what stays, what changes, and what is refused."""

from dataclasses import replace
from datetime import timedelta

import pytest

from domain import licences
from domain.errors import MarketplaceError
from domain.licence_policies import LicencePolicy, OfferedPolicy
from domain.strict_json import DocumentError
from domain.successions import reissued, renewal, transferred
from tests.fakes.documents import ISSUED_AT, licence

NOW = ISSUED_AT + timedelta(days=3, microseconds=5)
OLD = licence(
    licence_id="lic_01jz3k5v8m2q9x7c4b6n0t1old", policy=LicencePolicy(ISSUED_AT + timedelta(days=30))
)
NEW = licence(policy=OfferedPolicy(365).granted(ISSUED_AT))


def test_a_transfer_changes_owner_id_and_date_alone():
    one = transferred(licence(), "ltr_1", "buyer_bob", NOW)
    assert (
        replace(one, licence_id=licence().licence_id, buyer_id="buyer_ada", issued_at=ISSUED_AT) == licence()
    )
    assert (one.buyer_id, one.issued_at) == ("buyer_bob", NOW.replace(microsecond=0))
    assert one.licence_id not in (licence().licence_id, transferred(licence(), "ltr_2", "b", NOW).licence_id)
    assert one == transferred(licence(), "ltr_1", "buyer_bob", NOW)
    assert licences.parse(licences.build(one)) == one


def test_a_reissue_changes_id_and_date_alone():
    one = reissued(licence(), "key_1", NOW)
    assert replace(one, licence_id=licence().licence_id, issued_at=ISSUED_AT) == licence()
    assert one == reissued(licence(), "key_1", NOW)
    assert len({one.licence_id, licence().licence_id, reissued(one, "key_2", NOW).licence_id}) == 3
    assert licences.parse(licences.build(one)) == one


def test_a_renewal_begins_where_the_old_one_ends_and_lasts_for_what_is_left():
    one = renewal(NEW, OLD, NOW)
    assert one.policy == LicencePolicy(OLD.policy.expires_at + timedelta(days=362), OLD.policy.expires_at)
    assert licences.parse(licences.build(one)) == one
    following = renewal(replace(NEW, licence_id="lic_third"), one, NOW)
    assert following.policy.starts_at == one.policy.expires_at


def test_time_that_was_used_is_not_given_again():
    """Used side by side with the old licence for eleven months, and only then declared its renewal."""
    old = replace(OLD, policy=LicencePolicy(ISSUED_AT + timedelta(days=360)))
    one = renewal(NEW, old, ISSUED_AT + timedelta(days=350))
    assert one.policy.expires_at - one.policy.starts_at == timedelta(days=15)
    at_once = renewal(NEW, old, ISSUED_AT - timedelta(minutes=3))  # a replica's clock is slow
    assert at_once.policy.expires_at - at_once.policy.starts_at == timedelta(days=365)
    with pytest.raises(MarketplaceError, match="renewal_too_late"):
        renewal(
            NEW, replace(OLD, policy=LicencePolicy(ISSUED_AT + timedelta(days=900))), NEW.policy.expires_at
        )


def test_a_renewal_keeps_how_it_is_used():
    floating = replace(NEW, policy=OfferedPolicy(30, "floating").granted(ISSUED_AT))
    assert renewal(floating, OLD, NOW).policy.kind == "floating"


@pytest.mark.parametrize(
    ("code", "new", "old"),
    [
        ("renewal_not_timed", replace(NEW, policy=LicencePolicy()), OLD),
        ("renewal_not_timed", NEW, replace(OLD, policy=LicencePolicy())),
        ("renewal_mismatch", NEW, replace(OLD, sku_id="sku_other")),
        ("renewal_mismatch", NEW, replace(OLD, buyer_id="buyer_bob")),
        ("renewal_mismatch", NEW, NEW),
        ("renewal_too_late", NEW, replace(OLD, policy=LicencePolicy(ISSUED_AT))),
        ("renewal_too_far", NEW, replace(OLD, policy=LicencePolicy(NOW + timedelta(days=3_661)))),
        ("renewal_done", replace(NEW, policy=replace(NEW.policy, starts_at=ISSUED_AT)), OLD),
    ],
)
def test_what_is_no_renewal(code, new, old):
    with pytest.raises(MarketplaceError) as error:
        renewal(new, old, NOW)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("offered", "carried"),
    [
        ({"kind": "perpetual"}, {"kind": "perpetual"}),
        ({"kind": "timed", "days": 1}, {"kind": "timed", "expires_at": "2026-11-25T09:30:00Z"}),
        ({"kind": "seats"}, {"kind": "seats"}),
        ({"kind": "floating", "days": 1}, {"kind": "floating", "expires_at": "2026-11-25T09:30:00Z"}),
    ],
)
def test_policies_read_back(offered, carried):
    policy = OfferedPolicy.from_json(offered)
    assert policy.as_json() == offered
    assert policy.granted(ISSUED_AT).as_json() == carried
    assert LicencePolicy.from_json(carried) == policy.granted(ISSUED_AT)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "seats", "days": 0},
        {"kind": "seats", "seats": 3},
        {"kind": "perpetual", "days": 3},
        {"kind": "floating", "expires_at": "2026-11-25T09:30:00Z"},
    ],
)
def test_offers_are_closed(value):
    with pytest.raises(DocumentError):
        OfferedPolicy.from_json(value)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "perpetual", "starts_at": "2026-11-25T09:30:00Z"},
        {"kind": "seats", "starts_at": "2026-11-25T09:30:00Z"},
        {"kind": "timed", "starts_at": "2026-11-25T09:30:00Z", "expires_at": "2026-11-25T09:30:00Z"},
    ],
)
def test_a_licence_begins_before_it_ends(value):
    with pytest.raises(DocumentError):
        LicencePolicy.from_json(value)
