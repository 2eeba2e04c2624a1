"""Balance transactions, captures, refunds and transfers of the Stripe simulator, by its own API."""

import time

import pytest

from tests.fakes.stripe_in_process import RefusedAnswerError, StripeInProcess

DAY_S = 86_400


@pytest.fixture
async def stripe(tmp_path):
    made = StripeInProcess(tmp_path)
    yield made
    made.simulator.store.close()


async def transactions(stripe, **query):
    return (await stripe.get("/v1/balance_transactions", **query))["data"]


async def sums(stripe):
    """(available, pending) of the dollar balance; all transactions' nets add up to it."""
    balance = await stripe.get("/v1/balance")
    available, pending = ([m["amount"] for m in balance[n] if m["currency"] == "usd"] for n in BALANCE)
    nets = [t["net"] for t in await transactions(stripe, limit=100, currency="usd")]
    assert sum(available) + sum(pending) == sum(nets)
    return sum(available), sum(pending)


BALANCE = ("available", "pending")


async def test_a_charge_is_booked_less_the_fee_and_pending(stripe):
    charge = await stripe.pay(amount=1_950)
    (booked,) = await transactions(stripe)
    assert booked["id"] == charge["balance_transaction"]
    # 2.9 % of 19.50 is 0.5655: half a cent and more goes up.
    assert (booked["amount"], booked["fee"], booked["net"]) == (1_950, 87, 1_863)
    assert [(d["amount"], d["type"], d["description"]) for d in booked["fee_details"]] == [
        (87, "stripe_fee", "Stripe processing fees")
    ]
    assert (booked["type"], booked["reporting_category"], booked["source"]) == (
        "charge",
        "charge",
        charge["id"],
    )
    assert booked["status"] == "pending"
    assert booked["available_on"] % DAY_S == 0
    assert DAY_S <= booked["available_on"] - booked["created"] <= 2 * DAY_S
    assert await sums(stripe) == (0, 1_863)
    expanded = await stripe.get(f"/v1/charges/{charge['id']}", **{"expand[]": "balance_transaction"})
    assert expanded["balance_transaction"] == booked
    back = await stripe.get(f"/v1/balance_transactions/{booked['id']}", **{"expand[]": "source"})
    assert back["source"]["id"] == charge["id"]


async def test_pending_money_becomes_available_in_time(stripe):
    await stripe.pay()
    await stripe.pay("bypassPending")
    assert await sums(stripe) == (9_680, 9_680)
    balances = stripe.simulator.balances
    later = int(time.time()) + 3 * DAY_S
    assert balances.at(later) == {"usd": (19_360, 0)}
    assert balances.at(later) == {"usd": (19_360, 0)}


async def test_the_balance_starts_anew_after_a_rollback(stripe):
    await stripe.pay()
    assert await sums(stripe) == (0, 9_680)
    turn = stripe.simulator.turn(int(time.time() * 1_000), None, None)
    turn.put("charge", {"id": "ch_bad", "created": None})
    with pytest.raises(Exception, match="NOT NULL"):
        stripe.simulator.store.write(turn, None)
    await stripe.pay()
    assert await sums(stripe) == (0, 19_360)


