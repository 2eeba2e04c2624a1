"""The publisher: verifies a seller's release, encrypts it once, and makes it public for good.

    signed manifest -> the seller's active keys -> upload pinned to a version -> digest and size
    -> archive safety -> age payload under its own file key -> sealed by the signer -> one commit

Idempotent: publishing again under the same statement returns what is stored; under another one it is
refused. Work goes on when its caller hangs up, so a repetition joins it or finds it done. It runs in
constant memory on a temporary file, and a payload that lost a race stays behind unreferenced.
"""

import asyncio
import hashlib
import logging
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Protocol

from actors.publisher.archives import check_archive
from actors.publisher.sealing import Seal, SealRequest
from domain import manifests, statements
from domain.dsse import Envelope, signing_key
from domain.errors import BusyError, ConflictError, NotFoundError, RejectedError
from domain.licence_policies import OfferedPolicy
from domain.manifests import BUNDLE_BYTES_MAX, ReleaseManifest, require_match
from domain.proposals.documents import LicenceModel
from domain.releases import require_newer
from domain.semver import parse_version
from domain.strict_json import DocumentError
from storage.age.header import FILE_KEY_BYTES
from storage.age.payload import NONCE_BYTES, PayloadDigest, encrypt_payload
from storage.market.catalogue import Publication, Release
from storage.market.commands import Write
from storage.s3 import Bucket, StoredObject
from storage.signing.keys import verify

log = logging.getLogger("marketplace.publisher")

RUNNING_MAX = 2  # each reads, hashes and encrypts a bundle: more at once only slow each other down
_READ_BYTES = 2**20


class ReleaseStore(Protocol):
    """The catalogue, as far as publication needs it."""

    async def release(self, release_id: str) -> Release | None:
        """Read one release."""

    async def seller_keys(self, seller_id: str) -> dict[str, bytes]:
        """Return a seller's active public keys by key id."""

    async def revoked_keys(self, seller_id: str) -> dict[str, bytes]:
        """Return the public keys that the seller revoked, by key id."""

    async def newest_version(self, sku_id: str, channel: str) -> str | None:
        """Return the newest version that was ever published in a channel."""

    async def licence_model(self) -> LicenceModel:
        """Return which policies may be offered."""

    async def publish(self, write: Write, publication: Publication) -> bool:
        """Publish a draft; False when it was no draft any more."""


class Sealer(Protocol):
    """The signer's actor; see ``ReleaseSealer.seal_release``."""

    async def seal_release(self, request: SealRequest) -> Seal:
        """Countersign, minisign and wrap."""


@dataclass(frozen=True, slots=True)
class _Checked:
    """A manifest whose signature holds, with the exact statement that was signed."""

    envelope: Envelope
    manifest: ReleaseManifest


@dataclass(frozen=True, slots=True)
class _Bundle:
    sha256: str
    blake2b: bytes
    size: int


