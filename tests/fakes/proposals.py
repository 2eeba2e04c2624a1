"""Operators with keys, and the gate in memory: the real decider over a register, as the database keeps it."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nacl.signing import SigningKey

from domain.errors import RejectedError
from domain.ids import new_id
from domain.proposals.commands import Propose, admit_act, admit_proposal
from domain.proposals.decide import decide
from domain.proposals.documents import GENESIS, Kind, Operators, canonical, parse, sha256
from domain.proposals.state import Decision, Proposal, Register, Status, Version, evolve
from domain.proposals.statements import Action, Statement, sign
from domain.signing import key_id_of
from storage.market.commands import Write
from storage.market.proposals import CHECKS, Receipt, Request
from tests.fakes.market_stores import FakeCommands
from tests.fakes.orders import FakeClock

FEES = {
    "fee_bps": 900,
    "fee_fixed_minor": {"USD": 30},
    "holdback_bps": 1_000,
    "holdback_days": 30,
    "payout_minimum_minor": {"USD": 5_000},
}
FLOW = {
    "capture": "automatic",
    "authorisation_deadline_s": 86_400,
    "refund_window_s": 0,
    "checkout_allowed": False,
}
_NUMBERS = itertools.count(1)


class OperatorKey:
    """An operator's Ed25519 key: a ``Signer`` of ``domain.signing``."""

    def __init__(self, number: int) -> None:
        self.name = f"operator_{number}"
        self._key = SigningKey(bytes([number]) * 32)
        self.public_key = bytes(self._key.verify_key)
        self.key_id = key_id_of(self.public_key)

    def sign_many(self, messages: Sequence[bytes]) -> list[bytes]:
        return [self._key.sign(message).signature for message in messages]


KEYS = [OperatorKey(number) for number in range(1, 9)]


def operators_document(keys: Sequence[OperatorKey], threshold: int) -> dict[str, Any]:
    return {
        "operators": [
            {"name": key.name, "public_key": base64.b64encode(key.public_key).decode()} for key in keys
        ],
        "threshold": threshold,
    }


def operators(keys: Sequence[OperatorKey], threshold: int) -> Operators:
    document = parse(Kind.OPERATORS, operators_document(keys, threshold))
    assert isinstance(document, Operators)
    return document


def proposal_id(at: datetime) -> str:
    return new_id("prp", int(at.timestamp() * 1000), next(_NUMBERS).to_bytes(10))


def statement_on(
    base: Version, document: Any, at: datetime, *, days: float = 7, identity: str | None = None
) -> Statement:
    """State a change of ``base``; ``document`` need not be sound."""
    try:
        new_hash = sha256(canonical(parse(base.kind, document)))
    except RejectedError:
        new_hash = "0" * 64
    expires_at = (at + timedelta(days=days)).replace(microsecond=0)
    return Statement(identity or proposal_id(at), base.kind, base.version, base.sha256, new_hash, expires_at)


def register(keys: Sequence[OperatorKey], threshold: int, at: datetime) -> Register:
    """The first versions, with these operators."""
    documents = {**GENESIS, Kind.OPERATORS: operators(keys, threshold)}
    return Register(
        {
            kind: Version(kind, 1, canonical(one).decode(), sha256(canonical(one)), None, None, None, at)
            for kind, one in documents.items()
        }
    )


@dataclass
class FakeProposals:
    """``storage.market.proposals.Proposals`` over a register."""

    commands: FakeCommands
    clock: FakeClock
    register: Register
    history: list[Version] = field(default_factory=list)
    actions: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history.extend(self.register.current.values())

    async def submit(self, write: Write, request: Request) -> Receipt:
        earlier = await self.commands.find(write)
        if earlier is not None:
            assert earlier.body is not None
            return Receipt(earlier.body, replayed=True)
        given = {
            "envelope": request.envelope,
            "reason": request.reason,
            "principal_id": write.principal_id,
            "at": self.clock(),
        }
        command: Any
        if request.action is Action.PROPOSAL:
            command = admit_proposal(self.register, CHECKS, document=request.document, **given)
        else:
            command = admit_act(
                self.register, CHECKS, request.action, proposal_id=request.proposal_id, **given
            )
        for event in decide(self.register, command):
            self.register = evolve(self.register, event)
            if hasattr(event, "version"):
                self.history.append(event.version)
        subject = command.statement.proposal_id if isinstance(command, Propose) else command.proposal_id
        self.actions.append((write.principal_id, request.action.value, subject, request.reason))
        body = self._body(subject, request)
        await self.commands.claim(write, subject, body)
        return Receipt(body, replayed=False)

    def _body(self, subject: str, request: Request) -> dict[str, Any]:
        proposal = self.register.proposals[subject]
        document = self.register.operators()
        assert document is not None
        return {
            "id": subject,
            "action": request.action.value,
            "action_id": request.action_id,
            "status": proposal.status.value,
            "approvals": proposal.count(Decision.APPROVE, document.keys),
            "rejections": proposal.count(Decision.REJECT, document.keys),
            "approvals_needed": proposal.approvals_needed,
            "version": proposal.statement.base_version + 1 if proposal.status is Status.APPLIED else None,
        }

    async def page(self, before: str, limit: int, status: Status | None) -> list[Proposal]:
        now = self.clock()
        listed = sorted(self.register.proposals.values(), key=lambda one: one.proposal_id, reverse=True)
        return [one for one in listed if one.proposal_id < before and status in (None, one.status_at(now))][
            :limit
        ]

    async def find(self, identity: str) -> Proposal | None:
        return self.register.proposals.get(identity)

    async def current(self) -> list[Version]:
        return [self.register.current[kind] for kind in sorted(self.register.current)]

    async def versions(self, kind: Kind, before: int, limit: int) -> list[Version]:
        of_kind = [one for one in reversed(self.history) if one.kind is kind and one.version < before]
        return of_kind[:limit]


def request(
    key: OperatorKey, action: Action, statement: Statement, document: Any = None, reason: str = "Why not."
) -> Request:
    """What a signer sends to the store."""
    named = "" if action is Action.PROPOSAL else statement.proposal_id
    return Request(
        action, sign(key, action, statement), reason, f"act_{next(_NUMBERS):026d}", named, document
    )
