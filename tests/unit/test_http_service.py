"""The service itself: probes, metrics, its description, and what it does as an ASGI application."""

import asyncio

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from psycopg_pool import PoolTimeout

from tests.fakes.http_client import Client, pay
from tests.fakes.ingress import FakeMarket


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app())


@pytest.fixture
async def description(client):
    return (await client.get("/openapi.json")).json()


async def test_liveness_asks_nobody(market, client):
    market.checks["database"] = False
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_readiness_names_the_part_that_is_missing(market, client):
    assert (await client.get("/readyz")).json() == {
        "status": "ready",
        "checks": {"database": True, "order_hosts": True, "signer": True},
    }
    market.checks["signer"] = False
    market.monotonic.now_s += 2
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert answer.json()["checks"] == {"database": True, "order_hosts": True, "signer": False}
    assert answer.headers["retry-after"] == "2"


async def test_a_check_that_fails_or_hangs_is_not_ready(market, monkeypatch):
    monkeypatch.setattr("serve_app.routes.service.CHECK_DEADLINE_S", 0.01)

    def check(name):
        async def answer():
            if name == "database":
                raise PoolTimeout("no connection")
            await asyncio.Event().wait()

        return answer

    market.check = check
    answer = await Client(market.app()).get("/readyz")
    assert (answer.status_code, set(answer.json()["checks"].values())) == (503, {False})


async def test_probes_share_one_look_a_second(market):
    looks = []

    def check(name):
        async def answer():
            looks.append(name)
            return True

        return answer

    market.check = check
    client = Client(market.app())
    await asyncio.gather(*(client.get("/readyz") for _ in range(10)))
    assert sorted(looks) == ["database", "order_hosts", "signer"]


async def test_metrics_count_by_template_and_never_by_path(client):
    for number in range(3):
        await client.get(f"/v1/skus/nothing-{number}")
    await client.get("/no/such/path")
    text = (await client.get("/metrics")).text
    assert 'marketplace_http_requests_total{method="GET",route="/v1/skus/{sku_id}",status="404"} 3.0' in text
    assert 'route="unmatched",status="404"} 1.0' in text
    assert "nothing-" not in text
    assert "marketplace_http_requests_in_flight 1.0" in text


async def test_the_landing_page_links_the_documentation(client):
    answer = await client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert 'href="/openapi.json"' in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in answer.text


async def test_the_lifespan_starts_and_stops(market):
    app, sent = market.app(), []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# -- the description ---------------------------------------------------------------------------------


async def test_the_description_is_valid_openapi_3_1(description):
    OpenAPIV31SpecValidator(description).validate()
    assert description["openapi"].startswith("3.1")
    assert description["servers"] == [{"url": "http://market.test"}]


def operations_of(description):
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def validator(description, schema):
    return Draft202012Validator({**schema, "components": description["components"]})


async def test_every_example_fits_its_schema(description):
    checked = 0
    for _, _, operation in operations_of(description):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for part in (*bodies, *operation["responses"].values()):
            for media in part.get("content", {}).values():
                if "example" in media:
                    validator(description, media["schema"]).validate(media["example"])
                    checked += 1
    assert checked > 100


async def test_every_operation_documents_its_problems_and_its_access(description):
    for path, method, operation in operations_of(description):
        statuses = set(operation["responses"])
        assert {"500", "503"} <= statuses, (method, path)
        names = {parameter["name"] for parameter in operation["parameters"]}
        if operation["security"]:
            assert {"401", "403"} <= statuses
        reads = ("/v1/webhooks/stripe", "/v1/licences/verify", "/v1/quotes", "/v1/audit/proofs")
        once = path.startswith("/v1/activations/")  # doing it twice is doing it once
        if method in ("post", "put") and path not in reads and not once:
            assert "Idempotency-Key" in names, path
        else:
            assert "Idempotency-Key" not in names, path
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= statuses


