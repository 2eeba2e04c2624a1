"""Reconciliation cases over HTTP: who may, what is listed, what a decision does, once."""

from datetime import timedelta

import pytest

from domain.reconciliation.cases import Case
from storage.market.cases import RunRow
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket

LIST = "/v1/ops/cases"
WHY = {"reason": "Settled with the buyer."}


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app(), "operator")


@pytest.fixture
def open_case(market):
    """Keep a case, opened ``number`` seconds from now."""

    def keep(number, kind="refund_not_recorded", fix="tell_order"):
        at = market.clock() + timedelta(seconds=number)
        case = Case(
            f"cas_{number:026d}", kind, f"ord_{number:026d}", "re_1", "open", at, "USD", 0, 500,
            "Stripe returned 500 USD.", {"payment_intent": "pi_1"}, fix, at, at, None, None, None, None, None,
        )  # fmt: skip
        market.cases.cases[case.case_id] = case
        return case.case_id

    return keep


async def test_cases_are_listed_newest_first_by_status_and_kind(market, client, open_case):
    ids = [open_case(number) for number in range(3)]
    other = open_case(9, kind="captured_twice", fix=None)
    first = (await client.get(f"{LIST}?limit=2")).json()
    assert [one["id"] for one in first["items"]] == [other, ids[2]]
    rest = (await client.get(f"{LIST}?limit=2&cursor={first['next_cursor']}")).json()
    assert [one["id"] for one in rest["items"]] == [ids[1], ids[0]]
    assert rest["next_cursor"] is None
    chosen = (await client.get(f"{LIST}?kind=captured_twice&status=open")).json()["items"]
    assert [(one["id"], one["applicable"]) for one in chosen] == [(other, False)]
    assert "Refund the second payment" in chosen[0]["proposal"]
    assert (await client.get(f"{LIST}?status=resolved")).json()["items"] == []
    one = (await client.get(f"{LIST}/{ids[0]}")).json()
    assert (one["expected_minor"], one["actual_minor"], one["currency"]) == (0, 500, "USD")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?status=shut", "query_invalid"),
        ("?kind=odd", "query_invalid"),
        ("?limit=0", "query_invalid"),
        ("?cursor=xyz", "cursor_invalid"),
    ],
)
async def test_a_wrong_query_is_refused(client, query, code):
    answer = await client.get(LIST + query)
    assert answer.json()["code"] == code


async def test_a_case_is_closed_once_with_its_reason_on_record(market, client, open_case):
    case_id = open_case(1)
    answer = await client.post(f"{LIST}/{case_id}/close", WHY, key="k1")
    assert (answer.status_code, answer.json()["decision"]) == (200, "closed")
    again = await client.post(f"{LIST}/{case_id}/close", WHY, key="k1")
    assert again.json() == answer.json()
    assert len(market.cases.actions) == 1
    refused = await client.post(f"{LIST}/{case_id}/close", WHY, key="k2")
    assert (refused.status_code, refused.json()["code"]) == (409, "case_closed")
    shown = (await client.get(f"{LIST}/{case_id}")).json()
    assert (shown["status"], shown["closed_by"], shown["reason"]) == (
        "dismissed",
        market.cases.actions[0][0],
        WHY["reason"],
    )
    assert shown["dismissal"] == {
        "action_id": answer.json()["action_id"],
        "by": shown["closed_by"],
        "at": shown["closed_at"],
        "reason": WHY["reason"],
    }


async def test_a_fix_is_asked_for_where_there_is_one(market, client, open_case):
    answer = await client.post(f"{LIST}/{open_case(1)}/apply", WHY)
    assert (answer.status_code, answer.json()["decision"]) == (200, "apply_requested")
    refused = await client.post(f"{LIST}/{open_case(2, 'captured_twice', None)}/apply", WHY)
    assert (refused.status_code, refused.json()["code"]) == (409, "case_not_applicable")
    unknown = await client.post(f"{LIST}/cas_{9:026d}/apply", WHY)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "case_not_found")
    assert len(market.cases.actions) == 1


@pytest.mark.parametrize("role", ["buyer", "seller", "fraud"])
async def test_others_may_not(client, open_case, role):
    case_id = open_case(1)
    other = client.as_(role)
    assert (await other.get(LIST)).json()["code"] == "role_not_allowed"
    assert (await other.post(f"{LIST}/{case_id}/close", WHY)).json()["code"] == "role_not_allowed"
    assert (await other.get("/v1/ops/reconciliations")).json()["code"] == "role_not_allowed"


async def test_auditors_read_only(client, open_case):
    case_id = open_case(1)
    auditor = client.as_("auditor")
    assert (await auditor.get(f"{LIST}/{case_id}")).status_code == 200
    assert (await auditor.post(f"{LIST}/{case_id}/apply", WHY)).json()["code"] == "role_not_allowed"


async def test_runs_are_listed_with_their_reports(market, client):
    at = market.clock()
    for number in range(3):
        run = RunRow(
            f"rec_{number:026d}",
            at,
            at,
            daily=True,
            complete=True,
            started_at=at,
            finished_at=at,
            report={"orders": number},
        )
        market.cases.made.append(run)
    page = (await client.get("/v1/ops/reconciliations?limit=2")).json()
    assert [one["report"]["orders"] for one in page["items"]] == [2, 1]
    rest = (await client.get(f"/v1/ops/reconciliations?limit=2&cursor={page['next_cursor']}")).json()
    assert [one["report"]["orders"] for one in rest["items"]] == [0]
