"""Proposals over HTTP: who may, what is signed, what each refusal is called, and once per key."""

import base64
from datetime import timedelta

import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from domain.proposals.documents import Kind
from domain.proposals.statements import Action, sign
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket
from tests.fakes.proposals import FEES, FLOW, KEYS, statement_on

LIST = "/v1/ops/proposals"
GOVERNED = "/v1/ops/governed"
WHY = "As decided in October."


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
def client(market):
    return Client(market.app(), "operator")


def body_of(key, action, statement, **more):
    return {"envelope": orjson.loads(sign(key, action, statement)), "reason": WHY, **more}


@pytest.fixture
def propose(market, client):
    async def propose(document=FEES, kind=Kind.PLATFORM_FEES, key=KEYS[0], **options):
        statement = statement_on(market.proposals.register.current[kind], document, market.clock(), **options)
        answer = await client.post(LIST, body_of(key, Action.PROPOSAL, statement, document=document))
        return statement, answer

    return propose


@pytest.fixture
def act(client):
    async def act(statement, signer, action=Action.APPROVAL, **options):
        name = {"approval": "approvals", "rejection": "rejections", "withdrawal": "withdrawal"}[action]
        body = body_of(signer, action, statement)
        return await client.post(f"{LIST}/{statement.proposal_id}/{name}", body, **options)

    return act


def outcome(answer):
    return (answer.status_code, answer.json().get("code") or answer.json()["status"])


async def test_two_operators_change_the_fees(market, client, propose, act):
    statement, made = await propose()
    assert outcome(made) == (201, "open")
    assert outcome(await act(statement, KEYS[1])) == (200, "open")
    applied = await act(statement, KEYS[2])
    assert applied.json() == {
        "id": statement.proposal_id,
        "action": "approval",
        "action_id": applied.json()["action_id"],
        "status": "applied",
        "approvals": 2,
        "rejections": 0,
        "approvals_needed": 2,
        "version": 2,
    }
    current = (await client.get(f"{GOVERNED}/platform_fees")).json()
    assert (current["version"], current["document"]) == (2, FEES)
    assert (current["hash"], current["previous_hash"]) == (statement.new_hash, statement.previous_hash)
    shown = (await client.get(f"{LIST}/{statement.proposal_id}")).json()
    assert (shown["status"], shown["document"], shown["reason"]) == ("applied", FEES, WHY)
    assert [vote["key_id"] for vote in shown["votes"]] == [KEYS[1].key_id, KEYS[2].key_id]
    assert shown["envelope"] == orjson.loads(sign(KEYS[0], Action.PROPOSAL, statement))
    assert [action[:2] for action in market.proposals.actions] == [
        ("operator_1", "proposal"),
        ("operator_1", "approval"),
        ("operator_1", "approval"),
    ]


async def test_only_operators_write_and_auditors_read(market, client, propose):
    statement, _ = await propose()
    one = f"{LIST}/{statement.proposal_id}"
    reads = (LIST, one, GOVERNED, f"{GOVERNED}/operators", f"{GOVERNED}/operators/history")
    before = market.writes()
    for role in ("buyer", "seller", "fraud", "auditor"):
        wanted = 200 if role == "auditor" else 403
        assert [(await client.as_(role).get(path)).status_code for path in reads] == [wanted] * 5
        for path in (LIST, f"{one}/approvals", f"{one}/rejections", f"{one}/withdrawal"):
            assert (await client.as_(role).post(path, {})).status_code == 403
    assert market.writes() == before


