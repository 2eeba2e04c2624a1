"""The gate in a real Postgres, as the serving role: decided under one lock, and not to be cheated by SQL."""

import asyncio
import hashlib
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from domain.errors import ConflictError, DependencyError, MarketplaceError
from domain.proposals.documents import GENESIS, Kind, PlatformFees
from domain.proposals.state import Status
from domain.proposals.statements import Action
from storage.market.commands import Write
from storage.market.pool import build_pool
from storage.market.proposals import Governed, Proposals, init_operators
from tests.fakes.proposals import (
    FEES,
    FLOW,
    KEYS,
    operators,
    operators_document,
    proposal_id,
    request,
    statement_on,
)

pytestmark = pytest.mark.integration
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def template(postgres_server):
    """Migrated once; each test has a copy, for what the gate keeps is kept for good."""
    made = postgres_server.create_migrated("market")
    init(made.dsn, 2)
    yield made
    postgres_server.drop_database(made.name)


@pytest.fixture
def gate(postgres_server, template):
    made = postgres_server.create_database(template=template.name)
    yield made
    postgres_server.drop_database(made.name)


@pytest.fixture
def owner(gate):
    with psycopg.connect(gate.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def app(gate):
    with psycopg.connect(gate.dsn_for("market_app"), autocommit=True) as connection:
        yield connection


@pytest.fixture
async def pool(gate):
    made = build_pool(gate.dsn_for("market_app"), name="test", size_max=16)
    await made.open(wait=True)
    yield made
    await made.close()


@pytest.fixture
def store(pool):
    return Proposals(pool)


def init(dsn, threshold, keys=KEYS[:5]):
    return init_operators(
        dsn, operators(keys, threshold), action_id="act_init", principal_id="owner", reason="First keys."
    )


def write(key=None, principal="operator_1"):
    return Write(principal, key or f"k{next(NUMBERS)}", hashlib.sha256(b"request").digest())


async def base(store, kind=Kind.PLATFORM_FEES):
    return next(one for one in await store.current() if one.kind is kind)


async def propose(store, document=FEES, kind=Kind.PLATFORM_FEES, key=KEYS[0], **options):
    statement = statement_on(await base(store, kind), document, datetime.now(UTC), **options)
    receipt = await store.submit(write(), request(key, Action.PROPOSAL, statement, document))
    assert (receipt.body["status"], receipt.replayed) == ("open", False)
    return statement


async def approve(store, statement, key, action=Action.APPROVAL):
    return (await store.submit(write(), request(key, action, statement))).body


async def outcome(store, statement, key, action=Action.APPROVAL):
    """What an approval came to: a status, or the code of its refusal."""
    try:
        return (await approve(store, statement, key, action))["status"]
    except MarketplaceError as refused:
        return refused.code


async def test_k_operators_apply_a_change_and_the_chain_verifies(store, owner):
    statement = await propose(store)
    first = await approve(store, statement, KEYS[1])
    assert (first["status"], first["approvals"], first["approvals_needed"]) == ("open", 1, 2)
    second = await approve(store, statement, KEYS[2])
    assert (second["status"], second["version"]) == ("applied", 2)
    version = await base(store)
    assert (version.version, version.proposal_id) == (2, statement.proposal_id)
    assert version.document() == PlatformFees.from_json(FEES)
    assert (await store.find(statement.proposal_id)).status is Status.APPLIED
    assert [one.version for one in await store.versions(Kind.PLATFORM_FEES, 9, 9)] == [2, 1]
    replay = await store.verify_history()
    assert (replay.findings, replay.versions, replay.signatures) == ([], 7, 3)
    actions = owner.execute(
        "SELECT action, principal_id, reason, detail ->> 'status' FROM market.operator_actions"
        " WHERE subject = %s ORDER BY at",
        [statement.proposal_id],
    ).fetchall()
    assert actions == [
        ("proposal.propose", "operator_1", "Why not.", "open"),
        ("proposal.approve", "operator_1", "Why not.", "open"),
        ("proposal.approve", "operator_1", "Why not.", "applied"),
    ]


async def test_the_first_versions_are_those_of_the_domain(store):
    current = {one.kind: one.document() for one in await store.current()}
    assert {kind: current[kind] for kind in GENESIS} == GENESIS


async def test_sixteen_concurrent_approvals_apply_once(store):
    statement = await propose(store)
    keys = [KEYS[1 + number % 4] for number in range(16)]
    outcomes = await asyncio.gather(*(outcome(store, statement, key) for key in keys))
    assert outcomes.count("applied") == 1
    assert outcomes.count("open") == 1
    assert set(outcomes) <= {"applied", "open", "approval_duplicate", "proposal_applied", "order_contended"}
    assert [one.version for one in await store.versions(Kind.PLATFORM_FEES, 9, 9)] == [2, 1]
    assert (await store.verify_history()).findings == []


async def test_of_two_proposals_on_one_base_exactly_one_is_applied(store):
    one, other = await propose(store), await propose(store, {**FEES, "fee_bps": 1}, key=KEYS[4])
    untouched = await propose(store, FLOW, Kind.PAYMENT_FLOW)
    outcomes = await asyncio.gather(
        *(outcome(store, statement, key) for statement in (one, other) for key in KEYS[1:4])
    )
    assert outcomes.count("applied") == 1
    ends = [(await store.find(statement.proposal_id)).status for statement in (one, other, untouched)]
    assert sorted(ends) == ["applied", "open", "stale"]
    loser = one if ends[0] is Status.STALE else other
    assert await outcome(store, loser, KEYS[3]) == "proposal_stale"
    (old,) = await store.versions(Kind.PLATFORM_FEES, 2, 1)
    changed = {**FEES, "fee_bps": 2}
    late = request(KEYS[0], Action.PROPOSAL, statement_on(old, changed, datetime.now(UTC)), changed)
    with pytest.raises(ConflictError, match="proposal_base_stale"):
        await store.submit(write(), late)


async def test_a_change_of_operators_ends_every_open_proposal(store):
    fees = await propose(store)
    assert await outcome(store, fees, KEYS[1]) == "open"
    keys = await propose(store, operators_document(KEYS[:3], 1), Kind.OPERATORS)
    assert await outcome(store, keys, KEYS[3]) == "open"
    assert await outcome(store, keys, KEYS[4]) == "applied"
    assert await outcome(store, fees, KEYS[2]) == "proposal_stale"
    again = await propose(store)
    assert await outcome(store, again, KEYS[4]) == "approval_key_unknown"
    assert await outcome(store, again, KEYS[1]) == "applied"
    replay = await store.verify_history()
    assert (replay.findings, replay.current[Kind.OPERATORS].version) == ([], 2)


async def test_each_end_refuses_by_its_own_name(store, owner):
    applied, rejected, withdrawn, expired = [
        await propose(store, FLOW | {"refund_window_s": number}, Kind.PAYMENT_FLOW) for number in (1, 2, 3, 4)
    ]
    for key in KEYS[1:3]:
        await approve(store, rejected, key, Action.REJECTION)
    last = await approve(store, rejected, KEYS[3], Action.REJECTION)
    assert (last["status"], last["rejections"]) == ("rejected", 3)
    with pytest.raises(MarketplaceError, match="withdrawal_not_proposer"):
        await approve(store, withdrawn, KEYS[1], Action.WITHDRAWAL)
    assert (await approve(store, withdrawn, KEYS[0], Action.WITHDRAWAL))["status"] == "withdrawn"
    age(owner, expired)
    assert (await store.find(expired.proposal_id)).status is Status.EXPIRED
    assert [one.proposal_id for one in await store.page("~", 9, Status.EXPIRED)] == [expired.proposal_id]
    for key in KEYS[1:3]:
        await approve(store, applied, key)
    for statement in (applied, rejected, withdrawn, expired):
        end = (await store.find(statement.proposal_id)).status
        for action in (Action.APPROVAL, Action.REJECTION, Action.WITHDRAWAL):
            assert await outcome(store, statement, KEYS[4], action) == f"proposal_{end}"


def age(owner, statement):
    """Make a proposal old, as no role but a superuser with its triggers off can."""
    with owner.transaction():
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute(
            "UPDATE market.proposals SET created_at = created_at - interval '8 days',"
            " expires_at = now() - interval '1 second' WHERE proposal_id = %s",
            [statement.proposal_id],
        )


async def test_a_repeated_write_is_answered_as_the_first_was(store):
    statement = await propose(store)
    named = write("k-same")
    asked = request(KEYS[1], Action.APPROVAL, statement)
    first = await store.submit(named, asked)
    await approve(store, statement, KEYS[2])
    again = await store.submit(named, asked)
    assert again.replayed
    assert dict(again.body) == dict(first.body)
    both = await propose(store, FLOW, Kind.PAYMENT_FLOW)
    asked = request(KEYS[1], Action.APPROVAL, both)
    named = write("k-both")
    answers = await asyncio.gather(
        store.submit(named, asked), store.submit(named, asked), return_exceptions=True
    )
    receipts = [one for one in answers if not isinstance(one, MarketplaceError)]
    assert sum(not one.replayed for one in receipts) == 1
    assert len({one.body["action_id"] for one in receipts}) == 1
    assert len((await store.find(both.proposal_id)).votes) == 1


async def test_open_proposals_are_bounded_and_expired_ones_make_room(store, owner):
    made = [
        await propose(store, FLOW | {"refund_window_s": number}, Kind.PAYMENT_FLOW) for number in range(20)
    ]
    with pytest.raises(ConflictError, match="proposals_full"):
        await propose(store)
    age(owner, made[7])
    assert await propose(store)
    assert len(await store.page("~", 100, Status.OPEN)) == 20
    seen, before = [], "~"
    while page := await store.page(before, 6, None):
        seen += [one.proposal_id for one in page]
        before = seen[-1]
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 21


async def test_the_first_operators_are_put_in_once_and_by_the_owner(postgres_server, gate, store):
    with pytest.raises(ConflictError, match="operators_exist"):
        init(gate.dsn, 1)
    bare = postgres_server.create_migrated("market")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            init(bare.dsn_for("market_app"), 1)
        assert len(init(bare.dsn, 1)) == 64
    finally:
        postgres_server.drop_database(bare.name)


VERSION = """INSERT INTO market.governed_versions
    (kind, version, document, document_sha256, previous_sha256, proposal_id, operators_version)
    SELECT kind, base_version + 1, document, document_sha256, previous_sha256, proposal_id, operators_version
    FROM market.proposals"""


@pytest.mark.parametrize(
    "statement",
    [
        VERSION,
        "UPDATE market.governed_versions SET document = '{}'",
        "DELETE FROM market.governed_versions",
        "TRUNCATE market.governed_versions CASCADE",
        "UPDATE market.proposals SET status = 'applied', closed_at = now()",
        "UPDATE market.proposals SET document = '{}'",
        "DELETE FROM market.proposals",
        "INSERT INTO market.proposal_votes VALUES ('prp_1', 'key_1', 'approve', '', '', '', now())",
        "UPDATE market.proposal_votes SET key_id = 'key_1'",
        "DELETE FROM market.proposal_votes",
        "ALTER TABLE market.governed_versions DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "SELECT market.lock_proposals()",
        "SELECT market.record_proposal_action('a', 'b', 'c', 'd', 'e', 'f', 'g', '{}')",
        "CREATE OR REPLACE FUNCTION market.count_votes(text, text) RETURNS int LANGUAGE sql AS 'SELECT 9'",
    ],
)
async def test_the_serving_role_has_no_way_around_the_functions(store, app, statement):
    await propose(store)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(statement)


async def test_what_the_serving_role_may_call_counts_keys_itself(store, app):
    """Application code with a bug, or an intruder with its password, calls with whatever keys it likes."""
    statement = await propose(store)

    def vote(key_id, proposal=statement.proposal_id):
        number = next(NUMBERS)
        return app.execute(
            "SELECT market.vote_on_proposal('x', %s, '\\x00', %s, '{}', %s, 'approve', %s, 'why', '{}')",
            [f"raw{number}", f"act_raw{number}", proposal, key_id],
        ).fetchone()[0]

    def refused(key_id, proposal=statement.proposal_id):
        with pytest.raises(psycopg.DatabaseError) as error:
            vote(key_id, proposal)
        assert error.value.sqlstate == "GV001"
        return error.value.diag.message_primary

    assert refused(KEYS[0].key_id) == "approval_own_proposal"
    assert refused(KEYS[7].key_id) == "approval_key_unknown"
    assert refused("key_0000000000000000") == "approval_key_unknown"
    assert refused(KEYS[1].key_id, proposal_id(datetime.now(UTC))) == "proposal_not_found"
    assert vote(KEYS[1].key_id)["approvals"] == 1
    for _ in range(3):
        assert refused(KEYS[1].key_id) == "approval_duplicate"
    app.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert refused(KEYS[2].key_id) == "governed_isolation"
    app.execute("ROLLBACK")
    assert (await base(store)).version == 1
    # The one thing that the database cannot see is seen by whoever replays: nobody signed that vote.
    (finding,) = (await store.verify_history()).findings
    assert finding.subject == statement.proposal_id
    assert KEYS[1].key_id in finding.detail


@pytest.mark.parametrize("approvals", [0, 1])
async def test_even_the_owner_cannot_insert_a_version_with_too_few_approvals(store, owner, approvals):
    statement = await propose(store)
    for key in KEYS[1 : 1 + approvals]:
        await approve(store, statement, key)
    # Votes that do not count: the proposer's own, and a stranger's.
    for key in (KEYS[0], KEYS[7]):
        owner.execute(
            "INSERT INTO market.proposal_votes VALUES (%s, %s, 'approve', 'x', 'x', 'x', now())",
            [statement.proposal_id, key.key_id],
        )
    assert raised(owner, VERSION) == "proposal_unapproved"
    genesis = (
        "INSERT INTO market.governed_versions (kind, version, document, document_sha256) SELECT kind, {},"
    )
    genesis += " document, document_sha256 FROM market.governed_versions WHERE kind = 'platform_fees'"
    assert raised(owner, genesis.format(1)) == "proposal_unapproved"
    with pytest.raises(psycopg.errors.IntegrityError):
        owner.execute("UPDATE market.governed_versions SET document = document")
    with pytest.raises(psycopg.errors.IntegrityError):
        owner.execute("DELETE FROM market.governed_versions")
    with pytest.raises(psycopg.errors.IntegrityError):
        owner.execute("UPDATE market.proposals SET document = '{}'")


async def test_an_approved_version_that_is_late_or_altered_is_refused_to_the_owner(store, owner):
    statement = await propose(store)
    for key in KEYS[1:3]:
        owner.execute(
            "INSERT INTO market.proposal_votes VALUES (%s, %s, 'approve', 'x', 'x', 'x', now())",
            [statement.proposal_id, key.key_id],
        )
    altered = VERSION.replace("SELECT kind, base_version + 1", "SELECT kind, base_version + 2")
    assert raised(owner, altered) == "proposal_statement_mismatch"
    age(owner, statement)
    assert raised(owner, VERSION) == "proposal_expired"


def raised(owner, statement):
    with pytest.raises(psycopg.DatabaseError) as error:
        owner.execute(statement)
    return error.value.diag.message_primary


async def test_forged_history_is_found(store, owner):
    statement = await propose(store)
    for key in KEYS[1:3]:
        await approve(store, statement, key)
    assert (await store.verify_history()).findings == []
    with owner.transaction():
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute(
            "UPDATE market.proposal_votes SET key_id = %s WHERE key_id = %s",
            [KEYS[3].key_id, KEYS[2].key_id],
        )
    (finding,) = (await store.verify_history()).findings
    assert finding.subject == "platform_fees 2"


async def test_the_rest_reads_what_is_current_and_asks_seldom(store, pool):
    now_s = 0.0
    governed = Governed(pool, lambda: now_s)
    version, document = await governed.current(Kind.PLATFORM_FEES)
    assert (version, document) == (1, GENESIS[Kind.PLATFORM_FEES])
    statement = await propose(store)
    for key in KEYS[1:3]:
        await approve(store, statement, key)
    assert (await governed.current(Kind.PLATFORM_FEES)).version == 1
    now_s = 5.0
    answers = await asyncio.gather(*(governed.current(kind) for kind in Kind))
    assert [one.version for one in answers] == [1, 2, 1, 1, 1, 1]


async def test_a_database_that_is_gone_is_said(gate):
    pool = build_pool(gate.dsn.replace(str(gate.server.port), "1"), name="test", size_max=1)
    await pool.open()
    pool.timeout = 0.2
    try:
        with pytest.raises(DependencyError, match="database_unavailable"):
            await Proposals(pool).current()
        with pytest.raises(DependencyError, match="database_unavailable"):
            await Governed(pool, lambda: 0.0).current(Kind.OPERATORS)
    finally:
        await pool.close()


async def test_a_wrong_signature_never_reaches_the_database(store, owner):
    statement = await propose(store)
    signed = request(KEYS[1], Action.APPROVAL, statement)
    forged = request(KEYS[2], Action.REJECTION, statement)
    for envelope, code in (
        (signed.envelope.replace(KEYS[1].key_id, KEYS[2].key_id), "approval_signature_invalid"),
        (forged.envelope, "proposal_envelope_invalid"),
        (forged.envelope.replace("rejection", "approval"), "approval_signature_invalid"),
        (request(KEYS[7], Action.APPROVAL, statement).envelope, "approval_key_unknown"),
        (
            request(
                KEYS[1],
                Action.APPROVAL,
                statement_on(await base(store), FEES, datetime.now(UTC) + timedelta(1)),
            ).envelope,
            "proposal_statement_mismatch",
        ),
    ):
        with pytest.raises(MarketplaceError, match=code):
            await store.submit(write(), replace(signed, envelope=envelope))
    assert owner.execute("SELECT count(*) FROM market.proposal_votes").fetchone() == (0,)
