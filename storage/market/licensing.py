"""What happens to licences after their issue: transfers, renewals, activations, proofs of ownership.

Functions of the database decide under their locks (migration 0014), so the bounds hold whoever calls them and
however many call at once; their refusals arrive here by code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from domain.key_lists import KEYS_MAX
from domain.licence_refusals import SERIAL_MAX, refusal
from domain.ownership import CHALLENGE_LIFE, OPEN_MAX, Challenge, nonce_refused
from storage.market.commands import Commands, Recorded, Write, parameters
from storage.market.licences import LicenceRow
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "licensing.sql").items()}
SQLSTATE_REFUSED = "LC001"
CLEARED_MAX = 100  # old challenges that go with a new one
ACTIVATIONS_MAX = 1_000  # what one licence can have: an order line's largest quantity


@dataclass(frozen=True, slots=True)
class Transfer:
    """One offer of a licence; ``document_id`` is what is handed over, ``successor_id`` what came of it."""

    transfer_id: str
    document_id: str
    from_buyer_id: str
    to_buyer_id: str
    status: str
    successor_id: str | None
    offered_at: datetime
    expires_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Successor:
    """A document that is signed and shall take the place of another one."""

    document_id: str
    key_id: str
    envelope: str = field(repr=False)
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class ActivationRow:
    """A seat in use; ``held_until`` is None for a seat that is held until it is released."""

    activation_id: str
    document_id: str
    fingerprint: str
    name: str
    kind: str
    activated_at: datetime
    heartbeat_at: datetime
    held_until: datetime | None


class Licensing:
    """Raises ``DependencyError('database_unavailable')`` when down.

    Writes raise ``BusyError('order_contended')`` when the licence is held by others for too long, and
    ``RejectedError('idempotency_key_reused')`` where they take a ``Write``.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    # -- transfers and renewals --------------------------------------------------------------------

    async def offer_transfer(
        self, write: Write, transfer_id: str, document_id: str, to_buyer_id: str, life_s: int
    ) -> Recorded | None:
        """Offer the caller's licence to another buyer.

        Raises:
            MarketplaceError: ``licence_not_found``, ``licence_not_active``, ``licence_superseded``,
                ``transfers_forbidden``, ``transfer_to_self``, ``transfer_open``, ``transfers_many``.
        """
        values = {"document_id": document_id, "to_buyer_id": to_buyer_id, "life_s": life_s}
        return await self._once("offer_transfer", write, transfer_id, values)

    async def end_transfer(self, write: Write, transfer_id: str) -> Recorded | None:
        """Take an offer back, or decline it, whichever the caller is.

        Raises:
            MarketplaceError: ``transfer_not_found``, ``transfer_closed``.
        """
        return await self._once("end_transfer", write, transfer_id, {})

    async def accept_transfer(self, write: Write, transfer_id: str, successor: Successor) -> Recorded | None:
        """Put the receiver's document in the place of the owner's.

        Raises:
            MarketplaceError: the codes of ``offer_transfer``, ``transfer_not_found``, ``transfer_closed``,
                ``licence_full``.
        """
        return await self._once("accept_transfer", write, transfer_id, _successor(successor))

    async def renew(
        self, write: Write, document_id: str, renewed_id: str, successor: Successor
    ) -> Recorded | None:
        """Put a document that begins later in the place of the caller's own.

        Raises:
            MarketplaceError: ``licence_not_found``, ``licence_not_active``, ``licence_superseded``,
                ``renewal_done``, ``licence_full``.
        """
        values = _successor(successor) | {"document_id": document_id, "renewed_id": renewed_id}
        return await self._once("renew_licence", write, successor.document_id, values)

    async def reissue(
        self, write: Write, document_id: str, reason: str, successor: Successor
    ) -> Recorded | None:
        """Put a document by another key in the place of one; its owner stays.

        Raises:
            MarketplaceError: ``licence_not_found``, ``licence_not_active``, ``licence_superseded``.
        """
        # A licence that has all its documents has been handed on for good, and is reissued all the same.
        values = _successor(successor) | {"document_id": document_id, "reason": reason}
        values["serial_max"] = SERIAL_MAX + KEYS_MAX
        return await self._once("reissue_licence", write, successor.document_id, values)

    async def transfer(self, transfer_id: str) -> Transfer | None:
        """Read a transfer."""
        rows = await fetch(self._pool, SQL["transfer"], {"transfer_id": transfer_id})
        return Transfer(*rows[0]) if rows else None

    async def licences_of(self, buyer_id: str, before: str, limit: int) -> list[LicenceRow]:
        """List the licences that are a buyer's now, newest id first, below the id ``before``."""
        values = {"buyer_id": buyer_id, "before": before, "limit": limit}
        ids = [row[0] for row in await fetch(self._pool, SQL["documents_of_buyer"], values)]
        rows = await fetch(self._pool, SQL["documents"], {"document_ids": ids}) if ids else []
        return [LicenceRow(*row) for row in rows]

    # -- activations -------------------------------------------------------------------------------

    async def activate(
        self, document_id: str, activation_id: str, fingerprint: str, name: str, kind: str, lease_s: int
    ) -> ActivationRow:
        """Take a seat for a machine, or renew the one that it has.

        Raises:
            MarketplaceError: ``licence_not_found``, ``licence_not_active``, ``licence_superseded``,
                ``activations_full``.
        """
        values = {
            "document_id": document_id,
            "activation_id": activation_id,
            "fingerprint": fingerprint,
            "name": name,
            "kind": kind,
            "lease_s": lease_s,
        }
        return ActivationRow(*(await self._refusing("activate", values))[0])

    async def heartbeat(self, activation_id: str, document_id: str, lease_s: int) -> ActivationRow:
        """Renew a machine's seat.

        Raises:
            MarketplaceError: ``licence_not_found``, ``licence_not_active``, ``licence_superseded``,
                ``activation_ended``.
        """
        values = {"activation_id": activation_id, "document_id": document_id, "lease_s": lease_s}
        return ActivationRow(*(await self._refusing("heartbeat", values))[0])

    async def release(self, activation_id: str, owner: str | None) -> bool:
        """Free a seat, of a licence of ``owner``'s if one is named; whether there was one to free."""
        ((freed,),) = await fetch(
            self._pool, SQL["release"], {"activation_id": activation_id, "owner": owner}
        )
        return bool(freed)

    async def activations(self, licence_id: str) -> list[ActivationRow]:
        """List the seats in use of a licence (by its root id), oldest first."""
        values = {"licence_id": licence_id, "limit": ACTIVATIONS_MAX}
        return [ActivationRow(*row) for row in await fetch(self._pool, SQL["activations"], values)]

    # -- ownership ---------------------------------------------------------------------------------

    async def register_owner_key(self, write: Write, document_id: str, public_key: bytes) -> Recorded | None:
        """Record the key that proves ownership of the caller's licence, instead of any before.

        Raises:
            MarketplaceError: ``licence_not_found``, ``licence_not_active``, ``licence_superseded``.
        """
        return await self._once("register_owner_key", write, document_id, {"public_key": public_key})

    async def owner_key(self, document_id: str) -> bytes | None:
        """Read the key by which a document's owner proves to be that."""
        rows = await fetch(self._pool, SQL["owner_key"], {"document_id": document_id})
        return bytes(rows[0][0]) if rows else None

    async def challenge(self, challenge: Challenge) -> datetime:
        """Record the hash of a challenge's nonce; returns until when it may be answered.

        Where ``OPEN_MAX`` of the licence wait, the oldest can be answered no more.

        Raises:
            ConflictError: ``owner_key_missing``.
        """
        values = {
            **_challenge(challenge),
            "life_s": int(CHALLENGE_LIFE.total_seconds()),
            "open_max": OPEN_MAX,
            "cleared_max": CLEARED_MAX,
        }
        ((expires_at,),) = await self._refusing("challenge", values)
        found: datetime = expires_at
        return found

    async def answer(self, challenge: Challenge) -> None:
        """Use a challenge up, once.

        Raises:
            ConflictError: ``nonce_replayed``, ``nonce_expired``.
            NotFoundError: ``nonce_unknown``.
        """
        values = _challenge(challenge)
        if await fetch(self._pool, SQL["answer_challenge"], values):
            return
        rows = await fetch(self._pool, SQL["challenge_state"], values)
        raise nonce_refused(rows[0][0] if rows else "unknown")

    # -- how -----------------------------------------------------------------------------------------

    async def _once(
        self, name: str, write: Write, subject: str, values: Mapping[str, Any]
    ) -> Recorded | None:
        """Run a function that claims the write's key; None when it did, else what an equal write did."""
        ((done,),) = await self._refusing(name, parameters(write, subject) | dict(values))
        if done:
            return None
        return await self._commands.find(write)

    async def _refusing(self, name: str, values: Mapping[str, Any]) -> list[TupleRow]:
        try:
            return await fetch(self._pool, SQL[name], values)
        except psycopg.Error as error:
            if error.sqlstate != SQLSTATE_REFUSED:
                raise
            raise refusal(error.diag.message_primary or "") from None


def _successor(one: Successor) -> dict[str, Any]:
    return {
        "new_id": one.document_id,
        "key_id": one.key_id,
        "envelope": one.envelope,
        "issued_at": one.issued_at,
        "serial_max": SERIAL_MAX,
    }


def _challenge(challenge: Challenge) -> dict[str, Any]:
    return {
        "nonce_sha256": challenge.nonce_sha256,
        "document_id": challenge.licence_id,
        "purpose": challenge.purpose,
    }
