"""Delivery manifests: the platform's signed word on what one buyer receives for one order line.

age authenticates no sender, so this manifest does: it carries the age header, and the size and SHA-256
of header, payload and plaintext. The delivered file is the header followed by the payload.

``ciphertext`` is the *ordered list* of both digests and not SHA-256 of the joined file: that digest
begins with the buyer's own header, so computing it would read the whole payload again for every buyer.
Checking both parts proves the same bytes. A buyer who fetches the joined object splits it at the
header's size, which the manifest states.

Refused: a header or sizes that contradict each other, and manifests that exceed, with their DSSE
framing, the 4,096 bytes that key services sign.
"""

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.document_fields import (
    closed_object,
    file_name_field,
    format_time,
    integer_field,
    sha256_field,
    text_field,
    time_field,
    token_field,
)
from domain.dsse import decode_base64, signed_message
from domain.manifests import BUNDLE_NAME_CHARS_MAX
from domain.statements import PAYLOAD_TYPE, Statement, Subject
from domain.strict_json import DocumentError

PREDICATE_TYPE = "urn:illuvrse:marketplace:delivery-manifest:v1"
MODES = ("recipient", "released_key")
HEADER_BYTES_MAX = 1_024  # one X25519 stanza takes 200; room for a few recipients of one buyer
RECIPIENT_CHARS_MAX = 128  # age1… is 62 characters
LINE_NO_MAX = 1_000  # an order line's own bound is lower; this one only keeps the reader safe
_PREDICATE = frozenset(
    {
        "delivery_id",
        "order_id",
        "line_no",
        "licence_id",
        "release_id",
        "mode",
        "recipient",
        "header_b64",
        "header",
        "payload",
        "ciphertext",
        "plaintext",
        "file_name",
        "created_at",
    }
)
_DIGEST = frozenset({"sha256", "size"})
_CIPHERTEXT = frozenset({"parts_sha256", "size"})


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Length in bytes and SHA-256 (lower-case hexadecimal) of one file or part."""

    size: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Give the object that stands in the manifest."""
        return {"sha256": self.sha256, "size": self.size}


@dataclass(frozen=True, slots=True)
class DeliveryManifest:
    """One delivery. ``header`` is the buyer's age header; ``created_at`` is UTC with whole seconds."""

    delivery_id: str
    order_id: str
    line_no: int
    licence_id: str
    release_id: str
    mode: str
    recipient: str
    header: bytes
    payload: FileDigest
    plaintext: FileDigest
    file_name: str
    created_at: datetime

    @property
    def header_digest(self) -> FileDigest:
        """Size and digest of the header."""
        return FileDigest(len(self.header), hashlib.sha256(self.header).hexdigest())

    @property
    def ciphertext_size(self) -> int:
        """Length in bytes of the age file: header, then payload."""
        return len(self.header) + self.payload.size


def build(manifest: DeliveryManifest) -> bytes:
    """Return the payload to sign. Reads nothing but its argument: no time proportional to the bundle.

    Raises:
        DocumentError: for a manifest that ``parse`` would refuse.
    """
    header = manifest.header_digest
    predicate = {
        "delivery_id": manifest.delivery_id,
        "order_id": manifest.order_id,
        "line_no": manifest.line_no,
        "licence_id": manifest.licence_id,
        "release_id": manifest.release_id,
        "mode": manifest.mode,
        "recipient": manifest.recipient,
        "header_b64": base64.b64encode(manifest.header).decode(),
        "header": header.as_json(),
        "payload": manifest.payload.as_json(),
        "ciphertext": {
            "parts_sha256": [header.sha256, manifest.payload.sha256],
            "size": manifest.ciphertext_size,
        },
        "plaintext": manifest.plaintext.as_json(),
        "file_name": manifest.file_name,
        "created_at": format_time(manifest.created_at),
    }
    payload = Statement(_subjects(manifest), PREDICATE_TYPE, predicate).build()
    if parse(payload) != manifest:
        raise DocumentError("manifest_invalid", "A delivery manifest has whole seconds of UTC.")
    return payload


def _subjects(manifest: DeliveryManifest) -> tuple[Subject, ...]:
    return (
        Subject(manifest.file_name, manifest.plaintext.sha256),
        Subject(f"{manifest.file_name}.age-header", manifest.header_digest.sha256),
        Subject(f"{manifest.file_name}.age-payload", manifest.payload.sha256),
    )


def parse(payload: bytes) -> DeliveryManifest:
    """Read and validate the payload of a verified envelope.

    Raises:
        DocumentError: the codes of ``Statement.parse``, ``payload_too_large``, ``delivery_mode_unknown``,
            ``base64_invalid`` or ``manifest_contradictory``.
    """
    signed_message(PAYLOAD_TYPE, payload)
    statement = Statement.parse(payload, predicate_type=PREDICATE_TYPE)
    members = closed_object(statement.predicate, "The delivery manifest", _PREDICATE)
    if members["mode"] not in MODES:
        raise DocumentError("delivery_mode_unknown", f"Delivery modes are {', '.join(MODES)}.")
    header = decode_base64(members["header_b64"], "header_b64")
    if not 1 <= len(header) <= HEADER_BYTES_MAX:
        raise DocumentError("field_invalid", f"An age header here has at most {HEADER_BYTES_MAX} bytes.")
    manifest = DeliveryManifest(
        delivery_id=token_field(members, "delivery_id"),
        order_id=token_field(members, "order_id"),
        line_no=integer_field(members, "line_no", 1, LINE_NO_MAX),
        licence_id=token_field(members, "licence_id"),
        release_id=token_field(members, "release_id"),
        mode=members["mode"],
        recipient=text_field(members, "recipient", RECIPIENT_CHARS_MAX),
        header=header,
        payload=_file_digest(members, "payload"),
        plaintext=_file_digest(members, "plaintext"),
        file_name=file_name_field(members, "file_name", BUNDLE_NAME_CHARS_MAX),
        created_at=time_field(members, "created_at"),
    )
    ciphertext = closed_object(members["ciphertext"], "ciphertext", _CIPHERTEXT)
    consistent = (
        _file_digest(members, "header") == manifest.header_digest
        and ciphertext["parts_sha256"] == [manifest.header_digest.sha256, manifest.payload.sha256]
        and integer_field(ciphertext, "size", 1) == manifest.ciphertext_size
        and statement.subjects == _subjects(manifest)
    )
    if not consistent:
        raise DocumentError("manifest_contradictory", "Two members of the delivery manifest contradict.")
    return manifest


def _file_digest(members: dict[str, Any], name: str) -> FileDigest:
    inner = closed_object(members[name], name, _DIGEST)
    return FileDigest(integer_field(inner, "size", 0), sha256_field(inner, "sha256"))
