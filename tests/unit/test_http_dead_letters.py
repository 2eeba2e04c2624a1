"""Operators' dead letters over HTTP: who may, what is listed, what a decision does, once."""

import base64
from datetime import timedelta
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from domain.errors import DependencyError, RejectedError
from domain.orders.decide import BOOK, EXPIRE, FORGET_KEYS, FULFIL, OPEN_PAYMENT, VOID_PAYMENT
from domain.orders.state import Status
from serve_app.routes.dead_letters import UNFINISHED
from storage.market.dead_letters import DeadLetter
from tests.fakes.http_client import Client, pay, settle
from tests.fakes.ingress import FakeMarket
from tests.fakes.orders import EffectRow

LIST = "/v1/ops/dead-letters"
WHY = {"reason": "Finance has mended it."}


def order_id(number):
    return f"ord_{number:026d}"


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app(), "operator")


@pytest.fixture
def bury(market):
    """Give up work of many orders, each a second later than the one before."""

    def bury(number, step=BOOK):
        since = market.clock() + timedelta(seconds=number)
        market.store.effects[order_id(number), step] = EffectRow(
            since, 1, "amounts differ", "booking_mismatch"
        )
        return f"effect:{order_id(number)}:{step}"

    return bury


async def paid_order(market, client, **event):
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
    }
    order = (await client.as_("buyer").post("/v1/orders", body)).json()
    return order["id"], await pay(market, client, order["id"], **event)


async def test_only_operators_may(market, client, bury):
    letter = bury(1)
    before = market.writes()
    for role in ("buyer", "seller", "fraud", "auditor"):
        answers = [
            await client.as_(role).get(LIST),
            await client.as_(role).post(f"{LIST}/{letter}/retry", WHY),
            await client.as_(role).post(f"{LIST}/{letter}/drop", WHY),
        ]
        assert [one.status_code for one in answers] == [403, 403, 403]
    assert market.writes() == before
    assert market.dead_letters.actions == []


async def test_a_letter_says_what_died_why_and_since_when(market, client):
    order, answer = await paid_order(market, client, amount_minor=5)
    assert answer.json() == {"received": True, "outcome": "amount_mismatch"}
    (letter,) = (await client.get(LIST)).json()["items"]
    assert letter == {
        "id": "webhook:evt_1",
        "kind": "webhook",
        "subject": order,
        "work": "payment_intent.succeeded",
        "code": "amount_mismatch",
        "error": market.store.inbox["evt_1"].outcome,
        "attempts": 0,
        "dead_since": letter["dead_since"],
    }
    assert letter["dead_since"].endswith("Z")


async def test_pages_are_newest_first_and_can_be_of_one_kind(market, client, bury):
    names = [bury(number) for number in range(1, 6)]
    event = DeadLetter(
        "event:sales:" + order_id(9), "event", order_id(9), "sales", "x", "", 5, market.clock()
    )
    market.dead_letters.events[event.letter_id] = event
    seen, cursor = [], ""
    while cursor is not None:
        page = (await client.get(f"{LIST}?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
        assert len(page["items"]) <= 2
        seen += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert seen == [*reversed(names), event.letter_id]
    effects = (await client.get(f"{LIST}?kind=effect&limit=100")).json()["items"]
    assert [one["id"] for one in effects] == list(reversed(names))
    assert (await client.get(f"{LIST}?kind=webhook")).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("kind=letter", 422, "query_invalid"),
        ("kind=", 422, "query_invalid"),
        ("limit=0", 422, "query_invalid"),
        ("limit=101", 422, "query_invalid"),
        ("limit=%C2%B2", 422, "query_invalid"),
        ("&".join(["limit=1"] * 50), 422, "query_invalid"),
        ("cursor=!", 400, "cursor_invalid"),
        ("cursor=" + "A" * 600, 400, "cursor_invalid"),
        ("cursor=" + base64.urlsafe_b64encode(b"ord_1").decode(), 400, "cursor_invalid"),
        ("cursor=" + base64.urlsafe_b64encode(b"2026-11-24T12:00:00 x").decode(), 400, "cursor_invalid"),
        (
            "cursor=" + base64.urlsafe_b64encode(b"2026-11-24T12:00:00+20:00 x").decode(),
            400,
            "cursor_invalid",
        ),
        (
            "cursor=" + base64.urlsafe_b64encode(b"2026-11-24T12:00:00+00:00 \0").decode(),
            400,
            "cursor_invalid",
        ),
    ],
)
async def test_a_wrong_query_is_refused(client, query, status, code):
    answer = await client.get(f"{LIST}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_retried_effect_finishes_the_order(market, client):
    """The whole way: Finance refuses, an operator retries, the order is delivered."""
    books = market.directory.host._effects._books
    books.failures = [RejectedError("period_closed", "The period is closed.")]
    order, _ = await paid_order(market, client)
    (letter,) = (await client.get(LIST)).json()["items"]
    assert (letter["id"], letter["code"]) == (f"effect:{order}:book", "period_closed")
    answer = await client.post(f"{LIST}/{quote(letter['id'], safe='')}/retry", WHY)
    assert answer.status_code == 200
    action_id = answer.json()["action_id"]
    assert answer.json() == {
        "id": letter["id"],
        "decision": "retried",
        "reason": WHY["reason"],
        "action_id": action_id,
        "consequence": answer.json()["consequence"],
    }
    ((operator, decision),) = market.dead_letters.actions
    assert (operator, decision.action_id, decision.reason) == ("operator_1", action_id, WHY["reason"])
    assert (await client.get(LIST)).json()["items"] == []
    (due,) = await market.store.claim_due_effects([BOOK], 10, 9.0)
    assert due.attempts == 1
    await market.directory.host.run_effect(due.order_id, due.step, due.attempts)
    await settle(market)
    assert market.store.orders[order].status is Status.DELIVERED


async def test_a_repeated_decision_is_answered_as_the_first_was(market, client, bury):
    path = f"{LIST}/{bury(1)}/drop"
    first = await client.post(path, WHY, key="k")
    again = await client.post(path, WHY, key="k")
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert len(market.dead_letters.actions) == 1
    reused = await client.post(path, {"reason": "Another reason."}, key="k")
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    "step", [OPEN_PAYMENT, EXPIRE, BOOK, FULFIL, VOID_PAYMENT, FORGET_KEYS, "later_step"]
)
async def test_dropping_an_effect_says_what_stays_undone(market, client, bury, step):
    answer = await client.post(f"{LIST}/{bury(1, step)}/drop", WHY)
    assert answer.json()["decision"] == "dropped"
    assert answer.json()["consequence"] == UNFINISHED.get(step, answer.json()["consequence"])
    assert market.store.effects == {}


