"""What a faultless marketplace holds of one order in any state: for tests of the invariants."""

from dataclasses import replace
from datetime import timedelta

from domain.ids import derive_id
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key, capture_postings
from domain.orders.decide import decide, delivery_id, effects_after, licence_id
from domain.orders.invariants import (
    CAPTURED,
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
from domain.orders.state import evolve, fold
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
