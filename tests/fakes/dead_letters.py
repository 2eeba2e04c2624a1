"""Dead letters over the in-memory order store; parked events are put in by tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from storage.market.commands import Recorded, Write
from storage.market.dead_letters import EFFECT, WEBHOOK, DeadLetter, Decision, gone, not_found
from tests.fakes.market_stores import FakeCommands
from tests.fakes.orders import EffectRow, FakeOrderStore, InboxRow


@dataclass
class FakeDeadLetters:
    """A letter's ``dead_since`` is its row's due time, which the fake store leaves alone when it buries."""

    store: FakeOrderStore
    commands: FakeCommands
    events: dict[str, DeadLetter] = field(default_factory=dict)
    actions: list[tuple[str, Decision]] = field(default_factory=list)

    async def page(
        self, kind: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[DeadLetter]:
        letters = sorted(self._all(), key=_place, reverse=True)
        chosen = [one for one in letters if kind in (None, one.kind)]
        return [one for one in chosen if before is None or _place(one) < before][:limit]

    async def decide(self, write: Write, decision: Decision, body: Mapping[str, Any]) -> Recorded | None:
        earlier = await self.commands.find(write)
        if earlier is not None:
            return earlier
        name = decision.name
        if name.letter_id not in {letter.letter_id for letter in self._all()}:
            raise gone() if self._known(decision) else not_found()
        await self.commands.claim(write, name.letter_id, body)
        self.actions.append((write.principal_id, decision))
        rows: dict[Any, EffectRow | InboxRow] = {**self.store.effects, **self.store.inbox}
        if name.kind == EFFECT and decision.verb == "drop":
            del self.store.effects[name.order_id, name.work]
        elif name.kind == WEBHOOK and decision.verb == "drop":
            row = self.store.inbox[name.event_id]
            row.processed, row.outcome, row.dead_code = True, "dropped", None
        elif name.kind in (EFFECT, WEBHOOK):
            revived = rows[(name.order_id, name.work) if name.kind == EFFECT else name.event_id]
            revived.dead_code, revived.attempts, revived.due_at = None, 0, self.store.clock()
        else:
            del self.events[name.letter_id]
        return None

    def _known(self, decision: Decision) -> bool:
        name = decision.name
        return (
            (name.order_id, name.work) in self.store.effects
            or name.event_id in self.store.inbox
            or any(earlier.name == name for _, earlier in self.actions)
        )

    def _all(self) -> list[DeadLetter]:
        effects = [
            DeadLetter(
                f"effect:{order_id}:{step}", "effect", order_id, step, row.dead_code, row.last_error or "",
                row.attempts, row.due_at,
            )
            for (order_id, step), row in self.store.effects.items()
            if row.dead_code is not None
        ]  # fmt: skip
        webhooks = [
            DeadLetter(
                f"webhook:{event_id}", "webhook", row.news.order_id, row.news.kind, row.dead_code,
                row.outcome or "", row.attempts, row.due_at,
            )
            for event_id, row in self.store.inbox.items()
            if row.dead_code is not None
        ]  # fmt: skip
        return [*effects, *webhooks, *self.events.values()]


def _place(letter: DeadLetter) -> tuple[datetime, str]:
    return letter.dead_since, letter.letter_id
