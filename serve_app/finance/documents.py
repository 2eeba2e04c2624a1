"""The JSON forms of the contract, read and written by hand because posting entries is the hot path.

Reading is strict: unknown members, wrong types, times without an offset and fractions finer than a
microsecond are refused, since what is not understood exactly must not be booked. Writing is exact:
the postings come back as they were sent, times in UTC.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from domain.errors import RejectedError
from domain.ledger import Entry, EntryMalformedError, Posting
from storage.finance.ledger_store import PostedEntry

BATCH_ENTRIES_MAX = 500  # a nightly import in a few hundred requests, each within the deadline
ENTRY_ID_PREFIX = "ent_"

_ENTRY_MEMBERS_REQUIRED = frozenset({"entry_key", "currency", "occurred_at", "postings"})
_ENTRY_MEMBERS = _ENTRY_MEMBERS_REQUIRED | {"description", "original_occurred_at"}
_REVERSAL_MEMBERS_REQUIRED = frozenset({"entry_key", "occurred_at"})
_REVERSAL_MEMBERS = _REVERSAL_MEMBERS_REQUIRED | {"description", "original_occurred_at"}
_POSTING_MEMBERS = frozenset({"account", "amount_minor"})
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def dump(document: object) -> bytes:
    """Serialise a document; datetimes become RFC 3339 in UTC with ``Z``."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


def load(body: bytes) -> Any:
    """Parse a body.

    Raises:
        RejectedError: ``json_malformed``.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as malformed:
        raise RejectedError("json_malformed", f"The body is not JSON: {malformed}.") from None


def parse_time(text: object, pointer: str) -> datetime:
    """Read an RFC 3339 time.

    Raises:
        EntryMalformedError: naming ``pointer``.
    """
    if isinstance(text, str) and _RFC3339.fullmatch(text):
        try:
            # Adding the offset overflows for the first and last day that datetime knows.
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise EntryMalformedError(
        "A time is RFC 3339 with an offset and at most six decimals, such as 2026-11-24T14:00:00Z.", pointer
    )


def parse_entry(raw: object) -> Entry:
    """Read one entry.

    Raises:
        EntryMalformedError, EntryUnbalancedError: see ``domain.ledger``.
    """
    if not isinstance(raw, dict):
        raise EntryMalformedError("An entry is a JSON object.")
    if not _ENTRY_MEMBERS_REQUIRED <= raw.keys() <= _ENTRY_MEMBERS:
        refuse_members(raw, _ENTRY_MEMBERS_REQUIRED, _ENTRY_MEMBERS, "")
    description = raw.get("description", "")
    for name, value in (
        ("entry_key", raw["entry_key"]),
        ("currency", raw["currency"]),
        ("description", description),
    ):
        if not isinstance(value, str):
            raise EntryMalformedError(f"{name} is a text.", f"/{name}")
    legs = raw["postings"]
    if not isinstance(legs, list):
        raise EntryMalformedError("Postings are a JSON array.", "/postings")
    return Entry(
        entry_key=raw["entry_key"],
        currency=raw["currency"],
        occurred_at=parse_time(raw["occurred_at"], "/occurred_at"),
        description=description,
        postings=tuple([_parse_posting(leg, index) for index, leg in enumerate(legs)]),
        original_occurred_at=_original(raw),
    )


def parse_reversal(raw: object) -> dict[str, Any]:
    """Read what a reversal says: the arguments of ``domain.ledger.reversal`` after the entry.

    Raises:
        EntryMalformedError: naming the member.
    """
    if not isinstance(raw, dict):
        raise EntryMalformedError("A reversal is a JSON object.")
    if not _REVERSAL_MEMBERS_REQUIRED <= raw.keys() <= _REVERSAL_MEMBERS:
        refuse_members(raw, _REVERSAL_MEMBERS_REQUIRED, _REVERSAL_MEMBERS, "")
    if not isinstance(raw["entry_key"], str):
        raise EntryMalformedError("entry_key is a text.", "/entry_key")
    if not isinstance(raw.get("description", ""), str):
        raise EntryMalformedError("description is a text.", "/description")
    return {
        "entry_key": raw["entry_key"],
        "occurred_at": parse_time(raw["occurred_at"], "/occurred_at"),
        "description": raw.get("description"),
        "original_occurred_at": _original(raw),
    }


def parse_batch(raw: object) -> list[object]:
    """Read the frame of a batch; its entries are parsed one by one, each with its own verdict.

    Raises:
        RejectedError: ``batch_malformed``.
    """
    entries = raw.get("entries") if isinstance(raw, dict) and raw.keys() == {"entries"} else None
    if not isinstance(entries, list) or not 1 <= len(entries) <= BATCH_ENTRIES_MAX:
        raise RejectedError(
            "batch_malformed",
            f'A batch is {{"entries": […]}} with 1 to {BATCH_ENTRIES_MAX} entries and nothing else.',
        )
    return entries


def entry_document(posted: PostedEntry) -> dict[str, Any]:
    """Write an entry. The same for its first posting and every replay; reading it may add ``reversed_by``."""
    entry = posted.entry
    document = {
        "entry_id": f"{ENTRY_ID_PREFIX}{posted.entry_id}",
        "entry_key": entry.entry_key,
        "currency": entry.currency,
        "occurred_at": entry.occurred_at,
        "posted_at": posted.posted_at,
        "description": entry.description,
        "postings": [{"account": leg.account, "amount_minor": leg.amount_minor} for leg in entry.postings],
    }
    if entry.original_occurred_at is not None:
        document["original_occurred_at"] = entry.original_occurred_at
    if entry.reverses is not None:
        document["reverses"] = entry.reverses
    if posted.reversed_by is not None:
        document["reversed_by"] = posted.reversed_by
    return document


def posting_result(posted: PostedEntry) -> dict[str, Any]:
    """Write the answer to a posting: the entry, and whether it was there before."""
    return {**entry_document(posted), "replayed": posted.replayed}


def _original(raw: Mapping[str, Any]) -> datetime | None:
    return (
        parse_time(raw["original_occurred_at"], "/original_occurred_at")
        if "original_occurred_at" in raw
        else None
    )


def _parse_posting(raw: object, index: int) -> Posting:
    if not isinstance(raw, dict) or raw.keys() != _POSTING_MEMBERS:
        pointer = f"/postings/{index}"
        if isinstance(raw, dict):
            refuse_members(raw, _POSTING_MEMBERS, _POSTING_MEMBERS, pointer)
        raise EntryMalformedError("A posting is a JSON object.", pointer)
    account = raw["account"]
    if not isinstance(account, str):
        raise EntryMalformedError("account is a text.", f"/postings/{index}/account")
    return Posting(account, raw["amount_minor"])  # the domain refuses any amount that is not an int


def refuse_members(
    raw: Mapping[str, Any], required: frozenset[str], known: frozenset[str], pointer: str
) -> None:
    """Refuse an object with a member missing or unknown, by its pointer below ``pointer``."""
    missing = sorted(required - raw.keys())
    if missing:
        raise EntryMalformedError(f"{missing[0]} is missing.", f"{pointer}/{missing[0]}")
    unknown = min(raw.keys() - known)
    # RFC 6901 escapes; the name comes from the caller, so it is bounded.
    name = unknown[:100].replace("~", "~0").replace("/", "~1")
    raise EntryMalformedError("This member is unknown; remove it.", f"{pointer}/{name}")
