"""The cut: what of a payee's balance is paid for a period, what is carried and what is held back.

All figures are Finance's, in minor units; what we owe is positive. With

    closing    owed at the period's end
    returned   debits since then: refunds, disputes, and payouts of other periods
    sold       credits of the last ``holdback_days`` days before the end

the cut divides ``closing - returned`` into three parts that sum to it exactly:

    held back  ``holdback_bps`` of ``sold``, rounded up, at most all of it
    paid       the rest, if a payee can be paid, it reaches the minimum, and in steps that Stripe takes
    carried    what is left, or the negative balance; the next period has it

Sales after the period's end never count here. Between the draft and the transfer more may be returned: then
``clear`` pays less than was approved, never more; sales since then may make up for it.
"""

from dataclasses import dataclass

from domain.money import BASIS_POINTS, smallest_step

NEGATIVE, NOTHING_LEFT = "negative_balance", "held_back"
BELOW_MINIMUM = "below_minimum"
BALANCE_SHORT = "balance_short"


@dataclass(frozen=True, slots=True)
class Terms:
    """The governed terms of a batch: version of ``platform_fees``, and what it says for the currency."""

    fees_version: int
    holdback_bps: int
    holdback_days: int
    minimum_minor: int


@dataclass(frozen=True, slots=True)
class Figures:
    """See the module. ``returned_minor`` and ``sold_minor`` are sums of one side: never negative."""

    closing_minor: int
    returned_minor: int
    sold_minor: int

    @property
    def balance_minor(self) -> int:
        """What is divided."""
        return self.closing_minor - self.returned_minor


@dataclass(frozen=True, slots=True)
class Division:
    """The three parts; ``reason`` says why nothing is paid, or is None."""

    paid_minor: int
    carried_minor: int
    held_back_minor: int
    reason: str | None = None


def divide(figures: Figures, terms: Terms, currency: str, obstacle: str | None = None) -> Division:
    """Divide a balance; ``obstacle`` is why the payee cannot be paid at all, if so."""
    balance = figures.balance_minor
    if balance <= 0:
        return Division(0, balance, 0, NEGATIVE if balance else NOTHING_LEFT)
    held = min(balance, -(-figures.sold_minor * terms.holdback_bps // BASIS_POINTS))
    free = balance - held
    paid = _in_steps(free, currency)
    if not free:
        reason: str | None = NOTHING_LEFT
    elif obstacle is not None:
        reason = obstacle
    else:
        reason = None if paid >= max(terms.minimum_minor, 1) else BELOW_MINIMUM
    if reason is not None:
        paid = 0
    return Division(paid, free - paid, held, reason)


def clear(
    approved_minor: int, held_back_minor: int, minimum_minor: int, owed_minor: int, currency: str
) -> int:
    """Return how much of an approved payout is sent: at most what is owed now less what is held back.

    0 when that is less than the minimum: everything is carried then.
    """
    free = min(approved_minor, owed_minor - held_back_minor)
    paid = _in_steps(max(free, 0), currency)
    return paid if paid >= max(minimum_minor, 1) else 0


def _in_steps(amount_minor: int, currency: str) -> int:
    return amount_minor - amount_minor % smallest_step(currency)