async def test_the_contracts_paths_are_all_there(description):
    assert {(method, path) for path, method, _ in operations_of(description)} == {
        ("post", "/v1/ops/licences/{licence_id}/reissue"),
        ("get", "/v1/audit/checkpoint"),
        ("get", "/v1/audit/checkpoints"),
        ("get", "/v1/audit/tile/entries/{tile}"),
        ("get", "/v1/audit/tile/{level}/{tile}"),
        ("get", "/v1/audit/proofs/{subject_id}"),
        ("get", "/v1/audit/entries"),
        ("post", "/v1/audit/proofs"),
        ("get", "/v1/ops/dead-letters"),
        ("post", "/v1/ops/dead-letters/{letter_id}/retry"),
        ("post", "/v1/ops/dead-letters/{letter_id}/drop"),
        ("get", "/v1/ops/disputes"),
        ("post", "/v1/ops/orders/{order_id}/disputes/{dispute_id}/evidence"),
        ("get", "/v1/ops/cases"),
        ("get", "/v1/ops/cases/{case_id}"),
        ("post", "/v1/ops/cases/{case_id}/apply"),
        ("post", "/v1/ops/cases/{case_id}/close"),
        ("get", "/v1/ops/reconciliations"),
        ("post", "/v1/deliveries/{delivery_id}/joined"),
        ("get", "/v1/deliveries/{delivery_id}/opening"),
        ("get", "/v1/deliveries/{delivery_id}/links"),
        ("post", "/v1/releases/{release_id}/upload"),
        ("post", "/v1/releases/{release_id}/upload/complete"),
        ("post", "/v1/releases/{release_id}/yank"),
        ("get", "/v1/skus/{sku_id}/channels"),
        ("get", "/v1/seller-keys"),
        ("post", "/v1/seller-keys/{key_id}/revoke"),
        ("get", "/v1/sales"),
        ("get", "/v1/skus"),
        ("post", "/v1/skus"),
        ("get", "/v1/skus/{sku_id}"),
        ("post", "/v1/seller-keys"),
        ("post", "/v1/skus/{sku_id}/releases"),
        ("post", "/v1/releases/{release_id}/publish"),
        ("get", "/v1/releases/{release_id}"),
        ("put", "/v1/skus/{sku_id}/prices"),
        ("get", "/v1/skus/{sku_id}/prices"),
        ("post", "/v1/discounts"),
        ("get", "/v1/discounts"),
        ("post", "/v1/discounts/{discount_id}/end"),
        ("get", "/v1/ops/tax-table"),
        ("put", "/v1/ops/tax-table"),
        ("post", "/v1/quotes"),
        ("post", "/v1/orders"),
        ("get", "/v1/orders"),
        ("get", "/v1/orders/{order_id}"),
        ("get", "/v1/orders/{order_id}/events"),
        ("get", "/v1/orders/{order_id}/deliveries"),
        ("post", "/v1/orders/{order_id}/refunds"),
        ("post", "/v1/orders/{order_id}/cancellation"),
        ("get", "/v1/ops/reviews"),
        ("post", "/v1/ops/reviews/{order_id}/decision"),
        ("post", "/v1/deliveries/{delivery_id}/key"),
        ("post", "/v1/webhooks/stripe"),
        ("get", "/v1/licences/{licence_id}"),
        ("post", "/v1/licences/verify"),
        ("get", "/v1/licences/revocations"),
        ("get", "/v1/licences"),
        ("get", "/v1/licences/{licence_id}/offline"),
        ("post", "/v1/licences/{licence_id}/activations"),
        ("get", "/v1/licences/{licence_id}/activations"),
        ("put", "/v1/activations/{activation_id}/heartbeat"),
        ("put", "/v1/activations/{activation_id}/release"),
        ("post", "/v1/licences/{licence_id}/owner-keys"),
        ("post", "/v1/licences/{licence_id}/ownership-challenges"),
        ("post", "/v1/licences/{licence_id}/transfers"),
        ("post", "/v1/licences/{licence_id}/renewals"),
        ("get", "/v1/transfers/{transfer_id}"),
        ("post", "/v1/transfers/{transfer_id}/acceptance"),
        ("post", "/v1/transfers/{transfer_id}/end"),
        ("get", "/v1/keys"),
        ("get", "/v1/keys/list"),
        ("post", "/v1/ops/key-lists"),
        ("post", "/v1/ops/tokens"),
        ("get", "/v1/ops/proposals"),
        ("post", "/v1/ops/proposals"),
        ("get", "/v1/ops/proposals/{proposal_id}"),
        ("post", "/v1/ops/proposals/{proposal_id}/approvals"),
        ("post", "/v1/ops/proposals/{proposal_id}/rejections"),
        ("post", "/v1/ops/proposals/{proposal_id}/withdrawal"),
        ("get", "/v1/ops/governed"),
        ("get", "/v1/ops/governed/{kind}"),
        ("get", "/v1/ops/governed/{kind}/history"),
        ("get", "/v1/ops/payouts"),
        ("post", "/v1/ops/payouts"),
        ("get", "/v1/ops/payouts/{batch_id}"),
        ("get", "/v1/ops/payouts/{batch_id}/lines"),
        ("post", "/v1/ops/payouts/{batch_id}/approval"),
        ("post", "/v1/ops/payouts/{batch_id}/withdrawal"),
        ("post", "/v1/ops/payouts/{batch_id}/run"),
        ("put", "/v1/payees/{payee_id}"),
        ("get", "/v1/payees/{payee_id}"),
        ("get", "/v1/payouts"),
        ("get", "/v1/payouts/{payout_id}"),
        ("get", "/v1/payouts/{period}/statement"),
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("get", "/"),
    }


