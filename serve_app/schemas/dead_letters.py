"""Bodies of dead letters and of what operators decide about them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from serve_app.schemas.base import Document, Request, rfc3339
from storage.market.dead_letters import DeadLetter as DeadLetterRow

REASON_CHARS_MIN, REASON_CHARS_MAX = 3, 500  # a reason is a sentence for whoever reads it in a year
# One line, no control characters, no blank at its ends. Spelt with \u so that every regex dialect reads it.
REASON_PATTERN = r"^[^\u0000-\u0020\u007f][^\u0000-\u001f\u007f]*[^\u0000-\u0020\u007f]$"
LetterKind = Literal["effect", "webhook", "event"]


class DeadLetterReason(Request):
    """Why the operator does it; kept for good."""

    reason: Annotated[
        str,
        Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN),
    ]


class DeadLetter(Document):
    """Work that was given up. ``work``: an effect's step, a webhook's type, or a consumer's name."""

    id: str
    kind: LetterKind
    subject: str = Field(description="The order's id")
    work: str
    code: str
    error: str
    attempts: int
    dead_since: str


class DeadLetterPage(Document):
    """Dead letters, the one that died last first."""

    items: list[DeadLetter]
    next_cursor: str | None


class DeadLetterDecision(Document):
    """What was done, under which record, and what follows from it."""

    id: str
    decision: Literal["retried", "dropped"]
    action_id: str
    reason: str
    consequence: str


def letter_document(row: DeadLetterRow) -> dict[str, Any]:
    """Write one letter as ``DeadLetter``."""
    return {
        "id": row.letter_id,
        "kind": row.kind,
        "subject": row.order_id,
        "work": row.work,
        "code": row.code,
        "error": row.error,
        "attempts": row.attempts,
        "dead_since": rfc3339(row.dead_since),
    }
