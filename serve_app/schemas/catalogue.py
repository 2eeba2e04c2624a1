"""Bodies of the catalogue: SKUs, sellers' keys, releases."""

from typing import Annotated, Any

import orjson
from pydantic import Field

from domain.catalogue import SOFTWARE
from domain.manifests import BUNDLE_NAME_CHARS_MAX, CHANNELS
from serve_app.schemas.base import Document, Request, rfc3339
from storage.market import catalogue
from storage.s3 import Link

KEY_TEXT_CHARS_MAX = 64  # base64 of 32 bytes takes 44
_FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"

Prices = Annotated[dict[str, int], Field(description="Minor units by ISO 4217 currency")]


class NewSku(Request):
    """A listing. ``name`` is a slug, unique in the marketplace."""

    name: str
    title: str
    description: str
    prices: Prices
    tax_category: Annotated[
        str, Field(max_length=KEY_TEXT_CHARS_MAX, description="What the tax table taxes it as")
    ] = SOFTWARE


class NewSellerKey(Request):
    """An Ed25519 public key that release manifests will be signed with."""

    public_key: Annotated[str, Field(max_length=KEY_TEXT_CHARS_MAX, description="Base64 of 32 bytes")]


class NewRelease(Request):
    """A draft. ``version`` is semantic, without build metadata."""

    version: str
    bundle_name: Annotated[str, Field(pattern=_FILE_NAME, max_length=BUNDLE_NAME_CHARS_MAX)]
    channel: Annotated[str, Field(max_length=KEY_TEXT_CHARS_MAX)] = CHANNELS[0]


class NewPublication(Request):
    """The seller's signed release manifest: a DSSE envelope around an in-toto statement."""

    manifest: dict[str, Any]


class ReleaseSummary(Document):
    """A SKU's newest published release."""

    id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    published_at: str


class Sku(Document):
    """A listing."""

    id: str
    name: str
    title: str
    description: str
    seller_id: str
    prices: Prices
    price_version: int
    tax_category: str
    created_at: str
    latest_release: ReleaseSummary | None


class SkuPage(Document):
    """SKUs on sale, newest first."""

    items: list[Sku]
    next_cursor: str | None


class SellerKey(Document):
    """A registered key."""

    key_id: str
    seller_id: str
    state: str


class Upload(Document):
    """Where the bundle is to be PUT; the URL is a secret until it expires."""

    url: str
    method: str
    headers: dict[str, str]
    expires_at: str


class DraftRelease(Document):
    """A release before publication."""

    id: str
    sku_id: str
    version: str
    channel: str
    state: str
    bundle_name: str
    upload: Upload


class Yanked(Document):
    """When and why a release was taken off sale."""

    at: str
    reason: str


class PublishedRelease(Document):
    """A release that never changes again, with the signatures over it; it may have been yanked."""

    id: str
    sku_id: str
    version: str
    channel: str
    yanked: Yanked | None
    state: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    payload_sha256: str
    payload_bytes: int
    published_at: str
    manifest: dict[str, Any]
    countersignature: dict[str, Any]
    minisig: str


def sku_document(sku: catalogue.Sku) -> dict[str, Any]:
    """Write a ``Sku``."""
    release = sku.latest_release
    return {
        "id": sku.sku_id,
        "name": sku.name,
        "title": sku.title,
        "description": sku.description,
        "seller_id": sku.seller_id,
        "prices": dict(sku.prices),
        "price_version": sku.price_version,
        "tax_category": sku.tax_category,
        "created_at": rfc3339(sku.created_at),
        "latest_release": None
        if release is None
        else {
            "id": release.release_id,
            "version": release.version,
            "bundle_name": release.bundle_name,
            "bundle_sha256": release.bundle_sha256,
            "bundle_bytes": release.bundle_bytes,
            "published_at": rfc3339(release.published_at),
        },
    }


def draft_document(release: catalogue.Release) -> dict[str, Any]:
    """Write a ``DraftRelease`` without its upload link, which is made afresh for every answer."""
    return {
        "id": release.release_id,
        "sku_id": release.sku_id,
        "version": release.version,
        "channel": release.channel,
        "state": "draft",
        "bundle_name": release.bundle_name,
    }


def upload_document(link: Link) -> dict[str, Any]:
    """Write an ``Upload``."""
    return {"url": link.url, "method": "PUT", "headers": {}, "expires_at": rfc3339(link.expires_at)}


def published_document(release: catalogue.Release) -> dict[str, Any]:
    """Write a ``PublishedRelease``."""
    assert release.published_at is not None, "a draft is not written as published"
    return {
        "id": release.release_id,
        "sku_id": release.sku_id,
        "version": release.version,
        "channel": release.channel,
        "yanked": None
        if release.yanked_at is None
        else {"at": rfc3339(release.yanked_at), "reason": release.yank_reason},
        "state": release.state,
        "bundle_name": release.bundle_name,
        "bundle_sha256": release.bundle_sha256,
        "bundle_bytes": release.bundle_bytes,
        "payload_sha256": release.payload_sha256,
        "payload_bytes": release.payload_bytes,
        "published_at": rfc3339(release.published_at),
        "manifest": orjson.loads(release.manifest or "{}"),
        "countersignature": orjson.loads(release.countersignature or "{}"),
        "minisig": release.minisig or "",
    }
