"""Faults of the Stripe simulator: on requests by its own API, on webhooks by its sender, without sockets."""

import asyncio
import time

import orjson
import pytest

from cluster.local.stripe.faults import Faults
from cluster.local.stripe.refusals import RefusedError
from cluster.local.stripe.webhook_endpoints import Registry, environment_endpoint
from cluster.local.stripe.webhooks import WebhookSender
from tests.fakes.stripe_in_process import RefusedAnswerError, StripeInProcess

INTENTS = "/v1/payment_intents"
ORDER = {"amount": 500, "currency": "usd"}


@pytest.fixture
async def stripe(tmp_path):
    made = StripeInProcess(tmp_path)
    yield made
    made.simulator.store.close()


async def refused(stripe, key=None):
    with pytest.raises(RefusedAnswerError) as answer:
        await stripe.post(INTENTS, key=key, **ORDER)
    return answer.value


async def count(stripe):
    return len((await stripe.get(INTENTS))["data"])


async def test_a_failure_instead_of_execution_is_replayed(stripe):
    await stripe.send_json("/_sim/faults", {"when": "instead", "status": 500, "method": "POST"})
    for _ in range(2):
        assert (await refused(stripe, "k1")).status == 500
    assert await count(stripe) == 0
    await stripe.post(INTENTS, key="k2", **ORDER)


@pytest.mark.parametrize(("given", "code"), [({}, "rate_limit"), ({"code": "lock_timeout"}, "lock_timeout")])
async def test_rate_limits_are_not_replayed(stripe, given, code):
    await stripe.send_json("/_sim/faults", {"status": 429, "method": "POST", **given})
    answer = await refused(stripe, "k1")
    assert (answer.status, answer.code, answer.error["type"]) == (429, code, "invalid_request_error")
    await stripe.post(INTENTS, key="k1", **ORDER)


@pytest.mark.parametrize(("when", "executed"), [("before", 0), ("after", 1)])
async def test_an_answer_may_be_lost(stripe, when, executed):
    await stripe.send_json("/_sim/faults", {"when": when, "drop": True, "method": "POST"})
    reply = await stripe.reply("POST", INTENTS, "k1", **ORDER)
    assert (reply.lost, await count(stripe)) == (True, executed)
    intent = await stripe.post(INTENTS, key="k1", **ORDER)
    assert [i["id"] for i in (await stripe.get(INTENTS))["data"]] == [intent["id"]]


def test_paths_are_matched_by_their_parts():
    faults = Faults()
    faults.add({"path": "/v1/payment_intents/*/capture", "status": 503, "times": 9})
    assert faults.strike("POST", "/v1/payment_intents/pi_1/capture") is not None
    for other in (
        "/v1/payment_intents/pi_1/confirm",
        "/v1/payment_intents/a/b/capture",
        "/v1/payment_intents",
    ):
        assert faults.strike("POST", other) is None
    assert faults.list()["data"][0]["times"] == 8


def test_a_probability_is_drawn_under_a_seed():
    def draws(seed, **more):
        faults = Faults()
        faults.add({"status": 500, "probability": 0.3, "seed": seed, **more})
        return [faults.strike("GET", "/v1/charges") is not None for _ in range(200)]

    assert draws(7) == draws(7) != draws(8)
    assert 30 < sum(draws(7)) < 90
    assert sum(draws(7, times=5)) == 5


