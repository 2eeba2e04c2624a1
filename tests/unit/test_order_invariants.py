"""Every violation is found, by its own invariant and no other; a sound order in any state has none."""

from dataclasses import replace
from datetime import timedelta

import pytest

from domain.orders import commands as c
from domain.orders.booking import CLEARING
from domain.orders.decide import delivery_id
from domain.orders.invariants import (
    CAPTURED,
    OrderFacts,
    StoredEffect,
    StoredLicence,
    StoredWebhook,
    check_order,
)
from domain.orders.ledger_invariants import Charge
from tests.fakes.carts import NOW
from tests.fakes.order_facts import (
    BOOKED,
    DELIVERED,
    ENTRY,
    FULFILLED,
    KEYS_PLACE,
    OPENED,
    ORDER,
    PAID,
    PLACE,
    TOTAL_MINOR,
    WAY,
    facts,
    found,
    recorded,
)


@pytest.mark.parametrize("steps", range(1, len(WAY) + 1))
def test_a_sound_order_has_no_violation_in_any_state(steps):
    assert check_order(facts(*WAY[:steps])) == []


@pytest.mark.parametrize(
    "commands",
    [
        (PLACE, c.RecordPaymentRefused("payment_refused", "no", NOW)),
        (PLACE, OPENED, c.ExpireOrder(NOW)),
        (PLACE, OPENED, c.ExpireOrder(NOW), c.RecordPaymentVoided(NOW)),
        (PLACE, OPENED, c.ExpireOrder(NOW), PAID, BOOKED, FULFILLED),
        (PLACE, OPENED, c.ExpireOrder(NOW), c.RecordPaymentVoided(NOW), PAID),
        (PLACE, PAID, OPENED, BOOKED),
        (KEYS_PLACE, OPENED, PAID, BOOKED, FULFILLED, c.ReleaseDeliveryKey(delivery_id(ORDER, 1), NOW)),
        (KEYS_PLACE, OPENED, PAID, BOOKED, FULFILLED, c.ForgetKeys(NOW)),
        (PLACE, OPENED, c.RecordPaymentFailure("evt_0", "card_declined", "no", NOW), PAID),
    ],
)
def test_nor_has_one_that_took_another_way(commands):
    assert check_order(facts(*commands)) == []


def test_what_is_not_known_is_not_checked():
    assert check_order(OrderFacts(ORDER, DELIVERED.events)) == []


def without(sequence, index):
    return [one for position, one in enumerate(sequence) if position != index]


