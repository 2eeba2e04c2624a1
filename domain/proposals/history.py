"""Replays the governed documents from their first versions, and believes nothing that the database says.

Every version after the first must follow from a proposal whose statement names the version and the hash
before it, and k distinct operators' keys other than the proposer's must have signed exactly that statement;
the keys and k are those of the operators' document that was current then, which was itself replayed. Open
proposals' signatures are verified too: a forged approval is found before it counts.

What no replay can know: whether the first operators are the right ones. Compare ``genesis`` with what was
printed when they were put in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from domain.errors import MarketplaceError
from domain.proposals.commands import Checks
from domain.proposals.documents import Kind, Operators, parse_text, require_sound_keys, sha256
from domain.proposals.state import Decision, Proposal, Status, Version
from domain.proposals.statements import Action, open_envelope, signed_by

FINDINGS_MAX = 1_000  # kept; a chain that is wrong in more places is wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and with what: ``platform_fees 3`` or a proposal's id."""

    subject: str
    detail: str


@dataclass(slots=True)
class Replay:
    """The chain so far. Feed ``version`` in the order of application, then ``open_proposals``."""

    checks: Checks
    current: dict[Kind, Version] = field(default_factory=dict)
    genesis: dict[Kind, str] = field(default_factory=dict)  # hashes of the first versions
    findings: list[Finding] = field(default_factory=list)
    versions: int = 0
    signatures: int = 0

    def version(self, version: Version, proposal: Proposal | None) -> None:
        """Check the next version, and the proposal that it came from."""
        self.versions += 1
        subject = f"{version.kind} {version.version}"
        for detail in self._faults(version, proposal):
            self._find(subject, detail)
        # Whatever is wrong with it, what follows is judged against what is stored.
        self.current[version.kind] = version
        self.genesis.setdefault(version.kind, version.sha256)

    def open_proposals(self, proposals: Iterable[Proposal]) -> None:
        """Check the signatures of proposals that are not applied yet, under the operators of now."""
        operators = self._operators()
        for proposal in proposals:
            if operators is None:
                self._find(proposal.proposal_id, "There is a proposal, and no operator.")
                continue
            for detail in self._unsigned(proposal, operators):
                self._find(proposal.proposal_id, detail)

    def _find(self, subject: str, detail: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(subject, detail))

    def _operators(self) -> Operators | None:
        version = self.current.get(Kind.OPERATORS)
        if version is None:
            return None
        try:
            document = version.document()
        except MarketplaceError:
            return None  # found when the version was replayed
        return document if isinstance(document, Operators) else None

    def _faults(self, version: Version, proposal: Proposal | None) -> list[str]:
        faults: list[str] = []
        if sha256(version.text.encode()) != version.sha256:
            faults.append("Its hash is not that of its document.")
        try:
            require_sound_keys(parse_text(version.kind, version.text), self.checks.is_sound)
        except MarketplaceError as error:
            faults.append(f"Its document is not sound: {error.detail}")
        before = self.current.get(version.kind)
        if version.proposal_id is None:
            if before is not None or version.version != 1:
                faults.append("It has no proposal and is not the first.")
            return faults
        if before is None:
            return [*faults, "There is no version before it."]
        if version.version != before.version + 1 or version.previous_sha256 != before.sha256:
            faults.append("It does not follow the version before it.")
        if proposal is None:
            return [*faults, f"Its proposal {version.proposal_id} is missing."]
        return [*faults, *self._unapproved(version, before, proposal)]

    def _unapproved(self, version: Version, before: Version, proposal: Proposal) -> list[str]:
        statement = proposal.statement
        faults = []
        if proposal.proposal_id != version.proposal_id or proposal.status is not Status.APPLIED:
            faults.append("Its proposal is another, or is not applied.")
        if (statement.kind, statement.base_version, statement.previous_hash, statement.new_hash) != (
            version.kind,
            before.version,
            before.sha256,
            version.sha256,
        ):
            faults.append("Its proposal was about another version or document.")
        if not proposal.created_at <= version.applied_at < statement.expires_at:
            faults.append("It was applied after its proposal expired, or before it was made.")
        operators = self._operators()
        if operators is None:
            return [*faults, "There was no operator."]
        operators_version = self.current[Kind.OPERATORS].version
        if {version.operators_version, proposal.operators_version} != {operators_version}:
            faults.append("It was approved under other operators than those of then.")
        faults += self._unsigned(proposal, operators)
        if (approvals := proposal.count(Decision.APPROVE, operators.keys)) < operators.threshold:
            faults.append(f"It has {approvals} approvals of {operators.threshold}.")
        return faults

    def _unsigned(self, proposal: Proposal, operators: Operators) -> list[str]:
        claimed: Sequence[tuple[Action, str, str]] = [
            (Action.PROPOSAL, proposal.key_id, proposal.envelope),
            *(
                (
                    Action.APPROVAL if vote.decision is Decision.APPROVE else Action.REJECTION,
                    vote.key_id,
                    vote.envelope,
                )
                for vote in proposal.votes
            ),
        ]
        faults = []
        for action, key_id, text in claimed:
            self.signatures += 1
            try:
                envelope, statement = open_envelope(text, action)
                signed = signed_by(envelope, operators.keys, self.checks.verify)
            except MarketplaceError as error:
                faults.append(f"The {action} by {key_id} is not signed: {error.detail}")
                continue
            if signed != key_id or statement != proposal.statement:
                faults.append(f"The {action} by {key_id} is by another key, or about something else.")
        return faults