async def test_each_refusal_has_its_own_code(propose, act, market):
    statement, _ = await propose()
    assert outcome(await act(statement, KEYS[0])) == (422, "approval_own_proposal")
    assert outcome(await act(statement, KEYS[7])) == (422, "approval_key_unknown")
    assert outcome(await act(statement, KEYS[1], Action.WITHDRAWAL)) == (422, "withdrawal_not_proposer")
    await act(statement, KEYS[1])
    assert outcome(await act(statement, KEYS[1])) == (409, "approval_duplicate")
    assert outcome(await act(statement, KEYS[1], Action.REJECTION)) == (409, "approval_duplicate")
    _, answer = await propose(identity=statement.proposal_id)
    assert outcome(answer) == (409, "proposal_id_taken")
    for options, code in (
        ({"days": -1}, "proposal_expiry_invalid"),
        ({"days": 31}, "proposal_expiry_invalid"),
        ({"identity": "prp_1"}, "proposal_id_invalid"),
        ({"key": KEYS[7]}, "approval_key_unknown"),
    ):
        _, answer = await propose(**options)
        assert outcome(answer) == (422, code)
    current = orjson.loads(market.proposals.register.current[Kind.PLATFORM_FEES].text)
    _, answer = await propose(current)
    assert outcome(answer) == (422, "proposal_document_unchanged")
    market.clock.now += timedelta(days=7, seconds=1)
    assert outcome(await act(statement, KEYS[2])) == (409, "proposal_expired")


@pytest.mark.parametrize(
    ("action", "keys", "code"),
    [
        (Action.APPROVAL, KEYS[1:3], "proposal_applied"),
        (Action.REJECTION, KEYS[1:3], "proposal_rejected"),
        (Action.WITHDRAWAL, KEYS[:1], "proposal_withdrawn"),
    ],
)
async def test_what_has_ended_stays_so(propose, act, action, keys, code):
    statement, _ = await propose()
    for key in keys:
        assert (await act(statement, key, action)).status_code == 200
    for later in (Action.APPROVAL, Action.REJECTION, Action.WITHDRAWAL):
        assert outcome(await act(statement, KEYS[3], later)) == (409, code)


async def test_the_loser_on_a_base_is_stale(propose, act):
    one, _ = await propose()
    other, _ = await propose({**FEES, "fee_bps": 1})
    for key in KEYS[1:3]:
        await act(one, key)
    assert outcome(await act(other, KEYS[1])) == (409, "proposal_stale")


async def test_a_stale_base_is_refused(market, client, propose, act):
    old = market.proposals.register.current[Kind.PLATFORM_FEES]
    statement, _ = await propose()
    for key in KEYS[1:3]:
        await act(statement, key)
    changed = {**FEES, "fee_bps": 1}
    late = statement_on(old, changed, market.clock())
    answer = await client.post(LIST, body_of(KEYS[0], Action.PROPOSAL, late, document=changed))
    assert outcome(answer) == (409, "proposal_base_stale")


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({**FEES, "fee_bps": 10_001}, "/document/fee_bps"),
        ({**FEES, "fee_fixed_minor": {"usd": 1}}, "/document/fee_fixed_minor/usd"),
        ({**FEES, "a/b": 1}, "/document/a~1b"),
        ({}, "/document/fee_bps"),
    ],
)
async def test_a_document_that_is_not_sound_is_told_where(market, propose, document, pointer):
    _, answer = await propose(document)
    assert outcome(answer) == (422, "proposal_document_invalid")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
    assert market.proposals.register.proposals == {}


async def test_an_operators_key_must_be_a_sound_point(propose):
    weak = base64.b64encode(b"\1" + b"\0" * 31).decode()
    keys = [{"name": f"op{n}", "public_key": base64.b64encode(KEYS[n].public_key).decode()} for n in (0, 1)]
    document = {"operators": [*keys, {"name": "weak", "public_key": weak}], "threshold": 1}
    _, answer = await propose(document, Kind.OPERATORS)
    assert outcome(answer) == (422, "proposal_document_invalid")
    assert answer.json()["errors"][0]["pointer"] == "/document/operators/2/public_key"


