"""Payouts over HTTP, on real Postgres, Finance and Stripe simulator: who may what, and what is refused."""

import csv
import hashlib
import io
import itertools
import json
import time

import psycopg
import pytest
from payouts_world import World, prepare, stop, week, within

from tests.fakes.http_client import Client
from tests.fakes.http_client import signed as sign_webhook
from tests.fakes.ingress import FakeMarket

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WEEKS = itertools.count(1)
FEES = {"holdback_bps": 2_000, "holdback_days": 14, "payout_minimum_minor": {"USD": 500}}
TAXES = [{"amount_minor": 1_000, "inclusive": True}, {"amount_minor": 77, "inclusive": False}]
WHY = {"reason": "Compared with the statements."}


@pytest.fixture(scope="module")
def parts(module_whole_database, tmp_path_factory):
    processes = prepare(module_whole_database, tmp_path_factory.mktemp("payouts"))
    yield module_whole_database, *processes
    stop(processes)


@pytest.fixture
async def world(parts):
    opened = await World(*parts).open()
    yield opened
    await opened.close()


@pytest.fixture
def market(world):
    market = FakeMarket()
    market.clock.now = world.now()
    market.payouts = world.desk
    market.add_token("operator2", "operator", "operator_2")
    number = next(_WEEKS)
    market.add_token("payee", "seller", f"payee_{number}")
    market.add_token("other", "seller", f"other_{number}")
    return market


@pytest.fixture
def client(market):
    return Client(market.app())


@pytest.fixture
def period():
    return week(3 * next(_WEEKS))


def payee_of(market, token="payee"):
    return market.access.holders[hashlib.sha256(token.encode()).digest()].principal_id


async def named(world, client, market, token="payee"):
    account = world.stripe.v1.accounts.create({"type": "express"}).id
    path = f"/v1/payees/{payee_of(market, token)}"
    answer = await client.as_(token).put(path, {"account_id": account})
    assert answer.status_code == 200, answer.json()
    return account


async def drafted(client, period, currency="USD"):
    body = {"period": period, "currency": currency, **WHY}
    return await client.as_("operator").post("/v1/ops/payouts", body)


async def approved(client, period):
    batch = (await drafted(client, period)).json()
    answer = await client.as_("operator2").post(f"/v1/ops/payouts/{batch['id']}/approval", WHY)
    assert answer.status_code == 200, answer.json()
    return answer.json()


async def lines_of(client, batch):
    found, cursor = {}, ""
    while cursor is not None:
        path = f"/v1/ops/payouts/{batch['id']}/lines?limit=100{cursor and f'&cursor={cursor}'}"
        page = (await client.as_("auditor").get(path)).json()
        found |= {line["payee_id"]: line for line in page["items"]}
        cursor = page["next_cursor"]
    return found


