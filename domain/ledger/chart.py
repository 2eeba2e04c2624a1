"""The chart of accounts: which accounts there may be, of which kind, and which side is their normal one.

An account whose name matches a pattern of ``CHART`` is opened by its first posting; any other has to be
declared by a finance administrator. A ``*`` stands for one part of the name. The database holds the same
chart and decides (``storage/finance/migrations``); a test keeps the two equal.
Refused: a ``rounding`` account. Amounts are split exactly, to the unit, and every difference has an owner.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from domain.errors import RejectedError
from domain.ledger.entries import is_account

FORBIDDEN_ROOTS = frozenset({"rounding"})


class Kind(StrEnum):
    """What an account is in the balance sheet or the income statement."""

    ASSET = "asset"
    LIABILITY = "liability"
    INCOME = "income"
    EXPENSE = "expense"
    EQUITY = "equity"

    @property
    def normal_side(self) -> str:
        """``debit`` for what grows by debits (positive amounts), else ``credit``."""
        return "debit" if self in (Kind.ASSET, Kind.EXPENSE) else "credit"


CHART: Mapping[str, Kind] = MappingProxyType(
    {
        "stripe:clearing": Kind.ASSET,  # money that Stripe holds for us
        "cash:*": Kind.ASSET,  # money at a bank, by bank account
        "buyer:*:receivable": Kind.ASSET,  # what a buyer owes us
        "disputes": Kind.ASSET,  # money that banks hold while a dispute is open
        "exchange:*": Kind.ASSET,  # the other side of a change of currency
        "seller:*:payable": Kind.LIABILITY,  # what we owe a seller
        "tax:*:payable": Kind.LIABILITY,  # tax collected for a jurisdiction
        "payouts:in_transit": Kind.LIABILITY,  # payouts sent and not yet confirmed
        "platform:fees": Kind.INCOME,  # what we earn by sales
        "refunds": Kind.EXPENSE,  # what refunds cost us
        "stripe:fees": Kind.EXPENSE,  # what Stripe takes for payments
        "stripe:dispute_fees": Kind.EXPENSE,  # what Stripe takes for disputes
        "equity:*": Kind.EQUITY,  # capital and opening balances
    }
)
_PATTERNS = tuple(
    (re.compile(pattern.replace("*", "[A-Za-z0-9_]+")), kind) for pattern, kind in CHART.items()
)


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the books. ``currency`` None takes any; ``declared`` False: opened by a posting."""

    name: str
    kind: Kind
    currency: str | None
    declared: bool
    opened_at: datetime
    closed_at: datetime | None


def kind_in_chart(name: str) -> Kind | None:
    """Return the kind that the chart gives an account of this name; None when it must be declared."""
    return next((kind for pattern, kind in _PATTERNS if pattern.fullmatch(name)), None)


def check_declaration(name: str, kind: Kind) -> None:
    """Check that ``name`` may be declared as an account of ``kind``.

    Raises:
        RejectedError: ``account_malformed``, ``account_forbidden``, or ``account_kind`` (the chart says
            another).
    """
    if not is_account(name):
        raise RejectedError("account_malformed", "An account is named like seller:42:payable.")
    if name.partition(":")[0] in FORBIDDEN_ROOTS:
        raise RejectedError(
            "account_forbidden",
            f"There is no account {name}: amounts are split exactly. Book the difference to whom it belongs.",
        )
    expected = kind_in_chart(name)
    if expected not in (None, kind):
        raise RejectedError("account_kind", f"The chart of accounts makes {name} {expected}, not {kind}.")
