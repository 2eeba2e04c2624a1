"""Hashes of the tree, and how every subtree is put together from complete ones.

RFC 9162 section 2.1.1: a leaf is SHA-256(0x00 || entry), a node SHA-256(0x01 || left || right), the empty
tree SHA-256 of nothing; n leaves are split at the largest power of two below n. So every stretch of leaves
that occurs in a tree or a proof is a row of complete subtrees, the largest first (``cover``), folded from the
right (``fold``).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
SIZE_MAX = 2**53 - 1  # what JSON carries exactly; a thousand events a second reach it in 285,000 years


@dataclass(frozen=True, slots=True)
class Head:
    """A tree: how many leaves, and the root over them (32 bytes)."""

    size: int
    root: bytes


EMPTY_HEAD = Head(0, EMPTY_ROOT)


@dataclass(frozen=True, slots=True)
class Node:
    """The complete subtree over leaves ``index * 2**level`` up to ``(index + 1) * 2**level``."""

    level: int
    index: int


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """Return the largest power of two below ``size``, which is above one."""
    return 1 << (size - 1).bit_length() - 1


def cover(begin: int, end: int) -> Iterator[Node]:
    """Yield the complete subtrees that make up leaves ``begin`` to ``end``, the largest first.

    ``begin`` must be a multiple of the first one's width, as it is in every tree and proof.
    """
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield Node(level, begin >> level)
        begin += 1 << level


def fold(hashes: Sequence[bytes]) -> bytes:
    """Join subtrees as ``cover`` gives them into one hash; none at all are the empty tree."""
    if not hashes:
        return EMPTY_ROOT
    joined = hashes[-1]
    for left in reversed(hashes[:-1]):
        joined = node_hash(left, joined)
    return joined


def complete(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a complete subtree from the 2**k hashes below it."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[place], hashes[place + 1]) for place in range(0, len(hashes), 2)]
    return hashes[0]


class GrowingTree:
    """A tree that is handed its leaves one by one and keeps one hash per level."""

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []  # of ``cover(0, size)``

    def append(self, leaf: bytes) -> None:
        """Add a leaf's hash."""
        joined, width = leaf, self.size
        while width & 1:
            joined = node_hash(self._hashes.pop(), joined)
            width >>= 1
        self._hashes.append(joined)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The root over the leaves so far."""
        return fold(self._hashes)

    @property
    def head(self) -> Head:
        """Size and root so far."""
        return Head(self.size, self.root)