async def test_a_payee_names_its_account_and_sees_its_own_only(world, market, client):
    account = await named(world, client, market)
    me, path = client.as_("payee"), f"/v1/payees/{payee_of(market)}"
    body = (await me.get(path)).json()
    assert (body["account_id"], body["ready"], body["transfers"]) == (account, True, "active")
    other = client.as_("other")
    for answer in (await other.get(path), await other.put(path, {"account_id": account})):
        assert (answer.status_code, answer.json()["code"]) == (404, "payee_not_found")
    unknown = await me.put(path, {"account_id": "acct_nobody"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "payee_account_unknown")
    assert (await me.put(path, {"account_id": "ba_1"})).json()["code"] == "body_invalid"
    assert (await client.as_("buyer").put(path, {"account_id": account})).status_code == 403
    assert (await me.get(path)).json() == body, "what was refused changed nothing"
    second = world.stripe.v1.accounts.create({"type": "express"}).id
    changed = (await client.as_("operator").put(path, {"account_id": second})).json()
    assert changed["account_id"] == second
    history = world.sql(
        "SELECT account_id, named_by FROM market.payee_accounts WHERE payee_id = %s ORDER BY position",
        payee_of(market),
    )
    assert history == [(account, payee_of(market)), (second, "operator_1")]


async def test_a_batch_divides_every_balance(world, market, client, period):
    world.govern(**FEES)
    paid, bare, small, owing = (
        f"{name}_{period.replace('-', '_')}" for name in ("p", "bare", "small", "owing")
    )
    for payee, amount in ((paid, 10_000), (bare, 9_000), (small, 499), (owing, 300)):
        world.book(payee, amount, within(period))
    for payee in (paid, small, owing):
        await world.payee(payee)
    world.book(paid, -1_000, world.now())
    world.book(owing, -800, world.now())
    world.book(paid, 77_777, world.now())  # a sale after the period is none of its business
    batch = (await drafted(client, period)).json()
    lines = await lines_of(client, batch)

    def parts(payee):
        line = lines[payee]
        return tuple(line[f"{part}_minor"] for part in ("paid", "carried", "held_back")), line["reason"]

    assert parts(paid) == ((7_000, 0, 2_000), None)
    assert parts(bare) == ((0, 7_200, 1_800), "no_account")
    assert parts(small) == ((0, 399, 100), "below_minimum")
    assert parts(owing) == ((0, -500, 0), "negative_balance")
    assert batch["terms"]["holdback_bps"] == 2_000
    assert batch["carried_by_reason"]["no_account"] >= 1
    for payee in (bare, small, owing):  # leave nothing for the batches of other tests
        left = world.owed(f"seller:{payee}:payable")
        world.book(
            payee, -left, within(period), key=f"ord_end{payee}:{'refund:r' if left > 0 else 'capture'}"
        )
    await client.as_("operator").post(f"/v1/ops/payouts/{batch['id']}/withdrawal", WHY)
    world.govern()
    again = await approved(client, period)
    assert await world.finish(again["id"]) == {"settled": 1}
    assert world.owed(f"seller:{paid}:payable") == 77_777
    world.book(paid, -77_777, world.now())


async def test_a_batch_needs_two_operators_and_is_decided_once(world, market, client, period):
    payee = payee_of(market)
    world.book(payee, 5_000, within(period))
    await named(world, client, market)
    first = await drafted(client, period)
    assert first.status_code == 201
    batch = first.json()
    assert (batch["status"], batch["drafted_by"], batch["payouts"]) == ("drafted", "operator_1", 1)
    path = f"/v1/ops/payouts/{batch['id']}"

    async def refused(awaited, status, code):
        answer = await awaited
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    ada, bob = client.as_("operator"), client.as_("operator2")
    await refused(drafted(client, period), 409, "payout_batch_exists")
    await refused(ada.post(f"{path}/approval", WHY), 422, "payout_own_batch")
    await refused(ada.post(f"{path}/run", WHY), 409, "payout_batch_drafted")
    await refused(client.as_("payee").post(f"{path}/approval", WHY), 403, "role_not_allowed")
    await refused(client.as_("auditor").post(f"{path}/approval", WHY), 403, "role_not_allowed")
    assert world.sql("SELECT count(*) FROM market.payouts WHERE batch_id = %s", batch["id"]) == [(0,)]
    done = await bob.post(f"{path}/approval", WHY, key="k-approve")
    assert (done.json()["status"], done.json()["decided_by"]) == ("approved", "operator_2")
    replay = await bob.post(f"{path}/approval", WHY, key="k-approve")
    assert (replay.status_code, replay.headers["idempotent-replayed"]) == (200, "true")
    await refused(bob.post(f"{path}/approval", WHY), 409, "payout_batch_approved")
    await refused(bob.post(f"{path}/withdrawal", WHY), 409, "payout_batch_approved")
    actions = world.sql(
        "SELECT action, principal_id FROM market.operator_actions WHERE subject = %s ORDER BY at", batch["id"]
    )
    assert actions == [("payouts.draft", "operator_1"), ("payouts.approve", "operator_2")]
    assert (await ada.post(f"{path}/run", WHY)).status_code == 200
    assert await world.finish(batch["id"]) == {"settled": 1}
    shown = (await client.as_("auditor").get(path)).json()
    assert (shown["progress"], shown["stuck"]) == ({"settled": 1}, 0)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"period": "2026-10"}, 422, "payout_period_invalid"),
        ({"period": "2026-W99"}, 422, "payout_period_invalid"),
        ({"period": "2099-W01"}, 409, "payout_period_open"),
        ({"currency": "XXX"}, 422, "currency_unknown"),
        ({"currency": "usd"}, 422, "body_invalid"),
        ({"reason": ""}, 422, "body_invalid"),
        ({"currency": "JPY"}, 409, "payout_nothing_due"),
    ],
)
async def test_a_wrong_draft_writes_nothing(world, client, period, changes, status, code):
    before = world.sql("SELECT count(*) FROM market.payout_batches")
    body = {"period": period, "currency": "USD", **WHY, **changes}
    answer = await client.as_("operator").post("/v1/ops/payouts", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert world.sql("SELECT count(*) FROM market.payout_batches") == before


async def test_a_statement_agrees_with_finance_and_is_the_payees_own(world, market, client, period):
    payee, at = payee_of(market), within(period)
    await named(world, client, market)
    order = "ord_01jz3k5v8m2q9x7c4b6n0" + f"{next(_WEEKS):05d}"
    line = {"quantity": 2, "unit_price_minor": 5_600, "discount_minor": 200, "taxes": TAXES}
    world.sql(
        "INSERT INTO market.order_events VALUES (%s, 1, %s, 'order.created', %s)",
        order,
        f"evt_{order}",
        json.dumps({"lines": [line | {"seller_id": payee}, line | {"seller_id": "somebody_else"}]}),
    )
    world.book(payee, 9_000, at, key=f"{order}:capture")
    world.book(payee, -2_000, at, key=f"{order}:refund:rfd_1")
    world.book(payee, -700, at, key=f"{order}:dispute:dp_1")
    world.book(payee, 3, at, key=f"by-hand-{payee}")
    batch = await approved(client, period)
    assert await world.finish(batch["id"]) == {"settled": 1}
    path = f"/v1/payouts/{period}/statement?currency=USD"
    me = client.as_("payee")
    body = (await me.get(path)).json()
    kinds = ("opening", "sales", "fees", "refunds", "disputes", "payouts", "other", "closing")
    assert [body[f"{kind}_minor"] for kind in kinds] == [0, 10_000, -1_000, -2_000, -700, 0, 3, 6_303]
    assert body["division"] == {
        "paid_minor": 6_303,
        "carried_minor": 0,
        "held_back_minor": 0,
        "reason": None,
    }
    with world.http() as finance:
        asked = {"currency": "USD", "from": body["starts_at"], "to": body["ends_at"]}
        books = finance.get(f"/v1/accounts/seller:{payee}:payable/statement", params=asked).json()
    assert -books["opening_balance_minor"] == body["opening_minor"]
    assert -books["closing_balance_minor"] == body["closing_minor"]
    table = await me.get(f"{path}&format=csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["kind"] for row in rows] == [
        *("opening", "sale", "fee", "refund", "dispute", "other", "closing"),
        *("paid", "carried", "held_back"),
    ]
    # The payout itself left later: it is in the statement of the week that runs.
    year, number, _ = world.now().isocalendar()
    now = (await me.get(f"/v1/payouts/{year}-W{number:02d}/statement?currency=USD")).json()
    assert (now["opening_minor"], now["payouts_minor"], now["closing_minor"]) == (6_303, -6_303, 0)
    assert (now["complete"], now["division"]) == (False, None)
    other = (await client.as_("other").get(f"{path}&payee={payee}")).json()
    assert (other["payee_id"], other["closing_minor"]) == (payee_of(market, "other"), 0)
    assert (await client.as_("operator").get(f"{path}&payee={payee}")).json() == body
    assert (await client.as_("operator").get(path)).json()["code"] == "query_invalid"
    assert (await me.get(f"{path}&format=xml")).json()["code"] == "query_invalid"
    assert (await me.get("/v1/payouts/2026/statement?currency=USD")).json()["code"] == "payout_period_invalid"


async def test_a_reversed_transfer_is_booked_back_by_its_webhook(world, market, client, period):
    payee = payee_of(market)
    world.book(payee, 8_000, within(period))
    await named(world, client, market)
    batch = await approved(client, period)
    assert await world.finish(batch["id"]) == {"settled": 1}
    me = client.as_("payee")
    (payout,) = (await me.get("/v1/payouts")).json()["items"]
    assert (payout["status"], payout["amount_minor"], payout["returned_minor"]) == ("settled", 8_000, 0)
    assert (await client.as_("other").get(f"/v1/payouts/{payout['id']}")).json()["code"] == "payout_not_found"
    assert (await client.as_("other").get("/v1/payouts")).json()["items"] == []
    for amount, status, returned in ((3_000, "settled", 3_000), (5_000, "returned", 8_000)):
        world.stripe.v1.transfers.reversals.create(payout["transfer_id"], {"amount": amount})
        for _ in range(2):  # once more changes nothing
            told = await reversed_webhook(client, world.stripe, payout["transfer_id"])
            assert (told.status_code, told.json()["outcome"]) == (200, "stored")
            await world.runner().once()
        payout = (await me.get(f"/v1/payouts/{payout['id']}")).json()
        assert (payout["status"], payout["returned_minor"]) == (status, returned)
        assert world.owed(f"seller:{payee}:payable") == returned
    assert world.owed("payouts:in_transit") == 0
    unknown = await signed(client, {"metadata": {"payout_id": "po_01jz3k5v8m2q9x7c4b6n0t1rwf"}})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "webhook_order_unknown")
    assert (await signed(client, {"metadata": {}})).json()["outcome"] == "ignored"
    world.book(payee, -8_000, within(period))


