"""Stripe's captured charges with what each gave back and cost, by order: the half of I1 and I2 it knows.

Stripe lists by time, the checker goes by order id: the charges are kept in a SQLite file of their own, made
for one run in a temporary directory, so that memory stays flat however many there are. Nothing secret is
kept: ids, amounts, times. Charges without our ``order_id`` are another application's and are left out.

Charges and not PaymentIntents: an intent shows its last charge only, and a double charge is what is sought.
"""

import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stripe

from domain.errors import DependencyError
from domain.orders.ledger_invariants import Charge
from storage.reconciliation.stripe_moves import StripeMoves

_HELD = ("needs_response", "under_review", "lost")  # disputes that took money and have not given it back
PAGE_CHARGES = 100  # Stripe's maximum
RETRIES_MAX = 2  # of a read; Stripe's rate limit answers 429 now and then


@dataclass(frozen=True, slots=True)
class SpooledCharges:
    """All captured charges as of when their listing began, in a file; may be sent to other processes."""

    path: Path
    as_of: datetime

    def of_range(self, after: str, last: str | None) -> dict[str, list[Charge]]:
        """Return the charges of orders above ``after``, up to and with ``last`` (None: all above)."""
        found: defaultdict[str, list[Charge]] = defaultdict(list)
        with closing(sqlite3.connect(self.path)) as db:
            for order_id, intent_id, amount_minor, currency, captured_at, *more in db.execute(
                "SELECT * FROM charges WHERE order_id > ?1 AND (?2 IS NULL OR order_id <= ?2)", (after, last)
            ):
                captured = datetime.fromtimestamp(captured_at, UTC)
                found[order_id].append(Charge(intent_id, amount_minor, currency, captured, *more))
        return found


@contextmanager
def spooled(charges: Iterable[tuple[str, Charge]], as_of: datetime) -> Iterator[SpooledCharges]:
    """Write (order id, charge) pairs to a temporary file that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="marketplace-check-") as folder:
        path = Path(folder) / "charges.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            # No journal and no flushes: a file that does not outlive the process needs neither.
            db.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                "CREATE TABLE charges (order_id TEXT, payment_intent_id TEXT, amount_minor INTEGER,"
                " currency TEXT, captured_at INTEGER, refunded_minor INTEGER, disputed_minor INTEGER,"
                " fee_minor INTEGER, fee_currency TEXT, dispute_fee_minor INTEGER)"
            )
            db.execute("BEGIN")
            db.executemany(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (_row(*pair) for pair in charges)
            )
            db.execute("COMMIT")
            db.execute("CREATE INDEX by_order ON charges (order_id)")
        yield SpooledCharges(path, as_of)


def captured_charges(api_base: str, secret_key: str) -> Iterator[tuple[str, Charge]]:
    """List every captured charge of an order, newest first, as (order id, charge).

    Raises:
        DependencyError: ``stripe_unreadable``.
    """
    with _client(api_base, secret_key) as client:
        disputed: Counter[str] = Counter()
        fees: Counter[str] = Counter()
        for dispute in _pages(client, "/v1/disputes", {}):
            if dispute["status"] in _HELD:
                disputed[dispute["charge"]] += dispute["amount"]
            for booked in dispute["balance_transactions"]:
                if booked["currency"] == dispute["currency"]:
                    fees[dispute["charge"]] += booked["fee"]
        # Listed after the disputes: a charge that is disputed meanwhile shows as one, and is asked for apart.
        for charge in _pages(client, "/v1/charges", {"expand": ["data.balance_transaction"]}):
            order_id = (charge["metadata"] or {}).get("order_id")
            if order_id and charge["paid"] and charge["captured"]:
                booked = charge["balance_transaction"]
                known = isinstance(booked, dict)
                yield (
                    order_id,
                    Charge(
                        charge["payment_intent"] or charge["id"],
                        charge["amount_captured"],
                        charge["currency"].upper(),
                        datetime.fromtimestamp(charge["created"], UTC),
                        refunded_minor=charge["amount_refunded"],
                        disputed_minor=disputed[charge["id"]],
                        fee_minor=booked["fee"] if known else None,
                        fee_currency=booked["currency"].upper() if known else "",
                        dispute_fee_minor=fees[charge["id"]],
                    ),
                )


def held_balance(api_base: str, secret_key: str) -> dict[str, int]:
    """Return what Stripe holds for us by currency, available or pending.

    Raises:
        DependencyError: ``stripe_unreadable``.
    """
    with StripeMoves(api_base, secret_key) as moves:
        return moves.balance()


@contextmanager
def _client(api_base: str, secret_key: str) -> Iterator[stripe.StripeClient]:
    http = stripe.RequestsClient()
    try:
        yield stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base},
            max_network_retries=RETRIES_MAX,
            http_client=http,
        )
    finally:
        http.close()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


def _pages(client: stripe.StripeClient, path: str, params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    asked = {"limit": PAGE_CHARGES, **params}
    while True:
        try:
            page = client.raw_request("get", path, **asked).data
        except stripe.StripeError as error:
            raise DependencyError(
                "stripe_unreadable",
                f"Stripe's charges could not be read: {error.user_message or type(error).__name__}.",
            ) from error
        yield from page["data"]
        if not page["has_more"]:
            return
        asked["starting_after"] = page["data"][-1]["id"]


def _row(order_id: str, charge: Charge) -> tuple[object, ...]:
    assert charge.captured_at is not None, "Stripe dates every charge"
    return (
        order_id,
        charge.payment_intent_id,
        charge.amount_minor,
        charge.currency,
        int(charge.captured_at.timestamp()),
        charge.refunded_minor,
        charge.disputed_minor,
        charge.fee_minor,
        charge.fee_currency,
        charge.dispute_fee_minor,
    )
