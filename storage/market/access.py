"""Bearer tokens in Postgres, by the SHA-256 of their text: who calls, and as what.

The look-up is by digest, so its time says nothing about a token's characters. A token's text is never
stored; a revoked row stays, so that a token from the settings cannot return after its revocation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from storage.market.commands import Commands, Recorded, Write
from storage.market.pool import CONNECT_TIMEOUT_S, Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "access.sql").items()}
ROLES = ("buyer", "seller", "operator", "fraud", "auditor")


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: one of ``ROLES`` and the id that orders, SKUs and audit events name."""

    role: str
    principal_id: str


class AccessTokens:
    """Raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._commands = Commands(pool)

    async def principal(self, token_sha256: bytes) -> Principal | None:
        """Return the holder of a token, or None for an unknown or revoked one."""
        rows = await fetch(self._pool, SQL["principal"], {"token_sha256": token_sha256})
        return Principal(*rows[0]) if rows else None

    async def issue(
        self, write: Write, token_sha256: bytes, holder: Principal, body: Mapping[str, Any]
    ) -> Recorded | None:
        """Record a new token; ``body`` is the answer to a repetition and holds no token.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        return await self._commands.run_once(
            SQL["issue_token"],
            write,
            holder.principal_id,
            body,
            {"token_sha256": token_sha256, "role": holder.role, "holder_id": holder.principal_id},
        )


def register_access_tokens(dsn: str, tokens: Iterable[tuple[bytes, Principal]]) -> None:
    """Record the settings' tokens (SHA-256 and holder) once; a revoked one stays revoked.

    Raises:
        psycopg.Error: when the database is unreachable.
    """
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        for token_sha256, holder in tokens:
            connection.execute(
                SQL["register_token"],
                {"token_sha256": token_sha256, "role": holder.role, "holder_id": holder.principal_id},
            )
