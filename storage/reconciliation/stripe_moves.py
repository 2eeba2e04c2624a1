"""Stripe as a reconciliation reads it: what moved the balance in a window, and all of one payment.

Balance transactions are listed page by page with the object that caused each (``expand``), so that one
request tells of a hundred movements. Only reads. Ids, amounts and words are kept; cards and persons are
not. Follows https://docs.stripe.com/api/balance_transactions/list and …/expanding_objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self

import stripe

from domain.errors import DependencyError
from domain.ids import is_id
from domain.reconciliation.facts import CHARGE, DISPUTE, REFUND, StripeObject

PAGE_MAX = 100  # Stripe's
TIMEOUT_S = 30  # a page of a hundred with their objects takes tenths of a second
RETRIES_MAX = 3  # of a read; Stripe's rate limit answers 429 now and then
OBJECTS_OF_PAYMENT_MAX = 500  # refunds of one payment, say: five pages
ENABLED = "enabled"
UNDELIVERED_LISTED_MAX = 100
_KINDS = {"ch": CHARGE, "py": CHARGE, "re": REFUND, "pyr": REFUND, "dp": DISPUTE, "du": DISPUTE}


@dataclass(frozen=True, slots=True)
class Move:
    """One balance transaction. ``about`` is its charge, refund or dispute, None for anything else.

    ``order_id`` is ours as far as the object says it itself; ``charge_id`` is what a refund or dispute is of,
    ``transfer_id`` what a transfer reversal is of.
    """

    transaction_id: str
    type: str
    source_id: str
    amount_minor: int
    currency: str
    at: datetime
    about: StripeObject | None
    order_id: str
    charge_id: str
    metadata: Mapping[str, str]
    transfer_id: str = ""


class StripeMoves:
    """One account's movements; a context manager. Raises ``DependencyError('stripe_unreadable')``."""

    def __init__(self, api_base: str, secret_key: str) -> None:
        self._http = stripe.RequestsClient(timeout=TIMEOUT_S)
        self._client = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base},
            max_network_retries=RETRIES_MAX,
            http_client=self._http,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._http.close()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    def moves(self, since: datetime, until: datetime) -> Iterator[list[Move]]:
        """Yield pages of what moved the balance from ``since`` up to ``until``, newest first."""
        params = {"created": {"gte": _unix(since), "lt": _unix(until)}, "expand": ["data.source"]}
        for page in self._pages("/v1/balance_transactions", params):
            yield [_move(one) for one in page]

    def of_payment(self, payment_intent_id: str) -> list[tuple[str, StripeObject]]:
        """Return everything of one payment that moved money, as (order id of its own metadata, object)."""
        found = []
        for path, expand in (
            ("/v1/charges", ["data.balance_transaction"]),
            ("/v1/refunds", ["data.balance_transaction"]),
            ("/v1/disputes", []),
        ):
            params = {"payment_intent": payment_intent_id, "expand": expand}
            for one in islice(chain.from_iterable(self._known_pages(path, params)), OBJECTS_OF_PAYMENT_MAX):
                transaction = one.get("balance_transaction")
                booked = transaction if isinstance(transaction, dict) else {}
                about = _object(one, booked)
                if about is not None and about.amount_minor:
                    found.append((_order_id(one), about))
        return found

    def charge(self, charge_id: str) -> tuple[str, str]:
        """Return a charge's order id (empty: none of ours) and PaymentIntent; empty for no charge."""
        try:
            found = self._get(f"/v1/charges/{charge_id}", {})
        except _MissingError:
            return "", ""
        return _order_id(found), found.get("payment_intent") or ""

    def endpoints(self) -> list[tuple[str, str, str]]:
        """List webhook endpoints as (id, address, status)."""
        return [
            (one["id"], one["url"], one["status"])
            for one in chain.from_iterable(self._pages("/v1/webhook_endpoints", {}))
        ]

    def undelivered(self, since: datetime, until: datetime) -> list[str]:
        """Return ids of events of a window that some endpoint has not taken, newest first and bounded."""
        params = {
            "created": {"gte": _unix(since), "lt": _unix(until)},
            "delivery_success": "false",
            "limit": UNDELIVERED_LISTED_MAX,
        }
        return [one["id"] for one in self._get("/v1/events", params)["data"]]

    def balance(self) -> dict[str, int]:
        """Return what Stripe holds for us by currency, available or pending, in minor units."""
        told = self._get("/v1/balance", {})
        held: dict[str, int] = {}
        for one in [*told["available"], *told["pending"]]:
            currency = one["currency"].upper()
            held[currency] = held.get(currency, 0) + one["amount"]
        return held

    def _pages(self, path: str, params: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
        asked = {"limit": PAGE_MAX, **{name: value for name, value in params.items() if value != []}}
        while True:
            page = self._get(path, asked)
            yield page["data"]
            if not page["has_more"]:
                return
            asked["starting_after"] = page["data"][-1]["id"]

    def _known_pages(self, path: str, params: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
        """The same about something that Stripe may never have heard of: then there are none."""
        try:
            yield from self._pages(path, params)
        except _MissingError:
            return

    def _get(self, path: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            data: Mapping[str, Any] = self._client.raw_request("get", path, **params).data
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                raise _MissingError from error
            raise _unreadable(error) from error
        except stripe.StripeError as error:
            raise _unreadable(error) from error
        return data


class _MissingError(Exception):
    """Stripe does not know what was asked about."""


def _unreadable(error: stripe.StripeError) -> DependencyError:
    return DependencyError(
        "stripe_unreadable", f"Stripe could not be read: {error.user_message or type(error).__name__}."
    )


def _move(one: Mapping[str, Any]) -> Move:
    source: Mapping[str, Any] = (
        one["source"] if isinstance(one["source"], dict) else {"id": one["source"] or ""}
    )
    charge, metadata, transfer = source.get("charge"), source.get("metadata"), source.get("transfer")
    return Move(
        transaction_id=one["id"],
        type=one["type"],
        source_id=source["id"],
        amount_minor=one["amount"],
        currency=one["currency"].upper(),
        at=_time(one["created"]),
        about=_object(source, one),
        order_id=_order_id(source),
        charge_id=charge if isinstance(charge, str) else "",
        metadata=metadata if isinstance(metadata, dict) else {},
        transfer_id=transfer if isinstance(transfer, str) else "",
    )


def _object(one: Mapping[str, Any], booked: Mapping[str, Any]) -> StripeObject | None:
    """Read a charge, refund or dispute with a balance transaction of its own."""
    kind = _KINDS.get(one["id"].partition("_")[0])
    if kind is None or "amount" not in one:
        return None
    fees = [booked] if booked else []
    if kind == DISPUTE:
        fees = [move for move in one.get("balance_transactions") or [] if isinstance(move, dict)]
        booked = min(fees, key=lambda move: int(move["created"]), default={})
    elif kind == CHARGE and booked.get("type", "charge") not in ("charge", "payment"):
        fees = []
    return StripeObject(
        object_id=one["id"],
        kind=kind,
        payment_intent_id=one.get("payment_intent") or "",
        amount_minor=one["amount_captured"] if kind == CHARGE else one["amount"],
        currency=one["currency"].upper(),
        status=one["status"],
        at=_time(booked.get("created", one["created"])),
        fee_minor=sum(move["fee"] for move in fees),
        fee_currency=fees[0]["currency"].upper() if fees else "",
        returned_minor=one["amount_refunded"] if kind == CHARGE else 0,
        refund_id=_refund_id(one) if kind == REFUND else "",
        reason=str(one.get("failure_reason" if kind == REFUND else "reason") or ""),
        fees=tuple(
            (move["id"], move["fee"])
            for move in fees
            if kind == DISPUTE and move["fee"] and move["currency"] == one["currency"]
        ),
    )


def _order_id(one: Mapping[str, Any]) -> str:
    order_id = (one.get("metadata") or {}).get("order_id")
    return order_id if isinstance(order_id, str) and is_id("ord", order_id) else ""


def _refund_id(one: Mapping[str, Any]) -> str:
    refund_id = (one.get("metadata") or {}).get("refund_id")
    return refund_id if isinstance(refund_id, str) and is_id("rfd", refund_id) else ""


def _unix(at: datetime) -> int:
    return int(at.timestamp())


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
