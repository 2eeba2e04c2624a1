"""``marketplace ops dlq`` against the API's contract, below the client: pages, decisions, what is gone."""

import json
from urllib.parse import unquote

import httpx
import pytest
from typer.testing import CliRunner

from cluster import cli_ops

BASE = "http://market.test"
ORDER = "ord_" + "0" * 26


def letter(number, code="period_closed", kind="effect"):
    name = f"effect:{ORDER[:-1]}{number}:book" if kind == "effect" else f"webhook:evt_{number}"
    return {
        "id": name,
        "kind": kind,
        "subject": ORDER,
        "work": "book",
        "code": code,
        "error": "The period\nis closed. " + "x" * 300,
        "attempts": 1,
        "dead_since": "2026-11-24T12:00:00.123456Z",
    }


class FakeOperations:
    """Dead letters by id; two a page, whatever the limit."""

    def __init__(self):
        self.letters = {}
        self.decisions = []
        self.requests = []
        self.fail = []

    def __call__(self, request):
        self.requests.append(request)
        assert request.headers["authorization"] == "Bearer tok_operator"
        if self.fail:
            return self.fail.pop(0)
        path = request.url.raw_path.decode().partition("?")[0]
        if request.method == "GET":
            assert path == "/v1/ops/dead-letters"
            return self._page(request.url.params)
        name, verb = path.removeprefix("/v1/ops/dead-letters/").rsplit("/", 1)
        assert ":" not in name
        return self._decide(request, unquote(name), verb)

    def _page(self, params):
        after = int(params.get("cursor", 0))
        listed = [one for one in self.letters.values() if params.get("kind") in (None, one["kind"])]
        more = len(listed) > after + 2
        page = {"items": listed[after : after + 2], "next_cursor": str(after + 2) if more else None}
        return httpx.Response(200, json=page)

    def _decide(self, request, name, verb):
        if name not in self.letters:
            problem = {"code": "dead_letter_gone", "detail": "This is not a dead letter (any more)."}
            return httpx.Response(409, json=problem)
        del self.letters[name]
        reason = json.loads(request.content)["reason"]
        self.decisions.append((verb, name, reason, request.headers["idempotency-key"]))
        answer = {
            "id": name,
            "decision": {"retry": "retried", "drop": "dropped"}[verb],
            "action_id": f"act_{len(self.decisions)}",
            "reason": reason,
            "consequence": "The order stays paid and unfinished.",
        }
        return httpx.Response(200, json=answer)


@pytest.fixture
def operations(monkeypatch):
    fake = FakeOperations()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda _self, request: fake(request))
    monkeypatch.setattr("time.sleep", lambda _s: None)
    return fake


