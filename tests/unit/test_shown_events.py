"""What a buyer may see of an event: a proof of the audit log shows its record whole."""

from dataclasses import fields

from domain.audit.entries import event_record, kind_in
from domain.orders.events import KINDS
from serve_app.schemas.orders import SHOWN_WHOLE
from tests.fakes.carts import NOW

# Ids, times and amounts that the buyer knows from the order. Neither persons nor reasons, shares or texts.
HARMLESS = {
    "at", "payment_intent_id", "stripe_event_id", "amount_minor", "currency", "licence_ids", "key_id",
    "delivery_ids", "delivery_id", "key_ttl_s", "refund_id", "line_nos",
}  # fmt: skip


def test_whatever_is_shown_whole_has_nothing_to_hide():
    for kind in SHOWN_WHOLE:
        assert {field.name for field in fields(KINDS[kind])} <= HARMLESS, kind


def test_a_records_kind():
    record = event_record("evt_1", "ord_1", 1, "order.paid", NOW, '{"reason": "a"}')
    assert kind_in(record) == "order.paid"
    for other in ("", "licence\n{}", "event\nevt_1", record.replace("event", "licence", 1)):
        assert kind_in(other) == ""
