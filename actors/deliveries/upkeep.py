"""Deletes what lies in object storage and has served its time.

That is joined deliveries, abandoned uploads, bundles as their sellers uploaded them, and payloads that no
release names because their publication failed. Runs in the background process. Two at once do each other no
harm, since deleting a version or aborting an upload twice changes nothing. An object goes before its record:
whatever dies in between is found again. Refuses to touch a release's payload, and any object that is not
recorded as expired.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from actors.periodic import Periodic
from domain.errors import DependencyError
from storage.market.releases import AbandonedUpload, SpentBundle
from storage.s3 import Bucket

log = logging.getLogger("marketplace.storage_upkeep")

INTERVAL_S = 600.0
BATCH = 50  # of each kind in one run
UPLOADS_KEPT_S = 7 * 86_400  # a seller on a bad line has a week to finish
STRAYS_KEPT_S = 86_400  # a payload without a release; whoever publishes the same again takes it over
ORPHANS_KEPT_S = UPLOADS_KEPT_S + 86_400  # longer than anything that is on record


class UpkeepStore(Protocol):
    """``storage.market.deliveries``."""

    async def expired_joined(self, limit: int) -> list[str]:
        """List the keys of expired joined objects."""

    async def forget_joined(self, object_key: str) -> None:
        """Forget one."""


class UploadStore(Protocol):
    """``storage.market.releases``."""

    async def abandoned_uploads(self, kept_s: int, limit: int) -> list[AbandonedUpload]:
        """List uploads in parts that were begun long ago."""

    async def forget_upload(self, release_id: str, upload_id: str) -> None:
        """Forget one."""

    async def spent_bundles(self, limit: int) -> list[SpentBundle]:
        """List uploaded bundles whose time is over."""

    async def forget_bundle(self, release_id: str) -> None:
        """Forget one."""


class StrayStore(Protocol):
    """``storage.market.publications``."""

    async def take_strays(self, kept_s: int, limit: int) -> list[str]:
        """List keys of payloads that no release names, and see that none ever does."""

    async def forget_stray(self, payload_key: str) -> None:
        """Forget one."""


class StorageUpkeep(Periodic):
    """Periodic deletion for one process; see the module."""

    def __init__(
        self,
        joined: UpkeepStore,
        uploads: UploadStore,
        strays: StrayStore,
        bucket: Bucket,
        payloads: Bucket,
        clock: Callable[[], datetime],
    ) -> None:
        super().__init__("storage upkeep", log, INTERVAL_S)
        self._joined = joined
        self._uploads = uploads
        self._strays = strays
        self._bucket = bucket
        self._payloads = payloads
        self._clock = clock

    async def once(self) -> int:
        """Delete up to ``BATCH`` of each kind; returns how many.

        Raises:
            DependencyError: storage or database is down; what was deleted stays deleted.
        """
        expired = await self._joined.expired_joined(BATCH)
        for key in expired:
            await self._bucket.call(partial(self._bucket.erase, key))
            await self._joined.forget_joined(key)
        abandoned = await self._uploads.abandoned_uploads(UPLOADS_KEPT_S, BATCH)
        for upload in abandoned:
            await self._bucket.call(partial(self._bucket.abort_upload, upload.key, upload.upload_id))
            await self._uploads.forget_upload(upload.release_id, upload.upload_id)
        spent = await self._uploads.spent_bundles(BATCH)
        for bundle in spent:
            await self._bucket.call(partial(self._bucket.erase, bundle.upload_key))
            await self._uploads.forget_bundle(bundle.release_id)
        dropped = await self._drop_orphans() + await self._drop_strays()
        return len(expired) + len(abandoned) + len(spent) + dropped

    async def _drop_strays(self) -> int:
        dropped = 0
        for key in await self._strays.take_strays(STRAYS_KEPT_S, BATCH):
            try:
                await self._payloads.call(partial(self._payloads.erase, key))
            except DependencyError as failure:
                log.warning("a payload without a release stays, perhaps it is locked: %s: %s", key, failure)
                continue
            await self._strays.forget_stray(key)
            dropped += 1
        return dropped

    async def _drop_orphans(self) -> int:
        """Abort what a process began and died over: nobody has it on record, so only its age tells."""
        before = self._clock() - timedelta(seconds=ORPHANS_KEPT_S)
        dropped = 0
        for bucket in (self._bucket, self._payloads):
            orphans = await bucket.call(partial(bucket.unfinished_uploads, before, BATCH))
            for key, upload_id in orphans:
                await bucket.call(partial(bucket.abort_upload, key, upload_id))
            dropped += len(orphans)
        return dropped

    async def _turn(self) -> None:
        await self.once()
