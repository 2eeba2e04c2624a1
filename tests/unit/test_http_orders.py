"""Orders over HTTP: every bad input has its documented code and writes nothing; good ones are done once."""

import asyncio

import orjson
import pytest

from domain.errors import BusyError, DependencyError
from serve_app.limits import ORDER_BODY_BYTES_MAX
from tests.fakes.http_client import Client, pay
from tests.fakes.ingress import RECIPIENT, FakeMarket

RELEASED = {"mode": "released_key"}


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def sku(market):
    return market.list_published(prices={"USD": 1999, "EUR": 1899})


@pytest.fixture
def buyer(market):
    return Client(market.app(), "buyer")


def cart(*skus, **changes):
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1} for sku in skus],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    return body | changes


def line(sku, quantity):
    return [{"sku_id": sku.sku_id, "quantity": quantity}]


async def refuse(market, client, status, code, **request):
    before = market.writes()
    answer = await client.post("/v1/orders", **request)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:illuvrse:problem:{code}"
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["instance"] == answer.headers["x-request-id"]
    assert market.writes() == before
    return problem


async def test_an_order_is_placed_and_says_how_to_pay_it(market, buyer, sku):
    answer = await buyer.post("/v1/orders", cart(sku, lines=line(sku, 3)))
    order = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/orders/{order['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert order["status"] == "awaiting_payment"
    assert order["total_minor"] == 5997
    assert (
        order["lines"][0] | {"sku_name": "logline", "amount_minor": 5997, "line_no": 1} == order["lines"][0]
    )
    assert order["payment"]["client_secret"] == "pi_1_secret"
    assert order["payment"]["publishable_key"] == "pk_test"
    assert order["created_at"].endswith("Z")
    assert (await buyer.get(f"/v1/orders/{order['id']}")).json() == order


async def test_a_purchase_from_cart_to_delivery(market, buyer, sku):
    order_id = (await buyer.post("/v1/orders", cart(sku))).json()["id"]
    early = await buyer.get(f"/v1/orders/{order_id}/deliveries")
    assert (early.status_code, early.json()["code"]) == (409, "order_not_delivered")
    assert (await pay(market, buyer, order_id)).json() == {"received": True, "outcome": "applied"}
    order = (await buyer.get(f"/v1/orders/{order_id}")).json()
    assert order["status"] == "delivered"
    assert order["payment"]["client_secret"] is None
    (delivery,) = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    assert delivery["id"] == order["lines"][0]["delivery_id"]
    assert delivery["licence"]["id"] == order["lines"][0]["licence_id"]
    assert delivery["payload"]["url"].endswith("?versionId=1")
    assert delivery["key_release"] is None
    events = (await buyer.get(f"/v1/orders/{order_id}/events", accept="application/json")).json()["items"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "order.delivered"
    assert "secret" not in orjson.dumps(events).decode()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"lines": []}, 422, "lines_out_of_range"),
        ({"currency": "GBP"}, 422, "currency_not_offered"),
        ({"currency": "usd"}, 422, "currency_unknown"),
        ({"currency": "XXX"}, 422, "currency_unknown"),
        ({"currency": 840}, 422, "body_invalid"),
        ({"country": "germany"}, 422, "body_invalid"),
        ({"country": "IR"}, 403, "policy_blocked"),
        ({"payment_method": "cash"}, 422, "payment_method_unknown"),
        ({"delivery": {"mode": "pigeon"}}, 422, "delivery_mode_unknown"),
        ({"delivery": {"mode": "recipient"}}, 422, "recipient_mismatch"),
        ({"delivery": {"mode": "released_key", "recipient": RECIPIENT}}, 422, "recipient_mismatch"),
        ({"delivery": {"mode": "recipient", "recipient": "age1nonsense"}}, 422, "recipient_invalid"),
        ({"delivery": {"mode": "recipient", "recipient": RECIPIENT.upper()}}, 422, "recipient_invalid"),
        ({"delivery": {"mode": "recipient", "recipient": "a" * 1000}}, 422, "body_invalid"),
        ({"total_minor": 1}, 422, "body_invalid"),
        ({"lines": "all"}, 422, "body_invalid"),
        ({"lines": [{"sku_id": "logline", "quantity": 1}]}, 404, "sku_not_found"),
        ({"lines": [{"sku_id": "sku_" + "0" * 26, "quantity": 1}]}, 404, "sku_not_found"),
    ],
    ids=str,
)
async def test_a_wrong_cart_is_refused(market, buyer, sku, change, status, code):
    await refuse(market, buyer, status, code, body=cart(sku) | change)


