"""The gate's decider: no sequence of approvals by fewer than k distinct foreign keys applies anything."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import ConflictError, MarketplaceError
from domain.proposals.commands import Approve, Propose, Reject, Withdraw
from domain.proposals.decide import decide
from domain.proposals.documents import Kind, canonical, parse
from domain.proposals.state import Applied, Closed, Proposed, Register, Status, Voted, evolve
from tests.fakes.proposals import FEES, FLOW, KEYS, operators_document, register, statement_on

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
STRANGER = KEYS[7]


def proposing(state, document=FEES, kind=Kind.PLATFORM_FEES, key=KEYS[0], at=NOW, **options):
    statement = statement_on(state.current[kind], document, at, **options)
    text = canonical(parse(kind, document)).decode()
    return Propose(statement, text, "why", "operator", key.key_id, "{}", at)


def act(command, proposal_id, key, at=NOW):
    return command(proposal_id, "why", "operator", key.key_id, "{}", at)


def run(state, *commands):
    """Apply commands; refused ones change nothing."""
    codes = []
    for command in commands:
        try:
            events = decide(state, command)
        except MarketplaceError as refused:
            codes.append(refused.code)
            continue
        for event in events:
            state = evolve(state, event)
    return state, codes


def opened(threshold=2, count=5):
    state = register(KEYS[:count], threshold, NOW)
    command = proposing(state)
    state, codes = run(state, command)
    assert codes == []
    return state, command.statement.proposal_id


def test_the_kth_foreign_approval_applies():
    state, name = opened()
    (voted,) = decide(state, act(Approve, name, KEYS[1]))
    assert isinstance(voted, Voted)
    state = evolve(state, voted)
    voted, applied = decide(state, act(Approve, name, KEYS[2]))
    assert isinstance(applied, Applied)
    assert (applied.version.version, applied.version.proposal_id) == (2, name)
    assert applied.version.previous_sha256 == state.current[Kind.PLATFORM_FEES].sha256


@pytest.mark.parametrize(
    ("command", "key", "code"),
    [
        (Approve, KEYS[0], "approval_own_proposal"),
        (Reject, KEYS[0], "approval_own_proposal"),
        (Approve, STRANGER, "approval_key_unknown"),
        (Withdraw, KEYS[1], "withdrawal_not_proposer"),
    ],
)
def test_who_may_not(command, key, code):
    state, name = opened()
    assert run(state, act(command, name, key)) == (state, [code])


def test_rejections_end_a_proposal_once_it_is_hopeless():
    state, name = opened(threshold=2, count=5)  # four others: after three rejections two yeses are impossible
    state, codes = run(state, *(act(Reject, name, key) for key in KEYS[1:3]), act(Approve, name, KEYS[3]))
    assert (codes, state.proposals[name].status) == ([], Status.OPEN)
    events = decide(state, act(Reject, name, KEYS[4]))
    assert isinstance(events[1], Closed)
    assert events[1].status is Status.REJECTED


def test_an_expired_proposal_is_refused_to_the_second():
    state, name = opened()
    expires_at = state.proposals[name].statement.expires_at
    before = act(Approve, name, KEYS[1], expires_at - timedelta(microseconds=1))
    assert run(state, before)[1] == []
    assert run(state, act(Approve, name, KEYS[1], expires_at))[1] == ["proposal_expired"]


def test_applying_makes_the_others_on_the_document_stale_and_no_other():
    state, name = opened()
    rival, other = proposing(state, {**FEES, "fee_bps": 1}), proposing(state, FLOW, Kind.PAYMENT_FLOW)
    state, codes = run(state, rival, other, *(act(Approve, name, key) for key in KEYS[1:3]))
    assert codes == []
    ends = [state.proposals[one.statement.proposal_id].status for one in (rival, other)]
    assert ends == [Status.STALE, Status.OPEN]
    assert run(state, act(Approve, rival.statement.proposal_id, KEYS[3]))[1] == ["proposal_stale"]


def test_new_operators_make_every_open_proposal_stale():
    state, name = opened()
    keys = proposing(state, operators_document(KEYS[:3], 1), Kind.OPERATORS)
    state, codes = run(state, keys, *(act(Approve, keys.statement.proposal_id, key) for key in KEYS[3:5]))
    assert codes == []
    assert state.proposals[name].status is Status.STALE
    again = proposing(state)
    state, codes = run(state, again, act(Approve, again.statement.proposal_id, KEYS[4]))
    assert codes == ["approval_key_unknown"]


def test_a_register_that_was_read_between_two_commits_is_refused():
    """A proposal still seen as open, on a version or under operators that are current no more."""
    state, name = opened()
    version = state.current[Kind.PLATFORM_FEES]
    moved = {**state.current, Kind.PLATFORM_FEES: replace(version, version=2)}
    keys = {**state.current, Kind.OPERATORS: replace(state.current[Kind.OPERATORS], version=2)}
    for current in (moved, keys):
        with pytest.raises(ConflictError, match="proposal_stale"):
            decide(Register(current, state.proposals), act(Approve, name, KEYS[1]))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base_version": 2}, "proposal_base_stale"),
        ({"previous_hash": "0" * 64}, "proposal_base_stale"),
        ({"new_hash": "0" * 64}, "proposal_statement_mismatch"),
        ({"proposal_id": "ord_" + "0" * 26}, "proposal_id_invalid"),
        ({"expires_at": NOW}, "proposal_expiry_invalid"),
        ({"expires_at": NOW + timedelta(days=30, seconds=1)}, "proposal_expiry_invalid"),
    ],
)
def test_a_proposal_that_does_not_fit_is_refused(change, code):
    state = register(KEYS[:3], 1, NOW)
    command = proposing(state)
    command = replace(command, statement=replace(command.statement, **change))
    assert run(state, command) == (state, [code])


KEY = st.sampled_from(KEYS)
NUMBER = st.integers(0, 3)
STEP = st.one_of(
    st.tuples(st.sampled_from(["approve", "reject", "withdraw"]), NUMBER, KEY),
    st.tuples(st.just("propose"), st.sampled_from(["fees", "flow", "operators"]), KEY),
    st.tuples(st.just("wait"), st.integers(1, 200), KEY),
)
DOCUMENTS = {
    "fees": (Kind.PLATFORM_FEES, lambda n: {**FEES, "fee_bps": n}),
    "flow": (Kind.PAYMENT_FLOW, lambda n: {**FLOW, "refund_window_s": n}),
    "operators": (Kind.OPERATORS, lambda n: operators_document(KEYS[n % 3 : 5 + n % 3], 1 + n % 4)),
}


@settings(max_examples=150, deadline=None)
@given(threshold=st.integers(1, 4), steps=st.lists(STEP, max_size=40))
def test_nothing_is_applied_without_k_distinct_foreign_keys_of_that_moment(threshold, steps):
    state, now, names = register(KEYS[:5], threshold, NOW), NOW, []
    words: dict[str, dict[str, str]] = {}  # kept beside the code under test: proposal -> key -> word
    for number, (verb, what, key) in enumerate(steps):
        if verb == "wait":
            now += timedelta(hours=what)
            continue
        if verb == "propose":
            kind, document = DOCUMENTS[what]
            command = proposing(state, document(number), kind, key, now)
        elif names:
            target = names[what % len(names)]
            command = act(
                {"approve": Approve, "reject": Reject, "withdraw": Withdraw}[verb], target, key, now
            )
        else:
            continue
        before = state
        try:
            events = decide(state, command)
        except MarketplaceError:
            continue
        for event in events:
            state = evolve(state, event)
            if isinstance(event, Proposed):
                names.append(event.proposal.proposal_id)
                words[names[-1]] = {}
        if isinstance(command, Approve | Reject):
            assert key.key_id not in words[target], "a key decides once"
            words[target][key.key_id] = verb
        for event in events:
            if isinstance(event, Applied):
                operators, proposal = before.operators(), before.proposals[target]
                valid = operators.keys.keys() - {proposal.key_id}
                yes = {one for one, word in words[target].items() if word == "approve"} & valid
                assert len(yes) == operators.threshold
                assert before.current[event.version.kind].version + 1 == event.version.version
                assert before.current[event.version.kind].sha256 == event.version.previous_sha256
                assert proposal.operators_version == before.current[Kind.OPERATORS].version
                assert now < proposal.statement.expires_at
        if state.current != before.current:
            assert any(isinstance(event, Applied) for event in events)
