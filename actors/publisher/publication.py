"""The publisher: verifies a seller's release, encrypts it once, and makes it public for good.

    signed manifest -> the seller's active keys -> upload pinned to a version -> digest and size
    -> archive safety -> sealed by the signer -> age payload under its own file key -> one commit

Idempotent, and cheap to repeat: publishing again under the same statement returns what is stored, joins
what runs in this process, waits for what runs in another, or takes over what one that died has sealed; under
another statement it is refused. Work goes on when its caller hangs up. It runs in constant memory on a
temporary file. A payload that no release names is on record (``attempts``), and deleted by
``actors.deliveries.upkeep``.
"""

import asyncio
import errno
import hashlib
import logging
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from actors.publisher import attempts, payloads
from actors.publisher.archives import check_archive
from actors.publisher.attempts import AttemptStore
from actors.publisher.payloads import Measured
from actors.publisher.sealing import Seal, SealRequest
from domain import manifests, statements
from domain.dsse import Envelope, signing_key
from domain.errors import BusyError, ConflictError, NotFoundError, RejectedError
from domain.licence_policies import OfferedPolicy
from domain.manifests import BUNDLE_BYTES_MAX, ReleaseManifest, require_match
from domain.proposals.documents import LicenceModel
from domain.releases import require_newer
from domain.semver import parse_version
from domain.strict_json import DocumentError, rejection
from storage.age.header import FILE_KEY_BYTES
from storage.age.payload import PayloadDigest
from storage.market.catalogue import Publication, Release
from storage.market.commands import Write
from storage.market.publications import Attempt, Sealed, key_revoked
from storage.s3 import Bucket, StoredObject
from storage.signing.keys import verify

log = logging.getLogger("marketplace.publisher")

RUNNING_MAX = 2  # each reads, hashes and encrypts a bundle: more at once only slow each other down
NO_ROOM_RETRY_AFTER_S = 30


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


class Sealer(Protocol):
    """The signer's actor; see ``ReleaseSealer.seal_release``."""

    async def seal_release(self, request: SealRequest) -> Seal:
        """Countersign, minisign and wrap."""


@dataclass(frozen=True, slots=True)
class _Checked:
    """A manifest whose signature by ``key_id`` holds, with the exact statement that was signed."""

    envelope: Envelope
    manifest: ReleaseManifest
    key_id: str


