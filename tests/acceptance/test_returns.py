"""Refunds, disputes and reconciliation on the whole marketplace, by what Stripe's simulator sends."""

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

WITHIN_S = 40.0


@pytest.fixture
def stripe(market):
    """Stripe as its dashboard, its banks and its faults: controls of the simulator, and its API."""
    headers = {"Authorization": f"Bearer {market.local['stripe']['secret_key']}"}
    with httpx.Client(base_url=market.local["stripe"]["api_base"], headers=headers, timeout=20) as client:
        yield client
        client.delete("/_sim/faults")


@pytest.fixture
def operator(market):
    with market.http("operator") as client:
        yield client


def until(read, wanted, what=""):
    deadline = time.monotonic() + WITHIN_S
    while not wanted(found := read()):
        assert time.monotonic() < deadline, (what, found)
        time.sleep(0.1)
    return found


@pytest.fixture
def buy(market, buyer, wish):
    """Buy one ``logline``; returns a function that reads the order, and its charge's id is asked apart."""

    def buy(card="pm_card_visa", *, delivered=True):
        placed = buyer.post("/v1/orders", json=wish(), headers={"Idempotency-Key": str(uuid4())}).json()
        assert market.confirm(placed, card).status_code == 200

        def read():
            return buyer.get(f"/v1/orders/{placed['id']}").json()

        if delivered:
            until(read, lambda order: order["status"] == "delivered")
        return placed["id"], read

    return buy


@pytest.fixture
def licence_status(buyer):
    def status(order):
        return buyer.get(f"/v1/licences/{order['lines'][0]['licence_id']}").json()["status"]

    return status


def charge_of(stripe, order_id):
    charges = stripe.get("/v1/charges", params={"limit": 100}).json()["data"]
    return next(one for one in charges if one["metadata"].get("order_id") == order_id)["id"]


def run_cli(market, tmp_path, *arguments):
    done = market.cli(*arguments, "--json", cwd=tmp_path)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def reconcile(market, tmp_path, *more):
    today = datetime.now(UTC).date().isoformat()
    return run_cli(market, tmp_path, "ops", "reconcile", "--date", today, "--grace-s", "0", *more)


def test_a_refund_in_the_dashboard_reaches_order_and_licence(stripe, buy, licence_status):
    order_id, read = buy()
    charge = charge_of(stripe, order_id)
    assert stripe.post("/_sim/refunds", data={"charge": charge, "amount": "500"}).is_success
    part = until(read, lambda order: order["refunded_minor"] == 500)
    assert (part["status"], licence_status(part)) == ("delivered", "active")
    assert stripe.post("/_sim/refunds", data={"charge": charge}).is_success
    whole = until(read, lambda order: order["status"] == "refunded")
    assert licence_status(whole) == "revoked"
    assert [one["origin"] for one in whole["refunds"]] == ["dashboard", "dashboard"]


@pytest.mark.parametrize(("card", "end"), [("pendingRefund", "refunded"), ("refundFail", "delivered")])
def test_a_refund_of_ours_takes_the_course_of_its_card(operator, buy, licence_status, card, end):
    order_id, read = buy(f"pm_card_{card}")
    asked = operator.post(
        f"/v1/orders/{order_id}/refunds",
        json={"reason": "Asked for."},
        headers={"Idempotency-Key": str(uuid4())},
    )
    assert asked.status_code == 201
    states = {"refunded": "succeeded", "delivered": "failed"}
    order = until(
        read,
        lambda order: order["status"] == end and [one["status"] for one in order["refunds"]] == [states[end]],
    )
    # A refund that failed after it had succeeded leaves the licence revoked: that is for good.
    assert licence_status(order) == "revoked"


