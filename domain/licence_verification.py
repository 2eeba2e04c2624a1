"""Verification of a licence: five findings that are kept apart, because each has another remedy.

    signature    bytes were altered, or another key signed    get the licence again
    key_state    the signing key is unknown or compromised    ask the platform to reissue it
    expiry       the time granted is over, or not begun       renew; wait
    revocation   refunded, disputed, replaced, or list stale  fetch the list; ask the seller
    ownership    the licence names another buyer              show your own licence

``assess`` is pure: facts in, findings out. It denies by default: a fact that is missing makes its
finding unacceptable, except ownership, which is not asked about when no buyer is named. ``check`` runs
the one signature verification and calls it.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain.audit.entries import LICENCE
from domain.audit.proofs import LogProof
from domain.dsse import Envelope, pae
from domain.licences import Licence, open_envelope
from domain.revocations import RevocationList
from domain.signing import KeyRecord, KeyState, Verifier

CLOCK_SKEW = timedelta(minutes=5)  # a buyer's clock may be slow; a licence is not "from the future" for that


@dataclass(frozen=True, slots=True)
class Revocations:
    """The newest revocation list that the verifier holds and has verified. Times are UTC.

    ``grace`` is how long a licence with an end still works after it, as the platform says with the list.
    """

    version: int
    expires_at: datetime
    reasons: Mapping[str, str] = field(default_factory=dict)  # licence id -> why it was revoked
    suspended: AbstractSet[str] = frozenset()
    grace: timedelta = timedelta(0)

    @classmethod
    def of(cls, listed: RevocationList) -> "Revocations":
        """Take over a verified list."""
        return cls(
            listed.version,
            listed.expires_at,
            dict.fromkeys(listed.revoked, "the platform's list names it"),
            frozenset(listed.suspended),
            timedelta(days=listed.grace_days),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: a stable ``state``, whether it is acceptable, and a sentence for people."""

    state: str
    acceptable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The five findings. ``acceptable`` is their conjunction and never replaces them."""

    signature: Finding
    key_state: Finding
    expiry: Finding
    revocation: Finding
    ownership: Finding

    @property
    def acceptable(self) -> bool:
        """Whether every finding is."""
        return (
            self.signature.acceptable
            and self.key_state.acceptable
            and self.expiry.acceptable
            and self.revocation.acceptable
            and self.ownership.acceptable
        )


def check(
    envelope_text: str,
    keys: Mapping[str, KeyRecord],
    verify: Verifier,
    *,
    revocations: Revocations | None,
    now: datetime,
    buyer_id: str | None = None,
    logged_at: datetime | None = None,
    log_proof: LogProof | None = None,
) -> tuple[Licence, VerificationReport]:
    """Read a licence's envelope and ``judge`` it.

    Raises:
        DocumentError: for a text that is not a licence as the platform writes it.
    """
    envelope, licence = open_envelope(envelope_text)
    report = judge(
        envelope,
        licence,
        keys,
        verify,
        revocations=revocations,
        now=now,
        buyer_id=buyer_id,
        logged_at=logged_at,
        log_proof=log_proof,
    )
    return licence, report


def judge(
    envelope: Envelope,
    licence: Licence,
    keys: Mapping[str, KeyRecord],
    verify: Verifier,
    *,
    revocations: Revocations | None,
    now: datetime,
    buyer_id: str | None = None,
    logged_at: datetime | None = None,
    log_proof: LogProof | None = None,
) -> VerificationReport:
    """Verify a licence as ``open_envelope`` gave it against our own key records.

    The key that the licence names must be one of ours and must have signed it; no other key is tried, because
    the platform always names the key it used. ``log_proof`` leads to the head of the audit log that a
    compromised key's record names. Where it names none, ``logged_at`` counts: when exactly this licence
    entered the platform's record, by its own word.
    """
    signature = envelope.signatures[0]
    key = keys.get(signature.key_id or "")
    message = pae(envelope.payload_type, envelope.payload)
    return assess(
        licence,
        signature_ok=key is not None and verify(key.public_key, message, signature.sig),
        key=key,
        revocations=revocations,
        now=now,
        buyer_id=buyer_id,
        logged_at=logged_at,
        in_log=in_log(key, LICENCE, envelope, log_proof),
    )


def in_log(key: KeyRecord | None, kind: str, envelope: Envelope, log_proof: LogProof | None) -> bool:
    """Whether a document is proven to be in the tree that its compromised key's record names."""
    return (
        key is not None
        and key.log is not None
        and log_proof is not None
        and log_proof.holds_document(key.log, kind, envelope.dumps())
    )


