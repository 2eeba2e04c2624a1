"""``marketplace ops refund`` against the API's contract, below the client."""

import json

import httpx
import pytest
from typer.testing import CliRunner

from cluster import cli_ops

ORDER = "ord_" + "0" * 26


@pytest.fixture
def api(monkeypatch):
    """The API, below the client: keeps requests and answers as it was told."""
    seen = []
    answers = [httpx.Response(201, json=REFUND)]

    def answer(request):
        seen.append(request)
        return answers[0]

    def client(_url, _token_file):
        return cli_ops.OperatorClient(
            "http://market.test", "tok_operator", transport=httpx.MockTransport(answer)
        )

    monkeypatch.setattr(cli_ops, "_client", client)
    return seen, answers


REFUND = {"id": "rfd_1", "amount_minor": 500, "currency": "USD", "status": "requested"}


def run(*args):
    return CliRunner().invoke(cli_ops.app, ["refund", ORDER, "--reason", "Bought by mistake.", *args])


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        ((), {}),
        (("--amount-minor", "500"), {"amount_minor": 500}),
        (("--line", "2"), {"lines": [{"line_no": 2}]}),
        (("--line", "2", "--amount-minor", "5"), {"lines": [{"line_no": 2, "amount_minor": 5}]}),
    ],
)
def test_a_refund_is_asked_for_as_the_api_takes_it(api, args, asked):
    seen, _ = api
    result = run(*args)
    assert result.exit_code == 0, result.output
    (request,) = seen
    assert request.url.path == f"/v1/orders/{ORDER}/refunds"
    assert json.loads(request.content) == {"reason": "Bought by mistake."} | asked
    assert request.headers["idempotency-key"]
    assert "5.00 USD" in result.output


def test_why_not_is_told(api):
    _, answers = api
    problem = {"code": "order_disputed", "detail": "The bank has it.", "status": 409, "title": "x"}
    answers[0] = httpx.Response(409, json=problem, headers={"content-type": "application/problem+json"})
    result = run()
    assert result.exit_code != 0
    assert "The bank has it." in result.output
