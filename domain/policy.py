"""Screening: whether an order may go to payment.

Rules are small objects with one ``check``, as in sigstore's verification policies. A rule blocks with a
reason that the buyer can read; no rule can allow what another blocks. Deny by default: an order with no
verdict is not sold. Scoring, lists and the review queue join here as further rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

POLICY_VERSION = "2026-11-1"


@dataclass(frozen=True, slots=True)
class Purchase:
    """The facts that screening looks at."""

    buyer_id: str
    seller_ids: tuple[str, ...]
    currency: str
    total_minor: int
    country: str | None  # ISO 3166-1 alpha-2, declared by the buyer


@dataclass(frozen=True, slots=True)
class Verdict:
    """``clear`` or ``block``, each rule's reason, and the version of the rules that decided."""

    outcome: str
    reasons: tuple[str, ...]
    policy_version: str


class Rule(Protocol):
    """One policy: returns a reason to block, or None."""

    def check(self, purchase: Purchase) -> str | None:
        """Return why this purchase must not go on, or None."""


@dataclass(frozen=True, slots=True)
class EmbargoedCountries:
    """Comprehensive embargoes (US 31 CFR 500-599 as of 2026-11): no sale to a declared destination."""

    codes: frozenset[str] = frozenset({"CU", "IR", "KP", "SY"})

    def check(self, purchase: Purchase) -> str | None:
        """Block a declared country under embargo."""
        if purchase.country in self.codes:
            return f"Sales to {purchase.country} are not permitted under export rules."
        return None


@dataclass(frozen=True, slots=True)
class NoSelfPurchase:
    """A seller who buys from itself launders cards through its own payout."""

    def check(self, purchase: Purchase) -> str | None:
        """Block a buyer who is one of the cart's sellers."""
        if purchase.buyer_id in purchase.seller_ids:
            return "A seller cannot buy its own listing."
        return None


DEFAULT_RULES: tuple[Rule, ...] = (EmbargoedCountries(), NoSelfPurchase())


def screen(purchase: Purchase, rules: Sequence[Rule] = DEFAULT_RULES) -> Verdict:
    """Run every rule; the verdict is ``block`` if any gives a reason."""
    reasons = tuple(reason for rule in rules if (reason := rule.check(purchase)) is not None)
    return Verdict("block" if reasons else "clear", reasons, POLICY_VERSION)
