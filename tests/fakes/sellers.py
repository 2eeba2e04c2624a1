"""A seller's side for tests: bundles, signed release manifests, and a drafted release with its upload."""

import base64
import gzip
import hashlib
import io
import tarfile

import orjson

from domain import manifests, statements
from domain.dsse import sign_all
from domain.licence_policies import OfferedPolicy
from domain.manifests import ReleaseManifest
from domain.semver import parse_version
from storage.signing.devfile import DevelopmentKeyFile

NEW_SKU = {"name": "logline", "title": "Logline", "description": "Reads logs.", "prices": {"USD": 1999}}
SELLER_KEYS = DevelopmentKeyFile(b"k" * 32, b"w" * 32)
PUBLIC_KEY = base64.b64encode(SELLER_KEYS.public_key).decode()
BUNDLE_NAME = "logline-1.2.0.tar.gz"


def bundle(text=b"print('hello')\n", name="logline-1.2.0/bin/logline"):
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return gzip.compress(plain.getvalue(), mtime=0)


def manifest(data, keys=SELLER_KEYS, payload_type=statements.PAYLOAD_TYPE, **changes):
    values = {
        "bundle_name": BUNDLE_NAME,
        "bundle_sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "sku": "logline",
        "version": "1.2.0",
        "entry_point": "bin/logline",
        "platform": "any",
        "licence_policy": OfferedPolicy(365),
        "description": "Reads logs.",
    }
    values |= changes
    values["version"] = parse_version(values["version"])
    (envelope,) = sign_all(keys, payload_type, [manifests.build(ReleaseManifest(**values))])
    return orjson.loads(envelope.dumps())


def manifest_text(data, **changes):
    return orjson.dumps(manifest(data, **changes)).decode()


async def drafted(market, seller, data=None):
    """A listed SKU, a registered key, a draft, and its bundle uploaded."""
    sku = (await seller.post("/v1/skus", NEW_SKU)).json()
    await seller.post("/v1/seller-keys", {"public_key": PUBLIC_KEY})
    body = {"version": "1.2.0", "bundle_name": BUNDLE_NAME}
    draft = (await seller.post(f"/v1/skus/{sku['id']}/releases", body)).json()
    if data is not None:
        market.uploads.put(market.catalogue.releases[draft["id"]].upload_key, data)
    return sku, draft
