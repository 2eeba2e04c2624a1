"""What people book between Stripe and the platform's own accounts belongs to no order, and is no stray."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from cluster.checking import _strays
from domain.orders.booking import moves_own_money
from domain.orders.ledger_invariants import LedgerEntry
from domain.reconciliation.facts import Booked, is_loose

AT = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("others", "own"),
    [
        (["cash:giro"], True),
        (["equity:capital"], True),
        (["exchange:EUR"], True),
        (["platform:fees"], False),
        (["cash:giro", "seller:usr_1:payable"], False),
    ],
)
def test_a_withdrawal_to_the_bank_is_no_stray_and_anything_else_is(others, own):
    postings = [("stripe:clearing", -100 * len(others)), *((account, 100) for account in others)]
    assert moves_own_money(postings) is own
    entry = LedgerEntry("manual:1", "USD", postings, AT)
    page = SimpleNamespace(strays={}, loose_entries=[entry], loose_charges={})
    assert [one.invariant for one in _strays(page, AT)] == ([] if own else ["I1"])
    assert is_loose(Booked("manual:1", "USD", postings, AT)) is not own
