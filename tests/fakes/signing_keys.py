"""The platform's keys on record, in memory; see ``storage.market.signing_keys``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from domain import key_lists
from domain.errors import ConflictError
from storage.market.commands import Recorded, Write
from storage.market.signing_keys import KeysOnRecord, read_list

if TYPE_CHECKING:
    from tests.fakes.ingress import FakeMarket


class FakeSigningKeys:
    """One key of the first start until a list is published; ``root`` is the root's public key."""

    def __init__(self, market: FakeMarket) -> None:
        self._market = market
        self.root: bytes | None = None
        self.published: KeysOnRecord | None = None

    async def on_record(self) -> KeysOnRecord:
        return self.published or KeysOnRecord((self._market.key_record,))

    async def publish(
        self, write: Write, envelope: str, body: Mapping[str, Any], now: datetime
    ) -> Recorded | None:
        earlier = await self._market.commands.find(write)
        if earlier is not None:
            return earlier
        if self.root is None:
            raise ConflictError("key_root_missing", "There is no root.")
        listed = read_list(envelope, self.root)
        before = key_lists.EMPTY if self.published is None else self.published.listed
        assert before is not None
        key_lists.require_successor(before, listed)
        await self._market.commands.claim(write, f"key_list_{listed.version}", body)
        self.published = KeysOnRecord(tuple(key_lists.newest_first(listed.keys)), listed, envelope, self.root)
        return None