@pytest.mark.parametrize(
    ("quantity", "code"),
    [
        (0, "quantity_out_of_range"),
        (-1, "quantity_out_of_range"),
        (1001, "quantity_out_of_range"),
        (2**53 - 1, "quantity_out_of_range"),
        (1.0, "body_invalid"),
        (1.5, "body_invalid"),
        ("1", "body_invalid"),
        (True, "body_invalid"),
        (None, "body_invalid"),
    ],
)
async def test_a_wrong_quantity_is_refused(market, buyer, sku, quantity, code):
    problem = await refuse(market, buyer, 422, code, body=cart(sku, lines=line(sku, quantity)))
    if code == "body_invalid":
        assert problem["errors"][0]["pointer"] == "/lines/0/quantity"


async def test_a_quantity_beyond_every_integer_is_no_number(market, buyer, sku):
    body = orjson.dumps(cart(sku)).replace(b'"quantity":1', b'"quantity":' + b"9" * 4_000)
    await refuse(market, buyer, 400, "json_number_invalid", content=body)


async def test_a_thousand_lines_are_refused(market, buyer, sku):
    await refuse(market, buyer, 422, "lines_out_of_range", body=cart(*[sku] * 1_000))


async def test_fifty_lines_are_sold(market, buyer):
    skus = [market.list_published(f"tool-{number}") for number in range(50)]
    answer = await buyer.post("/v1/orders", cart(*skus))
    assert (answer.status_code, len(answer.json()["lines"])) == (201, 50)


async def test_the_same_sku_twice_is_refused(market, buyer, sku):
    await refuse(market, buyer, 422, "line_duplicate", body=cart(sku, sku))


async def test_a_total_beyond_stripes_limit_is_refused(market, buyer):
    dear = market.list_published("dear", prices={"USD": 99_999_999})
    await refuse(market, buyer, 422, "total_out_of_range", body=cart(dear, lines=line(dear, 2)))


async def test_an_unpublished_sku_is_not_sold(market, buyer):
    await refuse(market, buyer, 409, "sku_unpublished", body=cart(market.list_sku("draft")))


async def test_a_seller_cannot_buy_its_own(market, buyer):
    market.add_token("both", "buyer", "seller_1")
    sku = market.list_published()
    await refuse(market, buyer.as_("both"), 403, "policy_blocked", body=cart(sku))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1,",
        b"\xff\xfe",
        b'{"a":"\\ud800"}',
        b"[" * 1_000,
    ],
    ids=repr,
)
async def test_unsound_json_is_refused(market, buyer, content):
    await refuse(market, buyer, 400, "body_malformed", content=content)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"currency":"USD","currency":"EUR"}', "json_duplicate_key"),
        (b'{"lines":[{"sku_id":"a","sku_id":"a"}]}', "json_duplicate_key"),
        (b'{"currency":NaN}', "json_number_invalid"),
        (b'{"currency":1e400}', "json_number_invalid"),
    ],
    ids=repr,
)
async def test_json_that_two_readers_read_differently_is_refused(market, buyer, content, code):
    await refuse(market, buyer, 400, code, content=content)


@pytest.mark.parametrize("content", [b"null", b"[]", b'"order"', b"7"])
async def test_json_that_is_no_object_is_refused(market, buyer, content):
    await refuse(market, buyer, 422, "body_invalid", content=content)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""]
)
async def test_other_media_types_are_refused(market, buyer, sku, content_type):
    await refuse(market, buyer, 415, "content_type_unsupported", body=cart(sku), content_type=content_type)


async def test_a_media_type_with_parameters_is_taken(market, buyer, sku):
    answer = await buyer.post("/v1/orders", cart(sku), content_type="Application/JSON; charset=utf-8")
    assert answer.status_code == 201


