"""How one document of a licence takes another's place: transfers, renewals, reissues. Pure.

What an order line bought is one licence for ever; its documents succeed each other, each with an id of its
own, and only the last one counts. The one before enters the revocation list, so a verifier that knows nothing
of successions refuses it as it refuses any revoked licence. A refund of the line revokes whichever counts.

A renewal is an ordinary purchase of the same SKU by the licence's owner, whose licence is then made to begin
where the old one ends. Neither runs while the other does: no seat is had twice, and refunding one leaves the
other as it was. Who may ask is decided by the database under its lock (migration 0014).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from domain.ids import derive_id
from domain.licence_policies import DAYS_MAX
from domain.licence_refusals import refusal
from domain.licences import Licence

TRANSFER_LIFE_S = 7 * 86_400  # an offer that nobody took in a week was not wanted
LICENCE_PREFIX, TRANSFER_PREFIX = "lic", "ltr"


def transferred(licence: Licence, transfer_id: str, to_buyer_id: str, now: datetime) -> Licence:
    """Return the new owner's document; its id follows from the transfer, so a repetition names it again."""
    return replace(
        licence,
        licence_id=derive_id(LICENCE_PREFIX, licence.licence_id, f"transfer:{transfer_id}"),
        buyer_id=to_buyer_id,
        issued_at=now.replace(microsecond=0),
    )


def reissued(licence: Licence, key_id: str, now: datetime) -> Licence:
    """Return a document that differs in id and date alone; ``key_id`` is the compromised key before."""
    return replace(
        licence,
        licence_id=derive_id(LICENCE_PREFIX, licence.licence_id, f"reissue:{key_id}"),
        issued_at=now.replace(microsecond=0),
    )


def renewal(new: Licence, old: Licence, now: datetime) -> Licence:
    """Return ``new``'s next document, which begins where ``old`` ends and lasts for what is left of it now.

    What was used of it already is not given twice: else both licences could be used side by side until the
    old one ends, and the new one anew from then on.

    Raises:
        RejectedError: ``renewal_not_timed``, ``renewal_mismatch``.
        ConflictError: ``renewal_done``, ``renewal_too_late``, ``renewal_too_far``.
    """
    if (new.sku_id, new.buyer_id) != (old.sku_id, old.buyer_id) or new.licence_id == old.licence_id:
        raise refusal("renewal_mismatch")
    end, old_end = new.policy.expires_at, old.policy.expires_at
    if end is None or old_end is None:
        raise refusal("renewal_not_timed")
    if new.policy.starts_at is not None:
        raise refusal("renewal_done")
    if old_end <= new.issued_at:
        raise refusal("renewal_too_late")
    if old_end > now + timedelta(days=DAYS_MAX):
        raise refusal("renewal_too_far")
    issued_at = now.replace(microsecond=0)
    left = end - max(issued_at, new.issued_at)
    if left <= timedelta(0):
        raise refusal("renewal_too_late")
    return replace(
        new,
        licence_id=derive_id(LICENCE_PREFIX, new.licence_id, f"renews:{old.licence_id}"),
        policy=replace(new.policy, starts_at=old_end, expires_at=old_end + left),
        issued_at=issued_at,
    )
