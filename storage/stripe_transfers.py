"""Stripe Connect: accounts, transfers and their reversals. Adapter of ``domain.payouts.ports.Transfers``.

A transfer carries the key of the payout's try as its idempotency key: Stripe repeats a refusal under it. It
forgets keys after a day and an outage may last longer, so what was made before, by whatever try, is looked
for first, by the payout's own key in its metadata. Only a refusal that says that nothing was made is a
``RejectedError``: the booking is reversed on its word.

https://docs.stripe.com/api/transfers, https://docs.stripe.com/api/idempotent_requests
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import stripe

from domain.errors import ConflictError, DependencyError, MarketplaceError, RejectedError
from domain.payouts.payees import AccountState
from domain.payouts.ports import MadeTransfer, TransferReversal
from domain.payouts.refusals import refusal
from domain.payouts.state import Payout
from storage.stripe_gateway import TIMEOUT_S

PAGE = 100  # Stripe's maximum
PAGES_MAX = 50  # of one account's transfers in one period, and of one transfer's reversals
KEY_FIELD, ID_FIELD = "payout", "payout_id"  # of a transfer's metadata
_LOST = (aiohttp.ClientError, TimeoutError)
_ACCOUNT_GONE = frozenset({"account_invalid", "resource_missing"})
_CODES = frozenset({"balance_insufficient", "account_invalid", "insufficient_capabilities_for_transfer"})


class StripeTransfers:
    """One per process and event loop. Raises ``DependencyError('payment_provider_unavailable')``."""

    def __init__(self, secret_key: str, api_base: str) -> None:
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self._client = stripe.StripeClient(
            secret_key, base_addresses={"api": api_base}, max_network_retries=0, http_client=self._http
        )

    async def account(self, account_id: str) -> AccountState:
        """Read whether a connected account can be paid.

        Raises:
            RejectedError: ``payee_account_unknown``.
        """
        try:
            account = await self._request("get", f"/v1/accounts/{quote(account_id, safe='')}", {})
        except (stripe.InvalidRequestError, stripe.PermissionError) as refused:
            if _code(refused) in _ACCOUNT_GONE:
                raise refusal("payee_account_unknown") from refused
            raise _unavailable(refused) from refused
        transfers = (account.get("capabilities") or {}).get("transfers", "inactive")
        return AccountState(str(transfers), bool(account["payouts_enabled"]))

    async def send(self, payout: Payout) -> MadeTransfer:
        """Make the payout's transfer, or find the one that was made.

        Raises:
            RejectedError: Stripe refuses for good; nothing was made.
            ConflictError: ``transfer_mismatch``; a transfer of this key is not this payout. Operators decide.
        """
        made = await self._find(payout)
        if made is None:
            try:
                made = await self._request("post", "/v1/transfers", _params(payout))
            except stripe.IdempotencyError as conflict:
                raise ConflictError("transfer_mismatch", _words(conflict)) from conflict
            except (stripe.InvalidRequestError, stripe.CardError) as refused:
                raise _refused(refused) from refused
            except stripe.PermissionError as refused:
                if _code(refused) in _ACCOUNT_GONE:
                    raise _refused(refused) from refused
                raise _unavailable(refused) from refused
        expected = (payout.amount_minor, payout.currency.lower(), payout.account_id)
        if (made["amount"], made["currency"], made["destination"]) != expected:
            raise ConflictError("transfer_mismatch", f"{made['id']} is not what {payout.key} should send.")
        return MadeTransfer(str(made["id"]), datetime.fromtimestamp(made["created"], UTC))

    async def reversals(self, transfer_id: str) -> Sequence[TransferReversal]:
        """List what was taken back of a transfer, oldest first."""
        path = f"/v1/transfers/{quote(transfer_id, safe='')}/reversals"
        found = [one async for one in self._pages(path, {})]
        return [
            TransferReversal(one["id"], one["amount"], datetime.fromtimestamp(one["created"], UTC))
            for one in reversed(found)
        ]

    async def close(self) -> None:
        """Close connections; calls under way fail as unavailable and are tried again."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    async def _find(self, payout: Payout) -> Mapping[str, Any] | None:
        asked = {"transfer_group": payout.period, "destination": payout.account_id}
        async for one in self._pages("/v1/transfers", asked):
            if (one.get("metadata") or {}).get(KEY_FIELD) == payout.key:
                return one
        return None

    async def _pages(self, path: str, params: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        asked = {**params, "limit": PAGE}
        for _ in range(PAGES_MAX):
            try:
                page = await self._request("get", path, asked)
            except (stripe.InvalidRequestError, stripe.PermissionError) as refused:
                raise _unavailable(refused) from refused
            for one in page["data"]:
                yield one
            if not page["has_more"]:
                return
            asked["starting_after"] = page["data"][-1]["id"]
        raise DependencyError("payment_provider_unavailable", f"Stripe's pages of {path} never end.")

    async def _request(self, method: str, path: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            response = await self._client.raw_request_async(method, path, **params)
        except (
            stripe.InvalidRequestError,
            stripe.CardError,
            stripe.PermissionError,
            stripe.IdempotencyError,
        ):
            raise
        except stripe.StripeError as error:
            raise _unavailable(error) from error
        except _LOST as error:
            raise DependencyError(
                "payment_provider_unavailable", f"Stripe's reply was lost: {type(error).__name__}."
            ) from error
        data: Mapping[str, Any] = response.data
        return data


def _params(payout: Payout) -> Mapping[str, Any]:
    return {
        "amount": payout.amount_minor,
        "currency": payout.currency.lower(),
        "destination": payout.account_id,
        "transfer_group": payout.period,
        "description": f"Payout {payout.period}",
        "metadata": {KEY_FIELD: payout.key, ID_FIELD: payout.payout_id},
        "idempotency_key": payout.attempt_key,
    }


def _refused(error: stripe.StripeError) -> MarketplaceError:
    code = _code(error)
    return RejectedError(code if code in _CODES else "transfer_refused", _words(error))


def _code(error: stripe.StripeError) -> str:
    """Return Stripe's code; the SDK does not pass that of a 403 on."""
    return str(error.code or getattr(error.error, "code", None) or "")


def _unavailable(error: stripe.StripeError) -> DependencyError:
    return DependencyError("payment_provider_unavailable", _words(error))


def _words(error: stripe.StripeError) -> str:
    return f"Stripe: {error.user_message or type(error).__name__} (request {error.request_id})"
