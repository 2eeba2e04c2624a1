"""The demo's purchase, step by step, with its proofs: what ``marketplace demo`` shows.

Uses the same modules as ``marketplace buyer`` and ``marketplace seller``. Everything it keeps lies in
``var/``: the demo buyer's identity and pins in ``var/keys/demo-buyer``, the purchase in ``var/demo``.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import identities, receiving, trust
from cluster.client import ClientError, MarketplaceClient
from cluster.client_documents import Order, OrderEvent
from cluster.demo import proofs
from cluster.demo.checklist import Checklist
from cluster.demo.seeding import BUNDLES, seed
from cluster.local.layout import Layout
from cluster.purchase import FOLLOW_TIMEOUT_S, Wish, confirm_payment, follow_to_end, wait_for_payment
from domain.money import format_money
from storage.age.recipients import identity_text, public_half, recipient_text

SKU = BUNDLES[0]
CURRENCY = "USD"
CARD = "pm_card_visa"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the purchase left: the order's id and the files that the buyer has."""

    order_id: str
    bundle: Path
    licence: Path
    identity: Path


def run(checklist: Checklist, layout: Layout, local: dict[str, Any]) -> Outcome:
    """Seed the catalogue, buy, and prove it; raises at the first step that does not hold.

    Raises:
        ClientError, DocumentError: why a step does not hold.
    """
    with checklist.step("catalogue of signed bundles") as item:
        listings = seed(layout, local)
        fresh = sum(listing.fresh for listing in listings)
        item.detail = f"{', '.join(one.name for one in listings)}; {fresh} published now"
    bundle_sha256 = next(one.bundle_sha256 for one in listings if one.name == SKU)
    with MarketplaceClient(local["base_url"], local["tokens"]["buyer"]) as client:
        identity_path = layout.keys / "demo-buyer" / "identity.txt"
        if not identity_path.exists():
            identities.create_identity(identity_path, datetime.now(UTC))
        identity = identities.load_identity(identity_path)
        order = _buy(checklist, client, local, recipient_text(public_half(identity)))
        received = _receive(checklist, client, layout, order, identity)
        delivery = client.deliveries(order["id"])[0]
        evidence = proofs.Evidence(client.order(order["id"]), delivery, bundle_sha256)
        _prove(checklist, client, layout, local, evidence, received, identity)
    return Outcome(
        order["id"],
        received.encrypted.with_name(received.manifest.file_name),
        received.licence_path,
        identity_path,
    )


def _buy(checklist: Checklist, client: MarketplaceClient, local: dict[str, Any], recipient: str) -> Order:
    with checklist.step("order placed") as item:
        wish = Wish(client.sku(SKU)["id"], 1, CURRENCY, "recipient", recipient)
        order = client.place_order(wish.body(), f"demo-{secrets.token_hex(8)}")
        order = wait_for_payment(client, order)
        item.detail = f"{order['id']}, {format_money(order['total_minor'], order['currency'])}"
    with checklist.step("paid at Stripe (simulator)") as item:
        page = confirm_payment(local["stripe"]["api_base"], order, CARD)
        if page:
            raise ClientError(f"Stripe asks for a page to be visited: {page}", "payment_failed")
        item.detail = f"{order['payment']['payment_intent_id']} with {CARD}"
    with checklist.step("booked, licensed, delivered") as item:
        kinds: list[str] = []

        def on_event(event: OrderEvent) -> None:
            kinds.append(event["kind"].removeprefix("order."))
            item.detail = " → ".join(kinds[-4:])

        return follow_to_end(client, order["id"], on_event, FOLLOW_TIMEOUT_S)


def _receive(
    checklist: Checklist, client: MarketplaceClient, layout: Layout, order: Order, identity: bytes
) -> receiving.Received:
    with checklist.step("fetched and decrypted") as item:
        trusted = trust.pinned(layout.keys / "demo-buyer", client.base_url, client, datetime.now(UTC))
        (received,) = receiving.fetch_order(client, order["id"], trusted, layout.var / "demo" / order["id"])
        plaintext = received.encrypted.with_name(received.manifest.file_name)
        receiving.decrypt_received(received.encrypted, received.manifest, identity, plaintext)
        item.detail = plaintext.name
    return received


def _prove(
    checklist: Checklist,
    client: MarketplaceClient,
    layout: Layout,
    local: dict[str, Any],
    evidence: proofs.Evidence,
    received: receiving.Received,
    identity: bytes,
) -> None:
    with checklist.step("licence checked by openssl") as item:
        item.detail = proofs.licence_by_openssl(evidence, client)
    with checklist.step("delivery opened by pyrage") as item:
        item.detail = proofs.delivery_by_pyrage(evidence, received.encrypted, identity_text(identity))
    with checklist.step("Finance agrees") as item:
        item.detail = proofs.finance_books(evidence, layout)
    with checklist.step("seller's statement") as item:
        item.detail = proofs.seller_statement(evidence, local, layout)
    with checklist.step("webhook received") as item:
        item.detail = proofs.webhook_received(evidence, local["postgres_dsn"])
    with checklist.step("events complete") as item:
        item.detail = proofs.events_complete(evidence, client)