async def test_what_is_signed_must_be_what_is_sent(market, client, propose):
    statement, _ = await propose()
    path = f"{LIST}/{statement.proposal_id}/approvals"
    other, _ = await propose({**FEES, "fee_bps": 1})
    envelope = orjson.loads(sign(KEYS[1], Action.APPROVAL, statement))
    forged = orjson.loads(sign(KEYS[2], Action.APPROVAL, statement))
    forged["signatures"][0]["keyid"] = KEYS[1].key_id
    twice = {**envelope, "signatures": envelope["signatures"] * 2}
    nameless = {**envelope, "signatures": [{"sig": envelope["signatures"][0]["sig"]}]}
    for wrong, code in (
        (forged, "approval_signature_invalid"),
        (orjson.loads(sign(KEYS[1], Action.REJECTION, statement)), "proposal_envelope_invalid"),
        (orjson.loads(sign(KEYS[1], Action.PROPOSAL, statement)), "proposal_envelope_invalid"),
        (orjson.loads(sign(KEYS[1], Action.APPROVAL, other)), "proposal_statement_mismatch"),
        (twice, "proposal_envelope_invalid"),
        (nameless, "proposal_envelope_invalid"),
        ({}, "proposal_envelope_invalid"),
        ({**envelope, "payload": envelope["payload"][:-4]}, "proposal_envelope_invalid"),
    ):
        answer = await client.post(path, {"envelope": wrong, "reason": WHY})
        assert outcome(answer) == (422, code)
    new = body_of(KEYS[0], Action.PROPOSAL, statement, document={**FEES, "fee_bps": 7})
    assert outcome(await client.post(LIST, new)) == (422, "proposal_statement_mismatch")
    assert market.proposals.register.proposals[statement.proposal_id].votes == ()


async def test_an_unknown_kind_is_refused(market, client, propose):
    statement, _ = await propose()
    payload = statement.build().replace(b"platform_fees", b"platform_feet")
    envelope = orjson.loads(sign(KEYS[0], Action.PROPOSAL, statement))
    envelope["payload"] = base64.b64encode(payload).decode()
    answer = await client.post(LIST, {"document": FEES, "reason": WHY, "envelope": envelope})
    assert outcome(answer) == (422, "proposal_kind_unknown")
    for path in ("platform_feet", "platform_feet/history"):
        assert outcome(await client.get(f"{GOVERNED}/{path}")) == (404, "governed_kind_not_found")


async def test_without_operators_there_is_no_gate_to_pass(market, client, propose):
    current = market.proposals.register.current
    market.proposals.register = type(market.proposals.register)(
        {kind: one for kind, one in current.items() if kind is not Kind.OPERATORS}, {}
    )
    _, answer = await propose()
    assert outcome(answer) == (409, "operators_missing")
    market.proposals.history.clear()
    answer = await client.get(f"{GOVERNED}/operators")
    assert outcome(answer) == (404, "governed_kind_not_found")


@pytest.mark.parametrize("name", ["prp_1", "prp_" + "0" * 26, "x"])
async def test_an_unknown_proposal_is_not_found(client, market, name):
    statement = statement_on(
        market.proposals.register.current[Kind.PLATFORM_FEES], FEES, market.clock(), identity=name
    )
    assert outcome(await client.get(f"{LIST}/{name}")) == (404, "proposal_not_found")
    for action, path in ((Action.APPROVAL, "approvals"), (Action.WITHDRAWAL, "withdrawal")):
        answer = await client.post(f"{LIST}/{name}/{path}", body_of(KEYS[1], action, statement))
        assert outcome(answer) == (404, "proposal_not_found")


async def test_open_proposals_are_bounded(propose):
    for number in range(20):
        _, answer = await propose({**FEES, "fee_bps": number})
        assert answer.status_code == 201
    _, answer = await propose({**FEES, "fee_bps": 99})
    assert outcome(answer) == (409, "proposals_full")


async def test_a_repeated_approval_is_answered_as_the_first_was(market, propose, act):
    statement, _ = await propose()
    first = await act(statement, KEYS[1], key="k")
    await act(statement, KEYS[2])
    again = await act(statement, KEYS[1], key="k")
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert outcome(await act(statement, KEYS[3], key="k")) == (422, "idempotency_key_reused")
    assert outcome(await act(statement, KEYS[3], key=None)) == (400, "idempotency_key_missing")


