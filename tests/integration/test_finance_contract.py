"""Finance over HTTP against real Postgres: the contract of ADR 0004, answer by answer.

The contract's own suite (``tests/contracts/finance.py``) runs here against our service, or against another
one: ``FINANCE_CONTRACT_URL`` and ``FINANCE_CONTRACT_TOKEN`` name it.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openapi_spec_validator
import psycopg
import pytest
from finance_process import TOKEN, FinanceProcess, entry
from openapi_schema_validator import OAS31Validator
from postgres_fixture import Database

from serve_app.finance.access import Role
from serve_app.finance.openapi import openapi_document
from tests.contracts.finance import FinanceContract

pytestmark = pytest.mark.integration

DOCUMENT = openapi_document()


@pytest.fixture(scope="module")
def finance(module_finance_database: Database, tmp_path_factory) -> Iterator[FinanceProcess]:
    process = FinanceProcess(
        module_finance_database.dsn_for("finance_app"), tmp_path_factory.mktemp("finance") / "finance.log"
    )
    try:
        yield process.start()
    finally:
        process.stop()


@pytest.fixture
def client(finance: FinanceProcess) -> Iterator[httpx.Client]:
    with finance.client() as opened:
        yield opened


class TestContract(FinanceContract):
    @pytest.fixture
    def client(self, request) -> Iterator[httpx.Client]:
        if url := os.environ.get("FINANCE_CONTRACT_URL"):
            headers = {"Authorization": f"Bearer {os.environ['FINANCE_CONTRACT_TOKEN']}"}
            with httpx.Client(base_url=url, headers=headers, timeout=15) as opened:
                yield opened
        else:
            with request.getfixturevalue("finance").client() as opened:
                yield opened


def conforms(answer: httpx.Response, schema: str) -> dict:
    """Check a body against the published contract and return it."""
    body = answer.json()
    OAS31Validator({"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}).validate(
        body
    )
    return body


def problem(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = conforms(answer, "Problem")
    assert (body["status"], body["code"]) == (status, code)
    return body


def test_a_new_entry_is_echoed_exactly(client) -> None:
    sent = entry("echo/1:capture", occurred_at="2026-11-24T19:30:00.123456+05:30", description="Grüße 🎁")
    answer = client.post("/v1/entries", json=sent)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/v1/entries/echo/1:capture"
    body = conforms(answer, "PostingResult")
    assert body.pop("entry_id").startswith("ent_")
    assert body.pop("posted_at").endswith("Z")
    assert body == {**sent, "occurred_at": "2026-11-24T14:00:00.123456Z", "replayed": False}


def test_the_same_key_and_content_is_replayed_word_for_word(client) -> None:
    first = client.post("/v1/entries", json=entry("replay")).json()
    again = client.post("/v1/entries", json=entry("replay", occurred_at="2026-11-24T15:00:00+01:00"))
    assert again.status_code == 200
    assert conforms(again, "PostingResult") == {**first, "replayed": True}


def test_the_same_key_with_other_content_conflicts_and_changes_nothing(client) -> None:
    client.post("/v1/entries", json=entry("conflict"))
    problem(client.post("/v1/entries", json=entry("conflict", 2000)), 409, "entry_conflict")
    assert client.get("/v1/entries/conflict").json()["postings"][0]["amount_minor"] == 1999


def test_an_unbalanced_entry_is_refused_and_its_key_stays_free(client) -> None:
    lopsided = entry("lopsided")
    lopsided["postings"][0]["amount_minor"] += 1
    assert problem(client.post("/v1/entries", json=lopsided), 422, "entry_unbalanced")["sum_minor"] == 1
    assert client.post("/v1/entries", json=entry("lopsided")).status_code == 201


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"entry_key": 7}, "/entry_key"),
        ({"entry_key": "a b"}, "/entry_key"),
        ({"currency": None}, "/currency"),
        ({"occurred_at": "2026-11-24"}, "/occurred_at"),
        ({"occurred_at": "2026-11-24T14:00:00"}, "/occurred_at"),
        ({"occurred_at": "2026-11-24T14:00:00.1234567Z"}, "/occurred_at"),
        ({"occurred_at": "2026-02-30T14:00:00Z"}, "/occurred_at"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, "/occurred_at"),
        ({"occurred_at": 1764000000}, "/occurred_at"),
        ({"description": None}, "/description"),
        ({"description": "a\0b"}, "/description"),
        ({"postings": {}}, "/postings"),
        ({"postings": []}, "/postings"),
        ({"postings": [1, 2]}, "/postings/0"),
        ({"postings": [{"account": "a"}, {}]}, "/postings/0/amount_minor"),
        ({"postings": [{"account": 1, "amount_minor": 1}]}, "/postings/0/account"),
        (
            {"postings": [{"account": "a", "amount_minor": "1"}, {"account": "b", "amount_minor": -1}]},
            "/postings/0/amount_minor",
        ),
        (
            {"postings": [{"account": "a", "amount_minor": 2**70}, {"account": "b", "amount_minor": -1}]},
            "/postings/0/amount_minor",
        ),
        ({"currncy/": "USD"}, "/currncy~1"),
    ],
)
def test_malformed_entries_are_refused_by_pointer(client, changes, pointer) -> None:
    answer = client.post("/v1/entries", json=entry("malformed", **changes))
    assert problem(answer, 422, "entry_malformed")["pointer"] == pointer


def test_a_missing_member_is_named(client) -> None:
    sent = entry("missing")
    del sent["currency"]
    assert problem(client.post("/v1/entries", json=sent), 422, "entry_malformed")["pointer"] == "/currency"


def test_a_body_that_is_not_json_is_refused(client) -> None:
    for body in (b"", b"{", b"\xff", b'{"a":NaN}'):
        problem(client.post("/v1/entries", content=body), 400, "json_malformed")
    problem(client.post("/v1/entries", content=b"[]"), 422, "entry_malformed")


def test_a_body_beyond_a_mebibyte_is_refused_with_or_without_its_length(client) -> None:
    problem(client.post("/v1/entries", content=b" " * (1024 * 1024 + 1)), 413, "body_too_large")
    chunks = (b" " * 65_536 for _ in range(17))
    problem(client.post("/v1/entries", content=chunks), 413, "body_too_large")


def test_the_largest_entry_is_posted(client) -> None:
    legs = [{"account": f"seller:{n}:payable", "amount_minor": (-1) ** n * (2**53 - 1)} for n in range(200)]
    answer = client.post("/v1/entries", json=entry("largest", currency="JPY", postings=legs))
    assert answer.status_code == 201
    assert client.get("/v1/entries/largest").json()["postings"] == legs


def test_sixty_four_equal_posts_at_once_make_one_entry(finance, client, module_finance_database) -> None:
    def post(_n: int) -> httpx.Response:
        with finance.client() as own:
            return own.post("/v1/entries", json=entry("race"))

    with ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(post, range(64)))
    assert sorted(answer.status_code for answer in answers) == [200] * 63 + [201]
    assert len({answer.json()["entry_id"] for answer in answers}) == 1
    with psycopg.connect(module_finance_database.dsn) as connection:
        row = connection.execute(
            "SELECT count(DISTINCT entry_id), count(*) FROM finance.entries JOIN finance.postings"
            " USING (entry_id) WHERE entry_key = 'race'"
        ).fetchone()
    assert row == (1, 3)


def test_a_batch_gives_each_entry_its_own_verdict(client) -> None:
    client.post("/v1/entries", json=entry("mix:old"))
    lopsided = entry("mix:lopsided")
    lopsided["postings"][0]["amount_minor"] += 1
    batch = [
        entry("mix:new"),
        lopsided,
        entry("mix:old"),
        entry("mix:old", 5),
        {"nonsense": True},
        entry("mix:new"),
        entry("mix:new", 7),
        entry("mix:last"),
    ]
    answer = client.post("/v1/entries/batch", json={"entries": batch})
    assert answer.status_code == 200
    results = conforms(answer, "BatchResult")["results"]
    assert [r["status"] for r in results] == [201, 422, 200, 409, 422, 200, 409, 201]
    assert [r["problem"]["code"] for r in results if "problem" in r] == [
        "entry_unbalanced",
        "entry_conflict",
        "entry_malformed",
        "entry_conflict",
    ]
    assert results[0]["entry"]["entry_id"] == results[5]["entry"]["entry_id"]
    assert [r["entry"]["replayed"] for r in results if "entry" in r] == [False, True, True, False]


@pytest.mark.parametrize("frame", [[], {}, {"entries": []}, {"entries": [], "x": 1}, {"entries": [1] * 501}])
def test_a_malformed_batch_is_refused_whole(client, frame) -> None:
    problem(client.post("/v1/entries/batch", json=frame), 422, "batch_malformed")


def test_overlapping_batches_in_opposite_order_do_not_deadlock(finance) -> None:
    keys = [f"overlap:{n}" for n in range(200)]

    def post(n: int) -> list[int]:
        ordered = keys if n % 2 else keys[::-1]
        with finance.client() as own:
            answer = own.post("/v1/entries/batch", json={"entries": [entry(key) for key in ordered]})
            return [result["status"] for result in answer.json()["results"]]

    with ThreadPoolExecutor(8) as threads:
        statuses = [status for verdicts in threads.map(post, range(8)) for status in verdicts]
    assert statuses.count(201) == 200
    assert statuses.count(200) == 7 * 200


def test_an_entry_is_read_by_a_key_with_slashes_and_dots(client) -> None:
    posted = client.post("/v1/entries", json=entry("/odd//../key/")).json()
    del posted["replayed"]
    answer = client.get("/v1/entries/%2Fodd%2F%2F%2E%2E%2Fkey%2F")
    assert conforms(answer, "PostedEntry") == posted
    problem(client.get("/v1/entries/nowhere"), 404, "entry_unknown")
    problem(client.get("/v1/entries/no%00where"), 404, "entry_unknown")


def test_balances_count_what_occurred_up_to_a_time(client) -> None:
    for day, amount in (("01", 100), ("02", 20), ("03", 3)):
        legs = [
            {"account": "cash:asof", "amount_minor": amount},
            {"account": "equity:asof", "amount_minor": -amount},
        ]
        sent = entry(f"asof:{day}", currency="CHF", occurred_at=f"2026-01-{day}T00:00:00Z", postings=legs)
        assert client.post("/v1/entries", json=sent).status_code == 201

    def balance(**params: str) -> int:
        answer = client.get("/v1/accounts/cash:asof/balance", params={"currency": "CHF", **params})
        return conforms(answer, "Balance")["balance_minor"]

    assert balance() == 123
    assert balance(as_of="2025-12-31T23:59:59Z") == 0
    assert balance(as_of="2026-01-02T00:00:00Z") == 120
    assert balance(as_of="2026-01-02T01:00:00+02:00") == 100
    assert balance(currency="EUR") == 0
    total = client.get("/v1/trial-balance", params={"currency": "CHF", "as_of": "2026-01-02T00:00:00Z"})
    body = conforms(total, "TrialBalance")
    assert (body["debit_minor"], body["credit_minor"], body["posting_count"]) == (120, 120, 4)


def test_accounts_are_paged_by_account_and_currency(client) -> None:
    for currency in ("AAA", "BBB"):
        for n in range(3):
            legs = [
                {"account": f"cash:paged_{n}", "amount_minor": 1},
                {"account": "refunds", "amount_minor": -1},
            ]
            sent = entry(f"paged:{currency}:{n}", currency=currency, postings=legs)
            assert client.post("/v1/entries", json=sent).status_code == 201
    seen, cursor = [], None
    while True:
        params = {"prefix": "cash:paged_", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = conforms(client.get("/v1/accounts", params=params), "BalancePage")
        seen += [(a["account"], a["currency"], a["balance_minor"]) for a in page["accounts"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [(f"cash:paged_{n}", currency, 1) for n in range(3) for currency in ("AAA", "BBB")]


def test_entries_of_an_account_are_paged_in_posting_order(client) -> None:
    for n in range(5):
        # Twice in one entry: the entry still comes once.
        legs = [
            {"account": "cash:listed", "amount_minor": 1},
            {"account": "cash:listed", "amount_minor": 2},
            {"account": "disputes", "amount_minor": -3},
        ]
        client.post("/v1/entries", json=entry(f"listed:{n}", postings=legs))
    keys, cursor = [], None
    for _page in range(3):
        params = {"account": "cash:listed", "limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = conforms(client.get("/v1/entries", params=params), "EntryPage")
        keys += [e["entry_key"] for e in page["entries"]]
        cursor = page["next_cursor"]
    assert keys == [f"listed:{n}" for n in range(5)]
    assert cursor is None
    assert len(conforms(client.get("/v1/entries?limit=3"), "EntryPage")["entries"]) == 3


def test_the_trial_balance_sums_to_zero(client) -> None:
    client.post("/v1/entries", json=entry("trial"))
    body = conforms(client.get("/v1/trial-balance?currency=USD"), "TrialBalance")
    assert body["balanced"] is True
    assert body["sum_minor"] == 0
    assert sum(part["balance_minor"] for part in body["parts"]) == 0
    empty = conforms(client.get("/v1/trial-balance?currency=XTS"), "TrialBalance")
    assert (empty["balanced"], empty["posting_count"], empty["parts"]) == (True, 0, [])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/accounts/a/balance",
        "/v1/accounts/a/balance?currency=usd",
        "/v1/accounts/A/balance?currency=USD",
        "/v1/accounts/a/balance?currency=USD&as_off=2026-01-01T00:00:00Z",
        "/v1/accounts/a/balance?currency=USD&currency=EUR",
        "/v1/accounts/a/balance?currency=USD&as_of=2026-01-01T00:00:00+01:00",
        "/v1/accounts?limit=0",
        "/v1/accounts?limit=501",
        "/v1/accounts?limit=-1",
        "/v1/accounts?prefix=%25",
        "/v1/accounts?cursor=x",
        "/v1/entries?limit=501",
        "/v1/entries?limit=x",
        "/v1/entries?cursor=1",
        "/v1/entries?account=A",
        "/v1/trial-balance",
    ],
)
def test_malformed_queries_are_refused(client, path) -> None:
    problem(client.get(path), 422, "query_malformed")


def test_everything_but_probes_and_the_contract_needs_the_token(finance) -> None:
    with httpx.Client(base_url=finance.url) as anonymous:
        for headers in (
            {},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": "Bearer"},
            {"Authorization": TOKEN},
        ):
            answer = anonymous.post("/v1/entries", json=entry("intruder"), headers=headers)
            problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text
        problem(anonymous.get("/v1/nowhere"), 401, "unauthenticated")
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
            assert anonymous.get(path).status_code == 200
        assert anonymous.get("/livez", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


def test_unknown_routes_and_methods_are_problems(client) -> None:
    problem(client.get("/v1/nowhere"), 404, "route_unknown")
    problem(client.delete("/v1/entries"), 405, "method_not_allowed")
    problem(client.put("/v1/entries/some", json={}), 405, "method_not_allowed")


def test_request_ids_are_echoed_or_made(client) -> None:
    assert client.get("/livez", headers={"X-Request-Id": "req-1"}).headers["x-request-id"] == "req-1"
    made = client.get("/livez", headers={"X-Request-Id": "bad id"}).headers["x-request-id"]
    assert len(made) == 32
    refused = client.get("/v1/nowhere", headers={"X-Request-Id": "req-2"})
    assert refused.headers["x-request-id"] == "req-2"


def test_metrics_count_outcomes_and_name_no_account(client) -> None:
    client.post("/v1/entries", json=entry("metered"))
    client.post("/v1/entries", json=entry("metered"))
    text = client.get("/metrics").text
    for series in (
        'finance_entries_total{outcome="posted"}',
        'finance_entries_total{outcome="replayed"}',
        'finance_requests_total{route="post_entry",status="201"}',
        "finance_group_entries_count",
        'finance_pool{state="pool_size"}',
    ):
        assert series in text
    assert "metered" not in text
    assert "seller" not in text


def test_the_contract_is_valid_openapi_and_its_examples_hold(client) -> None:
    published = client.get("/openapi.json").json()
    assert published == DOCUMENT
    openapi_spec_validator.validate(published)
    examples = 0
    operations = [operation for path in published["paths"].values() for operation in path.values()]
    bodies = [*published["components"]["responses"].values()]
    for operation in operations:
        bodies += [*operation["responses"].values(), operation.get("requestBody", {})]
    for media in (m for body in bodies for m in body.get("content", {}).values()):
        shown = [media["example"]] if "example" in media else [e["value"] for e in media["examples"].values()]
        assert shown, "every body has an example"
        for example in shown:
            OAS31Validator(media["schema"] | {"components": published["components"]}).validate(example)
            examples += 1
    assert examples >= 70
    assert {operation["x-role"] for operation in operations} == set(Role)


def test_the_contracts_example_can_be_posted(client) -> None:
    body = DOCUMENT["paths"]["/v1/entries"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v1/entries", json=body).status_code == 201
