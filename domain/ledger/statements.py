"""Statements of an account: opening balance, lines with a running balance, closing balance.

A statement is of one account in one currency, from an instant (included) to another (excluded), and of the
entries posted up to ``through_entry_id``, behind which none can appear any more: all its pages are of one
moment, whatever is posted while they are read. ``continue_lines`` refuses a statement that does not add up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime


class StatementUnsoundError(Exception):
    """The lines do not lead from the opening to the closing balance: the books are damaged."""


@dataclass(frozen=True, slots=True)
class Movement:
    """A posting as a statement shows it; ``place`` orders those of one instant."""

    occurred_at: datetime
    place: tuple[int, int]
    entry_key: str
    original_occurred_at: datetime | None
    posted_at: datetime
    description: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Line:
    """A movement and the balance after it, debit positive."""

    movement: Movement
    balance_minor: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a whole statement; ``debit_minor`` and ``credit_minor`` are of the lines, both >= 0."""

    opening_balance_minor: int
    debit_minor: int
    credit_minor: int
    line_count: int
    through_entry_id: int

    @property
    def closing_balance_minor(self) -> int:
        """Opening balance plus debits minus credits."""
        return self.opening_balance_minor + self.debit_minor - self.credit_minor


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the pages before have come: the balance, and the lines, debits and credits shown."""

    balance_minor: int
    line_count: int = 0
    debit_minor: int = 0


def continue_lines(
    summary: Summary, progress: Progress, movements: Iterable[Movement]
) -> tuple[Sequence[Line], Progress]:
    """Return the lines of ``movements`` and the progress behind them.

    Raises:
        StatementUnsoundError: more lines than the statement has, or an end that is not its closing balance.
    """
    lines: list[Line] = []
    for movement in movements:
        balance_minor = progress.balance_minor + movement.amount_minor
        progress = replace(
            progress,
            balance_minor=balance_minor,
            line_count=progress.line_count + 1,
            debit_minor=progress.debit_minor + max(movement.amount_minor, 0),
        )
        lines.append(Line(movement, balance_minor))
    if progress.line_count > summary.line_count:
        raise StatementUnsoundError("There are more lines than postings were counted.")
    if progress.line_count == summary.line_count and (progress.balance_minor, progress.debit_minor) != (
        summary.closing_balance_minor,
        summary.debit_minor,
    ):
        raise StatementUnsoundError("The lines do not add up to the closing balance.")
    return lines, progress
