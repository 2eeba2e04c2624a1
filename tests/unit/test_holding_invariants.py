"""What buyers hold and what left: each violation is found by its invariant, a sound order has none."""

import base64
from dataclasses import replace

import pytest

from domain import licences, statements
from domain.dsse import Envelope, Signature
from domain.fulfilment import ReleaseMaterial, licence_payload, manifest_payload
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key
from domain.orders.decide import decide, delivery_id, licence_id
from domain.orders.events import OrderPaid
from domain.orders.holding_invariants import (
    DeliveryTerms,
    LicenceTerms,
    StoredSuccessor,
    check_deliveries,
    check_licences,
)
from domain.orders.invariants import StoredDelivery, StoredLicence
from domain.orders.publication_invariants import Behind, Publication, SalesSums, check_publication
from domain.orders.state import evolve
from storage.audit.documents import predicate
from tests.fakes.carts import NOW, RECIPIENT, cart, line, order_id

ORDER = order_id()
HEADER = b"age header"


def delivered():
    """An order of one line that went its whole way."""
    state = None
    for command in (
        cart(),
        c.RecordPaymentOpened("pi_1", None, NOW),
        c.ConfirmPayment("pi_1", "evt_1", 1999, "USD", NOW),
        c.RecordBooking(capture_entry_key(ORDER), "ent_1", "USD", 1999, NOW),
        c.RecordFulfilment((licence_id(ORDER, 1),), (delivery_id(ORDER, 1),), "key_1", NOW),
    ):
        for event in decide(state, command):
            state = evolve(ORDER, state, event)
    return state


SOLD = delivered()
(LINE,) = SOLD.lines
MATERIAL = ReleaseMaterial(LINE.release_id, LINE.bundle_name, LINE.bundle_sha256, 10, "cd" * 32, 11, b"")


def envelope(payload_type, payload):
    return Envelope(payload_type, payload, (Signature("key_1", bytes(64)),)).dumps()


MANIFEST = manifest_payload(SOLD, LINE, MATERIAL, RECIPIENT, HEADER)
LICENCE = StoredLicence(
    licence_id(ORDER, 1),
    1,
    LINE.release_id,
    1,
    "active",
    LicenceTerms(
        LINE.sku_id,
        SOLD.buyer_id,
        predicate(envelope(licences.PAYLOAD_TYPE, licence_payload(SOLD, LINE)), licences.PAYLOAD_TYPE),
    ),
)
DELIVERY = StoredDelivery(
    delivery_id(ORDER, 1),
    1,
    LINE.release_id,
    terms=DeliveryTerms(
        "recipient",
        RECIPIENT,
        SOLD.buyer_id,
        HEADER,
        predicate(envelope(statements.PAYLOAD_TYPE, MANIFEST), statements.PAYLOAD_TYPE),
    ),
)


def test_what_a_buyer_holds_of_a_sound_order_is_right():
    assert list(check_licences(SOLD, [LICENCE])) == []
    assert list(check_deliveries(SOLD, [DELIVERY])) == []


def test_what_was_not_read_is_not_checked():
    assert list(check_licences(SOLD, [replace(LICENCE, status="", terms=None)])) == []
    assert list(check_deliveries(SOLD, [replace(DELIVERY, terms=None)])) == []
    bare = replace(LICENCE, terms=LicenceTerms(LINE.sku_id))
    assert list(check_licences(SOLD, [bare])) == []


def test_a_licence_must_be_active():
    ((invariant, words),) = check_licences(SOLD, [replace(LICENCE, status="revoked")])
    assert invariant == "I5"
    assert "revoked instead of active" in words


@pytest.mark.parametrize("changes", [{"buyer_id": "mallory"}, {"sku_id": "sku_9"}, {"document": {}}], ids=str)
def test_a_licence_of_somebody_or_something_else_is_found(changes):
    wrong = replace(LICENCE, terms=replace(LICENCE.terms, **changes))
    assert [invariant for invariant, _ in check_licences(SOLD, [wrong])] == ["I3"]