def assess(
    licence: Licence,
    *,
    signature_ok: bool,
    key: KeyRecord | None,
    revocations: Revocations | None,
    now: datetime,
    buyer_id: str | None,
    logged_at: datetime | None = None,
    in_log: bool = False,
) -> VerificationReport:
    """Turn facts about a licence into findings. Where the signature is bad, the rest is only a claim."""
    return VerificationReport(
        signature=_fine("valid", "The licence is exactly what the key signed.")
        if signature_ok
        else _refused("invalid", "The licence was altered, or the key that it names did not sign it."),
        key_state=_key_state(licence, key, logged_at, in_log=in_log),
        expiry=_expiry(licence, revocations.grace if revocations else timedelta(0), now),
        revocation=_revocation(licence, revocations, now),
        ownership=_ownership(licence, buyer_id),
    )


def _fine(state: str, reason: str) -> Finding:
    return Finding(state, acceptable=True, reason=reason)


def _refused(state: str, reason: str) -> Finding:
    return Finding(state, acceptable=False, reason=reason)


def _key_state(
    licence: Licence, key: KeyRecord | None, logged_at: datetime | None, *, in_log: bool
) -> Finding:
    if key is None:
        return _refused("unknown", "The licence names a key that is not one of the platform's.")
    if licence.issued_at < key.not_before:
        return _refused("not_yet_valid", f"{key.key_id} was not in use when this licence is dated.")
    if key.state is KeyState.ACTIVE:
        return _fine("active", f"{key.key_id} signs for the platform.")
    if key.state is KeyState.RETIRED:
        return _fine("retired", f"{key.key_id} no longer signs; what it signed stays valid.")
    # The dates inside a licence prove nothing once the key is stolen: only what was on record before counts.
    if key.log is not None:
        if in_log:
            return _fine(
                "compromised_later",
                f"{key.key_id} was compromised later: the licence is proven to be among the first "
                f"{key.log.size} entries of the audit log.",
            )
    elif key.compromised_at is not None and logged_at is not None and logged_at < key.compromised_at:
        return _fine(
            "compromised_later",
            f"{key.key_id} was compromised after this licence entered the platform's record.",
        )
    return _refused(
        "compromised",
        f"{key.key_id} is compromised, and nothing proves that this licence was logged before. "
        "Ask the platform to reissue it.",
    )


def _expiry(licence: Licence, grace: timedelta, now: datetime) -> Finding:
    if licence.issued_at > now + CLOCK_SKEW:
        return _refused("not_yet_valid", "The licence is dated in the future; check this clock.")
    expires_at = licence.policy.expires_at
    if expires_at is None:
        return _fine("perpetual", "The licence does not expire.")
    starts_at = licence.policy.starts_at
    if starts_at is not None and now + CLOCK_SKEW < starts_at:
        return _refused("not_begun", f"The licence begins at {starts_at:%Y-%m-%d %H:%M:%S} UTC.")
    if now >= expires_at + grace:
        return _refused("expired", f"The licence expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC.")
    if now >= expires_at:
        until = expires_at + grace
        return _fine(
            "in_grace",
            f"The licence expired at {expires_at:%Y-%m-%d %H:%M:%S} UTC and works until "
            f"{until:%Y-%m-%d %H:%M:%S} UTC. Renew it.",
        )
    return _fine("current", f"The licence is valid until {expires_at:%Y-%m-%d %H:%M:%S} UTC.")


def _revocation(licence: Licence, revocations: Revocations | None, now: datetime) -> Finding:
    if revocations is None:
        return _refused("unknown", "No revocation list is at hand. Fetch the current one.")
    # A revocation is final, so it counts even on a list that is out of date.
    if (reason := revocations.reasons.get(licence.licence_id)) is not None:
        return _refused("revoked", f"The licence was revoked: {reason}.")
    if now >= revocations.expires_at:
        return _refused("stale", f"Revocation list {revocations.version} is out of date. Fetch a new one.")
    # Only a current list suspends: a suspension may have ended since.
    if licence.licence_id in revocations.suspended:
        return _refused("suspended", "The licence is suspended: a refund or a dispute is undecided.")
    return _fine("not_revoked", f"Revocation list {revocations.version} does not name the licence.")


def _ownership(licence: Licence, buyer_id: str | None) -> Finding:
    if buyer_id is None:
        return _fine("not_asked", "No buyer was named to compare with.")
    if buyer_id == licence.buyer_id:
        return _fine("owner", "The licence was issued to this buyer.")
    return _refused("other_buyer", "The licence was issued to another buyer.")
