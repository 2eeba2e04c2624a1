"""Inclusion and consistency proofs: what they are made of, and whether they hold.

Making: a proof is a list of stretches of leaves, each of which is covered by complete subtrees. ``nodes``
names those that must be fetched, ``assemble`` folds them, so whoever stores hashes fetches once.
Verifying follows RFC 9162 sections 2.1.3.2 and 2.1.4.2 and refuses everything else: an index beyond the tree,
a hash of another length, a proof that is too short or too long. It never raises for hostile input.
"""

from collections.abc import Iterable, Mapping, Sequence

from domain.merkle.tree import EMPTY_ROOT, HASH_BYTES, SIZE_MAX, Head, Node, cover, fold, node_hash, split

PROOF_HASHES_MAX = 64  # a consistency proof of 2**53 leaves has at most 54
Stretch = tuple[int, int]
"""Leaves from the first number up to, and without, the second."""


def inclusion(index: int, size: int) -> list[Stretch]:
    """Return the stretches that prove leaf ``index`` in a tree of ``size``, from the leaf to the root.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise ValueError(f"a tree of {size} has no leaf {index}")
    path: list[Stretch] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + split(end - begin)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin = middle
    return path[::-1]


def consistency(old: int, new: int) -> list[Stretch]:
    """Return the stretches that prove that a tree of ``new`` begins with the tree of ``old``.

    Nothing needs a proof from the empty tree, or from a tree to itself.

    Raises:
        ValueError: unless 0 <= old <= new.
    """
    if not 0 <= old <= new <= SIZE_MAX:
        raise ValueError(f"a tree of {new} does not follow one of {old}")
    if old in (0, new):
        return []
    path: list[Stretch] = []
    begin, end, whole = 0, new, True  # whole: the verifier knows the old root, which is this very stretch
    while old != end:
        middle = begin + split(end - begin)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((begin, middle))
            begin, whole = middle, False
    if not whole:
        path.append((begin, end))
    return path[::-1]


def nodes(stretches: Iterable[Stretch]) -> list[Node]:
    """Name the complete subtrees that make up these stretches, in their order."""
    return [node for begin, end in stretches for node in cover(begin, end)]


def assemble(stretches: Iterable[Stretch], hashes: Mapping[Node, bytes]) -> list[bytes]:
    """Return the proof from the hashes of its ``nodes``; raises ``KeyError`` when one is missing."""
    return [fold([hashes[node] for node in cover(begin, end)]) for begin, end in stretches]


def included(head: Head, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Whether ``leaf`` (a leaf's hash) is proven to be leaf ``index`` of the tree ``head``."""
    if not 0 <= index < head.size <= SIZE_MAX or not _sound([leaf, head.root, *path]):
        return False
    place, last, joined = index, head.size - 1, leaf
    for one in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            joined = node_hash(one, joined)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            joined = node_hash(joined, one)
        place, last = place >> 1, last >> 1
    return last == 0 and joined == head.root


def consistent(old: Head, new: Head, path: Sequence[bytes]) -> bool:
    """Whether the tree ``new`` is proven to begin with the tree ``old``."""
    if not 0 <= old.size <= new.size <= SIZE_MAX or not _sound([old.root, new.root, *path]):
        return False
    if old.size in (0, new.size):
        first_root = EMPTY_ROOT if old.size == 0 else new.root
        return not path and old.root == first_root
    hashes = list(path)
    if old.size & (old.size - 1) == 0:
        hashes.insert(0, old.root)
    if not hashes:
        return False
    place, last = old.size - 1, new.size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    older = newer = hashes[0]
    for one in hashes[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            older, newer = node_hash(one, older), node_hash(one, newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = node_hash(newer, one)
        place, last = place >> 1, last >> 1
    return last == 0 and older == old.root and newer == new.root


def _sound(hashes: Sequence[bytes]) -> bool:
    return len(hashes) <= PROOF_HASHES_MAX + 2 and all(len(one) == HASH_BYTES for one in hashes)
