"""No card number is kept anywhere: bought with cards, sent where they do not belong, and then looked for.

Looked through are all columns of all tables that can hold a text, every log and spool file of this run (Ray's
and Postgres' own included), the metrics, and what the APIs tell of orders.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from cluster.local import state
from domain.card_numbers import card_numbers
from tests.acceptance.payments import StripeSide, placed, until, until_status

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

VISA, MASTERCARD, AMEX = "4242424242424242", "5555555555554444", "378282246310005"
DECLINED, STOLEN, ASKS = "4000000000000002", "4000000000009979", "4000000000003220"
USED = (VISA, MASTERCARD, AMEX, DECLINED, STOLEN, ASKS)
TEXTS = ("text", "character varying", "json", "jsonb", "bytea", "ARRAY", "name")
FILE_BYTES_MAX = 64 * 1024 * 1024


def written(number: str) -> Iterator[str]:
    """The ways in which a number is written."""
    for joint in ("", " ", "-"):
        yield joint.join(number[at : at + 4] for at in range(0, len(number), 4))


FORMS = [form.encode() for number in USED for form in written(number)]


def found_in(data: bytes) -> list[bytes]:
    used = [form for form in FORMS if form in data]
    # In binary files digits stand together by chance: there only the numbers that were used are looked for.
    return used if b"\0" in data else used + list(card_numbers(data))


def key(text: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": text or str(uuid4())}


def pay_with_number(market, order, number):
    """As Stripe's own library does in a browser: the number goes to Stripe, and to nobody else."""
    payment = order["payment"]
    card = {"number": number, "exp_month": "12", "exp_year": "2040", "cvc": "123"}
    form = {f"payment_method_data[card][{name}]": value for name, value in card.items()}
    return httpx.post(
        f"{market.local['stripe']['api_base']}/v1/payment_intents/{payment['payment_intent_id']}/confirm",
        data=form | {"payment_method_data[type]": "card", "client_secret": payment["client_secret"]},
        headers={"Authorization": f"Bearer {payment['publishable_key']}"},
        timeout=20,
    )


def buy_with_cards(market, buyer, wish):
    for number in (VISA, MASTERCARD, AMEX):
        order = placed(buyer, wish())
        assert pay_with_number(market, order, DECLINED).status_code == 402
        assert pay_with_number(market, order, number).status_code == 200
        until_status(buyer, order["id"], "delivered")
    asked = placed(buyer, wish())
    page = pay_with_number(market, asked, ASKS).json()["next_action"]["redirect_to_url"]["url"]
    with httpx.Client(timeout=20) as browser:
        browser.post(page, data={"outcome": "approve"})
    until_status(buyer, asked["id"], "delivered")
    hosted = placed(buyer, wish(payment_method="checkout"))
    with httpx.Client(timeout=20) as browser:
        for number in (STOLEN, VISA):
            card = {"number": " ".join(number[at : at + 4] for at in range(0, 16, 4)), "expiry": "12/40"}
            browser.post(hosted["payment"]["checkout_url"], data=card | {"cvc": "123"})
    return until_status(buyer, hosted["id"], "delivered")


def misplaced(number, order_id, wish):
    """Requests that hold a card number where none belongs, as (role, method, path, more)."""
    body = wish()
    refund = f"/v1/orders/{order_id}/refunds"
    yield "buyer", "POST", "/v1/orders", {"json": body | {"country": number}, "headers": key()}
    yield "buyer", "POST", "/v1/orders", {"json": body | {"currency": number}, "headers": key()}
    yield "buyer", "POST", "/v1/orders", {"json": body | {"metadata": {"card": number}}, "headers": key()}
    yield "buyer", "POST", "/v1/orders", {"json": body | {number: number}, "headers": key()}
    yield "buyer", "POST", "/v1/orders", {"json": body, "headers": key(number)}
    yield "buyer", "POST", "/v1/orders", {"json": body, "headers": key(f"note: {number}")}
    broken = key() | {"Content-Type": "application/json"}
    yield "buyer", "POST", "/v1/orders", {"content": b'{"card": "' + number.encode(), "headers": broken}
    yield "buyer", "POST", refund, {"json": {"reason": f"Card {number}, please."}, "headers": key()}
    yield "operator", "POST", refund, {"json": {"reason": number}, "headers": key()}
    for name in ("name", "title", "description"):
        sku = {"name": "tool", "title": "T", "description": "D", "prices": {"USD": 1}} | {name: number}
        yield "seller", "POST", "/v1/skus", {"json": sku, "headers": key()}
    decision = {"decision": "approve", "reason": number}
    yield "operator", "POST", f"/v1/ops/reviews/{order_id}/decision", {"json": decision, "headers": key()}
    principal = {"role": "buyer", "principal_id": number}
    yield "operator", "POST", "/v1/ops/tokens", {"json": principal, "headers": key()}


