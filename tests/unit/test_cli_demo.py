import io
import shutil

import httpx
import pytest
from rich.console import Console

from cluster.client import MarketplaceClient
from cluster.demo import proofs
from cluster.demo.checklist import Checklist
from tests.fakes.marketplace_api import BASE, BUYER, FakeMarketplace, new_signer


@pytest.fixture
def market():
    return FakeMarketplace()


@pytest.fixture
def client(market):
    with MarketplaceClient(BASE, BUYER, transport=httpx.MockTransport(market)) as opened:
        yield opened


@pytest.fixture
def evidence(market, client):
    body = {
        "lines": [{"sku_id": "sku_logline", "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "released_key"},
        "payment_method": "checkout",
    }
    order = client.place_order(body, "key")
    client.order_events(order["id"])  # somebody pays
    return proofs.Evidence(
        client.order(order["id"]), client.deliveries(order["id"])[0], market.digest.plaintext_sha256
    )


def shown(run):
    out = io.StringIO()
    checklist = Checklist(Console(file=out, width=200))
    with checklist:
        run(checklist)
    return checklist, out.getvalue()


def test_steps_are_plain_lines_where_there_is_no_terminal():
    def run(checklist):
        with checklist.step("first") as item:
            item.detail = "three of them"

    checklist, text = shown(run)
    assert "✓ first" in text
    assert "three of them" in text
    assert "\x1b" not in text
    assert checklist.failed is None


def test_a_failing_step_is_marked_and_goes_on_failing():
    checklist = Checklist(Console(file=io.StringIO(), width=200))
    with pytest.raises(ValueError, match="why"), checklist, checklist.step("second"):
        raise ValueError("why")
    assert checklist.failed is not None
    assert checklist.failed.title == "second"


def test_openssl_accepts_the_licence_and_refuses_another_key(evidence, client, market):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH")
    assert market.signer.key_id in proofs.licence_by_openssl(evidence, client)
    honest = market.key_document()
    forged = {**honest, "pem": FakeMarketplace(signer=new_signer()).key_document()["pem"]}
    market.key_document = lambda: forged
    with pytest.raises(proofs.ProofError, match="openssl refuses"):
        proofs.licence_by_openssl(evidence, client)


def test_a_licence_by_an_unpublished_key_is_no_proof(evidence, client, market):
    market.signer = new_signer()
    with pytest.raises(proofs.ProofError, match="does not show"):
        proofs.licence_by_openssl(evidence, client)


def test_events_must_be_numbered_without_a_gap(evidence, client, market):
    assert "1..4" in proofs.events_complete(evidence, client)
    kinds = market._kinds
    market._kinds = lambda order: kinds(order)[:-1]
    with pytest.raises(proofs.ProofError):
        proofs.events_complete(evidence, client)


def test_expected_postings_are_worked_out_from_the_order_alone():
    def line(seller, amount_minor):
        return {"seller_id": seller, "amount_minor": amount_minor, "taxes": []}

    order = {"total_minor": 2008, "lines": [line("a", 1999), line("b", 9)]}
    postings = proofs.expected_postings(order)
    assert sum(amount for _, amount in postings) == 0
    assert postings == sorted(
        [
            ("stripe:clearing", 2008),
            ("seller:a:payable", -1800),
            ("seller:b:payable", -9),
            ("platform:fees", -199),
        ]
    )
