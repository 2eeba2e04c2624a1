"""The stores behind the ingress, in memory: idempotency keys, catalogue, buckets, access tokens."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from domain.errors import ConflictError
from domain.proposals.documents import LicenceModel
from storage.market.access import Principal
from storage.market.catalogue import PriceList, Publication, Release, ReleaseSummary, Sku, _offer
from storage.market.commands import Recorded, Write, require_same
from storage.s3 import Link, StoredObject, UploadedPart
from tests.fakes.orders import FakeClock, FakeOrderStore


@dataclass
class FakeCommands:
    """Idempotency keys of all writes: one table, shared with the order store as in Postgres."""

    orders: FakeOrderStore
    bodies: dict[tuple[str, str], Mapping[str, Any] | None] = field(default_factory=dict)

    async def find(self, write: Write) -> Recorded | None:
        row = self.orders.commands.get((write.principal_id, write.key))
        if row is None:
            return None
        require_same(write, row[0])
        return Recorded(row[1], self.bodies.get((write.principal_id, write.key)))

    async def claim(
        self, write: Write, subject: str, body: Mapping[str, Any] | None = None
    ) -> Recorded | None:
        earlier = await self.find(write)
        if earlier is None:
            self.orders.commands[write.principal_id, write.key] = (write.request_digest, subject)
            # Through JSON, as in the database: what cannot be stored must fail here too.
            stored = None if body is None else orjson.loads(orjson.dumps(body))
            self.bodies[write.principal_id, write.key] = stored
        return earlier


@dataclass
class FakeCatalogue:
    commands: FakeCommands
    clock: FakeClock
    skus: dict[str, Sku] = field(default_factory=dict)
    keys: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)
    publications: dict[str, Publication] = field(default_factory=dict)
    price_history: dict[str, list[PriceList]] = field(default_factory=dict)
    summaries: dict[str, ReleaseSummary] = field(default_factory=dict)
    revoked: dict[str, tuple[str, datetime, str]] = field(default_factory=dict)
    kept_bundles: dict[str, datetime] = field(default_factory=dict)
    model: LicenceModel = field(default_factory=lambda: LicenceModel(("perpetual", "timed"), 3_660, 0))

    async def published(self, before: str, limit: int) -> list[Sku]:
        on_sale = [sku for sku in self.skus.values() if sku.latest_release and sku.sku_id < before]
        return sorted(on_sale, key=lambda sku: sku.sku_id, reverse=True)[:limit]

    async def find(self, name_or_id: str) -> Sku | None:
        return next((s for s in self.skus.values() if name_or_id in (s.sku_id, s.name)), None)

    async def offers(
        self, sku_ids: Sequence[str], currency: str, channels: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return {
            sku_id: _offer(sku_id, self._on(sku_id, (channels or {}).get(sku_id, "stable")), currency)
            for sku_id in sku_ids
        }

    def _on(self, sku_id: str, channel: str) -> Sku | None:
        sku = self.skus.get(sku_id)
        if sku is None or channel == "stable":
            return sku
        head = next(reversed(self.of_channel(sku_id, channel, "published")), None)
        return replace(sku, latest_release=self.summaries[head.release_id] if head else None)

    async def create_sku(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is None:
            if await self.find(sku.name):
                raise ConflictError("sku_name_taken", "taken")
            self.skus[sku.sku_id] = sku
            await self.commands.claim(write, sku.sku_id, body)
        return earlier

    async def set_prices(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is None:
            if self.skus[sku.sku_id].price_version != sku.price_version - 1:
                raise ConflictError("price_list_changed", "changed")
            await self.commands.claim(write, sku.sku_id, body)
            self.skus[sku.sku_id] = replace(
                self.skus[sku.sku_id], prices=sku.prices, price_version=sku.price_version
            )
            lists = self.price_history.setdefault(sku.sku_id, [])
            lists.append(PriceList(sku.price_version, dict(sku.prices), write.principal_id, self.clock()))
        return earlier

    async def price_lists(self, sku_id: str, before: int, limit: int) -> list[PriceList]:
        lists = [one for one in self.price_history.get(sku_id, []) if one.version < before]
        return lists[::-1][:limit]

    async def register_seller_key(
        self, write: Write, key_id: str, public_key: bytes, body: Mapping[str, Any]
    ) -> Recorded | None:
        if self.keys.get(key_id, (write.principal_id,))[0] != write.principal_id:
            raise ConflictError("seller_key_taken", "taken")
        earlier = await self.commands.claim(write, key_id, body)
        self.keys[key_id] = (write.principal_id, public_key)
        return earlier

    def _keys_of(self, seller_id: str, *, active: bool) -> dict[str, bytes]:
        return {
            key_id: key
            for key_id, (owner, key) in self.keys.items()
            if owner == seller_id and (key_id not in self.revoked) is active
        }

    async def seller_keys(self, seller_id: str) -> dict[str, bytes]:
        return self._keys_of(seller_id, active=True)

    async def revoked_keys(self, seller_id: str) -> dict[str, bytes]:
        return self._keys_of(seller_id, active=False)

    async def licence_model(self) -> LicenceModel:
        return self.model

    async def draft_release(
        self, write: Write, release: Release, created_at: object, body: Mapping[str, Any]
    ) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is None:
            taken = [(one.sku_id, one.version) for one in self.releases.values()]
            if (release.sku_id, release.version) in taken:
                raise ConflictError("release_version_taken", "taken")
            self.releases[release.release_id] = release
            await self.commands.claim(write, release.release_id, body)
        return earlier

    async def release(self, release_id: str) -> Release | None:
        return self.releases.get(release_id)

    def of_channel(self, sku_id: str, channel: str, *states: str) -> list[Release]:
        """Releases of a channel, the newest last."""
        found = [
            one
            for one in self.releases.values()
            if (one.sku_id, one.channel) == (sku_id, channel) and one.state in states
        ]
        return sorted(found, key=lambda one: (one.published_at, one.release_id))

    def show_newest(self, sku_id: str) -> None:
        head = next(reversed(self.of_channel(sku_id, "stable", "published")), None)
        summary = self.summaries[head.release_id] if head else None
        self.skus[sku_id] = replace(self.skus[sku_id], latest_release=summary)

    async def newest_version(self, sku_id: str, channel: str) -> str | None:
        ever = self.of_channel(sku_id, channel, "published", "yanked")
        return ever[-1].version if ever else None


@dataclass
class FakeBucket:
    """Versions in memory; ``call`` runs at once."""

    name: str
    clock: FakeClock
    objects: dict[str, list[bytes]] = field(default_factory=dict)
    parts: dict[tuple[str, str], dict[int, bytes]] = field(default_factory=dict)
    begun: dict[tuple[str, str], datetime] = field(default_factory=dict)

    async def call(self, work: Any) -> Any:
        return work()

    def put(self, key: str, data: bytes) -> None:
        self.objects.setdefault(key, []).append(data)

    def newest(self, key: str) -> StoredObject | None:
        versions = self.objects.get(key)
        return StoredObject(key, str(len(versions)), len(versions[-1])) if versions else None

    @contextlib.contextmanager
    def opened(self, stored: StoredObject) -> Iterator[io.BytesIO]:
        yield self.open(stored)

    def open(self, stored: StoredObject) -> io.BytesIO:
        return io.BytesIO(self.objects[stored.key][int(stored.version_id) - 1])

    def join(self, key: str, head: bytes, source: FakeBucket, body: StoredObject) -> StoredObject:
        self.put(key, head + source.open(body).read())
        joined = self.newest(key)
        assert joined is not None
        return joined

    def erase(self, key: str) -> None:
        self.objects.pop(key, None)
        for one in [one for one in self.parts if one[0] == key]:
            self.abort_upload(*one)

    def writer(self, key: str) -> FakeWriter:
        return FakeWriter(self, key)

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        url = f"https://s3.test/{self.name}/{key}?versionId={version_id}"
        return Link(url, self.clock() + timedelta(seconds=lifetime_s))

    def link_to_put(self, key: str, lifetime_s: int) -> Link:
        return Link(f"https://s3.test/{self.name}/{key}", self.clock() + timedelta(seconds=lifetime_s))

    def begin_upload(self, key: str) -> str:
        upload_id = f"upload-{len(self.parts) + 1}"
        self.parts[key, upload_id] = {}
        self.begun[key, upload_id] = self.clock()
        return upload_id

    def link_to_put_part(self, key: str, upload_id: str, number: int, lifetime_s: int) -> Link:
        url = f"https://s3.test/{self.name}/{key}?uploadId={upload_id}&partNumber={number}"
        return Link(url, self.clock() + timedelta(seconds=lifetime_s))

    def put_part(self, key: str, upload_id: str, number: int, data: bytes) -> str:
        self.parts[key, upload_id][number] = data
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def uploaded_parts(self, key: str, upload_id: str) -> list[UploadedPart] | None:
        parts = self.parts.get((key, upload_id))
        if parts is None:
            return None
        return [
            UploadedPart(number, len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
            for number, data in sorted(parts.items())
        ]

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[UploadedPart]) -> StoredObject:
        whole = self.parts.pop((key, upload_id))
        del self.begun[key, upload_id]
        self.put(key, b"".join(whole[one.number] for one in parts))
        stored = self.newest(key)
        assert stored is not None
        return stored

    def unfinished_uploads(self, before: datetime, limit: int) -> list[tuple[str, str]]:
        return [one for one, begun_at in self.begun.items() if begun_at < before][:limit]

    def abort_upload(self, key: str, upload_id: str) -> None:
        self.begun.pop((key, upload_id), None)
        self.parts.pop((key, upload_id), None)


class FakeWriter(contextlib.AbstractContextManager["FakeWriter"]):
    def __init__(self, bucket: FakeBucket, key: str) -> None:
        self._bucket, self._key, self._data = bucket, key, bytearray()

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: memoryview, /) -> int:
        self._data += data
        return len(data)

    def finish(self) -> StoredObject:
        self._bucket.put(self._key, bytes(self._data))
        stored = self._bucket.newest(self._key)
        assert stored is not None
        return stored


@dataclass
class FakeAccess:
    commands: FakeCommands
    holders: dict[bytes, Principal] = field(default_factory=dict)
    lookups: int = 0
    failure: Exception | None = None

    async def principal(self, token_sha256: bytes) -> Principal | None:
        self.lookups += 1
        if self.failure is not None:
            raise self.failure
        return self.holders.get(token_sha256)

    async def issue(
        self, write: Write, token_sha256: bytes, holder: Principal, body: Mapping[str, Any]
    ) -> Recorded | None:
        earlier = await self.commands.claim(write, holder.principal_id, body)
        if earlier is None:
            self.holders[token_sha256] = holder
        return earlier
