"""Dead letters in Postgres: what was given up, for an operator to retry or to drop.

Three kinds share one list: effects and webhooks that the order runtime buried, and events that a consumer
parked. A letter is named ``effect:<order_id>:<step>``, ``webhook:<event_id>`` or
``event:<consumer>:<order_id>``. A decision, its idempotency key and the operator's action (invariant I12) are
written by one statement. Whether work dies is decided elsewhere (``actors.orders.retries``,
``actors.relay.consumer``); nothing here judges whether retrying or dropping is wise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from domain.errors import ConflictError, NotFoundError, RejectedError
from domain.events import shard_of
from domain.ids import is_id
from storage.market.commands import Commands, Recorded, Write, parameters
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "dead_letters.sql").items()}

Kind = Literal["effect", "webhook", "event"]
EFFECT: Kind = "effect"
WEBHOOK: Kind = "webhook"
EVENT: Kind = "event"
KINDS: tuple[Kind, ...] = (EFFECT, WEBHOOK, EVENT)
Verb = Literal["retry", "drop"]

NEVER_DROPPED = frozenset({"audit"})  # consumers that must have every event
COUNTED_MAX = 10_000  # letters of a kind that are counted: beyond it the exact number changes nothing
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}")  # consumers are named in code
_STEP = re.compile(r"[a-z][A-Za-z0-9_:-]{0,150}")  # steps too, and may go on with what they are about
_EVENT_ID = re.compile(r"[!-~]{1,255}")
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_AFTER_EVERY_ID = "~"


@dataclass(frozen=True, slots=True)
class LetterName:
    """A letter's id, taken apart; ``work`` is an effect's step or a consumer's name. May be empty."""

    letter_id: str
    kind: Kind
    order_id: str = ""
    work: str = ""
    event_id: str = ""

    @classmethod
    def parse(cls, letter_id: str) -> "LetterName":
        """Read an id.

        Raises:
            NotFoundError: ``dead_letter_not_found``; no letter can have this name.
        """
        kind, _, rest = letter_id.partition(":")
        first, _, second = rest.partition(":")
        if kind == WEBHOOK and _EVENT_ID.fullmatch(rest):
            return cls(letter_id, WEBHOOK, event_id=rest)
        if kind == EFFECT and is_id("ord", first) and _STEP.fullmatch(second):
            return cls(letter_id, EFFECT, order_id=first, work=second)
        if kind == EVENT and _WORD.fullmatch(first) and is_id("ord", second):
            return cls(letter_id, EVENT, order_id=second, work=first)
        raise not_found()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Work that was given up. ``work`` is an effect's step, a webhook's type, or a consumer's name."""

    letter_id: str
    kind: str
    order_id: str
    work: str
    code: str
    error: str
    attempts: int
    dead_since: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator decided about a letter, and why. ``action_id`` names the record of it."""

    verb: Verb
    name: LetterName
    action_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows that wait; each number is exact up to ``COUNTED_MAX``."""

    overdue_effects: int
    overdue_webhooks: int
    dead_effects: int
    dead_webhooks: int
    dead_events: int


class DeadLetters:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    async def page(
        self, kind: Kind | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[DeadLetter]:
        """List letters (of one kind, or all), newest first, below ``before``: (dead since, letter id)."""
        before_at, before_id = before or (_END_OF_TIME, _AFTER_EVERY_ID)
        values: dict[str, Any] = {
            "before": before_at,
            "before_id": before_id,
            "limit": limit,
            "effects": kind in (None, EFFECT),
            "webhooks": kind in (None, WEBHOOK),
            "events": kind in (None, EVENT),
        }
        return [_letter(*row) for row in await fetch(self._pool, SQL["page"], values)]

    async def decide(self, write: Write, decision: Decision, body: Mapping[str, Any]) -> Recorded | None:
        """Retry or drop a letter, once per idempotency key; an earlier, equal request's record or None.

        Raises:
            NotFoundError: ``dead_letter_not_found``.
            ConflictError: ``dead_letter_gone``; it is not dead any more.
            RejectedError: ``idempotency_key_reused``, ``audit_event_needed``.
        """
        name = decision.name
        if name.kind == EVENT and decision.verb == "drop" and name.work in NEVER_DROPPED:
            raise RejectedError(
                "audit_event_needed",
                "The audit log holds every event, so this is not dropped. Mend what stops it, then retry.",
            )
        values: dict[str, Any] = {
            **parameters(write, name.letter_id, body),
            "order_id": name.order_id,
            "work": name.work,
            "event_id": name.event_id,
            "action_id": decision.action_id,
            "reason": decision.reason,
        }
        if name.kind == EVENT:
            values["shard"] = shard_of(name.order_id)
        if await fetch(self._pool, SQL[f"{decision.verb}_{name.kind}"], values):
            return None
        earlier = await self._commands.find(write)
        if earlier is None:
            ((known,),) = await fetch(self._pool, SQL["known"], values)
            raise gone() if known else not_found()
        return earlier

    async def backlog(self) -> Backlog:
        """Count what waits, for metrics."""
        return Backlog(*(await fetch(self._pool, SQL["backlog"], {"counted_max": COUNTED_MAX}))[0])


def not_found() -> NotFoundError:
    """Return the error for a name that no letter has or had."""
    return NotFoundError(
        "dead_letter_not_found",
        "There is no such dead letter. GET /v1/ops/dead-letters lists those there are.",
    )


def gone() -> ConflictError:
    """Return the error for work that is not dead."""
    return ConflictError(
        "dead_letter_gone",
        "This is not a dead letter (any more): it was retried, dropped or done meanwhile, or never given up. "
        "Nothing was changed.",
    )


def _letter(*row: Any) -> DeadLetter:
    letter_id, kind, order_id, work, code, error, attempts, dead_since = row
    return DeadLetter(letter_id, kind, order_id, work, code or "", error or "", attempts, dead_since)
