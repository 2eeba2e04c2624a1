"""What fulfilment reads: releases' material (immutable, so cached) and released-key identities."""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime

from domain.errors import NotFoundError, RejectedError
from domain.fulfilment import ReleaseMaterial
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "fulfilment.sql").items()}
CACHE_MAX = 4_096  # releases; about 1 KiB each


@dataclass(frozen=True, slots=True)
class WrappedIdentity:
    """A released-key delivery's identity as stored, and until when it may be released (UTC)."""

    blob: bytes = field(repr=False)
    expires_at: datetime


class FulfilmentReads:
    """Reads of one process; raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._materials: OrderedDict[str, ReleaseMaterial] = OrderedDict()

    async def material(self, release_id: str) -> ReleaseMaterial:
        """Read a published (or since yanked) release.

        Raises:
            NotFoundError: ``release_not_found``.
        """
        cached = self._materials.get(release_id)
        if cached is not None:
            self._materials.move_to_end(release_id)
            return cached
        rows = await fetch(self._pool, SQL["release_material"], {"release_id": release_id})
        if not rows:
            raise NotFoundError("release_not_found", "There is no such published release.")
        material = self._materials[release_id] = ReleaseMaterial(*rows[0])
        if len(self._materials) > CACHE_MAX:
            self._materials.popitem(last=False)
        return material

    async def wrapped_identity(self, order_id: str, delivery_id: str) -> WrappedIdentity:
        """Read a released-key delivery's wrapped identity.

        Raises:
            NotFoundError: ``delivery_not_found``.
            RejectedError: ``delivery_key_expired``, by the database's clock.
        """
        rows = await fetch(
            self._pool, SQL["delivery_identity"], {"order_id": order_id, "delivery_id": delivery_id}
        )
        if not rows or rows[0][1] is None:
            raise NotFoundError("delivery_not_found", "This order has no such released-key delivery.")
        blob, expires_at, expired = rows[0]
        if blob is None or expired:
            raise RejectedError(
                "delivery_key_expired", f"The key could be asked for until {expires_at:%Y-%m-%d %H:%M} UTC."
            )
        return WrappedIdentity(bytes(blob), expires_at)
