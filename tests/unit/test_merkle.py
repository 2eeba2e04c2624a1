"""The Merkle tree against the plain recursion of RFC 6962, others' vectors, and every wrong proof."""

import base64
import hashlib
import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.merkle import proofs, tiles, tree
from domain.merkle.tiles import Tile
from domain.merkle.tree import EMPTY_HEAD, EMPTY_ROOT, GrowingTree, Head
from tests.fakes.documents import VECTORS, VECTORS_ABSENT

SIZES = range(71)
LEAVES = [tree.leaf_hash(bytes([number])) for number in range(max(SIZES))]


@cache
def mth(begin, end):
    """The definition of RFC 6962, section 2.1, and nothing else."""
    if begin == end:
        return hashlib.sha256(b"").digest()
    if end - begin == 1:
        return LEAVES[begin]
    k = 1
    while k * 2 < end - begin:
        k *= 2
    return hashlib.sha256(b"\x01" + mth(begin, begin + k) + mth(begin + k, end)).digest()


def head(size):
    return Head(size, mth(0, size))


def node_hashes(stretches):
    return {
        node: mth(node.index << node.level, (node.index + 1) << node.level)
        for node in proofs.nodes(stretches)
    }


def inclusion(index, size):
    stretches = proofs.inclusion(index, size)
    return proofs.assemble(stretches, node_hashes(stretches))


def consistency(old, new):
    stretches = proofs.consistency(old, new)
    return proofs.assemble(stretches, node_hashes(stretches))


def mutations(path):
    """Ways to spoil a proof: a bit of each hash, a hash less, more, twice, in another place or shorter."""
    for place, one in enumerate(path):
        for bit in (0, 255):
            spoilt = int.from_bytes(one) ^ (1 << bit)
            yield [*path[:place], spoilt.to_bytes(32), *path[place + 1 :]]
        yield [*path[:place], *path[place + 1 :]]
        yield [*path[:place], one, *path[place:]]
        yield [*path[:place], one[:-1], *path[place + 1 :]]
    for more in (EMPTY_ROOT, b"", b"\x00" * 32):
        yield [*path, more]
        yield [more, *path]
    if len(path) > 1 and path[0] != path[-1]:
        yield path[::-1]


def test_the_growing_tree_is_the_recursion():
    growing = GrowingTree()
    for size in SIZES:
        assert growing.head == head(size)
        assert tree.fold([mth(n.index << n.level, n.index + 1 << n.level) for n in tree.cover(0, size)]) == (
            mth(0, size)
        )
        if size < len(LEAVES):
            growing.append(LEAVES[size])


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_proven_and_no_spoilt_proof_is(size):
    for index in range(size):
        path = inclusion(index, size)
        assert proofs.included(head(size), index, LEAVES[index], path)
        for spoilt in mutations(path):
            assert not proofs.included(head(size), index, LEAVES[index], spoilt)
        assert not proofs.included(head(size), index, LEAVES[index - 1] if index else EMPTY_ROOT, path)
        for other in {index - 1, index + 1, size, -1} - {index}:
            assert not proofs.included(head(size), other, LEAVES[index], path)
        assert not proofs.included(Head(size, EMPTY_ROOT), index, LEAVES[index], path)


@pytest.mark.parametrize("new", SIZES)
def test_every_earlier_tree_is_proven_and_no_spoilt_proof_is(new):
    for old in range(new + 1):
        path = consistency(old, new)
        assert proofs.consistent(head(old), head(new), path)
        for spoilt in mutations(path):
            assert not proofs.consistent(head(old), head(new), spoilt)
        assert not proofs.consistent(Head(old, LEAVES[-1]), head(new), path)
        if old:
            assert not proofs.consistent(head(old), Head(new, LEAVES[-1]), path)
        if old < new:
            assert not proofs.consistent(head(new), head(old), path)


def test_what_a_tree_does_not_have_cannot_be_asked_for():
    for index, size in ((0, 0), (5, 5), (-1, 5), (0, tree.SIZE_MAX + 1)):
        with pytest.raises(ValueError, match="has no leaf"):
            proofs.inclusion(index, size)
    for old, new in ((6, 5), (-1, 5), (0, tree.SIZE_MAX + 1)):
        with pytest.raises(ValueError, match="does not follow"):
            proofs.consistency(old, new)
    assert not proofs.consistent(EMPTY_HEAD, Head(tree.SIZE_MAX + 1, EMPTY_ROOT), [])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_large_trees_need_few_hashes_and_only_complete_subtrees(data):
    new = data.draw(st.integers(1, tree.SIZE_MAX))
    old = data.draw(st.integers(0, new))
    for stretches in (
        proofs.inclusion(data.draw(st.integers(0, new - 1)), new),
        proofs.consistency(old, new),
    ):
        assert len(stretches) <= proofs.PROOF_HASHES_MAX
        for begin, end in stretches:
            at = begin
            for node in tree.cover(begin, end):
                assert node.index << node.level == at, "a subtree begins at a multiple of its width"
                at += 1 << node.level
            assert at == end


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**53), st.integers(1, 256), st.integers(0, tiles.LEVEL_MAX))
def test_tile_paths_are_read_as_they_are_written(number, width, level):
    tile = Tile(level, number, width)
    assert tiles.parse_tile(level, tile.path) == tile


def test_tile_paths_of_the_specification():
    assert Tile(0, 1_234_067).path == "x001/x234/067"
    assert Tile(2, 0, 1).path == "000.p/1"
    assert [one.path for one in tiles.tiles_of(512 + 3)] == ["000", "001", "002.p/3"]
    assert (Tile(0, 273, 112).leaves, Tile(1, 1, 17).leaves) == (70_000, (256 + 17) * 256)


@pytest.mark.parametrize(
    "path",
    [
        "", "0", "00", "0000", "x000/067", "001/067", "x001/67", "x001/x067", "000.p/0", "000.p/01",
        "000.p/256", "000.p/257", "000.p/999", "000.p", "000.p/", "/000", "000/", "-01", "+01", "٠٠٠",
        "x001//067", "../000", "x001/x001/x001/x001/x001/x001/001",
    ],
)  # fmt: skip
def test_other_spellings_are_refused(path):
    assert tiles.parse_tile(0, path) is None


def test_levels_beyond_the_tree_are_refused():
    assert tiles.parse_tile(tiles.LEVEL_MAX + 1, "000") is None
    assert tiles.parse_tile(-1, "000") is None


def test_a_node_between_stored_levels_is_made_from_its_row():
    for node in {node for size in SIZES for node in tree.cover(0, size)}:
        row = tiles.row_below(node)
        assert row.level == 0
        assert tiles.node_from(LEAVES[row.begin : row.begin + row.count]) == mth(
            node.index << node.level, node.index + 1 << node.level
        )
    assert tiles.row_below(tree.Node(17, 5)) == tiles.StoredRow(2, 10, 2)


def vectors():
    folder = VECTORS / "merkle" / "testdata" / "inclusion"
    if not folder.is_dir():
        pytest.skip(VECTORS_ABSENT)
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]


def run(case):
    proof = [base64.b64decode(one) for one in case["proof"] or ()]
    root = base64.b64decode(case["root"] or "")
    leaf = base64.b64decode(case["leafHash"] or "")
    return proofs.included(Head(case["treeSize"], root), case["leafIdx"], leaf, proof)


def test_others_vectors_agree():
    disagreeing = [case["desc"] for case in vectors() if run(case) == case["wantErr"]]
    assert disagreeing == []
