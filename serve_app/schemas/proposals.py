"""Bodies of proposals, votes and governed documents, and examples of them.

A governed document is told as it is: its own form is checked in ``domain.proposals.documents``, which names
what is wrong by JSON pointer.
"""

from typing import Annotated, Any, Literal

import orjson
from pydantic import Field

from domain.proposals.documents import GENESIS, Kind, canonical, sha256
from domain.proposals.state import Decision, Proposal, Status, Version
from serve_app.schemas.base import Document, Request, rfc3339
from serve_app.schemas.dead_letters import REASON_CHARS_MAX, REASON_CHARS_MIN, REASON_PATTERN

APPROVAL_REASON = "Reviewed and agreed to."
GovernedKind = Literal[
    "price_model", "platform_fees", "royalty_splits", "licence_model", "payment_flow", "operators"
]
ProposalStatus = Literal["open", "applied", "rejected", "withdrawn", "stale", "expired"]
Reason = Annotated[
    str, Field(min_length=REASON_CHARS_MIN, max_length=REASON_CHARS_MAX, pattern=REASON_PATTERN)
]
Envelope = Annotated[
    dict[str, Any], Field(description="DSSE envelope with one signature; see docs/proposals.md")
]


class NewProposal(Request):
    """A new version of a governed document; which one and until when, the signed statement says."""

    document: dict[str, Any]
    reason: Reason
    envelope: Envelope


class NewApproval(Request):
    """An operator's signed yes."""

    envelope: Envelope
    reason: Reason = APPROVAL_REASON


class SignedReason(Request):
    """An operator's signed no, or the proposer's withdrawal, and why."""

    envelope: Envelope
    reason: Reason


class ProposalReceipt(Document):
    """What a signature came to. ``version`` is the applied one, if that was the last approval needed."""

    id: str
    action: Literal["proposal", "approval", "rejection", "withdrawal"]
    action_id: str
    status: ProposalStatus
    approvals: int
    rejections: int
    approvals_needed: int
    version: int | None


class ProposalSummary(Document):
    """A proposal without its document and signatures. Hashes are SHA-256 of canonical JSON."""

    id: str
    kind: GovernedKind
    status: ProposalStatus
    base_version: int
    previous_hash: str
    new_hash: str
    reason: str
    proposer: str
    proposer_key_id: str
    operators_version: int
    approvals: int
    rejections: int
    approvals_needed: int
    created_at: str
    expires_at: str
    closed_at: str | None


class ProposalPage(Document):
    """Proposals, newest first."""

    items: list[ProposalSummary]
    next_cursor: str | None


class ProposalVote(Document):
    """One key's word."""

    decision: Literal["approve", "reject"]
    key_id: str
    operator: str
    reason: str
    at: str
    envelope: dict[str, Any]


class WholeProposal(ProposalSummary):
    """A proposal with its document, and every signature."""

    document: dict[str, Any]
    envelope: dict[str, Any]
    votes: list[ProposalVote]


class GovernedDocument(Document):
    """One version of a governed document; the first has no proposal and no hash before it."""

    kind: GovernedKind
    version: int
    hash: str
    previous_hash: str | None
    proposal_id: str | None
    operators_version: int | None
    applied_at: str
    document: dict[str, Any]


class GovernedDocuments(Document):
    """The current version of each governed document."""

    items: list[GovernedDocument]


class GovernedHistory(Document):
    """Versions, newest first."""

    items: list[GovernedDocument]
    next_cursor: str | None


def version_document(version: Version) -> dict[str, Any]:
    """Write a ``GovernedDocument``."""
    return {
        "kind": version.kind.value,
        "version": version.version,
        "hash": version.sha256,
        "previous_hash": version.previous_sha256,
        "proposal_id": version.proposal_id,
        "operators_version": version.operators_version,
        "applied_at": rfc3339(version.applied_at),
        "document": orjson.loads(version.text),
    }


def summary_document(proposal: Proposal, status: Status) -> dict[str, Any]:
    """Write a ``ProposalSummary``; ``status`` is where it stands now."""
    statement = proposal.statement
    # Every stored vote was by an operator of the set that it counts under, and none is the proposer's.
    decisions = [vote.decision for vote in proposal.votes]
    return {
        "id": statement.proposal_id,
        "kind": statement.kind.value,
        "status": status.value,
        "base_version": statement.base_version,
        "previous_hash": statement.previous_hash,
        "new_hash": statement.new_hash,
        "reason": proposal.reason,
        "proposer": proposal.principal_id,
        "proposer_key_id": proposal.key_id,
        "operators_version": proposal.operators_version,
        "approvals": decisions.count(Decision.APPROVE),
        "rejections": decisions.count(Decision.REJECT),
        "approvals_needed": proposal.approvals_needed,
        "created_at": rfc3339(proposal.created_at),
        "expires_at": rfc3339(statement.expires_at),
        "closed_at": None if proposal.closed_at is None else rfc3339(proposal.closed_at),
    }


