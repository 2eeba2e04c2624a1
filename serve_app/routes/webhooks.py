"""Stripe's webhooks: verify the raw bytes, keep what an order decides on and apply it, answer.

ADR 0006. The signature is checked before a byte is parsed, in constant time, against every configured
secret; timestamps may be 300 s off in either direction. What is stored is not the event but the facts
that an order needs. Keeping and applying are one transaction, and 200 is answered after it; if the order's
host cannot be reached the webhook is kept alone, and a sweep applies it.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from starlette.responses import Response

from domain.errors import BusyError, DependencyError, MarketplaceError, NotFoundError, RejectedError
from domain.ids import is_id
from domain.money import AMOUNT_MINOR_MAX
from domain.orders.ports import CHECKOUT_NEWS, DISPUTE_NEWS, REFUND_NEWS, PaymentNews
from domain.payouts.payees import is_account_id
from serve_app import examples
from serve_app.calls import Call, parse_json, reply
from serve_app.observability import IngressMetrics
from serve_app.operations import Answer, Operation
from serve_app.schemas.operators import WebhookReceipt

log = logging.getLogger("marketplace.webhooks")

TOLERANCE_S = 300  # Stripe's own; older is a replay, newer a wrong clock or a forgery
SIGNATURE_HEADER_CHARS_MAX = 2_048
SIGNATURES_MAX = 8  # one per active secret while secrets rotate
DUE_BY_S_MAX = 253_402_300_799  # the end of the year 9999
ID_CHARS_MAX = 255
TEXT_CHARS_MAX = 500  # a decline's message for the buyer
TRANSFER_REVERSED = "transfer.reversed"
ACCOUNT_NEWS = frozenset({"account.updated", "account.application.deauthorized"})
CAPTURABLE = "payment_intent.amount_capturable_updated"
PAYMENT_KINDS = (
    *("payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.canceled"),
    *(CAPTURABLE, "payment_intent.requires_action"),
)
KINDS = frozenset({*PAYMENT_KINDS, *CHECKOUT_NEWS, *REFUND_NEWS, *DISPUTE_NEWS})
# Why a hosted page can no longer be paid, for its buyer.
CHECKOUT_ENDS = {
    "checkout.session.expired": ("checkout_expired", "The page to pay on was closed before it was paid."),
    "checkout.session.async_payment_failed": ("payment_failed", "The payment did not go through."),
}
DISPUTE_MOVES_MAX = 50  # Stripe makes one or two for a dispute, and one for each change of its fee
_OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,100}")  # it becomes part of a step's and of an entry's name
_TRANSACTION_ID = re.compile(r"[A-Za-z0-9_]{1,50}")  # so does this one, behind an object's id


def verify_signature(header: bytes, body: bytes, secrets: Sequence[str], now: datetime) -> None:
    """Check a ``Stripe-Signature`` header (``t=…,v1=…``) over the raw body.

    Raises:
        RejectedError: ``webhook_signature_invalid``.
    """
    timestamp, signatures = b"", []
    if len(header) <= SIGNATURE_HEADER_CHARS_MAX:
        for item in header.split(b","):
            name, _, value = item.strip().partition(b"=")
            if name == b"t":
                timestamp = value
            elif name == b"v1":
                signatures.append(value)
    signed = b"%b.%b" % (timestamp, body)
    valid = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        for signature in signatures[:SIGNATURES_MAX]:
            valid |= hmac.compare_digest(expected, signature)
    if not valid or not timestamp.isdigit() or len(timestamp) > 12:  # noqa: PLR2004 - int() stays cheap
        raise RejectedError(
            "webhook_signature_invalid", "The body is not signed with a secret of this endpoint."
        )
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE_S:
        raise RejectedError(
            "webhook_signature_invalid",
            f"The signature's time is more than {TOLERANCE_S} s off. Check both clocks.",
        )


def news_of(event: Any) -> PaymentNews | None:
    """Reduce a verified event to what an order decides on; None for what concerns no order of ours.

    News of refunds and disputes may name its payment only: ``order_id`` is then empty.

    Raises:
        RejectedError: ``body_malformed``.
    """
    if not isinstance(event, dict):
        raise _malformed()
    kind, event_id = event.get("type"), event.get("id")
    if not isinstance(kind, str) or not _is_short(event_id):
        raise _malformed()
    if kind not in KINDS:
        return None
    data = event.get("data")
    intent = data.get("object") if isinstance(data, dict) else None
    if not isinstance(intent, dict):
        raise _malformed()
    if kind in CHECKOUT_NEWS:
        return _checkout_news(str(event_id), kind, intent)
    if kind not in PAYMENT_KINDS:
        return _return_news(str(event_id), kind, intent)
    order_id = _order_named(intent)
    if order_id is None:
        return None
    amount_minor = intent.get("amount_capturable" if kind == CAPTURABLE else "amount_received", 0)
    currency = intent.get("currency")
    if (
        not _is_short(intent.get("id"))
        or type(amount_minor) is not int
        or not 0 <= amount_minor <= AMOUNT_MINOR_MAX
        or not isinstance(currency, str)
        or len(currency) != 3  # noqa: PLR2004 - ISO 4217
    ):
        raise _malformed()
    code, decline_code, message = _reason(kind, intent)
    return PaymentNews(
        event_id=str(event_id),
        order_id=order_id,
        kind=kind,
        payment_intent_id=str(intent["id"]),
        amount_minor=amount_minor,
        currency=currency.upper(),
        code=code,
        message=message,
        decline_code=decline_code,
    )


def _order_named(about: Mapping[str, Any]) -> str | None:
    metadata = about.get("metadata")
    order_id = metadata.get("order_id") if isinstance(metadata, dict) else None
    return order_id if isinstance(order_id, str) and is_id("ord", order_id) else None


def _checkout_news(event_id: str, kind: str, session: Mapping[str, Any]) -> PaymentNews | None:
    """Read a Checkout Session that ended unpaid; it may never have had a PaymentIntent."""
    order_id, session_id = _order_named(session), session.get("id")
    if order_id is None:
        return None
    if not isinstance(session_id, str) or not _OBJECT_ID.fullmatch(session_id):
        raise _malformed()
    code, message = CHECKOUT_ENDS[kind]
    return PaymentNews(event_id, order_id, kind, "", 0, "", code, message, object_id=session_id)


def _return_news(event_id: str, kind: str, about: Mapping[str, Any]) -> PaymentNews | None:
    """Read a Refund or a Dispute."""
    if kind == "charge.refunded":
        # A charge: older API versions embed its refunds, newest first. Newer ones tell each by itself.
        embedded = about.get("refunds")
        refunds = embedded.get("data") if isinstance(embedded, dict) else None
        if not isinstance(refunds, list) or not refunds or not isinstance(refunds[0], dict):
            return None
        about = {**refunds[0], "payment_intent": about.get("payment_intent")}
    intent_id = about.get("payment_intent")
    if intent_id is None:
        return None  # of a charge without a PaymentIntent: none of ours
    object_id, status = about.get("id"), about.get("status")
    amount_minor, currency = about.get("amount"), about.get("currency")
    if (
        not isinstance(object_id, str)
        or not _OBJECT_ID.fullmatch(object_id)
        or not _is_short(intent_id)
        or not _is_short(status)
        or type(amount_minor) is not int
        or not 0 <= amount_minor <= AMOUNT_MINOR_MAX
        or not isinstance(currency, str)
        or len(currency) != 3  # noqa: PLR2004 - ISO 4217
    ):
        raise _malformed()
    metadata = about.get("metadata")
    own = metadata if kind in REFUND_NEWS and isinstance(metadata, dict) else {}
    order_id, refund_id = own.get("order_id"), own.get("refund_id")
    known = isinstance(order_id, str) and is_id("ord", order_id)
    named = isinstance(refund_id, str) and is_id("rfd", refund_id)
    reason = about.get("failure_reason" if kind in REFUND_NEWS else "reason")
    return PaymentNews(
        event_id=event_id,
        order_id=str(order_id) if known else "",
        kind=kind,
        payment_intent_id=str(intent_id),
        amount_minor=amount_minor,
        currency=currency.upper(),
        code=str(reason or "")[:TEXT_CHARS_MAX],
        message="",
        object_id=object_id,
        object_status=str(status),
        refund_id=str(refund_id) if known and named else "",
        fees=_dispute_fees(about, currency) if kind in DISPUTE_NEWS else (),
        due_by_s=_due_by(about) if kind in DISPUTE_NEWS else 0,
    )


def _dispute_fees(dispute: Mapping[str, Any], currency: str) -> tuple[tuple[str, int], ...]:
    """What Stripe took for it so far, by balance transaction; none in another currency than the payment's."""
    moves = dispute.get("balance_transactions") or []
    if not isinstance(moves, list) or len(moves) > DISPUTE_MOVES_MAX:
        raise _malformed()
    fees: list[tuple[str, int]] = []
    for move in moves:
        if not isinstance(move, dict):
            raise _malformed()
        transaction_id, fee_minor = move.get("id"), move.get("fee")
        if not isinstance(transaction_id, str) or not _TRANSACTION_ID.fullmatch(transaction_id):
            raise _malformed()
        if type(fee_minor) is not int or abs(fee_minor) > AMOUNT_MINOR_MAX:
            raise _malformed()
        if fee_minor and move.get("currency") == currency:
            fees.append((transaction_id, fee_minor))
    return tuple(fees)


