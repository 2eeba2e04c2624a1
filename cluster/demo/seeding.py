"""Fills a running marketplace's catalogue with the three demo bundles.

The bundles are sold by the local stack's seller under a signing key that is made once and kept in
``var/keys/``. Seeding again finds everything published and changes nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.bundles import pack
from cluster.client import MarketplaceClient
from cluster.identities import SellerKey
from cluster.listing import Listing, publish_bundle
from cluster.local.layout import Layout

CATALOGUE = Path(__file__).parent / "catalogue"
BUNDLES = ("logline", "linkboard", "tidycsv")
SELLER_KEY_NAME = "demo-seller-key.pem"


def seller_key(layout: Layout) -> SellerKey:
    """Load the demo seller's key, making it at first."""
    path = layout.keys / SELLER_KEY_NAME
    return SellerKey.load(path) if path.exists() else SellerKey.create(path)


def seed(
    layout: Layout, local: dict[str, Any], on_step: Callable[[str], None] = lambda _step: None
) -> list[Listing]:
    """List and publish the demo bundles; returns one listing each.

    Raises:
        ClientError, DocumentError: a bundle could not be listed.
    """
    key = seller_key(layout)
    with MarketplaceClient(local["base_url"], local["tokens"]["seller"]) as client:
        return [publish_bundle(client, pack(CATALOGUE / name), key, on_step) for name in BUNDLES]