def test_a_dispute_is_answered_and_won(market, stripe, operator, buy, licence_status, tmp_path):
    order_id, read = buy("pm_card_createDispute", delivered=False)
    disputed = until(read, lambda order: order["status"] == "disputed")
    dispute_id = disputed["disputes"][0]["id"]
    (listed,) = [
        one for one in operator.get("/v1/ops/disputes").json()["items"] if one["order_id"] == order_id
    ]
    until(
        lambda: operator.get("/v1/ops/disputes").json()["items"],
        lambda items: next(one for one in items if one["order_id"] == order_id)["fee_minor"] == 1500,
    )
    assert listed["due_by"] > datetime.now(UTC).isoformat()
    sent = market.cli(
        *("ops", "dispute", "evidence", order_id, dispute_id, "--text", "He has it."), cwd=tmp_path
    )
    assert sent.returncode == 0, sent.stderr
    assert "placed the order" in sent.stdout
    until(
        lambda: stripe.get(f"/v1/disputes/{dispute_id}").json()["evidence_details"],
        lambda details: details["has_evidence"] and details["submission_count"] == 0,
    )
    code, final = run_cli(market, tmp_path, "ops", "dispute", "evidence", order_id, dispute_id, "--submit")
    assert (code, final["submit"]) == (0, True)
    until(read, lambda order: order["disputes"][0]["stage"] == "under_review")
    at_stripe = stripe.get(f"/v1/disputes/{dispute_id}").json()
    assert at_stripe["evidence_details"]["submission_count"] == 1
    assert order_id in at_stripe["evidence"]["uncategorized_text"]
    code, refused = run_cli(market, tmp_path, "ops", "dispute", "evidence", order_id, dispute_id, "--submit")
    assert (code, refused["error"]["code"]) == (1, "evidence_submitted")
    assert stripe.post(f"/_sim/disputes/{dispute_id}/decide", data={"outcome": "won"}).is_success
    won = until(read, lambda order: order["disputes"][0]["status"] == "won")
    assert licence_status(won) == "active"


def test_a_lost_dispute_revokes_and_an_inquiry_does_nothing_until_it_grows(stripe, buy, licence_status):
    order_id, read = buy()
    charge = charge_of(stripe, order_id)
    opened = stripe.post("/_sim/disputes", data={"charge": charge, "inquiry": "true"}).json()
    time.sleep(1)
    assert (read()["status"], licence_status(read())) == ("delivered", "active")
    assert stripe.post(f"/_sim/disputes/{opened['id']}/decide", data={"outcome": "needs_response"}).is_success
    grown = until(read, lambda order: order["status"] == "disputed")
    assert licence_status(grown) == "suspended"
    assert stripe.post(f"/_sim/disputes/{opened['id']}/decide", data={"outcome": "lost"}).is_success
    lost = until(read, lambda order: order["status"] == "dispute_lost")
    assert licence_status(lost) == "revoked"


def test_webhooks_that_never_came_are_found_and_applied(market, stripe, buy, licence_status, tmp_path):
    order_id, read = buy()
    charge = charge_of(stripe, order_id)
    for event in ("charge.*", "refund.*"):
        stripe.post("/_sim/faults", json={"target": "webhook", "event": event, "action": "drop", "times": 20})
    assert stripe.post("/_sim/refunds", data={"charge": charge}).is_success
    time.sleep(1)
    stripe.delete("/_sim/faults")
    assert read()["status"] == "delivered"
    code, found = reconcile(market, tmp_path)
    assert code == 1
    assert [one["kind"] for one in found["found"]] == ["refund_not_recorded"]
    listed = market.cli("ops", "cases", "list", cwd=tmp_path)
    assert "refund_not_recorded" in listed.stdout
    reconcile(market, tmp_path, "--apply")
    refunded = until(read, lambda order: order["status"] == "refunded")
    assert licence_status(refunded) == "revoked"


def test_in_the_end_every_cent_is_booked(market, operator, tmp_path):
    """After all of the above: no differences, and Finance's clearing equals Stripe's balance."""

    def settled():
        return reconcile(market, tmp_path, "--apply")

    _, report = until(settled, lambda done: done[0] == 0, "differences are left")
    assert report["fees_booked"] >= 0
    assert report["finance_less_stripe_minor"] == {}, report
    assert report["finance_clearing_minor"] == report["stripe_balance_minor"]
    assert operator.get("/v1/ops/cases?status=open").json()["items"] == []
    checked = market.cli("check", "--stripe", "--json", cwd=tmp_path)
    document = json.loads(checked.stdout.splitlines()[-1])
    assert (checked.returncode, document["list"]) == (0, []), document
    assert document["balances_compared"]
    assert document["unbooked_fees_minor"] == {}
    runs = operator.get("/v1/ops/reconciliations").json()["items"]
    assert runs[0]["complete"]
