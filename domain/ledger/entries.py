"""Entries: what a well-formed one is, when two are the same, how one is reversed.

An entry moves money between accounts in one currency: debits positive, credits negative, sum zero.
Construction is the check, so an ``Entry`` that exists is sound. Refused on purpose: editing or deleting an
entry (a mistake is corrected by its reversal), entries in several currencies (book two entries through an
exchange account), zero postings, and amounts beyond 2**53 - 1, the largest integer that every JSON reader
keeps exact (RFC 8259, section 6). The grammar is the contract of ADR 0004; which accounts there are and
which periods are open is for the books to say.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from domain.ledger.errors import EntryMalformedError, EntryUnbalancedError

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
    """A balanced, dated movement of money; its times are kept in UTC.

    ``original_occurred_at`` is set on an entry that came too late for its month: it is booked in the open
    period (``occurred_at``) and says when it happened. ``reverses`` is the key of the entry that this undoes.

    Raises:
        EntryMalformedError: a field breaks its grammar or bound.
        EntryUnbalancedError: the postings do not sum to zero.
    """

    entry_key: str
    currency: str
    occurred_at: datetime
    description: str
    postings: tuple[Posting, ...]
    original_occurred_at: datetime | None = None
    reverses: str | None = None

    def __post_init__(self) -> None:
        _check_heading(self.entry_key, self.currency, self.description)
        if self.occurred_at.tzinfo is not UTC:
            object.__setattr__(self, "occurred_at", _in_utc(self.occurred_at, "/occurred_at"))
        if self.original_occurred_at is not None:
            self._check_original(self.original_occurred_at)
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

        Fields are joined by NUL, which no field can hold, so the text is unambiguous. The date is the
        original one: whoever does not know that an entry was booked late, and in which period, repeats it
        as it happened and gets the same entry back.
        """
        happened_at = self.original_occurred_at or self.occurred_at
        parts = [self.currency, happened_at.isoformat(), self.description]
        for posting in self.postings:
            parts += (posting.account, str(posting.amount_minor))
        if self.reverses is not None:
            parts += ("", self.reverses)  # no account is empty, so no posting reads like this
        return hashlib.sha256("\0".join(parts).encode()).digest()

    def _check_original(self, original: datetime) -> None:
        original = _in_utc(original, "/original_occurred_at")
        if original >= self.occurred_at:
            raise EntryMalformedError(
                "The original date lies before occurred_at. Leave it out if the entry is not late.",
                "/original_occurred_at",
            )
        object.__setattr__(self, "original_occurred_at", original)


def reversal(
    entry: Entry,
    entry_key: str,
    occurred_at: datetime,
    description: str | None = None,
    original_occurred_at: datetime | None = None,
) -> Entry:
    """Return the entry that undoes ``entry`` in full, under its own key and date.

    Raises:
        EntryMalformedError: ``entry_key`` is malformed or the reversed entry's own key, ``entry`` is itself
            a reversal, or ``occurred_at`` lies before the date of ``entry``.
    """
    if entry_key == entry.entry_key:
        raise EntryMalformedError("A reversal needs a key of its own.", "/entry_key")
    if entry.reverses is not None:
        raise EntryMalformedError("A reversal cannot be reversed: post the entry anew, under a new key.")
    undone = Entry(
        entry_key=entry_key,
        currency=entry.currency,
        occurred_at=occurred_at,
        description=f"Reversal of {entry.entry_key}" if description is None else description,
        postings=tuple(Posting(posting.account, -posting.amount_minor) for posting in entry.postings),
        original_occurred_at=original_occurred_at,
        reverses=entry.entry_key,
    )
    if undone.occurred_at < entry.occurred_at:
        raise EntryMalformedError("A reversal is not dated before the entry that it undoes.", "/occurred_at")
    return undone


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


def _in_utc(moment: datetime, pointer: str) -> datetime:
    if moment.tzinfo is None:
        raise EntryMalformedError("The time needs an offset from UTC, such as Z.", pointer)
    if moment.utcoffset() == _NO_OFFSET:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise EntryMalformedError("The time is outside years 1 to 9999 in UTC.", pointer) from None
