"""Checkout Sessions in payment mode: a cart with a hosted page, paid at most once.

Stored as one record: the session as the API shows it, its lines, and what its PaymentIntent will be made
of. The intent is made by the first attempt to pay. A session is ``complete`` once its intent is paid or
authorised, ``expired`` at its time or on demand, which also cancels the intent. Follows
https://docs.stripe.com/api/checkout/sessions.
"""

from typing import Any

from cluster.local.stripe import charging, checkout_documents, documents, payment_intents, payment_methods
from cluster.local.stripe.parameters import (
    EXPAND,
    Specification,
    Values,
    boolean,
    choice,
    currency,
    integer,
    metadata,
    objects,
    quantity,
    text,
    texts,
    unit_amount,
    web_url,
)
from cluster.local.stripe.refusals import (
    Document,
    RefusedError,
    invalid,
    missing_parameter,
    require_step,
)
from cluster.local.stripe.turn import Turn
from domain.money import AMOUNT_MINOR_MAX

KIND = "checkout.session"
LINES_MAX = 100  # Stripe's limit
LIFETIME_S_MIN = 30 * 60  # Stripe's limits and default
LIFETIME_S_MAX = 24 * 3_600
SESSION_ID = "{CHECKOUT_SESSION_ID}"
PAID = frozenset({"succeeded", "requires_capture", "processing"})

PRODUCT: Specification = {"name": text, "description": text, "metadata": metadata}
PRICE: Specification = {"currency": currency, "unit_amount": unit_amount, "product_data": PRODUCT}
CREATE: Specification = {
    "mode": choice("payment"),
    "line_items": objects({"price_data": PRICE, "quantity": quantity}, ("price_data",), LINES_MAX),
    "success_url": web_url,
    "cancel_url": web_url,
    "client_reference_id": text,
    "customer_email": text,
    "customer_creation": choice("if_required"),
    "payment_method_types": texts,
    "allow_promotion_codes": boolean,
    "metadata": metadata,
    "payment_intent_data": {
        "capture_method": choice("automatic", "automatic_async", "manual"),
        "description": text,
        "metadata": metadata,
        "receipt_email": text,
        "transfer_group": text,
    },
    "expires_at": integer,
    **EXPAND,
}
NOTHING: Specification = EXPAND


def create(turn: Turn, _object_id: str, values: Values) -> Document:
    """Open a session; its ``url`` is the hosted page.

    Raises:
        RefusedError: 400 for a cart without one positive total in one currency, or a bad expiry.
    """
    lines = values["line_items"]
    for index, line in enumerate(lines):
        _check_line(line, f"line_items[{index}]")
    currencies = {line["price_data"]["currency"] for line in lines}
    if len(currencies) != 1:
        raise invalid("All prices on a Checkout Session must be in the same currency.", "line_items")
    if values.get("payment_method_types", ["card"]) != ["card"]:
        raise invalid(
            "This Stripe simulator takes the payment method type card only.", "payment_method_types"
        )
    if values.get("allow_promotion_codes"):
        raise invalid("This Stripe simulator has no promotion codes.", "allow_promotion_codes")
    items = [
        checkout_documents.line_item(
            turn.new_id("li"), turn.new_id("price"), turn.new_id("prod"), turn.now, line
        )
        for line in lines
    ]
    total = sum(item["amount_total"] for item in items)
    if not 0 < total <= AMOUNT_MINOR_MAX:
        raise invalid(
            f"The total must be from 1 to {AMOUNT_MINOR_MAX} minor units.", "line_items", "amount_too_large"
        )
    require_step(total, items[0]["currency"])
    expires_at = values.get("expires_at", turn.now + LIFETIME_S_MAX)
    if not turn.now + LIFETIME_S_MIN <= expires_at <= turn.now + LIFETIME_S_MAX:
        raise invalid(
            "The `expires_at` timestamp must be from 30 minutes to 24 hours after the creation of the "
            "Checkout Session.",
            "expires_at",
        )
    session_id = turn.new_secret_id("cs_test")
    session = checkout_documents.checkout_session(
        session_id,
        turn.now,
        f"{turn.base_url}/c/pay/{session_id}",
        total,
        {**values, "currency": currencies.pop(), "expires_at": expires_at},
    )
    record = {
        "id": session_id,
        "created": turn.now,
        "session": session,
        "lines": items,
        "intent": values.get("payment_intent_data", {}),
    }
    _put(turn, record)
    return view(record, values)


def retrieve(turn: Turn, object_id: str, values: Values) -> Document:
    """Return a session.

    Raises:
        RefusedError: 404.
    """
    return view(require(turn, object_id), values)


def list_line_items(turn: Turn, object_id: str, _values: Values) -> Document:
    """Return a session's lines on one page: there are never more than a page holds.

    Raises:
        RefusedError: 404.
    """
    return _lines_page(require(turn, object_id))


