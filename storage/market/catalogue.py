"""The catalogue in Postgres: listings, sellers' keys, and releases; their publication is in ``publications``.

Quotes for orders are read through a cache of ``QUOTE_TTL_S``: a new price or release reaches buyers
within that time, and an unknown or unpublished SKU is never remembered. Whether a listing or a manifest
is acceptable is decided in ``domain`` and ``actors.publisher``; here are facts and their uniqueness.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow

from domain.catalogue import SOFTWARE, Offer
from domain.dsse import TRUSTED_KEYS_MAX
from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.manifests import CHANNELS
from domain.proposals.documents import LicenceModel
from storage.market.commands import SQL as COMMANDS
from storage.market.commands import Commands, Recorded, Write
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "catalogue.sql").items()}
QUOTE_TTL_S = 1.0  # saves a query per order under load; short enough that nobody notices an old price
STABLE = CHANNELS[0]  # what buyers get
QUOTES_MAX = 4_096  # SKUs; about 1 KiB each


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """The newest published release of a SKU; ``licence_days`` None is perpetual."""

    release_id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    licence_days: int | None
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Sku:
    """A listing; ``prices`` are minor units by currency, the list of number ``price_version``."""

    sku_id: str
    name: str
    title: str
    description: str
    seller_id: str
    created_at: datetime
    prices: Mapping[str, int]
    latest_release: ReleaseSummary | None = None
    price_version: int = 1
    tax_category: str = SOFTWARE


@dataclass(frozen=True, slots=True)
class PriceList:
    """A SKU's prices as they were set once, in minor units by currency."""

    version: int
    prices: Mapping[str, int]
    set_by: str
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Release:
    """A release in any state; what publication fills is None in a draft.

    ``upload_version`` names the version of an upload in parts that was completed; a plain PUT leaves it None.
    """

    release_id: str
    sku_id: str
    sku_name: str
    seller_id: str
    version: str
    state: str
    bundle_name: str
    upload_key: str
    manifest: str | None = None
    countersignature: str | None = None
    minisig: str | None = None
    bundle_sha256: str | None = None
    bundle_bytes: int | None = None
    payload_sha256: str | None = None
    payload_bytes: int | None = None
    published_at: datetime | None = None
    channel: str = "stable"
    upload_version: str | None = None
    yanked_at: datetime | None = None
    yank_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything that publishing a release adds to it. Sizes in bytes, digests lower-case hexadecimal."""

    release_id: str
    manifest: str
    countersignature: str
    minisig: str
    bundle_sha256: str
    bundle_bytes: int
    licence_days: int | None
    payload_key: str
    payload_version: str
    payload_sha256: str
    payload_bytes: int
    published_at: datetime
    wrapped_file_key: bytes = field(repr=False)
    licence_activation: str | None = None


class Catalogue:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._commands = Commands(pool)
        self._monotonic = monotonic
        self._quotes: OrderedDict[tuple[str, str], tuple[float, Sku]] = OrderedDict()

    async def published(self, before: str, limit: int) -> list[Sku]:
        """List up to ``limit`` SKUs on sale with ids below ``before``, newest first."""
        rows = await fetch(self._pool, SQL["list_published"], {"before": before, "limit": limit})
        return [_sku(row) for row in rows]

    async def find(self, name_or_id: str) -> Sku | None:
        """Read one SKU, on sale or not."""
        rows = await fetch(self._pool, SQL["skus"], {"names": [name_or_id], "channel": STABLE})
        return _sku(rows[0]) if rows else None

    async def offers(
        self, sku_ids: Sequence[str], currency: str, channels: Mapping[str, str] | None = None
    ) -> dict[str, Offer]:
        """Quote each SKU's newest published release in one currency, of ``stable`` or of its channel.

        Raises:
            NotFoundError: ``sku_not_found``.
            ConflictError: ``sku_unpublished``.
            RejectedError: ``currency_not_offered``.
        """
        now_s = self._monotonic()
        channel_of = {sku_id: (channels or {}).get(sku_id, STABLE) for sku_id in sku_ids}
        known = {
            sku_id: quote[1]
            for sku_id in sku_ids
            if (quote := self._quotes.get((sku_id, channel_of[sku_id]))) is not None and now_s < quote[0]
        }
        missing = [sku_id for sku_id in sku_ids if sku_id not in known]
        # One query for most carts: buyers rarely ask for another channel.
        for channel in {channel_of[sku_id] for sku_id in missing}:
            names = [sku_id for sku_id in missing if channel_of[sku_id] == channel]
            for row in await fetch(self._pool, SQL["skus"], {"names": names, "channel": channel}):
                sku = known[row[0]] = _sku(row)
                if sku.latest_release is not None:
                    self._remember((sku.sku_id, channel), sku, now_s + QUOTE_TTL_S)
        return {sku_id: _offer(sku_id, known.get(sku_id), currency) for sku_id in sku_ids}

    async def create_sku(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        """List a SKU; returns what an equal write did before, or None when it was done now.

        Raises:
            ConflictError: ``sku_name_taken``.
            RejectedError: ``idempotency_key_reused``.
        """
        try:
            return await self._commands.run_once(
                SQL["create_sku"],
                write,
                sku.sku_id,
                body,
                {
                    "seller_id": sku.seller_id,
                    "name": sku.name,
                    "title": sku.title,
                    "description": sku.description,
                    "created_at": sku.created_at,
                    "tax_category": sku.tax_category,
                    **_price_values(sku.prices),
                },
            )
        except UniqueViolation:
            raise ConflictError(
                "sku_name_taken", f"The name {sku.name!r} is taken. Choose another one."
            ) from None

    async def set_prices(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        """Put ``sku.prices`` in force as list ``sku.price_version``, if the one before it still is.

        Raises:
            ConflictError: ``price_list_changed``; another list was set meanwhile.
            RejectedError: ``idempotency_key_reused``.
        """
        values = {"price_version": sku.price_version, **_price_values(sku.prices)}
        earlier = await self._commands.run_once(SQL["set_prices"], write, sku.sku_id, body, values)
        if earlier is None and await self._commands.find(write) is None:
            raise ConflictError(
                "price_list_changed", "Another price list was set meanwhile. Look at it, and begin with it."
            )
        for channel in CHANNELS:
            self._quotes.pop((sku.sku_id, channel), None)
        return earlier

    async def price_lists(self, sku_id: str, before: int, limit: int) -> list[PriceList]:
        """List a SKU's price lists, newest first, below the number ``before``."""
        values = {"sku_id": sku_id, "before": before, "limit": limit}
        return [PriceList(*row) for row in await fetch(self._pool, SQL["price_lists"], values)]

    async def licence_model(self) -> LicenceModel:
        """Read the governed licence model in force."""
        rows = await fetch(self._pool, SQL["licence_model"], {})
        return LicenceModel.from_json(orjson.loads(rows[0][0]))

    async def register_seller_key(
        self, write: Write, key_id: str, public_key: bytes, body: Mapping[str, Any]
    ) -> Recorded | None:
        """Record a seller's public key; registering one's own key again is harmless.

        Raises:
            ConflictError: ``seller_key_taken`` by another seller, or ``seller_keys_full``.
            RejectedError: ``idempotency_key_reused``.
        """
        if len(await self.seller_keys(write.principal_id)) >= TRUSTED_KEYS_MAX:
            raise ConflictError(
                "seller_keys_full", f"At most {TRUSTED_KEYS_MAX} keys can be active. Revoke some first."
            )
        try:
            return await self._commands.run_once(
                SQL["register_seller_key"],
                write,
                key_id,
                body,
                {"seller_id": write.principal_id, "public_key": public_key},
            )
        except UniqueViolation:
            rows = await fetch(self._pool, SQL["seller_key"], {"key_id": key_id})
            if not rows or rows[0][0] != write.principal_id:
                raise ConflictError(
                    "seller_key_taken", "This key is registered by another seller. Make a key of your own."
                ) from None
            recorded = {**body, "state": rows[0][1]}
            earlier = await self._commands.run_once(COMMANDS["claim_command"], write, key_id, recorded, {})
            return earlier or Recorded(key_id, recorded)

    async def seller_keys(self, seller_id: str) -> dict[str, bytes]:
        """Return the seller's active public keys by key id, at most ``TRUSTED_KEYS_MAX``."""
        rows = await fetch(
            self._pool, SQL["seller_keys"], {"seller_id": seller_id, "limit": TRUSTED_KEYS_MAX}
        )
        return {key_id: bytes(public_key) for key_id, public_key in rows}

    async def revoked_keys(self, seller_id: str) -> dict[str, bytes]:
        """Return the public keys that a seller revoked, by key id, the latest first."""
        rows = await fetch(
            self._pool, SQL["revoked_seller_keys"], {"seller_id": seller_id, "limit": TRUSTED_KEYS_MAX}
        )
        return {key_id: bytes(public_key) for key_id, public_key in rows}

    async def draft_release(
        self, write: Write, release: Release, created_at: datetime, body: Mapping[str, Any]
    ) -> Recorded | None:
        """Create a draft of a SKU that the caller owns (which the caller has checked).

        Raises:
            ConflictError: ``release_version_taken``.
            RejectedError: ``idempotency_key_reused``.
        """
        try:
            return await self._commands.run_once(
                SQL["draft_release"],
                write,
                release.release_id,
                body,
                {
                    "sku_id": release.sku_id,
                    "version": release.version,
                    "channel": release.channel,
                    "bundle_name": release.bundle_name,
                    "upload_key": release.upload_key,
                    "created_at": created_at,
                },
            )
        except UniqueViolation:
            raise ConflictError(
                "release_version_taken", f"Version {release.version} exists. Released versions never change."
            ) from None

    async def release(self, release_id: str) -> Release | None:
        """Read one release."""
        rows = await fetch(self._pool, SQL["release"], {"release_id": release_id})
        return Release(*rows[0]) if rows else None

    async def newest_version(self, sku_id: str, channel: str) -> str | None:
        """Return the newest version that was ever published in a channel, yanked or not."""
        rows = await fetch(self._pool, SQL["channel_head"], {"sku_id": sku_id, "channel": channel})
        return str(rows[0][0]) if rows else None

    def _remember(self, key: tuple[str, str], sku: Sku, until_s: float) -> None:
        self._quotes[key] = (until_s, sku)
        self._quotes.move_to_end(key)
        if len(self._quotes) > QUOTES_MAX:
            self._quotes.popitem(last=False)


