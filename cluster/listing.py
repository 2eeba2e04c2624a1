"""Lists a bundle: registers the seller's key, creates SKU and release, uploads, signs and publishes.

Every step is idempotent under a key that follows from what it does, so an interrupted run is simply run
again and a finished one changes nothing. Refused: another content under a version that is published
already, because buyers hold licences for exactly those bytes.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.bundles import Bundle
from cluster.client import ApiError, ClientError, MarketplaceClient
from cluster.client_documents import Release, Sku, Upload
from cluster.identities import SellerKey
from cluster.uploading import OnBytes, upload_in_parts
from domain import manifests
from domain.dsse import sign_all
from domain.manifests import CHANNELS, ReleaseManifest
from domain.semver import parse_version
from domain.statements import PAYLOAD_TYPE

WHOLE_BYTES_MAX = 32 * 2**20  # a larger bundle is uploaded in parts, to go on when the line breaks
UPLOAD_TIMEOUT_S = 60.0  # between two pieces of a bundle
UPLOAD_ATTEMPTS_MAX = 3
PUBLISH_TRIES_MAX = 40  # each of five requests of up to 10 s: half an hour
PUBLISH_PAUSE_S = 2.0
HTTP_FORBIDDEN, HTTP_UNAVAILABLE = 403, 503


@dataclass(frozen=True, slots=True)
class Listing:
    """A published bundle; ``fresh`` is False when it had been published before."""

    sku_id: str
    name: str
    release_id: str
    version: str
    bundle_sha256: str
    fresh: bool

    def as_json(self) -> dict[str, Any]:
        """Give the object that ``--json`` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


def sign_manifest(bundle: Bundle, key: SellerKey) -> dict[str, Any]:
    """Sign the release manifest of a packed bundle; returns the DSSE object.

    Raises:
        DocumentError: the codes of ``domain.manifests.parse``.
    """
    info = bundle.info
    payload = manifests.build(
        ReleaseManifest(
            bundle_name=bundle.file_name,
            bundle_sha256=bundle.sha256,
            size=bundle.size,
            sku=info.name,
            version=parse_version(info.version),
            entry_point=bundle.entry_member,
            platform=info.platform,
            licence_policy=info.licence_policy,
            description=info.description,
            channel=info.channel,
            price_refs=info.price_refs,
            preview=info.preview,
        )
    )
    (envelope,) = sign_all(key, PAYLOAD_TYPE, [payload])
    document: dict[str, Any] = json.loads(envelope.dumps())
    return document


def publish_bundle(
    client: MarketplaceClient,
    bundle: Bundle,
    key: SellerKey,
    on_step: Callable[[str], None] = lambda _step: None,
    on_bytes: OnBytes = lambda _sent, _total: None,
    transport: httpx.BaseTransport | None = None,
) -> Listing:
    """List a bundle for sale, or find that exactly it is listed already.

    Raises:
        ClientError: ``release_version_published``, ``upload_failed``, ``upload_expired``; ApiError.
        DocumentError: the manifest cannot be signed.
    """
    info = bundle.info
    manifest = sign_manifest(bundle, key)
    sku = _sku(client, bundle)
    latest = _newest(client, sku, info.channel)
    if latest and latest.version == info.version:
        if latest.sha256 != bundle.sha256:
            raise ClientError(
                f"{info.name} {info.version} is published with another content. Buyers hold licences for it: "
                "raise "
                "the version in marketplace.json.",
                "release_version_published",
            )
        return Listing(sku["id"], info.name, latest.release_id, info.version, bundle.sha256, fresh=False)
    on_step(f"{info.name}: key {key.key_id}")
    client.register_seller_key(base64.b64encode(key.public_key).decode(), f"seller-key:{key.key_id}")
    digest = bundle.sha256[:16]
    of_channel = "" if info.channel == CHANNELS[0] else f":{info.channel}"
    key_text = f"release:{sku['id']}:{info.version}:{digest}{of_channel}"
    release = client.create_release(sku["id"], info.version, bundle.file_name, info.channel, key_text)
    on_step(f"{info.name}: upload {bundle.size} bytes")
    if bundle.size > WHOLE_BYTES_MAX:
        upload_in_parts(client, release["id"], bundle, on_bytes, transport)
    else:
        upload(release["upload"], bundle, transport)
        on_bytes(bundle.size, bundle.size)
    on_step(f"{info.name}: publish")
    published = _publish(client, release, manifest)
    if published["bundle_sha256"] != bundle.sha256:
        raise ClientError(
            "The marketplace published another content than was uploaded. Tell the operator.",
            "digest_mismatch",
        )
    return Listing(sku["id"], info.name, release["id"], info.version, bundle.sha256, fresh=True)


@dataclass(frozen=True, slots=True)
class _Head:
    release_id: str
    version: str
    sha256: str


def _newest(client: MarketplaceClient, sku: Sku, channel: str) -> _Head | None:
    latest = sku["latest_release"]
    if channel == CHANNELS[0]:
        return _Head(latest["id"], latest["version"], latest["bundle_sha256"]) if latest else None
    heads = (one for one in client.channels(sku["id"]) if one["channel"] == channel)
    return next((_Head(one["release_id"], one["version"], one["bundle_sha256"]) for one in heads), None)


def _sku(client: MarketplaceClient, bundle: Bundle) -> Sku:
    info = bundle.info
    try:
        return client.sku(info.name)
    except ApiError as error:
        if error.code != "sku_not_found":
            raise
    body = json.dumps([info.name, info.title, info.description, info.prices], sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    return client.create_sku(
        info.name, info.title, info.description, info.prices, f"sku:{info.name}:{digest}"
    )


def _publish(
    client: MarketplaceClient,
    release: Release,
    manifest: dict[str, Any],
    pause: Callable[[float], None] = time.sleep,
) -> Release:
    """Publish, and ask again while the marketplace is still at it: a bundle of gigabytes takes minutes."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    for _ in range(PUBLISH_TRIES_MAX):
        try:
            return client.publish(release["id"], manifest, f"publish:{release['id']}:{digest}")
        except ApiError as error:
            if error.status != HTTP_UNAVAILABLE:
                raise
            refusal = error
        pause(PUBLISH_PAUSE_S)
    raise refusal


def upload(where: Upload, bundle: Bundle, transport: httpx.BaseTransport | None = None) -> None:
    """Put a bundle where the release says.

    Raises:
        ClientError: ``upload_failed`` or ``upload_expired``.
    """
    # A client of its own: the seller's token must never go to the storage's address.
    with httpx.Client(timeout=UPLOAD_TIMEOUT_S, transport=transport) as http:
        for attempt in range(1, UPLOAD_ATTEMPTS_MAX + 1):
            bundle.file.seek(0)
            try:
                response = http.request(
                    where["method"],
                    where["url"],
                    content=bundle.file,
                    # Object storage takes no chunked bodies.
                    headers={**where.get("headers", {}), "Content-Length": str(bundle.size)},
                )
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if attempt == UPLOAD_ATTEMPTS_MAX:
                    reason = str(error) or type(error).__name__
                    raise ClientError(
                        f"The bundle could not be uploaded: {reason}. Run the command again.", "upload_failed"
                    ) from error
                continue
            if response.is_success:
                return
            if response.status_code == HTTP_FORBIDDEN:
                raise ClientError(
                    "The upload link has expired. Run the command again: it gets a new one.",
                    "upload_expired",
                )
            raise ClientError(
                f"The storage refused the upload ({response.status_code}). Run the command again; if it "
                "stays, "
                "tell the operator.",
                "upload_failed",
            )
