"""PaymentMethods: from a test id, a card's parameters, or an earlier one.

A test id such as ``pm_card_visa`` makes a new PaymentMethod each time, as at Stripe. The card number is
looked up and dropped here (``cards``); nothing behind this module has seen it.
"""

from datetime import UTC, datetime

from cluster.local.stripe import documents
from cluster.local.stripe.cards import BY_TOKEN, TestCard, card_by_number, check_expiry, refused_card
from cluster.local.stripe.parameters import EXPAND, Specification, Values, choice, integer, metadata, text
from cluster.local.stripe.refusals import Document, missing_parameter, not_found
from cluster.local.stripe.turn import Turn

KIND = "payment_method"
NOUN = "PaymentMethod"
EXPIRY_YEARS = 8  # the test ids give cards that are good for this long
CENTURY = 2_000  # a year of two digits is in this one
CVC_DIGITS = (3, 4)

ADDRESS: Specification = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), text)
DATA: Specification = {
    "type": choice("card"),
    "card": {"number": text, "exp_month": integer, "exp_year": integer, "cvc": text},
    "billing_details": {"name": text, "email": text, "phone": text, "address": ADDRESS},
    "metadata": metadata,
}
CREATE: Specification = {**DATA, **EXPAND}


def create(turn: Turn, _object_id: str, values: Values) -> bytes:
    """Store a card as a PaymentMethod.

    Raises:
        RefusedError: 400 for missing parts, 402 for a card that is not one of Stripe's test cards.
    """
    return turn.changed[from_data(turn, values, "")["id"]].body


def retrieve(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a PaymentMethod."""
    return turn.require(KIND, object_id, NOUN, "payment_method")


def from_data(turn: Turn, values: Values, param: str) -> Document:
    """Make a PaymentMethod from ``payment_method_data`` (named ``param`` in errors).

    Raises:
        RefusedError: 400 for missing parts, 402 for a card that is not one of Stripe's test cards.
    """
    card_param = f"{param}[card]" if param else "card"
    if values.get("type", "card") != "card" or "card" not in values:
        raise missing_parameter(card_param)
    given = values["card"]
    for name in ("number", "exp_month", "exp_year"):
        if name not in given:
            raise missing_parameter(f"{card_param}[{name}]")
    card = card_by_number(given["number"], f"{card_param}[number]")
    month, year = given["exp_month"], given["exp_year"]
    year += CENTURY if 0 <= year < 100 else 0  # noqa: PLR2004 - two digits
    today = datetime.fromtimestamp(turn.now, UTC)
    check_expiry(month, year, (today.year, today.month), card_param)
    cvc = given.get("cvc", "123")
    if not (cvc.isascii() and cvc.isdigit() and len(cvc) in CVC_DIGITS):
        raise refused_card("invalid_cvc", "Your card's security code is invalid.", f"{card_param}[cvc]")
    method = documents.payment_method(turn.new_id("pm"), turn.now, card, (month, year))
    method["metadata"] = values.get("metadata", {})
    billing = values.get("billing_details")
    if billing:
        address = documents.EMPTY_BILLING["address"] | billing.get("address", {})
        method["billing_details"] = documents.EMPTY_BILLING | billing | {"address": address}
    turn.put(KIND, method)
    return method


def by_id(turn: Turn, method_id: str) -> Document:
    """Find a PaymentMethod, or make one from a test id.

    Raises:
        RefusedError: 404 ``resource_missing``.
    """
    card = BY_TOKEN.get(method_id)
    if card is not None:
        return _from_test_id(turn, card)
    method = turn.find(KIND, method_id)
    if method is None:
        raise not_found(NOUN, method_id, "payment_method")
    return method


def _from_test_id(turn: Turn, card: TestCard) -> Document:
    year = datetime.fromtimestamp(turn.now, UTC).year + EXPIRY_YEARS
    method = documents.payment_method(turn.new_id("pm"), turn.now, card, (12, year))
    turn.put(KIND, method)
    return method
