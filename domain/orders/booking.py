"""How a sale is booked: the chart of accounts and the exact split of a captured amount.

Debits are positive, credits negative; a sale's entry is

    stripe:clearing            + total        money that Stripe holds for us
    seller:<id>:payable        - net          per seller, what we owe
    platform:fees              - fee          what we earn

The platform's fee is taken per seller and floored, so that rounding never costs a seller a unit.
"""

from domain.money import BASIS_POINTS
from domain.orders.state import Order

PLATFORM_FEE_BPS = 1_000  # ten per cent until price models become proposals (see docs/limits.md)
CLEARING = "stripe:clearing"
FEES = "platform:fees"


def capture_entry_key(order_id: str) -> str:
    """Idempotency key of the order's capture in Finance."""
    return f"{order_id}:capture"


def capture_postings(order: Order) -> list[tuple[str, int]]:
    """Return ``(account, amount_minor)`` of a paid order; the amounts sum to zero."""
    gross_by_seller: dict[str, int] = {}
    for line in order.lines:
        gross_by_seller[line.seller_id] = gross_by_seller.get(line.seller_id, 0) + line.amount_minor
    postings = [(CLEARING, order.total_minor)]
    fees_minor = 0
    for seller_id, gross_minor in gross_by_seller.items():
        fee_minor = gross_minor * PLATFORM_FEE_BPS // BASIS_POINTS
        fees_minor += fee_minor
        postings.append((f"seller:{seller_id}:payable", fee_minor - gross_minor))
    if fees_minor:
        postings.append((FEES, -fees_minor))
    return postings
