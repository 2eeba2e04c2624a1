"""Payouts and the daily reconciliation on the whole marketplace: two operators, webhooks, the runner.

Sales of a month that is over cannot be made here, so what the payees are owed is booked at Finance as an
operator would correct it; in currencies of this module alone, as there is one batch for each and period.
"""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from deployments.settings import load_settings
from storage.finance.client_tls import ClientTls
from storage.finance_client import FinanceClient
from tests.acceptance.payments import until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

WITHIN_S = 60.0  # the runner looks every five seconds, the daily reconciliation every thirty
OWED_MINOR = 12_345
THIS_MONTH = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
OVER = THIS_MONTH - timedelta(days=3)
PERIOD = f"{OVER:%Y-%m}"


@pytest.fixture
def stripe(market):
    headers = {"Authorization": f"Bearer {market.local['stripe']['secret_key']}"}
    with httpx.Client(base_url=market.local["stripe"]["api_base"], headers=headers, timeout=20) as client:
        yield client
        client.post("/_sim/dials", json={"real_balances": False})


@pytest.fixture
def operator(market):
    with market.http("operator") as client:
        yield client


@pytest.fixture
def payee(market, stripe, operator):
    """Make a payee with an account whom we owe something since last month; returns (payee, account)."""

    def make(currency):
        payee_id = f"usr_{uuid4().hex}"
        asyncio.run(owe(market, payee_id, currency))
        account = stripe.post("/v1/accounts", data={"type": "express"}).json()["id"]
        named = operator.put(f"/v1/payees/{payee_id}", json={"account_id": account}, headers=key())
        assert named.json()["ready"], named.text
        return payee_id, account

    return make


async def owe(market, payee_id, currency):
    finance = load_settings(market.layout.settings_json).finance
    client = FinanceClient(finance.url, finance.token, tls=ClientTls(finance.back_office))
    legs = [("platform:fees", OWED_MINOR), (f"seller:{payee_id}:payable", -OWED_MINOR)]
    await client.book(f"correction:{payee_id}", currency, OVER, legs)
    await client.close()


def key():
    return {"Idempotency-Key": str(uuid4())}


def drafted(market, currency, tmp_path):
    done = market.cli(
        *("ops", "payouts", "draft", PERIOD, currency, "--reason", "Monthly.", "--json"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    batch = json.loads(done.stdout.splitlines()[-1])
    assert (batch["payouts"], batch["paid_minor"]) == (1, OWED_MINOR)
    return batch["id"]


def approved(market, batch_id):
    """The second operator's approval; the first one's own is refused."""
    for role, status in (("operator", 422), ("operator2", 200)):
        with market.http(role) as client:
            path = f"/v1/ops/payouts/{batch_id}/approval"
            answer = client.post(path, json={"reason": "Checked."}, headers=key())
            assert answer.status_code == status, answer.text


def payout_until(operator, payee_id, status):
    def read():
        (payout,) = operator.get("/v1/payouts", params={"payee": payee_id}).json()["items"]
        return payout

    return until(read, lambda payout: payout["status"] == status, WITHIN_S)


def test_a_batch_waits_for_an_account_that_stripe_restricts_and_is_paid_when_it_may(
    market, stripe, operator, payee, tmp_path
):
    payee_id, account = payee("NOK")
    batch_id = drafted(market, "NOK", tmp_path)
    restrict = f"/_sim/accounts/{account}/restrict"
    assert stripe.post(restrict, data={"payouts_enabled": "false"}).is_success
    path = f"/v1/payees/{payee_id}"
    until(lambda: operator.get(path).json(), lambda shown: not shown["ready"], WITHIN_S)
    approved(market, batch_id)
    waiting = payout_until(operator, payee_id, "awaiting_account")
    assert waiting["waiting"]["code"] == "account_not_ready"
    assert stripe.post(restrict, data={"payouts_enabled": "true"}).is_success
    settled = payout_until(operator, payee_id, "settled")
    transfer = stripe.get(f"/v1/transfers/{settled['transfer_id']}").json()
    assert (transfer["amount"], transfer["destination"]) == (OWED_MINOR, account)
    query = {"currency": "NOK", "payee": payee_id}
    statement = operator.get(f"/v1/payouts/{THIS_MONTH:%Y-%m}/statement", params=query).json()
    assert statement["closing_minor"] == 0, statement


def test_a_payout_that_the_balance_does_not_cover_waits_until_it_is_run(
    market, stripe, operator, payee, tmp_path
):
    payee_id, _ = payee("SEK")
    batch_id = drafted(market, "SEK", tmp_path)
    assert stripe.post("/_sim/dials", json={"real_balances": True}).is_success
    approved(market, batch_id)
    waiting = payout_until(operator, payee_id, "awaiting_balance")
    assert (waiting["amount_minor"], waiting["waiting"]["code"]) == (0, "balance_insufficient")
    assert stripe.post("/_sim/dials", json={"real_balances": False}).is_success
    done = market.cli("ops", "payouts", "run", batch_id, "--reason", "There is money now.", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert payout_until(operator, payee_id, "settled")["amount_minor"] == OWED_MINOR


def test_yesterday_is_reconciled_by_itself(operator):
    """The relay's process does it within a minute of its start."""

    def daily():
        items = operator.get("/v1/ops/reconciliations").json()["items"]
        return [one for one in items if one["daily"]]

    (run,) = until(daily, lambda runs: len(runs) == 1, WITHIN_S)
    assert run["complete"], run
    assert time.time() - datetime.fromisoformat(run["until"]).timestamp() > 0
