"""The baseline: the same SQL of one order by pgbench, without Python, HTTP or Ray.

The statements are those of ``storage/market/orders.sql`` and Finance's, with the events, licence and
delivery of a real order of this run as data; only ids are new each time. They run in a scratch database
on the same server, with the real migrations, as prepared statements, one transaction each, and 16 clients.
What the marketplace reads besides (tokens, prices, releases) is left out, so the baseline is a ceiling.
"""

import base64
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb

from cluster.client import ClientError
from cluster.local.postgres import wheel_programs
from domain.ledger import Entry, Posting
from domain.orders.booking import capture_entry_key, capture_postings
from domain.orders.decide import effects_after
from domain.orders.events import decode_event
from domain.orders.state import fold
from storage import migrations
from storage.sql import load_queries

DATABASE = "bench_baseline"
CLIENTS = 16
THREADS = 1
SECONDS = 5
PGBENCH_TIMEOUT_S = 60.0
PLACEHOLDER = "@N@"
EFFECT_LEASE_S = 3  # as the order store writes it; only a number in a row
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


def script(sample: SampleOrder) -> str:
    """Write the pgbench script: one order's life, seven statements."""
    queries = load_queries("storage.market", "orders.sql")
    lines = ["\\set n random(1, 9000000000000000)"]
    order_id = _text(PLACEHOLDER)
    event_id = _text(f"evt_{PLACEHOLDER}")
    groups = _turns(sample)
    placed, *later = groups
    state = {"order_id": order_id, "buyer_id": _text(sample.buyer_id)}
    order = fold(sample.order_id, [decode_event(one["kind"], one["data"]) for one in sample.events])
    assert order is not None, "a sample has events"
    lines.append(
        _bound(
            queries["place_order"],
            {
                **state,
                "turn": _json(_turn(sample, placed)),
                "idempotency_key": order_id,
                "request_digest": "sha256(" + _text(PLACEHOLDER) + "::bytea)",
                "status": _text("screened"),
                "seq": str(placed[-1]["seq"]),
                "currency": _text(order.currency),
                "total_minor": str(order.total_minor),
            },
        )
    )
    for group in later:
        kinds = {one["kind"] for one in group}
        if "order.paid" in kinds:
            lines.append(_webhook(queries["store_webhook"], order_id, event_id, sample))
        if "order.booked" in kinds:
            lines.append(_finance_entry(order.order_id, order))
        lines.append(_commit(queries["commit_turn"], sample, group, order_id, event_id))
    return "\n".join(lines) + "\n"


def _turns(sample: SampleOrder) -> list[list[dict[str, Any]]]:
    """Group events as they were committed: created with screened, licensed with delivered."""
    joined = {"order.screened": "order.created", "order.delivered": "order.licensed"}
    groups: list[list[dict[str, Any]]] = []
    for event in sample.events:
        if groups and joined.get(event["kind"]) == groups[-1][-1]["kind"]:
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups


def _turn(sample: SampleOrder, group: list[dict[str, Any]]) -> dict[str, Any]:
    due: list[dict[str, Any]] = []
    done: list[str] = []
    for event in group:
        effects, steps = effects_after(decode_event(event["kind"], event["data"]))
        due += [{"step": one.step, "delay_s": one.delay_s or EFFECT_LEASE_S} for one in effects]
        done += steps
    fulfilled = any(event["kind"] == "order.delivered" for event in group)
    return {
        "events": [{**one, "event_id": f"{one['event_id']}-{PLACEHOLDER}"} for one in group],
        "due": due,
        "done": done,
        "licences": [{**one, "licence_id": f"lic_{PLACEHOLDER}"} for one in sample.licences]
        if fulfilled
        else [],
        "deliveries": [_delivery(one) for one in sample.deliveries] if fulfilled else [],
    }


def _delivery(row: Mapping[str, Any]) -> dict[str, Any]:
    # to_jsonb shows bytes as hexadecimal; the statement takes base64.
    header = base64.b64encode(bytes.fromhex(row["header"].removeprefix("\\x"))).decode()
    return {**row, "delivery_id": f"dlv_{PLACEHOLDER}", "header": header, "wrapped_identity": None}


