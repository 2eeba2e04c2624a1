"""Uploads in parts: a large bundle comes piece by piece, over days and many connections, up to a week.

The parts' lengths follow from the bundle's. Asking again tells which parts have come, by the server's
digest of each, and gives fresh links: that is all a client needs in order to go on. Completing pins the
draft to the version that was made. Refused: completing with parts that are missing, of another length, or
not those that the seller says it sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from domain.errors import ConflictError
from domain.releases import parts_of
from storage.market.catalogue import Release
from storage.market.releases import BegunUpload
from storage.s3 import Bucket, UploadedPart

NAMED_MAX = 20  # part numbers in a refusal


class UploadStore(Protocol):
    """``storage.market.releases``."""

    async def upload(self, release_id: str) -> BegunUpload | None:
        """Read the upload that was begun."""

    async def begin_upload(self, release_id: str, upload: BegunUpload) -> None:
        """Record one, unless another was begun meanwhile."""

    async def forget_upload(self, release_id: str, upload_id: str) -> None:
        """Forget one that was aborted."""

    async def complete_upload(self, release_id: str, upload_id: str, version_id: str) -> None:
        """Pin the draft to a completed upload."""


@dataclass(frozen=True, slots=True)
class UploadState:
    """An upload under way: the length of each part in order, and the parts that have come, by number."""

    upload_id: str
    sizes: list[int]
    come: Mapping[int, UploadedPart]


class PartUploads:
    """A plain class over the bucket of uploads. Whose draft it is was checked by the caller."""

    def __init__(self, store: UploadStore, bucket: Bucket) -> None:
        self._store = store
        self._bucket = bucket

    async def begin(self, release: Release, bundle_bytes: int) -> UploadState:
        """Begin an upload, or tell how the one that was begun stands; another length begins anew.

        Raises:
            RejectedError: ``bundle_size_invalid``.
            ConflictError: ``upload_missing``, when two begin with different lengths at once.
            DependencyError, BusyError: storage or database; repeat the request.
        """
        sizes = parts_of(bundle_bytes)
        key = release.upload_key
        begun = await self._store.upload(release.release_id)
        if begun is not None and begun.bundle_bytes == bundle_bytes:
            come = await self._bucket.call(lambda: self._bucket.uploaded_parts(key, begun.upload_id))
            if come is not None:
                return UploadState(begun.upload_id, sizes, {part.number: part for part in come})
        if begun is not None:
            await self._abort(release, begun.upload_id)
        upload_id = await self._bucket.call(lambda: self._bucket.begin_upload(key))
        await self._store.begin_upload(release.release_id, BegunUpload(upload_id, bundle_bytes))
        kept = await self._store.upload(release.release_id)
        if kept is None or kept.upload_id != upload_id:
            await self._bucket.call(lambda: self._bucket.abort_upload(key, upload_id))
            if kept is None or kept.bundle_bytes != bundle_bytes:
                raise ConflictError("upload_missing", "The upload was ended by another request. Begin again.")
        return UploadState(kept.upload_id, sizes, {})

    async def complete(self, release: Release, etags: Mapping[int, str]) -> str:
        """Make the bundle of its parts; returns the version. ``etags`` are what the PUTs were answered with.

        Raises:
            ConflictError: ``upload_missing``, ``upload_incomplete``.
            DependencyError, BusyError: storage or database; repeat the request.
        """
        begun = await self._store.upload(release.release_id)
        if begun is None:
            if release.upload_version is not None:
                return release.upload_version
            raise ConflictError("upload_missing", "No upload in parts is under way. Begin one.")
        key = release.upload_key
        come = await self._bucket.call(lambda: self._bucket.uploaded_parts(key, begun.upload_id))
        if come is None:
            # Completed by a process that died before it could say so. What it is, publication judges.
            stored = await self._bucket.call(lambda: self._bucket.newest(key))
            if stored is not None and stored.size == begun.bundle_bytes:
                await self._store.complete_upload(release.release_id, begun.upload_id, stored.version_id)
                return stored.version_id
            come = []
        by_number = {part.number: part for part in come}
        wrong = [
            number
            for number, size in enumerate(parts_of(begun.bundle_bytes), 1)
            if (part := by_number.pop(number, None)) is None
            or part.size != size
            or etags.get(number) != part.etag
        ]
        wrong += sorted(by_number)
        if wrong:
            named = ", ".join(str(number) for number in wrong[:NAMED_MAX])
            raise ConflictError(
                "upload_incomplete",
                f"{len(wrong)} parts are missing, of a wrong length or not what you say you sent: {named}. "
                "Upload them again, then complete.",
            )
        stored = await self._bucket.call(lambda: self._bucket.complete_upload(key, begun.upload_id, come))
        await self._store.complete_upload(release.release_id, begun.upload_id, stored.version_id)
        return stored.version_id

    async def _abort(self, release: Release, upload_id: str) -> None:
        await self._bucket.call(lambda: self._bucket.abort_upload(release.upload_key, upload_id))
        await self._store.forget_upload(release.release_id, upload_id)
