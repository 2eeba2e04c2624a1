"""Fulfilment: from a booked order to its licences and delivery manifests. Pure; sealing comes before.

``ReleaseMaterial`` is what publication left behind for a release: digests, sizes, and the file key of the
one encrypted payload, wrapped. The contexts bind wrapped keys to the ids that they belong to, so that a
blob copied to another row cannot be opened there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain import delivery_manifests, licences
from domain.delivery_manifests import DeliveryManifest, FileDigest
from domain.licence_policies import OfferedPolicy
from domain.orders.decide import delivery_id, licence_id
from domain.orders.lines import Line
from domain.orders.state import Order

ISSUER = "illuvrse-marketplace"


@dataclass(frozen=True, slots=True)
class ReleaseMaterial:
    """A published release, as needed to deliver it. Sizes in bytes, digests lower-case hexadecimal."""

    release_id: str
    bundle_name: str
    bundle_sha256: str
    bundle_bytes: int
    payload_sha256: str
    payload_bytes: int
    wrapped_file_key: bytes = field(repr=False)
    licence_activation: str | None = None  # how its licences are activated; see domain.licence_policies


def file_key_context(release_id: str) -> Mapping[str, str]:
    """Encryption context under which a release's file key is wrapped."""
    return {"purpose": "release-file-key", "release_id": release_id}


def identity_context(of_delivery_id: str) -> Mapping[str, str]:
    """Encryption context under which a released-key delivery's identity is wrapped."""
    return {"purpose": "delivery-identity", "delivery_id": of_delivery_id}


def licence_payload(
    order: Order, line: Line, activation: str | None = None, at: datetime | None = None
) -> bytes:
    """Return the licence of one line, ready to sign: the same bytes at every repeat.

    ``activation`` is the release's, which never changes; ``at`` is the time of issue, if it is a later one
    than the order says (``issued_at``).

    Raises:
        DocumentError: see ``licences.build``.
    """
    return licences.build(
        licences.Licence(
            licence_id=licence_id(order.order_id, line.line_no),
            order_id=order.order_id,
            line_no=line.line_no,
            sku_id=line.sku_id,
            sku_name=line.sku_name,
            release_id=line.release_id,
            version=line.version,
            bundle_name=line.bundle_name,
            bundle_sha256=line.bundle_sha256,
            buyer_id=order.buyer_id,
            seller_id=line.seller_id,
            quantity=line.quantity,
            policy=OfferedPolicy(line.licence_days, activation).granted(at or issued_at(order)),
            issued_at=at or issued_at(order),
            issuer=ISSUER,
        )
    )


def manifest_payload(
    order: Order,
    line: Line,
    material: ReleaseMaterial,
    recipient: str,
    header: bytes,
    at: datetime | None = None,
) -> bytes:
    """Return the delivery manifest of one line, ready to sign; ``at`` as in ``licence_payload``.

    Raises:
        DocumentError: see ``delivery_manifests.build``.
    """
    return delivery_manifests.build(
        DeliveryManifest(
            delivery_id=delivery_id(order.order_id, line.line_no),
            order_id=order.order_id,
            line_no=line.line_no,
            licence_id=licence_id(order.order_id, line.line_no),
            release_id=line.release_id,
            mode=order.delivery.mode,
            recipient=recipient,
            header=header,
            payload=FileDigest(material.payload_bytes, material.payload_sha256),
            plaintext=FileDigest(material.bundle_bytes, material.bundle_sha256),
            file_name=material.bundle_name,
            created_at=at or issued_at(order),
        )
    )


def issued_at(order: Order, not_before: datetime | None = None) -> datetime:
    """Time of issue: when Finance acknowledged, in whole seconds, so that repeats agree.

    ``not_before`` is since when the signing key is in use. Orders wait while nobody signs: what a key signs
    that came meanwhile is dated by the key's first second, or every verifier would say that the key was not
    in use yet.
    """
    assert order.booked_at is not None, "I4: nothing is issued before Finance acknowledged"
    booked_at = order.booked_at.replace(microsecond=0)
    return booked_at if not_before is None else max(booked_at, first_second(not_before))


def first_second(not_before: datetime) -> datetime:
    """Return the first whole second that is not before this time."""
    whole = not_before.replace(microsecond=0)
    return whole if whole == not_before else whole + timedelta(seconds=1)