def _sku(row: TupleRow) -> Sku:
    release = None if row[7] is None else ReleaseSummary(*row[7:14])
    return Sku(row[0], row[1], row[2], row[3], row[4], row[5], row[6], release, row[14], row[15])


def _price_values(prices: Mapping[str, int]) -> dict[str, Any]:
    return {"currencies": list(prices), "amounts_minor": list(prices.values())}


def _offer(sku_id: str, sku: Sku | None, currency: str) -> Offer:
    if sku is None:
        raise NotFoundError("sku_not_found", f"There is no SKU {sku_id}.")
    release = sku.latest_release
    if release is None:
        raise ConflictError("sku_unpublished", f"{sku.name} has no published release yet.")
    price_minor = sku.prices.get(currency)
    if price_minor is None:
        raise RejectedError(
            "currency_not_offered",
            f"{sku.name} is not sold in {currency}; it is in {', '.join(sorted(sku.prices))}.",
        )
    return Offer(
        sku_id=sku.sku_id,
        sku_name=sku.name,
        seller_id=sku.seller_id,
        release_id=release.release_id,
        version=release.version,
        bundle_name=release.bundle_name,
        bundle_sha256=release.bundle_sha256,
        unit_price_minor=price_minor,
        currency=currency,
        licence_days=release.licence_days,
        tax_category=sku.tax_category,
    )
