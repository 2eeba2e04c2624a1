"""Checkout Sessions and hosted pages of the Stripe simulator, decided without storage."""

import base64
import hashlib
from urllib.parse import quote

import pytest

from cluster.local.stripe import charging, checkout_sessions, pages, payment_intents
from cluster.local.stripe.refusals import RefusedError
from tests.fakes.stripe_turns import StripeWorld

CARD = {"number": "4242424242424242", "exp_month": 12, "exp_year": 34, "cvc": "123"}
SUCCESS = "https://shop.test/done?s={CHECKOUT_SESSION_ID}"
REQUIRED = ("mode", "line_items", "success_url")


@pytest.fixture
def world():
    return StripeWorld()


def line(index, name, currency, unit_amount, quantity=1):
    start = f"line_items[{index}]"
    return (
        f"&{start}[price_data][currency]={currency}&{start}[price_data][unit_amount]={unit_amount}"
        f"&{start}[price_data][product_data][name]={quote(name)}&{start}[quantity]={quantity}"
    )


ONE_LINE = line(0, "Tool", "usd", 1999)


def create(world, lines=ONE_LINE, more=""):
    encoded = f"mode=payment&success_url={quote(SUCCESS)}&cancel_url=https://shop.test/back{lines}{more}"
    return world.do(checkout_sessions.create, checkout_sessions.CREATE, "", encoded, REQUIRED)


def pay(world, session_id, **card):
    turn = world.turn()
    try:
        intent = checkout_sessions.pay(turn, session_id, CARD | card)
    except RefusedError as refused:
        if refused.keeps_changes:
            world.keep(turn)
        raise
    world.keep(turn)
    return intent


def show(world, session_id, expand=()):
    return world.do(
        lambda turn, key, _values: checkout_sessions.retrieve(turn, key, {"expand": expand}), {}, session_id
    )


def record_of(world, session_id):
    return world.stored(checkout_sessions.KIND, session_id)


def test_a_new_session_is_open_and_has_no_intent(world):
    lines = line(0, "Tool", "USD", 1000, 2) + line(1, "Gift", "usd", 0)
    session = create(world, lines, "&client_reference_id=o1&metadata[order_id]=o1")
    assert (session["status"], session["payment_status"], session["payment_intent"]) == (
        "open",
        "unpaid",
        None,
    )
    assert (session["amount_total"], session["currency"], session["client_reference_id"]) == (
        2000,
        "usd",
        "o1",
    )
    assert session["url"] == f"http://sim.test/c/pay/{session['id']}"
    assert session["expires_at"] == session["created"] + 24 * 3_600
    assert "line_items" not in session
    lines = show(world, session["id"], ("line_items",))["line_items"]["data"]
    assert [(item["description"], item["quantity"], item["amount_total"]) for item in lines] == [
        ("Tool", 2, 2000),
        ("Gift", 1, 0),
    ]
    assert world.events == []


@pytest.mark.parametrize(
    ("lines", "more", "param"),
    [
        (line(0, "A", "usd", 1) + line(1, "B", "eur", 1), "", "line_items"),
        (line(0, "A", "usd", 0), "", "line_items"),
        (line(0, "A", "usd", 99_999_999, 2), "", "line_items"),
        (line(0, "A", "usd", 1, 0), "", "line_items[0][quantity]"),
        ("&line_items[0][quantity]=1", "", "line_items[0][price_data]"),
        ("&line_items[0][price_data][currency]=usd", "", "line_items[0][price_data][unit_amount]"),
        ("", "", "line_items"),
        (line(0, "A", "usd", 1), "&expires_at=1", "expires_at"),
        (line(0, "A", "usd", 1), "&payment_method_types[0]=sepa_debit", "payment_method_types"),
        (line(0, "A", "usd", 1), "&allow_promotion_codes=true", "allow_promotion_codes"),
        (line(0, "A", "usd", 1), "&success_url=javascript:1", "success_url"),
    ],
)
def test_carts_that_are_refused(world, lines, more, param):
    with pytest.raises(RefusedError) as refused:
        create(world, lines, more)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert world.source.objects == {}


def test_paying_completes_the_session_once(world):
    session = create(world, more="&payment_intent_data[metadata][order_id]=o1")
    intent = pay(world, session["id"])
    assert (intent["status"], intent["metadata"], intent["amount"]) == ("succeeded", {"order_id": "o1"}, 1999)
    done = show(world, session["id"])
    assert (done["status"], done["payment_status"], done["url"]) == ("complete", "paid", None)
    assert done["payment_intent"] == intent["id"]
    assert world.event_types() == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    assert world.events[-1]["data"]["object"] == done
    assert checkout_sessions.success_address(done) == f"https://shop.test/done?s={session['id']}"
    with pytest.raises(RefusedError):
        pay(world, session["id"])
    assert len(world.events) == 4


def test_a_decline_keeps_the_session_open_with_the_same_intent(world):
    session = create(world)
    with pytest.raises(RefusedError) as declined:
        pay(world, session["id"], number="4000000000000002")
    assert declined.value.status == 402
    first = show(world, session["id"])
    assert (first["status"], first["payment_intent"] is None) == ("open", False)
    assert pay(world, session["id"])["id"] == first["payment_intent"]


