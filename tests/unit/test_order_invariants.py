"""Every violation is found, by its own invariant and no other; a sound order in any state has none."""

from dataclasses import replace
from datetime import timedelta

import pytest

from domain.ids import derive_id
from domain.orders import commands as c
from domain.orders.booking import CLEARING, capture_entry_key, capture_postings
from domain.orders.decide import decide, delivery_id, effects_after, licence_id
from domain.orders.events import LicencesRestored, RefundRequested
from domain.orders.invariants import (
    CAPTURED,
    Examination,
    OrderFacts,
    OrderRow,
    RecordedEvent,
    StoredDelivery,
    StoredEffect,
    StoredLicence,
    StoredWebhook,
    check_order,
)
from domain.orders.ledger_invariants import Charge, LedgerEntry
from domain.orders.lines import DeliveryChoice
from domain.orders.return_invariants import return_entries
from domain.orders.state import evolve, fold
from domain.orders.totals import LedgerTotal, Totals
from tests.fakes.carts import NOW, cart, line, order_id

ORDER = order_id()
PLACE = cart(1, line(1), line(2, price_minor=501, quantity=3, seller_id="seller_2"))
TOTAL_MINOR = 1999 + 3 * 501
OPENED = c.RecordPaymentOpened("pi_1", None, NOW)
PAID = c.ConfirmPayment("pi_1", "evt_1", TOTAL_MINOR, "USD", NOW)
BOOKED = c.RecordBooking(capture_entry_key(ORDER), "ent_1", "USD", TOTAL_MINOR, NOW)
FULFILLED = c.RecordFulfilment(
    (licence_id(ORDER, 1), licence_id(ORDER, 2)),
    (delivery_id(ORDER, 1), delivery_id(ORDER, 2)),
    "key_1",
    NOW,
)
WAY = (PLACE, OPENED, PAID, BOOKED, FULFILLED)
KEYS_PLACE = replace(PLACE, delivery=DeliveryChoice("released_key", None))


def facts(*commands, **changes):
    """What a faultless marketplace holds after these commands."""
    state, events, live = None, [], set()
    for command in commands:
        for event in decide(state, command):
            state = evolve(ORDER, state, event)
            events.append(event)
            due, done = effects_after(event)
            live = live - set(done) | {effect.step for effect in due}
    booked, paid = state.entry_key is not None, state.paid_at is not None
    whole = OrderFacts(
        order_id=ORDER,
        events=recorded(events),
        row=OrderRow(state.status.value, state.seq, state.buyer_id, state.currency, state.total_minor),
        licences=[
            StoredLicence(licence_id(ORDER, one.line_no), one.line_no, one.release_id, one.quantity)
            for one in state.lines
            if state.licence_ids
        ],
        deliveries=[
            StoredDelivery(delivery_id(ORDER, one.line_no), one.line_no, one.release_id)
            for one in state.lines
            if state.delivery_ids
        ],
        effects=[StoredEffect(step, NOW + timedelta(seconds=3)) for step in live],
        webhooks=[StoredWebhook("evt_1", processed=True, kind=CAPTURED)] if paid else [],
        entries=[ENTRY] if booked else [],
        charges=[Charge("pi_1", TOTAL_MINOR, "USD", NOW)] if paid else [],
        as_of=NOW,
        charges_as_of=NOW,
    )
    return replace(whole, **changes)


def recorded(events):
    return [
        RecordedEvent(seq, derive_id("evt", ORDER, str(seq)), event) for seq, event in enumerate(events, 1)
    ]


ENTRY = LedgerEntry(capture_entry_key(ORDER), "USD", capture_postings(fold(ORDER, decide(None, PLACE))), NOW)
DELIVERED = facts(*WAY)


def found(broken, **options):
    return {violation.invariant for violation in check_order(broken, **options)}


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
