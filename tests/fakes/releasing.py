"""Releases and publications of tests: one SKU, numbered releases, all in the store's own form."""

import hashlib
from datetime import timedelta

from domain.ids import new_id
from storage.market.catalogue import Publication, Release, Sku
from storage.market.commands import Write
from storage.market.publications import Attempt
from tests.fakes.carts import NOW


def ident(prefix, number):
    return new_id(prefix, int(NOW.timestamp() * 1000), number.to_bytes(10))


SKU_ID = ident("sku", 1)
KEY_ID = "key_releasing"
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


async def register_key(catalogue):
    await catalogue.register_seller_key(write("releasing-key"), KEY_ID, b"r" * 32, {})


def publication(release_id, number, payload_key):
    return Publication(
        release_id, "{}", "{}", "minisig", "ab" * 32, 100, None, payload_key, "v1", "cd" * 32, 132,
        NOW + timedelta(minutes=number), b"wrapped",
    )  # fmt: skip


async def publish(catalogue, publications, number, version, channel):
    await register_key(catalogue)
    release_id = await draft(catalogue, number, version, channel)
    attempt = Attempt(f"payload-{number}", b"s" * 32, "v1")
    assert await publications.begin(release_id, attempt, 60.0) == attempt
    wanted = publication(release_id, number, attempt.payload_key)
    assert await publications.publish(write(f"publish-{number}"), wanted, KEY_ID)
    return release_id