def _commit(
    query: str, sample: SampleOrder, group: list[dict[str, Any]], order_id: str, event_id: str
) -> str:
    kinds = {one["kind"] for one in group}
    opened = "order.payment_opened" in kinds and sample.payment_handle is not None
    return _bound(
        query,
        {
            "turn": _json(_turn(sample, group)),
            "seq": str(group[-1]["seq"]),
            "fence": str(group[0]["seq"] - 1),
            "status": _text(group[-1]["kind"].removeprefix("order.")),
            "payment_handle": _json(sample.payment_handle) if opened else "NULL",
            "order_id": order_id,
            "inbox_event_id": event_id if "order.paid" in kinds else "NULL",
        },
    )


def _webhook(query: str, order_id: str, event_id: str, sample: SampleOrder) -> str:
    return _bound(
        query,
        {
            "order_id": order_id,
            "event_id": event_id,
            "kind": _text("payment_intent.succeeded"),
            "payload": _json(sample.inbox_payload),
            "lease_s": str(EFFECT_LEASE_S),
        },
    )


def _finance_entry(order_id: str, order: Any) -> str:
    entry = Entry(
        entry_key=capture_entry_key(order_id),
        currency=order.currency,
        occurred_at=order.paid_at,
        description="Sale",
        postings=tuple(Posting(account, amount) for account, amount in capture_postings(order)),
    )
    row = {
        "k": capture_entry_key(PLACEHOLDER),
        "c": entry.currency,
        "t": entry.occurred_at.isoformat(),
        "d": entry.description,
        "h": entry.content_digest.hex(),
        "n": len(entry.postings),
        "a": [posting.account for posting in entry.postings],
        "m": [posting.amount_minor for posting in entry.postings],
    }
    query = load_queries("storage.finance")["post_entries"]
    return query.replace("%s::text::json", f"{_json([row])}::json") + ";"


def _bound(query: str, values: Mapping[str, str]) -> str:
    return _PARAMETER.sub(lambda found: values[found[1]], query) + ";"


def _quoted(text: str) -> str:
    # A colon would be read as a pgbench variable, so none is written plainly.
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace(":", "\\x3a").replace("\n", "\\n")
    return f"E'{escaped}'"


def _text(text: str) -> str:
    if PLACEHOLDER not in text:
        return f"{_quoted(text)}::text"
    return f"replace({_quoted(text)}, '{PLACEHOLDER}', (:n)::text)"


def _json(document: Any) -> str:
    return f"({_text(orjson.dumps(document).decode())})"


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
            _copy_releases(owner_dsn, scratch, sample)
            figures = _pgbench(scratch, script(sample), seconds)
            return figures | {"orders": _count_whole_orders(scratch)}
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


def _copy_releases(owner_dsn: str, scratch: str, sample: SampleOrder) -> None:
    release_ids = [row["release_id"] for row in sample.deliveries]
    with psycopg.connect(owner_dsn) as source, psycopg.connect(scratch) as target:
        for table, column, ids in (
            ("skus", "sku_id", [row["sku_id"] for row in sample.licences]),
            ("releases", "release_id", release_ids),
        ):
            query = sql.SQL("SELECT to_jsonb(t) FROM market.{} t WHERE {} = ANY(%s)").format(
                sql.Identifier(table), sql.Identifier(column)
            )
            for (row,) in source.execute(query, [ids]).fetchall():
                target.execute(
                    sql.SQL(
                        "INSERT INTO market.{0} SELECT * FROM jsonb_populate_record(NULL::market.{0}, %s)"
                    ).format(sql.Identifier(table)),
                    [Jsonb(row)],
                )


def _pgbench(scratch: str, text: str, seconds: int) -> dict[str, Any]:
    where = conninfo_to_dict(scratch)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment["PGPASSWORD"] = str(where.get("password", ""))  # never in argv
    with tempfile.TemporaryDirectory(prefix="ilv-bench-") as folder:
        path = Path(folder) / "order.sql"
        path.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [
                *(str(wheel_programs() / "bin" / "pgbench"), "-n", "-M", "prepared", "-f", str(path)),
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