def successor(serial, supersedes, buyer="buyer_bob", **changes):
    """A document as a transfer writes it, in its row."""
    document_id = f"lic_{serial}"
    document = LICENCE.terms.document | {"licence_id": document_id, "buyer_id": buyer} | changes
    return StoredSuccessor(document_id, serial, supersedes, buyer, document)


def test_documents_that_follow_each_other_are_right():
    rows = [successor(2, LICENCE.licence_id), successor(3, "lic_2", "buyer_cyd")]
    assert list(check_licences(SOLD, [replace(LICENCE, successors=rows)])) == []


@pytest.mark.parametrize(
    "rows",
    [
        [successor(3, LICENCE.licence_id)],
        [successor(2, "lic_other")],
        [successor(2, LICENCE.licence_id), successor(3, LICENCE.licence_id)],
        [successor(2, LICENCE.licence_id, quantity=9)],
        [successor(2, LICENCE.licence_id, sku_id="sku_9")],
        [replace(successor(2, LICENCE.licence_id), buyer_id="mallory")],
        [replace(successor(2, LICENCE.licence_id), document={})],
    ],
)
def test_a_document_that_follows_nothing_or_says_something_else_is_found(rows):
    found = [invariant for invariant, _ in check_licences(SOLD, [replace(LICENCE, successors=rows)])]
    assert found == ["I3"]


@pytest.mark.parametrize(
    "name",
    [
        "licence_id",
        "order_id",
        "line_no",
        "buyer_id",
        "seller_id",
        "sku_id",
        "release_id",
        "version",
        "quantity",
    ],
)
def test_a_licence_whose_document_names_another_is_found(name):
    document = {**LICENCE.terms.document, name: "another"}
    wrong = replace(LICENCE, terms=replace(LICENCE.terms, document=document))
    ((invariant, words),) = check_licences(SOLD, [wrong])
    assert invariant == "I3"
    assert words.endswith(f"another {name}")


@pytest.mark.parametrize(
    "changes",
    [
        {"buyer_id": "mallory"},
        {"mode": "released_key"},
        {"header": b"another"},
        {"document": {}},
        {"document": {**DELIVERY.terms.document, "order_id": "ord_x"}},
        {"document": {**DELIVERY.terms.document, "header_b64": base64.b64encode(b"x").decode()}},
    ],
    ids=str,
)
def test_a_delivery_of_somebody_or_something_else_is_found(changes):
    wrong = replace(DELIVERY, terms=replace(DELIVERY.terms, **changes))
    assert [invariant for invariant, _ in check_deliveries(SOLD, [wrong])] == ["I3"]


def test_a_delivery_sealed_for_another_key_is_found_by_the_choice_and_by_the_manifest():
    wrong = replace(DELIVERY, terms=replace(DELIVERY.terms, recipient="age1mallory"))
    assert [invariant for invariant, _ in check_deliveries(SOLD, [wrong])] == ["I3", "I3"]


@pytest.mark.parametrize(
    "text",
    [
        "envelope",
        "[]",
        "{}",
        '{"payloadType":"t","payload":1}',
        '{"payloadType":"t","payload":"!"}',
        '{"payloadType":"t","payload":"W10="}',
        '{"payloadType":"t","payload":"eyJwcmVkaWNhdGUiOjF9"}',
        '{"payloadType":"u","payload":"eyJwcmVkaWNhdGUiOnsieCI6MX19"}',
    ],
)
def test_what_is_no_document_of_this_type_has_no_predicate(text):
    assert predicate(text, "t") == {}


def test_a_predicate_is_read():
    assert predicate('{"payloadType":"t","payload":"eyJwcmVkaWNhdGUiOnsieCI6MX19"}', "t") == {"x": 1}


