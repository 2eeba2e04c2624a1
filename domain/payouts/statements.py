"""A payee's statement: its account at Finance over one period, by kind of movement.

Amounts are minor units from the payee's side: what we owe is positive. Opening balance plus the movements is
the closing balance, to the unit, and both balances are Finance's own; a statement that does not add up is
refused. Finance books a sale's net amount; where the marketplace knows what buyers paid for the payee's
lines, the sale is shown in full and what was kept of it (the platform's fee, others' shares) as fees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from domain.payouts.entries import KEY_PREFIX

ORDER_PREFIX = "ord_"


class StatementUnsoundError(Exception):
    """The movements do not lead from the opening to the closing balance."""


class MovementKind(StrEnum):
    """What moved a payee's account."""

    SALE = "sale"
    FEE = "fee"
    REFUND = "refund"
    DISPUTE = "dispute"
    PAYOUT = "payout"
    OTHER = "other"  # booked by hand at Finance


_OF_ORDER = {
    "capture": MovementKind.SALE,
    "refund": MovementKind.REFUND,
    "refund_reversal": MovementKind.REFUND,
    "dispute": MovementKind.DISPUTE,
    "dispute_won": MovementKind.DISPUTE,
}


@dataclass(frozen=True, slots=True)
class Movement:
    """A posting on the payee's account at Finance, from the payee's side."""

    occurred_at: datetime
    entry_key: str
    amount_minor: int

    @property
    def kind(self) -> MovementKind:
        """What it is, by its entry's key."""
        if self.entry_key.startswith(KEY_PREFIX):
            return MovementKind.PAYOUT
        subject, _, what = self.entry_key.partition(":")
        if not subject.startswith(ORDER_PREFIX):
            return MovementKind.OTHER
        return _OF_ORDER.get(what.partition(":")[0], MovementKind.OTHER)

    @property
    def subject(self) -> str:
        """The order, or the payout's key without its suffix; else the whole key."""
        if self.kind is MovementKind.PAYOUT:
            return ":".join(self.entry_key.split(":")[:4])
        return self.entry_key if self.kind is MovementKind.OTHER else self.entry_key.partition(":")[0]


@dataclass(frozen=True, slots=True)
class AccountHistory:
    """Finance's statement of the payee's account, from the payee's side."""

    opening_minor: int
    closing_minor: int
    movements: Sequence[Movement]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a statement and the balance after it."""

    occurred_at: datetime
    kind: MovementKind
    subject: str
    entry_key: str
    amount_minor: int
    balance_minor: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The lines, and their sums by kind; ``sums`` has every kind."""

    opening_minor: int
    closing_minor: int
    sums: Mapping[MovementKind, int]
    lines: Sequence[Line]


def sales_of(history: AccountHistory) -> list[str]:
    """Return the ids of the orders whose sale the history has."""
    return [one.subject for one in history.movements if one.kind is MovementKind.SALE]


def build_statement(history: AccountHistory, gross_minor: Mapping[str, int]) -> Statement:
    """Make the statement; ``gross_minor`` is what buyers paid for the payee's lines, by order.

    Raises:
        StatementUnsoundError: Finance's lines do not add up.
    """
    lines: list[Line] = []
    sums = dict.fromkeys(MovementKind, 0)
    balance = history.opening_minor
    for movement in history.movements:
        for kind, amount_minor in _parts(movement, gross_minor):
            balance += amount_minor
            sums[kind] += amount_minor
            lines.append(
                Line(movement.occurred_at, kind, movement.subject, movement.entry_key, amount_minor, balance)
            )
    if balance != history.closing_minor or history.opening_minor + sum(sums.values()) != balance:
        raise StatementUnsoundError("The movements do not lead to the closing balance.")
    return Statement(history.opening_minor, history.closing_minor, sums, lines)


def _parts(movement: Movement, gross_minor: Mapping[str, int]) -> list[tuple[MovementKind, int]]:
    net = movement.amount_minor
    sale = movement.entry_key == f"{movement.subject}:capture"  # and not what corrected it later
    gross = gross_minor.get(movement.subject) if sale else None
    # A share of somebody else's sale has no line of one's own, and can be more than one's own line's net.
    if gross is None or gross <= net:
        return [(movement.kind, net)]
    return [(MovementKind.SALE, gross), (MovementKind.FEE, net - gross)]
