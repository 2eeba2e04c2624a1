"""The Stripe simulator across restarts and crashes: what was acknowledged is there."""

import contextlib
import subprocess
import sys
import threading

import pytest
import stripe

from tests.fakes.stripe_process import REPO, SECRET_KEY, StripeProcess, WebhookInbox, wait_until

pytestmark = pytest.mark.integration

INTENT = {"amount": 1999, "currency": "usd"}
PAID = {**INTENT, "payment_method": "pm_card_visa", "confirm": True}


@pytest.fixture
def simulator(tmp_path):
    process = StripeProcess(tmp_path / "data", None)
    yield process
    if process.process is not None and process.process.poll() is None:
        process.stop()


def test_a_restart_keeps_everything(simulator):
    client = simulator.start().client()
    options = {"idempotency_key": "k1"}
    intent = client.v1.payment_intents.create(PAID, options)
    endpoint = client.v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/", "enabled_events": ["a.b"]})
    assert simulator.stop() == 0
    simulator.start()
    again = client.v1.payment_intents.create(PAID, options)
    assert (again.id, again.last_response.headers["Idempotent-Replayed"]) == (intent.id, "true")
    assert client.v1.charges.retrieve(intent.latest_charge).paid
    assert len(client.v1.events.list().data) == 3
    assert client.v1.webhook_endpoints.list().data[0].id == endpoint.id
    newer = client.v1.payment_intents.create(INTENT)
    assert [i.id for i in client.v1.payment_intents.list().data] == [newer.id, intent.id]


def test_a_kill_loses_nothing_that_was_acknowledged(simulator):
    simulator.start()
    acknowledged: list[stripe.PaymentIntent] = []
    down = threading.Event()

    def buy(worker):
        client = simulator.client()
        for number in range(100_000):
            try:
                acknowledged.append(
                    client.v1.payment_intents.create(PAID, {"idempotency_key": f"{worker}-{number}"})
                )
            except stripe.APIConnectionError:
                down.set()
                return

    threads = [threading.Thread(target=buy, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(acknowledged) > 100)
    simulator.kill()
    for thread in threads:
        thread.join()
    assert down.is_set()
    client = simulator.start().client()
    kept = {intent.id: intent for intent in client.v1.payment_intents.list({"limit": 100}).auto_paging_iter()}
    charges = {charge.id for charge in client.v1.charges.list({"limit": 100}).auto_paging_iter()}
    for intent in acknowledged:
        assert kept[intent.id].status == "succeeded"
        assert intent.latest_charge in charges
    assert client.v1.payment_intents.create(PAID, {"idempotency_key": "0-0"}).id in kept


def test_pending_webhooks_survive_and_a_late_endpoint_gets_them(simulator):
    inbox = WebhookInbox()
    simulator.webhook_url, simulator.webhook_events = inbox.url, "payment_intent.succeeded"
    client = simulator.start().client()
    first = client.v1.payment_intents.create(PAID)
    with simulator.http() as http:
        wait_until(lambda: http.get("/_sim/deliveries").json()["data"][0]["attempts"] > 0)
        (delivery,) = http.get("/_sim/deliveries").json()["data"]
    assert (delivery["state"], "connect" in delivery["log"][0]["error"]) == ("pending", True)
    simulator.kill()
    simulator.start()
    second = client.v1.payment_intents.create(PAID)
    inbox.start()
    try:
        wait_until(lambda: {e.data.object["id"] for e in inbox.events()} >= {first.id, second.id}, 20)
        assert set(inbox.types()) == {"payment_intent.succeeded"}
    finally:
        inbox.close()


def test_no_card_number_reaches_the_disk(simulator):
    client = simulator.start().client()
    for number in ("4242424242424242", "4000000000000002", "4000002760003184", "5105105105105100"):
        card = {"number": number, "exp_month": 12, "exp_year": 2034, "cvc": "123"}
        typed = {**INTENT, "confirm": True, "payment_method_data": {"type": "card", "card": card}}
        with contextlib.suppress(stripe.CardError):
            client.v1.payment_intents.create(typed, {"idempotency_key": f"typed-{number[-4:]}"})
    before_stop = _written(simulator)
    assert simulator.stop() == 0
    for written in (before_stop, _written(simulator)):
        assert b"typed-4242" in written
        for number in (b"4242424242424242", b"4000000000000002", b"4000002760003184", b"5105105105105100"):
            assert number not in written


def _written(simulator):
    files = [*simulator.data_dir.iterdir(), simulator.log_path]
    return b"".join(path.read_bytes() for path in files)


def test_unusable_settings_are_told_in_one_line_without_secrets(tmp_path):
    command = [sys.executable, "-m", "cluster.local.stripe", "--port", "1", "--data-dir", str(tmp_path)]
    environment = {"STRIPE_SIM_SECRET_KEY": SECRET_KEY, "STRIPE_SIM_PUBLISHABLE_KEY": "wrong"}
    ended = subprocess.run(
        command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "STRIPE_SIM_PUBLISHABLE_KEY" in ended.stderr
    assert SECRET_KEY not in ended.stderr
