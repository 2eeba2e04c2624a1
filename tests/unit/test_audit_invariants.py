"""The checker of the audit log finds stored subtrees and notes that are not those of the entries."""

import hashlib

import pytest

from domain.audit import checkpoints
from domain.audit.checkpoints import Checkpoint
from domain.audit.invariants import check_log, check_note
from domain.merkle.tree import GrowingTree, Head, complete, leaf_hash
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import verify

KEY, OTHER = (DevelopmentKeyFile(seed * 32, b"w" * 32) for seed in (b"s", b"t"))
SIZE = 65_536 + 600


@pytest.fixture(scope="module")
def entries():
    return [(n, hashlib.sha256(b"%d" % n).digest()) for n in range(SIZE)]


@pytest.fixture(scope="module")
def subtrees(entries):
    """By the plain definition, in the order in which entries complete them."""
    leaves = [leaf_hash(digest) for _, digest in entries]
    first = [complete(leaves[n * 256 : (n + 1) * 256]) for n in range(SIZE // 256)]
    rows = [(1, n, root) for n, root in enumerate(first)]
    return [*rows[:256], (2, 0, complete(first[:256])), *rows[256:]]


@pytest.fixture(scope="module")
def head(entries):
    tree = GrowingTree()
    for _, digest in entries:
        tree.append(leaf_hash(digest))
    return tree.head


def found(entries, head, subtrees):
    return [words for _, words in check_log(SIZE, entries, [head], subtrees)]


def test_a_sound_log_is_found_sound(entries, head, subtrees):
    assert found(entries, head, subtrees) == []


@pytest.mark.parametrize("place", [0, 255, 256, 257])
def test_a_subtree_that_is_another_or_is_lost_is_found(entries, head, subtrees, place):
    level, position, _ = subtrees[place]
    wrong = (level, position, bytes(32))
    words = [f"the audit log's subtree {position} of level {level} is not that of its entries"]
    assert found(entries, head, [*subtrees[:place], wrong, *subtrees[place + 1 :]]) == words
    assert found(entries, head, [*subtrees[:place], *subtrees[place + 1 :]]) == words


def test_a_subtree_of_no_entries_is_found(entries, head, subtrees):
    words = ["the audit log has subtrees beyond its entries"]
    assert found(entries, head, [*subtrees, (1, 999, bytes(32))]) == words


def test_a_note_that_is_not_ours_is_found():
    head = Head(7, bytes(range(32)))
    note = checkpoints.sign(Checkpoint("a.log", head), KEY)
    assert check_note(7, head.root, note, [KEY.public_key], verify) is None
    for size, root, text, trusted in (
        (7, head.root, note, [OTHER.public_key]),
        (7, head.root, "note", [KEY.public_key]),
        (8, head.root, note, [KEY.public_key]),
        (7, bytes(32), note, [KEY.public_key]),
    ):
        assert check_note(size, root, text, trusted, verify) is not None
