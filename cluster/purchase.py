"""One purchase as a buyer's browser makes it: place the order, pay at Stripe, follow it to the end.

The card goes from the buyer to Stripe and never through the marketplace: the PaymentIntent is confirmed
at Stripe's API with the publishable key and the client secret of the order. With Checkout, Stripe's own
page takes the card, and the buyer is shown its address.
Decides which failures are the buyer's to mend (a declined card) and says so. Never repeats a confirmation
blindly: confirming a succeeded PaymentIntent again is refused by Stripe and counts as paid here.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from cluster.client import TIMEOUT_S, ClientError, MarketplaceClient
from cluster.client_documents import Order, OrderEvent
from domain.manifests import CHANNELS

FOLLOW_TIMEOUT_S = 120.0  # a healthy order takes under a second; the rest is for a host being replaced
CHECKOUT_TIMEOUT_S = 1_800.0  # as long as the page itself can be paid
OPEN_TIMEOUT_S = 30.0  # Stripe's answer to opening the payment
POLL_S = 0.25
PAID = frozenset({"succeeded", "processing", "requires_capture"})


@dataclass(frozen=True, slots=True)
class Wish:
    """What to buy: ``recipient`` only in mode ``recipient``; ``method`` is how it is paid.

    ``where`` is the buyer's ``country`` and ``postal_code``, as far as given, and a ``discount_code``.
    """

    sku_id: str
    quantity: int
    currency: str
    mode: str
    recipient: str | None
    method: str = "payment_intent"
    where: Mapping[str, str] = field(default_factory=dict)
    channel: str = CHANNELS[0]

    def cart(self) -> dict[str, Any]:
        """Give the request for a quote."""
        line: dict[str, Any] = {"sku_id": self.sku_id, "quantity": self.quantity}
        if self.channel != CHANNELS[0]:
            line["channel"] = self.channel
        return {"lines": [line], "currency": self.currency, **self.where}

    def body(self) -> dict[str, Any]:
        """Give the request to place the order."""
        delivery = {"mode": self.mode} | ({"recipient": self.recipient} if self.recipient else {})
        return {**self.cart(), "delivery": delivery, "payment_method": self.method}


def wait_for_payment(client: MarketplaceClient, order: Order) -> Order:
    """Return the order once it can be paid (or has ended).

    Raises:
        ClientError: ``payment_not_open`` after ``OPEN_TIMEOUT_S`` seconds.
    """
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while order["status"] in {"created", "screened"}:
        if time.monotonic() > deadline:
            raise ClientError(
                f"Order {order['id']} is placed, but its payment did not open in time. It goes on by itself; "
                "try `marketplace buyer buy` again later or look at the order.",
                "payment_not_open",
            )
        time.sleep(POLL_S)
        order = client.order(order["id"])
    if order["status"] == "cancelled":
        end = order["end"] or {"code": "cancelled", "reason": None}
        reason = end["reason"] or "no reason was given"
        raise ClientError(f"The order was cancelled: {reason} ({end['code']}).", end["code"])
    return order


def confirm_payment(
    stripe_api: str, order: Order, card: str, transport: httpx.BaseTransport | None = None
) -> str | None:
    """Confirm the order's PaymentIntent with a card; returns a page to visit if the bank asks for one.

    Raises:
        ClientError: ``card_declined`` with Stripe's message, ``payment_failed``, ``stripe_unreachable``.
    """
    payment = order["payment"]
    if not payment["client_secret"] or not payment["payment_intent_id"]:
        raise ClientError(f"Order {order['id']} is {order['status']} and cannot be paid.", "not_payable")
    form = {"client_secret": payment["client_secret"], "payment_method": card}
    try:
        with httpx.Client(timeout=TIMEOUT_S, transport=transport) as http:
            response = http.post(
                f"{stripe_api}/v1/payment_intents/{payment['payment_intent_id']}/confirm",
                data=form,
                headers={"Authorization": f"Bearer {payment['publishable_key']}"},
            )
            answer = response.json()
    except httpx.TransportError as error:
        raise ClientError(
            f"Stripe at {stripe_api} does not answer: {error or type(error).__name__}. The order waits for "
            "payment; set MARKETPLACE_STRIPE_API if this is not the address.",
            "stripe_unreachable",
        ) from error
    except ValueError:
        raise ClientError(f"{stripe_api} is not Stripe: it answered no JSON.", "stripe_unreachable") from None
    if response.is_success:
        return _next_page(answer)
    error_document = answer.get("error", {})
    if error_document.get("payment_intent", {}).get("status") == "succeeded":
        return None  # somebody was faster, with the same order: it is paid
    raise ClientError(
        f"Not paid: {error_document.get('message', 'Stripe gave no reason')} The order waits for another try "
        "with another card.",
        str(error_document.get("code", "payment_failed")),
    )


def _next_page(intent: dict[str, Any]) -> str | None:
    if intent.get("status") in PAID:
        return None
    redirect = (intent.get("next_action") or {}).get("redirect_to_url") or {}
    if redirect.get("url"):
        return str(redirect["url"])
    raise ClientError(f"Stripe left the payment {intent.get('status')}. Try another card.", "payment_failed")


def follow_to_end(
    client: MarketplaceClient, order_id: str, on_event: Callable[[OrderEvent], None], timeout_s: float
) -> Order:
    """Report an order's events until it is delivered; returns the order.

    Raises:
        ClientError: it ended otherwise, or ``follow_timeout``.
    """
    for event in client.follow(order_id, timeout_s):
        on_event(event)
    order = client.order(order_id)
    if order["status"] != "delivered":
        end = order["end"] or {"code": order["status"], "reason": None}
        raise ClientError(
            f"Order {order_id} ended as {order['status']}: {end['reason'] or end['code']}.", str(end["code"])
        )
    return order
