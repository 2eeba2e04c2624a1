"""Finance as a reconciliation reads it, over its HTTP contract: entries of a window, of an order, balances.

It also posts: fees, entries that are missing, reversals. Entries are written as ``storage.finance_client``
writes them, so that an entry posted here and there is one entry. Takes the roles ``reader`` and ``poster``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson

from domain.errors import DependencyError, MarketplaceError, RejectedError
from domain.orders.booking import CLEARING
from domain.reconciliation.facts import Booked, Post
from storage.finance.client_tls import ClientTls
from storage.finance_client import PERIOD_CLOSED, entry_body

TIMEOUT_S = 15.0  # a page of 500 entries takes some 20 ms; Finance's own deadline is shorter
PAGE_ENTRIES = 500
BATCH_ENTRIES = 250  # half of what Finance takes in one request
CURRENCIES_MAX = 200
NOT_FOUND = 404


class Ledger:
    """One connection pool to Finance; a context manager. Raises ``DependencyError('finance_unreadable')``."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        tls: ClientTls | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        verify = True if tls is None else tls.context()
        self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, verify=verify)
        self._now = now

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()

    def balances(self) -> dict[str, int]:
        """Return what the books say that Stripe holds for us, by currency."""
        asked = {"prefix": CLEARING, "limit": str(CURRENCIES_MAX)}
        listed = self._get("/v1/accounts", asked)["accounts"]
        return {one["currency"]: one["balance_minor"] for one in listed if one["account"] == CLEARING}

    def window(self, currency: str, since: datetime, until: datetime) -> Iterator[list[Booked]]:
        """Yield pages of ``stripe:clearing``'s entries that occurred from ``since`` up to ``until``."""
        asked = {"account": CLEARING, "currency": currency, "from": _text(since), "to": _text(until)}
        return self._pages(asked)

    def of_order(self, order_id: str) -> list[Booked]:
        """Return every entry of an order."""
        return list(chain.from_iterable(self._pages({"key_prefix": f"{order_id}:"})))

    def entry(self, entry_key: str) -> Booked | None:
        """Return one entry, None when there is none of this key."""
        answer = self._ask("GET", f"/v1/entries/{quote(entry_key, safe=':/')}")
        if answer.status_code == NOT_FOUND:
            return None
        if not answer.is_success:
            raise _unreadable(f"status {answer.status_code}: {answer.text[:200]}")
        return _booked(orjson.loads(answer.content))

    def post(self, posts: Sequence[Post]) -> list[bool | MarketplaceError]:
        """Post entries; returns for each whether it is new, or why Finance refuses it."""
        outcomes: list[bool | MarketplaceError] = []
        for first in range(0, len(posts), BATCH_ENTRIES):
            batch = posts[first : first + BATCH_ENTRIES]
            answers = self._batch([_body(one) for one in batch])
            late = [n for n, answer in enumerate(answers) if _is_late(answer)]
            if late:
                # As the client of orders does: the same content, dated now, with the date that it had.
                now = self._now()
                bodies = [
                    {**_body(batch[n]), "occurred_at": now, "original_occurred_at": batch[n].at} for n in late
                ]
                for n, answer in zip(late, self._batch(bodies), strict=True):
                    answers[n] = answer
            outcomes += answers
        return outcomes

    def reverse(self, entry_key: str) -> bool:
        """Reverse an entry in full, under ``<key>:reversal``; whether that is new.

        Raises:
            RejectedError: Finance refuses, with its code.
        """
        body = {"entry_key": f"{entry_key}:reversal", "occurred_at": self._now()}
        path = f"/v1/entries/{quote(entry_key, safe=':/')}/reversal"
        answer = self._ask("POST", path, content=orjson.dumps(body))
        if answer.is_client_error:
            problem = answer.json()
            if problem["code"] == "entry_conflict":
                return False  # the same reversal, at another time of ours
            raise RejectedError(problem["code"], problem["detail"])
        return not answer.json()["replayed"]

    def _batch(self, bodies: Sequence[Mapping[str, Any]]) -> list[bool | MarketplaceError]:
        answer = self._ask("POST", "/v1/entries/batch", content=orjson.dumps({"entries": bodies}))
        if not answer.is_success:
            raise _unreadable(f"status {answer.status_code}: {answer.text[:200]}")
        return [_outcome(result) for result in orjson.loads(answer.content)["results"]]

    def _pages(self, asked: Mapping[str, str]) -> Iterator[list[Booked]]:
        params = {**asked, "limit": str(PAGE_ENTRIES)}
        while True:
            page = self._get("/v1/entries", params)
            yield [_booked(entry) for entry in page["entries"]]
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    def _get(self, path: str, params: Mapping[str, str]) -> Any:
        answer = self._ask("GET", path, params=params)
        if not answer.is_success:
            raise _unreadable(f"status {answer.status_code}: {answer.text[:200]}")
        return orjson.loads(answer.content)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if "content" in more else {}
        try:
            answer = self._http.request(method, path, headers=headers, **more)
        except httpx.HTTPError as error:
            raise _unreadable(type(error).__name__) from error
        if answer.is_server_error:
            raise _unreadable(f"status {answer.status_code}")
        return answer


def _booked(entry: Mapping[str, Any]) -> Booked:
    return Booked(
        entry["entry_key"],
        entry["currency"],
        [(leg["account"], leg["amount_minor"]) for leg in entry["postings"]],
        datetime.fromisoformat(entry["occurred_at"]),
        "reverses" in entry or "reversed_by" in entry,
    )


def _body(post: Post) -> dict[str, Any]:
    return entry_body(post.entry_key, post.currency, post.at, post.postings)


def _outcome(result: Mapping[str, Any]) -> bool | MarketplaceError:
    if "entry" in result:
        return not result["entry"]["replayed"]
    return RejectedError(result["problem"]["code"], result["problem"]["detail"])


def _is_late(outcome: bool | MarketplaceError) -> bool:  # noqa: FBT001 - one of two outcomes
    return isinstance(outcome, RejectedError) and outcome.code == PERIOD_CLOSED


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _unreadable(reason: str) -> DependencyError:
    return DependencyError("finance_unreadable", f"Finance could not be read: {reason}.", 2)
