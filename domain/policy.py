"""Screening: whether an order may go to payment, and whether a person must look before money is taken.

Rules are small objects with one ``check``, as in sigstore's verification policies. A rule blocks, or asks for
a review, with a reason that the buyer can read; no rule can allow what another stops. Deny by default: an
order with no verdict is not sold. Scoring and lists join here as further rules. Reasons name no limit: nobody
shall learn from them how to stay below it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

POLICY_VERSION = "2026-11-2"
CLEAR, REVIEW, BLOCK = "clear", "review", "block"


@dataclass(frozen=True, slots=True)
class Purchase:
    """The facts that screening looks at."""

    buyer_id: str
    seller_ids: tuple[str, ...]
    currency: str
    total_minor: int
    country: str | None  # ISO 3166-1 alpha-2, declared by the buyer
    seats_max: int = 1  # of the line with the most seats


@dataclass(frozen=True, slots=True)
class Verdict:
    """``clear``, ``review`` or ``block``, the rules' reasons, and the version of the rules that decided."""

    outcome: str
    reasons: tuple[str, ...]
    policy_version: str


class Rule(Protocol):
    """One policy: returns a reason to stop, or None."""

    def check(self, purchase: Purchase) -> str | None:
        """Return why this purchase must not go on by itself, or None."""


@dataclass(frozen=True, slots=True)
class EmbargoedCountries:
    """Comprehensive embargoes (US 31 CFR 500-599 as of 2026-11): no sale to a declared destination."""

    codes: frozenset[str] = frozenset({"CU", "IR", "KP", "SY"})

    def check(self, purchase: Purchase) -> str | None:
        """Stop a declared country under embargo."""
        if purchase.country in self.codes:
            return f"Sales to {purchase.country} are not permitted under export rules."
        return None


@dataclass(frozen=True, slots=True)
class NoSelfPurchase:
    """A seller who buys from itself launders cards through its own payout."""

    def check(self, purchase: Purchase) -> str | None:
        """Stop a buyer who is one of the cart's sellers."""
        if purchase.buyer_id in purchase.seller_ids:
            return "A seller cannot buy its own listing."
        return None


# Some 5,000 USD, in minor units. A currency without a row is looked at above the figure for dollars: where
# that is little money too much is looked at, and nothing slips through.
LARGE_MINOR: Mapping[str, int] = {
    **dict.fromkeys(("USD", "EUR", "GBP", "CHF"), 500_000),
    **dict.fromkeys(("AUD", "CAD", "NZD", "SGD"), 700_000),
    **dict.fromkeys(("DKK", "NOK", "SEK"), 4_000_000),
    "JPY": 750_000,
    "KRW": 7_000_000,
}
LARGE_MINOR_OTHERWISE = 500_000


@dataclass(frozen=True, slots=True)
class LargeAmount:
    """A stolen card is worth most at once: large totals are looked at."""

    above_minor: Mapping[str, int] = field(default_factory=lambda: LARGE_MINOR)
    above_minor_otherwise: int = LARGE_MINOR_OTHERWISE

    def check(self, purchase: Purchase) -> str | None:
        """Stop a total above its currency's limit."""
        if purchase.total_minor > self.above_minor.get(purchase.currency, self.above_minor_otherwise):
            return "The amount is large enough for a person to look at the order first."
        return None


@dataclass(frozen=True, slots=True)
class LargeAmountFromNowhere:
    """Half of what is large is looked at already when the buyer declares no country."""

    above_minor: Mapping[str, int] = field(default_factory=lambda: LARGE_MINOR)
    above_minor_otherwise: int = LARGE_MINOR_OTHERWISE

    def check(self, purchase: Purchase) -> str | None:
        """Stop a total above half of its currency's limit without a country."""
        above_minor = self.above_minor.get(purchase.currency, self.above_minor_otherwise)
        if purchase.country is None and 2 * purchase.total_minor > above_minor:
            return "No country was declared for an order of this amount."
        return None


@dataclass(frozen=True, slots=True)
class ManySeats:
    """Seats are what is resold: more than a company of this size buys without talking to the seller."""

    seats: int = 500

    def check(self, purchase: Purchase) -> str | None:
        """Stop a line with more seats."""
        if purchase.seats_max > self.seats:
            return "A line has so many seats that a person looks at the order first."
        return None


DEFAULT_RULES: tuple[Rule, ...] = (EmbargoedCountries(), NoSelfPurchase())
REVIEW_RULES: tuple[Rule, ...] = (LargeAmount(), LargeAmountFromNowhere(), ManySeats())


def screen(
    purchase: Purchase, rules: Sequence[Rule] = DEFAULT_RULES, review_rules: Sequence[Rule] = REVIEW_RULES
) -> Verdict:
    """Run the rules: ``block`` if any of ``rules`` stops, else ``review`` if any of ``review_rules`` does."""
    for outcome, asked in ((BLOCK, rules), (REVIEW, review_rules)):
        reasons = tuple(reason for rule in asked if (reason := rule.check(purchase)) is not None)
        if reasons:
            return Verdict(outcome, reasons, POLICY_VERSION)
    return Verdict(CLEAR, (), POLICY_VERSION)
