"""``marketplace ops cases`` and ``ops dispute`` against the API's contract, below the client."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from cluster import cli_ops
from serve_app import examples

BASE = "http://market.test"
CASE = examples.CASE["id"]


class FakeOperations:
    """Cases and disputes by the documented examples, two pages of each; remembers what was decided."""

    def __init__(self):
        self.decided = []

    def __call__(self, request):
        assert request.headers["authorization"] == "Bearer tok_operator"
        path, params = request.url.path, request.url.params
        if request.method == "POST":
            self.decided.append((path, json.loads(request.content), request.headers["idempotency-key"]))
            if path.endswith("/evidence"):
                return httpx.Response(201, json=examples.EVIDENCE)
            if path.endswith("/apply"):
                return httpx.Response(200, json=examples.CASE_APPLIED)
            return httpx.Response(200, json=examples.CASE_CLOSED)
        if path == f"/v1/ops/cases/{CASE}":
            return httpx.Response(200, json=examples.CASE)
        example = {"/v1/ops/cases": examples.CASE, "/v1/ops/disputes": examples.OPEN_DISPUTE}[path]
        if params.get("status") == "resolved":
            return httpx.Response(200, json={"items": [], "next_cursor": None})
        cursor = None if params.get("cursor") else "next"
        return httpx.Response(200, json={"items": [example], "next_cursor": cursor})


@pytest.fixture
def operations(monkeypatch):
    fake = FakeOperations()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: fake(request))
    return fake


@pytest.fixture
def cli(operations, monkeypatch, tmp_path):
    monkeypatch.setenv("MARKETPLACE_URL", BASE)
    monkeypatch.setenv("MARKETPLACE_TOKEN", "tok_operator")
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path))

    def run(*arguments):
        result = CliRunner().invoke(cli_ops.app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_cases_are_listed_with_amounts_and_proposal(cli):
    status, out, _ = cli("cases", "list")
    assert status == 0
    assert out.count(CASE) == 2, "both pages"
    assert "expected 0.00 USD, there is 5.00 USD" in out
    assert "Tell the order what Stripe says" in out
    assert cli("cases", "list", "--status", "resolved")[1] == "No resolved cases.\n"
    assert json.loads(cli("cases", "show", CASE, "--json")[1])["kind"] == "refund_not_recorded"


def test_a_decision_takes_a_reason_and_tells_what_follows(cli, operations):
    status, out, _ = cli("cases", "apply", CASE, "--reason", "The dashboard shows it.")
    assert status == 0
    assert "within a minute" in out
    status, out, _ = cli("cases", "close", CASE, "--reason", "Settled.")
    assert (status, "closed as it is" in out) == (0, True)
    assert [(path, body["reason"]) for path, body, _ in operations.decided] == [
        (f"/v1/ops/cases/{CASE}/apply", "The dashboard shows it."),
        (f"/v1/ops/cases/{CASE}/close", "Settled."),
    ]
    assert cli("cases", "close", CASE)[0] == 2


def test_disputes_are_listed_and_evidence_is_shown_as_sent(cli, operations):
    status, out, _ = cli("dispute", "list")
    assert (status, out.count("dp_1PqR")) == (0, 2)
    assert "evidence until 2026-12-03 09:30" in out
    status, out, _ = cli("dispute", "evidence", "ord_1", "dp_1", "--text", "He has it.", "--submit")
    assert status == 0
    assert "for good" in out
    (path, body, _) = operations.decided[0]
    assert path == "/v1/ops/orders/ord_1/disputes/dp_1/evidence"
    assert body == {"text": "He has it.", "submit": True}


def test_reconcile_without_a_marketplace_says_what_to_do(cli):
    status, out, _ = cli("reconcile", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (2, "settings_missing")


def test_a_day_is_a_day(cli, tmp_path):
    status, out, _ = cli("reconcile", "--date", "yesterday", "--json")
    assert (status, json.loads(out)["error"]["code"]) == (2, "date_invalid")
