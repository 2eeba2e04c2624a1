"""The record of links to deliveries and of joined objects, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from storage.market.deliveries import LINKS_MAX, LISTED_MAX, WINDOW_S, IssuedLink, limited
from storage.s3 import StoredObject
from tests.fakes.orders import FakeClock


@dataclass
class FakeDeliveries:
    clock: FakeClock
    issued: list[IssuedLink] = field(default_factory=list)
    windows: dict[tuple[str, str], tuple[datetime, int]] = field(default_factory=dict)
    objects: dict[str, tuple[str, StoredObject | None, datetime]] = field(default_factory=dict)
    made: Counter[str] = field(default_factory=Counter)

    async def take_links(
        self, order_id: str, delivery_ids: Sequence[str], issued_to: str, kind: str, expires_at: datetime
    ) -> None:
        now = self.clock()
        counted = {}
        for delivery_id in delivery_ids:
            opened_at, links = self.windows.get((delivery_id, kind), (now, 0))
            if opened_at <= now - timedelta(seconds=WINDOW_S):
                opened_at, links = now, 0
            if links >= LINKS_MAX[kind]:
                left = opened_at + timedelta(seconds=WINDOW_S) - now
                raise limited(kind, int(left.total_seconds()))
            counted[delivery_id, kind] = (opened_at, links + 1)
        self.windows |= counted
        for delivery_id in sorted(delivery_ids):
            position = len(self.issued) + 1
            self.issued.append(IssuedLink(position, delivery_id, order_id, issued_to, kind, now, expires_at))

    async def links(self, delivery_id: str) -> list[IssuedLink]:
        return [one for one in reversed(self.issued) if one.delivery_id == delivery_id][:LISTED_MAX]

    async def keep_joined(self, delivery_id: str, kept_s: int) -> StoredObject | None:
        for key, (of, joined, expires_at) in self.objects.items():
            if of == delivery_id and joined is not None and expires_at > self.clock():
                self.objects[key] = (of, joined, self.clock() + timedelta(seconds=kept_s))
                return joined
        return None

    async def begin_joined(self, delivery_id: str, object_key: str, kept_s: int) -> None:
        self.objects[object_key] = (delivery_id, None, self.clock() + timedelta(seconds=kept_s))

    async def record_joined(self, joined: StoredObject) -> None:
        if joined.key in self.objects:
            delivery_id, _, expires_at = self.objects[joined.key]
            self.made[delivery_id] += 1
            self.objects[joined.key] = (delivery_id, joined, expires_at)

    async def expired_joined(self, limit: int) -> list[str]:
        expired = [(until, key) for key, (_, _, until) in self.objects.items() if until <= self.clock()]
        return [key for _, key in sorted(expired)][:limit]

    async def forget_joined(self, object_key: str) -> None:
        if object_key in self.objects and self.objects[object_key][2] <= self.clock():
            del self.objects[object_key]
