"""Typed, time-ordered ids."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.ids import derive_id, is_id, new_id

MOMENTS = st.integers(0, 2**48 - 1)
IDS_LINE_END = "ord_" + "0" * 26 + "\n"
CHANCE = st.binary(min_size=10, max_size=10)


@given(MOMENTS, CHANCE)
def test_an_id_names_its_kind_and_is_well_formed(unix_ms, randomness):
    made = new_id("ord", unix_ms, randomness)
    assert is_id("ord", made)
    assert not is_id("lic", made)
    assert re.fullmatch(r"ord_[0-9a-hjkmnp-tv-z]{26}", made)


@given(MOMENTS, MOMENTS, CHANCE, CHANCE)
def test_ids_sort_by_time(one_ms, other_ms, one, other):
    if one_ms < other_ms:
        assert new_id("ord", one_ms, one) < new_id("ord", other_ms, other)


def test_the_layout_is_that_of_ulid():
    assert new_id("ord", 2**48 - 1, b"\xff" * 10) == "ord_7zzzzzzzzzzzzzzzzzzzzzzzzz"
    assert new_id("ord", 0, bytes(9) + b"\x01") == "ord_00000000000000000000000001"


@given(MOMENTS, CHANCE)
def test_a_derived_id_repeats_keeps_the_time_and_differs_by_label(unix_ms, randomness):
    order = new_id("ord", unix_ms, randomness)
    licence = derive_id("lic", order, "licence:1")
    assert licence == derive_id("lic", order, "licence:1")
    assert licence != derive_id("lic", order, "licence:2")
    assert is_id("lic", licence)
    assert licence[4:14] == order[4:14]


@pytest.mark.parametrize(
    "text",
    ["", "ord_", "ord_" + "u" * 26, "ord_" + "0" * 25, "ORD_" + "0" * 26, "ord_" + "0" * 27, IDS_LINE_END],
)
def test_malformed_ids_are_told_apart(text):
    assert not is_id("ord", text)


def test_too_little_chance_is_refused():
    with pytest.raises(ValueError, match="10 random bytes"):
        new_id("ord", 0, b"x")
