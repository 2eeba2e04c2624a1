"""The baseline: the same SQL of one order by pgbench, without Python, HTTP or Ray.

The statements are those of ``storage/market/orders.sql`` and Finance's, one per turn, with the events,
licence and delivery of a real order of this run as data; only ids are new each time. They run in a scratch
database on the same server, with the real migrations, as prepared statements, one transaction each, and 16
clients. What the marketplace reads besides (tokens, prices, releases) is left out. The marketplace commits
turns of several orders together and the baseline does not, so it is a reference and no strict ceiling.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cluster.bench import growth_fill
from cluster.bench.order_life import turn_of, turns_committed
from cluster.client import ClientError
from cluster.local.postgres import wheel_programs
from domain.ids import derive_id
from domain.ledger import Entry, Posting
from domain.orders.booking import capture_entry_key, capture_postings
from domain.orders.events import OrderBooked, OrderDelivered, OrderPaid, PaymentOpened, decode_event
from domain.orders.ports import Idempotency, IssuedLicence, PaymentNews, SealedDelivery, Turn
from domain.orders.state import Order
from storage import migrations
from storage.market.turn_rows import placing_rows, turn_rows
from storage.sql import load_queries

DATABASE = "bench_baseline"
CLIENTS = 16
THREADS = 1
SECONDS = 5
ORDERS_BEFORE = 5_000  # that lie in the scratch database: a shop that is open, not an empty one
PGBENCH_TIMEOUT_S = 60.0
PLACEHOLDER = "@N@"
ID_TIME = "01m86ptp"  # the beginning of every id; the rest counts
ID_BASE = 1_000_000_000_000_000  # sixteen digits: an id of this script is as long as a real one
# As the marketplace's own connections have it (storage.market.pool).
SESSION_OPTIONS = "-c plan_cache_mode=force_generic_plan"
_PARAMETER = re.compile(r"%\((\w+)\)s")
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_LATENCY = re.compile(r"^latency average = ([0-9.]+) ms", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """A delivered order as it lies in the database; rows as JSON values."""

    order_id: str
    buyer_id: str
    events: list[dict[str, Any]]
    licences: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]
    payment_handle: dict[str, Any] | None
    inbox_payload: dict[str, Any]


def sample_order(dsn: str, order_id: str) -> SampleOrder:
    """Read a delivered order of the run.

    Raises:
        ClientError: ``order_not_delivered``.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        order = connection.execute(
            "SELECT buyer_id, payment_handle FROM market.orders WHERE order_id = %s AND status = 'delivered'",
            [order_id],
        ).fetchone()
        inbox = connection.execute(
            "SELECT payload FROM market.inbox WHERE order_id = %s LIMIT 1", [order_id]
        ).fetchone()
        if order is None or inbox is None:
            raise ClientError(f"{order_id} is not delivered, so it is no sample.", "order_not_delivered")
        events = connection.execute(
            "SELECT seq, event_id, kind, data FROM market.order_events WHERE order_id = %s ORDER BY seq",
            [order_id],
        ).fetchall()
        licences = _rows(connection, "licences", order_id)
        deliveries = _rows(connection, "deliveries", order_id)
    return SampleOrder(
        order_id,
        order[0],
        [dict(zip(("seq", "event_id", "kind", "data"), row, strict=True)) for row in events],
        licences,
        deliveries,
        order[1],
        inbox[0],
    )


def _rows(connection: psycopg.Connection[Any], table: str, order_id: str) -> list[dict[str, Any]]:
    query = sql.SQL("SELECT to_jsonb(t) FROM market.{} t WHERE order_id = %s").format(sql.Identifier(table))
    return [row[0] for row in connection.execute(query, [order_id]).fetchall()]