async def test_a_dropped_webhook_is_processed_and_stays_dropped(market, client):
    order, _ = await paid_order(market, client, amount_minor=5)
    answer = await client.post(f"{LIST}/webhook:evt_1/drop", WHY)
    assert "return it" in answer.json()["consequence"]
    row = market.store.inbox["evt_1"]
    assert (row.processed, row.outcome, row.dead_code) == (True, "dropped", None)
    await pay(market, client, order, amount_minor=5)  # Stripe sends it again
    assert (row.processed, row.outcome, row.dead_code) == (True, "dropped", None)
    assert (await client.get(LIST)).json()["items"] == []


@pytest.mark.parametrize(
    "name",
    [
        "effect:" + order_id(9) + ":book",
        "webhook:evt_9",
        "event:sales:" + order_id(9),
        "effect:ord_1:book",
        "effect:" + order_id(9),
        "effect:" + order_id(9) + ":BOOK",
        "event:" + order_id(9),
        "webhook:",
        "webhook:" + "x" * 300,
        "letter:1",
        "nothing",
    ],
)
@pytest.mark.parametrize("verb", ["retry", "drop"])
async def test_an_unknown_name_is_not_found(client, name, verb):
    answer = await client.post(f"{LIST}/{name}/{verb}", WHY)
    assert (answer.status_code, answer.json()["code"]) == (404, "dead_letter_not_found")


async def test_what_is_not_dead_any_more_is_gone(market, client, bury):
    letter = bury(1)
    assert (await client.post(f"{LIST}/{letter}/drop", WHY)).status_code == 200
    answer = await client.post(f"{LIST}/{quote(letter, safe='')}/retry", WHY)
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_gone")
    market.store.effects[order_id(2), BOOK] = EffectRow(market.clock())
    answer = await client.post(f"{LIST}/effect:{order_id(2)}:book/drop", WHY)
    assert (answer.status_code, answer.json()["code"]) == (409, "dead_letter_gone")
    assert len(market.dead_letters.actions) == 1


@pytest.mark.parametrize(
    "reason", [None, "", "ab", "   ", " abc", "abc ", "a\nb c", "a\0bc", "\0abc", "x" * 501, 3, ["abc"]]
)
async def test_a_decision_needs_a_reason(market, client, bury, reason):
    letter = bury(1)
    answer = await client.post(f"{LIST}/{letter}/drop", {} if reason is None else {"reason": reason})
    assert (answer.status_code, answer.json()["code"]) == (422, "body_invalid")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["/reason"]
    assert market.dead_letters.actions == []


async def test_a_decision_needs_an_idempotency_key(client, bury):
    answer = await client.post(f"{LIST}/{bury(1)}/drop", WHY, key=None)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")


async def test_a_missing_database_is_said(market, client):
    async def page(*_):
        raise DependencyError("database_unavailable", "down", 2)

    market.dead_letters.page = page
    answer = await client.get(LIST)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_the_description_tells_of_them_and_answers_fit_it(market, client, bury):
    description = (await client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(description).validate()

    def validate(value, schema):
        Draft202012Validator({**schema, "components": description["components"]}).validate(value)

    for path in (LIST, f"{LIST}/{{letter_id}}/retry", f"{LIST}/{{letter_id}}/drop"):
        (operation,) = description["paths"][path].values()
        media = operation["responses"]["200"]["content"]["application/json"]
        validate(media["example"], media["schema"])
        real = f"{path.format(letter_id=bury(1))}"
        answer = await (client.get(real) if path == LIST else client.post(real, WHY))
        assert answer.status_code == 200
        validate(answer.json(), media["schema"])
        if path != LIST:
            body = operation["requestBody"]["content"]["application/json"]
            validate(body["example"], body["schema"])
            assert {"404", "409"} <= set(operation["responses"])
