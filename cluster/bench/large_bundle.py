"""Bundles of a given size for ``bench deliver``: one stored file in a tar, published as any seller publishes.

The same size always gives the same bytes, so a second run on the same marketplace finds its release. Refuses
nothing by itself; the publisher's checks run as for any bundle.
"""

import io
import random
import tarfile
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from cluster.bundles import BundleInfo, bundle_of
from cluster.client import MarketplaceClient
from cluster.identities import SellerKey
from cluster.listing import publish_bundle
from domain.licence_policies import OfferedPolicy

VERSION = "1.0.0"
PRICES = {"USD": 1_999}
_BLOCK_BYTES = 2**20
_TAR_BLOCK = 512
_ENTRY = "data.bin"


@dataclass(frozen=True, slots=True)
class Published:
    """A published bundle's SKU, and how long its upload and its publication took; None when it was before."""

    sku_id: str
    upload_s: float | None
    publish_s: float | None


def publish_large(client: MarketplaceClient, key: SellerKey, size: int) -> Published:
    """Publish a bundle of nearly ``size`` bytes.

    Raises:
        ClientError: see ``listing.publish_bundle``.
    """
    name = f"bench-deliver-{size}"
    info = BundleInfo(
        name=name,
        title=f"A bundle of {size} bytes",
        description="Made by a benchmark.",
        version=VERSION,
        entry_point=_ENTRY,
        prices=PRICES,
        platform="any",
        licence_policy=OfferedPolicy(),
    )
    with tempfile.TemporaryFile(prefix="bench-bundle-") as file:
        _write_tar(file, f"{name}-{VERSION}/{_ENTRY}", size)
        bundle = bundle_of(info, f"{name}-{VERSION}.tar", (_ENTRY,), file)
        steps: list[float] = []  # key, upload, publish
        listing = publish_bundle(client, bundle, key, lambda _step: steps.append(time.monotonic()))
        steps.append(time.monotonic())
    if not listing.fresh:
        return Published(listing.sku_id, None, None)
    *_, upload, publish, end = steps
    return Published(listing.sku_id, round(publish - upload, 2), round(end - publish, 2))


def _write_tar(file: IO[bytes], member: str, size: int) -> None:
    # The header, the content and two empty blocks: the file ends where it was asked to, or just before.
    content_bytes = (size // _TAR_BLOCK - 3) * _TAR_BLOCK
    head = tarfile.TarInfo(member)
    head.size = content_bytes
    file.write(head.tobuf(tarfile.USTAR_FORMAT))
    # Bytes that do not compress, so that no layer in between saves work.
    block = random.Random(size).randbytes(_BLOCK_BYTES)  # noqa: S311 - content of a benchmark
    for start in range(0, content_bytes, _BLOCK_BYTES):
        file.write(block[: content_bytes - start])
    file.write(bytes(2 * _TAR_BLOCK))
    file.seek(0, io.SEEK_SET)
