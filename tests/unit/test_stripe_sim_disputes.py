"""Disputes of the Stripe simulator, and the shapes of its objects beside those of the official SDK."""

import inspect
import typing

import pytest
import stripe as sdk

from cluster.local.stripe import accounts, balance_transactions, disputes, refunds, transfers
from tests.fakes.stripe_in_process import RefusedAnswerError, StripeInProcess

DAY_S = 86_400


@pytest.fixture
async def stripe(tmp_path):
    made = StripeInProcess(tmp_path)
    yield made
    made.simulator.store.close()


async def net(stripe):
    return sum(t["net"] for t in (await stripe.get("/v1/balance_transactions", limit=100))["data"])


async def only_dispute(stripe, **query):
    (found,) = (await stripe.get("/v1/disputes", **query))["data"]
    return found


async def submit(stripe, dispute_id, evidence, **more):
    return await stripe.post(
        f"/v1/disputes/{dispute_id}", **{"evidence[uncategorized_text]": evidence}, **more
    )


async def test_the_test_card_is_disputed_and_the_money_withdrawn(stripe):
    charge = await stripe.pay("createDispute")
    dispute = await only_dispute(stripe, charge=charge["id"])
    assert (charge["disputed"], charge["paid"]) == (True, True)
    assert (dispute["status"], dispute["reason"], dispute["amount"]) == (
        "needs_response",
        "fraudulent",
        10_000,
    )
    assert (dispute["is_charge_refundable"], dispute["network_reason_code"]) == (False, "10.4")
    (withdrawn,) = dispute["balance_transactions"]
    assert (withdrawn["amount"], withdrawn["fee"], withdrawn["net"]) == (-10_000, 1_500, -11_500)
    assert (withdrawn["type"], withdrawn["reporting_category"]) == ("adjustment", "dispute")
    assert (withdrawn["source"], dispute["balance_transaction"]) == (dispute["id"], withdrawn["id"])
    assert withdrawn["fee_details"][0]["description"] == "Dispute fee"
    assert await net(stripe) == 9_680 - 11_500
    assert await stripe.event_types(dispute["id"]) == [
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
    ]
    assert await only_dispute(stripe, payment_intent=charge["payment_intent"]) == dispute


async def test_winning_evidence_brings_the_amount_back_without_the_fee(stripe):
    await stripe.pay("createDispute")
    dispute = await only_dispute(stripe)
    waiting = await submit(stripe, dispute["id"], "winning_evidence")
    details = waiting["evidence_details"]
    assert (waiting["status"], details["submission_count"], details["has_evidence"]) == (
        "under_review",
        1,
        True,
    )
    with pytest.raises(RefusedAnswerError) as refused:
        await submit(stripe, dispute["id"], "more")
    assert refused.value.status == 400
    await stripe.wait_s(2)
    won = await stripe.get(f"/v1/disputes/{dispute['id']}")
    assert (won["status"], won["is_charge_refundable"]) == ("won", True)
    assert [t["reporting_category"] for t in won["balance_transactions"]] == ["dispute", "dispute_reversal"]
    assert await net(stripe) == 9_680 - 1_500
    assert (await stripe.event_types(dispute["id"]))[2:] == [
        "charge.dispute.updated",
        "charge.dispute.closed",
        "charge.dispute.funds_reinstated",
    ]
    assert (await stripe.post("/v1/refunds", charge=won["charge"]))["amount"] == 10_000


async def test_a_fee_is_given_back_with_a_won_dispute_or_changed_by_hand(stripe):
    await stripe.send_json("/_sim/dials", {"dispute_fee_returned": True})
    await stripe.pay("createDispute")
    dispute = await only_dispute(stripe)
    path = f"/_sim/disputes/{dispute['id']}"
    raised = await stripe.post(f"{path}/fee", amount=500)
    assert [t["fee"] for t in raised["balance_transactions"]] == [1_500, 500]
    assert await net(stripe) == 9_680 - 12_000
    with pytest.raises(RefusedAnswerError):
        await stripe.post(f"{path}/fee", amount=2_001, given_back="true")
    await stripe.post(f"{path}/fee", amount=200, given_back="true")
    won = await stripe.post(f"{path}/decide", outcome="won")
    assert [t["fee"] for t in won["balance_transactions"]] == [1_500, 500, -200, -1_800]
    assert await net(stripe) == 9_680
    await stripe.pay("createDisputeInquiry")
    inquiry = (await stripe.get("/v1/disputes"))["data"][0]
    with pytest.raises(RefusedAnswerError):
        await stripe.post(f"/_sim/disputes/{inquiry['id']}/fee", amount=1)


