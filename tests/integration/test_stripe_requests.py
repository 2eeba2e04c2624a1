"""Every request that we make of Stripe, as it is on the wire, against Stripe's own description of its API.

The requests are recorded between the shipped clients and the simulator. They are held against Stripe's
OpenAPI, abridged, always; and sent to stripe-mock, Stripe's own server of all of it, where Go can build it.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from cluster.purchase import confirm_payment
from domain.orders.lines import Share
from domain.orders.returned import Evidence, Refund
from domain.payouts.state import Payout
from domain.payouts.state import Status as PayoutStatus
from storage.audit.charges import captured_charges
from storage.reconciliation.stripe_moves import StripeMoves
from storage.stripe_gateway import StripeGateway
from storage.stripe_tax import StripeTax
from storage.stripe_transfers import StripeTransfers
from tests.contracts.tax_calculators import question
from tests.fakes.carts import NOW, line
from tests.fakes.stripe_openapi import OPERATIONS, faults
from tests.fakes.stripe_process import (
    PUBLISHABLE_KEY,
    SECRET_KEY,
    StripeProcess,
    free_port,
    wait_until,
)
from tests.fakes.stripe_recorder import StripeRecorder
from tests.integration.test_stripe_gateway import FLAGGED_MINOR, opened, order

pytestmark = pytest.mark.integration

MOCK = "github.com/stripe/stripe-mock@v0.203.0"
BUILD_TIMEOUT_S = 300


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Everything that the shipped clients ask of Stripe, once."""
    simulator = StripeProcess(tmp_path_factory.mktemp("stripe")).start()
    recorder = StripeRecorder(simulator.url).start()
    try:
        asyncio.run(_everything(recorder.url, simulator))
        yield list(recorder.requests)
    finally:
        recorder.close()
        simulator.stop()


async def _everything(url, simulator):
    gateway = StripeGateway(SECRET_KEY, url, "http://127.0.0.1:1")
    large = (line(price_minor=FLAGGED_MINOR), line(2, quantity=3))
    for lines in ((line(),), large):
        for method in ("payment_intent", "checkout"):
            placed = order(lines=lines, payment_method=method)
            payment = await gateway.open_payment(placed)
            await gateway.void_payment(opened(placed, payment))
    flagged = order(lines=large)
    payment = await gateway.open_payment(flagged)
    document = {
        "id": flagged.order_id,
        "status": "awaiting_payment",
        "payment": {
            "client_secret": payment.handle["client_secret"],
            "payment_intent_id": payment.payment_intent_id,
            "publishable_key": PUBLISHABLE_KEY,
        },
    }
    await asyncio.to_thread(confirm_payment, url, document, "pm_card_bypassPending")
    held = opened(flagged, payment)
    await gateway.capture_payment(held)
    asked = Refund("rfd_1", (Share(1, 500, 50),), "buyer", "buyer_ada", "why", "d", NOW)
    await gateway.refund(held, asked)
    await gateway.refund(held, replace(asked, refund_id="rfd_2", origin="operator"))
    await _paid_out(url, simulator)
    intent = simulator.client().v1.payment_intents.retrieve(payment.payment_intent_id)
    with simulator.http() as control:
        dispute = control.post("/_sim/disputes", data={"charge": intent.latest_charge}).json()["id"]
    texts = {"uncategorized_text": "Delivered, see the log."}
    for submit in (False, True):
        evidence = Evidence(f"evd_{submit}", texts, submit, "operator_1", "d", NOW)
        await gateway.send_evidence(held, dispute, evidence)
    await gateway.close()
    await asyncio.to_thread(_read, url, payment.payment_intent_id, intent.latest_charge)
    tax = StripeTax(SECRET_KEY, url, "exclusive")
    await tax.taxes(question(1_999, country="US", postal_code="90012", currency="USD"))
    await tax.close()


