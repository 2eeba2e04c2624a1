"""The multi-signature gate in Postgres: proposals, votes, and the versions of the governed documents.

A write reads the register, verifies the envelope and asks the decider (``domain.proposals``), so that a
caller hears exactly what is wrong; then a function of the database decides the same again under its lock, and
only its word counts (migration 0005). Nothing here inserts a version: the serving role cannot.

``Governed`` is what the rest of the marketplace reads. It may be ``FRESH_S`` behind.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from domain.errors import MarketplaceError, RejectedError
from domain.proposals.commands import Act, Approve, Checks, Propose, Withdraw, admit_act, admit_proposal
from domain.proposals.decide import decide
from domain.proposals.documents import Document, Kind, Operators, canonical, require_sound_keys, sha256
from domain.proposals.history import Replay
from domain.proposals.refusals import OPEN_MAX, REFUSALS, refusal
from domain.proposals.state import Decision, Proposal, Register, Status, Version, Vote
from domain.proposals.statements import Action, Statement
from domain.signing import PUBLIC_KEY_BYTES
from storage.market.commands import Commands, Write, parameters
from storage.market.pool import CONNECT_TIMEOUT_S, Pool, fetch
from storage.signing.keys import register as register_key
from storage.signing.keys import verify
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "proposals.sql").items()}

FRESH_S = 5.0  # how long a change may take to be felt; six small rows are read that often per process
CHAIN_PAGE = 100  # versions of at most 64 KB replayed at a time
SQLSTATE_REFUSED = "GV001"
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_AFTER_EVERY_ID = "~"


def is_sound(public_key: bytes) -> bool:
    """Whether a public key is a canonical point of the main subgroup."""
    try:
        register_key(public_key[: PUBLIC_KEY_BYTES + 1], _EPOCH)
    except RejectedError:
        return False
    return True


CHECKS = Checks(verify, is_sound)


@dataclass(frozen=True, slots=True)
class Request:
    """A write as its caller sends it. ``document`` is for proposals, ``proposal_id`` for all else."""

    action: Action
    envelope: str
    reason: str
    action_id: str
    proposal_id: str = ""
    document: Any = None


class Receipt(NamedTuple):
    """The answer to a write, and whether an equal write was answered so before."""

    body: Mapping[str, Any]
    replayed: bool


class Governing(NamedTuple):
    """The current version of a governed document."""

    version: int
    document: Document


class Proposals:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool, checks: Checks = CHECKS) -> None:
        self._pool = pool
        self._checks = checks
        self._commands = Commands(pool)

    async def submit(self, write: Write, request: Request) -> Receipt:
        """Propose, approve, reject or withdraw, once per idempotency key.

        Raises:
            MarketplaceError: a code of ``domain.proposals.refusals``.
            GovernedDocumentError: ``proposal_document_invalid``.
            RejectedError: ``idempotency_key_reused``.
            BusyError: ``order_contended``; others decide for too long.
        """
        # Before anything is judged: a repetition is answered as the first was, whatever has happened since.
        earlier = await self._commands.find(write)
        if earlier is None:
            try:
                answered = await self._write(write, request)
            except MarketplaceError:
                # Of two equal writes at once, the second meets what the first has done.
                earlier = await self._commands.find(write)
                if earlier is None:
                    raise
            else:
                if answered is not None:
                    return Receipt(answered, replayed=False)
                earlier = await self._commands.find(write)
        assert earlier is not None
        assert earlier.body is not None
        return Receipt(earlier.body, replayed=True)

    async def _write(self, write: Write, request: Request) -> Any:
        command = await self._admit(write, request)
        query, values = _call(command)
        subject = command.statement.proposal_id if isinstance(command, Propose) else command.proposal_id
        body = {"id": subject, "action": request.action.value, "action_id": request.action_id}
        return await self._refusing(
            query, values | parameters(write, subject, body) | {"action_id": request.action_id}
        )

    async def page(self, before: str, limit: int, status: Status | None) -> list[Proposal]:
        """List proposals without their documents, newest first, below the id ``before``."""
        return await self._proposals(before=before, limit=limit, status=status, whole=False)

    async def find(self, proposal_id: str) -> Proposal | None:
        """Read one proposal."""
        found = await self._proposals(ids=[proposal_id], limit=1)
        return found[0] if found else None

    async def current(self) -> list[Version]:
        """List the current versions."""
        return [_version(*row) for row in await fetch(self._pool, SQL["current"], {})]

    async def versions(self, kind: Kind, before: int, limit: int) -> list[Version]:
        """List a document's versions, newest first, below the number ``before``."""
        values = {"kind": kind.value, "before": before, "limit": limit}
        return [_version(*row) for row in await fetch(self._pool, SQL["versions"], values)]

    async def verify_history(self) -> Replay:
        """Replay the whole chain from its first versions; see ``domain.proposals.history``."""
        replay = Replay(self._checks)
        after = 0
        while rows := await fetch(self._pool, SQL["chain"], {"after": after, "limit": CHAIN_PAGE}):
            versions = [_version(*row[:-1]) for row in rows]
            ids = [one.proposal_id for one in versions if one.proposal_id is not None]
            found = await self._proposals(ids=ids, limit=len(ids))
            by_id = {proposal.proposal_id: proposal for proposal in found}
            for version in versions:
                replay.version(version, by_id.get(version.proposal_id or ""))
            after = rows[-1][-1]
        replay.open_proposals(await self._proposals(status=Status.OPEN, limit=OPEN_MAX))
        return replay

    async def _admit(self, write: Write, request: Request) -> Propose | Act:
        # In this order: what is read later is at least as new, and its end is then known by its name.
        current = {version.kind: version for version in await self.current()}
        listed = await self._proposals(status=Status.OPEN, limit=OPEN_MAX)
        named = await self._proposals(ids=[request.proposal_id], limit=1)
        ((now,),) = await fetch(self._pool, SQL["database_time"], {})
        register = Register(current, {one.proposal_id: one for one in (*listed, *named)})
        given = {
            "envelope": request.envelope,
            "reason": request.reason,
            "principal_id": write.principal_id,
            "at": now,
        }
        command: Propose | Act
        if request.action is Action.PROPOSAL:
            command = admit_proposal(register, self._checks, document=request.document, **given)
        else:
            command = admit_act(
                register, self._checks, request.action, proposal_id=request.proposal_id, **given
            )
        decide(register, command)
        return command

    async def _refusing(self, query: bytes, values: Mapping[str, Any]) -> Any:
        try:
            ((answered,),) = await fetch(self._pool, query, values)
        except psycopg.DatabaseError as error:
            code = error.diag.message_primary
            if error.sqlstate == SQLSTATE_REFUSED and code in REFUSALS:
                raise refusal(code) from None
            raise
        return answered

    async def _proposals(
        self,
        *,
        limit: int,
        before: str = _AFTER_EVERY_ID,
        ids: Sequence[str] | None = None,
        status: Status | None = None,
        whole: bool = True,
    ) -> list[Proposal]:
        values = {
            "before": before,
            "ids": None if ids is None else list(ids),
            "status": None if status is None else status.value,
            "whole": whole,
            "limit": limit,
        }
        return [_proposal(*row) for row in await fetch(self._pool, SQL["proposals"], values)]