async def test_real_answers_fit_their_schemas(market, client, description):
    """Answers are written as plain dictionaries; here they are held against the documented models."""

    def fits(answer, method, path):
        media = description["paths"][path][method]["responses"][str(answer.status_code)]["content"]
        kind = answer.headers["content-type"].partition(";")[0]
        validator(description, media[kind]["schema"]).validate(answer.json())
        return answer.json()

    sku = market.list_published()
    buyer = client.as_("buyer")
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
    }
    order = fits(await buyer.post("/v1/orders", body), "post", "/v1/orders")
    fits(await buyer.post("/v1/orders", {}), "post", "/v1/orders")
    path = f"/v1/orders/{order['id']}"
    fits(await buyer.get(path + "/deliveries"), "get", "/v1/orders/{order_id}/deliveries")
    fits(
        await pay(market, client, order["id"], kind="payment_intent.payment_failed", event_id="evt_0"),
        "post",
        "/v1/webhooks/stripe",
    )
    fits(await buyer.get(path), "get", "/v1/orders/{order_id}")
    await pay(market, client, order["id"])
    fits(await buyer.get(path), "get", "/v1/orders/{order_id}")
    fits(await buyer.get("/v1/orders"), "get", "/v1/orders")
    fits(await buyer.get(path + "/events", accept="application/json"), "get", "/v1/orders/{order_id}/events")
    (delivery,) = fits(await buyer.get(path + "/deliveries"), "get", "/v1/orders/{order_id}/deliveries")[
        "items"
    ]
    key_path = "/v1/deliveries/{delivery_id}/key"
    fits(await buyer.post(key_path.format(delivery_id=delivery["id"]), {}), "post", key_path)
    fits(await buyer.get(f"/v1/licences/{delivery['licence']['id']}"), "get", "/v1/licences/{licence_id}")
    question = {"licence": delivery["licence"]["armoured"], "buyer_id": "buyer_ada"}
    for one in (question, {"licence": "nonsense"}):
        fits(await client.post("/v1/licences/verify", one, key=None), "post", "/v1/licences/verify")
    for public in ("/v1/skus", "/v1/licences/revocations", "/v1/keys", "/livez", "/readyz"):
        fits(await client.get(public), "get", public)
    fits(await client.get(f"/v1/skus/{sku.sku_id}"), "get", "/v1/skus/{sku_id}")
    fits(await client.get("/v1/skus/nothing"), "get", "/v1/skus/{sku_id}")
    fits(
        await client.as_("operator").post("/v1/ops/tokens", {"role": "buyer", "principal_id": "x"}),
        "post",
        "/v1/ops/tokens",
    )
