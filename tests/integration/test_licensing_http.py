"""Licences after their issue, over HTTP on a real Postgres: who may do what, and what is true then."""

import asyncio
import base64
import json
from dataclasses import replace
from datetime import timedelta

import orjson
import psycopg
import pytest

from actors.publisher.sealing import ReleaseSealer
from domain import activations, canonical_json, licences, offline_licences, revocations
from domain.dsse import sign_all
from domain.licence_policies import LicencePolicy
from domain.ownership import PAYLOAD_TYPE as PROOF_TYPE
from domain.signing import KeyState
from domain.strict_json import DocumentError
from serve_app.ports import RateLimit
from serve_app.routes import ownership
from serve_app.routes.licences import KEYS_TTL_S
from storage.market.commands import Commands
from storage.market.licences import LicenceReads
from storage.market.licensing import Licensing
from storage.market.pool import build_pool
from storage.market.signing_keys import KeysOnRecord
from storage.signing.devfile import DevelopmentKeyFile
from storage.signing.keys import register, verify
from tests.fakes.http_client import Client
from tests.fakes.ingress import FakeMarket
from tests.fakes.licensing import ident, record_licence

pytestmark = pytest.mark.integration
NEXT = DevelopmentKeyFile(b"n" * 32, b"w" * 32)
OWNER_KEY = DevelopmentKeyFile(b"o" * 32, b"w" * 32)


