"""Planted damage in payouts and their entries: each is found, and nothing is found of sound ones."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from domain.orders.ledger_invariants import LedgerEntry
from domain.payouts import entries
from domain.payouts import events as e
from domain.payouts.invariants import PayoutFacts, check_payouts, is_payout_entry
from domain.payouts.state import fold

NOW = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
APPROVED = e.PayoutApproved("pob_1", "s1", "USD", "2026-10", "acct_1", 9_000, 0, 0, "op_2", NOW)
SENT = (
    APPROVED,
    e.PayoutCleared(9_000, NOW),
    e.PayoutBooked("ent_1", NOW),
    e.PayoutSent("tr_1", NOW, NOW),
    e.PayoutSettled("ent_2", NOW),
    e.PayoutReturned("trr_1", 2_000, "ent_3", NOW),
)
FAILED = (
    *SENT[:3],
    e.PayoutRefused("account_invalid", "gone", NOW),
    e.PayoutFailed("account_invalid", "gone", NOW),
)


def stored(events, payout_id="po_1"):
    payout = fold(payout_id, events)
    facts = PayoutFacts(payout_id, payout.status.value, payout.seq, payout.key, tuple(enumerate(events, 1)))
    return payout, facts


def books(payout):
    found = {payout.key: entries.booking(payout)}
    if payout.status == "failed":
        found[entries.reversal_key(payout)] = [(name, -amount) for name, amount in entries.booking(payout)]
    if payout.status in ("settled", "returned"):
        found[entries.settlement_key(payout)] = entries.settlement(payout)
    for one in payout.returns:
        found[entries.return_key(payout, one.reversal_id)] = entries.returned(payout, one.amount_minor)
    return [LedgerEntry(key, "USD", tuple(postings), NOW) for key, postings in found.items()]


def found(facts, booked, settled_before=LATER):
    return [words for _, words in check_payouts([facts], booked, settled_before)]


@pytest.mark.parametrize("count", range(1, len(SENT) + 1))
def test_a_sound_payout_is_sound_at_every_step_and_with_books_that_are_ahead(count):
    payout, facts = stored(SENT[:count])
    now, ahead = (books(stored(SENT[: max(3, count + more)])[0]) for more in (0, 1))
    due = [one for one in now if count >= 3]
    assert found(facts, due) == []
    assert found(facts, ahead if count > 1 else []) == []
    assert found(facts, None) == []
    assert is_payout_entry(payout.key)


def test_a_failed_payout_is_sound_with_its_reversal():
    payout, facts = stored(FAILED)
    assert found(facts, books(payout)) == []
    assert found(facts, books(payout)[:1]) == [f"the books lack {payout.key}:reversal"]


WAITED = (
    *SENT[:3],
    e.PayoutRefused("balance_insufficient", "short", NOW),
    e.PayoutWaits("balance_insufficient", "short", NOW),
    e.PayoutCleared(8_000, NOW),
    e.PayoutBooked("ent_5", NOW),
    e.PayoutSent("tr_1", NOW, NOW),
    e.PayoutSettled("ent_6", NOW),
)


def test_a_payout_that_waited_has_the_entries_of_each_try():
    payout, facts = stored(WAITED)
    first = entries.booking_of(payout, 9_000)
    undone = entries.booking_of(payout, -9_000)
    earlier = [
        LedgerEntry(payout.key, "USD", tuple(first), NOW),
        LedgerEntry(f"{payout.key}:reversal", "USD", tuple(undone), NOW),
    ]
    second = LedgerEntry(f"{payout.key}:2", "USD", tuple(entries.booking(payout)), NOW)
    settled = LedgerEntry(f"{payout.key}:settled", "USD", tuple(entries.settlement(payout)), NOW)
    assert found(facts, [*earlier, second, settled]) == []
    assert found(facts, [earlier[0], second, settled]) == [f"the books lack {payout.key}:reversal"]
    assert found(facts, [*earlier, settled]) == [f"the books lack {payout.key}:2"]
    waiting = stored(WAITED[:5])[1]
    assert found(waiting, earlier) == []
    assert "does not explain" in found(waiting, [*earlier, second])[0]
    assert found(stored(WAITED[:6])[1], [*earlier, second]) == [], "booked, and about to be recorded"


@pytest.mark.parametrize("missing", range(3))
def test_an_entry_that_is_missing_is_found_once_it_is_old_enough(missing):
    payout, facts = stored(SENT)
    booked = books(payout)
    lacking = booked.pop(missing)
    assert found(facts, booked) == [f"the books lack {lacking.entry_key}"]
    assert found(facts, booked, NOW - timedelta(seconds=1)) == []


def test_other_amounts_other_entries_and_books_without_a_payout_are_found():
    payout, facts = stored(SENT)
    first, *rest = books(payout)
    wrong = replace(first, postings=(("seller:s1:payable", 8_999), ("payouts:in_transit", -8_999)))
    assert found(facts, [wrong, *rest]) == [
        f"the books have {payout.key} with other amounts than the payout's"
    ]
    more = replace(first, entry_key=f"{payout.key}:reversal")
    assert "does not explain" in found(facts, [first, *rest, more])[0]
    alien = replace(first, entry_key="payout:s9:USD:2026-10")
    assert found(facts, [first, *rest, alien]) == [
        "the books have payout:s9:USD:2026-10, and there is no such payout"
    ]


def test_rows_that_do_not_say_what_the_events_say_are_found():
    payout, facts = stored(SENT)
    booked = books(payout)
    assert "its events say settled" in found(replace(facts, status="failed"), booked)[0]
    assert found(replace(facts, seq=7), booked) == ["has other events than 1 to 7"]
    second = replace(facts, payout_id="po_2")
    doubles = [words for _, words in check_payouts([facts, second], booked, LATER)]
    assert doubles == [f"is a second payout of {payout.key}"]