class Publisher:
    """A plain class; one per process, on one event loop."""

    def __init__(
        self,
        store: ReleaseStore,
        uploads: Bucket,
        payloads: Bucket,
        sealer: Sealer,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._payloads = payloads
        self._sealer = sealer
        self._clock = clock
        self._running: dict[str, tuple[bytes, asyncio.Task[None]]] = {}

    async def publish(self, write: Write, release_id: str, manifest_text: str) -> Release:
        """Publish the caller's release (``write.principal_id`` is the seller) and return it.

        Raises:
            NotFoundError: ``release_not_found``.
            RejectedError: ``manifest_invalid``, ``manifest_signature_invalid``, ``seller_key_revoked``,
                ``manifest_mismatch``, ``licence_policy_not_allowed``, ``bundle_unsafe``,
                ``idempotency_key_reused``.
            ConflictError: ``bundle_not_uploaded``, ``bundle_changed``, ``version_not_newer``,
                ``release_already_published``, ``publication_in_progress`` under another manifest.
            BusyError: ``publisher_busy``.
            DependencyError: storage, signer or database failed; repeat the request.
        """
        release = await self._own_release(write.principal_id, release_id)
        checked = await self._check_manifest(release, manifest_text)
        if release.state == "draft":
            require_offered(await self._store.licence_model(), checked.manifest.licence_policy)
            await self._join_or_start(write, release, checked)
            release = await self._own_release(write.principal_id, release_id)
        if release.manifest is None or Envelope.parse(release.manifest).payload != checked.envelope.payload:
            raise ConflictError(
                "release_already_published",
                f"Version {release.version} is published under another manifest and never changes. "
                "Release a new version.",
            )
        return release

    async def close(self, wait_s: float) -> None:
        """Let running publications end within a bound; one that is cut off can simply be repeated."""
        tasks = [task for _, task in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=wait_s)
        for task in tasks:
            task.cancel()

    async def _own_release(self, seller_id: str, release_id: str) -> Release:
        release = await self._store.release(release_id)
        if release is None or release.seller_id != seller_id:
            raise NotFoundError("release_not_found", "You have no such release.")
        return release

    async def _check_manifest(self, release: Release, manifest_text: str) -> _Checked:
        try:
            envelope = Envelope.parse(manifest_text)
        except DocumentError as error:
            raise _invalid(error) from error
        keys = await self._store.seller_keys(release.seller_id)
        # Nothing inside is read before a key of this seller has signed it.
        if envelope.payload_type != statements.PAYLOAD_TYPE or signing_key(envelope, keys, verify) is None:
            revoked = await self._store.revoked_keys(release.seller_id)
            # What a revoked key signed earlier stays published; what is published already is only read here.
            if release.state == "draft" and (key_id := signing_key(envelope, revoked, verify)) is not None:
                raise RejectedError(
                    "seller_key_revoked",
                    f"{key_id} signed this manifest and is revoked. Sign with another key.",
                )
            raise RejectedError(
                "manifest_signature_invalid",
                f"No active key of yours signed this manifest as {statements.PAYLOAD_TYPE}. Register your "
                "key with POST /v1/seller-keys, or sign again.",
            )
        try:
            manifest = manifests.parse(envelope.payload)
        except DocumentError as error:
            raise _invalid(error) from error
        # What the upload is like is checked later; name and version can be told at once.
        _require(release, manifest, _Bundle(manifest.bundle_sha256, b"", manifest.size))
        if release.state == "draft":
            newest = await self._store.newest_version(release.sku_id, release.channel)
            require_newer(manifest.version, parse_version(newest) if newest else None, release.channel)
        return _Checked(envelope, manifest)

    async def _join_or_start(self, write: Write, release: Release, checked: _Checked) -> None:
        statement = checked.envelope.payload
        running = self._running.get(release.release_id)
        if running is None:
            if len(self._running) >= RUNNING_MAX:
                raise BusyError("publisher_busy", "Other releases are being published. Try again shortly.", 5)
            task = asyncio.create_task(self._publish(write, release, checked))
            running = self._running[release.release_id] = (statement, task)
            task.add_done_callback(lambda done: self._ended(release.release_id, done))
        elif running[0] != statement:
            raise ConflictError(
                "publication_in_progress", "This release is being published under another manifest."
            )
        # Shielded: a caller that gives up (deadline, lost connection) does not throw the work away.
        await asyncio.shield(running[1])

    def _ended(self, release_id: str, task: asyncio.Task[None]) -> None:
        del self._running[release_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its waiters, if any are left, hear it as well.
            log.warning("publication of %s failed: %s", release_id, error)

    async def _publish(self, write: Write, release: Release, checked: _Checked) -> None:
        upload = await self._uploads.call(lambda: self._uploads.newest(release.upload_key))
        if upload is None:
            raise ConflictError(
                "bundle_not_uploaded", "The bundle is not there yet. PUT it to the release's upload link."
            )
        if release.upload_version not in (None, upload.version_id):
            raise ConflictError(
                "bundle_changed", "Something was uploaded after the upload was completed. Upload it anew."
            )
        if upload.size > BUNDLE_BYTES_MAX:
            raise RejectedError(
                "bundle_unsafe", f"The bundle is refused: it has more than {BUNDLE_BYTES_MAX} bytes."
            )
        file_key = secrets.token_bytes(FILE_KEY_BYTES)
        payload_key = f"{release.sku_id}/{release.release_id}.age-payload"
        with tempfile.TemporaryFile(prefix="bundle-") as file:
            bundle = await self._uploads.call(lambda: self._download(upload, file))
            _require(release, checked.manifest, bundle)
            await self._uploads.call(lambda: check_archive(file, bundle.size, release.bundle_name))
            digest, stored = await self._payloads.call(lambda: self._encrypt(file, file_key, payload_key))
        if (digest.plaintext_sha256, digest.plaintext_size) != (bundle.sha256, bundle.size):
            raise ConflictError(
                "bundle_changed", "The bundle changed between its check and its encryption. Publish again."
            )
        seal = await self._sealer.seal_release(
            SealRequest(release.release_id, checked.envelope.payload, bundle.blake2b, file_key)
        )
        await self._store.publish(
            write,
            Publication(
                release_id=release.release_id,
                manifest=checked.envelope.dumps(),
                countersignature=seal.countersignature,
                minisig=seal.minisig,
                bundle_sha256=bundle.sha256,
                bundle_bytes=bundle.size,
                licence_days=checked.manifest.licence_policy.days,
                payload_key=stored.key,
                payload_version=stored.version_id,
                payload_sha256=digest.payload_sha256,
                payload_bytes=digest.payload_size,
                published_at=self._clock(),
                wrapped_file_key=seal.wrapped_file_key,
                licence_activation=checked.manifest.licence_policy.activation,
            ),
        )

    def _download(self, upload: StoredObject, file: IO[bytes]) -> _Bundle:
        sha256, blake2b, size = hashlib.sha256(), hashlib.blake2b(), 0
        body = self._uploads.open(upload)
        try:
            while block := body.read(_READ_BYTES):
                sha256.update(block)
                blake2b.update(block)
                size += len(block)
                file.write(block)
        finally:
            body.close()
        return _Bundle(sha256.hexdigest(), blake2b.digest(), size)

    def _encrypt(self, file: IO[bytes], file_key: bytes, key: str) -> tuple[PayloadDigest, StoredObject]:
        file.seek(0)
        with self._payloads.writer(key) as writer:
            digest = encrypt_payload(file_key, file, writer, nonce=secrets.token_bytes(NONCE_BYTES))
            return digest, writer.finish()


def require_offered(model: LicenceModel, policy: OfferedPolicy) -> None:
    """Refuse a policy that the operators do not allow.

    Raises:
        RejectedError: ``licence_policy_not_allowed``.
    """
    if policy.kind not in model.policies:
        raise RejectedError(
            "licence_policy_not_allowed",
            f"Licences of the kind {policy.kind} are not sold here; {', '.join(model.policies)} are.",
        )
    if policy.days is not None and policy.days > model.timed_days_max:
        raise RejectedError(
            "licence_policy_not_allowed",
            f"A licence with an end lasts at most {model.timed_days_max} days here, not {policy.days}.",
        )


def _require(release: Release, manifest: ReleaseManifest, bundle: _Bundle) -> None:
    require_match(
        manifest,
        sku=release.sku_name,
        version=release.version,
        channel=release.channel,
        bundle_name=release.bundle_name,
        sha256=bundle.sha256,
        size=bundle.size,
    )


def _invalid(error: DocumentError) -> RejectedError:
    return RejectedError("manifest_invalid", f"The manifest is refused ({error.code}): {error.detail}")