@pytest.fixture
def owner(migrated):
    with psycopg.connect(migrated.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def market():
    return FakeMarket()


@pytest.fixture
async def client(market, migrated):
    pool = build_pool(migrated.dsn_for("market_app"), name="test", size_max=8)
    await pool.open(wait=True)
    ports = replace(
        market.ports(),
        licences=LicenceReads(pool),
        licensing=Licensing(pool),
        commands=Commands(pool),
        new_id=ident,  # the database outlives the market, whose own ids begin anew
    )
    yield Client(market.app(ports))
    await pool.close()


@pytest.fixture
def issue(market, owner):
    return lambda *, quantity=1, **more: record_licence(owner, market, quantity=quantity, **more)


def judge(owner, licence_id, status):
    owner.execute("UPDATE market.licences SET status = %s WHERE licence_id = %s", [status, licence_id])


def put(client, path, body):
    headers = client._headers({"content_type": "application/json"})
    return client.http.put(path, content=orjson.dumps(body), headers=headers)


def code(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["code"]


async def armoured(client, licence_id, token="buyer"):
    return (await client.as_(token).get(f"/v1/licences/{licence_id}")).json()["armoured"]


async def findings(client, text, **more):
    answer = await client.as_(None).post("/v1/licences/verify", {"licence": text, **more}, key=None)
    assert answer.status_code == 200, answer.text
    return answer.json()


def prove(challenge, key=OWNER_KEY):
    (envelope,) = sign_all(key, PROOF_TYPE, [challenge["payload"].encode()])
    return json.loads(envelope.dumps())


async def challenge(client, licence_id, purpose="ownership"):
    answer = await client.as_(None).post(
        f"/v1/licences/{licence_id}/ownership-challenges", {"purpose": purpose}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def register_key(client, licence_id, key=OWNER_KEY, token="buyer"):
    body = {"public_key": base64.b64encode(key.public_key).decode()}
    return await client.as_(token).post(f"/v1/licences/{licence_id}/owner-keys", body)


# -- activations ---------------------------------------------------------------------------------------


async def activate(client, licence_id, fingerprint="m1", token="buyer", **body):
    return await client.as_(token).post(
        f"/v1/licences/{licence_id}/activations", {"fingerprint": fingerprint, **body}
    )


def judged(market, issued, licence_id, fingerprint, now=None):
    text = canonical_json.dumps(issued["envelope"]).decode()
    keys = {market.key_record.key_id: market.key_record}
    return activations.check(
        text, keys, verify, licence_id=licence_id, fingerprint=fingerprint, now=now or market.clock()
    )


async def test_a_seat_has_a_document_that_software_checks_by_itself(market, client, issue):
    one = issue(quantity=2)
    answer = await activate(client, one.licence_id, name="build-7")
    assert answer.status_code == 201, answer.text
    issued = answer.json()
    assert (issued["seat"]["kind"], issued["seat"]["name"], issued["seat"]["held_until"]) == (
        "seat",
        "build-7",
        None,
    )
    assert judged(market, issued, one.licence_id, "m1").state == "active"
    assert judged(market, issued, one.licence_id, "m2").state == "other_machine"
    assert judged(market, issued, ident("lic"), "m1").state == "other_licence"
    late = market.clock() + timedelta(hours=24)
    assert judged(market, issued, one.licence_id, "m1", late).state == "expired"
    again = (await activate(client, one.licence_id)).json()
    assert again["seat"]["id"] == issued["seat"]["id"]
    shown = (await client.as_("buyer").get(f"/v1/licences/{one.licence_id}/activations")).json()
    assert (shown["quantity"], [seat["id"] for seat in shown["items"]]) == (2, [issued["seat"]["id"]])
    assert code(await client.as_("buyer2").get(f"/v1/licences/{one.licence_id}/activations"), 404)


async def test_of_a_hundred_requests_at_once_ten_get_a_seat(client, issue):
    one = issue(quantity=10)
    answers = await asyncio.gather(*(activate(client, one.licence_id, f"m{n}") for n in range(100)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 90
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"activations_full"}


async def test_heartbeat_and_release_need_the_seats_own_document(client, issue):
    one, other = issue(), issue()
    issued, foreign = [(await activate(client, each.licence_id)).json() for each in (one, other)]
    seat = issued["seat"]["id"]
    nobody = client.as_(None)
    renewed = await put(nobody, f"/v1/activations/{seat}/heartbeat", {"activation": issued["envelope"]})
    assert renewed.status_code == 200, renewed.text
    forged = issued["envelope"] | {"signatures": foreign["envelope"]["signatures"]}
    for wrong in (foreign["envelope"], forged, "x", {}, {"payload": 1.5}):
        answer = await put(nobody, f"/v1/activations/{seat}/heartbeat", {"activation": wrong})
        assert code(answer, 422) == "activation_invalid"
        answer = await put(nobody, f"/v1/activations/{seat}/release", {"activation": wrong})
        assert code(answer, 422) == "activation_invalid"
    licence = {
        "activation": (await client.as_("buyer").get(f"/v1/licences/{one.licence_id}")).json()["envelope"]
    }
    answer = await put(nobody, f"/v1/activations/{seat}/heartbeat", licence)
    assert code(answer, 422) == "payload_type_wrong"
    assert code(await put(nobody, f"/v1/activations/{seat}/release", {}), 401) == "token_missing"
    stranger = await put(client.as_("buyer2"), f"/v1/activations/{seat}/release", {})
    assert stranger.json() == {"id": seat, "released": False}
    for released in (True, False):
        answer = await put(nobody, f"/v1/activations/{seat}/release", {"activation": issued["envelope"]})
        assert answer.json() == {"id": seat, "released": released}
    ended = await put(nobody, f"/v1/activations/{seat}/heartbeat", {"activation": issued["envelope"]})
    assert code(ended, 409) == "activation_ended"
    mine = await put(client.as_("buyer"), f"/v1/activations/{foreign['seat']['id']}/release", {})
    assert mine.json()["released"] is True


async def test_a_floating_licence_gives_leases(market, client, issue):
    one = issue(policy=LicencePolicy(activation="floating"))
    issued = (await activate(client, one.licence_id)).json()
    assert issued["seat"]["kind"] == "lease"
    assert issued["seat"]["held_until"] is not None
    assert (
        judged(market, issued, one.licence_id, "m1", market.clock() + timedelta(minutes=15)).state
        == "expired"
    )


async def test_a_licence_outside_its_time_activates_nothing_and_in_grace_it_does(
    market, client, issue, owner
):
    now = market.clock().replace(microsecond=0)
    ended = issue(policy=LicencePolicy(now - timedelta(seconds=1)))
    later = issue(policy=LicencePolicy(now + timedelta(days=9), now + timedelta(days=8)))
    ending = issue(policy=LicencePolicy(now + timedelta(hours=1)))
    assert code(await activate(client, ended.licence_id), 409) == "licence_expired"
    assert code(await activate(client, later.licence_id), 409) == "licence_not_begun"
    issued = (await activate(client, ending.licence_id)).json()
    assert issued["expires_at"] == f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"  # not a whole day


async def test_the_licences_text_alone_and_others_tokens_activate_nothing(client, issue):
    one = issue()
    assert code(await activate(client, one.licence_id, token=None), 401) == "token_missing"
    assert code(await activate(client, one.licence_id, token="buyer2"), 404) == "licence_not_found"
    assert code(await activate(client, one.licence_id, token="seller"), 403) == "role_not_allowed"
    answer = await client.as_("buyer").post(
        f"/v1/licences/{one.licence_id}/activations", {"fingerprint": "m1"}, key=None
    )
    assert code(answer, 400) == "idempotency_key_missing"


async def test_one_key_names_one_machine(client, issue):
    one = issue(quantity=5)
    path = f"/v1/licences/{one.licence_id}/activations"
    first = await client.as_("buyer").post(path, {"fingerprint": "m1"}, key="k-1")
    again = await client.as_("buyer").post(path, {"fingerprint": "m1"}, key="k-1")
    assert first.json()["seat"]["id"] == again.json()["seat"]["id"]
    other = await client.as_("buyer").post(path, {"fingerprint": "m2"}, key="k-1")
    assert code(other, 422) == "idempotency_key_reused"


# -- ownership -----------------------------------------------------------------------------------------


async def test_ownership_is_proven_once_per_challenge(client, issue):
    one = issue()
    text = await armoured(client, one.licence_id)
    assert (
        code(await client.as_(None).post(f"/v1/licences/{one.licence_id}/ownership-challenges", {}), 409)
        == "owner_key_missing"
    )
    assert (await register_key(client, one.licence_id)).status_code == 201
    asked = await challenge(client, one.licence_id)
    proof = prove(asked)
    report = await findings(client, text, proof=proof, buyer_id="buyer_ada")
    assert (report["valid"], report["ownership"]["status"]) == (True, "proven")
    answer = await client.as_(None).post("/v1/licences/verify", {"licence": text, "proof": proof}, key=None)
    assert code(answer, 409) == "nonce_replayed"
    # Another buyer's claim is not mended by a proof.
    report = await findings(
        client, text, proof=prove(await challenge(client, one.licence_id)), buyer_id="buyer_bob"
    )
    assert (report["valid"], report["ownership"]["status"]) == (False, "other_buyer")


@pytest.fixture
def few_challenges(monkeypatch):
    monkeypatch.setattr(ownership, "CHALLENGES", RateLimit(1.0, 3))


async def test_asking_is_rated_as_a_whole(few_challenges, client, issue, market):
    """Each ask writes a row, and anybody may ask. ``few_challenges`` comes first."""
    paths = [f"/v1/licences/{issue().licence_id}/ownership-challenges" for _ in range(4)]
    answers = [(await client.as_(None).post(path, {})).json()["code"] for path in paths]
    assert answers == ["owner_key_missing"] * 3 + ["rate_limited"]
    market.monotonic.now_s += 1
    assert code(await client.as_(None).post(paths[3], {}), 409) == "owner_key_missing"


async def test_another_key_proves_nothing_and_burns_no_challenge(client, issue):
    one = issue()
    text = await armoured(client, one.licence_id)
    await register_key(client, one.licence_id)
    asked = await challenge(client, one.licence_id)
    report = await findings(client, text, proof=prove(asked, DevelopmentKeyFile(b"x" * 32, b"w" * 32)))
    assert (report["valid"], report["ownership"]["status"]) == (False, "not_proven")
    assert (await findings(client, text, proof=prove(asked)))["ownership"]["status"] == "proven"


async def test_bad_proofs_have_their_own_codes(client, issue, owner):
    one, other = issue(), issue()
    text = await armoured(client, one.licence_id)
    for each in (one, other):
        await register_key(client, each.licence_id)
    asked = await challenge(client, one.licence_id)
    proof = prove(asked)

    async def verdict(wrong):
        return await client.as_(None).post("/v1/licences/verify", {"licence": text, "proof": wrong}, key=None)

    duplicate = json.dumps(proof).replace('"payload":', '"payload":"eA==","payload":', 1)
    licence = "application/vnd.illuvrse.licence.v1+json"
    assert code(await verdict(duplicate), 400) == "json_duplicate_key"
    assert code(await verdict('{"payload":NaN}'), 400) == "json_number_invalid"
    assert code(await verdict(proof | {"payloadType": licence}), 422) == "payload_type_wrong"
    invalid = {
        "signatures_invalid": proof | {"signatures": proof["signatures"] * 2},
        "field_missing": {},
        "another licence": prove(await challenge(client, other.licence_id)),
        "not for ownership": prove(await challenge(client, one.licence_id, "activation")),
    }
    for told, wrong in invalid.items():
        answer = await verdict(wrong)
        assert code(answer, 422) == "proof_invalid"
        assert told in answer.json()["detail"]
    guessed = {**asked, "payload": asked["payload"].replace(asked["nonce"], "0" * 64)}
    assert code(await verdict(prove(guessed)), 404) == "nonce_unknown"
    owner.execute("UPDATE market.ownership_challenges SET expires_at = now() WHERE used_at IS NULL")
    assert code(await verdict(proof), 409) == "nonce_expired"


async def test_software_activates_by_proof_without_a_token(client, issue):
    one = issue()
    await register_key(client, one.licence_id)
    asked = await challenge(client, one.licence_id, "activation")
    proof = prove(asked)
    stranger = prove(asked, DevelopmentKeyFile(b"x" * 32, b"w" * 32))
    assert code(await activate(client, one.licence_id, token=None, proof=stranger), 403) == "proof_refused"
    assert (await activate(client, one.licence_id, token=None, proof=proof)).status_code == 201
    assert code(await activate(client, one.licence_id, token=None, proof=proof), 409) == "nonce_replayed"


@pytest.mark.parametrize(
    ("public_key", "problem"),
    [
        ("", "public_key_type_wrong"),
        ("eA==", "public_key_type_wrong"),
        ("A" * 43 + "=", "public_key_invalid"),
        ("AQ" + "A" * 41 + "=", "public_key_invalid"),
        ("?" * 44, "public_key_invalid"),
    ],
)
async def test_an_unsound_key_is_refused(client, issue, public_key, problem):
    answer = await client.as_("buyer").post(
        f"/v1/licences/{issue().licence_id}/owner-keys", {"public_key": public_key}
    )
    assert code(answer, 422) == problem


async def test_only_the_owner_registers_a_key(client, issue):
    one = issue()
    assert code(await register_key(client, one.licence_id, token="buyer2"), 404) == "licence_not_found"
    assert code(await register_key(client, one.licence_id, token="operator"), 403) == "role_not_allowed"


# -- transfers and renewals ----------------------------------------------------------------------------


async def offer(client, licence_id, to="buyer_bob", token="buyer"):
    return await client.as_(token).post(f"/v1/licences/{licence_id}/transfers", {"to_buyer_id": to})


async def test_a_transfer_from_offer_to_the_new_owners_document(market, client, issue, owner):
    one = issue(quantity=3)
    text = await armoured(client, one.licence_id)
    await register_key(client, one.licence_id)
    seat = (await activate(client, one.licence_id)).json()
    offered = (await offer(client, one.licence_id)).json()
    assert offered["status"] == "offered"
    path = f"/v1/transfers/{offered['id']}"
    assert code(await client.as_("buyer").post(f"{path}/acceptance", {}), 404) == "transfer_not_found"
    accepted = await client.as_("buyer2").post(f"{path}/acceptance", {}, key="take-1")
    assert accepted.status_code == 200, accepted.text
    new_id = accepted.json()["new_licence_id"]
    again = await client.as_("buyer2").post(f"{path}/acceptance", {}, key="take-1")
    assert again.json() == accepted.json()
    assert again.headers["idempotent-replayed"] == "true"
    new_text = await armoured(client, new_id, "buyer2")
    report = await findings(client, new_text, buyer_id="buyer_bob")
    assert report["valid"], report
    assert report["licence"] == (await findings(client, text))["licence"] | {
        "id": new_id, "buyer_id": "buyer_bob", "issued_at": report["licence"]["issued_at"],
    }  # fmt: skip
    old = await findings(client, text)
    assert (old["valid"], old["revocation"]["status"]) == (False, "superseded")
    listed = (await client.as_(None).get("/v1/licences/revocations")).json()
    assert one.licence_id in listed["revoked"]
    assert new_id not in listed["revoked"]
    # The old owner keeps nothing: no seat, no key, no licence in the list.
    beat = await put(
        client.as_(None), f"/v1/activations/{seat['seat']['id']}/heartbeat", {"activation": seat["envelope"]}
    )
    assert code(beat, 409) == "licence_superseded"
    assert code(await client.as_("buyer").get(f"/v1/licences/{new_id}"), 404)
    mine = [row["id"] for row in (await client.as_("buyer2").get("/v1/licences?limit=100")).json()["items"]]
    assert new_id in mine
    assert one.licence_id not in [
        row["id"] for row in (await client.as_("buyer").get("/v1/licences?limit=100")).json()["items"]
    ]
    # The line is refunded: what the new owner holds is revoked with it.
    judge(owner, one.licence_id, "revoked")
    assert (await findings(client, new_text))["revocation"]["status"] == "revoked"


async def test_transfers_that_are_not_to_be(client, issue, owner):
    one = issue()
    assert code(await offer(client, one.licence_id, "buyer_ada"), 422) == "transfer_to_self"
    assert code(await offer(client, one.licence_id, token="buyer2"), 404) == "licence_not_found"
    first = (await offer(client, one.licence_id)).json()
    assert code(await offer(client, one.licence_id, "buyer_cyd"), 409) == "transfer_open"
    declined = await client.as_("buyer2").post(f"/v1/transfers/{first['id']}/end", {})
    assert declined.json()["status"] == "declined"
    gone = await client.as_("buyer2").post(f"/v1/transfers/{first['id']}/acceptance", {})
    assert code(gone, 409) == "transfer_closed"
    judge(owner, one.licence_id, "suspended")
    assert code(await offer(client, one.licence_id), 409) == "licence_not_active"
    assert code(await client.as_("seller").get(f"/v1/transfers/{first['id']}"), 403)


async def test_a_renewal_begins_where_the_old_licence_ends(market, client, issue):
    now = market.clock().replace(microsecond=0)
    old = issue(policy=LicencePolicy(now + timedelta(days=10)))
    bought = issue(policy=LicencePolicy(now + timedelta(days=365)))
    path = f"/v1/licences/{bought.licence_id}/renewals"
    answer = await client.as_("buyer").post(path, {"renews": old.licence_id}, key="renew-1")
    assert answer.status_code == 201, answer.text
    renewed = answer.json()
    again = await client.as_("buyer").post(path, {"renews": old.licence_id}, key="renew-1")
    assert again.json() == renewed
    report = await findings(client, renewed["armoured"])
    assert (report["valid"], report["expiry"]["status"]) == (False, "not_begun")
    assert report["licence"]["policy"] == {
        "kind": "timed",
        "starts_at": f"{now + timedelta(days=10):%Y-%m-%dT%H:%M:%SZ}",
        "expires_at": f"{now + timedelta(days=375):%Y-%m-%dT%H:%M:%SZ}",
    }
    assert (await findings(client, await armoured(client, old.licence_id)))["valid"]
    more = await client.as_("buyer").post(
        f"/v1/licences/{renewed['id']}/renewals", {"renews": old.licence_id}
    )
    assert code(more, 409) == "renewal_done"


async def test_renewals_that_are_not_to_be(market, client, issue):
    now = market.clock().replace(microsecond=0)
    bought = issue(policy=LicencePolicy(now + timedelta(days=365)))
    cases = {
        "renewal_not_timed": issue(),
        "renewal_mismatch": issue(policy=LicencePolicy(now + timedelta(days=1)), sku_id=ident("sku")),
        "renewal_too_late": issue(policy=LicencePolicy(now - timedelta(days=1))),
        "renewal_too_far": issue(policy=LicencePolicy(now + timedelta(days=3_661))),
        "licence_not_found": issue(buyer="buyer_bob", policy=LicencePolicy(now + timedelta(days=1))),
    }
    for expected, old in cases.items():
        answer = await client.as_("buyer").post(
            f"/v1/licences/{bought.licence_id}/renewals", {"renews": old.licence_id}
        )
        assert answer.json()["code"] == expected


async def test_a_licence_of_a_stolen_key_is_reissued_by_the_next_one(market, client, issue, owner):
    one = issue(quantity=3)
    await register_key(client, one.licence_id)
    text = await armoured(client, one.licence_id)
    seat = (await activate(client, one.licence_id)).json()
    offered = (await offer(client, one.licence_id)).json()
    path, body = f"/v1/ops/licences/{one.licence_id}/reissue", {"reason": "Signed after the theft."}
    answer = await client.as_("operator").post(path, body)
    assert code(answer, 409) == "reissue_not_needed"
    market.signing_keys.published = KeysOnRecord(
        (
            replace(market.key_record, state=KeyState.COMPROMISED, compromised_at=market.clock()),
            register(NEXT.public_key, market.clock() - timedelta(days=1)),
        )
    )
    market.signer._sealer = ReleaseSealer(NEXT, NEXT)
    market.monotonic.now_s += KEYS_TTL_S
    assert (await findings(client, text))["key"]["state"] == "compromised"
    for token in ("buyer", "seller", "auditor", "fraud"):
        assert code(await client.as_(token).post(path, body), 403) == "role_not_allowed"
    assert code(await client.as_("operator").post(path, {"reason": ""}), 422) == "body_invalid"
    made = await client.as_("operator").post(path, body, key="reissue-1")
    assert made.status_code == 201, made.text
    again = await client.as_("operator").post(path, body, key="reissue-1")
    assert (again.json(), again.headers["idempotent-replayed"]) == (made.json(), "true")
    report = await findings(client, made.json()["armoured"], buyer_id="buyer_ada")
    assert (report["valid"], report["key"]["key_id"]) == (True, NEXT.key_id)
    old = await findings(client, text)
    assert (old["revocation"]["status"], old["key"]["state"]) == ("superseded", "compromised")
    assert report["licence"] == old["licence"] | {
        "id": made.json()["id"], "issued_at": report["licence"]["issued_at"],
    }  # fmt: skip
    assert code(await client.as_("operator").post(path, body), 409) == "licence_superseded"
    # What its owner had stays, but for the seats: their documents were the stolen key's.
    asked = await challenge(client, made.json()["id"])
    proven = await findings(client, made.json()["armoured"], proof=prove(asked))
    assert proven["ownership"]["status"] == "proven"
    assert (await client.as_("buyer").get(f"/v1/transfers/{offered['id']}")).json()["status"] == "withdrawn"
    beat = {"activation": seat["envelope"]}
    answer = await put(client.as_(None), f"/v1/activations/{seat['seat']['id']}/heartbeat", beat)
    assert code(answer, 422) == "activation_invalid"
    assert (await activate(client, made.json()["id"])).status_code == 201
    events = owner.execute(
        "SELECT kind, principal_id, data ->> 'reason' FROM market.licence_events WHERE licence_id = %s"
        " ORDER BY seq DESC LIMIT 1",
        [one.licence_id],
    ).fetchone()
    assert events == ("licence.reissued", "operator_1", "Signed after the theft.")


# -- the offline file ----------------------------------------------------------------------------------


async def test_an_offline_file_holds_what_a_verifier_needs(market, client, issue, owner):
    one = issue()
    answer = await client.as_("buyer").get(f"/v1/licences/{one.licence_id}/offline")
    assert answer.status_code == 200, answer.text
    trusted = {market.key_record.key_id: market.key_record}
    opened = offline_licences.open_file(answer.text, trusted, verify)
    assert licences.open_envelope(opened.licence)[1] == one
    assert opened.expires_at == opened.listed.expires_at
    assert one.licence_id not in opened.listed.revoked
    for token in (None, "buyer2"):
        assert (await client.as_(token).get(f"/v1/licences/{one.licence_id}/offline")).status_code in (
            401,
            404,
        )
    judge(owner, one.licence_id, "suspended")
    refused = await client.as_("buyer").get(f"/v1/licences/{one.licence_id}/offline")
    assert code(refused, 409) == "licence_not_active"


async def test_a_suspended_licence_is_listed_and_restored_by_a_later_version(client, issue, owner, market):
    one = issue()
    judge(owner, one.licence_id, "suspended")
    first = (await client.get("/v1/licences/revocations")).content
    judge(owner, one.licence_id, "active")
    second = (await client.get("/v1/licences/revocations")).content
    trusted = {market.keys.key_id: market.keys.public_key}
    one_list, two_list = [revocations.open_document(raw, trusted, verify) for raw in (first, second)]
    assert one.licence_id in one_list.suspended
    assert one.licence_id not in two_list.suspended
    seen = revocations.admit(two_list, revocations.admit(one_list, None))
    with pytest.raises(Exception, match="revocations_rolled_back"):
        revocations.admit(one_list, seen)
    with pytest.raises(DocumentError):
        revocations.open_document(first[:-1], trusted, verify)
