"""The audit log, checked as a whole (I6): no gap, every checkpoint the root of its entries and signed by us.

That each fact is in the log is checked order by order (``cluster.checking``): a fact that is older than the
grace must have its entry, and an entry must commit to the fact beside it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from domain.audit.checkpoints import CheckpointError, open_note
from domain.merkle.tiles import TILE_WIDTH
from domain.merkle.tree import GrowingTree, Head, complete, leaf_hash
from domain.signing import Verifier

MISSING, DIFFERS, ERASED = "missing", "differs", "erased"


@dataclass(frozen=True, slots=True)
class Unlogged:
    """A fact of an order without an entry, or with one that commits to something else."""

    subject_id: str
    fault: str
    at: datetime

    def words(self, settled_before: datetime) -> str | None:
        """Say what is wrong; None for a fact that is too young to be missed."""
        if self.fault == DIFFERS:
            return f"the audit log's entry for {self.subject_id} commits to something else"
        if self.fault == ERASED:
            return f"{self.subject_id} is still there, and the salt of its audit log's entry is not"
        if self.at < settled_before:
            return f"{self.subject_id} is not in the audit log"
        return None


Subtree = tuple[int, int, bytes]
"""Level, place in it, and the root over 256**level leaves."""


class _GrowingSubtrees:
    """Complete subtrees of 256**level leaves, in the order in which the leaves complete them."""

    def __init__(self) -> None:
        self._rows: list[list[bytes]] = [[]]
        self._made: list[int] = []

    def append(self, leaf: bytes) -> Iterator[Subtree]:
        """Add a leaf's hash; yields what it completes, from below."""
        self._rows[0].append(leaf)
        level = 0
        while len(self._rows[level]) == TILE_WIDTH:
            if level == len(self._made):
                self._made.append(0)
                self._rows.append([])
            root = complete(self._rows[level])
            self._rows[level].clear()
            yield level + 1, self._made[level], root
            self._made[level] += 1
            level += 1
            self._rows[level].append(root)


def check_log(
    size: int,
    entries: Iterable[tuple[int, bytes]],
    checkpoints: Iterable[Head],
    subtrees: Iterable[Subtree],
) -> Iterator[tuple[str, str]]:
    """Check entries (position, digest), checkpoints and stored subtrees; yields (invariant, words).

    Entries come by position, checkpoints by size, subtrees as entries complete them. Everything is read once,
    in memory that does not grow.
    """
    tree, signed = GrowingTree(), iter(checkpoints)
    growing, stored = _GrowingSubtrees(), iter(subtrees)
    head, sound = next(signed, None), True
    for position, digest in entries:
        if position != tree.size:
            yield "I6", f"the audit log lacks entry {tree.size}: {position} follows {tree.size - 1}"
            return
        leaf = leaf_hash(digest)
        tree.append(leaf)
        for subtree in growing.append(leaf):
            if sound and next(stored, None) != subtree:
                # Those behind may only be shifted, so the first is told.
                sound = False
                level, place, _ = subtree
                yield "I6", f"the audit log's subtree {place} of level {level} is not that of its entries"
        while head is not None and head.size <= tree.size:
            if tree.head != head:
                yield "I6", f"the checkpoint of {head.size} is not the root of the audit log's entries"
            head = next(signed, None)
    if tree.size != size:
        yield "I6", f"the audit log has {tree.size} entries and says {size}"
    if head is not None:
        yield "I6", f"a checkpoint of {head.size} was signed for an audit log of {tree.size} entries"
    if sound and next(stored, None) is not None:
        yield "I6", "the audit log has subtrees beyond its entries"


def check_note(size: int, root: bytes, note: str, trusted: Iterable[bytes], verify: Verifier) -> str | None:
    """Say what is wrong with a kept checkpoint's note; None for one that a trusted key signed."""
    try:
        checkpoint, _ = open_note(note, trusted, verify)
    except CheckpointError as refused:
        return f"the note of the checkpoint of {size} is not ours: {refused.detail}"
    if checkpoint.head != Head(size, root):
        return f"the note of the checkpoint of {size} is that of another head"
    return None
