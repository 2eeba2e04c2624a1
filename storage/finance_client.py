"""Finance over its HTTP contract (ADR 0004, ADR 0009). Adapter of ``Books``.

Concurrent bookings of one process share a batch request. Each entry is acknowledged by itself, so a bad
one does not spoil its neighbours; an answer that cannot be read counts as no acknowledgement. An entry that
came too late for its month is booked once more, in the open period, with its original date: Finance knows
the two for the same content, so a repetition is answered whatever became of the first try.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from ssl import SSLContext
from typing import Any

import aiohttp
import orjson

from domain.errors import DependencyError, MarketplaceError, RejectedError
from domain.orders.ports import Acknowledgement
from storage.batching import Batcher
from storage.finance.client_tls import ClientTls, misconfigured, refusal

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0  # a ledger entry is one insert; longer means that we do not know
BATCH_MAX = 100  # entries per request: well under Finance's 1 MiB body and 500-entry limits
WAITING_MAX = 2_000  # bookings queued in one process; beyond it the effect is deferred
LINGER_S = 0.003  # a booking waits this long for company: a request costs several times an entry
_REFUSALS = range(400, 500)
_NOT_ALLOWED = (401, 403)
_ANSWERS = frozenset({*range(200, 300), 400, 404, 409, 422})  # what says something about the request itself
PERIOD_CLOSED = "period_closed"
# By what follows the order's id in an entry's key; part of the entry's content, so never changed.
_DESCRIPTIONS = {
    "capture": "Sale",
    "refund": "Refund",
    "refund_reversal": "Refund that failed",
    "dispute": "Dispute",
    "dispute_won": "Dispute won",
    "dispute_fee": "Dispute fee",
    "fee": "Processing fee",
}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class FinanceClient:
    """One per process and event loop.

    ``token`` may be empty when ``tls`` presents a certificate, which then tells who we are.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tls: ClientTls | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._base = url
        self._url = f"{url}/v1/entries/batch"
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._tls = tls
        self._now = now
        self._context: SSLContext | None = None  # what the session's connections are made with
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
            DependencyError: ``finance_unavailable``, not known to be done; ``finance_misconfigured``, not
                done, and operators must mend a certificate, a token or a role.
        """
        entry = entry_body(entry_key, currency, at, postings)
        try:
            return await self._batcher.submit(entry)
        except RejectedError as refused:
            if refused.code != PERIOD_CLOSED or self._now() <= at:
                raise
        log.warning("entry %s came after its period was closed: booked in the open one", entry_key)
        return await self._batcher.submit({**entry, "occurred_at": self._now(), "original_occurred_at": at})

    async def ask(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        """Send one request beside the bookings; returns the status, below 500, and the parsed body.

        Raises:
            DependencyError: ``finance_unavailable`` or ``finance_misconfigured``, as for a booking.
        """
        session = await self._session()
        data = None if body is None else orjson.dumps(body)
        try:
            async with session.request(method, f"{self._base}{path}", params=params, data=data) as response:
                raw = await response.read()
                if response.status in _NOT_ALLOWED or response.status not in _ANSWERS:
                    raise _refused(response.status, raw)
                return response.status, orjson.loads(raw)
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise await self._failure(error) from error

    async def close(self) -> None:
        """Close connections; bookings under way fail as unavailable and are retried by their effect."""
        if self._http is not None:
            await self._http.close()

    async def _send(self, entries: Sequence[dict[str, Any]]) -> list[Acknowledgement | Exception]:
        session = await self._session()
        try:
            async with session.post(self._url, data=orjson.dumps({"entries": entries})) as response:
                if not response.ok:
                    raise _refused(response.status, await response.read())
                return [_answer(result) for result in orjson.loads(await response.read())["results"]]
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise await self._failure(error) from error

    async def _session(self) -> aiohttp.ClientSession:
        context = self._tls.context() if self._tls is not None else None
        if self._http is not None and context is self._context:
            return self._http
        if self._http is not None:
            # Renewed certificates: no request is under way, since the batcher sends one at a time.
            await self._http.close()
        self._context = context
        self._http = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=None if context is None else aiohttp.TCPConnector(ssl=context),
        )
        return self._http

    async def _failure(self, error: Exception) -> DependencyError:
        if isinstance(error, aiohttp.ClientSSLError):  # Finance is not whom our CA names
            return misconfigured(f"Finance's certificate is not accepted: {_reason(error)}.")
        if self._context is not None and isinstance(error, aiohttp.ClientConnectionError):
            reason = await refusal(self._url, self._context)
            if reason is not None:
                return misconfigured(f"Finance does not accept our certificate: {reason}.")
        return _unavailable(type(error).__name__)


def entry_body(
    entry_key: str, currency: str, at: datetime, postings: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Return the document of an entry about an order: the same for the same arguments, whoever posts it."""
    return {
        "entry_key": entry_key,
        "currency": currency,
        "occurred_at": at,
        "description": _DESCRIPTIONS.get(entry_key.split(":")[1], "Return"),
        "postings": [{"account": account, "amount_minor": amount} for account, amount in postings],
    }


def _answer(result: dict[str, Any]) -> Acknowledgement | MarketplaceError:
    if entry := result.get("entry"):
        postings = [(posting["account"], posting["amount_minor"]) for posting in entry["postings"]]
        return Acknowledgement(entry["entry_key"], entry["entry_id"], entry["currency"], postings)
    if result.get("status") in _REFUSALS:
        return RejectedError(result["problem"]["code"], result["problem"]["detail"])
    return _unavailable(f"entry status {result.get('status')}")


def _refused(status: int, body: bytes) -> DependencyError:
    if status not in _NOT_ALLOWED:
        return _unavailable(f"status {status}")
    try:
        problem = orjson.loads(body)
        reason = f"{problem['code']}: {problem['detail']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        reason = f"status {status}"
    return misconfigured(f"Finance does not let us book: {reason}")


def _reason(error: aiohttp.ClientSSLError) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    return str(getattr(cause, "verify_message", "") or cause)


def _unavailable(reason: str) -> DependencyError:
    return DependencyError("finance_unavailable", f"Finance did not acknowledge: {reason}.", 2)
