"""Purchases over plain HTTP: retries, double clicks, decline, checkout, ownership."""

import json
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

DELIVERED_WITHIN_S = 20.0


def placed(buyer, body, key=None):
    response = buyer.post("/v1/orders", json=body, headers={"Idempotency-Key": key or str(uuid4())})
    assert response.status_code == 201, response.text
    assert response.headers["location"].endswith(response.json()["id"])
    return response.json()


def until_delivered(buyer, order_id, within_s=DELIVERED_WITHIN_S):
    deadline = time.monotonic() + within_s
    while True:
        order = buyer.get(f"/v1/orders/{order_id}").json()
        if order["status"] == "delivered":
            return order
        assert time.monotonic() < deadline, order
        time.sleep(0.1)


def stream(buyer, order_id, after=None):
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
    with buyer.stream("GET", f"/v1/orders/{order_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]


def test_an_order_from_quote_to_delivery(market, buyer, wish):
    order = placed(buyer, wish())
    assert order["status"] == "awaiting_payment"
    assert order["total_minor"] == 1999
    assert market.confirm(order).status_code == 200
    events = stream(buyer, order["id"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "order.created"
    assert kinds[-1] == "order.delivered"
    done = until_delivered(buyer, order["id"])
    assert done["payment"]["client_secret"] is None
    assert done["lines"][0]["licence_id"]
    assert [event["seq"] for event in stream(buyer, order["id"], after=3)] == list(range(4, len(events) + 1))


def test_a_repeated_request_is_answered_the_same_and_makes_one_order(buyer, wish):
    key = str(uuid4())
    first = placed(buyer, wish(), key)
    again = buyer.post("/v1/orders", json=wish(), headers={"Idempotency-Key": key})
    assert (again.status_code, again.json()["id"]) == (201, first["id"])
    assert again.headers["idempotent-replayed"] == "true"
    assert len(buyer.get("/v1/orders").json()["items"]) == 1
    other = buyer.post("/v1/orders", json=wish(currency="EUR"), headers={"Idempotency-Key": key})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_ten_clicks_at_once_make_one_order(buyer, wish):
    key = str(uuid4())

    def click(_number):
        return buyer.post("/v1/orders", json=wish(), headers={"Idempotency-Key": key})

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(click, range(10)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {
        "idempotency_in_progress"
    }
    assert len(buyer.get("/v1/orders").json()["items"]) == 1


def test_a_declined_card_leaves_the_order_payable(market, buyer, wish):
    order = placed(buyer, wish())
    assert market.confirm(order, "pm_card_chargeDeclined").status_code == 402
    assert market.confirm(order).status_code == 200
    until_delivered(buyer, order["id"])


def test_two_lines_each_get_a_licence_and_a_delivery(market, buyer, wish, sku_ids):
    lines = [
        {"sku_id": sku_ids["logline"], "quantity": 2},
        {"sku_id": sku_ids["tidycsv"], "quantity": 1},
    ]
    order = placed(buyer, wish(lines=lines))
    assert order["total_minor"] == 2 * 1999 + 4900
    market.confirm(order)
    until_delivered(buyer, order["id"])
    items = buyer.get(f"/v1/orders/{order['id']}/deliveries").json()["items"]
    assert [item["line_no"] for item in items] == [1, 2]
    assert len({item["licence_id"] for item in items}) == 2


def test_checkout_on_the_hosted_page(market, buyer, wish):
    order = placed(buyer, wish(payment_method="checkout"))
    page = order["payment"]["checkout_url"]
    assert page.startswith(market.local["stripe"]["api_base"])
    with httpx.Client(timeout=20) as browser:
        form = browser.get(page)
        names = re.findall(r'name="([a-z_]+)"', form.text)
        card = {"number": "4242424242424242", "card_number": "4242424242424242", "cvc": "123"}
        card |= {"expiry": "12/40", "exp": "12/40"}
        answer = browser.post(page, data={name: card[name] for name in names if name in card})
    assert answer.status_code == 303, answer.text
    until_delivered(buyer, order["id"])


def test_orders_of_others_do_not_exist(market, buyer, wish):
    order = placed(buyer, wish())
    with market.new_buyer() as other:
        for path in ("", "/events", "/deliveries"):
            response = other.get(f"/v1/orders/{order['id']}{path}")
            assert (response.status_code, response.json()["code"]) == (404, "order_not_found")
    with market.http("operator") as operator:
        assert operator.get(f"/v1/orders/{order['id']}").status_code == 200


def test_the_same_webhook_twice_books_once(market, buyer, wish):
    order = placed(buyer, wish())
    market.confirm(order)
    until_delivered(buyer, order["id"])
    stripe = {"Authorization": f"Bearer {market.local['stripe']['secret_key']}"}
    api = market.local["stripe"]["api_base"]
    events = httpx.get(f"{api}/v1/events?type=payment_intent.succeeded&limit=100", headers=stripe).json()[
        "data"
    ]
    event = next(one for one in events if one["data"]["object"]["metadata"].get("order_id") == order["id"])
    before = market.rows()
    assert httpx.post(f"{api}/_sim/events/{event['id']}/resend", headers=stripe).is_success
    deadline = time.monotonic() + DELIVERED_WITHIN_S
    while True:
        tries = httpx.get(f"{api}/_sim/deliveries?event={event['id']}", headers=stripe).json()["data"]
        if sum(one["attempts"] for one in tries) > 1 and all(one["state"] != "pending" for one in tries):
            break
        assert time.monotonic() < deadline, tries
        time.sleep(0.1)
    assert market.rows() == before


def test_a_key_is_released_only_to_its_buyer(market, buyer, wish):
    order = placed(buyer, wish())
    market.confirm(order)
    until_delivered(buyer, order["id"])
    item = buyer.get(f"/v1/orders/{order['id']}/deliveries").json()["items"][0]
    path = f"/v1/deliveries/{item['id']}/key"
    with market.new_buyer() as other:
        refused = other.post(path, json={}, headers={"Idempotency-Key": str(uuid4())})
    assert (refused.status_code, refused.json()["code"]) == (404, "delivery_not_found")
    released = buyer.post(path, json={}, headers={"Idempotency-Key": str(uuid4())})
    assert released.status_code == 200
    assert released.json()["identity"].startswith("AGE-SECRET-KEY-1")


def made_code(market, **rule):
    code = f"T{uuid4().hex[:20]}".upper()
    with market.http("seller") as seller:
        body = {"code": code} | rule
        made = seller.post("/v1/discounts", json=body, headers={"Idempotency-Key": str(uuid4())})
    assert made.status_code == 201, made.text
    return code


def entry_of(market, order_id):
    reader = market.local["finance_reader"]
    tls = ssl.create_default_context(cafile=reader["ca"])
    tls.load_cert_chain(reader["certificate"], reader["key"])
    with httpx.Client(base_url=market.local["finance_url"], verify=tls, timeout=20) as finance:
        found = finance.get(f"/v1/entries/{order_id}:capture")
    return found.status_code, {
        one["account"]: one["amount_minor"] for one in found.json().get("postings", ())
    }


def test_a_discounted_order_costs_what_was_quoted_and_is_booked_so(market, buyer, wish):
    code = made_code(market, percent_bps=1_000, uses_max=1)
    body = wish(discount_code=code.lower())
    quote = buyer.post(
        "/v1/quotes", json={name: body[name] for name in ("lines", "currency", "discount_code")}
    )
    assert (quote.json()["discount_minor"], quote.json()["total_minor"]) == (199, 1_800)
    order = placed(buyer, body)
    assert order["total_minor"] == 1_800
    assert market.confirm(order).status_code == 200
    seller_id = until_delivered(buyer, order["id"])["lines"][0]["seller_id"]
    assert entry_of(market, order["id"]) == (
        200,
        {"stripe:clearing": 1_800, "platform:fees": -180, f"seller:{seller_id}:payable": -1_620},
    )
    again = buyer.post("/v1/orders", json=body, headers={"Idempotency-Key": str(uuid4())})
    assert (again.status_code, again.json()["code"]) == (409, "discount_used_up")


def test_an_order_that_costs_nothing_is_delivered_without_stripe_and_without_an_entry(market, buyer, wish):
    order = placed(buyer, wish(discount_code=made_code(market, percent_bps=10_000)))
    assert (order["total_minor"], order["payment"]["payment_intent_id"]) == (0, None)
    done = until_delivered(buyer, order["id"])
    assert done["lines"][0]["licence_status"] == "active"
    kinds = [event["kind"] for event in stream(buyer, order["id"])]
    assert kinds == [
        "order.created",
        "order.screened",
        "order.granted",
        "order.licensed",
        "order.delivered",
    ]
    assert entry_of(market, order["id"])[0] == 404
