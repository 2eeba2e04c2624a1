"""Changes that are about to be signed: read and hashed here, so that what is shown is what is signed.

The statement names the hashes of the two documents that are shown. A server that shows one document and names
the hash of another is found out before anything is signed.
"""

import difflib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from cluster.client import ClientError, MarketplaceClient
from domain.ids import new_id
from domain.proposals.documents import Document, Kind, canonical, parse, sha256
from domain.proposals.statements import Statement

LIST_PAGES_MAX = 100  # of 100 proposals each
CONTEXT_LINES = 3


class ProposalClient(MarketplaceClient):
    """The API's operations on proposals and governed documents."""

    def governed(self, kind: Kind) -> dict[str, Any]:
        """Return the current version of a document."""
        return self._get(f"/v1/ops/governed/{kind.value}")

    def proposal(self, proposal_id: str) -> dict[str, Any]:
        """Return a whole proposal; raises ApiError ``proposal_not_found``."""
        return self._get(f"/v1/ops/proposals/{quote(proposal_id, safe='')}")

    def proposals(self, status: str | None) -> list[dict[str, Any]]:
        """List proposals, newest first."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        for _ in range(LIST_PAGES_MAX):
            told = {"limit": "100", "status": status, "cursor": cursor}
            page = self._get(
                "/v1/ops/proposals", {name: one for name, one in told.items() if one is not None}
            )
            found += page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                break
        return found

    def submit(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a signed envelope; raises ApiError with the gate's code."""
        return self._write("POST", f"/v1/ops/proposals{path}", body, secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Change:
    """A statement, and both documents that it names by their hashes."""

    statement: Statement
    old: Document
    new: Document

    def text(self) -> str:
        """Describe the change for people: a unified diff under a line that says what it is."""
        statement = self.statement
        lines = difflib.unified_diff(
            pretty(self.old).splitlines(),
            pretty(self.new).splitlines(),
            f"version {statement.base_version}  {statement.previous_hash}",
            f"proposed   {statement.new_hash}",
            n=CONTEXT_LINES,
            lineterm="",
        )
        head = (
            f"{statement.proposal_id}: {statement.kind} version {statement.base_version} -> "
            f"{statement.base_version + 1}, open until {statement.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        )
        return "\n".join((head, *lines))


def new_change(
    client: ProposalClient, kind: Kind, new: Document, now: datetime, open_for: timedelta
) -> Change:
    """State a change of what is current.

    Raises:
        ClientError: ``hash_mismatch``, or the server's refusal.
    """
    current = client.governed(kind)
    old = _as_told(kind, current["document"], current["hash"])
    statement = Statement(
        new_id("prp", int(now.timestamp() * 1000), secrets.token_bytes(10)),
        kind,
        current["version"],
        current["hash"],
        sha256(canonical(new)),
        (now + open_for).replace(microsecond=0),
    )
    return Change(statement, old, new)


def proposed_change(client: ProposalClient, shown: Mapping[str, Any]) -> Change:
    """State what a proposal, as the server shows it, would change.

    Raises:
        ClientError: ``hash_mismatch``, ``proposal_stale`` or whatever end it has had.
    """
    kind = Kind(shown["kind"])
    base = client.governed(kind)
    if base["version"] != shown["base_version"]:
        raise ClientError(
            f"{shown['id']} is {shown['status']}: it changes version {shown['base_version']}, and version "
            f"{base['version']} is current.",
            "proposal_stale" if shown["status"] == "open" else f"proposal_{shown['status']}",
        )
    statement = Statement(
        shown["id"],
        kind,
        base["version"],
        shown["previous_hash"],
        shown["new_hash"],
        datetime.fromisoformat(shown["expires_at"]),
    )
    old = _as_told(kind, base["document"], shown["previous_hash"])
    return Change(statement, old, _as_told(kind, shown["document"], shown["new_hash"]))


def pretty(document: Document) -> str:
    """Write a document for people."""
    return json.dumps(document.as_json(), indent=2, sort_keys=True)


def _as_told(kind: Kind, value: Any, told_hash: str) -> Document:
    document = parse(kind, value)
    if sha256(canonical(document)) != told_hash:
        raise ClientError(
            f"The server shows a {kind} document that has another hash than it says. Sign nothing, and look "
            "at that server.",
            "hash_mismatch",
        )
    return document
