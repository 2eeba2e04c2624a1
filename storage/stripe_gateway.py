"""Stripe through its official SDK: opens and voids payments. Adapter of ``PaymentGateway``.

Each call carries ``<order>:<step>`` as idempotency key, so repeating a call after a crash or a lost reply
names the same PaymentIntent or Session. No card data passes here: the buyer's browser gives it to Stripe.
The SDK's own retries are off; effects retry with backoff and are counted (``actors.orders.effects``).
"""

from collections.abc import Mapping
from typing import Any, cast

import httpx
import stripe

from domain.errors import DependencyError, RejectedError
from domain.orders.decide import OPEN_PAYMENT, PAYMENT_DEADLINE_S, VOID_PAYMENT
from domain.orders.ports import OpenedPayment
from domain.orders.state import Order

TIMEOUT_S = 8.0  # Stripe's own slowest percentiles are near 3 s; longer means that we do not know
CONNECTIONS_MAX = 32  # per process, kept alive
CHECKOUT_EXPIRY_SLACK_S = 60  # Stripe measures its 30-minute minimum from its own clock


class StripeGateway:
    """One per process and event loop."""

    def __init__(self, secret_key: str, api_base: str, return_url: str) -> None:
        self._return_url = return_url
        self._client = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=stripe.HTTPXClient(
                timeout=TIMEOUT_S,
                limits=httpx.Limits(
                    max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
                ),
            ),
        )

    async def open_payment(self, order: Order) -> OpenedPayment:
        """Create the PaymentIntent or hosted Checkout Session of ``order``.

        Raises:
            RejectedError: ``payment_refused``; Stripe will not take this order.
            DependencyError: ``payment_provider_unavailable``; not known to be done.
        """
        options: Any = {"idempotency_key": f"{order.order_id}:{OPEN_PAYMENT}"}
        try:
            if order.payment_method == "checkout":
                session = await self._client.v1.checkout.sessions.create_async(
                    cast("Any", self._session_params(order)), options
                )
                return OpenedPayment(None, session.id, {"checkout_url": session.url or ""})
            intent = await self._client.v1.payment_intents.create_async(
                cast("Any", _intent_params(order)), options
            )
        except stripe.StripeError as error:
            raise _translated(error) from error
        return OpenedPayment(intent.id, None, {"client_secret": intent.client_secret or ""})

    async def void_payment(self, order: Order) -> bool:
        """Cancel the PaymentIntent or expire the Session; False when it had been paid.

        Raises:
            DependencyError: not known to be done.
        """
        options: Any = {"idempotency_key": f"{order.order_id}:{VOID_PAYMENT}"}
        try:
            if order.checkout_session_id is not None:
                session = await self._client.v1.checkout.sessions.retrieve_async(order.checkout_session_id)
                if session.status == "open":
                    session = await self._client.v1.checkout.sessions.expire_async(session.id, {}, options)
                return session.status != "complete"
            if order.payment_intent_id is None:
                return True
            intent = await self._client.v1.payment_intents.retrieve_async(order.payment_intent_id)
            if intent.status not in ("canceled", "succeeded"):
                intent = await self._client.v1.payment_intents.cancel_async(
                    intent.id, {"cancellation_reason": "abandoned"}, options
                )
        except stripe.StripeError as error:
            raise DependencyError("payment_provider_unavailable", _words(error)) from error
        return intent.status != "succeeded"

    def _session_params(self, order: Order) -> Mapping[str, Any]:
        metadata = {"order_id": order.order_id}
        return {
            "mode": "payment",
            "client_reference_id": order.order_id,
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "success_url": f"{self._return_url}/v1/orders/{order.order_id}?session={{CHECKOUT_SESSION_ID}}",
            "cancel_url": f"{self._return_url}/v1/orders/{order.order_id}",
            "expires_at": int(order.created_at.timestamp()) + PAYMENT_DEADLINE_S + CHECKOUT_EXPIRY_SLACK_S,
            "line_items": [
                {
                    "quantity": line.quantity,
                    "price_data": {
                        "currency": order.currency.lower(),
                        "unit_amount": line.unit_price_minor,
                        "product_data": {"name": f"{line.sku_name} {line.version}"},
                    },
                }
                for line in order.lines
            ],
        }


def _intent_params(order: Order) -> Mapping[str, Any]:
    return {
        "amount": order.total_minor,
        "currency": order.currency.lower(),
        "metadata": {"order_id": order.order_id},
        "automatic_payment_methods": {"enabled": True},
    }


def _translated(error: stripe.StripeError) -> RejectedError | DependencyError:
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        return RejectedError("payment_refused", _words(error))
    return DependencyError("payment_provider_unavailable", _words(error))


def _words(error: stripe.StripeError) -> str:
    return f"Stripe: {error.user_message or type(error).__name__} (request {error.request_id})"
