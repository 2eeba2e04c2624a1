"""A payee's statement as JSON and as CSV (RFC 4180).

In both, opening balance plus the movements is the closing balance. Lines are in the CSV only: JSON has their
sums. What the period's batch says of the payee appears once the batch is approved.
"""

import csv
import io
from datetime import datetime
from typing import Any

from actors.payouts.desk import PayeeStatement
from domain.payouts.batch import BatchStatus
from domain.payouts.cut import Division
from domain.payouts.statements import MovementKind
from serve_app.schemas.base import Document, rfc3339
from serve_app.schemas.payouts import CarriedReason
from serve_app.spreadsheets import harmless

COLUMNS = ("occurred_at", "kind", "subject", "entry_key", "currency", "amount_minor", "balance_minor")


class StatementDivision(Document):
    """What became of the closing balance, less what was returned since."""

    paid_minor: int
    carried_minor: int
    held_back_minor: int
    reason: CarriedReason | None


class PayeeAccountStatement(Document):
    """Sums of one period. ``complete``: it was over. ``fees_minor``: kept of the sales, below zero."""

    payee_id: str
    currency: str
    period: str
    starts_at: str
    ends_at: str
    complete: bool
    opening_minor: int
    sales_minor: int
    fees_minor: int
    refunds_minor: int
    disputes_minor: int
    payouts_minor: int
    other_minor: int
    closing_minor: int
    line_count: int
    division: StatementDivision | None


def statement_document(made: PayeeStatement, now: datetime) -> dict[str, Any]:
    """Write a ``PayeeAccountStatement``."""
    statement, period, division = made.statement, made.period, _division(made)
    sums = statement.sums
    return {
        "payee_id": made.payee_id,
        "currency": made.currency,
        "period": period.name,
        "starts_at": rfc3339(period.starts_at),
        "ends_at": rfc3339(period.ends_at),
        "complete": now >= period.ends_at,
        "opening_minor": statement.opening_minor,
        "sales_minor": sums[MovementKind.SALE],
        "fees_minor": sums[MovementKind.FEE],
        "refunds_minor": sums[MovementKind.REFUND],
        "disputes_minor": sums[MovementKind.DISPUTE],
        "payouts_minor": sums[MovementKind.PAYOUT],
        "other_minor": sums[MovementKind.OTHER],
        "closing_minor": statement.closing_minor,
        "line_count": len(statement.lines),
        "division": None
        if division is None
        else {
            "paid_minor": division.paid_minor,
            "carried_minor": division.carried_minor,
            "held_back_minor": division.held_back_minor,
            "reason": division.reason,
        },
    }


def statement_csv(made: PayeeStatement) -> str:
    """Write the opening balance, every line, the closing balance, and what became of it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    period, statement, currency = made.period, made.statement, made.currency
    writer.writerow((rfc3339(period.starts_at), "opening", "", "", currency, "", statement.opening_minor))
    for line in statement.lines:
        names = (line.kind.value, harmless(line.subject), harmless(line.entry_key))
        writer.writerow((rfc3339(line.occurred_at), *names, currency, line.amount_minor, line.balance_minor))
    writer.writerow((rfc3339(period.ends_at), "closing", "", "", currency, "", statement.closing_minor))
    division = _division(made)
    if division is not None:
        parts = {
            "paid": division.paid_minor,
            "carried": division.carried_minor,
            "held_back": division.held_back_minor,
        }
        for kind, amount_minor in parts.items():
            writer.writerow(("", kind, division.reason or "", "", currency, amount_minor, ""))
    return text.getvalue()


def _division(made: PayeeStatement) -> Division | None:
    """A draft may still be withdrawn: it is nothing to tell a payee."""
    if made.line is None or made.line.status is not BatchStatus.APPROVED:
        return None
    return made.line.division


EXAMPLE_STATEMENT = {
    "payee_id": "seller_1",
    "currency": "USD",
    "period": "2026-10",
    "starts_at": "2026-10-01T00:00:00Z",
    "ends_at": "2026-11-01T00:00:00Z",
    "complete": True,
    "opening_minor": 0,
    "sales_minor": 191_000,
    "fees_minor": -19_100,
    "refunds_minor": -1_000,
    "disputes_minor": 0,
    "payouts_minor": 0,
    "other_minor": 0,
    "closing_minor": 170_900,
    "line_count": 42,
    "division": {
        "paid_minor": 152_010,
        "carried_minor": 0,
        "held_back_minor": 16_890,
        "reason": None,
    },
}
