"""Publications in Postgres: attempts, the commit that makes a release public, and leftovers.

An attempt is on record before its first byte is in object storage, under a key of its own. So a repetition
finds what is sealed already, at most one process encrypts a release at a time, and whatever an attempt left
can be found and deleted. Leases only save work: it is the commit that decides, and it takes one attempt of a
draft. Times are the database's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import TupleRow

from domain.errors import RejectedError
from domain.releases import SPENT_BUNDLE_KEPT_S, require_newer
from domain.semver import parse_version
from storage.market.catalogue import Publication
from storage.market.commands import SQL as COMMANDS
from storage.market.commands import Write, parameters
from storage.market.pool import Pool, borrow, fetch
from storage.market.releases import SQL as RELEASES
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "publications.sql").items()}


@dataclass(frozen=True, slots=True)
class Sealed:
    """A stored payload with the platform's signatures. Sizes in bytes, digests lower-case hexadecimal."""

    payload_version: str
    payload_sha256: str
    payload_bytes: int
    bundle_sha256: str
    bundle_bytes: int
    countersignature: str
    minisig: str
    wrapped_file_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: under which statement, from which version of the upload, and what it has sealed so far."""

    payload_key: str
    statement_sha256: bytes
    upload_version: str
    sealed: Sealed | None = None


class Publications:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, release_id: str, attempt: Attempt, lease_s: float) -> Attempt | None:
        """Begin ``attempt`` and return it, or the one that is current; None when the release is no draft.

        An attempt that died is replaced, except where it has sealed the same statement and upload.
        """
        values = {
            "release_id": release_id,
            "payload_key": attempt.payload_key,
            "statement_sha256": attempt.statement_sha256,
            "upload_version": attempt.upload_version,
            "lease_s": lease_s,
        }
        async with borrow(self._pool) as connection, connection.transaction():
            await connection.execute(SQL["retire_attempt"], values)
            await connection.execute(SQL["begin_attempt"], values)
            row = await (await connection.execute(SQL["current_attempt"], values)).fetchone()
        return None if row is None else _attempt(row)

    async def extend(self, payload_key: str, lease_s: float) -> None:
        """Say that an attempt is alive."""
        await self._run("extend_attempt", {"payload_key": payload_key, "lease_s": lease_s})

    async def finish(self, payload_key: str, sealed: Sealed) -> None:
        """Record what an attempt has sealed; one that was replaced meanwhile stays unfinished."""
        values = {name: getattr(sealed, name) for name in sealed.__slots__}
        await self._run("finish_attempt", {"payload_key": payload_key, **values})

    async def abandon(self, payload_key: str) -> None:
        """Give up an attempt that has sealed nothing, so that the next need not wait for its lease."""
        await self._run("abandon_attempt", {"payload_key": payload_key})

    async def publish(self, write: Write, publication: Publication, key_id: str) -> bool:
        """Publish a draft by its current attempt and record the write, together; False when it is not that.

        ``key_id`` is the seller's key that signed the manifest.

        Raises:
            RejectedError: ``idempotency_key_reused``, ``seller_key_revoked``; nothing was published.
            ConflictError: ``version_not_newer``; nothing was published.
        """
        values = {name: getattr(publication, name) for name in publication.__slots__}
        async with borrow(self._pool) as connection, connection.transaction():
            await connection.execute(SQL["release_order"], values)
            place = await (await connection.execute(SQL["channel_position"], values)).fetchone()
            if place is None:
                return False
            require_newer(parse_version(place[0]), place[2] and parse_version(place[2]), place[1])
            if not await (await connection.execute(SQL["active_key"], {"key_id": key_id})).fetchall():
                raise key_revoked(key_id)
            if not await (await connection.execute(SQL["end_attempt"], values)).fetchall():
                return False
            await connection.execute(SQL["publish_release"], values)
            spent = {"release_id": publication.release_id, "kept_s": SPENT_BUNDLE_KEPT_S}
            await connection.execute(RELEASES["expect_bundle"], spent)
            claim = parameters(write, publication.release_id)
            if not await (await connection.execute(COMMANDS["claim_command"], claim)).fetchall():
                raise RejectedError(
                    "idempotency_key_reused",
                    "This Idempotency-Key was used with another request. Use a new key for a new request.",
                )
        return True

    async def take_strays(self, kept_s: int, limit: int) -> list[str]:
        """List payload keys of attempts that ended ``kept_s`` ago without a release; none of them revives."""
        rows = await fetch(self._pool, SQL["take_strays"], {"kept_s": kept_s, "limit": limit})
        return [str(row[0]) for row in rows]

    async def forget_stray(self, payload_key: str) -> None:
        """Forget an attempt whose objects were deleted."""
        await self._run("forget_stray", {"payload_key": payload_key})

    async def _run(self, name: str, values: Mapping[str, Any]) -> None:
        async with borrow(self._pool) as connection:
            await connection.execute(SQL[name], values)


def key_revoked(key_id: str) -> RejectedError:
    """Say that the key which signed a manifest signs nothing more."""
    return RejectedError(
        "seller_key_revoked", f"{key_id} signed this manifest and is revoked. Sign with another key."
    )


def _attempt(row: TupleRow) -> Attempt:
    sealed = None if row[3] is None else Sealed(*(*row[3:10], bytes(row[10])))
    return Attempt(row[0], bytes(row[1]), row[2], sealed)
