"""Stripe through its official SDK: opens, captures, voids, refunds payments. Adapter of ``PaymentGateway``.

Each call carries ``<order>:<step>`` as idempotency key, so repeating a call after a crash or a lost reply
names the same PaymentIntent or Session. No card data passes here: the buyer's browser gives it to Stripe.
The SDK's own retries are off; effects retry with backoff and are counted (``actors.orders.effects``).

The SDK signs, encodes and interprets errors, but its typed objects are not built (``raw_request``): building
one costs 0.8 ms, more than the request. Its aiohttp transport costs a third of the httpx one.
"""

import logging
from collections.abc import Mapping
from typing import Any

import aiohttp
import stripe

from domain.errors import DependencyError, RejectedError
from domain.orders.decide import CAPTURE_PAYMENT, EVIDENCE_STEP, OPEN_PAYMENT, REFUND_STEP
from domain.orders.lines import Line
from domain.orders.ports import CapturedPayment, MadeRefund, OpenedPayment
from domain.orders.returned import Evidence, Refund
from domain.orders.returns import BUYER
from domain.orders.state import Order

# The SDK writes two lines per request; at this level it does not even make them.
logging.getLogger("stripe").setLevel(logging.WARNING)

TIMEOUT_S = 8.0  # Stripe's own slowest percentiles are near 3 s; longer means that we do not know
REFUNDS_LISTED_MAX = 100  # Stripe's page, and as many as an order takes of ours
_LOST = (aiohttp.ClientError, TimeoutError)  # while reading a reply; the SDK wraps only those before


