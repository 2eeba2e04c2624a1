"""Licences in a real database, as an order's commit leaves them, signed by a fake market's key."""

import secrets
from typing import Any

import psycopg

from domain import licences
from domain.dsse import sign_all
from domain.ids import new_id
from domain.licence_policies import LicencePolicy
from domain.licences import Licence
from tests.fakes.documents import licence as sample
from tests.fakes.ingress import FakeMarket


def ident(prefix: str) -> str:
    return new_id(prefix, 1_764_000_000_000, secrets.token_bytes(10))


def record_licence(
    owner: psycopg.Connection[Any],
    market: FakeMarket,
    *,
    buyer: str = "buyer_ada",
    policy: LicencePolicy | None = None,
    **more: Any,
) -> Licence:
    """Record an order's licence and the market's key; ``owner`` is the database's."""
    record = market.key_record
    owner.execute(
        "INSERT INTO market.signing_keys (key_id, public_key, state, not_before)"
        " VALUES (%s, %s, 'active', %s) ON CONFLICT DO NOTHING",
        [record.key_id, record.public_key, record.not_before],
    )
    one = sample(
        licence_id=ident("lic"),
        order_id=ident("ord"),
        buyer_id=buyer,
        issued_at=market.clock().replace(microsecond=0),
        policy=policy or LicencePolicy(),
        **more,
    )
    (envelope,) = sign_all(market.keys, licences.PAYLOAD_TYPE, [licences.build(one)])
    owner.execute(
        "INSERT INTO market.orders (order_id, buyer_id, status, seq, currency, total_minor)"
        " VALUES (%s, %s, 'delivered', 1, 'USD', 1)",
        [one.order_id, buyer],
    )
    owner.execute(
        "INSERT INTO market.licences (licence_id, order_id, line_no, buyer_id, sku_id, release_id,"
        " quantity, key_id, envelope, issued_at) VALUES (%s, %s, 1, %s, %s, %s, %s, %s, %s, %s)",
        [one.licence_id, one.order_id, buyer, one.sku_id, one.release_id, one.quantity,
         market.keys.key_id, envelope.dumps(), one.issued_at],
    )  # fmt: skip
    return one