def merely_sent(number):
    """Requests that hold one where it is never kept: whatever they are answered, it must leave no trace."""
    yield "GET", f"/v1/skus/{number}", {}
    yield "GET", f"/v1/orders/{number}", {}
    yield "GET", "/v1/orders", {"params": {"cursor": number, "limit": number}}
    yield "GET", "/v1/skus", {"headers": {"User-Agent": number, "Referer": f"https://shop.test/?c={number}"}}
    yield "GET", "/v1/skus", {"headers": {"X-Request-Id": number.replace(" ", "-")}}
    yield "GET", "/v1/orders", {"headers": {"Authorization": f"Bearer {number}"}}
    yield "POST", "/v1/orders", {"headers": {"Content-Type": f"text/{number.replace(' ', '-')}"}}
    signature = {"Stripe-Signature": f"t=1,v1={number}"}
    yield "POST", "/v1/webhooks/stripe", {"headers": signature, "content": number}


def every_text(dsn):
    """Yield (where, bytes) of every value of the database that can hold a text."""
    columns = (
        "SELECT table_schema, table_name, column_name FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        " AND data_type = ANY(%s)"
    )
    with psycopg.connect(dsn) as connection:
        for schema, table, column in connection.execute(columns, [list(TEXTS)]).fetchall():
            chosen = sql.SQL("SELECT {0}, {0}::text FROM {1}").format(
                sql.Identifier(column), sql.Identifier(schema, table)
            )
            for raw, text in connection.execute(chosen):
                if text is not None:
                    where = f"{schema}.{table}.{column}"
                    yield where, bytes(raw) if isinstance(raw, bytes) else text.encode()


def every_file(market):
    """Yield (path, bytes) of what this run has written: data, logs, sessions and spools, whoever wrote."""
    record = state.read_record(market.layout.state_json)
    for root in (market.layout.home, market.layout.outside, Path(record.temporary)):
        for path in sorted(root.rglob("*")):
            if "programs" in path.parts:
                continue  # Postgres' own
            try:
                if path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
                    yield str(path), path.read_bytes()
            except OSError:
                continue  # a socket, or gone meanwhile


@pytest.fixture
def callers(market, buyer):
    with market.http("operator") as operator, market.http("seller") as seller:
        yield {"buyer": buyer, "operator": operator, "seller": seller}


def test_no_card_number_is_kept_anywhere(market, buyer, callers, wish, request):
    hosted = buy_with_cards(market, buyer, wish)
    answers: list[tuple[str, bytes]] = []
    before = market.rows()
    for number in (form for card in (VISA, AMEX) for form in written(card)):
        for role, method, path, more in misplaced(number, hosted["id"], wish):
            answer = callers[role].request(method, path, **more)
            assert (answer.status_code, answer.json()["code"]) == (422, "card_number_found"), (path, more)
            answers.append((path, answer.content + str(answer.headers).encode()))
        for method, path, more in merely_sent(number):
            answer = buyer.request(method, path, **more)
            assert answer.status_code < 500
            answers.append((path, answer.content))
    assert market.rows() == before, "nothing was written"
    for path in ("", "/events"):
        told = buyer.get(f"/v1/orders/{hosted['id']}{path}", headers={"Accept": "application/json"})
        answers.append((path, told.content))
    with market.http() as anonymous:
        answers.append(("/metrics", anonymous.get("/metrics").content))

    stripe = StripeSide(market.local)
    request.addfinalizer(stripe.http.close)
    until(  # nothing is under way that could still write
        lambda: stripe.get("/_sim/deliveries", state="pending")["data"], lambda pending: not pending
    )
    places = 0
    for where, data in chain(answers, every_text(market.local["postgres_dsn"]), every_file(market)):
        places += 1
        assert found_in(data) == [], where
    assert places > 1_000, "it did look"


def test_the_scan_would_find_one():
    for form in FORMS:
        assert found_in(b"a log line with " + form + b" in it")
    assert found_in(b'{"note": "6011 1111 1111 1117"}'), "also one that no test used"