async def test_a_payout_waits_while_its_account_is_restricted_and_news_of_it_wakes_it(
    world, market, client, period
):
    payee = payee_of(market)
    world.book(payee, 6_000, within(period))
    account = await named(world, client, market)
    batch = (await drafted(client, period)).json()
    restrict(world, account, payouts_enabled="false")
    me, path = client.as_("payee"), f"/v1/payees/{payee}"
    assert (await me.get(path)).json()["ready"], "nobody has told yet"
    assert (await account_webhook(client, account)).json()["outcome"] == "applied"
    shown = (await me.get(path)).json()
    assert (shown["ready"], shown["payouts_enabled"]) == (False, False)
    await client.as_("operator2").post(f"/v1/ops/payouts/{batch['id']}/approval", WHY)
    await world.runner().once()
    (payout,) = (await me.get("/v1/payouts?limit=1")).json()["items"]
    assert (payout["status"], payout["waiting"]["code"]) == ("awaiting_account", "account_not_ready")
    assert not await world.runner().once(), "it is left alone"
    assert (await account_webhook(client, account)).json()["outcome"] == "applied"
    assert await world.runner().once() == 1, "looked at again, and it still cannot be paid"
    restrict(world, account, payouts_enabled="true")
    await account_webhook(client, account)
    assert await world.runner().once() == 1
    payout = (await me.get(f"/v1/payouts/{payout['id']}")).json()
    assert (payout["status"], payout["waiting"]) == ("settled", None)
    assert world.owed(f"seller:{payee}:payable") == 0
    for other, kind in (("acct_nobody", "account.updated"), ("ba_1", "account.updated"), (account, "a.b")):
        assert (await account_webhook(client, other, kind)).json()["outcome"] == "ignored"


