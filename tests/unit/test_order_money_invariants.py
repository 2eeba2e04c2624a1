"""Money that does not add up is found: totals, the terms of lines, processing fees, reversed entries."""

from dataclasses import replace

import pytest

from domain.orders import commands as c
from domain.orders.booking import CLEARING
from domain.orders.events import RefundRequested
from domain.orders.invariants import Examination, check_order
from domain.orders.ledger_invariants import LedgerEntry
from domain.orders.totals import LedgerTotal, Totals
from tests.fakes.carts import NOW, line
from tests.fakes.order_facts import (
    DELIVERED,
    ENTRY,
    FULFILLED,
    OPENED,
    PAID,
    PLACE,
    TOTAL_MINOR,
    WAY,
    facts,
    found,
    recorded,
)


def totals_of(*all_facts):
    totals = Totals()
    for one in all_facts:
        totals.add(Examination(one, 0.0))
        totals.add_entries(one.entries, None)
    return totals


def test_totals_agree_with_the_ledger():
    totals = totals_of(DELIVERED, facts(*WAY[:3]), facts(*WAY[:2]))
    assert totals.captured_minor == {"USD": 2 * TOTAL_MINOR}
    assert totals.booked_minor == totals.cleared_minor == {"USD": TOTAL_MINOR}
    assert totals.charged_minor == {"USD": 2 * TOTAL_MINOR}
    assert totals.violations({"USD": LedgerTotal("USD", TOTAL_MINOR, 0)}) == []
    assert totals.violations(None) == []


@pytest.mark.parametrize(
    "ledger",
    [
        {"USD": LedgerTotal("USD", TOTAL_MINOR + 1, 0)},
        {"USD": LedgerTotal("USD", TOTAL_MINOR, 1)},
        {},
        {"USD": LedgerTotal("USD", TOTAL_MINOR, 0), "EUR": LedgerTotal("EUR", 5, 0)},
    ],
)
def test_totals_that_differ_are_a_violation(ledger):
    (violation,) = totals_of(DELIVERED).violations(ledger)
    assert (violation.invariant, violation.order_id) == ("I1", "")


def test_an_order_that_is_told_apart_is_not_told_again_as_a_difference_of_sums():
    half = replace(ENTRY, postings=((CLEARING, 1), ("platform:fees", -1)))
    totals = totals_of(replace(DELIVERED, entries=[half]))
    assert totals.violations({"USD": LedgerTotal("USD", 1, 0)}) == []


FREE = replace(PLACE, lines=tuple(replace(one, unit_price_minor=0, fee_minor=0) for one in PLACE.lines))
SHARED = replace(
    PLACE,
    lines=(replace(line(1), fee_minor=200, payees=(("seller_1", 799), ("author", 1000))), PLACE.lines[1]),
)


@pytest.mark.parametrize("way", [(FREE,), (FREE, FULFILLED), (SHARED,), (SHARED, OPENED, PAID)])
def test_a_sound_order_with_terms_has_no_violation_in_any_state(way):
    assert check_order(facts(*way, entries=[], charges=None)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"fee_minor": 201},
        {"fee_minor": -1, "payees": (("seller_1", 2000),)},
        {"payees": (("seller_1", 1798),)},
        {"discount_minor": 1},
    ],
)
def test_terms_that_do_not_add_up_are_found(change):
    sound = facts(SHARED)
    created = sound.events[0].event
    broken = replace(created, lines=(replace(created.lines[0], **change), created.lines[1]))
    assert found(replace(sound, events=recorded([broken, sound.events[1].event]))) == {"I1"}


def test_a_grant_is_of_what_costs_nothing_only():
    created, screened, granted = (one.event for one in facts(FREE).events)
    sold = facts(PLACE)
    row = replace(sold.row, status="granted", seq=3)
    wrong = replace(sold, events=recorded([sold.events[0].event, screened, granted]), row=row)
    assert "I1" in found(wrong)
    waits = replace(facts(FREE), events=recorded([created, screened]), row=None, effects=None)
    assert found(waits) == {"I9"}


def test_who_gives_up_more_than_they_had_is_found():
    told = (
        SHARED,
        OPENED,
        PAID,
        c.NoticeRefund("re_1", "", "pi_1", TOTAL_MINOR, "USD", "succeeded", "", NOW),
    )
    sound = facts(*told, entries=None, charges=None, row=None)
    assert check_order(sound) == []
    events = [one.event for one in sound.events]
    place = next(n for n, one in enumerate(events) if isinstance(one, RefundRequested))
    first, *others = events[place].shares
    greedy = replace(first, payees=(first.payees[0] + 1, first.payees[1] - 1))
    events[place] = replace(events[place], shares=(greedy, *others))
    assert found(replace(sound, events=recorded(events))) == {"I1"}


def fee_entry(fee_minor=88, key_end="fee", **changes):
    postings = (("stripe:fees", fee_minor), ("stripe:clearing", -fee_minor))
    entry = LedgerEntry(f"{DELIVERED.order_id}:{key_end}", "USD", postings)
    return replace(entry, **changes)


def told(*entries, **charge):
    """What is said of the delivered order with these entries besides its own."""
    charges = [replace(one, **charge) for one in DELIVERED.charges]
    facts = replace(DELIVERED, entries=[*DELIVERED.entries, *entries], charges=charges)
    return [(one.invariant, one.detail) for one in check_order(facts)]


def test_a_processing_fee_is_explained_and_compared_with_stripes():
    assert told(fee_entry()) == []
    assert told(fee_entry(), fee_minor=88, fee_currency="USD") == []
    ((invariant, words),) = told(fee_entry(), fee_minor=90, fee_currency="USD")
    assert (invariant, "Stripe took 90 USD" in words) == ("I1", True)
    odd = (("platform:fees", 88), ("stripe:clearing", -88))
    assert [one[0] for one in told(fee_entry(postings=odd))] == ["I1"]


def test_a_reversed_entry_and_its_reversal_are_nothing_and_a_correction_stands_for_it():
    wrong = fee_entry(undone=True)
    reversal = fee_entry(-88, "fee:reversal", undone=True)
    assert told(wrong, reversal) == []
    assert told(wrong, reversal, fee_entry(90, "fee:corrected"), fee_minor=90, fee_currency="USD") == []
    capture = DELIVERED.entries[0]
    undone = replace(DELIVERED, entries=[replace(capture, undone=True)])
    assert [one.invariant for one in check_order(undone)] == ["I4"]
    corrected = replace(capture, entry_key=f"{capture.entry_key}:corrected")
    assert check_order(replace(undone, entries=[*undone.entries, corrected])) == []