def test_the_first_rule_that_strikes_counts():
    faults = Faults()
    faults.add({"status": 500, "probability": 1e-9, "seed": 1})
    faults.add({"status": 503})
    assert faults.strike("GET", "/v1/charges").status == 503
    assert faults.strike("GET", "/v1/charges") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "moon"},
        {"target": ["request"]},
        {"path": "/v1/a", "path_prefix": "/v1/b"},
        {"path": "/v1/(a+)+"},
        {"when": "instead"},
        {"drop": True, "status": 500},
        {"drop": True, "when": "instead"},
        {"drop": 1},
        {"code": "rate_limit", "status": 500},
        {"probability": 0},
        {"probability": 1.5},
        {"seed": -1, "probability": 0.5},
        {"target": "webhook"},
        {"target": "webhook", "action": "burn"},
        {"target": "webhook", "action": "delay"},
        {"target": "webhook", "action": "drop", "delay_ms": 5},
        {"target": "webhook", "action": "drop", "event": "A B"},
        {"target": "webhook", "action": "drop", "path": "/v1/a"},
    ],
)
def test_faults_that_make_no_sense(wrong):
    with pytest.raises(RefusedError) as answer:
        Faults().add(wrong)
    assert answer.value.status == 400


class RecordedPosts(WebhookSender):
    """The sender without its connections: every post succeeds and is kept."""

    async def _post(self, _lane, body):
        await asyncio.sleep(0)
        self.posts.append(orjson.loads(body)["type"])
        return 200


@pytest.fixture
async def hooks(stripe):
    """A simulator whose webhooks go to a list; ``hooks.posts`` has their types."""
    simulator = stripe.simulator
    registry = Registry(environment_endpoint("http://shop.test", "whsec_1", ["*"]))
    simulator.registry.subscribers = registry.subscribers
    sender = RecordedPosts(simulator.deliveries, registry, simulator.faults)
    sender.posts = []
    simulator.store.on_commit = sender.offer
    sender.start()
    yield sender
    await sender.stop()


async def until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.01)


async def announce(stripe, *types):
    """Commit one turn with an event of each type."""
    turn = stripe.simulator.turn(time.time_ns() // 1_000_000, None, None)
    for event_type in types:
        turn.announce_document(event_type, {"id": "ch_1"})
    await stripe.simulator.commit(turn, None)


async def fault(stripe, **rule):
    await stripe.send_json("/_sim/faults", {"target": "webhook", **rule})


def states(stripe):
    return sorted(row["state"] for row in stripe.simulator.deliveries.recent(None, None, 10)["data"])


async def test_a_dropped_webhook_never_comes_and_is_found(stripe, hooks):
    await fault(stripe, action="drop", event="charge.*")
    await announce(stripe, "charge.succeeded", "refund.created")
    await until(lambda: states(stripe) == ["delivered", "failed"])
    assert hooks.posts == ["refund.created"]
    for success, event_type in (("false", "charge.succeeded"), ("true", "refund.created")):
        found = (await stripe.get("/v1/events", delivery_success=success))["data"]
        assert [event["type"] for event in found] == [event_type]


async def test_a_duplicated_webhook_comes_twice(stripe, hooks):
    await fault(stripe, action="duplicate", event="charge.succeeded", times=5)
    await announce(stripe, "charge.succeeded")
    await until(lambda: states(stripe) == ["delivered"])
    assert hooks.posts == ["charge.succeeded"] * 2
    assert (await stripe.get("/_sim/faults"))["data"][0]["times"] == 4


async def test_a_delayed_webhook_comes_later_once(stripe, hooks):
    await fault(stripe, action="delay", delay_ms=200, times=5)
    started = time.monotonic()
    await announce(stripe, "charge.succeeded")
    await until(lambda: states(stripe) == ["delivered"])
    assert time.monotonic() - started >= 0.19
    assert hooks.posts == ["charge.succeeded"]


async def test_a_reordered_webhook_follows_the_next_one(stripe, hooks):
    await fault(stripe, action="reorder", event="charge.succeeded", delay_ms=60_000)
    await announce(stripe, "charge.succeeded")
    await until(lambda: not stripe.simulator.faults.on_webhooks)
    assert hooks.posts == []
    await announce(stripe, "charge.refunded")
    await until(lambda: states(stripe) == ["delivered", "delivered"])
    assert hooks.posts == ["charge.refunded", "charge.succeeded"]