def turns(sample: SampleOrder) -> list[Turn]:
    """Return the turns that committed the sample: the same rows as the order's host writes."""
    events = [decode_event(one["kind"], one["data"]) for one in sample.events]
    made, order = [], None
    for group in turns_committed(events):
        paid = next((event for event in group if isinstance(event, OrderPaid)), None)
        fulfilled = any(isinstance(event, OrderDelivered) for event in group)
        turn = turn_of(
            sample.order_id,
            order,
            group,
            payment_handle=sample.payment_handle
            if any(isinstance(event, PaymentOpened) for event in group)
            else None,
            news=_news(sample, paid) if paid else None,
            licences=[_licence(row) for row in sample.licences] if fulfilled else (),
            deliveries=[_delivery(row) for row in sample.deliveries] if fulfilled else (),
        )
        made.append(turn)
        order = turn.order
    return made


def script(sample: SampleOrder) -> str:
    """Write the pgbench script: one order's life, five statements."""
    queries = load_queries("storage.market", "orders.sql")
    placed, *later = turns(sample)
    unique = _unique_texts(sample)
    # Ids grow with time, as real ones do: every client counts by itself, close to the others.
    lines = ["\\set n :n + 1", f"\\set id {ID_BASE} + :n * {CLIENTS} + :client_id"]
    key = Idempotency(sample.order_id, bytes(32))
    lines.append(_bound(queries["place_orders"], placing_rows([(placed, key)]), unique))
    for turn in later:
        if any(isinstance(event, OrderBooked) for event in turn.events):
            lines.append(_finance_entry(turn.order))
        lines.append(_bound(queries["commit_turns"], turn_rows([turn]), unique))
    return "\n".join(lines) + "\n"


def _news(sample: SampleOrder, paid: OrderPaid) -> PaymentNews:
    told = sample.inbox_payload
    return PaymentNews(
        paid.stripe_event_id,
        *(sample.order_id, "payment_intent.succeeded", paid.payment_intent_id, paid.amount_minor),
        *(paid.currency, told.get("code", ""), told.get("message", "")),
    )


def _licence(row: Mapping[str, Any]) -> IssuedLicence:
    return IssuedLicence(
        *(row["licence_id"], row["line_no"], row["sku_id"], row["release_id"], row["quantity"]),
        *(row["key_id"], row["envelope"], datetime.fromisoformat(row["issued_at"])),
    )


def _delivery(row: Mapping[str, Any]) -> SealedDelivery:
    # to_jsonb shows bytes as hexadecimal.
    header = bytes.fromhex(row["header"].removeprefix("\\x"))
    return SealedDelivery(
        *(row["delivery_id"], row["line_no"], row["release_id"], row["mode"], row["recipient"]),
        *(header, row["manifest"], None, None),
    )


def _unique_texts(sample: SampleOrder) -> dict[str, str]:
    """Map each id that must differ between orders to its text with the placeholder, of the same length."""
    unique = {}
    for event in sample.events:
        unique[derive_id("evt", sample.order_id, str(event["seq"]))] = (
            f"evt_{ID_TIME}{event['seq']:02d}{PLACEHOLDER}"
        )
        if event["kind"] == "order.paid":
            unique[event["data"]["stripe_event_id"]] = f"evt_stripe{PLACEHOLDER}"
    for prefix, rows in (("licence_id", sample.licences), ("delivery_id", sample.deliveries)):
        for row in rows:
            kind = row[prefix].partition("_")[0]
            unique[row[prefix]] = f"{kind}_{ID_TIME}{row['line_no']:02d}{PLACEHOLDER}"
    unique[sample.order_id] = f"ord_{ID_TIME}00{PLACEHOLDER}"
    return unique


def _finance_entry(order: Order) -> str:
    assert order.paid_at is not None, "a booked order was paid"
    key = f"ord_{ID_TIME}00{PLACEHOLDER}"
    entry = Entry(
        entry_key=capture_entry_key(order.order_id),
        currency=order.currency,
        occurred_at=order.paid_at,
        description="Sale",
        postings=tuple(Posting(account, amount) for account, amount in capture_postings(order)),
    )
    row = {
        "k": capture_entry_key(key),
        "c": entry.currency,
        "t": entry.occurred_at.isoformat(),
        "d": entry.description,
        "h": entry.content_digest.hex(),
        "n": len(entry.postings),
        "a": [posting.account for posting in entry.postings],
        "m": [posting.amount_minor for posting in entry.postings],
    }
    query = load_queries("storage.finance")["post_entries"]
    return query.replace("%s::text::json", f"{_text(orjson.dumps([row]).decode())}::json") + ";"


