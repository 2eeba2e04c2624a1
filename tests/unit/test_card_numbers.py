"""Card numbers are found however they are written, and what merely has many digits is left alone."""

import hashlib
import random
import uuid

import pytest

from cluster.local.stripe.cards import TEST_CARDS
from domain.card_numbers import card_numbers, holds_card_number
from domain.ids import new_id
from tests.fakes.http_client import Client
from tests.fakes.ingress import RECIPIENT, FakeMarket

NUMBERS = sorted({card.number for card in TEST_CARDS if len(card.number) > 12})
VISA = "4242424242424242"


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("joint", ["", " ", "-"])
def test_test_cards_are_found_in_a_sentence(number, joint):
    written = joint.join(number[at : at + 4] for at in range(0, len(number), 4))
    for text in (
        written,
        f"card {written}, please",
        f'{{"note":"{written}"}}',
        f"({written})",
        f"{written}.",
    ):
        assert list(card_numbers(text.encode())) == [number.encode()], text


@pytest.mark.parametrize(
    "text",
    [
        "4242424242424241",
        "2026-11-28 2026-11-29 2026-11-30",
        "1764324000000000",
        "5105105105102",
        "x4242424242424242",
        "0.4242424242424242",
        "4242424242424242a",
        "42424242424242424242424242424242",
        "pm_card_visa",
    ],
)
def test_what_is_none_is_left_alone(text):
    assert not holds_card_number(text.encode())


def test_ids_and_digests_are_left_alone():
    draw = random.Random(7)
    for _ in range(20_000):
        for text in (
            str(uuid.UUID(int=draw.getrandbits(128), version=4)),
            new_id("ord", draw.getrandbits(40), draw.randbytes(10)),
            hashlib.sha256(draw.randbytes(8)).hexdigest(),
        ):
            assert not holds_card_number(text.encode()), text


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def buyer(market):
    return Client(market.app(), "buyer")


def order(sku, **more):
    return {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    } | more


async def refuse(market, answering):
    before = market.writes()
    answer = await answering
    assert (answer.status_code, answer.json()["code"]) == (422, "card_number_found")
    assert market.writes() == before
    assert "4242" not in answer.text
    assert "4242" not in str(answer.headers)


@pytest.mark.parametrize("written", [VISA, "4242 4242 4242 4242", "4242-4242-4242-4242"])
async def test_requests_with_a_card_number_are_refused_with_nothing_written(market, buyer, written):
    sku = market.list_published()
    good = order(sku)
    await refuse(market, buyer.post("/v1/orders", good | {"currency": written}))
    await refuse(market, buyer.post("/v1/orders", good | {"card": {"number": written}}))
    await refuse(market, buyer.post("/v1/orders", good | {written: 1}))
    await refuse(market, buyer.post("/v1/orders", good, key=written))
    await refuse(market, buyer.post("/v1/orders", good, key=f"order for {written}"))
    body = b'{"note": "' + "".join(f"\\u{ord(one):04x}" for one in written).encode() + b'"}'
    await refuse(market, buyer.post("/v1/orders", content=body))
    await refuse(market, buyer.post("/v1/orders", content=b'{"note": "%b' % written.encode()))
    seller = {"name": "card", "title": written, "description": "Text", "prices": {"USD": 1}}
    await refuse(market, buyer.as_("seller").post("/v1/skus", seller))


async def test_a_number_of_a_number_is_a_number_too(market, buyer):
    await refuse(market, buyer.post("/v1/orders", order(market.list_published(), total=int(VISA))))


async def test_a_request_id_with_a_card_number_is_replaced(market, buyer):
    answer = await buyer.get("/v1/skus", x_request_id=VISA)
    assert answer.headers["x-request-id"] != VISA
    answer = await buyer.get("/v1/orders/none", x_request_id="4242-4242-4242-4242")
    assert "4242" not in answer.text
