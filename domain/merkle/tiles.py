"""C2SP tlog-tiles: 256 consecutive hashes of every eighth level are a tile; which one, and its path.

Level 0 holds leaf hashes; each hash of a higher level is the root of a full tile below. Hashes between those
levels are not stored: ``node_from`` makes them from a tile. Refuses every spelling of a path but the one of
the specification, so that a cache holds each tile once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from domain.merkle.tree import HASH_BYTES, Node, complete

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
LEVEL_MAX = 6  # 256**7 leaves are more than a tree can have
_PATH = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)
_GROUPS_MAX = 6  # of three digits


@dataclass(frozen=True, slots=True)
class Tile:
    """The first ``width`` hashes of tile ``number`` of a level."""

    level: int
    number: int
    width: int = TILE_WIDTH

    @property
    def begin(self) -> int:
        """Its first hash's place in the level."""
        return self.number * TILE_WIDTH

    @property
    def leaves(self) -> int:
        """How many leaves the tree must have for this tile to be whole."""
        return (self.begin + self.width) << (TILE_HEIGHT * self.level)

    @property
    def path(self) -> str:
        """The path below ``tile/<L>/``: ``x001/x234/067``, and ``.p/17`` behind it for a partial tile."""
        digits = str(self.number)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
        written = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return written if self.width == TILE_WIDTH else f"{written}.p/{self.width}"


def parse_tile(level: int, path: str) -> Tile | None:
    """Read a path below ``tile/<L>/``; None for any spelling that is not the one of ``Tile.path``."""
    match = _PATH.fullmatch(path)
    if match is None or not 0 <= level <= LEVEL_MAX or len(match[1]) > (_GROUPS_MAX - 1) * 5:
        return None
    number = int(match[1].replace("x", "").replace("/", "") + match[2])
    tile = Tile(level, number, int(match[3] or TILE_WIDTH))
    return tile if tile.path == path and tile.width <= TILE_WIDTH else None


def tiles_of(size: int) -> list[Tile]:
    """Return the tiles of level 0 of a tree of this size, the partial one last."""
    full, width = divmod(size, TILE_WIDTH)
    return [*(Tile(0, number) for number in range(full)), *([Tile(0, full, width)] if width else [])]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """Consecutive hashes of one stored level: ``count`` from place ``begin`` on."""

    level: int
    begin: int
    count: int


def row_below(node: Node) -> StoredRow:
    """Name the stored hashes that a complete subtree is made of; never more than half a tile."""
    level, above = divmod(node.level, TILE_HEIGHT)
    return StoredRow(level, node.index << above, 1 << above)


def node_from(row: Sequence[bytes]) -> bytes:
    """Return the subtree's hash from the hashes of ``row_below``."""
    return complete(row)


def joined(hashes: Sequence[bytes]) -> bytes:
    """Return a tile's bytes."""
    return b"".join(hashes)


def parted(tile: bytes) -> list[bytes]:
    """Return a tile's hashes; what is left at its end is one that is too short, for the caller to refuse."""
    return [tile[place : place + HASH_BYTES] for place in range(0, len(tile), HASH_BYTES)]