async def test_losing_evidence_loses(stripe):
    await stripe.pay("createDisputeProductNotReceived")
    dispute = await only_dispute(stripe)
    assert dispute["reason"] == "product_not_received"
    await submit(stripe, dispute["id"], "losing_evidence")
    await stripe.wait_s(2)
    assert (await stripe.get(f"/v1/disputes/{dispute['id']}"))["status"] == "lost"
    assert await net(stripe) == 9_680 - 11_500
    assert (await stripe.event_types(dispute["id"]))[-1] == "charge.dispute.closed"


async def test_evidence_may_be_staged_and_removed_first(stripe):
    await stripe.pay("createDispute")
    dispute = await only_dispute(stripe)
    staged = await submit(stripe, dispute["id"], "first", submit="false", **{"metadata[case]": "7"})
    assert (staged["status"], staged["evidence_details"]["has_evidence"]) == ("needs_response", True)
    removed = await submit(stripe, dispute["id"], "", submit="false")
    assert (removed["evidence"]["uncategorized_text"], removed["metadata"]) == (None, {"case": "7"})
    event = (await stripe.get("/v1/events", type="charge.dispute.updated"))["data"][0]
    assert event["data"]["previous_attributes"] == {"evidence": {"uncategorized_text": "first"}}
    await stripe.post(f"/v1/disputes/{dispute['id']}", submit="true")
    await stripe.wait_s(60 * DAY_S)
    assert (await stripe.get(f"/v1/disputes/{dispute['id']}"))["status"] == "under_review"
    for wrong in ({"evidence[receipt]": "file_1"}, {"evidence[uncategorized_text]": "x" * 20_001}):
        with pytest.raises(RefusedAnswerError):
            await stripe.post(f"/v1/disputes/{dispute['id']}", **wrong)


async def test_closing_gives_up(stripe):
    await stripe.pay("createDispute")
    dispute = await only_dispute(stripe)
    assert (await stripe.post(f"/v1/disputes/{dispute['id']}/close"))["status"] == "lost"
    with pytest.raises(RefusedAnswerError):
        await stripe.post(f"/v1/disputes/{dispute['id']}/close")
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post("/v1/disputes/dp_none/close")
    assert refused.value.code == "resource_missing"


async def test_what_is_not_answered_in_time_is_lost(stripe):
    await stripe.send_json("/_sim/dials", {"dispute_response_s": 100, "dispute_fee_minor": 2_000})
    await stripe.pay("createDispute")
    await stripe.pay("createDisputeInquiry")
    await stripe.wait_s(101)
    inquiry, dispute = (await stripe.get("/v1/disputes"))["data"]
    assert (dispute["status"], dispute["evidence_details"]["past_due"]) == ("lost", True)
    assert dispute["balance_transactions"][0]["fee"] == 2_000
    assert (inquiry["status"], inquiry["balance_transactions"]) == ("warning_closed", [])


async def test_an_inquiry_takes_nothing_until_it_is_escalated(stripe):
    charge = await stripe.pay("createDisputeInquiry")
    inquiry = await only_dispute(stripe)
    assert (inquiry["status"], inquiry["is_charge_refundable"]) == ("warning_needs_response", True)
    assert await net(stripe) == 9_680
    await stripe.post("/v1/refunds", charge=charge["id"], amount=3_000)
    await submit(stripe, inquiry["id"], "escalate_inquiry_evidence")
    await stripe.wait_s(2)
    escalated = await stripe.get(f"/v1/disputes/{inquiry['id']}")
    assert (escalated["status"], escalated["amount"]) == ("needs_response", 7_000)
    assert escalated["payment_method_details"]["card"]["case_type"] == "chargeback"
    assert await net(stripe) == 9_680 - 3_000 - 7_000 - 1_500
    assert (await stripe.event_types(inquiry["id"]))[-2:] == [
        "charge.dispute.updated",
        "charge.dispute.funds_withdrawn",
    ]


async def test_a_full_refund_closes_an_inquiry(stripe):
    charge = await stripe.pay("createDisputeInquiry")
    await stripe.post("/v1/refunds", charge=charge["id"])
    assert (await only_dispute(stripe))["status"] == "warning_closed"


@pytest.mark.parametrize("outcome", ["open", "lost"])
async def test_a_disputed_charge_cannot_be_refunded(stripe, outcome):
    charge = await stripe.pay("createDispute")
    if outcome == "lost":
        await stripe.post(f"/v1/disputes/{(await only_dispute(stripe))['id']}/close")
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post("/v1/refunds", charge=charge["id"])
    assert (refused.value.status, refused.value.code) == (400, "charge_disputed")
    assert refused.value.error["message"] == (
        f"Charge {charge['id']} has been charged back; cannot issue a refund."
    )