def expire(turn: Turn, object_id: str, values: Values) -> Document:
    """Close an open session unpaid.

    Raises:
        RefusedError: 404, or 400 when it is not open any more, or its payment is being processed.
    """
    record = require(turn, object_id)
    if record["session"]["status"] != "open":
        raise RefusedError(
            400,
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a '
            f"status of {record['session']['status']}",
            executed=True,
        )
    close(turn, record)
    return view(record, values)


def require(turn: Turn, session_id: str) -> Document:
    """Return a session's record.

    Raises:
        RefusedError: 404.
    """
    return turn.require(KIND, session_id, KIND, "session")


def view(record: Document, values: Values) -> Document:
    """Return the session as the API shows it: lines only when asked for by ``expand``."""
    session: Document = record["session"]
    expand = values.get("expand", ())
    if "line_items" in expand or "data.line_items" in expand:
        session = {**session, "line_items": _lines_page(record)}
    return session


def pay(turn: Turn, session_id: str, card: Values) -> Document:
    """Try to pay an open session with a card, and return its PaymentIntent.

    Raises:
        RefusedError: 402 when the card is declined, 400 when the session is not open; 404.
    """
    record = require(turn, session_id)
    session = record["session"]
    if session["status"] != "open" or session["expires_at"] <= turn.now:
        raise invalid(f"This Checkout Session is no longer open ({session['status']}).")
    intent = _intent_of(turn, record)
    if intent["status"] in PAID:
        follow(turn, intent["id"])
        return intent
    method = payment_methods.from_data(turn, {"type": "card", "card": card}, "")
    charging.attempt(turn, intent, method, session["url"])
    follow(turn, intent["id"])
    return intent


def follow(turn: Turn, intent_id: str) -> Document | None:
    """Bring the session of an intent up to what the intent is now; None when it has no session."""
    intent = turn.find(charging.KIND, intent_id)
    record: Document | None = next(turn.children(KIND, intent_id), None)
    if intent is None or record is None:
        return None
    session = record["session"]
    if session["status"] == "open" and intent["status"] in PAID:
        session["status"] = "complete"
        session["payment_status"] = "paid" if intent["status"] == "succeeded" else "unpaid"
        session["url"] = None
        session["customer_details"] = {
            "address": None,
            "email": session["customer_email"],
            "name": None,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        }
        _put(turn, record)
        turn.announce_document("checkout.session.completed", session)
    elif session["status"] == "complete" and intent["status"] == "succeeded":
        session["payment_status"] = "paid"
        _put(turn, record)
    return record


def close(turn: Turn, record: Document) -> None:
    """Expire an open session and cancel its intent."""
    session = record["session"]
    if session["payment_intent"] is not None:
        intent = turn.require(charging.KIND, session["payment_intent"], "payment_intent", "intent")
        if intent["status"] in payment_intents.CANCELLABLE:
            payment_intents.close(turn, intent, "automatic")
    session["status"] = "expired"
    session["url"] = None
    _put(turn, record)
    turn.announce_document("checkout.session.expired", session)


def close_due(turn: Turn, session_id: str) -> None:
    """Expire a session whose time has come, unless it has been paid."""
    record = turn.find(KIND, session_id)
    if record is not None and record["session"]["status"] == "open":
        close(turn, record)


def success_address(session: Document) -> str:
    """Where the buyer goes after paying."""
    return str(session["success_url"]).replace(SESSION_ID, session["id"])


def _check_line(line: dict[str, Any], param: str) -> None:
    line.setdefault("quantity", 1)
    price = line["price_data"]
    for name in ("currency", "unit_amount", "product_data"):
        if name not in price:
            raise missing_parameter(f"{param}[price_data][{name}]")
    if not price["product_data"].get("name"):
        raise missing_parameter(f"{param}[price_data][product_data][name]")


def _intent_of(turn: Turn, record: Document) -> Document:
    """The session's PaymentIntent; a new one at the first attempt, or when the last was cancelled."""
    session = record["session"]
    if session["payment_intent"] is not None:
        found = turn.find(charging.KIND, session["payment_intent"])
        if found is not None and found["status"] != "canceled":
            return found
    values = {**record["intent"], "amount": session["amount_total"], "currency": session["currency"]}
    intent = payment_intents.open_intent(turn, values)
    turn.put(charging.KIND, intent)
    turn.announce("payment_intent.created", intent["id"])
    session["payment_intent"] = intent["id"]
    _put(turn, record)
    return intent


def _lines_page(record: Document) -> Document:
    return documents.page(f"/v1/checkout/sessions/{record['id']}/line_items", record["lines"], has_more=False)


def _put(turn: Turn, record: Document) -> None:
    session = record["session"]
    due_at = session["expires_at"] if session["status"] == "open" else None
    turn.put(KIND, record, parent=session["payment_intent"], due_at=due_at)