def test_manual_capture_is_unpaid_until_captured(world):
    session = create(world, more="&payment_intent_data[capture_method]=manual")
    intent = pay(world, session["id"])
    assert intent["status"] == "requires_capture"
    assert (show(world, session["id"])["status"], show(world, session["id"])["payment_status"]) == (
        "complete",
        "unpaid",
    )
    turn = world.turn()
    payment_intents.capture(turn, intent["id"], {})
    checkout_sessions.follow(turn, intent["id"])
    world.keep(turn)
    assert show(world, session["id"])["payment_status"] == "paid"
    assert world.event_types().count("checkout.session.completed") == 1


def test_three_d_secure_then_complete(world):
    session = create(world)
    intent = pay(world, session["id"], number="4000002760003184")
    assert (intent["status"], show(world, session["id"])["status"]) == ("requires_action", "open")
    turn = world.turn()
    charging.authenticate(turn, intent, approved=True)
    assert checkout_sessions.follow(turn, intent["id"])["session"]["status"] == "complete"


def test_expiring_cancels_the_intent(world):
    session = create(world)
    with pytest.raises(RefusedError):
        pay(world, session["id"], number="4000000000000002")
    gone = world.do(checkout_sessions.expire, {}, session["id"])
    assert (gone["status"], gone["url"]) == ("expired", None)
    assert world.stored("payment_intent", gone["payment_intent"])["status"] == "canceled"
    assert world.event_types()[-2:] == ["payment_intent.canceled", "checkout.session.expired"]
    for call in (
        lambda: world.do(checkout_sessions.expire, {}, session["id"]),
        lambda: pay(world, session["id"]),
    ):
        with pytest.raises(RefusedError):
            call()


def test_time_expires_a_session(world):
    session = create(world)
    stored = world.source.objects[session["id"]]
    assert stored.due_at == session["expires_at"]
    world.now_ms = session["expires_at"] * 1_000
    with pytest.raises(RefusedError):
        pay(world, session["id"])
    turn = world.turn()
    checkout_sessions.close_due(turn, session["id"])
    world.keep(turn)
    assert show(world, session["id"])["status"] == "expired"
    assert world.source.objects[session["id"]].due_at is None


def test_an_intent_paid_behind_the_page_completes_without_a_second_charge(world):
    session = create(world)
    with pytest.raises(RefusedError):
        pay(world, session["id"], number="4000000000000002")
    intent_id = show(world, session["id"])["payment_intent"]
    world.do(payment_intents.confirm, payment_intents.CONFIRM, intent_id, "payment_method=pm_card_visa")
    pay(world, session["id"])
    assert show(world, session["id"])["status"] == "complete"
    assert world.event_types().count("charge.succeeded") == 1


def test_an_intent_cancelled_behind_the_page_is_replaced(world):
    session = create(world)
    with pytest.raises(RefusedError):
        pay(world, session["id"], number="4000000000000002")
    intent_id = show(world, session["id"])["payment_intent"]
    world.do(payment_intents.cancel, payment_intents.CANCEL, intent_id, "")
    paid = pay(world, session["id"])
    assert paid["id"] != intent_id
    assert show(world, session["id"])["payment_intent"] == paid["id"]


@pytest.mark.parametrize(
    ("currency", "unit_amount", "shown", "total"),
    [
        ("usd", 1999, "2 × 19.99 USD", "39.98 USD"),
        ("jpy", 500, "2 × 500 JPY", "1000 JPY"),
        ("kwd", 1500, "2 × 1.500 KWD", "3.000 KWD"),
    ],
)
def test_the_page_writes_amounts_by_currency(world, currency, unit_amount, shown, total):
    session = create(world, line(0, "Tool", currency, unit_amount, 2))
    page = pages.checkout(record_of(world, session["id"])).body.decode()
    assert shown in page
    assert f"<th>{total}</th>" in page
    assert f"Pay {total}" in page
    assert "SIMULATOR" in page


def test_the_page_escapes_everything(world):
    hostile = "<script>alert('x')</script>\"&"
    session = create(world, line(0, hostile, "usd", 1))
    record = record_of(world, session["id"])
    page = pages.checkout(record, status=402, error=hostile)
    assert b"<script" not in page.body
    assert page.body.count(b"&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;") == 2
    assert b'role="alert"' in page.body


def test_the_policy_allows_only_the_style_and_the_way_back(world):
    session = create(world)
    page = pages.checkout(record_of(world, session["id"]))
    assert "default-src 'none'" in page.policy
    assert "script-src" not in page.policy
    assert "unsafe" not in page.policy
    assert page.policy.endswith("form-action 'self' https://shop.test")


def test_the_policy_names_the_style_that_the_page_has(world):
    session = create(world)
    page = pages.checkout(record_of(world, session["id"]))
    style = page.body.split(b"<style>")[1].split(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.policy


def test_pages_of_sessions_that_are_over(world):
    paid, gone = create(world), create(world)
    pay(world, paid["id"])
    world.do(checkout_sessions.expire, {}, gone["id"])
    page = pages.finished(record_of(world, paid["id"])).body.decode()
    assert "has been paid" in page
    assert f"https://shop.test/done?s={paid['id']}" in page
    page = pages.finished(record_of(world, gone["id"])).body.decode()
    assert "expired" in page
    assert "https://shop.test/back" in page
