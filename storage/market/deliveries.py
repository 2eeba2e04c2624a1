"""Links to deliveries: how many were handed out, and to whom; and the joined objects made on demand.

A link is counted and written down before its caller sees it, in one statement: what is over the bound is
neither counted nor handed out. Times are the database's. Refused: more than ``LINKS_MAX`` links of a kind to
one delivery within ``WINDOW_S``. Old records are deleted by ``storage.market.housekeeping``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from domain.errors import BusyError
from storage.market.pool import Pool, borrow, fetch
from storage.s3 import StoredObject
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "deliveries.sql").items()}
WINDOW_S = 3_600
# A download needs one link, and one more for each quarter of an hour that it is interrupted. A joined
# object of gigabytes is copied once a day at most, whoever asks.
LINKS_MAX = {"payload": 60, "joined": 20}
LISTED_MAX = 100


@dataclass(frozen=True, slots=True)
class IssuedLink:
    """A link that was handed out; ``kind`` is payload or joined. Times are UTC."""

    position: int
    delivery_id: str
    order_id: str
    issued_to: str
    kind: str
    issued_at: datetime
    expires_at: datetime


class Deliveries:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take_links(
        self, order_id: str, delivery_ids: Sequence[str], issued_to: str, kind: str, expires_at: datetime
    ) -> None:
        """Count and record one link to each delivery, or none at all.

        Raises:
            BusyError: ``delivery_links_limited``, with the seconds until there are more.
        """
        values = {
            "order_id": order_id,
            "delivery_ids": sorted(delivery_ids),
            "issued_to": issued_to,
            "kind": kind,
            "expires_at": expires_at,
            "window_s": WINDOW_S,
            "links_max": LINKS_MAX[kind],
        }
        async with borrow(self._pool) as connection, connection.transaction():
            taken = await (await connection.execute(SQL["take_links"], values)).fetchall()
            if len(taken) != len(delivery_ids):
                row = await (await connection.execute(SQL["window_opens"], values)).fetchone()
                raise limited(kind, row[0] if row and row[0] else 1)

    async def links(self, delivery_id: str) -> list[IssuedLink]:
        """List the links to a delivery, newest first, at most ``LISTED_MAX``."""
        rows = await fetch(
            self._pool, SQL["links_of_delivery"], {"delivery_id": delivery_id, "limit": LISTED_MAX}
        )
        return [IssuedLink(*row) for row in rows]

    async def keep_joined(self, delivery_id: str, kept_s: int) -> StoredObject | None:
        """Return the delivery's joined object and keep it ``kept_s`` from now; None when there is none."""
        rows = await fetch(self._pool, SQL["keep_joined"], {"delivery_id": delivery_id, "kept_s": kept_s})
        return StoredObject(*rows[0]) if rows else None

    async def begin_joined(self, delivery_id: str, object_key: str, kept_s: int) -> None:
        """Record that an object is being joined under a key of its own."""
        values = {"delivery_id": delivery_id, "object_key": object_key, "kept_s": kept_s}
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["begin_joined"], values)

    async def record_joined(self, joined: StoredObject) -> None:
        """Record that it was made."""
        values = {"object_key": joined.key, "version_id": joined.version_id, "bytes": joined.size}
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["record_joined"], values)

    async def expired_joined(self, limit: int) -> list[str]:
        """List the keys of joined objects whose time is over, made or not, oldest first."""
        return [str(row[0]) for row in await fetch(self._pool, SQL["expired_joined"], {"limit": limit})]

    async def forget_joined(self, object_key: str) -> None:
        """Forget a joined object that was deleted."""
        async with borrow(self._pool) as connection:
            await connection.execute(SQL["forget_joined"], {"object_key": object_key})


def limited(kind: str, retry_after_s: int) -> BusyError:
    """Say that a delivery's links of a kind are used up for now."""
    return BusyError(
        "delivery_links_limited",
        f"A delivery has at most {LINKS_MAX[kind]} {kind} links an hour. Those that you have are good until "
        "they expire; ask again later.",
        max(1, retry_after_s),
    )