@pytest.mark.parametrize(
    "publication",
    [
        Publication(),
        Publication([(4, 5)], [Behind("sales", 3)]),
        Publication([(4, 4), (5, 5)], [Behind("sales", 3), Behind("log", 4)]),
        Publication([], [Behind("sales", 3, parked_seq=4)]),
        Publication([(4, 4)], [Behind("sales", 3, parked_seq=5)]),
        Publication([], [Behind("sales", 0, unasked_seq=5)]),
        Publication([(5, 5)], [Behind("sales", 0, unasked_seq=4)]),
        Publication([(1, 5)]),
    ],
)
def test_an_event_that_waits_or_was_taken_is_not_lost(publication):
    assert list(check_publication(publication, 5)) == []


@pytest.mark.parametrize(
    "publication",
    [
        Publication([], [Behind("sales", 4)]),
        Publication([(5, 5)], [Behind("sales", 3)]),
        Publication([(4, 4)], [Behind("sales", 3)]),
        Publication([(4, 5)], [Behind("sales", 0)]),
        Publication([], [Behind("sales", 3, parked_seq=5)]),
        Publication([], [Behind("sales", 6)]),
        Publication([(5, 6)]),
        Publication([(0, 1)]),
        Publication([], [Behind("sales", 0, unasked_seq=4)]),
    ],
)
def test_an_event_that_is_lost_on_its_way_is_found(publication):
    assert {invariant for invariant, _ in check_publication(publication, 5)} == {"I6"}


PAID = OrderPaid("pi_1", "evt_1", 1999, "USD", NOW)
SKU, DAY = ("sku", "sku_1", "USD"), ("day", "2026-11-24", "USD")
ONE = {SKU: (1, 1, 1999), DAY: (1, 1, 1999)}
NONE = {}


NOBODY_BEHIND = Publication()


def sums(publication=NOBODY_BEHIND, *, sure=True, order=SOLD):
    sums = SalesSums()
    sums.add(order, PAID, 4, publication, sure=sure)
    return sums


def test_sales_are_the_paid_orders():
    assert list(sums().violations(ONE, ONE)) == []


def test_a_sale_may_be_taken_while_orders_are_read():
    assert list(sums().violations(NONE, ONE)) == []
    assert list(sums(Publication(behind=[Behind("sales", 3)])).violations(NONE, ONE)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NONE, NONE),
        (ONE, {SKU: (1, 1, 1999)}),
        ({**ONE, SKU: (2, 1, 1999)}, {**ONE, SKU: (2, 1, 1999)}),
        ({**ONE, ("sku", "sku_2", "USD"): (1, 1, 1)}, {**ONE, ("sku", "sku_2", "USD"): (1, 1, 1)}),
    ],
)
def test_sales_that_are_not_the_paid_orders_are_found(before, after):
    assert {invariant for invariant, _ in sums().violations(before, after)} == {"I6"}


def test_a_sale_that_was_not_taken_cannot_have_been_counted():
    assert list(sums(Publication(behind=[Behind("sales", 3)])).violations(ONE, ONE))


@pytest.mark.parametrize("held", [NONE, ONE])
def test_what_nobody_can_be_sure_of_may_be_counted_or_not(held):
    assert list(sums(sure=False).violations(held, held)) == []
    assert list(sums(Publication(behind=[Behind("sales", 0, unasked_seq=4)])).violations(held, held)) == []


def test_an_unread_order_may_have_been_sold():
    nothing = SalesSums()
    nothing.unread = 1
    assert list(nothing.violations(ONE, ONE)) == []
    nothing.merge(sums())
    assert list(nothing.violations(NONE, NONE))


def test_an_order_counts_once_per_sku():
    two = decide(None, cart(1, line(1), replace(line(2, quantity=3), sku_id="sku_1")))[0]
    order = evolve(ORDER, None, two)
    assert sums(order=order).taken[SKU, "orders"] == 1
    assert sums(order=order).taken[SKU, "units"] == 4