@pytest.fixture
def cli(operations, monkeypatch, tmp_path):
    monkeypatch.setenv("MARKETPLACE_URL", BASE)
    monkeypatch.setenv("MARKETPLACE_TOKEN", "tok_operator")
    monkeypatch.setenv("MARKETPLACE_HOME", str(tmp_path))

    def run(*arguments):
        result = CliRunner().invoke(cli_ops.app, ["dlq", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def fill(operations, *letters):
    operations.letters = {one["id"]: one for one in letters}
    return list(operations.letters)


def test_list_reads_every_page(cli, operations):
    names = fill(operations, *(letter(number) for number in range(5)), letter(9, "second_charge", "webhook"))
    status, out, _ = cli("list")
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()[::2]] == names
    assert ORDER in out.splitlines()[-2]  # a webhook's id does not tell its order
    assert all(len(line) < 200 for line in out.splitlines())
    status, out, _ = cli("list", "--kind", "webhook", "--json")
    assert [one["id"] for one in json.loads(out)["items"]] == ["webhook:evt_9"]
    assert json.loads(out)["items"][0]["error"] == letter(9)["error"]


def test_an_empty_list_is_said(cli):
    assert cli("list") == (0, "No dead letters.\n", "")
    assert json.loads(cli("list", "--json")[1]) == {"ok": True, "items": [], "complete": True}


def test_a_list_that_is_too_long_is_cut_and_said(cli, operations, monkeypatch):
    monkeypatch.setattr(cli_ops, "LETTERS_MAX", 3)
    fill(operations, *(letter(number) for number in range(5)))
    status, out, err = cli("list")
    assert (status, len(out.splitlines())) == (0, 6)
    assert "more than 3" in err


def test_show_has_the_whole_error(cli, operations):
    names = fill(operations, *(letter(number) for number in range(4)))
    status, out, _ = cli("show", names[-1])
    assert status == 0
    assert "x" * 300 in out
    assert json.loads(cli("show", names[-1], "--json")[1])["id"] == names[-1]
    status, _, err = cli("show", "webhook:evt_1")
    assert status == 1
    assert "is not among the dead letters" in err


def test_retry_takes_ids(cli, operations):
    first, second = fill(operations, letter(1), letter(2))
    status, out, _ = cli("retry", first, second, first, "--reason", "Mended.")
    assert status == 0
    assert [decision[:3] for decision in operations.decisions] == [
        ("retry", first, "Mended."),
        ("retry", second, "Mended."),
    ]
    assert len({decision[3] for decision in operations.decisions}) == 2
    assert out.count("stays paid and unfinished") == 1


def test_retry_takes_every_letter_of_a_code(cli, operations):
    names = fill(
        operations, *(letter(number, "period_closed" if number % 2 else "other") for number in range(7))
    )
    status, out, _ = cli("retry", "--code", "period_closed", "--reason", "Mended.", "--json")
    assert status == 0
    assert [decision["id"] for decision in json.loads(out)["items"]] == names[1::2]
    assert list(operations.letters) == names[::2]
    status, out, _ = cli("retry", "--code", "nothing", "--reason", "Mended.")
    assert status == 0
    assert "No dead letter has the code nothing" in out


@pytest.mark.parametrize("arguments", [[], ["x", "--code", "y"], ["x", "--kind", "effect"]])
def test_retry_refuses_to_guess(cli, operations, arguments):
    status, _, err = cli("retry", *arguments, "--reason", "Mended.")
    assert status == 1
    assert "--code" in err
    assert operations.requests == []


def test_drop_tells_what_stays_undone(cli, operations):
    (name,) = fill(operations, letter(1))
    status, out, _ = cli("drop", name, "--reason", "Returned by hand.")
    assert status == 0
    assert "dropped (act_1)" in out
    assert "stays paid and unfinished" in out
    assert operations.letters == {}


def test_a_reason_and_ids_are_asked_for(cli, operations):
    assert cli("drop", "x")[0] == 2
    assert cli("drop", "--reason", "Why not.")[0] == 2
    assert operations.requests == []


def test_among_many_what_is_gone_is_told_and_alone_it_fails(cli, operations):
    (name,) = fill(operations, letter(1))
    status, out, _ = cli("drop", "webhook:evt_7", name, "--reason", "Returned by hand.", "--json")
    assert status == 0
    assert json.loads(out)["gone"] == ["webhook:evt_7"]
    assert [one["id"] for one in json.loads(out)["items"]] == [name]
    status, _, err = cli("drop", "webhook:evt_7", "--reason", "Returned by hand.")
    assert status == 1
    assert "dead_letter_gone" in err


def test_a_lost_answer_is_asked_for_again_with_the_same_key(cli, operations):
    (name,) = fill(operations, letter(1))
    operations.fail = [
        httpx.Response(503, json={"code": "database_unavailable"}, headers={"Retry-After": "1"})
    ]
    assert cli("retry", name, "--reason", "Mended.")[0] == 0
    assert len({request.headers["idempotency-key"] for request in operations.requests}) == 1
    assert len(operations.requests) == 2


def test_without_a_token_it_says_whose_is_needed(cli, monkeypatch):
    monkeypatch.delenv("MARKETPLACE_TOKEN")
    status, out, _ = cli("list", "--json")
    assert status == 1
    assert "operator's token" in json.loads(out)["error"]["message"]