async def test_transactions_are_listed_by_type_source_currency_and_time(stripe):
    first = await stripe.pay()
    euro = await stripe.pay(currency="eur")
    refund = await stripe.post("/v1/refunds", charge=first["id"], amount=500)
    assert [t["type"] for t in await transactions(stripe)] == ["refund", "charge", "charge"]
    assert [t["source"] for t in await transactions(stripe, type="refund")] == [refund["id"]]
    assert [t["source"] for t in await transactions(stripe, currency="eur")] == [euro["id"]]
    assert [t["amount"] for t in await transactions(stripe, source=first["id"])] == [10_000]
    assert await transactions(stripe, source=first["id"], type="refund") == []
    assert [t["amount"] for t in await transactions(stripe, source=refund["id"])] == [-500]
    now = int(time.time())
    window = {"created[gte]": now - 60, "created[lt]": now + 60}
    assert len(await transactions(stripe, **window)) == 3
    assert await transactions(stripe, **{"created[lt]": now - 60}) == []
    assert await transactions(stripe, **{"created[gte]": now + 60}) == []
    page = await stripe.get("/v1/balance_transactions", limit=2)
    assert (page["object"], page["has_more"], page["url"]) == ("list", True, "/v1/balance_transactions")
    rest = await transactions(stripe, starting_after=page["data"][1]["id"])
    assert [t["source"] for t in rest] == [first["id"]]
    with pytest.raises(RefusedAnswerError) as refused:
        await transactions(stripe, payout="po_1")
    assert (refused.value.status, refused.value.code) == (404, "resource_missing")


async def test_fees_are_dials_that_a_restart_keeps(stripe, tmp_path):
    await stripe.send_json("/_sim/dials", {"fee_bps": 150, "fee_fixed_minor": 25})
    await stripe.pay()
    assert (await transactions(stripe))[0]["fee"] == 175
    again = StripeInProcess(tmp_path)
    assert (await again.get("/_sim/dials"))["fee_bps"] == 150
    again.simulator.store.close()


@pytest.mark.parametrize(
    "wrong", [[], {"fee": 1}, {"fee_bps": -1}, {"fee_bps": True}, {"real_balances": 1}, {"pending_days": "2"}]
)
async def test_dials_that_make_no_sense(stripe, wrong):
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.send_json("/_sim/dials", wrong)
    assert refused.value.status == 400


async def test_a_partial_capture_books_what_was_captured(stripe):
    intent = await stripe.pay(capture_method="manual")
    assert await transactions(stripe) == []
    await stripe.post(f"/v1/payment_intents/{intent['id']}/capture", amount_to_capture=4_000)
    assert [(t["amount"], t["fee"]) for t in await transactions(stripe)] == [(4_000, 146)]


async def test_an_authorisation_lapses_in_time_or_by_control(stripe):
    await stripe.send_json("/_sim/dials", {"authorization_lifetime_s": 3_600})
    waiting, forced = [await stripe.pay(capture_method="manual") for _ in range(2)]
    charge = await stripe.get(f"/v1/charges/{waiting['latest_charge']}")
    assert charge["payment_method_details"]["card"]["capture_before"] == charge["created"] + 3_600
    await stripe.post(f"/v1/payment_intents/{waiting['id']}", **{"metadata[a]": "b"})
    await stripe.wait_s(3_500)
    assert (await stripe.get(f"/v1/payment_intents/{waiting['id']}"))["status"] == "requires_capture"
    await stripe.post(f"/_sim/payment_intents/{forced['id']}/lapse")
    await stripe.wait_s(3_601)
    for intent in (waiting, forced):
        gone = await stripe.get(f"/v1/payment_intents/{intent['id']}")
        assert (gone["status"], gone["cancellation_reason"]) == ("canceled", "expired")
        assert (await stripe.event_types(intent["latest_charge"]))[-1] == "charge.expired"
        assert (await stripe.event_types(intent["id"]))[-1] == "payment_intent.canceled"
        with pytest.raises(RefusedAnswerError) as refused:
            await stripe.post(f"/v1/payment_intents/{intent['id']}/capture")
        assert refused.value.code == "payment_intent_unexpected_state"
    with pytest.raises(RefusedAnswerError):
        await stripe.post(f"/_sim/payment_intents/{forced['id']}/lapse")
    assert await transactions(stripe) == []


async def test_a_captured_authorisation_does_not_lapse(stripe):
    intent = await stripe.pay(capture_method="manual")
    await stripe.post(f"/v1/payment_intents/{intent['id']}/capture")
    await stripe.wait_s(30 * DAY_S)
    assert (await stripe.get(f"/v1/payment_intents/{intent['id']}"))["status"] == "succeeded"


