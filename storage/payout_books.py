"""Finance as payouts need it: balances of payees, bookings, reversals, statements.

Adapter of ``domain.payouts.ports.PayoutBooks`` over the one HTTP client. Finance writes liabilities as
negative balances; here what we owe is positive. A booking that came too late for its month is dated now and
names its date, as the contract asks; both are the same content.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from domain.errors import ConflictError, DependencyError, RejectedError
from domain.payouts.entries import PAYABLE_PREFIX, payable, payee_of, reversal_key
from domain.payouts.ports import Turnover
from domain.payouts.refusals import refusal
from domain.payouts.state import Payout
from domain.payouts.statements import AccountHistory, Movement
from storage.finance_client import FinanceClient

BALANCES_PAGE = 500  # Finance's own maximum, as is the next
LINES_PAGE = 1_000
PAGES_MAX = 200  # 100,000 accounts: a cursor that never ends is a broken server
_PERIOD_CLOSED, _ENTRY_UNKNOWN, _ACCOUNT_UNKNOWN = "period_closed", "entry_unknown", "account_unknown"
_OK = range(200, 300)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PayoutFinance:
    """Raises ``DependencyError`` as the client does."""

    def __init__(self, client: FinanceClient, now: Callable[[], datetime] = _utc_now) -> None:
        self._client = client
        self._now = now

    async def payables(self, currency: str, as_of: datetime) -> AsyncIterator[tuple[str, Turnover]]:
        """Yield (payee, turnover) of every payee's account in use, by name."""
        asked = {"prefix": PAYABLE_PREFIX, "currency": currency, "as_of": _time(as_of)}
        async for page in self._pages("/v1/accounts", {**asked, "limit": str(BALANCES_PAGE)}):
            for one in page["accounts"]:
                payee_id = payee_of(one["account"])
                if payee_id is not None:
                    yield payee_id, Turnover(one["debit_minor"], one["credit_minor"])

    async def owed_minor(self, payee_id: str, currency: str) -> int:
        """Return what we owe a payee now."""
        path = f"/v1/accounts/{payable(payee_id)}/balance"
        answer = _good(await self._client.ask("GET", path, params={"currency": currency}))
        return -int(answer["balance_minor"])

    async def book(self, key: str, payout: Payout, at: datetime, postings: Sequence[tuple[str, int]]) -> str:
        """Post an entry and return its id.

        Raises:
            RejectedError, ConflictError: Finance refuses it, with its code, or echoes other amounts.
        """
        legs = [{"account": account, "amount_minor": amount} for account, amount in postings]
        entry = {"entry_key": key, "currency": payout.currency, "description": f"Payout {payout.period}"}
        answer = await self._dated("/v1/entries", {**entry, "postings": legs}, at)
        if answer["postings"] != legs or answer["currency"] != payout.currency:
            raise ConflictError(
                "booking_mismatch", f"Finance booked {answer['postings']} where {legs} was asked."
            )
        return str(answer["entry_id"])

    async def reverse(self, payout: Payout, at: datetime) -> str:
        """Undo a payout's booking in full and return the reversal's id.

        Raises:
            RejectedError, ConflictError: Finance refuses it, with its code.
        """
        path = f"/v1/entries/{payout.attempt_key}/reversal"
        answer = await self._dated(path, {"entry_key": reversal_key(payout)}, at)
        return str(answer["entry_id"])

    async def history(
        self, payee_id: str, currency: str, since: datetime, until: datetime, lines_max: int
    ) -> AccountHistory:
        """Read the statement of a payee's account, all of one moment.

        Raises:
            RejectedError: ``payout_statement_too_large``.
        """
        asked = {"currency": currency, "from": _time(since), "to": _time(until), "limit": str(LINES_PAGE)}
        movements: list[Movement] = []
        opening = closing = 0
        async for page in self._pages(f"/v1/accounts/{payable(payee_id)}/statement", asked):
            if page["line_count"] > lines_max:
                raise refusal("payout_statement_too_large")
            opening, closing = -page["opening_balance_minor"], -page["closing_balance_minor"]
            movements += [
                Movement(
                    datetime.fromisoformat(line["occurred_at"]), line["entry_key"], -line["amount_minor"]
                )
                for line in page["lines"]
            ]
        return AccountHistory(opening, closing, movements)

    async def _dated(self, path: str, body: Mapping[str, Any], at: datetime) -> Any:
        status, answer = await self._client.ask("POST", path, body={**body, "occurred_at": at})
        if status not in _OK and answer.get("code") == _PERIOD_CLOSED and self._now() > at:
            late = {**body, "occurred_at": self._now(), "original_occurred_at": at}
            status, answer = await self._client.ask("POST", path, body=late)
        return _good((status, answer))

    async def _pages(self, path: str, params: Mapping[str, str]) -> AsyncIterator[Any]:
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            asked = {**params, **({"cursor": cursor} if cursor else {})}
            status, page = await self._client.ask("GET", path, params=asked)
            if page.get("code") == _ACCOUNT_UNKNOWN:
                return  # nothing was ever booked there
            yield _good((status, page))
            cursor = page["next_cursor"]
            if cursor is None:
                return
        raise DependencyError("finance_unavailable", "Finance's pages never end.", 2)


def _good(answer: tuple[int, Any]) -> Any:
    """Return the body of a success.

    Raises:
        RejectedError, ConflictError: Finance's refusal, with its code.
    """
    status, body = answer
    if status in _OK:
        return body
    words = f"Finance: {body.get('detail', status)}"
    kind = ConflictError if status == 409 else RejectedError  # noqa: PLR2004 - HTTP's conflict
    raise kind(str(body.get("code", "finance_refused")), words)


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
