"""What a buyer is told when a payment fails: our advice for Stripe's decline and error codes.

Decides which reasons are a buyer's to know. A card that was reported lost or stolen, or a payment that looks
fraudulent, is told as any other decline, as Stripe asks, and so is a reason that this table does not know:
whoever tries other people's cards must learn nothing from us.
Follows https://docs.stripe.com/declines/codes and https://docs.stripe.com/error-codes.
"""

from dataclasses import dataclass

GENERIC_CODE, GENERIC = "card_declined", "generic_decline"

_OTHER_CARD = "Your bank declined the payment. Pay with another card, or ask your bank."
_CALL_BANK = "Your bank declined the payment and gave no reason. Ask your bank, or pay with another card."
_AGAIN = "The payment could not be processed. Try again in a minute; if that fails, pay with another card."
_NUMBER = "The card number is not right. Check it and try again."
_CVC = "The security code is not right. Check it and try again."
_EXPIRY = "The expiry date is not right. Check it and try again."
_PIN = "The PIN is not right, or this card needs one. Pay with another card."
_FUNDS = "The card has not enough money or credit left. Pay with another card."
_LIMIT = "The card's limit is reached. Pay with another card, or ask your bank."
_TYPE = "This card cannot be used for such a payment. Pay with another card."
_AUTHENTICATE = "Your bank wants to be sure that it is you. Try again and confirm the payment with your bank."
_UNCONFIRMED = "The payment was not confirmed. Try again and confirm it with your bank, or pay otherwise."
_ADDRESS = "The billing address does not match the card. Check it and try again."

HIDDEN = frozenset(
    {
        *("fraudulent", "lost_card", "stolen_card", "pickup_card", "merchant_blacklist", "restricted_card"),
        *("security_violation", "highest_risk_level", "elevated_risk_level"),
    }
)
_ADVICE = {
    GENERIC: _OTHER_CARD,
    **dict.fromkeys(("authentication_required", "mobile_device_authentication_required"), _AUTHENTICATE),
    **dict.fromkeys(
        ("payment_intent_authentication_failure", "setup_intent_authentication_failure"), _UNCONFIRMED
    ),
    **dict.fromkeys(
        (
            *("call_issuer", "do_not_honor", "do_not_try_again", "no_action_taken", "not_permitted"),
            *("revocation_of_all_authorizations", "revocation_of_authorization", "service_not_allowed"),
            *("stop_payment_order", "transaction_not_allowed", "invalid_account", "invalid_amount"),
            *("new_account_information_available",),
        ),
        _CALL_BANK,
    ),
    **dict.fromkeys(
        (
            *("processing_error", "issuer_not_available", "reenter_transaction", "try_again_later"),
            *("approve_with_id", "duplicate_transaction"),
        ),
        _AGAIN,
    ),
    **dict.fromkeys(("incorrect_number", "invalid_number"), _NUMBER),
    **dict.fromkeys(("incorrect_cvc", "invalid_cvc"), _CVC),
    **dict.fromkeys(("invalid_expiry_month", "invalid_expiry_year"), _EXPIRY),
    "expired_card": "The card has expired. Pay with another card.",
    **dict.fromkeys(
        (
            *("incorrect_pin", "invalid_pin", "offline_pin_required", "online_or_offline_pin_required"),
            "pin_try_exceeded",
        ),
        _PIN,
    ),
    "insufficient_funds": _FUNDS,
    **dict.fromkeys(("card_velocity_exceeded", "withdrawal_count_limit_exceeded"), _LIMIT),
    **dict.fromkeys(("card_not_supported", "currency_not_supported"), _TYPE),
    **dict.fromkeys(("incorrect_zip", "incorrect_address"), _ADDRESS),
    **dict.fromkeys(
        ("testmode_decline", "live_mode_test_card", "test_mode_live_card"),
        "A test card was used for a real payment, or a real card in a test. Use the other kind.",
    ),
    "payment_canceled": "The payment was cancelled. Try again.",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """What may be shown: Stripe's code, its decline code (None without one), and what to do."""

    code: str
    decline_code: str | None
    message: str


def advice(code: str, decline_code: str) -> Advice:
    """Return what a buyer is told of a failure; ``decline_code`` is empty when Stripe gave none.

    Failures that were recorded before decline codes had a member of their own have it as their ``code``.
    """
    told = decline_code or code
    if told in HIDDEN or (decline_code and told not in _ADVICE):
        return Advice(GENERIC_CODE, GENERIC, _ADVICE[GENERIC])
    return Advice(code, decline_code or None, _ADVICE.get(told, _OTHER_CARD))
