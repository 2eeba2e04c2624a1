"""What the database's refusals of an entry mean, by the name of the constraint.

The database decides, inside the transaction; this is the table from its words to the contract's codes. A
constraint that is not named here is ``entry_refused``: the database is stricter than the domain.
"""

from collections.abc import Callable
from datetime import datetime

from domain.errors import MarketplaceError, RejectedError
from domain.ledger import AccountRefusedError, Entry, EntryReversedError, PeriodClosedError
from storage.finance.connections import Refusal


def _unknown(account: str) -> MarketplaceError:
    return AccountRefusedError(
        "account_unknown",
        account,
        f"Account {account} is not in the chart of accounts; nothing was posted. Correct its name, or have "
        "a finance administrator declare it.",
    )


def _closed(account: str) -> MarketplaceError:
    return AccountRefusedError(
        "account_closed",
        account,
        f"Account {account} is closed and takes no postings; nothing was posted. Post to another account.",
    )


def _other_currency(detail: str) -> MarketplaceError:
    account, _, currency = detail.partition(" ")
    return AccountRefusedError(
        "account_currency",
        account,
        f"Account {account} is kept in {currency} only; nothing was posted. Post to an account of the "
        "entry's currency.",
    )


_BY_ACCOUNT: dict[str, Callable[[str], MarketplaceError]] = {
    "accounts_known": _unknown,
    "accounts_open": _closed,
    "accounts_currency": _other_currency,
}


def refusal_of(entry: Entry, refused: Refusal) -> MarketplaceError:
    """Return the error that tells the poster of ``entry`` what the database refused."""
    constraint, detail = refused.diag.constraint_name, refused.diag.message_detail or ""
    if constraint == "entries_period_open":
        return PeriodClosedError(entry.entry_key, datetime.fromisoformat(detail))
    if constraint == "entries_reversed_once" and entry.reverses is not None:
        return EntryReversedError(entry.reverses)
    if constraint in _BY_ACCOUNT:
        return _BY_ACCOUNT[constraint](detail)
    return RejectedError(
        "entry_refused",
        f"The ledger's database refuses entry {entry.entry_key} ({constraint or refused.sqlstate}). "
        "Nothing was posted.",
    )
