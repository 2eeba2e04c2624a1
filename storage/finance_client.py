"""Finance over its HTTP contract (ADR 0004). Adapter of ``Books``.

Concurrent bookings of one process share a batch request: while one is under way, those that arrive wait
for the next. Each entry is acknowledged by itself, so a bad one does not spoil its neighbours.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import orjson

from domain.errors import BusyError, DependencyError, RejectedError
from domain.orders.ports import Acknowledgement

TIMEOUT_S = 5.0  # a ledger entry is one insert; longer means that we do not know
BATCH_MAX = 100  # entries per request: well under Finance's 1 MiB body and 500-entry limits
WAITING_MAX = 2_000  # bookings queued in one process; beyond it the effect is deferred
_REFUSAL_STATUS = range(400, 500)


@dataclass(frozen=True, slots=True)
class _Waiting:
    document: dict[str, Any]
    answer: asyncio.Future[Acknowledgement]


class FinanceClient:
    """One per process and event loop."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=TIMEOUT_S,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        self._queue: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None

    async def book(
        self, entry_key: str, currency: str, at: datetime, postings: Sequence[tuple[str, int]]
    ) -> Acknowledgement:
        """Post one entry and return Finance's echo of it.

        Raises:
            RejectedError: Finance refuses the entry for good, with its code.
            DependencyError: ``finance_unavailable``; not known to be done.
        """
        if len(self._queue) >= WAITING_MAX:
            raise BusyError("finance_queue_full", "Too many bookings wait for Finance.")
        document = {
            "entry_key": entry_key,
            "currency": currency,
            "occurred_at": at,
            "description": "Sale",
            "postings": [{"account": account, "amount_minor": amount} for account, amount in postings],
        }
        waiting = _Waiting(document, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await waiting.answer

    async def close(self) -> None:
        """Close connections; bookings under way fail as unavailable and are retried by their effect."""
        await self._http.aclose()

    async def _send(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[:BATCH_MAX], self._queue[BATCH_MAX:]
                await self._send_batch(batch)
        finally:
            self._sender = None

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        try:
            body = orjson.dumps({"entries": [waiting.document for waiting in batch]})
            response = await self._http.post("/v1/entries/batch", content=body)
            results = orjson.loads(response.content)["results"] if response.is_success else None
        except (httpx.HTTPError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            results, reason = None, type(error).__name__
        else:
            reason = f"status {response.status_code}"
        if results is None or len(results) != len(batch):
            failure = DependencyError("finance_unavailable", f"Finance did not acknowledge: {reason}.", 2)
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(failure)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():
                _settle(waiting.answer, result)


def _settle(answer: asyncio.Future[Acknowledgement], result: dict[str, Any]) -> None:
    try:
        if entry := result.get("entry"):
            postings = [(posting["account"], posting["amount_minor"]) for posting in entry["postings"]]
            answer.set_result(
                Acknowledgement(entry["entry_key"], entry["entry_id"], entry["currency"], postings)
            )
        elif result.get("status") in _REFUSAL_STATUS:
            problem = result["problem"]
            answer.set_exception(RejectedError(problem["code"], problem["detail"]))
        else:
            answer.set_exception(DependencyError("finance_unavailable", f"Finance answered {result}.", 2))
    except (KeyError, TypeError) as error:
        answer.set_exception(
            DependencyError("finance_unavailable", f"Finance's answer cannot be read: {error!r}.", 2)
        )
