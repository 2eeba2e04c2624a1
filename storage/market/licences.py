"""What buyers hold, read from Postgres: licences, deliveries, the revoked ids.

Reads only: licences and deliveries are written by the order's own commit (``storage.market.order_store``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from storage.batching import Batcher
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "licences.sql").items()}
STATUSES_MAX = 256  # licences per query
STATUSES_WAITING_MAX = 2_048  # as many requests as a replica takes
REVOKED_MAX = 100_000  # ids of 30 bytes: a list of 3 MB; a larger one needs pages


@dataclass(frozen=True, slots=True)
class LicenceRow:
    """A licence as issued; ``status`` is active, suspended or revoked."""

    licence_id: str
    order_id: str
    line_no: int
    buyer_id: str
    sku_id: str
    release_id: str
    quantity: int
    status: str
    key_id: str
    envelope: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One line's delivery with its licence and where the payload lies (key and version in S3)."""

    delivery_id: str
    line_no: int
    release_id: str
    licence_id: str
    mode: str
    recipient: str
    file_name: str
    header: bytes
    manifest: str
    payload_key: str
    payload_version: str
    payload_bytes: int
    payload_sha256: str
    licence_envelope: str
    key_expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryOwner:
    """Which order a delivery belongs to, and whose that is."""

    order_id: str
    buyer_id: str


class LicenceReads:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # Verification is asked by many at once, and a query costs the same for one licence as for fifty.
        self._statuses: Batcher[str, str | None] = Batcher(
            self._read_statuses, batch_max=STATUSES_MAX, waiting_max=STATUSES_WAITING_MAX
        )

    async def licence(self, licence_id: str) -> LicenceRow | None:
        """Read one licence."""
        rows = await fetch(self._pool, SQL["licence"], {"licence_id": licence_id})
        return LicenceRow(*rows[0]) if rows else None

    async def status(self, licence_id: str) -> str | None:
        """Read a licence's status; None when it was never issued here.

        Raises:
            BusyError: ``queue_full``.
        """
        return await self._statuses.submit(licence_id)

    async def _read_statuses(self, licence_ids: Sequence[str]) -> list[str | None]:
        rows = await fetch(self._pool, SQL["licence_statuses"], {"licence_ids": list(licence_ids)})
        found: dict[str, str] = dict(rows)
        return [found.get(licence_id) for licence_id in licence_ids]

    async def revoked(self) -> list[str]:
        """List the revoked licences' ids in order, at most ``REVOKED_MAX``."""
        rows = await fetch(self._pool, SQL["revoked_licences"], {"limit": REVOKED_MAX})
        return [row[0] for row in rows]

    async def recorded_at(self, licence_id: str, envelope: str) -> datetime | None:
        """Return when the event of this licence's issue was committed; None unless the text is the same.

        The time is the database's and the event is never changed, so whoever has stolen a key cannot date a
        licence back: a forged text was never recorded.
        """
        values = {"licence_id": licence_id, "envelope": envelope}
        rows = await fetch(self._pool, SQL["licence_recorded_at"], values)
        return rows[0][0] if rows else None

    async def deliveries(self, order_id: str) -> list[DeliveryRow]:
        """List an order's deliveries by line."""
        return [
            DeliveryRow(*row)
            for row in await fetch(self._pool, SQL["deliveries_of_order"], {"order_id": order_id})
        ]

    async def delivery_owner(self, delivery_id: str) -> DeliveryOwner | None:
        """Find a delivery's order and buyer."""
        rows = await fetch(self._pool, SQL["delivery"], {"delivery_id": delivery_id})
        return DeliveryOwner(*rows[0]) if rows else None
