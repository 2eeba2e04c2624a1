"""Bodies of releases: uploads in parts, channels, yanks, and sellers' keys."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from domain.releases import PART_BYTES, PARTS_MAX, YANK_REASON_CHARS_MAX
from serve_app.schemas.base import Document, Request, rfc3339
from storage.market.catalogue import ReleaseSummary
from storage.market.releases import SellerKey
from storage.s3 import Link, UploadedPart

ETAG_CHARS_MAX = 128
Reason = Annotated[str, Field(min_length=1, max_length=YANK_REASON_CHARS_MAX)]


class NewUpload(Request):
    """An upload in parts: the bundle's length, and the first part to be told about."""

    bundle_bytes: int
    first_part: Annotated[int, Field(ge=1, le=PARTS_MAX)] = 1


class SentPart(Request):
    """A part that was sent, with the ``ETag`` that its PUT was answered with."""

    number: Annotated[int, Field(ge=1, le=PARTS_MAX)]
    etag: Annotated[str, Field(min_length=1, max_length=ETAG_CHARS_MAX)]


class CompletedUpload(Request):
    """All parts of an upload."""

    parts: Annotated[list[SentPart], Field(min_length=1, max_length=PARTS_MAX)]


class NewYank(Request):
    """Why a release is taken off sale; buyers are shown it."""

    reason: Reason


class NewKeyRevocation(Request):
    """Why a key is to sign nothing more: ``retired``, or ``compromised`` when somebody else may have it."""

    state: Literal["retired", "compromised"]
    reason: Reason


class UploadPart(Document):
    """Where a part is to be PUT, and what has come of it: ``etag`` is null until it has."""

    number: int
    bytes: int
    etag: str | None
    url: str


class UploadParts(Document):
    """An upload in parts; the URLs are secrets until they expire. Parts go on at ``next_part``."""

    part_bytes: int
    parts_total: int
    parts: list[UploadPart]
    next_part: int | None
    expires_at: str


class CompleteUpload(Document):
    """An upload that was completed: the draft is pinned to this version of it."""

    release_id: str
    bundle_version: str


class Channel(Document):
    """A channel and its newest published release."""

    channel: str
    release_id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    published_at: str


class Channels(Document):
    """The channels that a SKU has releases in."""

    items: list[Channel]


class RegisteredKey(Document):
    """A seller's key and its state."""

    key_id: str
    state: Literal["active", "retired", "compromised"]
    registered_at: str
    revoked_at: str | None
    reason: str | None


class RegisteredKeys(Document):
    """A seller's keys, newest first."""

    items: list[RegisteredKey]


def upload_parts_document(
    sizes: Sequence[int], come: Mapping[int, UploadedPart], links: Mapping[int, Link]
) -> dict[str, Any]:
    """Write an ``UploadParts`` of the parts that have a link."""
    last = max(links)
    return {
        "part_bytes": PART_BYTES,
        "parts_total": len(sizes),
        "parts": [
            {
                "number": number,
                "bytes": sizes[number - 1],
                "etag": come[number].etag if number in come else None,
                "url": link.url,
            }
            for number, link in links.items()
        ],
        "next_part": last + 1 if last < len(sizes) else None,
        "expires_at": rfc3339(min(link.expires_at for link in links.values())),
    }


def channel_document(channel: str, head: ReleaseSummary) -> dict[str, Any]:
    """Write a ``Channel``."""
    return {
        "channel": channel,
        "release_id": head.release_id,
        "version": head.version,
        "bundle_name": head.bundle_name,
        "bundle_sha256": head.bundle_sha256,
        "bundle_bytes": head.bundle_bytes,
        "published_at": rfc3339(head.published_at),
    }


def key_document(key: SellerKey) -> dict[str, Any]:
    """Write a ``RegisteredKey``."""
    return {
        "key_id": key.key_id,
        "state": key.state,
        "registered_at": rfc3339(key.registered_at),
        "revoked_at": None if key.revoked_at is None else rfc3339(key.revoked_at),
        "reason": key.revoke_reason,
    }
