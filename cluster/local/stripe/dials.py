"""Dials: the figures of this simulator that Stripe sets by contract or by waiting, and a test may set.

Fees, how long an authorisation holds, how soon a refund settles or a dispute is decided, and whether
transfers need a balance that covers them. They are stored, so that a restart keeps them. Refuses names and
values outside the bounds below; a change counts for what happens after it.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from cluster.local.stripe.refusals import Document, invalid

DAY_S = 86_400
PERIOD_S_MAX = 90 * DAY_S
AMOUNT_MINOR_MAX = 1_000_000
FEE_BPS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Dials:
    """All dials. Amounts are minor units of whatever currency the charge has, as at a US account."""

    fee_bps: int = 290  # Stripe's fee on a charge: 2.9 % …
    fee_fixed_minor: int = 30  # … and 30 minor units
    dispute_fee_minor: int = 1_500
    pending_days: int = 2  # a charge's money is available at the start of the day after so many
    authorization_lifetime_s: int = 7 * DAY_S  # Stripe's window for most cards
    refund_settle_s: int = 2  # after which the refunds of ``pm_card_pendingRefund`` and ``refundFail`` move
    dispute_response_s: int = 9 * DAY_S  # card networks give 7 to 21 days
    dispute_decision_s: int = 1  # after which winning or losing evidence decides
    dispute_fee_returned: bool = False  # with the money of a won dispute, as in some countries
    real_balances: bool = False  # refuse transfers that the available balance does not cover

    def fee_minor(self, amount_minor: int) -> int:
        """Return Stripe's fee on a charge: the share rounded half up, and the fixed part."""
        return (amount_minor * self.fee_bps + 5_000) // 10_000 + self.fee_fixed_minor


SWITCHES = frozenset({"dispute_fee_returned", "real_balances"})
BOUNDS = {
    "fee_bps": (0, FEE_BPS_MAX),
    "fee_fixed_minor": (0, AMOUNT_MINOR_MAX),
    "dispute_fee_minor": (0, AMOUNT_MINOR_MAX),
    "pending_days": (0, 30),
    "authorization_lifetime_s": (1, PERIOD_S_MAX),
    "refund_settle_s": (0, PERIOD_S_MAX),
    "dispute_response_s": (1, PERIOD_S_MAX),
    "dispute_decision_s": (0, PERIOD_S_MAX),
}


def stored_dials(record: Document | None) -> Dials:
    """Return the stored dials; what the record lacks or does not know is as it always was."""
    known = {field.name for field in fields(Dials)}
    return Dials(**{name: value for name, value in (record or {}).items() if name in known})


def turned(dials: Dials, wanted: Any) -> Dials:
    """Return ``dials`` with the values of a JSON object.

    Raises:
        RefusedError: 400.
    """
    if not isinstance(wanted, dict) or not wanted.keys() <= {field.name for field in fields(Dials)}:
        raise invalid(f"Dials are an object of {', '.join(field.name for field in fields(Dials))}.")
    for name, value in wanted.items():
        if name in SWITCHES:
            if not isinstance(value, bool):
                raise invalid(f"{name} is true or false.", name)
            continue
        low, high = BOUNDS[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise invalid(f"{name} must be a whole number from {low} to {high}.", name)
    return Dials(**(asdict(dials) | wanted))
