import httpx
import pytest

from cluster.client import ApiError, ClientError, MarketplaceClient, UnreachableError
from tests.fakes.marketplace_api import BASE, BUYER, FakeMarketplace, problem


@pytest.fixture
def market():
    return FakeMarketplace()


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def client(market, pauses):
    with MarketplaceClient(BASE, BUYER, transport=httpx.MockTransport(market), pause=pauses.append) as opened:
        yield opened


def test_the_token_goes_to_the_marketplace(client, market):
    client.sku("logline")
    assert market.requests[0].headers["authorization"] == f"Bearer {BUYER}"


def test_a_refusal_carries_code_detail_fields_and_request_id(client, market):
    market.fail = [
        httpx.Response(
            422,
            json={"code": "body_invalid", "detail": "Bad.", "errors": [{"pointer": "/a", "detail": "no"}]},
            headers={"X-Request-Id": "req-abcdefgh"},
        )
    ]
    with pytest.raises(ApiError) as caught:
        client.place_order({}, "key")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (
        422,
        "body_invalid",
        "req-abcdefgh",
    )
    assert "/a: no" in str(caught.value)


def test_a_lost_answer_is_repeated_with_the_same_key(client, market, pauses):
    market.fail = [httpx.ReadError("lost"), problem(503, "database_unavailable", "down")]
    body = {
        "lines": [{"sku_id": "sku_logline", "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
        "payment_method": "payment_intent",
    }
    order = client.place_order(body, "key-1")
    keys = [request.headers["idempotency-key"] for request in market.requests]
    assert keys == ["key-1"] * 3
    assert len(market.orders) == 1
    assert order["status"] == "awaiting_payment"
    assert len(pauses) == 2


def test_retry_after_is_obeyed_within_a_bound(client, market, pauses):
    market.fail = [
        httpx.Response(429, json={"code": "rate_limited"}, headers={"Retry-After": "3"}),
        httpx.Response(503, json={"code": "database_unavailable"}, headers={"Retry-After": "3600"}),
    ]
    client.sku("logline")
    assert pauses == [3.0, 5.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_other_refusals_are_final(client, market, pauses, status):
    market.fail = [problem(status, "some_code", "no")]
    with pytest.raises(ApiError):
        client.sku("logline")
    assert pauses == []


def test_attempts_are_bounded(client, market, pauses):
    market.fail = [problem(503, "database_unavailable", "down")] * 50
    with pytest.raises(ApiError):
        client.sku("logline")
    assert len(market.requests) == 5


def test_nobody_there_is_said_soon(client, market, pauses):
    market.fail = [httpx.ConnectError("refused")] * 50
    with pytest.raises(UnreachableError, match="make up"):
        client.sku("logline")
    assert len(market.requests) == 3


def test_an_answer_that_is_no_json_is_refused(client, market):
    market.fail = [httpx.Response(200, text="<html>")]
    with pytest.raises(ClientError, match="JSON object"):
        client.sku("logline")


def test_names_cannot_leave_their_path_segment(client, market):
    with pytest.raises(ApiError):
        client.sku("../orders?x=1")
    assert market.requests[0].url.raw_path == b"/v1/skus/..%2Forders%3Fx%3D1"


def test_a_progress_stream_resumes_where_it_was_cut(client, market):
    order = client.place_order(
        {
            "lines": [{"sku_id": "sku_logline", "quantity": 1}],
            "currency": "USD",
            "delivery": {"mode": "released_key"},
            "payment_method": "checkout",
        },
        "key-1",
    )
    market.tamper = "stream"
    events = list(client.follow(order["id"], 10))
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    resumed = [request.headers.get("last-event-id") for request in market.requests[1:]]
    assert resumed == [None, "1", "2", "3"]


def test_following_ends_in_time_and_says_how_to_go_on(client, market):
    order = client.place_order(
        {
            "lines": [{"sku_id": "sku_logline", "quantity": 1}],
            "currency": "USD",
            "delivery": {"mode": "released_key"},
            "payment_method": "payment_intent",
        },
        "key-1",
    )
    with pytest.raises(ClientError, match="buyer fetch"):
        list(client.follow(order["id"], 0.0))


def test_pages_are_followed(client, market):
    pages = [
        httpx.Response(200, json={"items": [{"name": "a"}], "next_cursor": "c1"}),
        httpx.Response(200, json={"items": [{"name": "b"}], "next_cursor": None}),
    ]
    market.fail = list(pages)
    assert [sku["name"] for sku in client.skus()] == ["a", "b"]
    assert market.requests[1].url.params["cursor"] == "c1"
