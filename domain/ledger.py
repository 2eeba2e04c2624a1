"""Double-entry bookkeeping: what a well-formed entry is, when two are the same, how one is reversed.

An entry moves money between accounts in one currency: debits positive, credits negative, sum zero.
Construction is the check, so an ``Entry`` that exists is sound:

    EntryMalformedError    a field breaks its grammar or bound (RejectedError, ``entry_malformed``)
    EntryUnbalancedError   the postings do not sum to zero     (RejectedError, ``entry_unbalanced``)
    EntryConflictError     the key is taken by other content   (ConflictError, ``entry_conflict``)

Refused on purpose: editing or deleting an entry (a mistake is corrected by its reversal), entries in
several currencies (book two entries through an exchange account), zero postings, and amounts beyond
2**53 - 1, the largest integer that every JSON reader keeps exact (RFC 8259, section 6).
The grammar is the contract of ADR 0004; a chart of accounts is the caller's business.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from domain.errors import ConflictError, RejectedError

POSTINGS_MIN = 2
POSTINGS_MAX = 200  # a cart of about 200 sellers; bounds the work of one entry
AMOUNT_MINOR_MAX = 2**53 - 1
ACCOUNT_CHARS_MAX = 120
ENTRY_KEY_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 500

_ACCOUNT = re.compile(r"[a-z][a-z0-9_]*(:[A-Za-z0-9_]+){0,3}")
_ENTRY_KEY = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")
_CURRENCY = re.compile(r"[A-Z]{3}")
# No control characters and no lone surrogates: neither survives every store, log and statement.
_DESCRIPTION = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,500}")
_NO_OFFSET = timedelta(0)


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


def is_account(name: str) -> bool:
    """Whether ``name`` is a well-formed account name, for example ``seller:sel_01:payable``."""
    return len(name) <= ACCOUNT_CHARS_MAX and _ACCOUNT.fullmatch(name) is not None


def is_entry_key(key: str) -> bool:
    """Whether ``key`` is a well-formed entry key."""
    return _ENTRY_KEY.fullmatch(key) is not None


def is_currency_code(code: str) -> bool:
    """Whether ``code`` has the form of an ISO 4217 code. The ledger accepts any currency."""
    return _CURRENCY.fullmatch(code) is not None


@dataclass(frozen=True, slots=True)
class Posting:
    """One leg of an entry: ``amount_minor`` > 0 debits the account, < 0 credits it."""

    account: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A balanced, dated movement of money. ``occurred_at`` is kept in UTC.

    Raises:
        EntryMalformedError: a field breaks its grammar or bound.
        EntryUnbalancedError: the postings do not sum to zero.
    """

    entry_key: str
    currency: str
    occurred_at: datetime
    description: str
    postings: tuple[Posting, ...]

    def __post_init__(self) -> None:
        _check_heading(self.entry_key, self.currency, self.description)
        if self.occurred_at.tzinfo is not UTC:
            object.__setattr__(self, "occurred_at", _in_utc(self.occurred_at))
        if not POSTINGS_MIN <= len(self.postings) <= POSTINGS_MAX:
            raise EntryMalformedError(
                f"An entry has {POSTINGS_MIN} to {POSTINGS_MAX} postings, not {len(self.postings)}.",
                "/postings",
            )
        sum_minor = 0
        for index, posting in enumerate(self.postings):
            _check_posting(posting, index)
            sum_minor += posting.amount_minor
        if sum_minor:
            raise EntryUnbalancedError(sum_minor, self.currency)

    @property
    def content_digest(self) -> bytes:
        """SHA-256 of everything but the key: equal digests are the same content.

        Fields are joined by NUL, which no field can hold, so the text is unambiguous.
        """
        parts = [self.currency, self.occurred_at.isoformat(), self.description]
        for posting in self.postings:
            parts += (posting.account, str(posting.amount_minor))
        return hashlib.sha256("\0".join(parts).encode()).digest()


def reversal(entry: Entry, entry_key: str, occurred_at: datetime) -> Entry:
    """Return the entry that undoes ``entry``, under its own key and date.

    Raises:
        EntryMalformedError: when ``entry_key`` is malformed or the reversed entry's own key.
    """
    if entry_key == entry.entry_key:
        raise EntryMalformedError("A reversal needs a key of its own.", "/entry_key")
    return Entry(
        entry_key=entry_key,
        currency=entry.currency,
        occurred_at=occurred_at,
        description=f"Reversal of {entry.entry_key}",
        postings=tuple(Posting(posting.account, -posting.amount_minor) for posting in entry.postings),
    )


def _check_heading(entry_key: str, currency: str, description: str) -> None:
    if not is_entry_key(entry_key):
        raise EntryMalformedError(
            f"An entry key is 1 to {ENTRY_KEY_CHARS_MAX} letters, digits and any of _ . : / -", "/entry_key"
        )
    if not is_currency_code(currency):
        raise EntryMalformedError("A currency is its ISO 4217 code in capitals, such as USD.", "/currency")
    if _DESCRIPTION.fullmatch(description) is None:
        raise EntryMalformedError(
            f"A description has at most {DESCRIPTION_CHARS_MAX} characters and no control characters.",
            "/description",
        )


def _check_posting(posting: Posting, index: int) -> None:
    if not is_account(posting.account):
        raise EntryMalformedError(
            "An account is a lower-case name and up to three more parts after colons, such as "
            f"seller:42:payable, in at most {ACCOUNT_CHARS_MAX} characters.",
            f"/postings/{index}/account",
        )
    # `type(...) is`: bool is an int to isinstance, and True must not become one minor unit.
    if type(posting.amount_minor) is not int or not 0 < abs(posting.amount_minor) <= AMOUNT_MINOR_MAX:
        raise EntryMalformedError(
            "An amount is a whole number of minor units, not zero, within 2**53 - 1 either way.",
            f"/postings/{index}/amount_minor",
        )


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise EntryMalformedError("The time needs an offset from UTC, such as Z.", "/occurred_at")
    if moment.utcoffset() == _NO_OFFSET:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise EntryMalformedError("The time is outside years 1 to 9999 in UTC.", "/occurred_at") from None