PAID_AT, BOOKED_AT, LICENSED_AT = 3, 4, 5  # positions of these events in DELIVERED
EVENTS = [one.event for one in DELIVERED.events]
PLANTED = {
    "events with a gap": ("I6", {"events": without(DELIVERED.events, 2)}),
    "an event twice": ("I6", {"events": [*DELIVERED.events[:3], DELIVERED.events[2], *DELIVERED.events[3:]]}),
    "an event with a foreign id": (
        "I6",
        {"events": [replace(DELIVERED.events[0], event_id="evt_x"), *DELIVERED.events[1:]]},
    ),
    "an unreadable event": (
        "I6",
        {"events": [*DELIVERED.events[:-1], replace(DELIVERED.events[-1], event=None)]},
    ),
    "no events": ("I6", {"events": []}),
    "created twice": ("I6", {"events": recorded([EVENTS[0], *EVENTS])}),
    "a history without a beginning": ("I6", {"events": recorded(EVENTS[1:])}),
    "a status that the events deny": ("I6", {"row": replace(DELIVERED.row, status="booked")}),
    "a sequence number that the events deny": ("I6", {"row": replace(DELIVERED.row, seq=6)}),
    "another total": ("I6", {"row": replace(DELIVERED.row, total_minor=1)}),
    "another buyer": ("I6", {"row": replace(DELIVERED.row, buyer_id="mallory")}),
    "a licence lost": ("I3", {"licences": DELIVERED.licences[:1]}),
    "a licence too many": (
        "I3",
        {"licences": [*DELIVERED.licences, StoredLicence("lic_x", 3, "rel_1", 1)]},
    ),
    "a licence twice": ("I3", {"licences": [*DELIVERED.licences, DELIVERED.licences[0]]}),
    "a licence of another release": (
        "I3",
        {"licences": [replace(DELIVERED.licences[0], release_id="rel_2"), DELIVERED.licences[1]]},
    ),
    "a licence for more seats": (
        "I3",
        {"licences": [replace(DELIVERED.licences[0], quantity=100), DELIVERED.licences[1]]},
    ),
    "a delivery lost": ("I3", {"deliveries": []}),
    "a delivery with a drawn id": (
        "I3",
        {"deliveries": [replace(DELIVERED.deliveries[0], delivery_id="dlv_x"), DELIVERED.deliveries[1]]},
    ),
    "an effect of an order that has ended": ("I9", {"effects": [StoredEffect("expire")]}),
    "an effect that was never due": ("I9", {"effects": [StoredEffect("refund")]}),
    "a paying webhook that was not kept": ("I10", {"webhooks": []}),
    "a paying webhook that still waits": ("I10", {"webhooks": [StoredWebhook("evt_1", processed=False)]}),
    "no entry in Finance": ("I4", {"entries": []}),
    "an entry of other amounts": (
        "I1",
        {"entries": [replace(ENTRY, postings=((CLEARING, 1), ("platform:fees", -1)))]},
    ),
    "an entry in another currency": ("I1", {"entries": [replace(ENTRY, currency="EUR")]}),
    "a second entry": (
        "I1",
        {"entries": [ENTRY, replace(ENTRY, entry_key=f"{ORDER}:again")]},
    ),
    "an entry that does not balance": (
        "I1",
        {"entries": [replace(ENTRY, postings=(*ENTRY.postings, ("platform:fees", 1)))]},
    ),
    "two charges": ("I2", {"charges": [*DELIVERED.charges, Charge("pi_2", TOTAL_MINOR, "USD", NOW)]}),
    "no charge at Stripe": ("I1", {"charges": []}),
    "a charge of another amount": ("I1", {"charges": [replace(DELIVERED.charges[0], amount_minor=1)]}),
    "paid twice": ("I2", {"events": recorded([*EVENTS[:4], EVENTS[PAID_AT], *EVENTS[4:]])}),
    "booked twice": ("I1", {"events": recorded([*EVENTS[:5], EVENTS[BOOKED_AT], *EVENTS[5:]])}),
    "licensed twice": ("I3", {"events": recorded([*EVENTS[:6], EVENTS[LICENSED_AT], *EVENTS[6:]])}),
    "licensed before booked": (
        "I4",
        {"events": recorded([*EVENTS[:4], EVENTS[LICENSED_AT], EVENTS[BOOKED_AT], *EVENTS[6:]])},
    ),
    "booked under another key": (
        "I4",
        {"events": recorded([*EVENTS[:4], replace(EVENTS[BOOKED_AT], entry_key="other"), *EVENTS[5:]])},
    ),
    "paid a wrong amount": (
        "I1",
        {"events": recorded([*EVENTS[:3], replace(EVENTS[PAID_AT], amount_minor=1), *EVENTS[4:]])},
    ),
    "licensed with other ids": (
        "I3",
        {
            "events": recorded(
                [
                    *EVENTS[:5],
                    replace(EVENTS[LICENSED_AT], licence_ids=("lic_x", "lic_y")),
                    *EVENTS[6:],
                ]
            )
        },
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_in_a_delivered_order_is_found_and_nothing_else(name):
    invariant, changes = PLANTED[name]
    broken = replace(DELIVERED, **changes)
    if changes.get("events"):  # only the history itself is wrong, the row agrees with it
        broken = replace(broken, row=None)
    assert found(broken) == {invariant}, check_order(broken)


def test_never_booked_but_licensed():
    events = recorded(without(EVENTS, BOOKED_AT))
    assert found(replace(DELIVERED, events=events, row=None, entries=None, effects=None)) == {"I4"}


@pytest.mark.parametrize(
    ("steps", "changes", "invariant"),
    [
        (2, {"effects": []}, "I9"),
        (3, {"effects": []}, "I9"),
        (4, {"effects": []}, "I9"),
        (4, {"licences": DELIVERED.licences}, "I4"),
        (4, {"deliveries": DELIVERED.deliveries}, "I3"),
        (2, {"entries": [ENTRY]}, "I1"),
        (2, {"charges": DELIVERED.charges}, "I1"),
        (3, {"effects": [StoredEffect("book", NOW - timedelta(seconds=1))]}, "I9"),
        (2, {"webhooks": [StoredWebhook("evt_9", processed=False, due_at=NOW - timedelta(seconds=1))]}, "I9"),
    ],
)
def test_what_is_planted_in_an_order_under_way_is_found(steps, changes, invariant):
    assert found(facts(*WAY[:steps], **changes)) == {invariant}


def test_a_dead_letter_is_an_open_case_and_not_overdue():
    dead = [StoredEffect("book", NOW - timedelta(days=9), dead=True)]
    assert check_order(facts(*WAY[:3], effects=dead)) == []


def test_what_an_operator_dropped_still_leaves_an_order_that_nobody_finishes():
    (violation,) = check_order(facts(*WAY[:3], effects=[], dropped_steps=["book"]))
    assert violation.invariant == "I9"
    assert "an operator dropped it" in violation.detail


def test_an_order_that_has_ended_needs_nothing_that_was_dropped():
    delivered = facts(KEYS_PLACE, *WAY[1:], effects=[], dropped_steps=["forget_keys"])
    assert check_order(delivered) == []
    assert found(replace(delivered, dropped_steps=[])) == {"I9"}


def test_an_old_webhook_may_have_been_purged():
    old = replace(DELIVERED, webhooks=[], as_of=NOW + timedelta(days=30))
    assert check_order(old) == []


def test_a_charge_that_an_operator_has_returned_is_settled():
    """Of a second payment, and of one that came after the order had ended and whose news was dropped."""
    second = Charge("pi_2", TOTAL_MINOR, "USD", NOW, refunded_minor=TOTAL_MINOR)
    assert check_order(replace(DELIVERED, charges=[*DELIVERED.charges, second])) == []
    partly = replace(second, refunded_minor=TOTAL_MINOR - 1)
    assert found(replace(DELIVERED, charges=[*DELIVERED.charges, partly])) == {"I2"}
    unpaid = facts(*WAY[:2], charges=[second])
    assert check_order(unpaid) == []
    assert found(replace(unpaid, charges=[partly])) == {"I1"}


def test_a_capture_that_lies_before_an_operator_is_an_open_case():
    refused = [StoredWebhook("evt_2", processed=False, dead=True, kind=CAPTURED)]
    assert check_order(facts(*WAY[:2], charges=DELIVERED.charges, webhooks=refused)) == []


@pytest.mark.parametrize("kind", ["payment_intent.payment_failed", "payment_intent.canceled", ""])
def test_news_of_another_kind_hides_no_capture(kind):
    refused = [StoredWebhook("evt_2", processed=False, dead=True, kind=kind)]
    assert found(facts(*WAY[:2], charges=DELIVERED.charges, webhooks=refused)) == {"I1"}


def test_a_capture_that_stripe_told_when_asked_has_no_webhook():
    told = replace(PAID, stripe_event_id="pi_1:retrieved")
    assert check_order(facts(PLACE, OPENED, told, webhooks=[])) == []


def test_a_forgotten_key_is_gone():
    kept = facts(KEYS_PLACE, OPENED, PAID, BOOKED, FULFILLED, c.ForgetKeys(NOW))
    kept = replace(kept, deliveries=[replace(one, holds_key=True) for one in kept.deliveries])
    assert found(kept) == {"I6"}


def test_the_books_and_stripe_may_be_ahead_by_the_grace_and_no_longer():
    ahead = facts(*WAY[:2], entries=[ENTRY], charges=DELIVERED.charges)
    assert check_order(ahead, grace_s=1) == []
    later = replace(ahead, as_of=NOW + timedelta(seconds=1))
    assert found(later, grace_s=1) == {"I1"}
    assert found(replace(ahead, as_of=None), grace_s=1) == {"I1"}  # nothing moved: no excuse


def test_a_due_row_may_wait_for_the_grace_and_no_longer():
    waiting = facts(*WAY[:3], effects=[StoredEffect("book", NOW - timedelta(seconds=5))])
    assert check_order(waiting, grace_s=5) == []
    assert found(waiting, grace_s=4) == {"I9"}


def test_an_order_holds_the_use_of_its_code_until_it_ends_unpaid():
    coded = replace(PLACE, discount_id="dsc_1")
    held, refused = [("dsc_1", PLACE.buyer_id)], c.RecordPaymentRefused("payment_refused", "no", NOW)
    expired = (coded, OPENED, c.ExpireOrder(NOW))
    for way, uses in (
        ((PLACE,), []),
        ((coded,), held),
        (expired, held),
        ((*expired, c.RecordPaymentVoided(NOW)), []),
        ((coded, refused), []),
    ):
        assert check_order(facts(*way, discount_uses=uses)) == []
        assert found(facts(*way, discount_uses=[] if uses else held)) == {"I6"}
    assert found(facts(coded, discount_uses=[("dsc_1", "somebody")])) == {"I6"}