def restrict(world, account, **form):
    with world.simulator.http() as control:
        control.post(f"/_sim/accounts/{account}/restrict", data=form).raise_for_status()


async def account_webhook(client, account, kind="account.updated"):
    event = {"id": "evt_2", "type": kind, "account": account, "data": {"object": {"id": account}}}
    return await signed_event(client, event)


async def reversed_webhook(client, stripe, transfer_id):
    return await signed(client, stripe.v1.transfers.retrieve(transfer_id).to_dict())


async def signed(client, transfer):
    return await signed_event(
        client, {"id": "evt_1", "type": "transfer.reversed", "data": {"object": transfer}}
    )


async def signed_event(client, event):
    body = json.dumps(event, default=str).encode()
    signature = sign_webhook(body, int(time.time()))
    return await client.as_(None).post(
        "/v1/webhooks/stripe", content=body, key=None, stripe_signature=signature
    )


async def test_the_serving_role_cannot_pay_past_the_gate(world, market, client, period):
    payee = payee_of(market)
    world.book(payee, 4_000, within(period))
    account = await named(world, client, market)
    batch = (await drafted(client, period)).json()
    insert = (
        "INSERT INTO market.payouts"
        " (payout_id, batch_id, payee_id, currency, period, account_id, amount_minor)"
        " VALUES ('po_x', %s, %s, 'USD', %s, %s, %s)"
    )
    approve = "UPDATE market.payout_batches SET status = 'approved', decided_by = %s, decided_at = now()"

    def attempt(query, *values):
        with psycopg.connect(world.database.dsn_for("market_app"), autocommit=True) as app:
            app.execute(query, values)

    for query, values in (
        (insert, (batch["id"], payee, period, account, 4_000)),
        (f"{approve} WHERE batch_id = %s", ("operator_1", batch["id"])),
        ("UPDATE market.payout_lines SET paid_minor = 1", ()),
        ("DELETE FROM market.payout_batches", ()),
        ("UPDATE market.payees SET account_id = 'x'", ()),
    ):
        with pytest.raises(psycopg.Error):
            attempt(query, *values)
    done = await client.as_("operator2").post(f"/v1/ops/payouts/{batch['id']}/approval", WHY)
    assert done.status_code == 200
    for query, values in (
        (insert, (batch["id"], payee, period, account, 4_000)),  # a second one of the period
        (insert, (batch["id"], payee, period, "acct_mine", 4_000)),
        ("UPDATE market.payouts SET amount_minor = 9", ()),
        ("UPDATE market.payouts SET account_id = 'acct_mine'", ()),
        ("UPDATE market.payout_batches SET status = 'withdrawn' WHERE batch_id = %s", (batch["id"],)),
        ("DELETE FROM market.payout_events", ()),
    ):
        with pytest.raises(psycopg.Error):
            attempt(query, *values)
    assert await world.finish(batch["id"]) == {"settled": 1}
