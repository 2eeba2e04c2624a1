"""Stripe's test cards: which number or test PaymentMethod does what.

Only the cards below exist. A number is looked up and dropped: what is kept of a card is its brand, last
four digits, expiry and a fixed fingerprint, by which a stored PaymentMethod finds its behaviour again.
Follows https://docs.stripe.com/testing.
"""

from dataclasses import dataclass
from typing import Any

from cluster.local.stripe.refusals import Document, RefusedError
from domain.card_numbers import passes_luhn

NUMBER_DIGITS_MIN = 12
NUMBER_DIGITS_MAX = 19  # ISO/IEC 7812
EXPIRY_YEARS_MAX = 50  # Stripe refuses years that no issuer prints


@dataclass(frozen=True, slots=True)
class Decline:
    """Why the issuer says no, in Stripe's codes and words."""

    code: str
    decline_code: str
    message: str


@dataclass(frozen=True, slots=True)
class TestCard:
    """One test card: ``token`` is its ``pm_card_…`` name."""

    __test__ = False  # the name is Stripe's; pytest must not collect it

    token: str
    number: str
    brand: str
    decline: Decline | None = None
    authenticates: bool = False
    funding: str = "credit"
    processes: bool = False  # stays in ``processing`` for a while
    disputed_for: str | None = None  # the reason of the dispute that follows the capture
    inquires: bool = False  # the dispute is an inquiry, which takes no money
    refunds: str = "succeed"  # or "settle": pending, then done; or "fail": done, then failed
    bypasses_pending: bool = False  # the money is available at once

    @property
    def last4(self) -> str:
        """The digits that may be shown."""
        return self.number[-4:]

    @property
    def fingerprint(self) -> str:
        """Names the card without giving its number away."""
        return f"sim{self.token.removeprefix('pm_card_')}"


GENERIC = Decline("card_declined", "generic_decline", "Your card was declined.")
INSUFFICIENT = Decline("card_declined", "insufficient_funds", "Your card has insufficient funds.")
LOST = Decline("card_declined", "lost_card", "Your card was declined.")
STOLEN = Decline("card_declined", "stolen_card", "Your card was declined.")
FRAUDULENT = Decline("card_declined", "fraudulent", "Your card was declined.")
EXPIRED = Decline("expired_card", "expired_card", "Your card has expired.")
CVC = Decline("incorrect_cvc", "incorrect_cvc", "Your card's security code is incorrect.")
PROCESSING = Decline(
    "processing_error",
    "processing_error",
    "An error occurred while processing your card. Try again in a little bit.",
)