async def test_refunds_take_their_money_from_the_balance(stripe):
    charge = await stripe.pay("bypassPending")
    for amount in (1_000, 2_500):
        refund = await stripe.post("/v1/refunds", charge=charge["id"], amount=amount)
        booked = await stripe.get(f"/v1/balance_transactions/{refund['balance_transaction']}")
        assert (booked["amount"], booked["fee"], booked["type"]) == (-amount, 0, "refund")
    assert await sums(stripe) == (9_680 - 3_500, 0)


async def test_a_refund_may_be_pending_first(stripe):
    charge = await stripe.pay("pendingRefund")
    refund = await stripe.post("/v1/refunds", charge=charge["id"])
    assert (refund["status"], refund["pending_reason"]) == ("pending", "processing")
    await stripe.post(f"/v1/refunds/{refund['id']}", **{"metadata[a]": "b"})
    await stripe.wait_s(3)
    done = await stripe.get(f"/v1/refunds/{refund['id']}")
    assert (done["status"], done["metadata"], "pending_reason" in done) == ("succeeded", {"a": "b"}, False)
    assert (await stripe.event_types(refund["id"]))[-2:] == ["refund.updated", "charge.refund.updated"]
    await stripe.wait_s(100)
    assert len(await transactions(stripe, source=refund["id"])) == 1


async def test_a_refund_may_succeed_and_fail_later(stripe):
    charge = await stripe.pay("refundFail")
    refund = await stripe.post("/v1/refunds", charge=charge["id"], amount=4_000)
    assert refund["status"] == "succeeded"
    await stripe.wait_s(3)
    failed = await stripe.get(f"/v1/refunds/{refund['id']}")
    assert (failed["status"], failed["failure_reason"]) == ("failed", "expired_or_canceled_card")
    booked = await stripe.get(f"/v1/balance_transactions/{failed['failure_balance_transaction']}")
    assert (booked["amount"], booked["type"], booked["source"]) == (4_000, "refund_failure", refund["id"])
    assert (await stripe.event_types(refund["id"])) == [
        "refund.created",
        "refund.updated",
        "charge.refund.updated",
        "refund.failed",
    ]
    after = await stripe.get(f"/v1/charges/{charge['id']}")
    assert (after["amount_refunded"], after["refunded"]) == (0, False)
    assert await sums(stripe) == (0, 9_680)
    assert (await stripe.post("/v1/refunds", charge=charge["id"]))["amount"] == 10_000


async def test_a_control_lets_any_refund_fail_once(stripe):
    charge = await stripe.pay()
    refund = await stripe.post("/v1/refunds", charge=charge["id"])
    assert (await stripe.get(f"/v1/charges/{charge['id']}"))["refunded"] is True
    failed = await stripe.post(f"/_sim/refunds/{refund['id']}/fail", reason="lost_or_stolen_card")
    assert failed["failure_reason"] == "lost_or_stolen_card"
    assert (await stripe.get(f"/v1/charges/{charge['id']}"))["refunded"] is False
    for wrong in ({}, {"reason": "boredom"}):
        with pytest.raises(RefusedAnswerError):
            await stripe.post(f"/_sim/refunds/{refund['id']}/fail", **wrong)


async def test_a_refund_of_the_dashboard_has_no_metadata_and_no_request(stripe):
    charge = await stripe.pay()
    refund = await stripe.post("/_sim/refunds", charge=charge["id"], amount=700, reason="duplicate")
    assert (refund["metadata"], refund["reason"], refund["amount"]) == ({}, "duplicate", 700)
    (event,) = (await stripe.get("/v1/events", type="refund.created"))["data"]
    assert event["request"] == {"id": None, "idempotency_key": None}
    assert (await stripe.get("/v1/refunds", charge=charge["id"]))["data"] == [refund]


async def account(stripe, **more):
    return (await stripe.post("/v1/accounts", type="express", country="US", email="s@shop.test", **more))[
        "id"
    ]


