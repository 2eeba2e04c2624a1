"""The shape of each API object at birth, as Stripe's API of 2026-10-28 documents it.

Fields for products that the simulator lacks (customers, application fees, tax) are there with the value that
Stripe gives when they are unused, so that code written against Stripe finds what it reads.
"""

from collections.abc import Sequence

from cluster.local.stripe.cards import Decline, TestCard
from cluster.local.stripe.refusals import DOC_URL, Document

EMPTY_BILLING: Document = {
    "address": {
        "city": None,
        "country": None,
        "line1": None,
        "line2": None,
        "postal_code": None,
        "state": None,
    },
    "email": None,
    "name": None,
    "phone": None,
    "tax_id": None,
}


def payment_intent(intent_id: str, client_secret: str, created: int, values: Document) -> Document:
    """A PaymentIntent without a payment method; ``values`` are the parameters of its creation."""
    automatic = values.get("automatic_payment_methods")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": values["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": automatic,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": values.get("capture_method", "automatic"),
        "client_secret": client_secret,
        "confirmation_method": "automatic",
        "created": created,
        "currency": values["currency"],
        "customer": None,
        "description": values.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": values.get("metadata", {}),
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": values.get("payment_method_types", ["card"]),
        "processing": None,
        "receipt_email": values.get("receipt_email"),
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "statement_descriptor": values.get("statement_descriptor"),
        "statement_descriptor_suffix": values.get("statement_descriptor_suffix"),
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": values.get("transfer_group"),
    }


def payment_method(method_id: str, created: int, card: TestCard, expiry: tuple[int, int]) -> Document:
    """A card PaymentMethod; ``expiry`` is (month, year)."""
    return {
        "id": method_id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": EMPTY_BILLING,
        "card": {
            "brand": card.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": card.brand,
            "exp_month": expiry[0],
            "exp_year": expiry[1],
            "fingerprint": card.fingerprint,
            "funding": card.funding,
            "generated_from": None,
            "last4": card.last4,
            "networks": {"available": [card.brand], "preferred": None},
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": created,
        "customer": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }


def charge(
    charge_id: str,
    created: int,
    intent: Document,
    method: Document,
    decline: Decline | None,
    *,
    authenticated: bool,
) -> Document:
    """The Charge of one attempt to pay ``intent`` with ``method``: authorised, or declined."""
    return {
        "id": charge_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "STRIPE SIMULATOR",
        "captured": False,
        "created": created,
        "currency": intent["currency"],
        "customer": None,
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": decline.code if decline else None,
        "failure_message": decline.message if decline else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "on_behalf_of": None,
        "outcome": outcome(decline),
        "paid": decline is None,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": card_details(
            intent["amount"], method["card"], decline, authenticated=authenticated
        ),
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": None,
        "source_transfer": None,
        "statement_descriptor": intent["statement_descriptor"],
        "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
        "status": "failed" if decline else "succeeded",
        "transfer_data": None,
        "transfer_group": intent["transfer_group"],
    }


def card_details(amount: int, card: Document, decline: Decline | None, *, authenticated: bool) -> Document:
    """A Charge's ``payment_method_details``: the card as it was at this attempt."""
    checks = card["checks"]
    if decline is not None and decline.code == "incorrect_cvc":
        checks = {**checks, "cvc_check": "fail"}
    return {
        "card": {
            "amount_authorized": None if decline else amount,
            "brand": card["brand"],
            "checks": checks,
            "country": card["country"],
            "exp_month": card["exp_month"],
            "exp_year": card["exp_year"],
            "fingerprint": card["fingerprint"],
            "funding": card["funding"],
            "last4": card["last4"],
            "network": card["brand"],
            "three_d_secure": THREE_D_SECURE if authenticated else None,
            "wallet": None,
        },
        "type": "card",
    }


THREE_D_SECURE: Document = {
    "authentication_flow": "challenge",
    "electronic_commerce_indicator": "05",
    "result": "authenticated",
    "result_reason": None,
    "version": "2.2.0",
}


def outcome(decline: Decline | None) -> Document:
    """How the network and the risk check answered."""
    declined = decline is not None
    return {
        "advice_code": "try_again_later" if declined else None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "declined_by_network" if declined else "approved_by_network",
        "reason": decline.decline_code if decline else None,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": "The bank declined the payment." if declined else "Payment complete.",
        "type": "issuer_declined" if declined else "authorized",
    }


def payment_error(
    code: str,
    message: str,
    method: Document,
    *,
    decline_code: str | None = None,
    charge_id: str | None = None,
) -> Document:
    """A PaymentIntent's ``last_payment_error``, also the body of the 402 that reports it."""
    error: Document = {
        "code": code,
        "doc_url": DOC_URL + code.replace("_", "-"),
        "message": message,
        "payment_method": method,
        "type": "card_error" if charge_id else "invalid_request_error",
    }
    if charge_id is not None:
        error["charge"] = charge_id
    if decline_code is not None:
        error["decline_code"] = decline_code
    return error


def refund(
    refund_id: str, created: int, charged: Document, amount: int, values: Document, *, pending: bool = False
) -> Document:
    """A refund of ``amount`` minor units of a Charge, done at once or ``pending``."""
    made: Document = {
        "id": refund_id,
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charged["id"],
        "created": created,
        "currency": charged["currency"],
        "destination_details": {
            "card": {
                "reference": None,
                "reference_status": "pending",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": values.get("metadata", {}),
        "payment_intent": charged["payment_intent"],
        "reason": values.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "pending" if pending else "succeeded",
        "transfer_reversal": None,
    }
    if pending:
        made["pending_reason"] = "processing"
    return made


def webhook_endpoint(
    endpoint_id: str, created: int, url: str, enabled_events: Sequence[str], values: Document
) -> Document:
    """A webhook endpoint, without its secret."""
    return {
        "id": endpoint_id,
        "object": "webhook_endpoint",
        "api_version": values.get("api_version"),
        "application": None,
        "created": created,
        "description": values.get("description"),
        "enabled_events": list(enabled_events),
        "livemode": False,
        "metadata": values.get("metadata", {}),
        "status": "enabled",
        "url": url,
    }


def page(url: str, data: Sequence[Document], *, has_more: bool) -> Document:
    """A page of a list."""
    return {"object": "list", "data": list(data), "has_more": has_more, "url": url}
