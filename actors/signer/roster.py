"""Roster: which of the configured backends signs now, and the ring of those that can still unwrap.

The keys on record decide (``storage.market.signing_keys``): the one that the signed list names, or the one
of the first start. A backend serves only after it has proved itself against its recorded key
(``actors.signer.rehearsal``). A backend that is away is asked again at every look, so that neither a start
nor an outage needs anybody. Rotation is a new list: the next look switches, between two calls.
Refuses to sign with a key that is not on record as active; whoever can change our settings or swap a key
file cannot make the platform's signature.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.publisher.sealing import ReleaseSealer
from actors.signer.issuer import Issuer
from actors.signer.rehearsal import rehearse
from domain.errors import BusyError, DependencyError, MarketplaceError, RejectedError
from domain.signing import KeyRecord, Keys, KeyState
from storage.market.signing_keys import KeysOnRecord

log = logging.getLogger("marketplace.signer")

BACKENDS_MAX = 8  # two during a rotation; the others only open what they wrapped


class WrapperRing:
    """``KeyWrapper``: wraps with the first backend, unwraps with whichever has wrapped."""

    def __init__(self, ring: Sequence[Keys]) -> None:
        self._ring = ring

    def wrap(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """See ``domain.signing.KeyWrapper``."""
        return self._ring[0].wrap(plaintext, context)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See ``domain.signing.KeyWrapper``. One that is away may be the one: only then is it missed."""
        away: MarketplaceError | None = None
        refused: MarketplaceError | None = None
        for keys in self._ring:
            try:
                return keys.unwrap(wrapped, context)
            except (DependencyError, BusyError) as failure:
                away = away or failure
            except RejectedError as failure:
                if failure.code != "unwrap_refused":
                    raise
                refused = failure
        raise away or refused or AssertionError("a ring holds at least one backend")


@dataclass(frozen=True, slots=True)
class Desk:
    """Who signs now: one key for as long as a call lasts."""

    keys: Keys
    backends: int
    issuer: Issuer
    sealer: ReleaseSealer


@dataclass(slots=True)
class _Backend:
    address: str
    keys: Keys | None = None


class Roster:
    """Not to be refreshed by two threads at once; ``desk`` may be asked by any.

    ``opener`` opens an address, ``on_record`` reads the keys, ``enrol`` puts the first one on record.
    ``each`` is the issuer's.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        opener: Callable[[str], Keys],
        on_record: Callable[[], KeysOnRecord],
        enrol: Callable[[bytes], None],
        each: Callable[..., Iterable[Any]] = map,
    ) -> None:
        if not 1 <= len(addresses) <= BACKENDS_MAX:
            raise RejectedError("signing_backend_invalid", f"Name 1 to {BACKENDS_MAX} signing backends.")
        self._backends = [_Backend(address) for address in addresses]
        self._opener = opener
        self._on_record = on_record
        self._enrol = enrol
        self._each = each
        self._desk: Desk | None = None
        self._reason = DependencyError("signer_unavailable", "The signer has not started yet.")

    @property
    def available(self) -> bool:
        """Whether documents can be signed now, as far as the last call told."""
        return self._desk is not None and self._desk.keys.available

    @property
    def desk(self) -> Desk:
        """Who signs now.

        Raises:
            DependencyError: ``signer_unavailable`` or ``signer_refused``, nobody does, and why.
        """
        desk = self._desk
        if desk is None:
            raise self._reason
        return desk

    def refresh(self) -> None:
        """Open what is not open, look at the record, and change who signs if it says so.

        Raises:
            DependencyError: ``signing_key_unrecorded``, no backend has the key that must sign; or a code of
                ``rehearse``, the backend is not what it says. Nobody signs then.
            RejectedError: ``signing_backend_invalid`` or a key file's code.
        """
        try:
            self._look()
        except DependencyError as failure:
            if failure.code in ("signing_key_unrecorded", "signing_key_mismatch", "wrapping_key_broken"):
                self._dismiss(DependencyError("signer_refused", failure.detail, 10))
                raise
            # The record or the chosen backend is away. Who signed so far goes on: its own circuit tells
            # whether it can.
            self._reason = failure
        except BusyError as busy:
            self._reason = DependencyError("signer_unavailable", busy.detail)

    def close(self) -> None:
        """Let go of all backends."""
        self._desk = None
        for backend in self._backends:
            if backend.keys is not None:
                backend.keys.close()

    def _look(self) -> None:
        away = self._open()
        record = self._on_record()
        first = self._backends[0].keys
        if not record.keys and first is not None:
            self._enrol(first.public_key)
            record = self._on_record()
        wanted = _wanted(record)
        chosen = next(
            (
                one.keys
                for one in self._backends
                if one.keys is not None and wanted is not None and one.keys.public_key == wanted.public_key
            ),
            None,
        )
        if chosen is None or wanted is None:
            if away is not None:
                self._dismiss(away)
                return
            raise DependencyError("signing_key_unrecorded", _unrecorded(wanted, self._backends))
        self._seat(chosen, wanted)

    def _open(self) -> DependencyError | None:
        away = None
        for backend in self._backends:
            if backend.keys is None:
                try:
                    backend.keys = self._opener(backend.address)
                except DependencyError as failure:
                    away = failure
        return away

    def _seat(self, chosen: Keys, wanted: KeyRecord) -> None:
        opened = [one.keys for one in self._backends if one.keys is not None]
        desk = self._desk
        if desk is not None and desk.keys is chosen and desk.backends == len(opened):
            if not chosen.available:
                rehearse(chosen, wanted.public_key)  # nobody may be calling: this finds out that it is back
            return
        rehearse(chosen, wanted.public_key)
        wrapper = WrapperRing([chosen, *(one for one in opened if one is not chosen)])
        since = wanted.not_before
        self._desk = Desk(
            chosen,
            len(opened),
            Issuer(chosen, wrapper, self._each, since),
            ReleaseSealer(chosen, wrapper, since),
        )
        log.warning("%s signs", wanted.key_id)

    def _dismiss(self, reason: DependencyError) -> None:
        if self._desk is not None:
            log.error("nobody signs: %s", reason.detail)
        self._desk = None
        self._reason = reason


def _wanted(record: KeysOnRecord) -> KeyRecord | None:
    if record.listed is not None:
        return None if record.listed.signs is None else record.listed.find(record.listed.signs)
    return next((key for key in record.keys if key.state is KeyState.ACTIVE), None)


def _unrecorded(wanted: KeyRecord | None, backends: Sequence[_Backend]) -> str:
    offered = ", ".join(one.keys.key_id for one in backends if one.keys is not None)
    if wanted is None:
        return (
            "No key is on record to sign: the key list names none. Publish a list that does "
            f"(`marketplace ops keys activate`). The backends hold {offered}."
        )
    return (
        f"{wanted.key_id} is on record to sign, and no configured backend holds it; they hold {offered}. "
        "Name its backend in the settings, or list and activate another key (docs/runbooks/signing-keys.md)."
    )
