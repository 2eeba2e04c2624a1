"""What buyers hold, read from Postgres: licences, deliveries, the revoked ids.

Reads only: licences and deliveries are written by the order's own commit (``storage.market.order_store``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.revocations import LISTED_MAX
from storage.batching import Batcher
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "licences.sql").items()}
STANDINGS_MAX = 256  # licences per query
STANDINGS_WAITING_MAX = 2_048  # as many requests as a replica takes
_LISTED_MAX = LISTED_MAX + 1  # one more than a list may name, so that one too long is refused and never cut


@dataclass(frozen=True, slots=True)
class LicenceRow:
    """A licence's document as issued; ``status`` is active, suspended, revoked or superseded.

    ``licence_id`` is the document's own id. ``root_id`` names what the order line bought, whose documents
    succeed each other, counted by ``serial``.
    """

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
    root_id: str
    serial: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a licence stands (None: never issued here), and the grace that is in force."""

    status: str | None
    grace_days: int


@dataclass(frozen=True, slots=True)
class RevocationSnapshot:
    """What the revocation list says at one moment, ids sorted."""

    version: int
    grace_days: int
    revoked: list[str]
    suspended: list[str]


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
        self._standings: Batcher[str, Standing] = Batcher(
            self._read_standings, batch_max=STANDINGS_MAX, waiting_max=STANDINGS_WAITING_MAX
        )

    async def licence(self, licence_id: str) -> LicenceRow | None:
        """Read one licence."""
        rows = await fetch(self._pool, SQL["licence"], {"licence_id": licence_id})
        return LicenceRow(*rows[0]) if rows else None

    async def standing(self, licence_id: str) -> Standing:
        """Read how a licence stands.

        Raises:
            BusyError: ``queue_full``.
        """
        return await self._standings.submit(licence_id)

    async def _read_standings(self, licence_ids: Sequence[str]) -> list[Standing]:
        values = {"licence_ids": list(licence_ids)}
        ((grace_days, pairs),) = await fetch(self._pool, SQL["licence_standings"], values)
        found: dict[str, str] = dict(pairs)
        return [Standing(found.get(licence_id), grace_days) for licence_id in licence_ids]

    async def list_version(self) -> int:
        """Read the version that the revocation list has now."""
        return int((await fetch(self._pool, SQL["list_version"], {}))[0][0])

    async def revocations(self) -> RevocationSnapshot:
        """Read the revocation list; of each part at most one id more than a list may name."""
        rows = await fetch(self._pool, SQL["revocation_list"], {"limit": _LISTED_MAX})
        return RevocationSnapshot(*rows[0])

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