def proposal_document(proposal: Proposal, status: Status) -> dict[str, Any]:
    """Write a ``WholeProposal``."""
    return {
        **summary_document(proposal, status),
        "document": orjson.loads(proposal.text),
        "envelope": orjson.loads(proposal.envelope),
        "votes": [
            {
                "decision": vote.decision.value,
                "key_id": vote.key_id,
                "operator": vote.principal_id,
                "reason": vote.reason,
                "at": rfc3339(vote.at),
                "envelope": orjson.loads(vote.envelope),
            }
            for vote in proposal.votes
        ],
    }


# -- examples, shown in /openapi.json; a test holds each against its schema ------------------------------

_ID = "prp_01jz3k5v8m2q9x7c4b6n0t1rwf"
_TIME = "2026-11-24T09:30:00Z"
_ACTION_ID = "act_01jz3k5v8m2q9x7c4b6n0t1rwf"
_KEY_ID = "key_0123456789abcdef"
_OTHER_KEY_ID = "key_fedcba9876543210"
_HASH = sha256(canonical(GENESIS[Kind.PLATFORM_FEES]))
_NEW_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_NEW_DOCUMENT = {**GENESIS[Kind.PLATFORM_FEES].as_json(), "fee_bps": 900}


def _envelope(action: str, key_id: str) -> dict[str, Any]:
    return {
        "payload": "eyJiYXNlX3ZlcnNpb24iOjEs4oCmfQ==",
        "payloadType": f"application/vnd.illuvrse.governance-{action}.v1+json",
        "signatures": [{"keyid": key_id, "sig": "c2lnbmF0dXJl"}],
    }


EXAMPLE_NEW: dict[str, Any] = {
    "document": _NEW_DOCUMENT,
    "reason": "Nine per cent, as decided in October.",
    "envelope": _envelope("proposal", _KEY_ID),
}
EXAMPLE_APPROVAL: dict[str, Any] = {
    "envelope": _envelope("approval", _OTHER_KEY_ID),
    "reason": APPROVAL_REASON,
}
EXAMPLE_REJECTION: dict[str, Any] = {
    "envelope": _envelope("rejection", _OTHER_KEY_ID),
    "reason": "Sellers were promised ten until March.",
}
EXAMPLE_WITHDRAWAL: dict[str, Any] = {
    "envelope": _envelope("withdrawal", _KEY_ID),
    "reason": "A typing error in the minimum.",
}
EXAMPLE_RECEIPT: dict[str, Any] = {
    "id": _ID,
    "action": "approval",
    "action_id": _ACTION_ID,
    "status": "applied",
    "approvals": 2,
    "rejections": 0,
    "approvals_needed": 2,
    "version": 2,
}
EXAMPLE_SUMMARY: dict[str, Any] = {
    "id": _ID,
    "kind": "platform_fees",
    "status": "open",
    "base_version": 1,
    "previous_hash": _HASH,
    "new_hash": _NEW_HASH,
    "reason": EXAMPLE_NEW["reason"],
    "proposer": "operator_1",
    "proposer_key_id": _KEY_ID,
    "operators_version": 1,
    "approvals": 1,
    "rejections": 0,
    "approvals_needed": 2,
    "created_at": _TIME,
    "expires_at": "2026-12-01T09:30:00Z",
    "closed_at": None,
}
EXAMPLE_PROPOSAL: dict[str, Any] = {
    **EXAMPLE_SUMMARY,
    "document": _NEW_DOCUMENT,
    "envelope": EXAMPLE_NEW["envelope"],
    "votes": [
        {
            "decision": "approve",
            "key_id": _OTHER_KEY_ID,
            "operator": "operator_2",
            "reason": APPROVAL_REASON,
            "at": _TIME,
            "envelope": EXAMPLE_APPROVAL["envelope"],
        }
    ],
}
EXAMPLE_GOVERNED: dict[str, Any] = {
    "kind": "platform_fees",
    "version": 1,
    "hash": _HASH,
    "previous_hash": None,
    "proposal_id": None,
    "operators_version": None,
    "applied_at": _TIME,
    "document": GENESIS[Kind.PLATFORM_FEES].as_json(),
}
