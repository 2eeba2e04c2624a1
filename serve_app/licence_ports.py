"""What HTTP needs of licences, keys and the audit log: those ports of ``serve_app.ports``."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from actors.publisher.sealing import LicensingDocument
from domain.audit.entries import Entry
from domain.audit.proofs import LogProof
from domain.merkle.tiles import Tile
from domain.merkle.tree import Head
from domain.ownership import Challenge
from domain.revocations import RevocationList
from storage.market.audit_log import KeptCheckpoint
from storage.market.commands import Recorded, Write
from storage.market.licences import DeliveryOwner, DeliveryRow, LicenceRow, RevocationSnapshot, Standing
from storage.market.licensing import ActivationRow, Successor, Transfer
from storage.market.signing_keys import KeysOnRecord


class LicenceStore(Protocol):
    """``storage.market.licences``."""

    async def licence(self, licence_id: str) -> LicenceRow | None:
        """Read a licence."""

    async def standing(self, licence_id: str) -> Standing:
        """Read how a licence stands."""

    async def list_version(self) -> int:
        """Read the revocation list's version."""

    async def revocations(self) -> RevocationSnapshot:
        """Read the revocation list."""

    async def recorded_at(self, licence_id: str, envelope: str) -> datetime | None:
        """Return when exactly this licence entered the record; the audit log's inclusion proof in the end."""

    async def deliveries(self, order_id: str) -> list[DeliveryRow]:
        """List an order's deliveries."""

    async def delivery_owner(self, delivery_id: str) -> DeliveryOwner | None:
        """Find a delivery's order and buyer."""


class SigningKeyStore(Protocol):
    """``storage.market.signing_keys``; see there for errors."""

    async def on_record(self) -> KeysOnRecord:
        """Read the platform's keys, and the signed list that says so."""

    async def publish(
        self, write: Write, envelope: str, body: Mapping[str, Any], now: datetime
    ) -> Recorded | None:
        """Make a signed list the current one, once per idempotency key."""


class AuditReads(Protocol):
    """``storage.market.audit_log``; see there for errors."""

    async def newest_checkpoint(self) -> KeptCheckpoint | None:
        """Read the last checkpoint."""

    async def checkpoint_before(self, before: datetime) -> KeptCheckpoint | None:
        """Read the last checkpoint that was kept before a time."""

    async def checkpoint_of_size(self, size: int) -> KeptCheckpoint | None:
        """Read the first checkpoint of a size."""

    async def entry(self, subject_id: str) -> Entry | None:
        """Read an entry, with what it is about."""

    async def entries(self, begin: int, limit: int) -> list[Entry]:
        """Read entries from a position on."""

    async def is_party(self, subject_id: str, buyer_id: str) -> bool:
        """Whether an entry is about this buyer's order or document."""

    async def inclusion(self, entry: Entry, size: int) -> LogProof | None:
        """Prove that an entry is in the tree of a size."""

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """Prove that a tree begins with an earlier one."""

    async def head(self, size: int) -> Head:
        """Return the tree of a size."""

    async def tile(self, tile: Tile) -> bytes | None:
        """Read a tile's hashes."""

    async def bundle(self, tile: Tile) -> list[bytes] | None:
        """Read the entries below a tile."""


class LicensingStore(Protocol):
    """``storage.market.licensing``; see there for errors."""

    async def offer_transfer(
        self, write: Write, transfer_id: str, document_id: str, to_buyer_id: str, life_s: int
    ) -> Recorded | None:
        """Offer a licence to another buyer."""

    async def end_transfer(self, write: Write, transfer_id: str) -> Recorded | None:
        """Withdraw or decline an offer."""

    async def accept_transfer(self, write: Write, transfer_id: str, successor: Successor) -> Recorded | None:
        """Take a licence over."""

    async def renew(
        self, write: Write, document_id: str, renewed_id: str, successor: Successor
    ) -> Recorded | None:
        """Have a licence begin where another one ends."""

    async def reissue(
        self, write: Write, document_id: str, reason: str, successor: Successor
    ) -> Recorded | None:
        """Replace a document by one of another key."""

    async def transfer(self, transfer_id: str) -> Transfer | None:
        """Read a transfer."""

    async def licences_of(self, buyer_id: str, before: str, limit: int) -> list[LicenceRow]:
        """List a buyer's licences."""

    async def activate(
        self, document_id: str, activation_id: str, fingerprint: str, name: str, kind: str, lease_s: int
    ) -> ActivationRow:
        """Take a seat."""

    async def heartbeat(self, activation_id: str, document_id: str, lease_s: int) -> ActivationRow:
        """Renew a seat."""

    async def release(self, activation_id: str, owner: str | None) -> bool:
        """Free a seat."""

    async def activations(self, licence_id: str) -> list[ActivationRow]:
        """List seats in use."""

    async def register_owner_key(self, write: Write, document_id: str, public_key: bytes) -> Recorded | None:
        """Record the key that proves ownership."""

    async def owner_key(self, document_id: str) -> bytes | None:
        """Read it."""

    async def challenge(self, challenge: Challenge) -> datetime:
        """Record a challenge; returns until when it may be answered."""

    async def answer(self, challenge: Challenge) -> None:
        """Use a challenge up."""


class Signing(Protocol):
    """The signer's actor, as far as HTTP needs it."""

    async def sign_revocations(self, listed: RevocationList) -> str:
        """Sign the list of revoked licences; returns the envelope's text."""

    async def sign_licensing(self, document: LicensingDocument) -> str:
        """Sign what a licence needs after its issue; returns the envelope's text."""
