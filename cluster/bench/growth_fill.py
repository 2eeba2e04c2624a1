"""Fills a scratch database with complete, delivered orders by sets, fast enough for a million.

The rows are those of one real order's turns (``order_life``) with the ids renumbered, in the shapes and
sizes of real ones, with one exception: the texts of old licences and manifests are cut to ``DOCUMENT_CHARS``,
so that a million orders stay within the benchmark's bound on disk. The schema's own triggers and constraints
are on.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cluster.bench.order_life import (
    HEADER_BYTES,
    RECIPIENT,
    document,
    order_id_at,
    place_command,
    whole_life,
)
from domain.orders.booking import capture_postings, fee_postings
from domain.orders.events import KIND_OF, OrderPaid
from storage import migrations
from storage.market.turn_rows import webhook_payload
from storage.sql import load_queries

DOCUMENT_CHARS = 300
DOCUMENTS = 64  # different documents that rows share; their text does not compress
ORDERS_PER_BUYER = 20
BATCH = 50_000  # orders per transaction
ID_TIME = "01ky000000"  # sorts before every id of today, so that new orders go to the end as they do in life
SCHEMAS = (("finance", "storage.finance"), ("market", "storage.market"))
# Two connections fill at once, each its own tables.
LANES = (("events", "inbox"), ("orders", "commands", "licences", "deliveries", "entries"))
FEE_MINOR = 88  # what the Stripe simulator takes of the price, 19.99 USD: 2.9 % and 30
_AT = datetime(2026, 1, 1, tzinfo=UTC)  # only a text in a row
_SQL = load_queries("cluster.bench", "growth.sql")


def create(owner_dsn: str, name: str) -> str:
    """Create the scratch database, replacing one of that name; returns its DSN."""
    drop(owner_dsn, name)
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = make_conninfo(owner_dsn, dbname=name)
    for schema, package in SCHEMAS:
        migrations.apply(dsn, package=package, schema=schema)
    return dsn


def drop(owner_dsn: str, name: str) -> None:
    """Drop a scratch database, with whoever is connected to it."""
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def order_id_of(number: int) -> str:
    """Return the id of order ``number`` (from 1)."""
    return f"ord_{ID_TIME}{number:016d}"


def buyer_id_of(number: int, orders: int) -> str:
    """Return the buyer of order ``number`` among ``orders``."""
    return f"usr_growth_{number % _buyers(orders)}"


def payment_intent_of(number: int) -> str:
    """Return the PaymentIntent that paid order ``number``."""
    return f"pi_{ID_TIME}{number:016d}"


def fill(
    dsn: str,
    orders: int,
    note: Callable[[str], None],
    *,
    at: datetime = _AT,
    filled: Sequence[Sequence[str]] = LANES,
) -> None:
    """Fill an empty database with ``orders`` delivered orders, then vacuum and analyse it.

    ``at`` is when they were placed and paid; ``filled`` are the tables, by lane.
    """
    values = _values(orders, at)
    with ThreadPoolExecutor(len(filled)) as lanes:
        for lane in [lanes.submit(_fill_lane, dsn, names, values, orders) for names in filled]:
            lane.result()
    note(f"  {orders:,} orders are written; vacuum")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def sizes(dsn: str) -> tuple[int, int, int]:
    """Return the database's bytes and its numbers of orders and events."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(_SQL["sizes"].encode()).fetchone()
    assert row is not None, "counts always give a row"
    return int(row[0]), int(row[1]), int(row[2])


def _buyers(orders: int) -> int:
    return max(1, orders // ORDERS_PER_BUYER)


def _fill_lane(dsn: str, names: Sequence[str], values: Mapping[str, Any], orders: int) -> None:
    with psycopg.connect(dsn, autocommit=True, options="-c synchronous_commit=off") as connection:
        for name in names:
            for first in range(1, orders + 1, BATCH):
                bounds = {"first": first, "last": min(first + BATCH - 1, orders)}
                connection.execute(_SQL[name].encode(), {**values, **bounds})


def _values(orders: int, at: datetime) -> dict[str, Any]:
    order_id = order_id_at(0)
    turns = whole_life(place_command(order_id, "usr_growth_0", at))
    order = turns[-1].order
    licence, delivery = turns[-1].licences[0], turns[-1].deliveries[0]
    unique = {
        order_id: f"ord_{ID_TIME}@N@",
        licence.licence_id: f"lic_{ID_TIME}@N@",
        delivery.delivery_id: f"dlv_{ID_TIME}@N@",
        str(order.payment_intent_id): f"pi_{ID_TIME}@N@",
    }
    events = [event for turn in turns for event in turn.events]
    paid = next(turn for turn in turns if any(isinstance(one, OrderPaid) for one in turn.events))
    assert paid.news is not None, "a paid order's turn keeps its webhook"
    postings = capture_postings(order)
    return {
        "order": f"ord_{ID_TIME}",
        "licence": f"lic_{ID_TIME}",
        "delivery": f"dlv_{ID_TIME}",
        "buyers": _buyers(orders),
        "total_minor": order.total_minor,
        "payment_handle": orjson.dumps(turns[1].payment_handle).decode(),
        "seqs": list(range(1, len(events) + 1)),
        "kinds": [KIND_OF[type(event)] for event in events],
        "datas": [_renumbered(orjson.dumps(event).decode(), unique) for event in events],
        "payload": orjson.dumps(webhook_payload(paid.news)).decode(),
        "sku_id": licence.sku_id,
        "release_id": licence.release_id,
        "recipient": RECIPIENT,
        "header": secrets.token_bytes(HEADER_BYTES),
        "documents": DOCUMENTS,
        "envelopes": [document(DOCUMENT_CHARS) for _ in range(DOCUMENTS)],
        "manifests": [document(DOCUMENT_CHARS) for _ in range(DOCUMENTS)],
        "at": at,
        "fee_accounts": [account for account, _ in fee_postings(FEE_MINOR)],
        "fee_amounts": [amount_minor for _, amount_minor in fee_postings(FEE_MINOR)],
        "accounts": [account for account, _ in postings],
        "amounts": [amount_minor for _, amount_minor in postings],
    }


def _renumbered(text: str, unique: Mapping[str, str]) -> str:
    for one, numbered in unique.items():
        text = text.replace(one, numbered)
    return text
