"""Attempts to publish and the publishing commit, in memory: over the same tables as ``FakeCatalogue``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from domain.errors import RejectedError
from domain.releases import SPENT_BUNDLE_KEPT_S, require_newer
from domain.semver import parse_version
from storage.market.catalogue import Publication, ReleaseSummary
from storage.market.commands import Write
from storage.market.publications import Attempt, Sealed, key_revoked
from tests.fakes.market_stores import FakeCatalogue


@dataclass
class _Row:
    release_id: str
    attempt: Attempt
    lease_until: datetime
    current: bool = True


@dataclass
class FakePublications:
    catalogue: FakeCatalogue
    attempts: dict[str, _Row] = field(default_factory=dict)

    def _current(self, release_id: str) -> Attempt | None:
        rows = (row for row in self.attempts.values() if row.release_id == release_id and row.current)
        return next((row.attempt for row in rows), None)

    async def begin(self, release_id: str, attempt: Attempt, lease_s: float) -> Attempt | None:
        now = self.catalogue.clock()
        current = self._current(release_id)
        if current is not None and self.attempts[current.payload_key].lease_until <= now:
            same = replace(attempt, payload_key=current.payload_key, sealed=current.sealed) == current
            if current.sealed is None or not same:
                self.attempts[current.payload_key].current = False
                current = None
        if current is None and self.catalogue.releases[release_id].state == "draft":
            until = now + timedelta(seconds=lease_s)
            self.attempts[attempt.payload_key] = _Row(release_id, attempt, until)
            return attempt
        return current

    async def extend(self, payload_key: str, lease_s: float) -> None:
        row = self.attempts.get(payload_key)
        if row is not None and row.current:
            row.lease_until = self.catalogue.clock() + timedelta(seconds=lease_s)

    async def finish(self, payload_key: str, sealed: Sealed) -> None:
        row = self.attempts.get(payload_key)
        if row is not None and row.current:
            row.attempt = replace(row.attempt, sealed=sealed)

    async def abandon(self, payload_key: str) -> None:
        row = self.attempts.get(payload_key)
        if row is not None and row.attempt.sealed is None:
            row.current = False

    async def publish(self, write: Write, publication: Publication, key_id: str) -> bool:
        release = self.catalogue.releases[publication.release_id]
        if release.state != "draft":
            return False
        newest = await self.catalogue.newest_version(release.sku_id, release.channel)
        require_newer(parse_version(release.version), newest and parse_version(newest), release.channel)
        if key_id not in self.catalogue.keys or key_id in self.catalogue.revoked:
            raise key_revoked(key_id)
        attempt = self._current(publication.release_id)
        if attempt is None or attempt.payload_key != publication.payload_key:
            return False
        if await self.catalogue.commands.claim(write, publication.release_id) is not None:
            raise RejectedError("idempotency_key_reused", "reused")
        ever = self.catalogue.of_channel(release.sku_id, release.channel, "published", "yanked")
        if ever and ever[-1].published_at is not None:
            later = ever[-1].published_at + timedelta(microseconds=1)
            publication = replace(publication, published_at=max(publication.published_at, later))
        del self.attempts[attempt.payload_key]
        until = self.catalogue.clock() + timedelta(seconds=SPENT_BUNDLE_KEPT_S)
        self.catalogue.kept_bundles[publication.release_id] = until
        self.catalogue.publications[publication.release_id] = publication
        self.catalogue.releases[release.release_id] = replace(
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
        self.catalogue.summaries[release.release_id] = summary
        self.catalogue.show_newest(release.sku_id)
        return True

    async def take_strays(self, kept_s: int, limit: int) -> list[str]:
        now = self.catalogue.clock()
        old = [row for row in self.attempts.values() if row.lease_until < now - timedelta(seconds=kept_s)]
        for row in old[:limit]:
            row.current, row.lease_until = False, now
        return [row.attempt.payload_key for row in old[:limit]]

    async def forget_stray(self, payload_key: str) -> None:
        if payload_key in self.attempts and not self.attempts[payload_key].current:
            del self.attempts[payload_key]