class StripeGateway:
    """One per process and event loop."""

    def __init__(self, secret_key: str, api_base: str, return_url: str) -> None:
        self._return_url = return_url
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        self._client = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=self._http,
        )

    async def open_payment(self, order: Order) -> OpenedPayment:
        """Create the PaymentIntent or hosted Checkout Session of ``order``.

        Raises:
            RejectedError: ``payment_refused``; Stripe will not take this order.
            DependencyError: ``payment_provider_unavailable``; not known to be done.
        """
        key = f"{order.order_id}:{OPEN_PAYMENT}"
        try:
            if order.payment_method == "checkout":
                session = await self._post("/v1/checkout/sessions", self._session_params(order), key)
                return OpenedPayment(None, session["id"], {"checkout_url": session["url"]})
            intent = await self._post("/v1/payment_intents", _intent_params(order), key)
        except (stripe.InvalidRequestError, stripe.CardError) as refused:
            raise RejectedError("payment_refused", _words(refused)) from refused
        return OpenedPayment(intent["id"], None, {"client_secret": intent["client_secret"]})

    async def void_payment(self, order: Order) -> CapturedPayment | None:
        """Cancel the PaymentIntent or expire the Session; returns the capture if it had been paid.

        Raises:
            DependencyError: not known to be done.
        """
        intent_id = order.payment_intent_id
        try:
            # No idempotency keys: both requests are harmless to repeat, and a replayed refusal (an intent
            # that was just being processed) would keep it payable for a day.
            if order.checkout_session_id is not None:
                path = f"/v1/checkout/sessions/{order.checkout_session_id}"
                session = await self._request("get", path, {})
                if session["status"] == "open":
                    session = await self._request("post", f"{path}/expire", {})
                intent_id = session["payment_intent"] if session["status"] == "complete" else None
            if intent_id is None:
                return None
            path = f"/v1/payment_intents/{intent_id}"
            intent = await self._request("get", path, {})
            if intent["status"] not in ("canceled", "succeeded"):
                intent = await self._request("post", f"{path}/cancel", {"cancellation_reason": "abandoned"})
        except stripe.InvalidRequestError as raced:
            # It changed between our look and our request; the next try sees how it ended.
            raise DependencyError("payment_provider_unavailable", _words(raced)) from raced
        if intent["status"] != "succeeded":
            return None
        return _captured(intent)

    async def capture_payment(self, order: Order) -> CapturedPayment:
        """Take the money that an approved order's payment holds.

        Looked at first: an answer that was lost, or an error that Stripe keeps under the key, must not hide
        what became of it.

        Raises:
            RejectedError: ``capture_refused``; the authorisation is over.
            DependencyError: ``payment_provider_unavailable``; not known to be done.
        """
        path = f"/v1/payment_intents/{order.payment_intent_id}"
        try:
            intent = await self._request("get", path, {})
            if intent["status"] == "requires_capture":
                intent = await self._post(f"{path}/capture", {}, f"{order.order_id}:{CAPTURE_PAYMENT}")
        except (stripe.InvalidRequestError, stripe.CardError) as raced:
            # It changed between our look and our request; the next try sees how it ended.
            raise DependencyError("payment_provider_unavailable", _words(raced)) from raced
        if intent["status"] == "canceled":
            raise RejectedError("capture_refused", "The authorisation ended before it was captured.")
        if intent["status"] != "succeeded":
            raise DependencyError("payment_provider_unavailable", f"Stripe: the intent {intent['status']}.")
        return _captured(intent)

    async def refund(self, order: Order, refund: Refund) -> MadeRefund:
        """Refund a part of the order's payment.

        Stripe forgets idempotency keys after a day, and an outage may last longer: what was made before is
        looked for first, by our id in its metadata.

        Raises:
            RejectedError: ``refund_refused``; Stripe will not make it.
            DependencyError: ``payment_provider_unavailable``; not known to be done.
        """
        assert order.payment_intent_id is not None, "only what was paid is refunded"
        key = f"{order.order_id}:{REFUND_STEP}:{refund.refund_id}"
        params: dict[str, Any] = {
            "payment_intent": order.payment_intent_id,
            "amount": refund.amount_minor,
            "metadata": {"order_id": order.order_id, "refund_id": refund.refund_id},
        }
        if refund.origin == BUYER:
            params["reason"] = "requested_by_customer"
        try:
            made = await self._find_refund(order.payment_intent_id, refund.refund_id)
            if made is None:
                made = await self._post("/v1/refunds", params, key)
        except (stripe.InvalidRequestError, stripe.CardError) as refused:
            raise RejectedError("refund_refused", _words(refused)) from refused
        return MadeRefund(made["id"], made["status"])

    async def send_evidence(self, order: Order, dispute_id: str, evidence: Evidence) -> str:
        """Give Stripe evidence in a dispute; returns its status.

        Raises:
            RejectedError: ``evidence_refused``; Stripe will not take it.
            DependencyError: ``payment_provider_unavailable``; not known to be done.
        """
        path = f"/v1/disputes/{dispute_id}"
        key = f"{order.order_id}:{EVIDENCE_STEP}:{evidence.evidence_id}"
        params = {"evidence": dict(evidence.texts), "submit": evidence.submit}
        try:
            dispute = await self._post(path, params, key)
        except (stripe.InvalidRequestError, stripe.CardError) as refused:
            # Stripe forgets keys after a day, and submits once: what was submitted then was ours.
            dispute = await self._dispute(path)
            if not (evidence.submit and dispute.get("evidence_details", {}).get("submission_count")):
                raise RejectedError("evidence_refused", _words(refused)) from refused
        return str(dispute["status"])

    async def _dispute(self, path: str) -> Mapping[str, Any]:
        try:
            return await self._request("get", path, {})
        except stripe.InvalidRequestError:
            return {}

    async def _find_refund(self, payment_intent_id: str, refund_id: str) -> Mapping[str, Any] | None:
        listed = await self._request(
            "get", "/v1/refunds", {"payment_intent": payment_intent_id, "limit": REFUNDS_LISTED_MAX}
        )
        own = [one for one in listed["data"] if (one.get("metadata") or {}).get("refund_id") == refund_id]
        return own[0] if own else None

    async def close(self) -> None:
        """Close connections; calls under way fail as unavailable and are retried by their effect."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    async def _post(self, path: str, params: Mapping[str, Any], idempotency_key: str) -> Mapping[str, Any]:
        return await self._request("post", path, {**params, "idempotency_key": idempotency_key})

    async def _request(self, method: str, path: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            response = await self._client.raw_request_async(method, path, **params)
        except (stripe.InvalidRequestError, stripe.CardError):
            raise
        except stripe.StripeError as error:
            raise DependencyError("payment_provider_unavailable", _words(error)) from error
        except _LOST as error:
            raise DependencyError(
                "payment_provider_unavailable", f"Stripe's reply was lost: {type(error).__name__}."
            ) from error
        data: Mapping[str, Any] = response.data
        return data

    def _session_params(self, order: Order) -> Mapping[str, Any]:
        # No `expires_at`: it must lie 30 minutes ahead of each request and yet be the same in each repeat.
        # The order's own timer expires the Session instead (`void_payment`).
        metadata = {"order_id": order.order_id}
        return {
            "mode": "payment",
            "client_reference_id": order.order_id,
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata, **_capture_params(order)},
            "success_url": f"{self._return_url}/?order={order.order_id}&session={{CHECKOUT_SESSION_ID}}",
            "cancel_url": f"{self._return_url}/?order={order.order_id}",
            "line_items": [_line_item(line, order.currency) for line in order.lines],
        }


def _line_item(line: Line, currency: str) -> Mapping[str, Any]:
    # Discount and tax are of the whole line and rarely divide by its seats: Stripe is told the line's amount.
    name, quantity, unit_minor = f"{line.sku_name} {line.version}", line.quantity, line.unit_price_minor
    if line.amount_minor != line.price_minor:
        name, quantity, unit_minor = f"{line.quantity} x {name}", 1, line.amount_minor
    return {
        "quantity": quantity,
        "price_data": {
            "currency": currency.lower(),
            "unit_amount": unit_minor,
            "product_data": {"name": name},
        },
    }


def _intent_params(order: Order) -> Mapping[str, Any]:
    return {
        "amount": order.total_minor,
        "currency": order.currency.lower(),
        "metadata": {"order_id": order.order_id},
        "automatic_payment_methods": {"enabled": True},
        **_capture_params(order),
    }


def _capture_params(order: Order) -> Mapping[str, str]:
    """A flagged order's money is held until a review has approved it."""
    return {"capture_method": "manual"} if order.flagged else {}


def _captured(intent: Mapping[str, Any]) -> CapturedPayment:
    return CapturedPayment(intent["id"], intent["amount_received"], intent["currency"].upper())


def _words(error: stripe.StripeError) -> str:
    return f"Stripe: {error.user_message or type(error).__name__} (request {error.request_id})"
