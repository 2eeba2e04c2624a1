"""``marketplace ops payouts`` and ``seller statement`` against the API's contract, below the client."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from cluster import cli_ops, cli_payouts, cli_seller, cli_statement
from serve_app.schemas.payouts import (
    EXAMPLE_APPROVED,
    EXAMPLE_BATCH,
    EXAMPLE_LINE,
    EXAMPLE_PAYEE,
)
from serve_app.schemas.statements import EXAMPLE_STATEMENT

BATCH = EXAMPLE_BATCH["id"]
WHY = ("--reason", "October's payouts.")
CSV = "occurred_at,kind\r\n2026-10-01T00:00:00Z,opening\r\n"


class Api:
    """Keeps requests; answers each path with what it was told, the last answer again and again."""

    def __init__(self):
        self.seen = []
        self.answers = {}

    def tell(self, path, *documents):
        self.answers[path] = list(documents)

    def __call__(self, request):
        self.seen.append(request)
        told = self.answers[request.url.path]
        document = told.pop(0) if len(told) > 1 else told[0]
        if request.url.params.get("format") == "csv":
            return httpx.Response(200, text=CSV)
        return httpx.Response(200, json=document)


@pytest.fixture
def api(monkeypatch):
    api = Api()

    def connect(kind):
        return lambda _url, _token: kind(
            "http://market.test", "tok", transport=httpx.MockTransport(api), pause=lambda _s: None
        )

    monkeypatch.setattr(cli_payouts, "_client", connect(cli_payouts.PayoutsClient))
    monkeypatch.setattr(cli_statement, "_client", connect(cli_statement.PayeeClient))
    monkeypatch.setattr(cli_payouts, "FOLLOW_PAUSE_S", 0.0)
    return api


def ops(*args):
    return CliRunner().invoke(cli_ops.app, ["payouts", *args])


def seller(*args):
    return CliRunner().invoke(cli_seller.app, list(args))


def test_a_draft_names_period_currency_and_reason(api):
    api.tell("/v1/ops/payouts", EXAMPLE_BATCH)
    result = ops("draft", "2026-10", "USD", *WHY)
    assert result.exit_code == 0, result.output
    (request,) = api.seen
    assert json.loads(request.content) == {"period": "2026-10", "currency": "USD", "reason": WHY[1]}
    assert request.headers["idempotency-key"]
    assert "1520.10 USD to 1 of 2 payees" in result.output
    assert f"approve {BATCH}" in result.output


@pytest.mark.parametrize(("verb", "path"), [("approve", "approval"), ("withdraw", "withdrawal")])
def test_decisions_go_where_the_api_takes_them(api, verb, path):
    api.tell(f"/v1/ops/payouts/{BATCH}/{path}", EXAMPLE_APPROVED)
    result = ops(verb, BATCH, *WHY, "--json")
    assert json.loads(result.output)["status"] == "approved"
    assert json.loads(api.seen[0].content) == {"reason": WHY[1]}


def test_show_lists_every_line_over_pages(api):
    api.tell(f"/v1/ops/payouts/{BATCH}", EXAMPLE_BATCH)
    unpaid = EXAMPLE_LINE | {"payee_id": "seller_2", "reason": "no_account", "paid_minor": 0}
    api.tell(
        f"/v1/ops/payouts/{BATCH}/lines",
        {"items": [EXAMPLE_LINE], "next_cursor": "more"},
        {"items": [unpaid], "next_cursor": None},
    )
    result = ops("show", BATCH)
    assert result.exit_code == 0, result.output
    assert api.seen[-1].url.params["cursor"] == "more"
    assert "seller_2" in result.output
    assert "no_account" in result.output


@pytest.mark.parametrize(("last", "stuck", "status"), [("settled", 0, 0), ("failed", 0, 0), ("booked", 1, 1)])
def test_run_follows_until_nothing_moves_any_more(api, last, stuck, status):
    api.tell(f"/v1/ops/payouts/{BATCH}/run", EXAMPLE_APPROVED)
    done = EXAMPLE_APPROVED | {"progress": {last: 1}, "stuck": stuck}
    api.tell(f"/v1/ops/payouts/{BATCH}", EXAMPLE_APPROVED, done)
    result = ops("run", BATCH, *WHY)
    assert result.exit_code == status, result.output
    assert f"{last}: 1" in result.output


def test_a_seller_names_its_account_and_is_told_whether_it_can_be_paid(api):
    api.tell("/v1/payees/seller_1", EXAMPLE_PAYEE | {"ready": False})
    result = seller("account", "seller_1", "acct_1")
    assert result.exit_code == 0, result.output
    assert api.seen[0].method == "PUT"
    assert json.loads(api.seen[0].content) == {"account_id": "acct_1"}
    assert "cannot be paid yet" in result.output


def test_a_statement_is_shown_and_its_lines_are_kept_private(api, tmp_path):
    api.tell("/v1/payouts/2026-10/statement", EXAMPLE_STATEMENT)
    path = tmp_path / "october.csv"
    result = seller("statement", "2026-10", "USD", "--csv", str(path))
    assert result.exit_code == 0, result.output
    assert "1709.00 USD" in result.output
    assert path.read_text(encoding="utf-8").replace("\n", "\r\n").replace("\r\r", "\r") == CSV
    assert path.stat().st_mode & 0o777 == 0o600
    again = seller("statement", "2026-10", "USD", "--csv", str(path))
    assert again.exit_code == 1
    assert "exists" in again.output
    printed = seller("statement", "2026-10", "USD", "--csv", "-")
    assert printed.output.startswith("occurred_at,kind")
