"""Governed versions, proposals and votes, and how each event changes them. ``evolve`` never refuses a fact.

A ``Register`` is what a decision may depend on: the current version of each document, the open proposals, and
whichever closed ones the caller has loaded beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from domain.proposals.documents import Document, Kind, Operators, parse_text
from domain.proposals.statements import Statement


class Status(StrEnum):
    """Where a proposal stands; all but ``open`` are final."""

    OPEN = "open"
    APPLIED = "applied"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    EXPIRED = "expired"


class Decision(StrEnum):
    """A vote."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a governed document; ``text`` is its canonical JSON. The first has no proposal."""

    kind: Kind
    version: int
    text: str
    sha256: str
    previous_sha256: str | None
    proposal_id: str | None
    operators_version: int | None
    applied_at: datetime

    def document(self) -> Document:
        """Parse the document."""
        return parse_text(self.kind, self.text)


@dataclass(frozen=True, slots=True)
class Vote:
    """One key's word on a proposal, with its signed envelope. ``principal_id`` handed it in."""

    decision: Decision
    key_id: str
    principal_id: str
    reason: str
    envelope: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed version. ``approvals_needed`` is k of ``operators_version``, whose votes alone count."""

    statement: Statement
    text: str
    reason: str
    principal_id: str
    key_id: str
    envelope: str
    operators_version: int
    approvals_needed: int
    created_at: datetime
    status: Status = Status.OPEN
    closed_at: datetime | None = None
    votes: tuple[Vote, ...] = ()

    @property
    def proposal_id(self) -> str:
        """The proposal's id."""
        return self.statement.proposal_id

    def status_at(self, now: datetime) -> Status:
        """Return where it stands: an open one is expired from ``expires_at`` on."""
        if self.status is Status.OPEN and now >= self.statement.expires_at:
            return Status.EXPIRED
        return self.status

    def count(self, decision: Decision, key_ids: Mapping[str, object]) -> int:
        """Count the distinct keys among ``key_ids``, the proposer's left out, that voted so."""
        voters = {vote.key_id for vote in self.votes if vote.decision is decision}
        return len((voters & key_ids.keys()) - {self.key_id})


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal was made."""

    proposal: Proposal


@dataclass(frozen=True, slots=True)
class Voted:
    """A key has decided."""

    proposal_id: str
    vote: Vote


@dataclass(frozen=True, slots=True)
class Closed:
    """A proposal ended without effect: rejected, withdrawn or stale."""

    proposal_id: str
    status: Status
    at: datetime


@dataclass(frozen=True, slots=True)
class Applied:
    """A proposal became the current version."""

    version: Version


Event = Proposed | Voted | Closed | Applied


@dataclass(frozen=True, slots=True)
class Register:
    """What a decision may depend on."""

    current: Mapping[Kind, Version] = field(default_factory=dict)
    proposals: Mapping[str, Proposal] = field(default_factory=dict)

    def operators(self) -> Operators | None:
        """Return the operators' keys, or None before there are any."""
        version = self.current.get(Kind.OPERATORS)
        document = version.document() if version else None
        assert document is None or isinstance(document, Operators)
        return document

    def open_at(self, now: datetime) -> list[Proposal]:
        """List the open proposals that have not expired."""
        return [one for one in self.proposals.values() if one.status_at(now) is Status.OPEN]


def evolve(register: Register, event: Event) -> Register:
    """Return the register after ``event``."""
    proposals = dict(register.proposals)
    match event:
        case Proposed(proposal):
            proposals[proposal.proposal_id] = proposal
        case Voted(proposal_id, vote):
            before = proposals[proposal_id]
            proposals[proposal_id] = replace(before, votes=(*before.votes, vote))
        case Closed(proposal_id, status, at):
            proposals[proposal_id] = replace(proposals[proposal_id], status=status, closed_at=at)
        case Applied(version):
            assert version.proposal_id is not None
            proposals[version.proposal_id] = replace(
                proposals[version.proposal_id], status=Status.APPLIED, closed_at=version.applied_at
            )
            return Register({**register.current, version.kind: version}, proposals)
        case _ as unreachable:
            assert_never(unreachable)
    return Register(register.current, proposals)
