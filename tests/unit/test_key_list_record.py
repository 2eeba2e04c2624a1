"""The record of key lists: a row that the root did not sign takes nobody's place; the rest is one chain."""

from dataclasses import replace
from datetime import timedelta

from domain import key_lists
from domain.key_list_record import PassedOver, Reading, StoredList, follow
from domain.key_lists import EMPTY
from domain.signing import KeyState
from storage.market.signing_keys import read_list
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register
from tests.fakes.carts import NOW

ROOT, NEXT_ROOT, THIEF = (DevelopmentKeyFile(letter * 32, b"w" * 32) for letter in (b"r", b"R", b"t"))
A, B, C = (register(DevelopmentKeyFile(bytes([n]) * 32, b"w" * 32).public_key, NOW) for n in (1, 2, 3))
FIRST = key_lists.reissue(key_lists.activate(key_lists.add(EMPTY, A), A.key_id), NOW)
SECOND = key_lists.reissue(key_lists.add(FIRST, B), NOW)
THIRD = key_lists.reissue(key_lists.compromise(SECOND, A.key_id, NOW), NOW)
ROOTS = {ROOT.key_id: 1, NEXT_ROOT.key_id: 2}


def record(*lists):
    """Rows of lists, each with who signed it and the root that it names, if that is another."""
    rows = []
    for position, (listed, signer, *named) in enumerate(lists, 1):
        root = named[0] if named else signer
        text = key_lists.sign(listed, signer)
        if root is not signer:
            text = text.replace(signer.key_id, root.key_id)  # the hint, which is not signed
        rows.append(StoredList(position, text, root.public_key, ROOTS[root.key_id]))
    return rows


def read(*lists):
    reading = follow(Reading(), record(*lists), read_list)
    assert reading is not None
    return reading


def test_the_newest_list_of_a_chain_counts():
    reading = read((FIRST, ROOT), (SECOND, ROOT), (THIRD, ROOT))
    assert (reading.listed, reading.position, reading.passed_over) == (THIRD, 3, ())
    assert reading.row.position == 3
    assert read().listed is None


def test_a_forged_row_takes_neither_the_place_nor_the_version_of_the_true_one():
    forged = key_lists.reissue(key_lists.activate(key_lists.add(FIRST, C), C.key_id), NOW)
    far = replace(forged, version=2**53 - 1)
    reading = read((FIRST, ROOT), (forged, THIEF, ROOT), (far, THIEF, ROOT), (SECOND, ROOT))
    assert (reading.listed, reading.position) == (SECOND, 4)
    assert reading.passed_over == (
        PassedOver(2, "key_list_signature_invalid"),
        PassedOver(3, "key_list_signature_invalid"),
    )


def test_what_is_no_list_at_all_is_passed_over():
    rows = record((FIRST, ROOT))
    for position, text in enumerate(("", "{}", "[" * 5_000, "\udcff", rows[0].envelope + " "), 2):
        rows.append(StoredList(position, text, ROOT.public_key, 1))
    reading = follow(Reading(), rows, read_list)
    assert reading.listed == FIRST
    assert len(reading.passed_over) == 5


def test_an_old_list_that_is_stored_again_brings_no_key_back():
    reading = read((FIRST, ROOT), (SECOND, ROOT), (THIRD, ROOT), (FIRST, ROOT))
    assert reading.listed.find(A.key_id).state is KeyState.COMPROMISED
    assert reading.passed_over == (PassedOver(4, "key_list_not_newer"),)


def test_a_list_that_may_not_follow_is_passed_over_although_the_root_signed_it():
    revived = replace(SECOND, version=9)
    forgetful = replace(FIRST, version=9)
    reading = read((FIRST, ROOT), (SECOND, ROOT), (THIRD, ROOT), (revived, ROOT), (forgetful, ROOT))
    assert reading.listed == THIRD
    assert {one.code for one in reading.passed_over} == {"key_list_refused"}


def test_a_root_that_was_replaced_counts_no_more_once_its_successor_has_signed():
    stolen = key_lists.reissue(key_lists.activate(key_lists.add(SECOND, C), C.key_id), NOW)
    reading = read((FIRST, ROOT), (SECOND, NEXT_ROOT), (stolen, ROOT))
    assert reading.listed == SECOND
    assert reading.passed_over == (PassedOver(3, "key_root_replaced"),)
    assert read((FIRST, ROOT), (SECOND, ROOT), (THIRD, NEXT_ROOT)).row.root == NEXT_ROOT.public_key


def test_a_reader_goes_on_where_it_stopped_and_looks_at_each_list_once():
    rows = record((FIRST, ROOT), (SECOND, THIEF, ROOT), (SECOND, ROOT))
    opened = []

    def counting(text, root):
        opened.append(text)
        return read_list(text, root)

    reading = Reading()
    for end in range(1, 4):
        reading = follow(reading, rows[max(0, end - 2) : end], counting)
    assert reading == follow(Reading(), rows, read_list)
    assert len(opened) == 3
    assert follow(reading, rows[2:], counting) == reading
    assert len(opened) == 3


def test_a_record_that_was_restored_from_a_backup_is_read_anew():
    reading = read((FIRST, ROOT), (SECOND, ROOT))
    later = replace(SECOND, expires_at=SECOND.expires_at + timedelta(days=1))
    other = record((FIRST, ROOT), (later, ROOT))
    assert follow(reading, other[1:], read_list) is None
    assert follow(reading, [], read_list) is None
