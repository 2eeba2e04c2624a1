"""The report of a run: figures, and the same as a text (Markdown) that a person can read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain.money import CURRENCY_DECIMALS, format_money
from domain.reconciliation.cases import BY_HAND, PROPOSALS, case_id, fix_word
from domain.reconciliation.facts import Difference

LISTED_MAX = 200  # differences in one report; all of them are cases


@dataclass(slots=True)
class Report:
    """What a run saw and did from ``since`` up to ``until``. Amounts are minor units by currency.

    ``complete`` False: it stopped at a bound (``stopped_by``), and the window is to be looked at again.
    """

    since: datetime
    until: datetime
    movements: int = 0  # Stripe's balance transactions
    entries: int = 0  # Finance's on stripe:clearing
    orders: int = 0
    looked_at: int = 0  # orders of which all facts were read
    fees_booked: int = 0
    opened: int = 0
    changed: int = 0
    resolved: int = 0
    dismissed: int = 0  # differences that an operator has accepted as they are
    applied: int = 0
    applicable: int = 0  # fixes that a run may make by itself, and was not asked to
    foreign_charges: int = 0
    unreadable_orders: int = 0
    seconds: float = 0.0
    stopped_by: str = ""
    other_movements: Counter[str] = field(
        default_factory=Counter
    )  # by Stripe's type, neither sale nor return
    stripe_minor: dict[str, int] = field(default_factory=dict)
    finance_minor: dict[str, int] = field(default_factory=dict)
    open_by_kind: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether everything in the window was looked at."""
        return not self.stopped_by

    @property
    def unequal_minor(self) -> dict[str, int]:
        """What Finance's clearing account has more than Stripe's balance, by currency, where they differ."""
        currencies = {*self.stripe_minor, *self.finance_minor}
        gaps = {one: self.finance_minor.get(one, 0) - self.stripe_minor.get(one, 0) for one in currencies}
        return {one: gap for one, gap in sorted(gaps.items()) if gap}

    def document(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "complete": self.complete,
            "stopped_by": self.stopped_by,
            "movements": self.movements,
            "entries": self.entries,
            "orders": self.orders,
            "looked_at": self.looked_at,
            "fees_booked": self.fees_booked,
            "opened": self.opened,
            "changed": self.changed,
            "resolved": self.resolved,
            "dismissed": self.dismissed,
            "applied": self.applied,
            "applicable": self.applicable,
            "foreign_charges": self.foreign_charges,
            "unreadable_orders": self.unreadable_orders,
            "other_movements": dict(sorted(self.other_movements.items())),
            "stripe_balance_minor": dict(sorted(self.stripe_minor.items())),
            "finance_clearing_minor": dict(sorted(self.finance_minor.items())),
            "finance_less_stripe_minor": self.unequal_minor,
            "open_by_kind": dict(sorted(self.open_by_kind.items())),
            "differences": len(self.differences),
            "found": [_document(one) for one in self.differences[:LISTED_MAX]],
            "seconds": round(self.seconds, 3),
        }

    def markdown(self) -> str:
        """Return the report for people."""
        lines = [
            f"# Reconciliation {self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC",
            "",
            (
                f"{self.orders} orders, {self.movements} movements at Stripe, {self.entries} entries at "
                f"Finance; {self.looked_at} orders looked at in full. {self.seconds:.1f} s."
            ),
            (
                f"Fees booked: {self.fees_booked}. Cases: {self.opened} opened, {self.changed} changed, "
                f"{self.resolved} closed by themselves, {self.applied} mended."
            ),
        ]
        if self.applicable:
            lines.append(f"{self.applicable} could be mended at once: run it with --apply.")
        if not self.complete:
            lines.append(f"**Not complete:** {self.stopped_by}")
        if self.dismissed:
            lines.append(f"{self.dismissed} differences were accepted by an operator and are not listed.")
        if self.foreign_charges:
            lines.append(f"{self.foreign_charges} charges at Stripe name no order: another application's.")
        if self.unreadable_orders:
            lines.append(f"{self.unreadable_orders} orders cannot be read by this build and were left out.")
        lines += ["", *self._balances(), "", *self._cases()]
        return "\n".join(lines) + "\n"

    def _balances(self) -> list[str]:
        rows = ["| currency | Stripe holds | Finance's stripe:clearing | difference |", "|---|---|---|---|"]
        for currency in sorted({*self.stripe_minor, *self.finance_minor}):
            stripe, finance = self.stripe_minor.get(currency, 0), self.finance_minor.get(currency, 0)
            rows.append(
                f"| {currency} | {_money(stripe, currency)} | {_money(finance, currency)} | "
                f"{_money(finance - stripe, currency)} |"
            )
        return rows

    def _cases(self) -> list[str]:
        if not self.differences:
            return ["No differences."]
        rows = [f"{len(self.differences)} differences:", ""]
        for one in self.differences[:LISTED_MAX]:
            rows.append(f"- **{one.kind}** {one.order_id or one.subject} ({case_id(one)}): {one.detail}")
            rows.append(f"  {_amounts(one)}{_proposal(one)}")
        if len(self.differences) > LISTED_MAX:
            rows.append(f"- and {len(self.differences) - LISTED_MAX} more: `marketplace ops cases list`")
        return rows


def _document(one: Difference) -> Mapping[str, Any]:
    return {
        "case_id": case_id(one),
        "kind": one.kind.value,
        "order_id": one.order_id,
        "subject": one.subject,
        "currency": one.currency,
        "expected_minor": one.expected_minor,
        "actual_minor": one.actual_minor,
        "detail": one.detail,
        "fix": fix_word(one.fix),
    }


def _amounts(one: Difference) -> str:
    if one.expected_minor is None or one.actual_minor is None:
        return ""
    expected, actual = _money(one.expected_minor, one.currency), _money(one.actual_minor, one.currency)
    return f"Expected {expected}, there is {actual}. "


def _proposal(one: Difference) -> str:
    word = fix_word(one.fix)
    return PROPOSALS[word] if word is not None else BY_HAND.get(one.kind, "Decide by hand.")


def _money(amount_minor: int, currency: str) -> str:
    if currency in CURRENCY_DECIMALS:
        return format_money(amount_minor, currency)
    return f"{amount_minor} {currency}".strip()


def kinds_of(differences: Sequence[Difference]) -> dict[str, int]:
    """Count differences by kind."""
    return dict(sorted(Counter(one.kind.value for one in differences).items()))