async def test_accounts(stripe):
    account_id = await account(stripe, **{"capabilities[transfers][requested]": "true", "metadata[s]": "1"})
    shown = await stripe.get(f"/v1/accounts/{account_id}")
    assert (shown["capabilities"], shown["metadata"]) == ({"transfers": "active"}, {"s": "1"})
    assert (shown["charges_enabled"], shown["payouts_enabled"], shown["type"]) == (True, True, "express")
    await stripe.post(f"/v1/accounts/{account_id}", email="new@shop.test")
    assert [a["email"] for a in (await stripe.get("/v1/accounts"))["data"]] == ["new@shop.test"]
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.get("/v1/accounts/acct_none")
    assert (refused.value.status, refused.value.code) == (403, "account_invalid")


async def test_a_transfer_is_booked_listed_and_replayed(stripe):
    destination = await account(stripe)
    form = {"amount": 2_000, "currency": "usd", "destination": destination, "transfer_group": "payout_1"}
    transfer = await stripe.post("/v1/transfers", key="t1", **form, **{"metadata[p]": "1"})
    assert (transfer["amount"], transfer["reversed"], transfer["source_type"]) == (2_000, False, "card")
    booked = await stripe.get(f"/v1/balance_transactions/{transfer['balance_transaction']}")
    assert (booked["amount"], booked["type"], booked["reporting_category"]) == (
        -2_000,
        "transfer",
        "transfer",
    )
    assert await stripe.post("/v1/transfers", key="t1", **form, **{"metadata[p]": "1"}) == transfer
    other = await stripe.post("/v1/transfers", **{**form, "transfer_group": "payout_2"})
    found = [(await stripe.get("/v1/transfers", **q))["data"] for q in ({"transfer_group": "payout_1"}, {})]
    assert [[t["id"] for t in page] for page in found] == [[transfer["id"]], [other["id"], transfer["id"]]]
    assert len((await stripe.get("/v1/transfers", destination=destination))["data"]) == 2
    assert (await stripe.get("/v1/transfers", destination="acct_other"))["data"] == []
    assert await stripe.event_types(transfer["id"]) == ["transfer.created"]
    shown = await stripe.get(f"/v1/transfers/{transfer['id']}", **{"expand[]": "destination"})
    assert shown["destination"]["email"] == "s@shop.test"
    changed = await stripe.post(f"/v1/transfers/{transfer['id']}", description="paid")
    assert (changed["description"], changed["metadata"]) == ("paid", {"p": "1"})
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post("/v1/transfers", **{**form, "destination": "acct_none"})
    assert (refused.value.status, refused.value.error["param"]) == (400, "destination")


async def test_transfers_from_a_charge_never_exceed_it(stripe):
    destination, charge = await account(stripe), await stripe.pay()
    form = {"currency": "usd", "destination": destination, "source_transaction": charge["id"]}
    first = await stripe.post("/v1/transfers", amount=6_000, **form)
    assert first["transfer_group"] == f"group_{charge['payment_intent']}"
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post("/v1/transfers", amount=4_001, transfer_group="elsewhere", **form)
    assert "must not exceed the source amount of 100.00 USD" in refused.value.error["message"]
    assert "60.00 USD" in refused.value.error["message"]
    await stripe.post("/v1/transfers", amount=4_000, transfer_group="elsewhere", **form)
    for wrong in ({"source_transaction": "ch_none"}, {"currency": "eur"}):
        with pytest.raises(RefusedAnswerError) as refused:
            await stripe.post("/v1/transfers", amount=1, **(form | wrong))
        assert refused.value.status == 400