async def test_pages_are_newest_first_and_by_state(client, propose, act):
    made = [(await propose({**FEES, "fee_bps": number}))[0].proposal_id for number in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = (await client.get(f"{LIST}?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
        seen += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert seen == sorted(made, reverse=True)
    assert "document" not in page["items"][0]
    listed = (await client.get(f"{LIST}?status=applied")).json()
    assert listed == {"items": [], "next_cursor": None}
    assert outcome(await client.get(f"{LIST}?status=opened")) == (422, "query_invalid")
    assert outcome(await client.get(f"{LIST}?limit=0")) == (422, "query_invalid")


async def test_history_is_paged(client, market, propose, act):
    for number in range(3):
        statement, _ = await propose({**FEES, "fee_bps": number})
        for key in KEYS[1:3]:
            await act(statement, key)
    path, seen, cursor = f"{GOVERNED}/platform_fees/history", [], ""
    while cursor is not None:
        page = (await client.get(f"{path}?limit=2" + (f"&cursor={cursor}" if cursor else ""))).json()
        seen += page["items"]
        cursor = page["next_cursor"]
    assert [one["version"] for one in seen] == [4, 3, 2, 1]
    assert [one["previous_hash"] for one in seen] == [*(one["hash"] for one in seen[1:]), None]
    unknown = base64.urlsafe_b64encode(b"prp_" + b"0" * 26).decode().rstrip("=")
    for wrong in ("!", unknown, base64.urlsafe_b64encode(b"v2").decode()):
        assert outcome(await client.get(f"{path}?cursor={wrong}")) == (400, "cursor_invalid")
    of_another = base64.urlsafe_b64encode(statement.proposal_id.encode()).decode().rstrip("=")
    answer = await client.get(f"{GOVERNED}/payment_flow/history?cursor={of_another}")
    assert outcome(answer) == (400, "cursor_invalid")


@pytest.mark.parametrize(
    "body", [{}, {"envelope": {}}, {"envelope": 1, "reason": WHY}, {"envelope": {}, "reason": "x"}]
)
async def test_a_malformed_body_is_refused(client, propose, body):
    statement, _ = await propose()
    answer = await client.post(f"{LIST}/{statement.proposal_id}/rejections", body)
    assert outcome(answer) == (422, "body_invalid")


async def test_the_description_tells_of_them_and_answers_fit_it(client, propose, act):
    statement, made = await propose(FLOW, Kind.PAYMENT_FLOW)
    real = {
        LIST: await client.get(LIST),
        LIST + "/{proposal_id}": await client.get(f"{LIST}/{statement.proposal_id}"),
        LIST + "/{proposal_id}/rejections": await act(statement, KEYS[1], Action.REJECTION),
        LIST + "/{proposal_id}/approvals": await act(statement, KEYS[2]),
        LIST + "/{proposal_id}/withdrawal": await act(statement, KEYS[0], Action.WITHDRAWAL),
        GOVERNED: await client.get(GOVERNED),
        GOVERNED + "/{kind}": await client.get(f"{GOVERNED}/operators"),
        GOVERNED + "/{kind}/history": await client.get(f"{GOVERNED}/operators/history"),
    }
    description = (await client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(description).validate()

    def validate(value, schema):
        Draft202012Validator({**schema, "components": description["components"]}).validate(value)

    operations = [(path, one) for path in real for one in description["paths"][path].items()]
    assert len(operations) == 9
    for path, (method, operation) in operations:
        status = "201" if (path, method) == (LIST, "post") else "200"
        media = operation["responses"][status]["content"]["application/json"]
        validate(media["example"], media["schema"])
        answer = made if status == "201" else real[path]
        assert answer.status_code == int(status)
        validate(answer.json(), media["schema"])
        if method == "post":
            body = operation["requestBody"]["content"]["application/json"]
            validate(body["example"], body["schema"])
            assert "proposal_envelope_invalid" in operation["responses"]["422"]["description"]
