"""Bodies of deliveries: what a buyer receives, links to it, and the record of those links."""

import base64
from typing import Any, Literal

import orjson

from domain.delivery_manifests import DeliveryManifest
from domain.licences import armour
from serve_app.schemas.base import Document, rfc3339
from storage.age.payload import CHUNK_BYTES, NONCE_BYTES, TAG_BYTES
from storage.market.deliveries import IssuedLink
from storage.market.licences import DeliveryRow
from storage.s3 import Link, StoredObject


class PayloadLink(Document):
    """The encrypted payload; the URL is a secret until it expires."""

    url: str
    expires_at: str
    bytes: int
    sha256: str


class DeliveredLicence(Document):
    """The line's licence as issued."""

    id: str
    armoured: str
    envelope: dict[str, Any]


class KeyRelease(Document):
    """State of a released-key delivery's key."""

    expires_at: str
    released: bool


class Delivery(Document):
    """One line's delivery: the age header, the signed manifest, and where the payload is."""

    id: str
    line_no: int
    release_id: str
    licence_id: str
    mode: str
    recipient: str
    file_name: str
    header_base64: str
    manifest: dict[str, Any]
    payload: PayloadLink
    licence: DeliveredLicence
    key_release: KeyRelease | None


class Deliveries(Document):
    """One delivery per line."""

    items: list[Delivery]


class ReleasedKey(Document):
    """The age identity of a released-key delivery: a secret."""

    delivery_id: str
    identity: str
    expires_at: str


class AgePayload(Document):
    """How the payload is sealed: age v1, whose chunks all have ``chunk_bytes`` of plaintext but the last."""

    format: Literal["age-encryption.org/v1"]
    nonce_bytes: int
    chunk_bytes: int
    tag_bytes: int
    chunks: int


class Content(Document):
    """A file's length and SHA-256."""

    bytes: int
    sha256: str


class Opening(Document):
    """What a browser needs to fetch, open and verify one delivery; only the manifest is signed."""

    id: str
    mode: str
    recipient: str
    file_name: str
    header_base64: str
    manifest: dict[str, Any]
    payload: PayloadLink
    encryption: AgePayload
    plaintext: Content


class JoinedDelivery(Document):
    """One age file, header and payload; the URL is a secret until it expires."""

    delivery_id: str
    file_name: str
    url: str
    expires_at: str
    bytes: int


class DeliveryLink(Document):
    """A link that was handed out, to whom and when."""

    delivery_id: str
    order_id: str
    issued_to: str
    kind: Literal["payload", "joined"]
    issued_at: str
    expires_at: str


class DeliveryLinks(Document):
    """The newest links to one delivery."""

    items: list[DeliveryLink]


def delivery_document(row: DeliveryRow, link: Link, *, released: bool) -> dict[str, Any]:
    """Write a ``Delivery``."""
    return {
        "id": row.delivery_id,
        "line_no": row.line_no,
        "release_id": row.release_id,
        "licence_id": row.licence_id,
        "mode": row.mode,
        "recipient": row.recipient,
        "file_name": row.file_name,
        "header_base64": base64.b64encode(row.header).decode(),
        "manifest": orjson.loads(row.manifest),
        "payload": {
            "url": link.url,
            "expires_at": rfc3339(link.expires_at),
            "bytes": row.payload_bytes,
            "sha256": row.payload_sha256,
        },
        "licence": {
            "id": row.licence_id,
            "armoured": armour(row.licence_envelope),
            "envelope": orjson.loads(row.licence_envelope),
        },
        "key_release": None
        if row.key_expires_at is None
        else {"expires_at": rfc3339(row.key_expires_at), "released": released},
    }


def opening_document(manifest: DeliveryManifest, envelope: dict[str, Any], link: Link) -> dict[str, Any]:
    """Write an ``Opening``; ``envelope`` is the signed manifest."""
    return {
        "id": manifest.delivery_id,
        "mode": manifest.mode,
        "recipient": manifest.recipient,
        "file_name": manifest.file_name,
        "header_base64": base64.b64encode(manifest.header).decode(),
        "manifest": envelope,
        "payload": {
            "url": link.url,
            "expires_at": rfc3339(link.expires_at),
            "bytes": manifest.payload.size,
            "sha256": manifest.payload.sha256,
        },
        "encryption": {
            "format": "age-encryption.org/v1",
            "nonce_bytes": NONCE_BYTES,
            "chunk_bytes": CHUNK_BYTES,
            "tag_bytes": TAG_BYTES,
            # An empty file has one empty chunk.
            "chunks": max(1, -(-manifest.plaintext.size // CHUNK_BYTES)),
        },
        "plaintext": {"bytes": manifest.plaintext.size, "sha256": manifest.plaintext.sha256},
    }


def joined_document(row: DeliveryRow, joined: StoredObject, link: Link) -> dict[str, Any]:
    """Write a ``JoinedDelivery``."""
    return {
        "delivery_id": row.delivery_id,
        "file_name": f"{row.file_name}.age",
        "url": link.url,
        "expires_at": rfc3339(link.expires_at),
        "bytes": joined.size,
    }


def link_document(issued: IssuedLink) -> dict[str, Any]:
    """Write a ``DeliveryLink``."""
    return {
        "delivery_id": issued.delivery_id,
        "order_id": issued.order_id,
        "issued_to": issued.issued_to,
        "kind": issued.kind,
        "issued_at": rfc3339(issued.issued_at),
        "expires_at": rfc3339(issued.expires_at),
    }
