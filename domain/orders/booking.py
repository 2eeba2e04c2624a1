"""How an order is booked: the chart of accounts and the exact split of captured and of returned amounts.

Debits are positive, credits negative; a sale's entry is

    stripe:clearing            + total        money that Stripe holds for us
    seller:<id>:payable        - net          per seller, what we owe
    platform:fees              - fee          what we earn

The platform's fee is taken per seller and floored, so that rounding never costs a seller a unit. A return
undoes the sale in part: each share carries the fee that is given up with it, so that all returns of a seller
add up to the sale exactly. What comes back (a failed refund, a won dispute) is the opposite entry.

A movement is one of ``refund:<id>``, ``refund_reversal:<id>``, ``dispute:<id>``, ``dispute_won:<id>`` and
``dispute_fee:<id>``; its entry's key is the order's id, a colon and the movement.
"""

from collections.abc import Sequence
from datetime import datetime

from domain.errors import RejectedError
from domain.money import BASIS_POINTS
from domain.orders.events import Share
from domain.orders.state import Order

PLATFORM_FEE_BPS = 1_000  # ten per cent until price models become proposals (see docs/limits.md)
CLEARING = "stripe:clearing"
FEES = "platform:fees"
DISPUTE_FEES = "stripe:dispute_fees"  # what Stripe charges for disputes; the platform bears it

REFUND, REFUND_REVERSAL = "refund", "refund_reversal"
DISPUTE, DISPUTE_WON, DISPUTE_FEE = "dispute", "dispute_won", "dispute_fee"


def capture_entry_key(order_id: str) -> str:
    """Idempotency key of the order's capture in Finance."""
    return f"{order_id}:capture"


def platform_fee(gross_minor: int) -> int:
    """Return the platform's fee on what a seller sold in one order, in minor units."""
    return gross_minor * PLATFORM_FEE_BPS // BASIS_POINTS


def gross_by_seller(order: Order) -> dict[str, int]:
    """Return what each seller sold in the order, in minor units."""
    gross: dict[str, int] = {}
    for line in order.lines:
        gross[line.seller_id] = gross.get(line.seller_id, 0) + line.amount_minor
    return gross


def capture_postings(order: Order) -> list[tuple[str, int]]:
    """Return ``(account, amount_minor)`` of a paid order; the amounts sum to zero."""
    postings = [(CLEARING, order.total_minor)]
    fees_minor = 0
    for seller_id, gross_minor in gross_by_seller(order).items():
        fee_minor = platform_fee(gross_minor)
        fees_minor += fee_minor
        postings.append((_payable(seller_id), fee_minor - gross_minor))
    if fees_minor:
        postings.append((FEES, -fees_minor))
    return postings


def return_entry_key(order_id: str, movement: str) -> str:
    """Idempotency key of a return's entry in Finance."""
    return f"{order_id}:{movement}"


def return_postings(order: Order, movement: str) -> tuple[datetime, list[tuple[str, int]]]:
    """Return when a movement happened and its ``(account, amount_minor)``, which sum to zero.

    Raises:
        RejectedError: ``return_unknown``; the order knows no such movement, or it has not happened.
    """
    kind, _, of_id = movement.partition(":")
    if kind in (REFUND, REFUND_REVERSAL):
        refund = order.find_refund(of_id)
        if refund is not None and refund.accepted_at is not None:
            if kind == REFUND:
                return refund.accepted_at, _returned(order, refund.shares, 1)
            if refund.ended_at is not None and not refund.returns:
                return refund.ended_at, _returned(order, refund.shares, -1)
    elif (dispute := order.find_dispute(of_id)) is not None:
        if kind == DISPUTE:
            return dispute.opened_at, _returned(order, dispute.shares, 1)
        if kind == DISPUTE_FEE and dispute.fee_minor:
            return dispute.fee_at, [(CLEARING, -dispute.fee_minor), (DISPUTE_FEES, dispute.fee_minor)]
        if kind == DISPUTE_WON and dispute.closed_at is not None and not dispute.returns:
            return dispute.closed_at, _returned(order, dispute.shares, -1)
    raise RejectedError("return_unknown", f"{order.order_id} has no movement {movement}.")


def cleared_minor(postings: Sequence[tuple[str, int]]) -> int:
    """Return what an entry says that Stripe holds more (or less) for us."""
    return sum(amount for account, amount in postings if account == CLEARING)


def _returned(order: Order, shares: Sequence[Share], sign: int) -> list[tuple[str, int]]:
    seller_of = {line.line_no: line.seller_id for line in order.lines}
    net_by_seller: dict[str, int] = {}
    fees_minor = 0
    for share in shares:
        seller_id = seller_of[share.line_no]
        net_by_seller[seller_id] = net_by_seller.get(seller_id, 0) + share.amount_minor - share.fee_minor
        fees_minor += share.fee_minor
    total_minor = sum(share.amount_minor for share in shares)
    postings = [(CLEARING, -sign * total_minor)]
    postings += [(_payable(seller_id), sign * net) for seller_id, net in net_by_seller.items() if net]
    if fees_minor:
        postings.append((FEES, sign * fees_minor))
    return postings


def _payable(seller_id: str) -> str:
    return f"seller:{seller_id}:payable"