async def _paid_out(url, simulator):
    account = simulator.client().v1.accounts.create({"type": "express"}).id
    transfers = StripeTransfers(SECRET_KEY, url)
    await transfers.account(account)
    payout = Payout(
        "pyo_1", 1, PayoutStatus.BOOKED, "bat_1", "seller_1", "USD", "2026-10", account,
        900, 0, 0, "operator_2", NOW, NOW, amount_minor=900,
    )  # fmt: skip
    made = await transfers.send(payout)
    await transfers.reversals(made.transfer_id)
    await transfers.close()


def _read(url, payment_intent_id, charge_id):
    assert list(captured_charges(url, SECRET_KEY))
    day = timedelta(days=1)
    now = datetime.now(UTC)
    with StripeMoves(url, SECRET_KEY) as moves:
        assert list(moves.moves(now - day, now + day))
        assert moves.of_payment(payment_intent_id)
        moves.charge(charge_id)
        moves.endpoints()
        moves.undelivered(now - day, now + day)
        moves.balance()


def test_every_request_is_as_stripe_describes_it(recorded):
    wrong = {(one.method, one.path): found for one in recorded if (found := faults(*one[:3]))}
    assert wrong == {}


def test_the_description_refuses_what_stripe_does():
    assert faults("POST", "/v1/payment_intents", "amount=5&currency=usd") == []
    for form, word in (
        ("currency=usd", "missing"),
        ("amount=x&currency=usd", "integer"),
        ("amount=5&currency=usd&capture_method=later", "none of"),
        ("amount=5&currency=usd&colour=red", "not known"),
        ("amount=5&currency=usd&automatic_payment_methods[enabled]=maybe", "boolean"),
        ("amount=5&currency=usd&automatic_payment_methods=true", "no object"),
    ):
        (fault,) = faults("POST", "/v1/payment_intents", form)
        assert word in fault
    assert faults("DELETE", "/v1/payment_intents", "") != []


def test_every_described_request_is_made(recorded):
    made = {(one.method, "/".join(one.path.split("/")[:3])) for one in recorded}
    assert {(method, "/".join(path.split("/")[:3])) for method, path in OPERATIONS} == made
    for word in ("capture", "cancel", "confirm", "expire"):
        assert any(one.path.endswith(f"/{word}") for one in recorded), word
    assert any("capture_method=manual" in one.form for one in recorded)


@pytest.fixture(scope="module")
def stripe_mock(tmp_path_factory):
    """Stripe's own mock server, built once per machine by Go from its module."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed: stripe-mock cannot be built; the abridged description was checked")
    folder = Path(tempfile.gettempdir()) / f"illuvrse-{MOCK.rpartition('/')[2]}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    binary = folder / "stripe-mock"
    if not binary.exists():
        environment = {**os.environ, "GOBIN": str(folder)}
        built = subprocess.run(
            [go, "install", MOCK], env=environment, capture_output=True, timeout=BUILD_TIMEOUT_S, check=False
        )
        if built.returncode:
            pytest.skip(f"stripe-mock cannot be built here: {built.stderr[-300:].decode()}")
    port = free_port()
    log = tmp_path_factory.mktemp("mock") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([binary, "-http-port", str(port)], stdout=out, stderr=out)
    try:
        wait_until(lambda: _answers(f"http://127.0.0.1:{port}/"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(url):
    try:
        return httpx.get(url, timeout=2).status_code > 0
    except httpx.TransportError:
        return False


@pytest.mark.timeout(BUILD_TIMEOUT_S + 60)
def test_stripes_own_mock_takes_every_request(recorded, stripe_mock):
    refused = []
    with httpx.Client(base_url=stripe_mock, timeout=20) as http:
        for one in recorded:
            form = {"content": one.form} if one.method == "POST" else {"params": one.form}
            headers = {"Authorization": "Bearer sk_test_123"}
            if one.method == "POST":
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            answer = http.request(one.method, one.path, headers=headers, **form)
            if answer.status_code != 200:
                refused.append((one.method, one.path, one.form, answer.text))
        assert refused == []
        wrong = http.post("/v1/payment_intents", headers=headers, data={"amount": "x", "currency": "usd"})
        assert wrong.status_code == 400, "it does refuse what is wrong"
