"""What every answer has in common: request ids, problems and their table, and logs without secrets."""

import ast
import re
from pathlib import Path

import orjson
import psycopg
import pytest
from psycopg_pool import PoolTimeout
from starlette.requests import ClientDisconnect

from domain.errors import (
    BusyError,
    ConflictError,
    DependencyError,
    MarketplaceError,
    NotFoundError,
    RejectedError,
)
from serve_app import problems
from serve_app.problems import TABLE
from tests.fakes.http_client import Client
from tests.fakes.ingress import RECIPIENT, FakeMarket

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app())


@pytest.mark.parametrize("given", ["12345678", "a" * 64, "Req_id-0042"])
async def test_a_sound_request_id_is_kept(client, given):
    for path in ("/livez", "/nothing", "/v1/orders"):
        assert (await client.get(path, x_request_id=given)).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["1234567", "a" * 65, "has space", "x\"y'z<>;--", "", None])
async def test_another_request_id_is_replaced(client, given):
    headers = {} if given is None else {"x_request_id": given}
    answer = await client.get("/livez", **headers)
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/orders/", "//v1/skus", "/v1/skus/a/b", "/V1/skus"])
async def test_an_unknown_path_is_a_problem(client, path):
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/v1/orders"), ("PUT", "/v1/skus"), ("POST", "/livez")]
)
async def test_another_method_is_a_problem(client, method, path):
    answer = await client.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("length", ["9" * 30, "-1", "ten", "1048577"])
async def test_a_strange_or_large_content_length_is_refused_on_every_route(market, client, length):
    for path in ("/v1/skus", "/v1/webhooks/stripe", "/nothing"):
        answer = await client.http.request(
            "POST", path, content=iter_nothing(), headers={"content-length": length}
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def iter_nothing():
    yield b""


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (psycopg.OperationalError("password=hunter2"), "database_unavailable"),
        (PoolTimeout("x"), "database_unavailable"),
        (TimeoutError(), "deadline_exceeded"),
        (KeyError("hunter2"), "internal_error"),
    ],
)
async def test_failures_become_problems_without_their_inside(market, client, failure, code):
    market.reads.failure = failure
    answer = await client.as_("buyer").get("/v1/orders/ord_" + "0" * 26)
    assert (answer.status_code, answer.json()["code"]) == (TABLE[code][0], code)
    assert "hunter2" not in answer.text


async def test_a_caller_that_hangs_up_is_counted_and_not_logged(market, client, caplog):
    market.reads.failure = ClientDisconnect()
    with pytest.raises(AssertionError):  # httpx' transport notices that no answer came
        await client.as_("buyer").get("/v1/orders/ord_" + "0" * 26)
    assert 'status="499"' in (await client.get("/metrics")).text
    assert caplog.records == []


async def test_what_breaks_after_the_answer_began_is_cut_and_not_patched_up(market):
    app, sent = market.app(), []

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/livez",
        "query_string": b"",
        "root_path": "",
        "headers": [],
    }
    with pytest.raises(OSError, match="gone"):
        await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_logs_hold_no_secret(market, client, monkeypatch):
    lines = []
    monkeypatch.setattr("serve_app.observability._log", FakeLog(lines))
    market.directory.failure = RuntimeError("bug")
    sku = market.list_published()
    body = {
        "lines": [{"sku_id": sku.sku_id, "quantity": 1}],
        "currency": "USD",
        "delivery": {"mode": "recipient", "recipient": RECIPIENT},
    }
    await client.as_("buyer").post("/v1/orders", body, key="secret-key")
    await client.as_("buyer").get("/v1/orders")
    (line,) = lines
    assert (line["route"], line["status"], line["principal_id"]) == ("/v1/orders", 500, "buyer_ada")
    assert re.fullmatch(r"[0-9a-f]{16}", line["idempotency_key_sha256"])
    assert "secret-key" not in repr(line)
    assert "Bearer" not in repr(line)


class FakeLog:
    def __init__(self, lines):
        self.info = self.error = lambda _event, **fields: lines.append(fields)


# -- the table of problems ---------------------------------------------------------------------------


def test_docs_and_table_agree():
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| (\d{3}) \| (.+) \| (.+) \|$", text, re.MULTILINE)
    documented = {code: int(status) for code, status, _, _ in rows}
    assert len(rows) == len(documented), "a code is documented twice"
    assert documented == {code: status for code, (status, _) in TABLE.items()}


# Codes of parts whose errors never reach a caller by themselves: they become effects' reasons, or the
# publisher translates them.
REACHABLE = (
    "serve_app/*.py",
    "serve_app/routes/*.py",
    "storage/market/*.py",
    "storage/s3.py",
    "actors/grains/*.py",
)
MORE = ("actors/publisher/archives.py", "actors/publisher/publication.py", "actors/orders/host.py")
UNREACHABLE = {"envelope_not_canonical", "sales_order_incomplete"}


def codes_raised(path):
    names = {
        "RejectedError",
        "NotFoundError",
        "ConflictError",
        "BusyError",
        "DependencyError",
        "FieldsInvalidError",
    }
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in names
            and node.args
        ):
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def test_every_code_that_can_reach_a_caller_has_its_status():
    paths = [path for pattern in (*REACHABLE, *MORE) for path in ROOT.glob(pattern)]
    raised = {code for path in paths for code in codes_raised(path)}
    assert len(raised) > 40
    assert raised - UNREACHABLE - set(TABLE) == set()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RejectedError("new_code", "x"), 422),
        (NotFoundError("new_code", "x"), 404),
        (ConflictError("new_code", "x"), 409),
        (BusyError("new_code", "x"), 503),
        (DependencyError("new_code", "x"), 503),
        (MarketplaceError("new_code", "x"), 500),
    ],
)
def test_a_code_without_a_status_is_answered_by_whose_fault_it_is(error, status):
    assert problems.status_and_title(error)[0] == status


def test_a_problems_fields_are_bounded():
    error = problems.FieldsInvalidError("body_invalid", "x", [(f"/{n}", "wrong") for n in range(1_000)])
    assert len(orjson.loads(problems.response(error, "id").body)["errors"]) == problems.FIELD_ERRORS_MAX