async def test_a_body_of_ten_megabytes_is_refused_unread(market, buyer):
    await refuse(market, buyer, 413, "body_too_large", content=b" " * 10 * 1024 * 1024)


async def test_an_order_above_its_own_bound_is_refused(market, buyer):
    await refuse(market, buyer, 413, "body_too_large", content=b" " * (ORDER_BODY_BYTES_MAX + 1))


async def test_a_chunked_body_is_bounded_while_it_is_read(market, buyer):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(10_000):
            sent += 4_096
            yield b" " * 4_096

    await refuse(market, buyer, 413, "body_too_large", content=chunks())


async def test_a_write_needs_an_idempotency_key(market, buyer, sku):
    await refuse(market, buyer, 400, "idempotency_key_missing", body=cart(sku), key=None)


@pytest.mark.parametrize("key", ["", "k" * 256, "tab\tkey"])
async def test_a_malformed_key_is_refused(market, buyer, sku, key):
    await refuse(market, buyer, 400, "idempotency_key_malformed", body=cart(sku), key=key)


async def test_a_repetition_is_answered_as_before_and_does_nothing(market, buyer, sku):
    first = await buyer.post("/v1/orders", cart(sku), key="k")
    before = market.writes()
    # Other spaces and another order of members are the same request.
    again = await buyer.post(
        "/v1/orders", content=orjson.dumps(cart(sku), option=orjson.OPT_INDENT_2), key="k"
    )
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["location"] == first.headers["location"]
    assert market.writes() == before


async def test_a_repetition_outlives_the_listing(market, buyer, sku):
    first = await buyer.post("/v1/orders", cart(sku), key="k")
    del market.catalogue.skus[sku.sku_id]
    again = await buyer.post("/v1/orders", cart(sku), key="k")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    await refuse(market, buyer, 404, "sku_not_found", body=cart(sku), key="other")


async def test_a_repetition_after_delivery_still_shows_the_first_answer(market, buyer, sku):
    first = await buyer.post("/v1/orders", cart(sku), key="k")
    await pay(market, buyer, first.json()["id"])
    assert (await buyer.post("/v1/orders", cart(sku), key="k")).json() == first.json()


async def test_a_key_of_another_body_is_refused(market, buyer, sku):
    await buyer.post("/v1/orders", cart(sku), key="k")
    await refuse(market, buyer, 422, "idempotency_key_reused", body=cart(sku, currency="EUR"), key="k")


async def test_a_key_of_another_route_is_refused(market, buyer, sku):
    market.add_token("two-hats", "seller", "buyer_ada")
    new_sku = {"name": "n", "title": "t", "description": "", "prices": {"USD": 1}}
    assert (await buyer.as_("two-hats").post("/v1/skus", new_sku, key="k")).status_code == 201
    await refuse(market, buyer, 422, "idempotency_key_reused", body=cart(sku), key="k")


async def test_two_buyers_may_use_the_same_key(market, buyer, sku):
    first = await buyer.post("/v1/orders", cart(sku), key="k")
    second = await buyer.as_("buyer2").post("/v1/orders", cart(sku), key="k")
    assert second.status_code == 201
    assert first.json()["id"] != second.json()["id"]


async def test_sixteen_equal_requests_at_once_make_one_order(market, buyer, sku):
    answers = await asyncio.gather(*(buyer.post("/v1/orders", cart(sku), key="k") for _ in range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert market.writes()["orders"] == market.writes()["intents"] == 1


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (BusyError("mailbox_full", "full", 3), 429, "mailbox_full"),
        (BusyError("mailbox_timeout", "slow"), 429, "mailbox_timeout"),
        (BusyError("host_full", "full"), 429, "host_full"),
        (BusyError("queue_full", "full"), 429, "queue_full"),
        (DependencyError("order_host_unavailable", "replaced", 2), 503, "order_host_unavailable"),
        (DependencyError("database_unavailable", "down", 2), 503, "database_unavailable"),
        (RuntimeError("secret detail"), 500, "internal_error"),
    ],
)
async def test_what_fails_behind_is_told_without_its_inside(market, buyer, sku, failure, status, code):
    market.directory.failure = failure
    before = market.writes()
    answer = await buyer.post("/v1/orders", cart(sku))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "secret detail" not in answer.text
    assert market.writes() == before
    if status == 503:
        assert answer.headers["retry-after"] == str(failure.retry_after_s)


