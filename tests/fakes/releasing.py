"""Releases and publications of tests: one SKU, numbered releases, all in the store's own form."""

import hashlib
from datetime import timedelta

from domain.ids import new_id
from storage.market.catalogue import Publication, Release, Sku
from storage.market.commands import Write
from tests.fakes.carts import NOW


def ident(prefix, number):
    return new_id(prefix, int(NOW.timestamp() * 1000), number.to_bytes(10))


SKU_ID = ident("sku", 1)
SKU = Sku(SKU_ID, "logline", "Title", "Text", "seller_1", NOW, {"USD": 1999})


def write(key="k", request=b"request"):
    return Write("seller_1", key, hashlib.sha256(request).digest())


async def draft(catalogue, number, version, channel):
    release_id = ident("rel", number)
    release = Release(
        release_id, SKU_ID, "logline", "seller_1", version, "draft", f"logline-{version}.tar.gz",
        f"key-{number}", channel=channel,
    )  # fmt: skip
    await catalogue.draft_release(write(f"draft-{number}"), release, NOW, {})
    return release_id


async def publish(catalogue, number, version, channel):
    release_id = await draft(catalogue, number, version, channel)
    publication = Publication(
        release_id, "{}", "{}", "minisig", "ab" * 32, 100, None, f"payload-{number}", "v1", "cd" * 32, 132,
        NOW + timedelta(minutes=number), b"wrapped",
    )  # fmt: skip
    assert await catalogue.publish(write(f"publish-{number}"), publication)
    return release_id
