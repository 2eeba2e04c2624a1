"""Signs heads of the audit log, and only such as continue the last one that it has signed.

The caller hands over a head and the proof that it begins with the last signed one; text and signature are
made here. So nobody who can call the signer gets two histories signed: not with other entries, and not with
fewer. The last head is remembered from the moment it was signed, whether or not anybody has kept it; after a
start it is the newest checkpoint on record, if a key on record has signed that.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from domain.audit import checkpoints
from domain.audit.checkpoints import Checkpoint, CheckpointError
from domain.errors import ConflictError, DependencyError, RejectedError
from domain.merkle.proofs import consistent
from domain.merkle.tree import EMPTY_HEAD, Head
from domain.signing import KeyRecord, Signer
from storage.signing.keys import verify

log = logging.getLogger("marketplace.signer")


@dataclass(frozen=True, slots=True)
class HeadClaim:
    """A head to be signed, the head that it continues, and the consistency proof between the two."""

    origin: str
    head: Head
    since: Head
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint's note, and the key that has signed it."""

    note: str
    key_id: str


@dataclass(frozen=True, slots=True)
class LastSigned:
    """The last head that was signed, and the key that signs now."""

    head: Head
    key_id: str


Newest = Callable[[], tuple[str, list[KeyRecord]] | None]
"""Returns the newest checkpoint on record, with the platform's keys; None while there is none."""


class CheckpointSigner:
    """One per signer; safe to call from several threads."""

    def __init__(self, newest: Newest) -> None:
        self._newest = newest
        self._lock = threading.Lock()
        self._last: Checkpoint | None = None
        self._loaded = False

    def last(self, signer: Signer) -> LastSigned:
        """Return what a new head must continue; the empty tree before the first.

        Raises:
            DependencyError: ``checkpoint_record_damaged``.
        """
        with self._lock:
            self._load()
            return LastSigned(self._last.head if self._last else EMPTY_HEAD, signer.key_id)

    def sign(self, claim: HeadClaim, signer: Signer) -> SignedHead:
        """Return the signed note of a head that continues the last one.

        Raises:
            ConflictError: ``checkpoint_moved``; another head was signed meanwhile, ask for the last one.
            RejectedError: ``checkpoint_inconsistent`` or ``checkpoint_invalid``; nothing was signed.
            DependencyError: ``checkpoint_record_damaged``, or the backend failed.
        """
        with self._lock:
            self._load()
            last = self._last.head if self._last else EMPTY_HEAD
            if claim.since != last:
                raise ConflictError("checkpoint_moved", f"The last signed head has size {last.size}.")
            if (self._last is not None and claim.origin != self._last.origin) or not consistent(
                last, claim.head, claim.proof
            ):
                log.error(
                    "refused to sign a head of %d entries that does not continue %d",
                    claim.head.size,
                    last.size,
                )
                raise RejectedError(
                    "checkpoint_inconsistent",
                    f"A head of {claim.head.size} entries does not continue the signed one of {last.size}.",
                )
            signed = Checkpoint(claim.origin, claim.head)
            note = checkpoints.sign(signed, signer)
            self._last = signed
            return SignedHead(note, signer.key_id)

    def _load(self) -> None:
        if self._loaded:
            return
        found = self._newest()
        if found is not None:
            note, keys = found
            try:
                self._last, _ = checkpoints.open_note(note, [key.public_key for key in keys], verify)
            except CheckpointError as refused:
                log.error("the newest checkpoint on record is not to be believed: %s", refused)
                raise DependencyError(
                    "checkpoint_record_damaged",
                    f"The newest checkpoint on record is not ours, so none is signed: {refused.detail}",
                    10,
                ) from None
        self._loaded = True
