"""Which of the stored key lists count: a record that anybody may have written to is read with suspicion.

The serving role stores lists, and whoever takes it stores what it likes. So a stored list is a candidate.
The record is read from its beginning, and a list counts if the root that it names signed it, that root is
not older than the one that signed before, and the list may follow the one before (``domain.key_lists``). Any
other takes nobody's place: it is passed over, and told.

Pure: ``follow`` carries what was read so far, so that each list is looked at once by each reader.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from domain import key_lists
from domain.errors import MarketplaceError
from domain.key_lists import EMPTY, KeyList

ROWS_MAX = 1_000  # lists that are kept, believed or not; sixteen a year last for sixty years

OpenList = Callable[[str, bytes], KeyList]
"""``(text, root's public key) -> list``; raises MarketplaceError for a text that the root did not sign."""


@dataclass(frozen=True, slots=True)
class StoredList:
    """One row: where it stands in the record, its text, and the root (32 bytes) that it names.

    ``root_position`` orders the roots as the database's owner put them in.
    """

    position: int
    envelope: str
    root: bytes
    root_position: int


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A stored list that does not count, and the code of why."""

    position: int
    code: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What the record says up to ``last``: the list that counts with its row, and what does not count."""

    last: StoredList | None = None
    listed: KeyList | None = None
    row: StoredList | None = None
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def position(self) -> int:
        """Where the record ends, as far as it was read; 0 for an empty one."""
        return 0 if self.last is None else self.last.position


def follow(reading: Reading, rows: Sequence[StoredList], open_list: OpenList) -> Reading | None:
    """Read on. ``rows`` come in their order and begin with the row that was read last, if there was one.

    None if they do not: the record is another one than before (restored from a backup), and whoever reads
    begins anew.
    """
    if reading.last is not None:
        if not rows or rows[0] != reading.last:
            return None
        rows = rows[1:]
    for row in rows:
        reading = replace(_judged(reading, row, open_list), last=row)
    return reading


def _judged(reading: Reading, row: StoredList, open_list: OpenList) -> Reading:
    if reading.row is not None and row.root_position < reading.row.root_position:
        return _passing_over(reading, row, "key_root_replaced")
    try:
        listed = open_list(row.envelope, row.root)
        key_lists.require_successor(reading.listed or EMPTY, listed)
    except MarketplaceError as refused:
        return _passing_over(reading, row, refused.code)
    return replace(reading, listed=listed, row=row)


def _passing_over(reading: Reading, row: StoredList, code: str) -> Reading:
    return replace(reading, passed_over=(*reading.passed_over, PassedOver(row.position, code)))
