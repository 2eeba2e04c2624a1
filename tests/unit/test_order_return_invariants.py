"""Refunds and disputes: what went back is in the books, and licences follow it one way."""

from dataclasses import replace

import pytest

from domain.orders import commands as c
from domain.orders.booking import CLEARING
from domain.orders.events import LicencesRestored, RefundRequested
from domain.orders.invariants import Examination, check_order
from domain.orders.ledger_invariants import LedgerEntry
from domain.orders.return_invariants import return_entries
from domain.orders.state import fold
from domain.orders.totals import LedgerTotal, Totals
from tests.fakes.carts import NOW
from tests.fakes.order_facts import ENTRY, ORDER, TOTAL_MINOR, WAY, facts, found, recorded


def asked(refund_id, *lines):
    return c.RequestRefund(refund_id, lines, None, "operator", "op_1", "why", "d", NOW)


def told(status, dispute_id="dp_1", amount_minor=TOTAL_MINOR, fee_minor=1500):
    return c.NoticeDispute(
        dispute_id,
        "pi_1",
        amount_minor,
        "USD",
        status,
        "fraudulent",
        (("txn_1", fee_minor),) if fee_minor else (),
        NOW,
    )


def returning(*commands, **changes):
    """What a faultless marketplace holds of a delivered order after some returns, all of them booked."""
    way = [*WAY, *commands]
    state = fold(ORDER, [one.event for one in facts(*way).events])
    entries = []
    for key, postings in return_entries(state).items():
        movement = key.removeprefix(f"{ORDER}:")
        entries.append(LedgerEntry(key, "USD", postings, NOW))
        cleared = sum(amount for account, amount in postings if account == CLEARING)
        way.append(c.RecordReturnBooked(movement, key, "ent_2", "USD", cleared, NOW))
    whole = facts(*way)
    state = fold(ORDER, [one.event for one in whole.events])
    words = dict.fromkeys(state.suspended_lines, "suspended")
    words |= dict.fromkeys(state.revoked_lines, "revoked")
    whole = replace(
        whole,
        row=replace(whole.row, returned_minor=state.returned_minor),
        licences=[replace(row, status=words.get(row.line_no, "active")) for row in whole.licences],
        entries=[ENTRY, *entries],
        charges=[
            replace(
                whole.charges[0], refunded_minor=state.refunded_minor, disputed_minor=state.disputed_minor
            )
        ],
    )
    return replace(whole, **changes)


REFUNDED = (asked("rfd_1", (1, None)), c.RecordRefund("rfd_1", "re_1", "succeeded", NOW))
FAILED = (*REFUNDED, c.NoticeRefund("re_1", "", "pi_1", 1999, "USD", "failed", "", NOW))
SAGAS = {
    "refunded": REFUNDED,
    "failed late": FAILED,
    "disputed": (told("needs_response"),),
    "won": (told("needs_response"), told("won")),
    "lost": (told("needs_response"), told("lost")),
    "refunded and then disputed": (*REFUNDED, told("lost", amount_minor=TOTAL_MINOR - 1999)),
}


@pytest.mark.parametrize("name", SAGAS)
def test_nor_has_one_of_which_money_went_back(name):
    sound = returning(*SAGAS[name])
    assert check_order(sound) == []
    totals = Totals()
    totals.add(Examination(sound, 0))
    cleared = sum(entry.cleared_minor for entry in sound.entries)
    totals.add_entries(sound.entries, None)
    assert totals.violations({"USD": LedgerTotal("USD", cleared, 0)}) == []


def without_kind(events, kind):
    kept = [one.event for one in events if type(one.event).__name__ != kind]
    return recorded(kept)


@pytest.mark.parametrize(
    ("saga", "dropped", "invariant"),
    [
        ("refunded", "LicencesRevoked", "I5"),
        ("lost", "LicencesRevoked", "I5"),
        ("disputed", "LicencesSuspended", "I5"),
    ],
)
def test_a_licence_that_does_not_follow_is_found(saga, dropped, invariant):
    sound = returning(*SAGAS[saga])
    broken = replace(sound, events=without_kind(sound.events, dropped), row=None)
    assert invariant in found(broken)


@pytest.mark.parametrize(
    ("invariant", "change"),
    [
        ("I1", lambda one: {"entries": one.entries[:-1]}),
        (
            "I1",
            lambda one: {
                "entries": [*one.entries[:-1], replace(one.entries[-1], postings=[(CLEARING, -1), ("x", 1)])]
            },
        ),
        ("I1", lambda one: {"charges": [replace(one.charges[0], refunded_minor=0)]}),
        ("I5", lambda one: {"licences": [replace(row, status="active") for row in one.licences]}),
        ("I6", lambda one: {"row": replace(one.row, returned_minor=0)}),
    ],
)
def test_a_return_that_is_not_what_it_should_be_is_found(invariant, change):
    sound = returning(*REFUNDED)
    assert found(replace(sound, **change(sound))) == {invariant}


def test_more_returned_than_captured_is_found():
    sound = returning(*REFUNDED)
    twice = [one.event for one in sound.events]
    again = next(event for event in twice if isinstance(event, RefundRequested))
    broken = replace(
        sound, events=recorded([*twice, replace(again, refund_id="rfd_2")]), row=None, effects=None
    )
    assert "I1" in found(broken)


def test_a_revoked_licence_that_holds_again_is_found():
    sound = returning(*REFUNDED)
    events = [*(one.event for one in sound.events), LicencesRestored((1,), NOW)]
    assert "I5" in found(replace(sound, events=recorded(events), row=None))
