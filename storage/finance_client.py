"""Finance over its HTTP contract (ADR 0004). Adapter of ``Books``.

Concurrent bookings of one process share a batch request. Each entry is acknowledged by itself, so a bad
one does not spoil its neighbours; an answer that cannot be read counts as no acknowledgement.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import aiohttp
import orjson

from domain.errors import DependencyError, MarketplaceError, RejectedError
from domain.orders.ports import Acknowledgement
from storage.batching import Batcher

TIMEOUT_S = 5.0  # a ledger entry is one insert; longer means that we do not know
BATCH_MAX = 100  # entries per request: well under Finance's 1 MiB body and 500-entry limits
WAITING_MAX = 2_000  # bookings queued in one process; beyond it the effect is deferred
LINGER_S = 0.003  # a booking waits this long for company: a request costs several times an entry
_REFUSALS = range(400, 500)


class FinanceClient:
    """One per process and event loop."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url}/v1/entries/batch"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._http: aiohttp.ClientSession | None = None  # made inside the loop that uses it
        self._batcher: Batcher[dict[str, Any], Acknowledgement] = Batcher(
            self._send, batch_max=BATCH_MAX, waiting_max=WAITING_MAX, linger_s=LINGER_S
        )

    async def book(
        self, entry_key: str, currency: str, at: datetime, postings: Sequence[tuple[str, int]]
    ) -> Acknowledgement:
        """Post one entry and return Finance's echo of it.

        Raises:
            RejectedError: Finance refuses the entry for good, with its code.
            DependencyError: ``finance_unavailable``; not known to be done.
        """
        return await self._batcher.submit(
            {
                "entry_key": entry_key,
                "currency": currency,
                "occurred_at": at,
                "description": "Sale",
                "postings": [{"account": account, "amount_minor": amount} for account, amount in postings],
            }
        )

    async def close(self) -> None:
        """Close connections; bookings under way fail as unavailable and are retried by their effect."""
        if self._http is not None:
            await self._http.close()

    async def _send(self, entries: Sequence[dict[str, Any]]) -> list[Acknowledgement | Exception]:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                headers=self._headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            )
        try:
            async with self._http.post(self._url, data=orjson.dumps({"entries": entries})) as response:
                if not response.ok:
                    raise _unavailable(f"status {response.status}")
                return [_answer(result) for result in orjson.loads(await response.read())["results"]]
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise _unavailable(type(error).__name__) from error


def _answer(result: dict[str, Any]) -> Acknowledgement | MarketplaceError:
    if entry := result.get("entry"):
        postings = [(posting["account"], posting["amount_minor"]) for posting in entry["postings"]]
        return Acknowledgement(entry["entry_key"], entry["entry_id"], entry["currency"], postings)
    if result.get("status") in _REFUSALS:
        return RejectedError(result["problem"]["code"], result["problem"]["detail"])
    return _unavailable(f"entry status {result.get('status')}")


def _unavailable(reason: str) -> DependencyError:
    return DependencyError("finance_unavailable", f"Finance did not acknowledge: {reason}.", 2)
