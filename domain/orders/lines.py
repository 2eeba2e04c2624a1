"""What an order is about, frozen at purchase: its lines with their terms, its delivery, parts of lines.

Plain values inside the events, and like them never edited: what is added later has a default that means what
was meant before.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tax:
    """One jurisdiction's tax on a line, as reckoned at purchase.

    ``rate_ppm`` is in millionths: 190,000 is 19 %. ``inclusive``: the price holds it already.
    """

    jurisdiction: str
    rate_ppm: int
    amount_minor: int
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One cart line, frozen at purchase: what it is, what it costs, and who earns it (ADR 0010).

    ``line_no`` counts from 1; amounts are minor units. ``fee_minor`` is the platform's, ``payees`` are
    (payee, amount) of what is left; none named is the seller alone. ``fee_minor`` None: an order from before
    lines held their terms, of which ``parts`` knows what held then. ``rounding_minor`` is what the buyer pays
    more or less than price and tax on top, so that Stripe can charge it; it is in the platform's fee.
    """

    line_no: int
    sku_id: str
    sku_name: str
    seller_id: str
    release_id: str
    version: str
    bundle_name: str
    bundle_sha256: str
    unit_price_minor: int
    quantity: int
    licence_days: int | None = None  # None is a perpetual licence
    discount_minor: int = 0
    taxes: tuple[Tax, ...] = ()
    fee_minor: int | None = None
    payees: tuple[tuple[str, int], ...] = ()
    rounding_minor: int = 0

    @property
    def price_minor(self) -> int:
        """Price of the whole line, before discount and tax."""
        return self.unit_price_minor * self.quantity

    @property
    def amount_minor(self) -> int:
        """What the buyer pays for the line."""
        amount_minor = self.unit_price_minor * self.quantity - self.discount_minor + self.rounding_minor
        if self.taxes:
            amount_minor += sum(tax.amount_minor for tax in self.taxes if not tax.inclusive)
        return amount_minor

    @property
    def tax_minor(self) -> int:
        """All tax on the line."""
        return sum(tax.amount_minor for tax in self.taxes)

    @property
    def net_minor(self) -> int:
        """What the platform and the payees share: what the buyer pays, without tax."""
        return self.amount_minor - self.tax_minor


@dataclass(frozen=True, slots=True)
class DeliveryChoice:
    """``recipient``: encrypt to the buyer's age key. ``released_key``: a key that we release once paid."""

    mode: str
    recipient: str | None


@dataclass(frozen=True, slots=True)
class Share:
    """A line's part of money that goes back, and what of it each gives up that had a part of the line.

    ``fee_minor`` is the platform's; ``taxes`` and ``payees`` are in the order of the line's own. The rest, if
    the line names no payees, is the seller's.
    """

    line_no: int
    amount_minor: int
    fee_minor: int
    taxes: tuple[int, ...] = ()
    payees: tuple[int, ...] = ()
