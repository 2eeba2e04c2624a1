"""Who may call what: tokens, roles, rates, and how long a revoked token still works."""

import hashlib

import pytest

from domain.errors import DependencyError
from serve_app.auth import KNOWN_TTL_S, UNKNOWN_TTL_S
from serve_app.limits import TokenBuckets
from serve_app.ports import RateLimit
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket
from tests.fakes.orders import FakeMonotonic

ORDER = "ord_" + "0" * 26


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app(), "buyer")


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "token_missing"),
        ("", "token_missing"),
        ("Bearer", "token_missing"),
        ("Bearer ", "token_missing"),
        ("Basic YTpi", "token_missing"),
        ("buyer", "token_missing"),
        ("Bearer nobody", "token_invalid"),
        ("Bearer " + "x" * 10_000, "token_invalid"),
        ("Bearer buyer buyer", "token_invalid"),
    ],
)
async def test_without_a_known_token_there_is_no_access(market, client, authorization, code):
    headers = {} if authorization is None else {"authorization": authorization}
    before = market.writes()
    for answer in (
        await client.as_(None).get("/v1/orders", **headers),
        await client.as_(None).post("/v1/orders", {}, **headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="marketplace"')
    assert market.writes() == before


async def test_the_scheme_is_read_in_any_case(client):
    assert (await client.as_(None).get("/v1/orders", authorization="bEARER  buyer")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/orders", {"buyer"}),
        ("GET", "/v1/orders", {"buyer"}),
        ("GET", f"/v1/orders/{ORDER}", {"buyer", "operator"}),
        ("GET", f"/v1/orders/{ORDER}/events", {"buyer", "operator"}),
        ("GET", f"/v1/orders/{ORDER}/deliveries", {"buyer"}),
        ("POST", "/v1/deliveries/dlv_1/key", {"buyer"}),
        ("POST", "/v1/skus", {"seller"}),
        ("POST", "/v1/seller-keys", {"seller"}),
        ("POST", "/v1/skus/sku_1/releases", {"seller"}),
        ("POST", "/v1/releases/rel_1/publish", {"seller"}),
        ("GET", "/v1/licences/lic_1", {"buyer", "operator", "auditor"}),
        ("POST", "/v1/ops/tokens", {"operator"}),
    ],
)
async def test_every_role_has_its_own_operations(market, client, method, path, allowed):
    before = market.writes()
    for role in ("buyer", "seller", "operator", "fraud", "auditor"):
        caller = client.as_(role)
        answer = await (caller.get(path) if method == "GET" else caller.post(path, None))
        refused = answer.status_code == 403 and answer.json()["code"] == "role_not_allowed"
        assert refused == (role not in allowed), role
    assert market.writes() == before


async def test_a_known_token_is_looked_up_once_in_thirty_seconds(market, client):
    for _ in range(5):
        await client.get("/v1/orders")
    assert market.access.lookups == 1
    market.monotonic.now_s += KNOWN_TTL_S
    await client.get("/v1/orders")
    assert market.access.lookups == 2


async def test_a_revoked_token_stops_within_thirty_seconds(market, client):
    assert (await client.get("/v1/orders")).status_code == 200
    del market.access.holders[hashlib.sha256(b"buyer").digest()]
    market.monotonic.now_s += KNOWN_TTL_S
    assert (await client.get("/v1/orders")).status_code == 401


async def test_an_unknown_token_is_refused_for_one_second_at_most(market, client):
    new = client.as_("new")
    assert (await new.get("/v1/orders")).status_code == 401
    assert (await new.get("/v1/orders")).status_code == 401
    assert market.access.lookups == 1
    market.add_token("new", "buyer", "buyer_new")
    market.monotonic.now_s += UNKNOWN_TTL_S
    assert (await new.get("/v1/orders")).status_code == 200


async def test_a_known_token_works_while_the_database_is_down(market, client):
    await client.get("/v1/orders")
    market.access.failure = DependencyError("database_unavailable", "down", 2)
    assert (await client.get("/v1/orders")).status_code == 200
    answer = await client.as_("seller").post("/v1/skus", {})
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"] == "2"


async def test_one_caller_is_limited_and_others_are_not():
    market = FakeMarket(principal_rate=RateLimit(10, 3))
    client = Client(market.app(), "buyer")
    statuses = [(await client.get("/v1/orders")).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = await client.get("/v1/orders")
    assert answer.json()["code"] == "rate_limited"
    assert answer.headers["retry-after"] == "1"
    assert (await client.as_("buyer2").get("/v1/orders")).status_code == 200
    market.monotonic.now_s += 0.1
    assert (await client.get("/v1/orders")).status_code == 200


async def test_guesses_are_paid_from_the_addresss_bucket():
    market = FakeMarket(address_rate=RateLimit(1, 5))
    client = Client(market.app(), "buyer")
    assert (await client.get("/v1/orders")).status_code == 200
    guesses = [(await client.as_(f"guess-{n}").get("/v1/orders")).status_code for n in range(10)]
    assert guesses == [401] * 4 + [429] * 6
    assert market.access.lookups == 5
    # Who is known already is not held up by the guesses from the same address.
    assert (await client.get("/v1/orders")).status_code == 200


async def test_the_address_comes_from_a_header_only_when_its_proxy_is_trusted():
    trusting = FakeMarket(address_rate=RateLimit(1, 1), client_address_header="x-forwarded-for")
    client = Client(trusting.app())
    # Only the last entry is our proxy's; the rest is what the caller claims.
    answers = [
        (await client.get("/v1/skus", x_forwarded_for=f"{claim}, {address}")).status_code
        for claim, address in (("9.9.9.1", "1.1.1.1"), ("9.9.9.2", "1.1.1.1"), ("9.9.9.1", "2.2.2.2"))
    ]
    assert answers == [200, 429, 200]
    plain = Client(FakeMarket(address_rate=RateLimit(1, 1)).app())
    assert (await plain.get("/v1/skus", x_forwarded_for="1.1.1.1")).status_code == 200
    assert (await plain.get("/v1/skus", x_forwarded_for="2.2.2.2")).status_code == 429


async def test_probes_are_never_limited():
    client = Client(FakeMarket(address_rate=RateLimit(1, 1)).app())
    for path in ("/livez", "/readyz", "/metrics"):
        assert {(await client.get(path)).status_code for _ in range(5)} == {200}


def test_buckets_are_bounded(monkeypatch):
    monkeypatch.setattr("serve_app.limits.CALLERS_MAX", 3)
    buckets = TokenBuckets(RateLimit(1, 1), FakeMonotonic())
    for caller in "abcd":
        buckets.take(caller)
    assert len(buckets._buckets) == 3


async def test_an_operator_issues_a_token_that_is_shown_once(market, client):
    operator, body = client.as_("operator"), {"role": "buyer", "principal_id": "buyer_new"}
    first = await operator.post("/v1/ops/tokens", body, key="k")
    assert first.status_code == 201
    assert first.headers["cache-control"] == "no-store"
    token = first.json()["token"]
    assert first.json() == {"token": token, "replayed": False, **body}
    assert (await client.as_(token).get("/v1/orders")).status_code == 200
    before = market.writes()
    again = await operator.post("/v1/ops/tokens", body, key="k")
    assert again.json() == {"token": None, "replayed": True, **body}
    assert again.headers["idempotent-replayed"] == "true"
    assert market.writes() == before
    assert token not in repr(market.commands.bodies) + repr(market.access.holders)


@pytest.mark.parametrize(
    "body",
    [
        {"role": "root", "principal_id": "x"},
        {"role": "buyer", "principal_id": ""},
        {"role": "buyer", "principal_id": "with space"},
        {"role": "buyer", "principal_id": "x" * 101},
        {"role": "buyer", "principal_id": "x\n"},
        {"role": "buyer"},
        {"role": "buyer", "principal_id": "x", "token": "mine"},
    ],
    ids=str,
)
async def test_a_wrong_token_request_is_refused(market, client, body):
    before = market.writes()
    answer = await client.as_("operator").post("/v1/ops/tokens", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "body_invalid")
    assert market.writes() == before
