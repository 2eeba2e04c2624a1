"""Releases beyond publication, in memory: over the same tables as ``FakeCatalogue``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from domain.manifests import CHANNELS
from storage.market.catalogue import ReleaseSummary
from storage.market.commands import Recorded, Write
from storage.market.releases import AbandonedUpload, BegunUpload, SellerKey, SpentBundle
from tests.fakes.market_stores import FakeCatalogue


@dataclass
class FakeReleases:
    catalogue: FakeCatalogue
    begun: dict[str, tuple[BegunUpload, datetime]] = field(default_factory=dict)

    async def heads(self, sku_id: str) -> dict[str, ReleaseSummary]:
        found = {}
        for channel in CHANNELS:
            if published := self.catalogue.of_channel(sku_id, channel, "published"):
                found[channel] = self.catalogue.summaries[published[-1].release_id]
        return found

    async def yank(self, write: Write, release_id: str, reason: str, at: datetime) -> Recorded | None:
        earlier = await self.catalogue.commands.claim(write, release_id)
        release = self.catalogue.releases[release_id]
        if earlier is None and release.state == "published":
            self.catalogue.releases[release_id] = replace(
                release, state="yanked", yanked_at=at, yank_reason=reason
            )
            self.catalogue.show_newest(release.sku_id)
        return earlier

    async def seller_keys(self, seller_id: str) -> list[SellerKey]:
        owned = [key_id for key_id, (owner, _) in self.catalogue.keys.items() if owner == seller_id]
        return [self._key(key_id) for key_id in reversed(owned)]

    async def seller_key(self, seller_id: str, key_id: str) -> SellerKey | None:
        owner = self.catalogue.keys.get(key_id, ("", b""))[0]
        return self._key(key_id) if owner == seller_id else None

    def _key(self, key_id: str) -> SellerKey:
        state, at, reason = self.catalogue.revoked.get(key_id, ("active", None, None))
        return SellerKey(key_id, state, self.catalogue.clock(), at, reason)

    async def revoke_key(
        self, write: Write, key_id: str, state: str, reason: str, at: datetime
    ) -> Recorded | None:
        earlier = await self.catalogue.commands.claim(write, key_id)
        before, first, _ = self.catalogue.revoked.get(key_id, ("active", at, ""))
        if earlier is None and (before, state) in (
            ("active", "retired"),
            ("active", "compromised"),
            ("retired", "compromised"),
        ):
            self.catalogue.revoked[key_id] = (state, first, reason)
        return earlier

    async def upload(self, release_id: str) -> BegunUpload | None:
        return self.begun[release_id][0] if release_id in self.begun else None

    async def begin_upload(self, release_id: str, upload: BegunUpload) -> None:
        self.begun.setdefault(release_id, (upload, self.catalogue.clock()))

    async def forget_upload(self, release_id: str, upload_id: str) -> None:
        if release_id in self.begun and self.begun[release_id][0].upload_id == upload_id:
            del self.begun[release_id]

    async def complete_upload(self, release_id: str, upload_id: str, version_id: str) -> None:
        release = self.catalogue.releases[release_id]
        if release.state == "draft":
            self.catalogue.releases[release_id] = replace(release, upload_version=version_id)
        await self.forget_upload(release_id, upload_id)

    async def abandoned_uploads(self, kept_s: int, limit: int) -> list[AbandonedUpload]:
        until = self.catalogue.clock() - timedelta(seconds=kept_s)
        return [
            AbandonedUpload(release_id, upload.upload_id, self.catalogue.releases[release_id].upload_key)
            for release_id, (upload, begun_at) in self.begun.items()
            if begun_at < until
        ][:limit]

    async def expect_bundle(self, release_id: str, kept_s: int) -> None:
        self.catalogue.kept_bundles[release_id] = self.catalogue.clock() + timedelta(seconds=kept_s)

    async def spent_bundles(self, limit: int) -> list[SpentBundle]:
        now = self.catalogue.clock()
        spent = [release_id for release_id, until in self.catalogue.kept_bundles.items() if until <= now]
        releases = self.catalogue.releases
        return [SpentBundle(release_id, releases[release_id].upload_key) for release_id in spent[:limit]]

    async def forget_bundle(self, release_id: str) -> None:
        if self.catalogue.kept_bundles.get(release_id, self.catalogue.clock()) <= self.catalogue.clock():
            self.catalogue.kept_bundles.pop(release_id, None)
