"""The gate's decider: which events follow from a command.

    Propose  -> proposed
    Approve  -> voted; with the k-th key other than the proposer's: applied, and what it makes stale is closed
    Reject   -> voted; once k approvals cannot be reached any more: closed as rejected
    Withdraw -> closed as withdrawn, for the proposer's key alone

An applied version makes every other open proposal on its document stale; one of the operators makes all of
them stale, because votes count only under the set of operators that they were cast under. Signatures were
verified before (``commands``). The database decides the same again under its lock (migration 0005), and its
word holds.
"""

from datetime import timedelta
from typing import assert_never

from domain.ids import is_id
from domain.proposals import documents
from domain.proposals.commands import Approve, Command, Propose, Reject, Withdraw, require_open
from domain.proposals.documents import Kind, Operators
from domain.proposals.refusals import EXPIRY_DAYS_MAX, OPEN_MAX, refusal
from domain.proposals.state import (
    Applied,
    Closed,
    Decision,
    Event,
    Proposal,
    Proposed,
    Register,
    Status,
    Version,
    Vote,
    Voted,
    evolve,
)


def decide(register: Register, command: Command) -> list[Event]:
    """Return the events that ``command`` causes.

    Raises:
        MarketplaceError: a code of ``REFUSALS``.
    """
    operators = register.operators()
    if operators is None:
        raise refusal("operators_missing")
    match command:
        case Propose():
            return [_propose(register, operators, command)]
        case Approve():
            return _approve(register, operators, command)
        case Reject():
            return _reject(register, operators, command)
        case Withdraw():
            proposal = require_open(register, command.proposal_id, command.at)
            if command.key_id != proposal.key_id:
                raise refusal("withdrawal_not_proposer")
            return [Closed(proposal.proposal_id, Status.WITHDRAWN, command.at)]
        case _ as unreachable:
            assert_never(unreachable)


def is_approved(proposal: Proposal, operators: Operators) -> bool:
    """Whether k distinct keys of current operators, the proposer's left out, have approved."""
    return proposal.count(Decision.APPROVE, operators.keys) >= operators.threshold


def is_hopeless(proposal: Proposal, operators: Operators) -> bool:
    """Whether so many have rejected that k approvals cannot be reached."""
    others = len(operators.keys.keys() - {proposal.key_id})
    return others - proposal.count(Decision.REJECT, operators.keys) < operators.threshold


def _propose(register: Register, operators: Operators, command: Propose) -> Event:
    statement = command.statement
    if command.key_id not in operators.keys:
        raise refusal("approval_key_unknown")
    if not is_id("prp", statement.proposal_id):
        raise refusal("proposal_id_invalid")
    if statement.proposal_id in register.proposals:
        raise refusal("proposal_id_taken")
    if not command.at < statement.expires_at <= command.at + timedelta(days=EXPIRY_DAYS_MAX):
        raise refusal("proposal_expiry_invalid")
    base = register.current.get(statement.kind)
    if base is None:
        raise refusal("governed_kind_not_found")
    if (base.version, base.sha256) != (statement.base_version, statement.previous_hash):
        raise refusal("proposal_base_stale")
    if documents.sha256(command.text.encode()) != statement.new_hash:
        raise refusal("proposal_statement_mismatch")
    if statement.new_hash == statement.previous_hash:
        raise refusal("proposal_document_unchanged")
    if len(register.open_at(command.at)) >= OPEN_MAX:
        raise refusal("proposals_full")
    return Proposed(
        Proposal(
            statement,
            command.text,
            command.reason,
            command.principal_id,
            command.key_id,
            command.envelope,
            register.current[Kind.OPERATORS].version,
            operators.threshold,
            command.at,
        )
    )


def _approve(register: Register, operators: Operators, command: Approve) -> list[Event]:
    proposal, voted = _vote(register, operators, command, Decision.APPROVE)
    after = evolve(register, voted)
    if not is_approved(after.proposals[proposal.proposal_id], operators):
        return [voted]
    statement = proposal.statement
    version = Version(
        statement.kind,
        statement.base_version + 1,
        proposal.text,
        statement.new_hash,
        statement.previous_hash,
        proposal.proposal_id,
        proposal.operators_version,
        command.at,
    )
    stale = [
        Closed(other.proposal_id, Status.STALE, command.at)
        for other in register.open_at(command.at)
        if other.proposal_id != proposal.proposal_id
        and statement.kind in (other.statement.kind, Kind.OPERATORS)
    ]
    return [voted, Applied(version), *stale]


def _reject(register: Register, operators: Operators, command: Reject) -> list[Event]:
    proposal, voted = _vote(register, operators, command, Decision.REJECT)
    after = evolve(register, voted)
    if not is_hopeless(after.proposals[proposal.proposal_id], operators):
        return [voted]
    return [voted, Closed(proposal.proposal_id, Status.REJECTED, command.at)]


def _vote(
    register: Register, operators: Operators, command: Approve | Reject, decision: Decision
) -> tuple[Proposal, Voted]:
    proposal = require_open(register, command.proposal_id, command.at)
    base = register.current[proposal.statement.kind]
    if (
        base.version != proposal.statement.base_version
        or register.current[Kind.OPERATORS].version != proposal.operators_version
    ):
        raise refusal("proposal_stale")
    if command.key_id not in operators.keys:
        raise refusal("approval_key_unknown")
    if command.key_id == proposal.key_id:
        raise refusal("approval_own_proposal")
    if any(vote.key_id == command.key_id for vote in proposal.votes):
        raise refusal("approval_duplicate")
    vote = Vote(decision, command.key_id, command.principal_id, command.reason, command.envelope, command.at)
    return proposal, Voted(proposal.proposal_id, vote)