async def test_an_account_may_be_restricted(stripe):
    destination = await account(stripe)
    form = {"amount": 5, "currency": "usd", "destination": destination}
    shown = await stripe.post(f"/_sim/accounts/{destination}/restrict", payouts_enabled="false")
    assert (shown["payouts_enabled"], shown["capabilities"]["transfers"]) == (False, "active")
    assert (await stripe.post("/v1/transfers", **form))["amount"] == 5
    await stripe.post(f"/_sim/accounts/{destination}/restrict", transfers="inactive")
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post("/v1/transfers", **form)
    assert (refused.value.status, refused.value.code) == (400, "insufficient_capabilities_for_transfer")
    newest = (await stripe.get("/v1/events", type="account.updated"))["data"][0]
    assert newest["account"] == destination
    assert newest["data"]["previous_attributes"] == {"capabilities": {"transfers": "active"}}


async def test_real_balances_are_a_wish(stripe):
    destination = await account(stripe)
    form = {"amount": 9_681, "currency": "usd", "destination": destination}
    await stripe.pay("bypassPending")
    pending = await stripe.pay()
    await stripe.send_json("/_sim/dials", {"real_balances": True})
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post("/v1/transfers", **form)
    assert (refused.value.status, refused.value.code) == (400, "balance_insufficient")
    await stripe.post("/v1/transfers", **{**form, "amount": 9_680})
    with pytest.raises(RefusedAnswerError):
        await stripe.post("/v1/transfers", **{**form, "amount": 1})
    await stripe.post("/v1/transfers", **form, source_transaction=pending["id"])


async def test_transfers_are_reversed_in_parts(stripe):
    destination = await account(stripe)
    transfer = await stripe.post("/v1/transfers", amount=2_000, currency="usd", destination=destination)
    reversals = f"/v1/transfers/{transfer['id']}/reversals"
    first = await stripe.post(reversals, amount=500, **{"metadata[why]": "refund"})
    assert (first["transfer"], first["metadata"]) == (transfer["id"], {"why": "refund"})
    booked = await stripe.get(f"/v1/balance_transactions/{first['balance_transaction']}")
    assert (booked["amount"], booked["type"], booked["source"]) == (500, "transfer_refund", first["id"])
    with pytest.raises(RefusedAnswerError) as refused:
        await stripe.post(reversals, amount=1_501)
    assert "greater than unreversed amount" in refused.value.error["message"]
    rest = await stripe.post(reversals)
    assert rest["amount"] == 1_500
    with pytest.raises(RefusedAnswerError):
        await stripe.post(reversals)
    shown = await stripe.get(f"/v1/transfers/{transfer['id']}")
    assert (shown["amount_reversed"], shown["reversed"]) == (2_000, True)
    ids = [rest["id"], first["id"]]
    assert [r["id"] for r in shown["reversals"]["data"]] == ids
    assert [r["id"] for r in (await stripe.get(reversals))["data"]] == ids
    assert await stripe.get(f"{reversals}/{first['id']}") == first
    with pytest.raises(RefusedAnswerError):
        await stripe.get(f"/v1/transfers/tr_other/reversals/{first['id']}")
    assert await stripe.event_types(transfer["id"]) == [
        "transfer.created",
        "transfer.reversed",
        "transfer.reversed",
    ]


async def test_events_are_listed_by_kind_of_type_and_by_time(stripe):
    await stripe.pay()
    listed = (await stripe.get("/v1/events", type="payment_intent.*"))["data"]
    assert {event["type"] for event in listed} == {"payment_intent.created", "payment_intent.succeeded"}
    two = {"types[0]": "charge.succeeded", "types[1]": "payment_intent.created"}
    listed = (await stripe.get("/v1/events", **two))["data"]
    assert [event["type"] for event in listed] == ["charge.succeeded", "payment_intent.created"]
    now = int(time.time())
    assert len((await stripe.get("/v1/events", **{"created[gte]": now - 60}))["data"]) == 3
    assert (await stripe.get("/v1/events", **{"created[gt]": now + 60}))["data"] == []
    many = {f"types[{number}]": "charge.failed" for number in range(21)}
    for wrong in (many, {"type": "a.b", "types[0]": "a.b"}):
        with pytest.raises(RefusedAnswerError):
            await stripe.get("/v1/events", **wrong)
