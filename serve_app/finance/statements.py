"""Statements over HTTP: pages of lines as JSON or CSV, and the cursor that keeps all pages of one moment.

The cursor carries the statement's figures and how far the pages before have come, so that a page costs the
same wherever it lies and nothing posted meanwhile shows. It is checked like any input, and good only for
the statement that it came from. The lines must lead to the closing balance, or the page is an error.
"""

import base64
import binascii
import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from domain.ledger import Line, Movement, Progress, Summary, continue_lines
from serve_app.finance import query
from serve_app.spreadsheets import harmless
from storage.finance.balance_store import BalanceStore, StatementOf
from storage.finance.upkeep import Upkeep

LINES_PAGE_MAX = 1_000  # some 300 kB
CURSOR_CHARS_MAX = 600
_CSV_COLUMNS = (
    *("occurred_at", "original_occurred_at", "posted_at", "entry_key", "description"),
    *("currency", "debit_minor", "credit_minor", "balance_minor"),
)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Between two pages: the statement's figures, the last line's place, what was shown."""

    summary: Summary
    progress: Progress
    after: tuple[datetime, int, int]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a statement; ``first`` and no ``next_cursor`` mark its ends."""

    of: StatementOf
    summary: Summary
    lines: Sequence[Line]
    first: bool
    next_cursor: str | None


async def read_page(
    balances: BalanceStore, upkeep: Upkeep, of: StatementOf, cursor_text: str | None, limit: int
) -> Page:
    """Read a page: the first of a new statement, or the one behind ``cursor_text``.

    Raises:
        RejectedError: ``query_malformed``, the cursor is of another statement or none.
        StatementUnsoundError: the books do not add up.
        DependencyError, BusyError: the database is unavailable.
    """
    if cursor_text is None:
        await upkeep.catch_up()  # everything posted before this request shows
        summary = await balances.summary(of)
        cursor = Cursor(summary, Progress(summary.opening_balance_minor), (of.since, 0, 0))
    else:
        cursor = _read_cursor(cursor_text, of)
        summary = cursor.summary
    movements = await balances.movements(
        of, after=cursor.after, through_entry_id=summary.through_entry_id, limit=limit
    )
    lines, progress = continue_lines(summary, cursor.progress, movements)
    more = progress.line_count < summary.line_count
    next_cursor = _write_cursor(of, summary, progress, movements[-1]) if more and movements else None
    return Page(of, summary, lines, cursor_text is None, next_cursor)


def page_document(page: Page) -> dict[str, Any]:
    """Write a page as JSON."""
    summary = page.summary
    return {
        "account": page.of.account,
        "currency": page.of.currency,
        "from": page.of.since,
        "to": page.of.until,
        "through_entry_id": f"ent_{summary.through_entry_id}",
        "opening_balance_minor": summary.opening_balance_minor,
        "debit_minor": summary.debit_minor,
        "credit_minor": summary.credit_minor,
        "closing_balance_minor": summary.closing_balance_minor,
        "line_count": summary.line_count,
        "lines": [_line_document(line) for line in page.lines],
        "next_cursor": page.next_cursor,
    }


def page_csv(page: Page) -> bytes:
    """Write a page as CSV (RFC 4180). The pages of a statement, one after another, are one table.

    The first page begins with the columns' names and the opening balance, the last ends with the closing one.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    if page.first:
        writer.writerow(_CSV_COLUMNS)
        writer.writerow(_balance_row(page, page.of.since, "Opening balance"))
    for line in page.lines:
        movement = line.movement
        writer.writerow(
            (
                *(_time(movement.occurred_at), _time(movement.original_occurred_at)),
                *(_time(movement.posted_at), harmless(movement.entry_key), harmless(movement.description)),
                *(page.of.currency, max(movement.amount_minor, 0), max(-movement.amount_minor, 0)),
                line.balance_minor,
            )
        )
    if page.next_cursor is None:
        writer.writerow(_balance_row(page, page.of.until, "Closing balance"))
    return text.getvalue().encode()


def _balance_row(page: Page, at: datetime, name: str) -> tuple[object, ...]:
    summary = page.summary
    opening = at == page.of.since
    debit_minor, credit_minor = ("", "") if opening else (summary.debit_minor, summary.credit_minor)
    balance_minor = summary.opening_balance_minor if opening else summary.closing_balance_minor
    return (_time(at), "", "", "", name, page.of.currency, debit_minor, credit_minor, balance_minor)


def _line_document(line: Line) -> dict[str, Any]:
    movement = line.movement
    document = {
        "entry_id": f"ent_{movement.place[0]}",
        "entry_key": movement.entry_key,
        "occurred_at": movement.occurred_at,
        "posted_at": movement.posted_at,
        "description": movement.description,
        "amount_minor": movement.amount_minor,
        "balance_minor": line.balance_minor,
    }
    if movement.original_occurred_at is not None:
        document["original_occurred_at"] = movement.original_occurred_at
    return document


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat().replace("+00:00", "Z")


def _fingerprint(of: StatementOf) -> str:
    text = f"{of.account}\0{of.currency}\0{of.since.isoformat()}\0{of.until.isoformat()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write_cursor(of: StatementOf, summary: Summary, progress: Progress, last: Movement) -> str:
    fields = [
        _fingerprint(of),
        *(summary.opening_balance_minor, summary.debit_minor, summary.credit_minor),
        *(summary.line_count, summary.through_entry_id),
        *(progress.balance_minor, progress.line_count, progress.debit_minor),
        *(last.occurred_at.isoformat(), *last.place),
    ]
    return base64.urlsafe_b64encode(orjson.dumps(fields)).rstrip(b"=").decode()


def _read_cursor(text: str, of: StatementOf) -> Cursor:
    refused = query.refused("cursor", "the next_cursor of the page before, of the same statement.")
    if len(text) > CURSOR_CHARS_MAX:
        raise refused
    try:
        fields = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        fingerprint, *figures, at, entry_id, position = fields
        numbers = (*figures, entry_id, position)
        if fingerprint != _fingerprint(of) or not all(type(number) is int for number in numbers):
            raise refused
        opening, debit, credit, lines, through, balance, shown, shown_debit = figures
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise refused
    except (binascii.Error, ValueError, TypeError, UnicodeError):
        raise refused from None
    return Cursor(
        Summary(opening, debit, credit, lines, through),
        Progress(balance, shown, shown_debit),
        (moment, entry_id, position),
    )