def _bound(query: str, values: Mapping[str, str], unique: Mapping[str, str]) -> str:
    def bind(found: re.Match[str]) -> str:
        text = values[found[1]]
        for one, with_placeholder in unique.items():
            text = text.replace(one, with_placeholder)
        return _text(text)

    return _PARAMETER.sub(bind, query) + ";"


def _quoted(text: str) -> str:
    # A colon would be read as a pgbench variable, so none is written plainly.
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a").replace("\n", "\\n")
    return f"E'{escaped}'"


def _text(text: str) -> str:
    if PLACEHOLDER not in text:
        return f"{_quoted(text)}::text"
    return f"replace({_quoted(text)}, '{PLACEHOLDER}', (:id)::text)"


def run(owner_dsn: str, sample: SampleOrder, seconds: int = SECONDS) -> dict[str, Any]:
    """Run the baseline; returns ``per_s`` (orders), ``latency_avg_ms`` and how it was run.

    Raises:
        ClientError: ``baseline_failed`` with pgbench's own words.
    """
    scratch = make_conninfo(owner_dsn, dbname=DATABASE)
    name = sql.Identifier(DATABASE)
    with psycopg.connect(owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            for schema, package in (("finance", "storage.finance"), ("market", "storage.market")):
                migrations.apply(scratch, package=package, schema=schema)
            # Plans made on empty tables read whole tables, and sessions keep them.
            growth_fill.fill(scratch, ORDERS_BEFORE, lambda _note: None)
            figures = _pgbench(scratch, script(sample), seconds)
            return figures | {"orders": _count_whole_orders(scratch) - ORDERS_BEFORE}
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def _count_whole_orders(scratch: str) -> int:
    """Count the orders that came through; a statement that matched nothing would flatter the figure."""
    with psycopg.connect(scratch) as connection:
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE status = 'delivered'),"
            " (SELECT count(*) FROM market.licences), (SELECT count(*) FROM market.deliveries),"
            " (SELECT count(*) FROM market.inbox WHERE outcome = 'applied'),"
            " (SELECT count(*) FROM finance.entries) FROM market.orders"
        ).fetchone()
    assert row is not None, "counts always give a row"
    counts = {int(value) for value in row}
    if len(counts) != 1 or 0 in counts:
        raise ClientError(f"The baseline's orders did not come through whole: {row}.", "baseline_failed")
    return counts.pop()


def _pgbench(scratch: str, text: str, seconds: int) -> dict[str, Any]:
    where = conninfo_to_dict(scratch)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment["PGPASSWORD"] = str(where.get("password", ""))  # never in argv
    environment["PGOPTIONS"] = SESSION_OPTIONS
    with tempfile.TemporaryDirectory(prefix="ilv-bench-") as folder:
        path = Path(folder) / "order.sql"
        path.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [
                *(
                    str(wheel_programs() / "bin" / "pgbench"),
                    "-n",
                    "-M",
                    "prepared",
                    "-f",
                    str(path),
                    "-D",
                    "n=0",
                ),
                *("-c", str(CLIENTS), "-j", str(THREADS), "-T", str(seconds)),
                *("-h", str(where["host"]), "-p", str(where["port"]), "-U", str(where["user"])),
                DATABASE,
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PGBENCH_TIMEOUT_S,
            check=False,
        )
    tps, latency = _TPS.search(done.stdout), _LATENCY.search(done.stdout)
    if done.returncode != 0 or tps is None:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ClientError(
            f"The baseline did not run: {words[-1] if words else 'pgbench said nothing'}", "baseline_failed"
        )
    return {
        "what": "the same SQL by pgbench",
        "per_s": round(float(tps[1]), 1),
        "latency_avg_ms": round(float(latency[1]), 2) if latency else None,
        "clients": CLIENTS,
        "seconds": seconds,
        "statements": text.count(";\n"),
    }