def _due_by(dispute: Mapping[str, Any]) -> int:
    """Until when evidence can be sent, in Unix seconds; 0 when there is no deadline (any more)."""
    details = dispute.get("evidence_details")
    due_by = details.get("due_by") if isinstance(details, dict) else None
    return due_by if type(due_by) is int and 0 < due_by <= DUE_BY_S_MAX else 0


def _reason(kind: str, intent: Mapping[str, Any]) -> tuple[str, str, str]:
    """Why an attempt failed, as (code, decline code, message); or what Stripe says of it in a word."""
    code, decline_code, message = "", "", ""
    match kind, intent.get("last_payment_error"), intent.get("next_action"):
        case "payment_intent.canceled", _, _:
            code = intent.get("cancellation_reason") or ""
        case "payment_intent.requires_action", _, dict() as action:
            code = action.get("type") or ""
        case "payment_intent.payment_failed", dict() as fault, _:
            code = fault.get("code") or "payment_failed"
            decline_code, message = fault.get("decline_code") or "", fault.get("message") or ""
        case "payment_intent.payment_failed", _, _:
            code = "payment_failed"
    return _short(code), _short(decline_code), _short(message)


def _short(value: object) -> str:
    return str(value)[:TEXT_CHARS_MAX]


def _is_short(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= ID_CHARS_MAX


def _malformed() -> RejectedError:
    return RejectedError("body_malformed", "The body is not an event of Stripe's.")


class WebhookRoutes:
    """The handler."""

    def __init__(self, metrics: IngressMetrics) -> None:
        self._metrics = metrics

    async def receive(self, call: Call) -> Response:
        """POST /v1/webhooks/stripe."""
        try:
            outcome = await _receive(call)
        except MarketplaceError as refused:
            self._metrics.webhook(refused.code)
            raise
        self._metrics.webhook(outcome)
        return reply(200, {"received": True, "outcome": outcome})


async def _receive(call: Call) -> str:
    body = await call.body()
    verify_signature(
        call.headers.get(b"stripe-signature", b""),
        body,
        call.ports.settings.webhook_secrets,
        call.ports.clock(),
    )
    event = parse_json(body)
    if isinstance(event, dict) and event.get("account"):
        # Of a connected account: a payee may say there what it likes, our order ids too.
        return await _look_at_account(call, event)
    if isinstance(event, dict) and event.get("type") == TRANSFER_REVERSED:
        return await _look_at_payout(call, event)
    news = news_of(event)
    if news is None:
        return "ignored"
    if not news.order_id:
        order_id = await call.ports.reads.order_of_payment(news.payment_intent_id)
        if order_id is None:
            raise NotFoundError(
                "webhook_order_unknown",
                f"No order is known to be paid by {news.payment_intent_id}. The event is not kept: send it "
                "again later.",
            )
        news = replace(news, order_id=order_id)
    try:
        return await call.ports.orders.receive(news)
    except NotFoundError:
        raise _unknown(news) from None
    except (BusyError, DependencyError) as failure:
        # No host took it. Kept for a sweep it is as safe; if not even that works, Stripe sends it again.
        log.warning("webhook %s is left to the sweep: %s", news.event_id, failure)
        known, _ = await call.ports.reads.store_webhook(news)
        if not known:
            raise _unknown(news) from None
        return "stored"


async def _look_at_account(call: Call, event: Mapping[str, Any]) -> str:
    """A connected account changed: Stripe is asked about it anew, so the news itself may be old."""
    account_id = event.get("account")
    if event.get("type") not in ACCOUNT_NEWS or not is_account_id(account_id):
        return "ignored"
    return "applied" if await call.ports.payouts.look_at_account(account_id) else "ignored"


async def _look_at_payout(call: Call, event: Mapping[str, Any]) -> str:
    """A transfer was reversed: its payout is looked at anew, at Stripe, so the news itself may be old."""
    data = event.get("data")
    transfer = data.get("object") if isinstance(data, dict) else None
    metadata = transfer.get("metadata") if isinstance(transfer, dict) else None
    payout_id = metadata.get("payout_id") if isinstance(metadata, dict) else None
    if not isinstance(payout_id, str) or not is_id("po", payout_id):
        return "ignored"
    if not await call.ports.payouts.payouts.nudge(payout_id):
        raise NotFoundError(
            "webhook_order_unknown",
            f"Payout {payout_id} is not in this database. The event is not kept: send it again later.",
        )
    return "stored"


def _unknown(news: PaymentNews) -> NotFoundError:
    return NotFoundError(
        "webhook_order_unknown",
        f"Order {news.order_id} is not in this database. The event is not kept: send it again later.",
    )


def operations(routes: WebhookRoutes) -> Sequence[Operation]:
    """List the webhooks' operation."""
    return (
        Operation(
            "POST",
            "/v1/webhooks/stripe",
            "receiveStripeEvent",
            "Stripe's signed events (Stripe-Signature over the raw body)",
            routes.receive,
            {200: Answer("Kept, known, or of no concern", WebhookReceipt, examples.WEBHOOK_RECEIPT)},
            public=True,
            rated=False,  # Stripe sends bursts after an outage; the signature is the bound
            problems=(
                *("webhook_signature_invalid", "webhook_order_unknown"),
                *("body_malformed", "json_duplicate_key", "json_number_invalid"),
            ),
        ),
    )
