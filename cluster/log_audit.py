"""Verifies a marketplace's audit log from its public tiles alone, against what was seen of it before.

The root is recomputed from every entry. On the way the tree passes the size that was remembered, so its root
then tells whether the log was rewritten; no consistency proof has to be believed. Refuses a log that is
shorter than it was (``log_rolled_back``), another one under the same address or another past
(``log_forked``), and tiles that are not those of the entries (``log_damaged``).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cluster.client import ClientError, MarketplaceClient
from domain.audit.checkpoints import Checkpoint, open_note
from domain.errors import RejectedError
from domain.merkle.proofs import consistent
from domain.merkle.tiles import TILE_WIDTH, Tile, joined, tiles_of
from domain.merkle.tree import GrowingTree, complete, leaf_hash
from storage.signing.keys import verify

ENTRY_BYTES = 32  # a SHA-256


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """A checkpoint whose whole tree was recomputed; ``since`` is the size that was remembered, 0 without."""

    checkpoint: Checkpoint
    note: str
    since: int


def fetch_checkpoint(client: MarketplaceClient, trusted: Iterable[bytes]) -> tuple[Checkpoint, str]:
    """Fetch the newest checkpoint, signed by a trusted key.

    Raises:
        ClientError: ``checkpoint_invalid`` or ``checkpoint_untrusted``; or as every request.
    """
    note = client.text("/v1/audit/checkpoint")
    try:
        return open_note(note, trusted, verify)[0], note
    except RejectedError as refused:
        raise ClientError(
            f"The checkpoint of {client.base_url} is not to be trusted: {refused.detail}", refused.code
        ) from None


def require_continuation(checkpoint: Checkpoint, seen: Checkpoint | None) -> None:
    """Refuse a checkpoint that cannot follow the one that was seen.

    Raises:
        ClientError: ``log_rolled_back`` or ``log_forked``.
    """
    if seen is None:
        return
    if checkpoint.origin != seen.origin:
        raise _forked(f"it is the log {checkpoint.origin}, and {seen.origin} was seen here before")
    if checkpoint.head.size < seen.head.size:
        raise ClientError(
            f"The log has {checkpoint.head.size} entries, and a signed checkpoint of {seen.head.size} was "
            "seen here before: entries are withheld, or the database was restored to an earlier state. "
            "Tell the operator.",
            "log_rolled_back",
        )
    if checkpoint.head.size == seen.head.size and checkpoint.head != seen.head:
        raise _forked(f"its {seen.head.size} entries had another root")


def require_consistency(checkpoint: Checkpoint, seen: Checkpoint | None, path: Sequence[bytes]) -> None:
    """Refuse a checkpoint that is not proven to continue the one that was seen.

    Raises:
        ClientError: ``log_rolled_back`` or ``log_forked``.
    """
    require_continuation(checkpoint, seen)
    if seen is not None and not consistent(seen.head, checkpoint.head, path):
        raise _forked(f"nothing proves that it begins with the {seen.head.size} entries of before")


def require_seen(tree: GrowingTree, seen: Checkpoint | None) -> None:
    """Refuse a tree that grows past the size that was seen with another root.

    Raises:
        ClientError: ``log_forked``.
    """
    if seen is not None and tree.size == seen.head.size and tree.head != seen.head:
        raise _forked(f"its first {tree.size} entries are not those that were signed before")


def verify_log(
    client: MarketplaceClient,
    trusted: Iterable[bytes],
    seen: Checkpoint | None,
    on_entries: Callable[[int, list[bytes]], None] = lambda _begin, _entries: None,
) -> VerifiedLog:
    """Recompute the whole log up to its newest checkpoint; ``on_entries`` is handed each bundle.

    Raises:
        ClientError: the codes of this module, ``checkpoint_untrusted``, ``checkpoint_invalid``.
    """
    checkpoint, note = fetch_checkpoint(client, trusted)
    require_continuation(checkpoint, seen)
    tree = GrowingTree()
    full: list[bytes] = []  # roots of full tiles
    require_seen(tree, seen)
    for tile in tiles_of(checkpoint.head.size):
        entries = list(_entries(client, tile))
        leaves = [leaf_hash(entry) for entry in entries]
        for leaf in leaves:
            tree.append(leaf)
            require_seen(tree, seen)
        if tile.width == TILE_WIDTH:
            full.append(complete(leaves))
        on_entries(tile.begin, entries)
    if tree.head != checkpoint.head:
        raise ClientError(
            f"The entries do not make up the signed root of {checkpoint.head.size}. Tell the operator.",
            "log_damaged",
        )
    _check_tiles(client, full)
    return VerifiedLog(checkpoint, note, seen.head.size if seen else 0)


def _entries(client: MarketplaceClient, tile: Tile) -> Iterator[bytes]:
    data = client.data(f"/v1/audit/tile/entries/{tile.path}")
    row = ENTRY_BYTES.to_bytes(2)
    if len(data) != tile.width * (len(row) + ENTRY_BYTES):
        raise _damaged(f"the bundle {tile.path} has {len(data)} bytes")
    for place in range(0, len(data), len(row) + ENTRY_BYTES):
        if data[place : place + len(row)] != row:
            raise _damaged(f"the bundle {tile.path} holds an entry of another length")
        yield data[place + len(row) : place + len(row) + ENTRY_BYTES]


def _check_tiles(client: MarketplaceClient, hashes: list[bytes]) -> None:
    """Compare the tiles above the leaves with what the entries make them."""
    level = 1
    while hashes:
        above = []
        for begin in range(0, len(hashes), TILE_WIDTH):
            row = hashes[begin : begin + TILE_WIDTH]
            tile = Tile(level, begin // TILE_WIDTH, len(row))
            if client.data(f"/v1/audit/tile/{level}/{tile.path}") != joined(row):
                raise _damaged(f"the tile {level}/{tile.path} is not that of the entries")
            if len(row) == TILE_WIDTH:
                above.append(complete(row))
        hashes, level = above, level + 1


def _forked(reason: str) -> ClientError:
    return ClientError(
        f"This is not the log that was seen here before: {reason}. Keep the file with what was seen, and "
        "tell the operator and other buyers.",
        "log_forked",
    )


def _damaged(reason: str) -> ClientError:
    return ClientError(f"The log's tiles are not sound: {reason}. Tell the operator.", "log_damaged")
