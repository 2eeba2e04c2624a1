"""Signed documents for tests: valid by default, each part replaceable; and where others' vectors lie."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from domain.delivery_manifests import DeliveryManifest, FileDigest
from domain.licence_policies import LicencePolicy, OfferedPolicy
from domain.licences import Licence
from domain.manifests import ReleaseManifest
from domain.semver import parse_version

ISSUED_AT = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
VECTORS = Path(os.environ.get("MARKETPLACE_VECTORS") or Path(__file__).parents[3] / "shared" / "vectors")
VECTORS_ABSENT = f"no test vectors at {VECTORS} (set MARKETPLACE_VECTORS)"

_LICENCE = Licence(
    licence_id="lic_01jz3k5v8m2q9x7c4b6n0t1rwf",
    order_id="ord_01jz3k5v8m2q9x7c4b6n0t1rwf",
    line_no=1,
    sku_id="sku_01jz3k5v8m2q9x7c4b6n0t1rwf",
    sku_name="logline",
    release_id="rel_01jz3k5v8m2q9x7c4b6n0t1rwf",
    version="1.2.0",
    bundle_name="logline-1.2.0.tar.gz",
    bundle_sha256="ab" * 32,
    buyer_id="buyer_ada",
    seller_id="seller_1",
    quantity=3,
    policy=LicencePolicy(),
    issued_at=ISSUED_AT,
    issuer="Illuvrse Marketplace",
)
_RELEASE = ReleaseManifest(
    bundle_name="logline-1.2.0.tar.gz",
    bundle_sha256="ab" * 32,
    size=123_456,
    sku="logline",
    version=parse_version("1.2.0"),
    entry_point="bin/logline",
    platform="any",
    licence_policy=OfferedPolicy(),
    description="Reads logs.\nWrites summaries — quickly.",
)
_DELIVERY = DeliveryManifest(
    delivery_id="dlv_01jz3k5v8m2q9x7c4b6n0t1rwf",
    order_id="ord_01jz3k5v8m2q9x7c4b6n0t1rwf",
    line_no=1,
    licence_id="lic_01jz3k5v8m2q9x7c4b6n0t1rwf",
    release_id="rel_01jz3k5v8m2q9x7c4b6n0t1rwf",
    mode="recipient",
    recipient="age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kudz9qsnq8rqz5n",
    header=b"h" * 168,
    payload=FileDigest(123_488, "cd" * 32),
    plaintext=FileDigest(123_456, "ab" * 32),
    file_name="logline-1.2.0.tar.gz",
    created_at=ISSUED_AT,
)


def licence(**changes: object) -> Licence:
    return replace(_LICENCE, **changes)  # type: ignore[arg-type]  # tests also pass wrong values


def release_manifest(**changes: object) -> ReleaseManifest:
    return replace(_RELEASE, **changes)  # type: ignore[arg-type]  # same


def delivery_manifest(**changes: object) -> DeliveryManifest:
    return replace(_DELIVERY, **changes)  # type: ignore[arg-type]  # same
