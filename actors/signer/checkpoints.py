"""Signs heads of the audit log, and only such as continue the last one that it has signed.

The caller hands over a head and the proof that it begins with the last signed one; text and signature are
made here. So nobody who can call the signer gets two histories signed: not with other entries, and not with
fewer. The last head is remembered from the moment it was signed, whether or not anybody has kept it. After a
start it is the newest one on record that a key has signed which is believed now, or the head that the key
list names for a compromised key: whoever has that key signs what they like, and whoever has the serving role
may have it kept.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from domain.audit import checkpoints
from domain.audit.checkpoints import Checkpoint, CheckpointError
from domain.errors import ConflictError, DependencyError, RejectedError
from domain.merkle.proofs import consistent
from domain.merkle.tree import EMPTY_HEAD, Head
from domain.signing import KeyRecord, KeyState, Signer
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


KeysNow = Callable[[], Sequence[KeyRecord]]
Notes = Callable[[Sequence[str]], Sequence[str] | None]
"""Returns what is kept as these keys' checkpoints, newest first; None while no checkpoint is kept at all."""


class CheckpointSigner:
    """One per signer; safe to call from several threads."""

    def __init__(self, keys: KeysNow, notes: Notes) -> None:
        self._keys = keys
        self._notes = notes
        self._lock = threading.Lock()
        self._last = EMPTY_HEAD
        self._origin: str | None = None  # none: nothing was signed yet that names it
        self._loaded = False

    def last(self, signer: Signer) -> LastSigned:
        """Return what a new head must continue; the empty tree before the first.

        Raises:
            DependencyError: ``checkpoint_record_damaged``.
        """
        with self._lock:
            self._load()
            return LastSigned(self._last, signer.key_id)

    def sign(self, claim: HeadClaim, signer: Signer) -> SignedHead:
        """Return the signed note of a head that continues the last one.

        Raises:
            ConflictError: ``checkpoint_moved``; another head was signed meanwhile, ask for the last one.
            RejectedError: ``checkpoint_inconsistent`` or ``checkpoint_invalid``; nothing was signed.
            DependencyError: ``checkpoint_record_damaged``, or the backend failed.
        """
        with self._lock:
            self._load()
            last = self._last
            if claim.since != last:
                raise ConflictError("checkpoint_moved", f"The last signed head has size {last.size}.")
            if self._origin not in (None, claim.origin) or not consistent(last, claim.head, claim.proof):
                log.error(
                    "refused to sign a head of %d entries that does not continue %d",
                    claim.head.size,
                    last.size,
                )
                raise RejectedError(
                    "checkpoint_inconsistent",
                    f"A head of {claim.head.size} entries does not continue the signed one of {last.size}.",
                )
            note = checkpoints.sign(Checkpoint(claim.origin, claim.head), signer)
            self._last, self._origin = claim.head, claim.origin
            return SignedHead(note, signer.key_id)

    def _load(self) -> None:
        if self._loaded:
            return
        keys = self._keys()
        believed = [key for key in keys if key.state is not KeyState.COMPROMISED]
        notes = self._notes([key.key_id for key in believed])
        found = _first_signed(notes or (), [key.public_key for key in believed])
        # What a compromised key signed counts up to the head that the root has signed for it.
        heads = [key.log or EMPTY_HEAD for key in keys if key.state is KeyState.COMPROMISED]
        if found is not None:
            heads.append(found.head)
        elif notes or (notes is not None and not heads):
            log.error("no checkpoint on record is signed by a key on record")
            raise DependencyError(
                "checkpoint_record_damaged", "The checkpoints on record are not ours, so none is signed.", 10
            )
        self._last = max(heads, key=lambda head: head.size, default=EMPTY_HEAD)
        self._origin = None if found is None else found.origin
        self._loaded = True


def _first_signed(notes: Sequence[str], trusted: Sequence[bytes]) -> Checkpoint | None:
    for note in notes:
        try:
            return checkpoints.open_note(note, trusted, verify)[0]
        except CheckpointError as refused:
            log.error("a checkpoint on record is not to be believed and is passed over: %s", refused)
    return None
