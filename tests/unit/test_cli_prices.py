"""``seller price``, ``discount`` and ``ops tax``: what they send, and what they refuse to send."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from cluster import cli_ops, cli_prices, cli_seller

SKU = {"id": "sku_1", "name": "logline", "price_version": 3, "prices": {"USD": 1_999}}
CODE = {
    "id": "dsc_1",
    "code": "SPRING",
    "seller_id": "seller_1",
    "percent_bps": 1_250,
    "amounts_minor": {},
    "uses_max": 5,
    "uses": 2,
    "valid_until": None,
    "ended": False,
}
RATE = {"country": "DE", "category": "*", "jurisdiction": "DE", "rate_ppm": 190_000, "inclusive": True}
TABLE = {"rates": [RATE], "elsewhere": "refused"}
NOTHING = {
    "amounts_minor": {},
    "minimum_minor": {},
    "sku_ids": [],
    "uses_max": None,
    "uses_per_buyer_max": None,
    "valid_from": None,
    "valid_until": None,
    "reason": None,
}


@pytest.fixture
def sent(monkeypatch):
    """The API, below the client: keeps what is written, and answers."""
    writes = []

    def answer(request):
        body = json.loads(request.content) if request.content else None
        path = request.url.path
        if request.method == "GET":
            page = {"items": [CODE], "next_cursor": None}
            table = {"version": 7, "table": TABLE, "set_by": "op", "reason": "why", "set_at": "x"}
            return httpx.Response(
                200, json={"/v1/discounts": page, "/v1/ops/tax-table": table}.get(path, SKU)
            )
        assert request.headers["idempotency-key"]
        writes.append((request.method, path, body))
        if path.endswith("/prices"):
            return httpx.Response(200, json={**SKU, "prices": body["prices"], "price_version": 4})
        if path == "/v1/ops/tax-table":
            return httpx.Response(200, json={"version": 8, "table": body["table"]})
        return httpx.Response(201, json={**CODE, "ended": path.endswith("/end")})

    def client(_role, _url, _token_file):
        return cli_prices.PricesClient("http://market.test", "tok", transport=httpx.MockTransport(answer))

    monkeypatch.setattr(cli_prices, "client_of", client)
    return writes


def run(app, *args):
    return CliRunner().invoke(app, args)


def test_a_price_list_is_replaced_on_the_one_that_is_in_force(sent):
    result = run(cli_seller.app, "price", "logline", "USD=2500", "JPY=0")
    assert (result.exit_code, "25.00 USD, 0 JPY (list 4)" in result.output) == (0, True), result.output
    body = {"base_version": 3, "prices": {"USD": 2_500, "JPY": 0}}
    assert sent == [("PUT", "/v1/skus/sku_1/prices", body)]


@pytest.mark.parametrize("text", ["USD", "USD=", "USD=19.99", "usd=1", "XXX=1", "USD=-1", "USD=²"])
def test_amounts_that_are_not_plain_are_refused(sent, text):
    assert run(cli_seller.app, "price", "logline", text).exit_code == 2
    assert run(cli_seller.app, "price", "logline", "USD=1", "USD=2").exit_code == 2
    assert sent == []


def test_codes_are_made_listed_and_ended(sent):
    args = ("create", "spring", "--percent", "12.5", "--uses", "5", "--sku", "logline")
    assert run(cli_seller.app, "discount", *args).exit_code == 0
    wanted = {**NOTHING, "code": "spring", "percent_bps": 1_250, "uses_max": 5, "sku_ids": ["sku_1"]}
    assert sent == [("POST", "/v1/discounts", wanted)]
    listed = run(cli_ops.app, "discount", "list")
    assert "SPRING" in listed.output
    assert "12.5 %" in listed.output
    assert "used 2 of 5" in listed.output
    ended = run(cli_ops.app, "discount", "end", "dsc_1", "--reason", "Over.", "--json")
    assert json.loads(ended.output)["ended"] is True
    assert sent[-1] == ("POST", "/v1/discounts/dsc_1/end", {"reason": "Over."})
    assert run(cli_seller.app, "discount", "create", "x", "--percent", "1.234").exit_code == 2


def test_a_tax_table_goes_out_and_comes_back_as_it_is(sent, tmp_path):
    shown = run(cli_ops.app, "tax", "show", "--json")
    assert json.loads(shown.output)["table"] == TABLE
    file = tmp_path / "tax.json"
    file.write_text(json.dumps(TABLE))
    assert run(cli_ops.app, "tax", "set", str(file), "--reason", "Registered.").exit_code == 0
    assert sent == [
        ("PUT", "/v1/ops/tax-table", {"base_version": 7, "table": TABLE, "reason": "Registered."})
    ]
    for text in ("{", '{"rates": []}', "x" * (cli_prices.TABLE_BYTES_MAX + 1)):
        file.write_text(text)
        assert run(cli_ops.app, "tax", "set", str(file), "--reason", "Registered.").exit_code == 1
    assert len(sent) == 1