async def test_a_request_that_hangs_is_cut_at_its_deadline(market, sku):
    async def hang(*_):
        await asyncio.Event().wait()

    market.directory.place = hang
    client = Client(market.app(deadline_s=0.02), "buyer")
    answer = await client.post("/v1/orders", cart(sku))
    assert (answer.status_code, answer.json()["code"]) == (503, "deadline_exceeded")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["", "/events", "/deliveries"])
async def test_anothers_order_does_not_exist(market, buyer, sku, path):
    order_id = (await buyer.post("/v1/orders", cart(sku))).json()["id"]
    missing = "ord_" + "0" * 26
    for client, asked in ((buyer.as_("buyer2"), order_id), (buyer, missing), (buyer, "nonsense")):
        answer = await client.get(f"/v1/orders/{asked}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "order_not_found")


async def test_operators_see_an_order_but_not_how_to_pay_it(market, buyer, sku):
    order_id = (await buyer.post("/v1/orders", cart(sku))).json()["id"]
    answer = await buyer.as_("operator").get(f"/v1/orders/{order_id}")
    assert answer.status_code == 200
    assert answer.json()["payment"]["client_secret"] is None
    assert "pi_1_secret" not in answer.text


async def test_own_orders_are_listed_in_pages(market, buyer, sku):
    placed = [(await buyer.post("/v1/orders", cart(sku))).json()["id"] for _ in range(5)]
    await buyer.as_("buyer2").post("/v1/orders", cart(sku))
    seen, cursor, pages = [], "", 0
    while cursor is not None:
        page = (await buyer.get(f"/v1/orders?limit=2&cursor={cursor}")).json()
        seen += [item["id"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert (seen, pages) == (placed[::-1], 3)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "", "٣", "9" * 50])
async def test_a_wrong_limit_is_refused(buyer, limit):
    answer = await buyer.get(f"/v1/orders?limit={limit}")
    assert (answer.status_code, answer.json()["code"]) == (422, "query_invalid")


@pytest.mark.parametrize(
    "cursor", ["!", "c2t1", "b3JkXzE", "é", "A" * 200, "c2t1XzAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw"]
)
async def test_a_wrong_cursor_is_refused(buyer, cursor):
    answer = await buyer.get(f"/v1/orders?cursor={cursor}")
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor_invalid")


async def test_a_released_key_is_given_to_its_buyer_each_time(market, buyer, sku):
    order_id = (await buyer.post("/v1/orders", cart(sku, delivery=RELEASED))).json()["id"]
    await pay(market, buyer, order_id)
    (delivery,) = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    assert delivery["key_release"]["released"] is False
    path = f"/v1/deliveries/{delivery['id']}/key"
    first = await buyer.post(path, {}, key="k")
    assert first.status_code == 200
    assert first.json()["identity"].startswith("AGE-SECRET-KEY-1")
    assert first.headers["cache-control"] == "no-store"
    again = await buyer.post(path, content=b"", key="k", content_type="")
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert "AGE-SECRET-KEY" not in repr(market.commands.bodies)
    (delivery,) = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    assert delivery["key_release"]["released"] is True
    for client in (buyer.as_("buyer2"),):
        answer = await client.post(path, {})
        assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")
    market.clock.advance(90_000)
    late = await buyer.post(path, {})
    assert (late.status_code, late.json()["code"]) == (410, "delivery_key_expired")


async def test_a_delivery_to_a_recipient_has_no_key_to_release(market, buyer, sku):
    order_id = (await buyer.post("/v1/orders", cart(sku))).json()["id"]
    await pay(market, buyer, order_id)
    (delivery,) = (await buyer.get(f"/v1/orders/{order_id}/deliveries")).json()["items"]
    answer = await buyer.post(f"/v1/deliveries/{delivery['id']}/key", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "delivery_has_recipient")
    answer = await buyer.post("/v1/deliveries/nonsense/key", {})
    assert (answer.status_code, answer.json()["code"]) == (404, "delivery_not_found")
