"""How an order is booked: the accounts and the exact amounts of a sale and of what goes back of it.

Debits are positive, credits negative; a sale's entry is

    stripe:clearing             + total        money that Stripe holds for us
    tax:<jurisdiction>:payable  - tax          per jurisdiction, what we owe a tax office
    seller:<payee>:payable      - earned       per payee, what we owe
    platform:fees               - fee          what we earn

All of it is written in the order's lines, and so is everybody's part of what goes back (``parts``). A return
is the sale in part; what comes back (a failed refund, a won dispute) is the opposite entry.

Stripe's own processing fee is an entry of its own, ``<order>:fee``, which the reconciliation posts when
Stripe's balance transactions tell it: the order's history knows nothing of it.

    stripe:fees                + fee          what Stripe took
    stripe:clearing            - fee

A movement is one of ``refund:<id>``, ``refund_reversal:<id>``, ``dispute:<id>``, ``dispute_won:<id>`` and
``dispute_fee:<id>:<transaction>``; its entry's key is the order's id, a colon and the movement. A dispute's
fee has an entry for each of Stripe's balance transactions that takes some, or gives it back:

    stripe:dispute_fees        + fee          negative when it was given back
    stripe:clearing            - fee

One that was recorded before transactions were told apart is ``dispute_fee:<id>``.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from domain.errors import RejectedError
from domain.orders.lines import Share
from domain.orders.parts import FEES, earlier_fees, parts_of_line, parts_of_share, payable
from domain.orders.state import Order

__all__ = [
    "CLEARING",
    "DISPUTE",
    "DISPUTE_FEE",
    "DISPUTE_FEES",
    "DISPUTE_WON",
    "FEES",
    "REFUND",
    "REFUND_REVERSAL",
    "capture_entry_key",
    "capture_postings",
    "cleared_minor",
    "fee_of_dispute",
    "return_entry_key",
    "return_postings",
]

CLEARING = "stripe:clearing"
DISPUTE_FEES = "stripe:dispute_fees"  # what Stripe charges for disputes; the platform bears it
PROCESSING_FEES = "stripe:fees"  # what Stripe charges for payments; the platform bears it

OWN_MONEY = ("cash:", "equity:", "exchange:")  # accounts of our own money, booked by people

CORRECTED = ":corrected"  # behind the key of an entry that was reversed: what is booked in its place

REFUND, REFUND_REVERSAL = "refund", "refund_reversal"
DISPUTE, DISPUTE_WON, DISPUTE_FEE = "dispute", "dispute_won", "dispute_fee"


def capture_entry_key(order_id: str) -> str:
    """Idempotency key of the order's capture in Finance."""
    return f"{order_id}:capture"


def capture_postings(order: Order) -> list[tuple[str, int]]:
    """Return ``(account, amount_minor)`` of a paid order; the amounts sum to zero."""
    postings = [(CLEARING, order.total_minor)]
    for line in order.lines:
        postings += [(account, -minor) for account, minor in parts_of_line(line)]
    for seller_id, fee_minor in earlier_fees(order.lines).items():
        postings += [(payable(seller_id), fee_minor), (FEES, -fee_minor)]
    return _by_account(postings)


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
    elif kind == DISPUTE_FEE:
        dispute_id, _, transaction_id = of_id.partition(":")
        charged = order.find_dispute(dispute_id)
        for fee in charged.fees if charged is not None else ():
            if fee.transaction_id == transaction_id:
                return fee.at, [(CLEARING, -fee.amount_minor), (DISPUTE_FEES, fee.amount_minor)]
    elif (dispute := order.find_dispute(of_id)) is not None:
        if kind == DISPUTE:
            return dispute.opened_at, _returned(order, dispute.shares, 1)
        if kind == DISPUTE_WON and dispute.closed_at is not None and not dispute.returns:
            return dispute.closed_at, _returned(order, dispute.shares, -1)
    raise RejectedError("return_unknown", f"{order.order_id} has no movement {movement}.")


def fee_of_dispute(dispute_id: str, transaction_id: str) -> str:
    """Name one fee of a dispute: what follows ``dispute_fee:`` in its movement."""
    return f"{dispute_id}:{transaction_id}" if transaction_id else dispute_id


def fee_entry_key(order_id: str, object_id: str = "") -> str:
    """Idempotency key of a processing fee's entry; ``object_id`` for all but the order's own payment."""
    return f"{order_id}:fee:{object_id}" if object_id else f"{order_id}:fee"


def is_fee_entry(order_id: str, entry_key: str) -> bool:
    """Whether an entry's key is that of a processing fee of the order."""
    return entry_key == fee_entry_key(order_id) or entry_key.startswith(f"{order_id}:fee:")


def fee_postings(fee_minor: int) -> list[tuple[str, int]]:
    """Return ``(account, amount_minor)`` of a processing fee; the currency is the one Stripe settles in."""
    return [(PROCESSING_FEES, fee_minor), (CLEARING, -fee_minor)]


def cleared_minor(postings: Sequence[tuple[str, int]]) -> int:
    """Return what an entry says that Stripe holds more (or less) for us."""
    return sum(amount for account, amount in postings if account == CLEARING)


def moves_own_money(postings: Iterable[tuple[str, int]]) -> bool:
    """Whether an entry moves money between Stripe and ourselves: to a bank, from capital, into a currency.

    It is about no order, and takes nothing from anybody.
    """
    return all(account == CLEARING or account.startswith(OWN_MONEY) for account, _ in postings)


class Reversible(Protocol):
    """An entry, as far as ``standing`` asks. ``undone``: it was reversed or is a reversal."""

    @property
    def entry_key(self) -> str:
        """Its idempotency key."""

    @property
    def undone(self) -> bool:
        """Whether it and another entry come to nothing."""


E = TypeVar("E", bound=Reversible)


def standing(entries: Sequence[E]) -> Iterator[tuple[str, E]]:
    """Yield the entries that hold, by the key they stand for: a correction stands for what was undone."""
    undone = {entry.entry_key for entry in entries if entry.undone}
    for entry in entries:
        if not entry.undone:
            of_key = entry.entry_key.removesuffix(CORRECTED)
            yield (of_key if of_key in undone else entry.entry_key), entry


def _returned(order: Order, shares: Sequence[Share], sign: int) -> list[tuple[str, int]]:
    line_of = {line.line_no: line for line in order.lines}
    postings = [(CLEARING, -sign * sum(share.amount_minor for share in shares))]
    for share in shares:
        parts = parts_of_share(line_of[share.line_no], share)
        postings += [(account, sign * minor) for account, minor in parts]
    return _by_account(postings)


def _by_account(postings: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Sum up by account; what comes to nothing is no posting."""
    sums: dict[str, int] = {}
    for account, amount_minor in postings:
        sums[account] = sums.get(account, 0) + amount_minor
    return [(account, amount_minor) for account, amount_minor in sums.items() if amount_minor]
