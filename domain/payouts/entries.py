"""How a payout is booked at Finance. Debits are positive; every entry sums to zero.

    booking     <key>, <key>:<n>       seller:<id>:payable + amount    payouts:in_transit - amount
    reversal    <booking's>:reversal   the booking undone in full
    settlement  <key>:settled          payouts:in_transit + amount     stripe:clearing - amount
    return      <key>:returned:<trr>   stripe:clearing + returned      seller:<id>:payable - returned

``<key>`` is ``payout:<payee>:<currency>:<period>``, so no period of a payee is settled twice. The second try
and later ones are booked under their number, after the one before was reversed.
"""

import re
from collections.abc import Sequence

from domain.orders.booking import CLEARING
from domain.payouts.state import Payout

IN_TRANSIT = "payouts:in_transit"
PAYABLE_PREFIX = "seller:"
KEY_PREFIX = "payout:"
Postings = Sequence[tuple[str, int]]
_PAYABLE = re.compile(r"seller:([A-Za-z0-9_]+):payable")


def payable(payee_id: str) -> str:
    """Return the account of what we owe a payee."""
    return f"{PAYABLE_PREFIX}{payee_id}:payable"


def payee_of(account: str) -> str | None:
    """Return whose account it is, None when it is no payee's."""
    match = _PAYABLE.fullmatch(account)
    return None if match is None else match[1]


def settlement_key(payout: Payout) -> str:
    """Return the entry key of the settlement."""
    return f"{payout.key}:settled"


def reversal_key(payout: Payout) -> str:
    """Return the entry key of this try's reversed booking."""
    return reversal_of(payout.attempt_key)


def reversal_of(booking_key: str) -> str:
    """Return the entry key that undoes a booking."""
    return f"{booking_key}:reversal"


def return_key(payout: Payout, reversal_id: str) -> str:
    """Return the entry key of what came back by one of Stripe's transfer reversals."""
    return f"{payout.key}:returned:{reversal_id}"


def booking(payout: Payout) -> Postings:
    """Return the postings of this try's booking."""
    return booking_of(payout, payout.amount_minor)


def booking_of(payout: Payout, amount_minor: int) -> Postings:
    """Return the postings of a booking of any try; those of its reversal are of ``-amount_minor``."""
    return [(payable(payout.payee_id), amount_minor), (IN_TRANSIT, -amount_minor)]


def settlement(payout: Payout) -> Postings:
    """Return the settlement's postings."""
    return [(IN_TRANSIT, payout.amount_minor), (CLEARING, -payout.amount_minor)]


def returned(payout: Payout, amount_minor: int) -> Postings:
    """Return the postings of what came back."""
    return [(CLEARING, amount_minor), (payable(payout.payee_id), -amount_minor)]
