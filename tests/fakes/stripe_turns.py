"""The Stripe simulator's decisions without storage: a source in memory, a clock to move, all events kept."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from cluster.local.stripe.forms import parse_pairs, to_tree
from cluster.local.stripe.parameters import Specification, read
from cluster.local.stripe.refusals import Document, RefusedError
from cluster.local.stripe.turn import IdSource, PageQuery, Stored, Turn

START_MS = 1_795_000_000_000  # 18 November 2026


class MemorySource:
    """A ``Source`` over a dictionary; it keeps insertion order, which is the order of creation."""

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}

    def load(self, kind: str, object_id: str) -> bytes | None:
        stored = self.objects.get(object_id)
        return stored.body if stored is not None and stored.kind == kind else None

    def children(self, kind: str, parent: str) -> Sequence[bytes]:
        return [o.body for o in self.objects.values() if o.kind == kind and o.parent == parent]

    def page(self, query: PageQuery) -> tuple[Sequence[bytes], bool]:
        raise AssertionError(f"lists are tested on the real store, not {query}")


class StripeWorld:
    """Runs operations turn by turn and keeps what they change, as the process would."""

    def __init__(self) -> None:
        self.source = MemorySource()
        self.now_ms = START_MS
        self.events: list[Document] = []
        self._ids = IdSource()

    def turn(self) -> Turn:
        return Turn(
            self.source, self.now_ms, "http://sim.test", lambda _type: (), lambda s: f"token-{s}", self._ids
        )

    def do(
        self,
        run: Callable[[Turn, str, Any], Document | bytes],
        specification: Specification,
        object_id: str = "",
        encoded: str = "",
        required: tuple[str, ...] = (),
    ) -> Document:
        """Run an operation on an encoded form; a decline keeps its changes and is raised."""
        turn = self.turn()
        try:
            result = run(
                turn, object_id, read(to_tree(parse_pairs(encoded.encode())), specification, required)
            )
        except RefusedError as refused:
            if refused.keeps_changes:
                self.keep(turn)
            raise
        self.keep(turn)
        document: Document = orjson.loads(result) if isinstance(result, bytes) else result
        return document

    def keep(self, turn: Turn) -> None:
        for object_id, stored in turn.changed.items():
            before = self.source.objects.get(object_id)
            if before is not None and stored.parent is None:
                stored.parent = before.parent
            self.source.objects[object_id] = stored
        self.events += [orjson.loads(event.body) for event in turn.events]

    def stored(self, kind: str, object_id: str) -> Document:
        document = self.turn().find(kind, object_id)
        assert document is not None
        return document

    def event_types(self) -> list[str]:
        return [event["type"] for event in self.events]
