"""What Stripe and Finance tell of a window, in a SQLite file of one run, to be read by order.

Stripe lists by time and Finance by date, and a comparison goes by order: the file is the sort. So memory
stays flat however many there are. The file lies in a temporary directory, is readable by its owner alone, and
holds ids, amounts, words and times.
"""

import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from domain.reconciliation.facts import Booked, StripeObject

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY;
CREATE TABLE objects (object_id TEXT PRIMARY KEY, order_id TEXT, charge_id TEXT, kind TEXT,
    payment_intent_id TEXT, amount_minor INTEGER, currency TEXT, status TEXT, at REAL, fee_minor INTEGER,
    fee_currency TEXT, returned_minor INTEGER, refund_id TEXT, reason TEXT, fees TEXT) WITHOUT ROWID;
CREATE TABLE entries (order_id TEXT, entry_key TEXT, currency TEXT, postings TEXT, at REAL, undone INTEGER);
CREATE TABLE touched (order_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# The charge's transaction tells its fee; a later one of the same object (a refund's failure) adds nothing.
# A dispute comes with all its fees each time.
_ADD_OBJECT = """
INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (object_id) DO UPDATE
SET at = min(at, excluded.at), fee_minor = max(fee_minor, excluded.fee_minor)
"""
_OBJECT_COLUMNS = (
    "object_id, kind, payment_intent_id, amount_minor, currency, status, at, fee_minor, fee_currency, "
    "returned_minor, refund_id, reason, fees"
)


class Spool:
    """See the module. Made by ``spool``."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        db.executescript(_TABLES)
        db.execute("BEGIN")

    def add_object(self, order_id: str, charge_id: str, one: StripeObject) -> None:
        """Keep an object of Stripe's; ``order_id`` empty: not known yet, or none of ours."""
        self._db.execute(
            _ADD_OBJECT,
            (
                *(one.object_id, order_id, charge_id, one.kind, one.payment_intent_id, one.amount_minor),
                *(one.currency, one.status, one.at.timestamp(), one.fee_minor, one.fee_currency),
                *(one.returned_minor, one.refund_id, one.reason, orjson.dumps(one.fees).decode()),
            ),
        )

    def add_entry(self, order_id: str, entry: Booked) -> None:
        """Keep an entry of Finance's about an order."""
        postings = orjson.dumps(entry.postings).decode()
        self._db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)",
            (
                *(order_id, entry.entry_key, entry.currency, postings),
                *(entry.occurred_at.timestamp(), entry.undone),
            ),
        )

    def touch(self, order_ids: Iterable[str]) -> None:
        """Have these orders looked at too."""
        self._db.executemany(
            "INSERT OR IGNORE INTO touched VALUES (?)", ((order_id,) for order_id in order_ids)
        )

    def name_by_charges(self) -> None:
        """Give refunds and disputes the order of their charge, where the spool has it."""
        self._db.execute(
            "UPDATE objects SET order_id ="
            " (SELECT c.order_id FROM objects c WHERE c.object_id = objects.charge_id)"
            " WHERE order_id = '' AND EXISTS"
            " (SELECT 1 FROM objects c WHERE c.object_id = objects.charge_id AND c.order_id <> '')"
        )

    def unnamed(self) -> list[tuple[str, str]]:
        """Return (charge, PaymentIntent) of refunds and disputes whose order is not known, once each."""
        return self._db.execute(
            "SELECT DISTINCT charge_id, payment_intent_id FROM objects"
            " WHERE order_id = '' AND kind <> 'charge'"
        ).fetchall()

    def name_by_payment(self, order_of: Mapping[str, str]) -> None:
        """Give what has no order the order that its PaymentIntent paid."""
        self._db.executemany(
            "UPDATE objects SET order_id = ?2 WHERE payment_intent_id = ?1 AND order_id = ''",
            order_of.items(),
        )

    def seal(self) -> None:
        """Make ready for reading: nothing is added after this."""
        # executescript commits what was added.
        self._db.executescript(
            "INSERT OR IGNORE INTO touched SELECT order_id FROM objects WHERE order_id <> '';"
            "INSERT OR IGNORE INTO touched SELECT order_id FROM entries;"
            "CREATE INDEX objects_by_order ON objects (order_id);"
            "CREATE INDEX entries_by_order ON entries (order_id);"
        )

    def foreign(self) -> tuple[int, dict[str, int]]:
        """Return how many charges name no order of ours, and what they captured by currency."""
        rows = self._db.execute(
            "SELECT currency, count(*), sum(amount_minor) FROM objects"
            " WHERE order_id = '' AND kind = 'charge' GROUP BY currency"
        ).fetchall()
        return sum(count for _, count, _ in rows), {currency: total for currency, _, total in rows}

    def order_ids(self, size: int) -> Iterator[list[str]]:
        """Yield all orders that were touched, in order, by ``size``; for a thread of its own."""
        after = ""
        with closing(sqlite3.connect(self._path)) as db:
            while rows := db.execute(
                "SELECT order_id FROM touched WHERE order_id > ? ORDER BY order_id LIMIT ?", (after, size)
            ).fetchall():
                yield [row[0] for row in rows]
                after = rows[-1][0]

    def objects_of(self, order_ids: Sequence[str]) -> Mapping[str, list[StripeObject]]:
        """Return Stripe's objects of a page of orders, which is in order."""
        found: defaultdict[str, list[StripeObject]] = defaultdict(list)
        # Between first and last lie no other touched orders, so a range is the page.
        for order_id, object_id, kind, payment, amount, currency, status, at, *rest, fees in self._db.execute(
            f"SELECT order_id, {_OBJECT_COLUMNS} FROM objects WHERE order_id BETWEEN ? AND ?",  # noqa: S608 - constants
            (order_ids[0], order_ids[-1]),
        ):
            told = tuple((transaction_id, minor) for transaction_id, minor in orjson.loads(fees))
            first = (object_id, kind, payment, amount, currency, status, datetime.fromtimestamp(at, UTC))
            found[order_id].append(replace(StripeObject(*first, *rest), fees=told))
        return found

    def entries_of(self, order_ids: Sequence[str]) -> Mapping[str, list[Booked]]:
        """Return Finance's entries of a page of orders, which is in order."""
        found: defaultdict[str, list[Booked]] = defaultdict(list)
        for order_id, entry_key, currency, postings, at, undone in self._db.execute(
            "SELECT * FROM entries WHERE order_id BETWEEN ? AND ?", (order_ids[0], order_ids[-1])
        ):
            legs = [(account, amount) for account, amount in orjson.loads(postings)]
            found[order_id].append(
                Booked(entry_key, currency, legs, datetime.fromtimestamp(at, UTC), bool(undone))
            )
        return found


@contextmanager
def spool() -> Iterator[Spool]:
    """Make an empty spool that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="marketplace-reconcile-") as folder:
        path = Path(folder) / "window.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            yield Spool(db, path)