async def test_a_control_disputes_at_most_what_is_left(stripe):
    charge = await stripe.pay()
    await stripe.post("/v1/refunds", charge=charge["id"], amount=2_000)
    for wrong in ({"amount": 8_001}, {"reason": "boredom"}, {"charge": "ch_none"}):
        with pytest.raises(RefusedAnswerError):
            await stripe.post("/_sim/disputes", **({"charge": charge["id"]} | wrong))
    first = await stripe.post("/_sim/disputes", charge=charge["id"], amount=5_000, reason="duplicate")
    assert (first["amount"], first["reason"]) == (5_000, "duplicate")
    assert (await stripe.post("/_sim/disputes", charge=charge["id"]))["amount"] == 3_000
    with pytest.raises(RefusedAnswerError):
        await stripe.post("/_sim/disputes", charge=charge["id"], amount=1)
    refunded = await stripe.pay()
    await stripe.post("/v1/refunds", charge=refunded["id"])
    with pytest.raises(RefusedAnswerError):
        await stripe.post("/_sim/disputes", charge=refunded["id"])


async def test_a_control_decides_as_the_bank(stripe):
    charge = await stripe.pay()
    dispute = await stripe.post("/_sim/disputes", charge=charge["id"])
    decide = f"/_sim/disputes/{dispute['id']}/decide"
    for wrong in ("warning_closed", "needs_response", "maybe"):
        with pytest.raises(RefusedAnswerError):
            await stripe.post(decide, outcome=wrong)
    assert (await stripe.post(decide, outcome="lost"))["status"] == "lost"
    assert (await stripe.post(decide, outcome="won"))["status"] == "won"
    assert await net(stripe) == 9_680 - 1_500
    with pytest.raises(RefusedAnswerError):
        await stripe.post(decide, outcome="won")
    inquiry = await stripe.post("/_sim/disputes", charge=charge["id"], inquiry="true")
    decided = await stripe.post(f"/_sim/disputes/{inquiry['id']}/decide", outcome="needs_response")
    assert decided["status"] == "needs_response"


# -- shapes, beside the SDK, which is generated from Stripe's own OpenAPI of this version


def check_shape(document, shape):
    """Every field that Stripe always sends is there; none is there that Stripe does not have."""
    hints = {
        name: hint
        for name, hint in inspect.get_annotations(shape).items()
        if typing.get_origin(hint) is not typing.ClassVar and not name.startswith("_")
    }
    assert document.keys() - ADDED.get(shape, set()) <= hints.keys()
    always = {name for name, hint in hints.items() if type(None) not in typing.get_args(hint)}
    assert always <= document.keys()


ADDED = {sdk.Dispute: {"balance_transaction"}}  # sent by Stripe for long, and left out of its OpenAPI


async def test_objects_have_stripes_shapes(stripe):
    charge = await stripe.pay("createDispute")
    dispute = await only_dispute(stripe)
    check_shape(dispute, sdk.Dispute)
    check_shape(dispute["evidence"], sdk.Dispute.Evidence)
    check_shape(dispute["evidence_details"], sdk.Dispute.EvidenceDetails)
    check_shape(dispute["payment_method_details"]["card"], sdk.Dispute.PaymentMethodDetails.Card)
    check_shape(dispute["balance_transactions"][0], sdk.BalanceTransaction)
    check_shape(dispute["balance_transactions"][0]["fee_details"][0], sdk.BalanceTransaction.FeeDetail)
    check_shape(await stripe.get("/v1/balance"), sdk.Balance)
    other = await stripe.pay()
    check_shape(await stripe.post("/v1/refunds", charge=other["id"]), sdk.Refund)
    account = await stripe.post("/v1/accounts")
    check_shape(account, sdk.Account)
    form = {"amount": 100, "currency": "usd", "destination": account["id"]}
    transfer = await stripe.post("/v1/transfers", **form, source_transaction=charge["id"])
    check_shape(transfer, sdk.Transfer)
    check_shape(await stripe.post(f"/v1/transfers/{transfer['id']}/reversals"), sdk.TransferReversal)


@pytest.mark.parametrize(
    ("specification", "shape"),
    [
        (balance_transactions.LIST, "BalanceTransactionListParams"),
        (disputes.LIST, "DisputeListParams"),
        (disputes.UPDATE, "DisputeUpdateParams"),
        (disputes.UPDATE["evidence"], "DisputeUpdateParamsEvidence"),
        (refunds.CREATE, "RefundCreateParams"),
        (accounts.CREATE, "AccountCreateParams"),
        (transfers.CREATE, "TransferCreateParams"),
        (transfers.LIST, "TransferListParams"),
        (transfers.REVERSE, "TransferReversalCreateParams"),
    ],
)
def test_parameters_are_ones_that_stripe_takes(specification, shape):
    known = set(inspect.get_annotations(shape_of(shape)))
    assert specification.keys() <= known, shape


def shape_of(name):
    module = "_" + "".join(f"_{c.lower()}" if c.isupper() else c for c in name.split("Params")[0]).lstrip("_")
    return getattr(__import__(f"stripe.params.{module}_params", fromlist=[name]), name)
