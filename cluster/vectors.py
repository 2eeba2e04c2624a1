"""Writes the delivery vector that other implementations test against: ``python -m cluster.vectors``.

One delivery with everything that opens it, made of fixed keys by the product's own code, so that it comes
out the same each time; and ways to spoil it, each of which a reader must refuse. The keys in it are public:
they protect nothing. Refuses to write anywhere but where it is told.
"""

import base64
import hashlib
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from domain import delivery_manifests
from domain.delivery_manifests import DeliveryManifest, FileDigest
from domain.dsse import sign_all
from domain.statements import PAYLOAD_TYPE
from serve_app.schemas.deliveries import opening_document
from storage.age.header import wrap_file_key
from storage.age.payload import CHUNK_BYTES, TAG_BYTES, encrypt_payload
from storage.age.recipients import identity_text, public_half, recipient_text
from storage.s3 import Link
from storage.signing.devfile import DevelopmentKeyFile

PATH = Path("docs/vectors/delivery.json")
PLAINTEXT_BYTES = CHUNK_BYTES + 1_000  # two chunks, the second one short
MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)
_ID = "01jz3k5v8m2q9x7c4b6n0t1rwf"


def _secret(name: str, size: int = 32) -> bytes:
    return hashlib.sha256(f"illuvrse delivery vector: {name}".encode()).digest()[:size]


def plaintext(size: int = PLAINTEXT_BYTES) -> bytes:
    """Return the bundle of the vector, or one of another size in bytes."""
    blocks = (_secret(f"plaintext {number}") for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def delivery_vector(plaintext_bytes: int = PLAINTEXT_BYTES) -> dict[str, Any]:
    """Return the vector's document; larger ones are for trying how long a reader takes."""
    signer = DevelopmentKeyFile(_secret("platform key"), _secret("wrapping key"))
    identity, file_key = _secret("identity"), _secret("file key", 16)
    header = wrap_file_key(file_key, public_half(identity), ephemeral=_secret("ephemeral"))
    payload = io.BytesIO()
    digest = encrypt_payload(
        file_key, io.BytesIO(plaintext(plaintext_bytes)), payload, nonce=_secret("nonce", 16)
    )
    manifest = DeliveryManifest(
        delivery_id=f"dlv_{_ID}",
        order_id=f"ord_{_ID}",
        line_no=1,
        licence_id=f"lic_{_ID}",
        release_id=f"rel_{_ID}",
        mode="recipient",
        recipient=recipient_text(public_half(identity)),
        header=header,
        payload=FileDigest(digest.payload_size, digest.payload_sha256),
        plaintext=FileDigest(digest.plaintext_size, digest.plaintext_sha256),
        file_name="vector-1.0.0.bin",
        created_at=MADE_AT,
    )
    (envelope,) = sign_all(signer, PAYLOAD_TYPE, [delivery_manifests.build(manifest)])
    link = Link("https://s3.example.com/payloads/vector", MADE_AT)
    last = CHUNK_BYTES + TAG_BYTES + 16  # where the last chunk begins, behind the nonce
    return {
        "about": "A delivery for tests of other implementations, by `python -m cluster.vectors`. Its keys "
        "are public and protect nothing.",
        "identity": identity_text(identity),
        "platform_public_key": base64.b64encode(signer.public_key).decode(),
        "opening": opening_document(manifest, json.loads(envelope.dumps()), link),
        "payload_base64": base64.b64encode(payload.getvalue()).decode(),
        "plaintext": {"size": digest.plaintext_size, "sha256": digest.plaintext_sha256},
        "refused": [
            {"what": "the nonce", "part": "payload", "flip": 0},
            {"what": "the first chunk", "part": "payload", "flip": 16},
            {"what": "the first chunk's tag", "part": "payload", "flip": last - 1},
            {"what": "the last chunk", "part": "payload", "flip": last},
            {"what": "the last tag", "part": "payload", "flip": digest.payload_size - 1},
            {"what": "a payload without its last chunk", "part": "payload", "cut": last},
            {"what": "a payload cut within a chunk", "part": "payload", "cut": last + 100},
            {"what": "a payload cut within its nonce", "part": "payload", "cut": 15},
            {"what": "no payload", "part": "payload", "cut": 0},
            {"what": "the signed statement", "part": "manifest", "flip": 100},
            {"what": "the signature", "part": "signature", "flip": 0},
            {"what": "another platform's key", "part": "platform_public_key", "flip": 5},
            {"what": "another identity", "part": "identity", "flip": 3},
        ],
    }


def main() -> int:
    """Write the vector to the path that is named, or to its place in the documentation."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    path.write_text(json.dumps(delivery_vector(), indent=1) + "\n", encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
