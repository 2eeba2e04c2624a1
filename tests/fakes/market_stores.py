"""The stores behind the ingress, in memory: idempotency keys, catalogue, buckets, access tokens."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import orjson

from domain.errors import ConflictError, RejectedError
from domain.proposals.documents import LicenceModel
from storage.market.access import Principal
from storage.market.catalogue import Publication, Release, ReleaseSummary, Sku, _offer
from storage.market.commands import Recorded, Write, require_same
from storage.s3 import Link, StoredObject
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
    model: LicenceModel = field(default_factory=lambda: LicenceModel(("perpetual", "timed"), 3_660, 0))

    async def published(self, before: str, limit: int) -> list[Sku]:
        on_sale = [sku for sku in self.skus.values() if sku.latest_release and sku.sku_id < before]
        return sorted(on_sale, key=lambda sku: sku.sku_id, reverse=True)[:limit]

    async def find(self, name_or_id: str) -> Sku | None:
        return next((s for s in self.skus.values() if name_or_id in (s.sku_id, s.name)), None)

    async def offers(self, sku_ids: Sequence[str], currency: str) -> dict[str, Any]:
        return {sku_id: _offer(sku_id, self.skus.get(sku_id), currency) for sku_id in sku_ids}

    async def create_sku(self, write: Write, sku: Sku, body: Mapping[str, Any]) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is None:
            if await self.find(sku.name):
                raise ConflictError("sku_name_taken", "taken")
            self.skus[sku.sku_id] = sku
            await self.commands.claim(write, sku.sku_id, body)
        return earlier

    async def register_seller_key(
        self, write: Write, key_id: str, public_key: bytes, body: Mapping[str, Any]
    ) -> Recorded | None:
        if self.keys.get(key_id, (write.principal_id,))[0] != write.principal_id:
            raise ConflictError("seller_key_taken", "taken")
        earlier = await self.commands.claim(write, key_id, body)
        self.keys[key_id] = (write.principal_id, public_key)
        return earlier

    async def seller_keys(self, seller_id: str) -> dict[str, bytes]:
        return {key_id: key for key_id, (owner, key) in self.keys.items() if owner == seller_id}

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

    async def publish(self, write: Write, publication: Publication) -> bool:
        release = self.releases[publication.release_id]
        if release.state != "draft":
            return False
        if await self.commands.claim(write, publication.release_id) is not None:
            raise RejectedError("idempotency_key_reused", "reused")
        self.publications[publication.release_id] = publication
        self.releases[release.release_id] = replace(
            release,
            state="published",
            manifest=publication.manifest,
            countersignature=publication.countersignature,
            minisig=publication.minisig,
            bundle_sha256=publication.bundle_sha256,
            bundle_bytes=publication.bundle_bytes,
            payload_sha256=publication.payload_sha256,
            payload_bytes=publication.payload_bytes,
            published_at=publication.published_at,
        )
        summary = ReleaseSummary(
            release.release_id,
            release.version,
            release.bundle_name,
            publication.bundle_sha256,
            publication.bundle_bytes,
            publication.licence_days,
            publication.published_at,
        )
        self.skus[release.sku_id] = replace(self.skus[release.sku_id], latest_release=summary)
        return True


@dataclass
class FakeBucket:
    """Versions in memory; ``call`` runs at once."""

    name: str
    clock: FakeClock
    objects: dict[str, list[bytes]] = field(default_factory=dict)

    async def call(self, work: Any) -> Any:
        return work()

    def put(self, key: str, data: bytes) -> None:
        self.objects.setdefault(key, []).append(data)

    def newest(self, key: str) -> StoredObject | None:
        versions = self.objects.get(key)
        return StoredObject(key, str(len(versions)), len(versions[-1])) if versions else None

    def open(self, stored: StoredObject) -> io.BytesIO:
        return io.BytesIO(self.objects[stored.key][int(stored.version_id) - 1])

    def writer(self, key: str) -> FakeWriter:
        return FakeWriter(self, key)

    def link_to_get(self, key: str, version_id: str, lifetime_s: int) -> Link:
        url = f"https://s3.test/{self.name}/{key}?versionId={version_id}"
        return Link(url, self.clock() + timedelta(seconds=lifetime_s))

    def link_to_put(self, key: str, lifetime_s: int) -> Link:
        return Link(f"https://s3.test/{self.name}/{key}", self.clock() + timedelta(seconds=lifetime_s))


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
