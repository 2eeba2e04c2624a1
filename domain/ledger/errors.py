"""What the ledger refuses, by fault. Codes are stable: they are the contract's (ADR 0004, ADR 0009).

    EntryMalformedError     a field breaks its grammar or bound       (RejectedError, ``entry_malformed``)
    EntryUnbalancedError    the postings do not sum to zero           (RejectedError, ``entry_unbalanced``)
    PeriodClosedError       dated before the end of a closed period   (RejectedError, ``period_closed``)
    AccountRefusedError     an account takes no such posting          (RejectedError, ``account_…``)
    EntryConflictError      the key is taken by other content         (ConflictError, ``entry_conflict``)
    EntryReversedError      reversed before, by another entry         (ConflictError, ``entry_reversed``)

All are pickled by their arguments, like every error of the marketplace.
"""

from datetime import UTC, datetime

from domain.errors import ConflictError, RejectedError


class EntryMalformedError(RejectedError):
    """A field of an entry is wrong; ``pointer`` is its JSON pointer (RFC 6901) in the entry."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__("entry_malformed", detail)
        self.args = (detail, pointer)  # what unpickling passes back to this constructor
        self.pointer = pointer


class EntryUnbalancedError(RejectedError):
    """Debits and credits differ by ``sum_minor``."""

    def __init__(self, sum_minor: int, currency: str) -> None:
        super().__init__(
            "entry_unbalanced",
            f"The postings sum to {sum_minor} minor units of {currency}, not to zero. "
            "Correct the amounts: debits are positive, credits negative.",
        )
        self.args = (sum_minor, currency)
        self.sum_minor = sum_minor


class EntryConflictError(ConflictError):
    """``entry_key`` already names an entry with other content."""

    def __init__(self, entry_key: str) -> None:
        super().__init__(
            "entry_conflict",
            f"Entry {entry_key} is already posted with other content. Entries cannot be changed: "
            "read it, and post a reversal and a new entry under new keys if it is wrong.",
        )
        self.args = (entry_key,)
        self.entry_key = entry_key


class PeriodClosedError(RejectedError):
    """The entry is dated before ``open_from``, the end of the last closed period (UTC)."""

    def __init__(self, entry_key: str, open_from: datetime) -> None:
        first = open_from.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        super().__init__(
            "period_closed",
            f"Entry {entry_key} is dated in a closed period; nothing was posted. The books are open from "
            f"{first}. Post it under the same key with occurred_at now and original_occurred_at the date "
            "that it had.",
        )
        self.args = (entry_key, open_from)
        self.entry_key = entry_key
        self.open_from = open_from


class AccountRefusedError(RejectedError):
    """``account`` takes no such posting: ``account_unknown``, ``account_closed``, ``account_currency``."""

    def __init__(self, code: str, account: str, detail: str) -> None:
        super().__init__(code, detail)
        self.args = (code, account, detail)
        self.account = account


class EntryReversedError(ConflictError):
    """``entry_key`` has been reversed by another entry; an entry is reversed once, in full."""

    def __init__(self, entry_key: str) -> None:
        super().__init__(
            "entry_reversed",
            f"Entry {entry_key} has a reversal already, under another key. Read the entry: reversed_by names "
            "it. Post a new entry if the books are still wrong.",
        )
        self.args = (entry_key,)
        self.entry_key = entry_key
