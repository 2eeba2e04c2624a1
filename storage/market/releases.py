"""Releases beyond their publication: channel heads, yanks, sellers' revoked keys, and uploads in parts.

Facts and their uniqueness; what is allowed is decided by the callers and ``domain.releases``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.releases import PART_BYTES
from storage.market.catalogue import ReleaseSummary
from storage.market.commands import Commands, Recorded, Write
from storage.market.pool import Pool, borrow, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "releases.sql").items()}
KEYS_LISTED_MAX = 100


@dataclass(frozen=True, slots=True)
class SellerKey:
    """A seller's registered key; ``state`` is active, retired or compromised. Times are UTC."""

    key_id: str
    state: str
    registered_at: datetime
    revoked_at: datetime | None
    revoke_reason: str | None


@dataclass(frozen=True, slots=True)
class BegunUpload:
    """An upload in parts that was begun; ``upload_id`` is object storage's name for it."""

    upload_id: str
    bundle_bytes: int


@dataclass(frozen=True, slots=True)
class AbandonedUpload:
    """An upload whose time is over."""

    release_id: str
    upload_id: str
    key: str


@dataclass(frozen=True, slots=True)
class SpentBundle:
    """An uploaded bundle that has served its time."""

    release_id: str
    upload_key: str


class Releases:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    async def heads(self, sku_id: str) -> dict[str, ReleaseSummary]:
        """Return the newest published release of each channel that has one."""
        rows = await fetch(self._pool, SQL["heads"], {"sku_id": sku_id})
        return {row[0]: ReleaseSummary(*row[1:]) for row in rows}

    async def yank(self, write: Write, release_id: str, reason: str, at: datetime) -> Recorded | None:
        """Yank a published release; one that is yanked already keeps its first reason.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        return await self._commands.run_once(
            SQL["yank"], write, release_id, None, {"reason": reason, "at": at}
        )

    async def seller_keys(self, seller_id: str) -> list[SellerKey]:
        """List a seller's keys in any state, newest first, at most ``KEYS_LISTED_MAX``."""
        rows = await fetch(
            self._pool, SQL["seller_keys_of"], {"seller_id": seller_id, "limit": KEYS_LISTED_MAX}
        )
        return [SellerKey(*row) for row in rows]

    async def seller_key(self, seller_id: str, key_id: str) -> SellerKey | None:
        """Read one of a seller's keys."""
        rows = await fetch(self._pool, SQL["seller_key_state"], {"seller_id": seller_id, "key_id": key_id})
        return SellerKey(*rows[0]) if rows else None

    async def revoke_key(
        self, write: Write, key_id: str, state: str, reason: str, at: datetime
    ) -> Recorded | None:
        """Revoke a key of the caller's (which the caller has checked); what is revoked never revives.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        values: Mapping[str, Any] = {"state": state, "reason": reason, "at": at}
        return await self._commands.run_once(SQL["revoke_seller_key"], write, key_id, None, values)

    async def upload(self, release_id: str) -> BegunUpload | None:
        """Read the upload that was begun for a draft."""
        rows = await fetch(self._pool, SQL["upload"], {"release_id": release_id})
        return BegunUpload(*rows[0]) if rows else None

    async def begin_upload(self, release_id: str, upload: BegunUpload) -> None:
        """Record an upload of a draft, unless another was begun meanwhile."""
        values = {
            "release_id": release_id,
            "upload_id": upload.upload_id,
            "bundle_bytes": upload.bundle_bytes,
            "part_bytes": PART_BYTES,
        }
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["begin_upload"], values)

    async def forget_upload(self, release_id: str, upload_id: str) -> None:
        """Forget an upload that was aborted."""
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["forget_upload"], {"release_id": release_id, "upload_id": upload_id})

    async def complete_upload(self, release_id: str, upload_id: str, version_id: str) -> None:
        """Pin a draft to the version that its completed upload made."""
        values = {"release_id": release_id, "upload_id": upload_id, "version_id": version_id}
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["complete_upload"], values)

    async def abandoned_uploads(self, kept_s: int, limit: int) -> list[AbandonedUpload]:
        """List uploads that were begun more than ``kept_s`` ago, oldest first."""
        rows = await fetch(self._pool, SQL["abandoned_uploads"], {"kept_s": kept_s, "limit": limit})
        return [AbandonedUpload(*row) for row in rows]

    async def expect_bundle(self, release_id: str, kept_s: int) -> None:
        """Say that a bundle may be uploaded for a draft; it is kept that long unless it is published."""
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["expect_bundle"], {"release_id": release_id, "kept_s": kept_s})

    async def spent_bundles(self, limit: int) -> list[SpentBundle]:
        """List uploaded bundles whose time is over, oldest first."""
        rows = await fetch(self._pool, SQL["spent_bundles"], {"limit": limit})
        return [SpentBundle(*row) for row in rows]

    async def forget_bundle(self, release_id: str) -> None:
        """Forget a bundle that was deleted, unless another is expected since."""
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["forget_bundle"], {"release_id": release_id})
