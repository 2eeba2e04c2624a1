"""Finance, modelled: a double-entry ledger with idempotent entry keys that echoes what it booked.

The same key with the same content answers the same; with other content it is refused. ``SimulatedFinance`` is
the production client (batching, documents, errors); only its HTTP session is the simulation's.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import aiohttp
import orjson

from cluster.simulation.faults import Fault
from cluster.simulation.loop import Process
from cluster.simulation.network import Network, Server
from storage.finance_client import TIMEOUT_S, FinanceClient


@dataclass(frozen=True, slots=True)
class Entry:
    """A booked entry."""

    entry_key: str
    currency: str
    postings: tuple[tuple[str, int], ...]
    content_digest: bytes


@dataclass
class Finance:
    """See the module. Entries are never changed, so they are their own history."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def post_entries(self, body: bytes, fault: Fault | None) -> bytes:
        """POST /v1/entries/batch: each entry is judged by itself."""
        return orjson.dumps({"results": [self._post(one, fault) for one in orjson.loads(body)["entries"]]})

    def _post(self, wanted: dict[str, Any], fault: Fault | None) -> dict[str, Any]:
        if fault is Fault.REJECTED:
            return _problem("account_closed", "The account takes no postings now.")
        postings = tuple((one["account"], one["amount_minor"]) for one in wanted["postings"])
        if sum(amount for _, amount in postings):
            return _problem("entry_unbalanced", "The postings do not sum to zero.")
        key = wanted["entry_key"]
        digest = hashlib.sha256(orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS)).digest()
        entry = self.entries.setdefault(key, Entry(key, wanted["currency"], postings, digest))
        if entry.content_digest != digest:
            return _problem("entry_conflict", "This key was used for another entry.")
        skew_minor = 1 if fault is Fault.WRONG_AMOUNT else 0
        return {
            "entry": {
                "entry_key": key,
                "entry_id": f"ent_{key}",
                "currency": entry.currency,
                "postings": [
                    {"account": account, "amount_minor": amount + skew_minor}
                    for account, amount in entry.postings
                ],
            }
        }


class SimulatedFinance(FinanceClient):
    """The production client of one process."""

    def __init__(self, network: Network, process: Process, server: Server, model: Finance) -> None:
        super().__init__("finance", "token")
        session = _Session(network, process, server, model)
        self._http = cast("aiohttp.ClientSession", session)


class _Session:
    """As much of ``aiohttp.ClientSession`` as the client uses."""

    def __init__(self, network: Network, process: Process, server: Server, model: Finance) -> None:
        self._network = network
        self._process = process
        self._server = server
        self._model = model

    def post(self, _url: str, *, data: bytes) -> "_Exchange":
        return _Exchange(self, data)

    async def close(self) -> None:
        """Close nothing."""

    async def exchange(self, body: bytes) -> bytes:
        return await self._network.call(
            self._process,
            self._server,
            "finance.post_entries",
            _order_of(body),
            lambda: self._model.post_entries(body, self._network.executing),
            _lost,
            TIMEOUT_S,
        )


class _Exchange:
    """A request under way, and then its response."""

    ok = True
    status = 200

    def __init__(self, session: _Session, body: bytes) -> None:
        self._session = session
        self._body = body
        self._answer = b""

    async def __aenter__(self) -> Self:
        self._answer = await self._session.exchange(self._body)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def read(self) -> bytes:
        return self._answer


def _order_of(body: bytes) -> str:
    keys: Sequence[dict[str, Any]] = orjson.loads(body)["entries"]
    return str(keys[0]["entry_key"]).partition(":")[0]


def _problem(code: str, detail: str) -> dict[str, Any]:
    return {"status": 422, "problem": {"code": code, "detail": detail}}


def _lost(why: str) -> Exception:
    return TimeoutError(why) if "gave up" in why else aiohttp.ClientConnectionError(why)
