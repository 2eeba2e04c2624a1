"""Fills the Stripe simulator's database with the captured payments of many orders, fast.

One payment is made by the simulator's own operations; its charge and balance transaction are the pattern,
and only ids, times and the order's id differ. PaymentIntents are left out: nothing here reads them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from cluster.bench.growth_fill import order_id_of, payment_intent_of
from cluster.bench.order_life import PRICE_MINOR
from cluster.local.stripe.forms import parse_pairs, to_tree
from cluster.local.stripe.kinds import BALANCE_TRANSACTION, CHARGE
from cluster.local.stripe.parameters import read
from cluster.local.stripe.rows import UPSERT
from cluster.local.stripe.settings import Settings
from cluster.local.stripe.simulator import DATABASE, Simulator
from cluster.local.stripe.turn import TICKS_PER_MS, Stored

ORDER_ID = f"ord_{'0' * 26}"
SPREAD_MS = 3_600_000
_PAYMENT = (
    f"amount={PRICE_MINOR}&currency=usd&confirm=true&payment_method=pm_card_visa"
    f"&payment_method_types[]=card&metadata[order_id]={ORDER_ID}"
)
_Row = tuple[str, str | None, str | None, int, int | None, bytes]


def fill_stripe(data_dir: Path, orders: int, at: datetime) -> None:
    """Write a charge and its balance transaction for each order, captured from ``at`` on, over an hour."""
    at_ms = int(at.timestamp() * 1_000)
    simulator = Simulator(_settings(data_dir))
    try:
        charge, booked, intent = _pattern(simulator, at_ms)
    finally:
        simulator.store.close()
    with closing(sqlite3.connect(data_dir / DATABASE, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.executemany(UPSERT, _rows(charge, booked, intent, orders, at_ms))
        db.execute("COMMIT")


def _settings(data_dir: Path) -> Settings:
    return Settings(
        host="127.0.0.1",
        port=1,
        data_dir=data_dir,
        public_url="http://127.0.0.1:1",
        secret_key="sk_test_only_fills_a_file",  # noqa: S106 - nobody can use it anywhere
        publishable_key="pk_test_only_fills_a_file",
        webhook_secret="whsec_only_fills_a_file",  # noqa: S106 - the same
        webhook_url=None,
        webhook_events=("*",),
    )


def _pattern(simulator: Simulator, at_ms: int) -> tuple[Stored, Stored, str]:
    operation, _ = simulator.operations.find("POST", "/v1/payment_intents")
    values = read(to_tree(parse_pairs(_PAYMENT.encode())), operation.specification, operation.required)
    turn = simulator.turn(at_ms, None, None)
    operation.run(turn, "", values)
    by_kind = {stored.kind: stored for stored in turn.changed.values()}
    charge, booked = by_kind[CHARGE], by_kind[BALANCE_TRANSACTION]
    assert charge.parent is not None, "a charge belongs to its intent"
    return charge, booked, charge.parent


def _rows(charge: Stored, booked: Stored, intent: str, orders: int, at_ms: int) -> Iterator[_Row]:
    for number in range(1, orders + 1):
        # Ids hold their time.
        made_ms = at_ms + number * SPREAD_MS // orders
        tail = f"{made_ms * TICKS_PER_MS + number % TICKS_PER_MS:014x}{number:010x}"
        own_charge, own_booked, own_intent = f"ch_{tail}", f"txn_{tail}", payment_intent_of(number)
        renamed = {
            charge.object_id.encode(): own_charge.encode(),
            booked.object_id.encode(): own_booked.encode(),
            intent.encode(): own_intent.encode(),
            ORDER_ID.encode(): order_id_of(number).encode(),
            b'"created":%d' % charge.created_at: b'"created":%d' % (made_ms // 1_000),
        }
        for stored, object_id, parent in (
            (charge, own_charge, own_intent),
            (booked, own_booked, None),
        ):
            body = stored.body
            for old, new in renamed.items():
                body = body.replace(old, new)
            yield object_id, parent, stored.topic, made_ms // 1_000, None, body
