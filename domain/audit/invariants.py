"""The audit log, checked as a whole (I6): no gap, and every checkpoint the root of its entries.

That each fact is in the log is checked order by order (``cluster.checking``): a fact that is older than the
grace must have its entry, and an entry must commit to the fact beside it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from domain.merkle.tree import GrowingTree, Head, leaf_hash

MISSING, DIFFERS = "missing", "differs"


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
        if self.at < settled_before:
            return f"{self.subject_id} is not in the audit log"
        return None


def check_log(
    size: int, entries: Iterable[tuple[int, bytes]], checkpoints: Iterable[Head]
) -> Iterator[tuple[str, str]]:
    """Check entries (position, digest; in order) and checkpoints (by size); yields (invariant, words).

    Everything is read once, in memory that does not grow.
    """
    tree, signed = GrowingTree(), iter(checkpoints)
    head = next(signed, None)
    for position, digest in entries:
        if position != tree.size:
            yield "I6", f"the audit log lacks entry {tree.size}: {position} follows {tree.size - 1}"
            return
        tree.append(leaf_hash(digest))
        while head is not None and head.size <= tree.size:
            if tree.head != head:
                yield "I6", f"the checkpoint of {head.size} is not the root of the audit log's entries"
            head = next(signed, None)
    if tree.size != size:
        yield "I6", f"the audit log has {tree.size} entries and says {size}"
    if head is not None:
        yield "I6", f"a checkpoint of {head.size} was signed for an audit log of {tree.size} entries"
