"""What every Finance promises (ADR 0004, ADR 0009), asked over HTTP and held against its published schemas.

Subclasses provide ``client``: an ``httpx.Client`` with the base address and credentials that have every role.
All names are new in each run, so that the suite also runs against books that hold something already. It
leaves entries behind, and closes the month ``CLOSED``: nothing may be dated before its end there.
"""

import csv
import io
import secrets
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator

from serve_app.finance.openapi import openapi_document

CLOSED = "2001-01"
NOON = "2026-01-15T12:00:00Z"
PROBLEM_JSON = "application/problem+json"


@lru_cache
def document() -> dict[str, Any]:
    return openapi_document()


def conforms(answer: httpx.Response, schema: str, *statuses: int) -> dict[str, Any]:
    """Check status and body against the contract and return the body."""
    assert answer.status_code in statuses, answer.text
    body: dict[str, Any] = answer.json()
    components = document()["components"]
    OAS31Validator({"$ref": f"#/components/schemas/{schema}", "components": components}).validate(body)
    return body


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is this problem and return it."""
    assert answer.headers["content-type"] == PROBLEM_JSON, answer.text
    body = conforms(answer, "Problem", status)
    assert (body["status"], body["code"]) == (status, code)
    return body


def entry(
    key: str, *legs: tuple[str, int], at: str = NOON, currency: str = "USD", **more: Any
) -> dict[str, Any]:
    postings = [{"account": account, "amount_minor": amount} for account, amount in legs]
    return {"entry_key": key, "currency": currency, "occurred_at": at, "postings": postings, **more}


class FinanceContract:
    """Every operation of the contract, its answers and its refusals."""

    @pytest.fixture
    def name(self) -> str:
        """Part of every name of a test, never used before."""
        return f"c{secrets.token_hex(8)}"

    @pytest.fixture
    def bank(self, name: str) -> str:
        return f"cash:{name}"

    @pytest.fixture
    def seller(self, name: str) -> str:
        return f"seller:{name}:payable"

    def post(self, client: httpx.Client, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return conforms(client.post("/v1/entries", json=entry(*args, **kwargs)), "PostingResult", 201)

    def balance(self, client: httpx.Client, account: str, **params: str) -> int:
        answer = client.get(f"/v1/accounts/{account}/balance", params={"currency": "USD", **params})
        return int(conforms(answer, "Balance", 200)["balance_minor"])

    def pages(self, client: httpx.Client, account: str, **params: str) -> Iterator[dict[str, Any]]:
        asked = {"currency": "USD", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", **params}
        while True:
            page = conforms(client.get(f"/v1/accounts/{account}/statement", params=asked), "Statement", 200)
            yield page
            if page["next_cursor"] is None:
                return
            asked["cursor"] = page["next_cursor"]

    def test_an_entry_is_posted_once_and_echoed(self, client, name, bank, seller):
        sent = entry(f"{name}:1", (bank, 5), (seller, -5), description="Sale")
        first = conforms(client.post("/v1/entries", json=sent), "PostingResult", 201)
        again = conforms(client.post("/v1/entries", json=sent), "PostingResult", 200)
        assert again == {**first, "replayed": True}
        assert {key: first[key] for key in sent} == sent
        problem(client.post("/v1/entries", json={**sent, "description": "Other"}), 409, "entry_conflict")
        read = conforms(client.get(f"/v1/entries/{name}:1"), "PostedEntry", 200)
        assert {**read, "replayed": False} == first
        problem(client.get(f"/v1/entries/{name}:2"), 404, "entry_unknown")

    def test_unsound_entries_are_refused(self, client, name, bank, seller):
        lopsided = client.post("/v1/entries", json=entry(name, (bank, 5), (seller, -4)))
        assert problem(lopsided, 422, "entry_unbalanced")["sum_minor"] == 1
        nothing = client.post("/v1/entries", json=entry(name, (bank, 0), (seller, 0)))
        assert problem(nothing, 422, "entry_malformed")["pointer"] == "/postings/0/amount_minor"
        problem(client.post("/v1/entries", content=b"{"), 400, "json_malformed")
        problem(client.post("/v1/entries/batch", json={"entries": []}), 422, "batch_malformed")

    def test_a_batch_gives_each_entry_its_own_verdict(self, client, name, bank, seller):
        legs = (bank, 5), (seller, -5)
        batch = [
            entry(f"{name}:1", *legs),
            entry(f"{name}:2", (bank, 5), (seller, -4)),
            entry(f"{name}:3", (f"nonsense:{name}", 5), (seller, -5)),
            entry(f"{name}:4", *legs),
            entry(f"{name}:1", *legs, currency="EUR"),
        ]
        answer = client.post("/v1/entries/batch", json={"entries": batch})
        results = conforms(answer, "BatchResult", 200)["results"]
        assert [one["status"] for one in results] == [201, 422, 422, 201, 409]
        codes = [one["problem"]["code"] for one in results if "problem" in one]
        assert codes == ["entry_unbalanced", "account_unknown", "entry_conflict"]

    def test_entries_of_an_account_are_listed_in_posting_order(self, client, name, bank, seller):
        for n in range(3):
            self.post(client, f"{name}:{n}", (bank, 5), (seller, -5), at=f"2026-01-1{9 - n}T00:00:00Z")
        first = conforms(client.get("/v1/entries", params={"account": bank, "limit": "2"}), "EntryPage", 200)
        rest = conforms(
            client.get("/v1/entries", params={"account": bank, "cursor": first["next_cursor"]}),
            "EntryPage",
            200,
        )
        keys = [one["entry_key"] for page in (first, rest) for one in page["entries"]]
        assert keys == [f"{name}:{n}" for n in range(3)]

    def test_entries_of_an_account_are_listed_by_window_and_by_key(self, client, name, bank, seller):
        for n, day in enumerate((11, 10, 10, 12, 13)):
            at = f"2026-01-{day}T00:00:00Z"
            self.post(client, f"{name}:{n}", (bank, 5), (bank, 5), (seller, -10), at=at)
        self.post(client, f"{name}:eur", (bank, 5), (seller, -5), at="2026-01-11T00:00:00Z", currency="EUR")
        window = {"account": bank, "currency": "USD", "from": "2026-01-10T00:00:00Z"}
        window["to"] = "2026-01-13T00:00:00Z"
        assert self.keys_of(client, window) == [f"{name}:{n}" for n in (1, 2, 0, 3)]
        assert self.keys_of(client, {"key_prefix": f"{name}:"}) == [
            f"{name}:{n}" for n in (0, 1, 2, 3, 4, "eur")
        ]
        assert self.keys_of(client, {"key_prefix": f"{name}x"}) == []
        for wrong in (
            {"from": window["from"]},
            {**window, "to": "2026-01-09T00:00:00Z"},
            {**window, "key_prefix": name},
            {**window, "cursor": "ent_1"},
            {"key_prefix": f"{name}:", "cursor": "other"},
        ):
            problem(client.get("/v1/entries", params=wrong), 422, "query_malformed")

    def keys_of(self, client: httpx.Client, asked: dict[str, str]) -> list[str]:
        """Read all pages, of two entries each."""
        keys: list[str] = []
        params = {**asked, "limit": "2"}
        while True:
            page = conforms(client.get("/v1/entries", params=params), "EntryPage", 200)
            keys += [one["entry_key"] for one in page["entries"]]
            if page["next_cursor"] is None:
                return keys
            params["cursor"] = page["next_cursor"]

    def test_accounts_of_the_chart_are_opened_by_their_first_posting(self, client, name, bank, seller):
        problem(client.get(f"/v1/accounts/{bank}"), 404, "account_unknown")
        patterns = conforms(client.get("/v1/chart-of-accounts"), "Chart", 200)["patterns"]
        assert {"pattern": "cash:*", "kind": "asset", "normal_side": "debit"} in patterns
        self.post(client, name, (bank, 5), (seller, -5))
        opened = conforms(client.get(f"/v1/accounts/{bank}"), "Account", 200)
        assert (opened["kind"], opened["normal_side"], opened["declared"]) == ("asset", "debit", False)
        assert conforms(client.get(f"/v1/accounts/{seller}"), "Account", 200)["kind"] == "liability"
        for other in (f"nonsense:{name}", "rounding"):
            refused = client.post("/v1/entries", json=entry(f"{name}:2", (bank, 5), (other, -5)))
            assert problem(refused, 422, "account_unknown")["account"] == other

    def test_accounts_are_declared_once_and_as_the_chart_says(self, client, name, bank):
        url, euros = f"/v1/accounts/project:{name}", {"kind": "expense", "currency": "EUR"}
        first = conforms(client.put(url, json=euros), "Account", 201)
        assert conforms(client.put(url, json=euros), "Account", 200) == first
        problem(client.put(url, json={"kind": "expense"}), 409, "account_conflict")
        problem(client.put(f"/v1/accounts/{bank}", json={"kind": "income"}), 422, "account_kind")
        problem(client.put("/v1/accounts/rounding:x", json={"kind": "income"}), 422, "account_forbidden")
        problem(client.put(url, json={"kind": "wealth"}), 422, "account_malformed")
        legs = (f"project:{name}", 5), (bank, -5)
        refused = client.post("/v1/entries", json=entry(name, *legs))
        assert problem(refused, 422, "account_currency")["account"] == f"project:{name}"
        self.post(client, name, *legs, currency="EUR")

    def test_a_closed_account_takes_no_postings(self, client, name, bank, seller):
        url = f"/v1/accounts/{bank}/close"
        problem(client.post(url), 404, "account_unknown")
        self.post(client, f"{name}:1", (bank, 5), (seller, -5))
        problem(client.post(url), 409, "account_not_empty")
        self.post(client, f"{name}:2", (bank, -5), (seller, 5))
        closed = conforms(client.post(url), "Account", 200)
        assert closed["closed_at"] is not None
        assert conforms(client.post(url), "Account", 200) == closed
        refused = client.post("/v1/entries", json=entry(f"{name}:3", (bank, 5), (seller, -5)))
        assert problem(refused, 422, "account_closed")["account"] == bank
        replayed = client.post("/v1/entries", json=entry(f"{name}:1", (bank, 5), (seller, -5)))
        assert replayed.status_code == 200, "a repetition is no new posting"

    def test_balances_are_of_any_moment(self, client, name, bank, seller):
        for day, amount in (("15", 100), ("16", 20), ("17", 3)):
            legs = (bank, amount), (seller, -amount)
            self.post(client, f"{name}:{day}", *legs, at=f"2026-01-{day}T12:00:00Z")
        for moment, expected in (
            ("2026-01-15T11:59:59.999999Z", 0),
            ("2026-01-15T12:00:00Z", 100),
            ("2026-01-16T13:00:00+01:00", 120),
            ("2026-12-01T00:00:00Z", 123),
            ("9999-12-31T23:59:59.999999Z", 123),
        ):
            assert self.balance(client, bank, as_of=moment) == expected
            listed = client.get("/v1/accounts", params={"prefix": bank, "as_of": moment, "currency": "USD"})
            page = conforms(listed, "BalancePage", 200)
            (one,) = page["accounts"]
            assert (one["debit_minor"], one["credit_minor"], one["balance_minor"]) == (expected, 0, expected)
        assert self.balance(client, bank) == 123
        assert self.balance(client, bank, currency="EUR") == 0
        assert self.balance(client, seller) == -123

    def test_the_trial_balance_sums_to_zero_at_any_moment(self, client, name, bank, seller):
        self.post(client, name, (bank, 5), (seller, -5))
        for params in (
            {},
            {"as_of": NOON},
            {"as_of": "2026-01-15T12:30:00Z"},
            {"as_of": "2000-01-01T00:00:00Z"},
        ):
            answer = client.get("/v1/trial-balance", params={"currency": "USD", **params})
            trial = conforms(answer, "TrialBalance", 200)
            assert (trial["balanced"], trial["sum_minor"]) == (True, 0)
            for figure in ("debit_minor", "credit_minor", "posting_count"):
                assert trial[figure] == sum(part[figure] for part in trial["parts"])

    def test_an_entry_is_reversed_once_and_linked_both_ways(self, client, name, bank, seller):
        self.post(client, name, (bank, 5), (seller, -5))
        url = f"/v1/entries/{name}/reversal"
        said = {"entry_key": f"{name}:r", "occurred_at": "2026-01-16T00:00:00Z"}
        first = conforms(client.post(url, json=said), "PostingResult", 201)
        assert first["reverses"] == name
        assert first["postings"] == [
            {"account": bank, "amount_minor": -5},
            {"account": seller, "amount_minor": 5},
        ]
        assert conforms(client.post(url, json=said), "PostingResult", 200) == {**first, "replayed": True}
        assert conforms(client.get(f"/v1/entries/{name}"), "PostedEntry", 200)["reversed_by"] == f"{name}:r"
        assert conforms(client.get(f"/v1/entries/{name}:r"), "PostedEntry", 200)["reverses"] == name
        assert self.balance(client, bank) == 0
        problem(client.post(url, json={**said, "entry_key": f"{name}:r2"}), 409, "entry_reversed")
        problem(client.post(url, json={**said, "description": "x"}), 409, "entry_conflict")
        problem(client.post(url, json={**said, "entry_key": name}), 422, "entry_malformed")
        again = f"/v1/entries/{name}:r/reversal"
        problem(client.post(again, json={**said, "entry_key": f"{name}:rr"}), 422, "entry_malformed")
        problem(client.post(f"/v1/entries/{name}:none/reversal", json=said), 404, "entry_unknown")

    def test_a_reversal_is_not_dated_before_its_entry(self, client, name, bank, seller):
        self.post(client, name, (bank, 5), (seller, -5))
        said = {"entry_key": f"{name}:r", "occurred_at": "2026-01-14T00:00:00Z"}
        refused = problem(client.post(f"/v1/entries/{name}/reversal", json=said), 422, "entry_malformed")
        assert refused["pointer"] == "/occurred_at"

    def test_a_statement_leads_from_the_opening_to_the_closing_balance(self, client, name, bank, seller):
        self.post(client, f"{name}:before", (bank, 1000), (seller, -1000), at="2025-12-31T23:59:59Z")
        amounts = [100, -20, 3, 100, -50]
        for n, amount in enumerate(amounts):
            legs = (bank, amount), (seller, -amount)
            self.post(client, f"{name}:{n}", *legs, at=f"2026-01-{20 - n}T12:00:00Z")
        self.post(client, f"{name}:after", (bank, 7), (seller, -7), at="2026-02-01T00:00:00Z")
        pages = list(self.pages(client, bank, limit="2"))
        assert [len(page["lines"]) for page in pages] == [2, 2, 1]
        for page in pages:
            figures = (page["opening_balance_minor"], page["debit_minor"], page["credit_minor"])
            assert (*figures, page["closing_balance_minor"], page["line_count"]) == (1000, 203, 70, 1133, 5)
        lines = [line for page in pages for line in page["lines"]]
        assert [line["amount_minor"] for line in lines] == amounts[::-1]
        assert [line["balance_minor"] for line in lines] == [950, 1050, 1053, 1033, 1133]

    def test_all_pages_of_a_statement_are_of_one_moment(self, client, name, bank, seller):
        for n in range(4):
            self.post(client, f"{name}:{n}", (bank, 1), (seller, -1), at=f"2026-01-1{n}T12:00:00Z")
        pages = self.pages(client, bank, limit="2")
        first = next(pages)
        self.post(client, f"{name}:late", (bank, 50), (seller, -50), at="2026-01-13T00:00:00Z")
        second = next(pages)
        assert [line["balance_minor"] for line in (*first["lines"], *second["lines"])] == [1, 2, 3, 4]
        assert next(self.pages(client, bank))["closing_balance_minor"] == 54

    def test_a_statement_is_a_table_too(self, client, name, bank, seller):
        for n, text in enumerate(("=1+1", 'a "b", c')):
            legs = (bank, 5), (seller, -5)
            self.post(client, f"{name}:{n}", *legs, at=f"2026-01-1{n}T12:00:00Z", description=text)
        asked = {"currency": "USD", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
        answer = client.get(f"/v1/accounts/{bank}/statement", params={**asked, "format": "csv", "limit": "1"})
        text = ""
        while True:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/csv; charset=utf-8"
            text += answer.text
            if "next" not in answer.links:
                break
            answer = client.get(answer.links["next"]["url"])
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["balance_minor"] for row in rows] == ["0", "5", "10", "10"]
        names = [row["description"] for row in rows]
        assert names == ["Opening balance", "'=1+1", 'a "b", c', "Closing balance"]
        assert [row["debit_minor"] for row in rows] == ["", "5", "5", "10"]

    def test_statements_of_nothing_are_refused(self, client, name, bank, seller):
        url = f"/v1/accounts/{bank}/statement"
        asked = {"currency": "USD", "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
        problem(client.get(url, params=asked), 404, "account_unknown")
        self.post(client, name, (bank, 5), (seller, -5))
        other = {"from": "2026-02-01T00:00:00Z"}
        for change in (
            other,
            {"format": "pdf"},
            {"limit": "1001"},
            {"cursor": "x"},
            {"cursor": "W10"},
            {"a": "b"},
        ):
            problem(client.get(url, params={**asked, **change}), 422, "query_malformed")
        for missing in asked:
            kept = {key: value for key, value in asked.items() if key != missing}
            problem(client.get(url, params=kept), 422, "query_malformed")

    def test_a_closed_period_stays_closed_and_takes_no_entries(self, client, name, bank, seller):
        first = conforms(client.post(f"/v1/periods/{CLOSED}/close"), "ClosedPeriod", 200)
        assert conforms(client.post(f"/v1/periods/{CLOSED}/close"), "ClosedPeriod", 200) == first
        earlier = conforms(client.post("/v1/periods/2000-12/close"), "ClosedPeriod", 200)
        assert earlier["open_from"] <= first["open_from"], "closed along with it, or before"
        page = conforms(client.get("/v1/periods"), "PeriodPage", 200)
        assert page["open_from"] == page["periods"][0]["open_from"]
        late = entry(name, (bank, 5), (seller, -5), at="2001-01-31T23:59:59.999999Z")
        refused = problem(client.post("/v1/entries", json=late), 422, "period_closed")
        assert refused["open_from"] == page["open_from"]
        problem(client.get(f"/v1/entries/{name}"), 404, "entry_unknown")
        problem(client.post("/v1/periods/9998-12/close"), 409, "period_not_over")
        for nonsense in ("2001-13", "2001-1", "now", "9999-12"):
            problem(client.post(f"/v1/periods/{nonsense}/close"), 422, "period_malformed")
        assert client.post(f"/v1/periods/{CLOSED}/reopen").status_code == 404
        assert client.delete(f"/v1/periods/{CLOSED}").status_code in (404, 405)

    def test_a_late_entry_is_booked_in_the_open_period_with_its_own_date(self, client, name, bank, seller):
        conforms(client.post(f"/v1/periods/{CLOSED}/close"), "ClosedPeriod", 200)
        late = entry(name, (bank, 5), (seller, -5), at="2001-01-31T00:00:00Z")
        problem(client.post("/v1/entries", json=late), 422, "period_closed")
        rebooked = {**late, "occurred_at": NOON, "original_occurred_at": late["occurred_at"]}
        first = conforms(client.post("/v1/entries", json=rebooked), "PostingResult", 201)
        assert (first["occurred_at"], first["original_occurred_at"]) == (NOON, late["occurred_at"])
        for repeated in (rebooked, late, {**rebooked, "occurred_at": "2026-03-01T00:00:00Z"}):
            again = conforms(client.post("/v1/entries", json=repeated), "PostingResult", 200)
            assert again == {**first, "replayed": True}, "the same content, wherever it was booked"
        other = {**rebooked, "original_occurred_at": "2001-01-30T00:00:00Z"}
        problem(client.post("/v1/entries", json=other), 409, "entry_conflict")
        upside_down = {**rebooked, "entry_key": f"{name}:2", "original_occurred_at": "2026-02-01T00:00:00Z"}
        refused = problem(client.post("/v1/entries", json=upside_down), 422, "entry_malformed")
        assert refused["pointer"] == "/original_occurred_at"

    def test_malformed_questions_are_refused_by_name(self, client):
        for path in (
            "/v1/accounts?limit=0",
            "/v1/accounts?currency=usd",
            "/v1/trial-balance",
            "/v1/periods?x=1",
        ):
            assert "arameter" in problem(client.get(path), 422, "query_malformed")["detail"]
        problem(client.get("/v1/nowhere"), 404, "route_unknown")
        problem(client.delete("/v1/entries"), 405, "method_not_allowed")

    def test_the_published_contract_is_this_one(self, client):
        published = client.get("/openapi.json").json()
        assert published["info"]["version"] == document()["info"]["version"]
        assert set(document()["paths"]) <= set(published["paths"])
