"""What can be asked of proposals, and how a stranger's envelope becomes a command.

An envelope is believed only after this module: its payload is the proposal's own statement, and its signature
that of an operator's key that is current now. Each command carries its own time, fixed by the caller's clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.errors import MarketplaceError
from domain.proposals import documents
from domain.proposals.refusals import refusal
from domain.proposals.state import Proposal, Register, Status
from domain.proposals.statements import Action, Statement, open_envelope, signed_by
from domain.signing import Verifier


@dataclass(frozen=True, slots=True)
class Checks:
    """The cryptography: a signature's validity, and whether a public key is a sound point."""

    verify: Verifier
    is_sound: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Propose:
    """Make ``text`` the next version, as ``statement`` says."""

    statement: Statement
    text: str
    reason: str
    principal_id: str
    key_id: str
    envelope: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Approve:
    """Say yes."""

    proposal_id: str
    reason: str
    principal_id: str
    key_id: str
    envelope: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Reject:
    """Say no."""

    proposal_id: str
    reason: str
    principal_id: str
    key_id: str
    envelope: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take a proposal back."""

    proposal_id: str
    reason: str
    principal_id: str
    key_id: str
    envelope: str
    at: datetime


Act = Approve | Reject | Withdraw
Command = Propose | Act
_ACTS: dict[Action, type[Approve | Reject | Withdraw]] = {
    Action.APPROVAL: Approve,
    Action.REJECTION: Reject,
    Action.WITHDRAWAL: Withdraw,
}
_CLOSED = {
    Status.APPLIED: "proposal_applied",
    Status.REJECTED: "proposal_rejected",
    Status.WITHDRAWN: "proposal_withdrawn",
    Status.STALE: "proposal_stale",
    Status.EXPIRED: "proposal_expired",
}


def admit_proposal(
    register: Register,
    checks: Checks,
    *,
    document: Any,
    envelope: str,
    reason: str,
    principal_id: str,
    at: datetime,
) -> Propose:
    """Read a proposal: its document, and the proposer's signature on its statement.

    Raises:
        MarketplaceError: a code of ``REFUSALS`` or ``proposal_document_invalid``.
    """
    operators = register.operators()
    if operators is None:
        raise refusal("operators_missing")
    opened, statement = open_envelope(envelope, Action.PROPOSAL)
    key_id = signed_by(opened, operators.keys, checks.verify)
    parsed = documents.parse(statement.kind, document)
    documents.require_sound_keys(parsed, checks.is_sound)
    text = documents.canonical(parsed)
    if documents.sha256(text) != statement.new_hash:
        raise refusal("proposal_statement_mismatch")
    return Propose(statement, text.decode(), reason, principal_id, key_id, opened.dumps(), at)


def admit_act(
    register: Register,
    checks: Checks,
    action: Action,
    *,
    proposal_id: str,
    envelope: str,
    reason: str,
    principal_id: str,
    at: datetime,
) -> Act:
    """Read an approval, a rejection or a withdrawal.

    Raises:
        MarketplaceError: a code of ``REFUSALS``.
    """
    # First where it stands: after a change of operators the key may be gone, and that is not the news.
    proposal = require_open(register, proposal_id, at)
    operators = register.operators()
    if operators is None:
        raise refusal("operators_missing")
    opened, statement = open_envelope(envelope, action)
    if statement != proposal.statement:
        raise refusal("proposal_statement_mismatch")
    key_id = signed_by(opened, operators.keys, checks.verify)
    return _ACTS[action](proposal_id, reason, principal_id, key_id, opened.dumps(), at)


def require_open(register: Register, proposal_id: str, at: datetime) -> Proposal:
    """Return a proposal that can still be decided about.

    Raises:
        NotFoundError: ``proposal_not_found``.
        ConflictError: the code of its end.
    """
    proposal = register.proposals.get(proposal_id)
    if proposal is None:
        raise refusal("proposal_not_found")
    closed = closed_refusal(proposal.status_at(at))
    if closed is not None:
        raise closed
    return proposal


def closed_refusal(status: Status) -> MarketplaceError | None:
    """Return the refusal that a closed proposal answers everything with."""
    return None if status is Status.OPEN else refusal(_CLOSED[status])