class Governed:
    """The current documents, for the rest of the marketplace; one query for all of them in ``FRESH_S``."""

    def __init__(self, pool: Pool, monotonic: Callable[[], float]) -> None:
        self._pool = pool
        self._monotonic = monotonic
        self._documents: dict[Kind, Governing] = {}
        self._until_s = float("-inf")
        self._reading = asyncio.Lock()

    async def current(self, kind: Kind) -> Governing:
        """Return the current version and its document.

        Raises:
            NotFoundError: ``governed_kind_not_found``; only the operators' may lack.
            DependencyError: ``database_unavailable``.
        """
        if self._monotonic() >= self._until_s:
            async with self._reading:
                if self._monotonic() >= self._until_s:
                    await self._read()
        if kind not in self._documents:
            raise refusal("governed_kind_not_found")
        return self._documents[kind]

    async def _read(self) -> None:
        # From before the query: what it did not see may be this old at the end.
        until_s = self._monotonic() + FRESH_S
        versions = [_version(*row) for row in await fetch(self._pool, SQL["current"], {})]
        self._documents = {one.kind: Governing(one.version, one.document()) for one in versions}
        self._until_s = until_s


def init_operators(
    owner_dsn: str, operators: Operators, *, action_id: str, principal_id: str, reason: str
) -> str:
    """Put the first operators' keys in, as the database's owner; returns the document's SHA-256.

    Raises:
        GovernedDocumentError: ``proposal_document_invalid``; a key is no sound point.
        ConflictError: ``operators_exist``.
        psycopg.Error: when the database is unreachable or the role may not.
    """
    require_sound_keys(operators, is_sound)
    text = canonical(operators)
    values = {
        "document": text.decode(),
        "document_sha256": sha256(text),
        "action_id": action_id,
        "principal_id": principal_id,
        "reason": reason,
    }
    try:
        with psycopg.connect(owner_dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            done = connection.execute(SQL["init_operators"], values).fetchall()
    except psycopg.errors.UniqueViolation:
        done = []
    if not done:
        raise refusal("operators_exist")
    return sha256(text)


def _call(command: Propose | Act) -> tuple[bytes, dict[str, Any]]:
    values: dict[str, Any] = {"key_id": command.key_id, "reason": command.reason}
    if isinstance(command, Withdraw):
        return SQL["withdraw"], values
    values["envelope"] = command.envelope
    if isinstance(command, Propose):
        statement = command.statement
        return SQL["propose"], values | {
            "kind": statement.kind.value,
            "base_version": statement.base_version,
            "previous_sha256": statement.previous_hash,
            "document": command.text,
            "document_sha256": statement.new_hash,
            "expires_at": statement.expires_at,
        }
    decision = Decision.APPROVE if isinstance(command, Approve) else Decision.REJECT
    return SQL["vote"], values | {"decision": decision.value}


def _version(kind: str, *row: Any) -> Version:
    return Version(Kind(kind), *row)


def _proposal(*row: Any) -> Proposal:
    proposal_id, kind, base_version, previous, new, expires_at, text, reason, principal_id = row[:9]
    key_id, envelope, operators_version, approvals_needed, created_at, status, closed_at, votes = row[9:]
    return Proposal(
        Statement(proposal_id, Kind(kind), base_version, previous, new, expires_at),
        text,
        reason,
        principal_id,
        key_id,
        envelope,
        operators_version,
        approvals_needed,
        created_at,
        Status(status),
        closed_at,
        tuple(_vote(*vote) for vote in votes),
    )


def _vote(decision: str, key_id: str, principal_id: str, reason: str, envelope: str, at: str) -> Vote:
    return Vote(Decision(decision), key_id, principal_id, reason, envelope, datetime.fromisoformat(at))