TEST_CARDS = (
    TestCard("pm_card_visa", "4242424242424242", "visa"),
    TestCard("pm_card_visa_debit", "4000056655665556", "visa", funding="debit"),
    TestCard("pm_card_mastercard", "5555555555554444", "mastercard"),
    TestCard("pm_card_amex", "378282246310005", "amex"),
    TestCard("pm_card_discover", "6011111111111117", "discover"),
    TestCard("pm_card_chargeDeclined", "4000000000000002", "visa", GENERIC),
    TestCard("pm_card_chargeDeclinedInsufficientFunds", "4000000000009995", "visa", INSUFFICIENT),
    TestCard("pm_card_chargeDeclinedLostCard", "4000000000009987", "visa", LOST),
    TestCard("pm_card_chargeDeclinedStolenCard", "4000000000009979", "visa", STOLEN),
    TestCard("pm_card_chargeDeclinedFraudulent", "4100000000000019", "visa", FRAUDULENT),
    TestCard("pm_card_chargeDeclinedExpiredCard", "4000000000000069", "visa", EXPIRED),
    TestCard("pm_card_chargeDeclinedIncorrectCvc", "4000000000000127", "visa", CVC),
    TestCard("pm_card_chargeDeclinedProcessingError", "4000000000000119", "visa", PROCESSING),
    TestCard("pm_card_threeDSecure2Required", "4000000000003220", "visa", authenticates=True),
    TestCard("pm_card_authenticationRequiredOnSetup", "4000002500003155", "visa", authenticates=True),
    TestCard("pm_card_authenticationRequired", "4000002760003184", "visa", authenticates=True),
    TestCard(
        "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds",
        "4000008260003178",
        "visa",
        INSUFFICIENT,
        authenticates=True,
    ),
    TestCard("pm_card_bypassPending", "4000000000000077", "visa", bypasses_pending=True),
    TestCard("pm_card_createDispute", "4000000000000259", "visa", disputed_for="fraudulent"),
    TestCard(
        "pm_card_createDisputeProductNotReceived",
        "4000000000002685",
        "visa",
        disputed_for="product_not_received",
    ),
    TestCard(
        "pm_card_createDisputeInquiry", "4000000000001976", "visa", disputed_for="fraudulent", inquires=True
    ),
    TestCard("pm_card_pendingRefund", "4000000000007726", "visa", refunds="settle"),
    TestCard("pm_card_refundFail", "4000000000005126", "visa", refunds="fail"),
    # Ours: no card of Stripe's stays in ``processing``, and a product has to cope with what does. It has no
    # number that could be typed, and settles by itself.
    TestCard("pm_sim_processing", "0000", "visa", processes=True),
)
BY_TOKEN = {card.token: card for card in TEST_CARDS}
BY_FINGERPRINT = {card.fingerprint: card for card in TEST_CARDS}
_BY_NUMBER = {card.number: card for card in TEST_CARDS}


def card_by_number(number: str, param: str) -> TestCard:
    """Find a test card by what was typed; spaces and hyphens are ignored.

    Raises:
        RefusedError: 402 ``incorrect_number`` or ``card_declined``; the number is not repeated.
    """
    digits = number.replace(" ", "").replace("-", "")
    if (
        not digits.isascii()
        or not digits.isdigit()
        or not NUMBER_DIGITS_MIN <= len(digits) <= NUMBER_DIGITS_MAX
        or not passes_luhn(digits.encode())
    ):
        raise refused_card("incorrect_number", "Your card number is incorrect.", param)
    card = _BY_NUMBER.get(digits)
    if card is None:
        raise refused_card(
            "card_declined",
            "Your card was declined. Your request was in test mode, but used a non test card. For a list of "
            "valid test cards, visit: https://stripe.com/docs/testing.",
            param,
        )
    return card


def card_of(payment_method: Document) -> TestCard:
    """Return the test card behind a stored PaymentMethod."""
    return BY_FINGERPRINT[payment_method["card"]["fingerprint"]]


def card_of_charge(charge: Document) -> TestCard:
    """Return the test card that a stored Charge was made with."""
    return BY_FINGERPRINT[charge["payment_method_details"]["card"]["fingerprint"]]


def check_expiry(month: int, year: int, today: tuple[int, int], param: str) -> None:
    """Check an expiry date against ``today`` (year, month).

    Raises:
        RefusedError: 402 ``invalid_expiry_month`` or ``invalid_expiry_year``.
    """
    if not 1 <= month <= 12:  # noqa: PLR2004 - months of a year
        raise refused_card(
            "invalid_expiry_month", "Your card's expiration month is invalid.", f"{param}[exp_month]"
        )
    if (year, month) < today or year > today[0] + EXPIRY_YEARS_MAX:
        raise refused_card(
            "invalid_expiry_year", "Your card's expiration year is invalid.", f"{param}[exp_year]"
        )


def refused_card(code: str, message: str, param: str) -> RefusedError:
    """A card that cannot be tried at all: 402, no Charge is made."""
    details: dict[str, Any] = {"decline_code": "test_mode_live_card"} if code == "card_declined" else {}
    return RefusedError(
        402, message, code=code, param=param, kind="card_error", executed=True, details=details
    )
