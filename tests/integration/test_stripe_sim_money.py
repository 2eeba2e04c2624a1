"""Money in full at the Stripe simulator, as a shop sees it: the official SDK, signed webhooks, a crash."""

import pytest
import stripe

from tests.fakes.stripe_process import StripeProcess, WebhookInbox, wait_until

pytestmark = pytest.mark.integration

PAID = {"amount": 10_000, "currency": "usd", "confirm": True}


@pytest.fixture
def inbox():
    started = WebhookInbox().start()
    yield started
    started.close()


@pytest.fixture
def simulator(tmp_path, inbox):
    process = StripeProcess(tmp_path / "data", inbox.url).start()
    yield process
    assert process.stop() == 0
    assert process.log_path.read_text() == ""


def pay(client, card="visa"):
    return client.v1.payment_intents.create(
        {**PAID, "payment_method": f"pm_card_{card}", "expand": ["latest_charge.balance_transaction"]}
    )


def test_disputes_transfers_transactions_and_events(simulator, inbox):
    client = simulator.client()
    charge = pay(client).latest_charge
    assert (charge.balance_transaction.fee, charge.balance_transaction.net) == (320, 9_680)
    disputed = pay(client, "createDispute").latest_charge
    (dispute,) = client.v1.disputes.list({"charge": disputed.id}).data
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.refunds.create({"charge": disputed.id})
    assert refused.value.code == "charge_disputed"
    client.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})
    wait_until(lambda: client.v1.disputes.retrieve(dispute.id).status == "won")

    seller = client.v1.accounts.create({"type": "express", "country": "US", "email": "seller@shop.test"})
    transfer = client.v1.transfers.create(
        {
            "amount": 8_000,
            "currency": "usd",
            "destination": seller.id,
            "source_transaction": charge.id,
            "transfer_group": "payout_1",
        },
        {"idempotency_key": "payout_1"},
    )
    reversal = client.v1.transfers.reversals.create(transfer.id, {"amount": 1_000})
    assert client.v1.transfers.reversals.retrieve(transfer.id, reversal.id).amount == 1_000
    (listed,) = client.v1.transfers.list({"transfer_group": "payout_1"}).data
    assert (listed.amount_reversed, listed.reversals.data[0].id) == (1_000, reversal.id)

    booked = list(client.v1.balance_transactions.list({"limit": 2}).auto_paging_iter())
    assert [(t.reporting_category, t.net) for t in booked] == [
        ("transfer_reversal", 1_000),
        ("transfer", -8_000),
        ("dispute_reversal", 10_000),
        ("dispute", -11_500),
        ("charge", 9_680),
        ("charge", 9_680),
    ]
    balance = client.v1.balance.retrieve()
    assert balance.available[0].amount + balance.pending[0].amount == sum(t.net for t in booked)

    wanted = {
        *("charge.dispute.created", "charge.dispute.funds_withdrawn", "charge.dispute.updated"),
        *(
            "charge.dispute.closed",
            "charge.dispute.funds_reinstated",
            "transfer.created",
            "transfer.reversed",
        ),
    }
    wait_until(lambda: wanted <= set(inbox.types()))
    told = {event.id for event in inbox.events()}
    kept = list(client.v1.events.list({"limit": 5, "created": {"gte": charge.created}}).auto_paging_iter())
    wait_until(lambda: {event.id for event in kept} <= {event.id for event in inbox.events()})
    assert told <= {event.id for event in kept}
    assert client.v1.events.retrieve(kept[0].id).type == kept[0].type


def test_a_kill_keeps_the_books_and_what_is_due(simulator):
    client = simulator.client()
    charge = pay(client, "refundFail").latest_charge
    refund = client.v1.refunds.create({"charge": charge.id})
    with simulator.http() as http:
        http.post("/_sim/dials", json={"fee_bps": 100}).raise_for_status()
    simulator.kill()
    simulator.start()
    wait_until(lambda: client.v1.refunds.retrieve(refund.id).status == "failed")
    booked = client.v1.balance_transactions.list().data
    assert [t.type for t in booked] == ["refund_failure", "refund", "charge"]
    balance = client.v1.balance.retrieve()
    assert balance.available[0].amount + balance.pending[0].amount == 9_680
    assert pay(client).latest_charge.balance_transaction.fee == 130


def test_a_lost_answer_is_found_by_its_key(simulator):
    client = simulator.client()
    with simulator.http() as http:
        rule = {"path": "/v1/payment_intents", "method": "POST", "when": "after", "drop": True}
        http.post("/_sim/faults", json=rule).raise_for_status()
    order, key = {"amount": 100, "currency": "usd"}, {"idempotency_key": "lost"}
    with pytest.raises(stripe.APIConnectionError):
        client.v1.payment_intents.create(order, key)
    intent = client.v1.payment_intents.create(order, key)
    assert intent.last_response.headers["Idempotent-Replayed"] == "true"
    assert [i.id for i in client.v1.payment_intents.list().data] == [intent.id]
