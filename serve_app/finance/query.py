"""Query parameters and cursors of the reading routes.

Strict: an unknown, repeated or malformed parameter is refused by name, for a misspelt ``as_of`` must
not answer with today's balance. Cursors are opaque to clients and checked like any other input.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.requests import Request

from domain.errors import RejectedError
from domain.ledger import EntryMalformedError, is_account, is_currency_code
from serve_app.finance.documents import ENTRY_ID_PREFIX, parse_time
from storage.finance.balance_store import AccountBalance
from storage.finance.ledger_store import PostedEntry

PAGE_DEFAULT = 50

_KEY_PREFIX = re.compile(r"[A-Za-z0-9_.:/-]{1,200}")
_WINDOW = ("currency", "from", "to")
_ENTRIES_CURSOR = re.compile(ENTRY_ID_PREFIX + r"([0-9]{1,18})")
_ACCOUNT_PREFIX = re.compile(r"[A-Za-z0-9_:]{0,120}")


def refused(name: str, expected: str) -> RejectedError:
    """Return the refusal of parameter ``name``."""
    return RejectedError("query_malformed", f"Parameter {name}: {expected}")


def parse(request: Request, known: set[str]) -> Mapping[str, str]:
    """Return the parameters, each known and given once.

    Raises:
        RejectedError: ``query_malformed``, as all functions of this module.
    """
    params: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known or name in params:
            raise refused(name[:100], "unknown or repeated; known are " + ", ".join(sorted(known)) + ".")
        params[name] = value
    return params


def limit(params: Mapping[str, str], highest: int) -> int:
    """Return the page size, 1 to ``highest``."""
    text = params.get("limit", str(PAGE_DEFAULT))
    if not (
        text.isascii() and text.isdigit() and len(text) <= len(str(highest)) and 1 <= int(text) <= highest
    ):
        raise refused("limit", f"a number from 1 to {highest}.")
    return int(text)


def currency(params: Mapping[str, str]) -> str:
    """Return the required ISO 4217 code."""
    code = params.get("currency", "")
    if not is_currency_code(code):
        raise refused("currency", "required, an ISO 4217 code in capitals such as USD.")
    return code


def currency_or_all(params: Mapping[str, str]) -> str | None:
    """Return the ISO 4217 code, or None for all."""
    return currency(params) if "currency" in params else None


def as_of(params: Mapping[str, str]) -> datetime | None:
    """Return the time up to and including which postings count, or None for all."""
    return instant(params, "as_of") if "as_of" in params else None


def instant(params: Mapping[str, str], name: str) -> datetime:
    """Return a required time."""
    try:
        return parse_time(params.get(name), "")
    except EntryMalformedError as malformed:
        # In a query an unescaped + arrives as a space; say so, it is the usual mistake.
        raise refused(name, f"{malformed.detail} Write + as %2B.") from None


def account(name: str | None) -> str | None:
    """Return a well-formed account, or None when there is none."""
    return None if name is None else required_account(name)


def required_account(name: str) -> str:
    """Return a well-formed account."""
    if not is_account(name):
        raise refused("account", "a name such as seller:42:payable.")
    return name


def account_prefix(text: str) -> str:
    """Return the beginning of account names."""
    if not _ACCOUNT_PREFIX.fullmatch(text):
        raise refused("prefix", "the beginning of an account name.")
    return text


def entries_cursor(text: str | None) -> int:
    """Return the entry id after which a page starts."""
    if text is None:
        return 0
    match = _ENTRIES_CURSOR.fullmatch(text)
    if match is None:
        raise refused("cursor", "the next_cursor of the page before.")
    return int(match[1])


def entries_cursor_after(last: PostedEntry) -> str:
    """Return the cursor of the page that follows ``last``."""
    return f"{ENTRY_ID_PREFIX}{last.entry_id}"


def key_prefix(params: Mapping[str, str]) -> str | None:
    """Return the beginning of entry keys that is asked for, or None; it goes with no other choice."""
    prefix = params.get("key_prefix")
    if prefix is None:
        return None
    if not _KEY_PREFIX.fullmatch(prefix):
        raise refused("key_prefix", "the beginning of an entry key.")
    if params.keys() & {"account", *_WINDOW}:
        raise refused("key_prefix", "not together with account, currency, from or to.")
    return prefix


def key_cursor(text: str | None, prefix: str) -> str:
    """Return the key after which a page of keys with ``prefix`` starts."""
    if text is None:
        return ""
    if not (_KEY_PREFIX.fullmatch(text) and text.startswith(prefix)):
        raise refused("cursor", "the next_cursor of the page before.")
    return text


def window(params: Mapping[str, str]) -> tuple[str, str, datetime, datetime] | None:
    """Return account, currency, first instant and the instant after the last, or None without any of them."""
    if not params.keys() & set(_WINDOW):
        return None
    name = required_account(params.get("account", ""))
    since, until = instant(params, "from"), instant(params, "to")
    if since > until:
        raise refused("to", "not before from.")
    return name, currency(params), since, until


def window_cursor(text: str | None, since: datetime) -> tuple[datetime, int]:
    """Return the time and entry id after which a page of a window starts."""
    if text is None:
        return since, 0
    at_text, _, entry_id = text.partition(",")
    try:
        at = parse_time(at_text, "")
        return max((at, entries_cursor(entry_id)), (since, 0))
    except (EntryMalformedError, RejectedError):
        raise refused("cursor", "the next_cursor of the page before.") from None


def window_cursor_after(last: PostedEntry) -> str:
    """Return the cursor of the page that follows ``last``."""
    at = last.entry.occurred_at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return f"{at}Z,{entries_cursor_after(last)}"


def accounts_cursor(text: str | None) -> tuple[str, str]:
    """Return the account and currency after which a page starts."""
    if text is None:
        return "", ""
    name, _, code = text.partition(",")
    if not (is_account(name) and is_currency_code(code)):
        raise refused("cursor", "the next_cursor of the page before.")
    return name, code


def accounts_cursor_after(last: AccountBalance) -> str:
    """Return the cursor of the page that follows ``last``."""
    return f"{last.account},{last.currency}"