class Publisher:
    """A plain class; one per process, on one event loop."""

    def __init__(
        self,
        store: ReleaseStore,
        attempt_store: AttemptStore,
        uploads: Bucket,
        payloads: Bucket,
        sealer: Sealer,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._attempts = attempt_store
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
            BusyError: ``publisher_busy``, ``publication_running``; repeat the request.
            DependencyError: storage, signer or database failed; repeat the request.
        """
        release = await self._own_release(write.principal_id, release_id)
        envelope = _read(manifest_text)
        if release.state == "draft":
            checked = await self._check_manifest(release, envelope)
            require_offered(await self._store.licence_model(), checked.manifest.licence_policy)
            await self._join_or_start(write, release, checked)
            release = await self._own_release(write.principal_id, release_id)
        if release.manifest is None:
            raise attempts.running()  # it was begun anew elsewhere
        # What was signed by a key that is revoked by now was published all the same.
        if Envelope.parse(release.manifest).payload != envelope.payload:
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

    async def _check_manifest(self, release: Release, envelope: Envelope) -> _Checked:
        keys = await self._store.seller_keys(release.seller_id)
        if envelope.payload_type != statements.PAYLOAD_TYPE:
            raise RejectedError(
                "payload_type_wrong",
                f"A release manifest is signed as {statements.PAYLOAD_TYPE}, and as nothing else.",
            )
        # Nothing inside is read before a key of this seller has signed it.
        key_id = signing_key(envelope, keys, verify)
        if key_id is None:
            revoked = await self._store.revoked_keys(release.seller_id)
            if (revoked_id := signing_key(envelope, revoked, verify)) is not None:
                raise key_revoked(revoked_id)
            raise RejectedError(
                "manifest_signature_invalid",
                f"No active key of yours signed this manifest as {statements.PAYLOAD_TYPE}. Register your "
                "key with POST /v1/seller-keys, or sign again.",
            )
        _require_alone(envelope, key_id)
        try:
            manifest = manifests.parse(envelope.payload)
        except DocumentError as error:
            raise rejection(error, "manifest_invalid", "The manifest") from error
        # What the upload is like is checked later; name and version can be told at once.
        _require(release, manifest, manifest.bundle_sha256, manifest.size)
        newest = await self._store.newest_version(release.sku_id, release.channel)
        require_newer(manifest.version, parse_version(newest) if newest else None, release.channel)
        return _Checked(envelope, manifest, key_id)

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
            raise attempts.in_progress()
        # Shielded: a caller that gives up (deadline, lost connection) does not throw the work away.
        await asyncio.shield(running[1])

    def _ended(self, release_id: str, task: asyncio.Task[None]) -> None:
        del self._running[release_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its waiters, if any are left, hear it as well.
            log.warning("publication of %s failed: %s", release_id, error)

    async def _publish(self, write: Write, release: Release, checked: _Checked) -> None:
        upload = await self._find_upload(release, checked.manifest)
        wanted = Attempt(
            payload_key=f"{release.sku_id}/{release.release_id}/{secrets.token_hex(8)}.age-payload",
            statement_sha256=hashlib.sha256(checked.envelope.payload).digest(),
            upload_version=upload.version_id,
        )
        attempt = await attempts.take(self._attempts, release.release_id, wanted)
        if attempt is None:
            return
        sealed = attempt.sealed
        if sealed is None:
            async with attempts.held(self._attempts, attempt.payload_key):
                sealed = await self._seal(release, checked, upload, attempt.payload_key)
                await self._attempts.finish(attempt.payload_key, sealed)
        policy = checked.manifest.licence_policy
        publication = Publication(
            release_id=release.release_id,
            manifest=checked.envelope.dumps(),
            countersignature=sealed.countersignature,
            minisig=sealed.minisig,
            bundle_sha256=sealed.bundle_sha256,
            bundle_bytes=sealed.bundle_bytes,
            licence_days=policy.days,
            payload_key=attempt.payload_key,
            payload_version=sealed.payload_version,
            payload_sha256=sealed.payload_sha256,
            payload_bytes=sealed.payload_bytes,
            published_at=self._clock(),
            wrapped_file_key=sealed.wrapped_file_key,
            licence_activation=policy.activation,
        )
        await self._attempts.publish(write, publication, checked.key_id)

    async def _find_upload(self, release: Release, manifest: ReleaseManifest) -> StoredObject:
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
        # Before gigabytes are read for nothing.
        _require(release, manifest, manifest.bundle_sha256, upload.size)
        return upload

    async def _seal(
        self, release: Release, checked: _Checked, upload: StoredObject, payload_key: str
    ) -> Sealed:
        """Check the bundle and store its payload; everything that can be refused is refused before that."""
        file_key = secrets.token_bytes(FILE_KEY_BYTES)
        try:
            with tempfile.TemporaryFile(prefix="bundle-") as file:
                bundle = await self._uploads.call(lambda: payloads.download(self._uploads, upload, file))
                _require(release, checked.manifest, bundle.sha256, bundle.size)
                await self._uploads.call(lambda: check_archive(file, bundle.size, release.bundle_name))
                # First, since the signer may be away: then the bundle is not encrypted for nothing.
                seal = await self._sealer.seal_release(
                    SealRequest(release.release_id, checked.envelope.payload, bundle.blake2b, file_key)
                )
                digest, stored = await self._payloads.call(
                    lambda: payloads.encrypt(self._payloads, payload_key, file, file_key)
                )
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("there is no room to check a bundle of %d bytes", upload.size)
            raise BusyError(
                "publisher_busy",
                "There is no room to check the bundle at the moment. Try again later.",
                NO_ROOM_RETRY_AFTER_S,
            ) from error
        if (digest.plaintext_sha256, digest.plaintext_size) != (bundle.sha256, bundle.size):
            raise ConflictError(
                "bundle_changed", "The bundle changed between its check and its encryption. Publish again."
            )
        return _sealed(bundle, seal, digest, stored)


def _sealed(bundle: Measured, seal: Seal, digest: PayloadDigest, stored: StoredObject) -> Sealed:
    return Sealed(
        payload_version=stored.version_id,
        payload_sha256=digest.payload_sha256,
        payload_bytes=digest.payload_size,
        bundle_sha256=bundle.sha256,
        bundle_bytes=bundle.size,
        countersignature=seal.countersignature,
        minisig=seal.minisig,
        wrapped_file_key=seal.wrapped_file_key,
    )


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


def _require(release: Release, manifest: ReleaseManifest, sha256: str, size: int) -> None:
    require_match(
        manifest,
        sku=release.sku_name,
        version=release.version,
        channel=release.channel,
        bundle_name=release.bundle_name,
        sha256=sha256,
        size=size,
    )


def _require_alone(envelope: Envelope, key_id: str) -> None:
    """Refuse what ``key_id`` did not sign: it would be kept and shown beside the manifest, unchecked."""
    if len(envelope.signatures) != 1 or envelope.signatures[0].key_id not in (None, key_id):
        raise RejectedError(
            "manifest_signature_invalid",
            f"A manifest has one signature, and its keyid is {key_id} or left out. Sign it so.",
        )


def _read(manifest_text: str) -> Envelope:
    try:
        return Envelope.parse(manifest_text)
    except DocumentError as error:
        raise rejection(error, "manifest_invalid", "The manifest") from error
