"""Idempotency keys of HTTP writes: what a key was first used for, and what was answered.

The row is written by the statement that does the write, so either both exist or neither. Of two equal
requests at once the second waits on the unique index and then reads the first one's answer. Orders are
answered from their history and keep no response here. Answers that hold a secret are never stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from domain.errors import RejectedError
from storage.market.pool import Pool, fetch
from storage.sql import load_queries

SQL = {name: text.encode() for name, text in load_queries("storage.market", "commands.sql").items()}


@dataclass(frozen=True, slots=True)
class Write:
    """One write as its caller names it: principal, idempotency key, SHA-256 of the request."""

    principal_id: str
    key: str
    request_digest: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """An earlier, equal write: what it made, and the body that was answered (None: rebuild it)."""

    subject: str
    body: Mapping[str, Any] | None


def parameters(write: Write, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the query parameters that every writing statement's ``claimed`` part binds."""
    return {
        "principal_id": write.principal_id,
        "idempotency_key": write.key,
        "request_digest": write.request_digest,
        "subject": subject,
        "response": None if body is None else orjson.dumps(body).decode(),
    }


def require_same(write: Write, request_digest: bytes) -> None:
    """Refuse a key that named another request.

    Raises:
        RejectedError: ``idempotency_key_reused``.
    """
    if request_digest != write.request_digest:
        raise RejectedError(
            "idempotency_key_reused",
            "This Idempotency-Key was used with another request. Use a new key for a new request.",
        )


class Commands:
    """Reads and claims keys; raises ``DependencyError('database_unavailable')`` when down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, write: Write) -> Recorded | None:
        """Return what an equal write did before, or None.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        rows = await fetch(
            self._pool,
            SQL["find_command"],
            {"principal_id": write.principal_id, "idempotency_key": write.key},
        )
        if not rows:
            return None
        request_digest, subject, body = rows[0]
        require_same(write, bytes(request_digest))
        return Recorded(subject, body)

    async def claim(self, write: Write, subject: str) -> Recorded | None:
        """Record a write that is harmless to repeat; None when this is the first time.

        Raises:
            RejectedError: ``idempotency_key_reused``.
        """
        return await self.run_once(SQL["claim_command"], write, subject, None, {})

    async def run_once(
        self,
        statement: bytes,
        write: Write,
        subject: str,
        body: Mapping[str, Any] | None,
        values: Mapping[str, Any],
    ) -> Recorded | None:
        """Run a statement that claims the key and writes; None when it did, else what did before.

        Raises:
            RejectedError: ``idempotency_key_reused``.
            psycopg.errors.UniqueViolation: by the write itself; then the key was not claimed either.
        """
        rows = await fetch(self._pool, statement, parameters(write, subject, body) | dict(values))
        return None if rows else await self.find(write)
