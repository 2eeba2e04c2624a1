"""What counts as a difference between an order, Finance's entries and Stripe's objects."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cluster.bench.order_life import PRICE_MINOR, order_id_at, place_command, whole_life
from domain.orders import commands as c
from domain.orders.booking import (
    capture_entry_key,
    capture_postings,
    fee_entry_key,
    fee_postings,
    return_entry_key,
    return_postings,
)
from domain.orders.decide import decide
from domain.orders.return_invariants import movements_of
from domain.orders.state import Status, evolve
from domain.reconciliation.cases import case_id
from domain.reconciliation.compare import examine, suspects
from domain.reconciliation.facts import (
    CHARGE,
    DISPUTE,
    REFUND,
    Booked,
    Facts,
    Kind,
    Post,
    Rebook,
    Reverse,
    StripeObject,
    TellOrder,
)

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = AT + timedelta(days=1)
PI, FEE = "pi_1", 88


def sold(turns=None):
    """An order with these many of its turns: 4 are all, 3 is paid, 2 waits for payment."""
    return whole_life(place_command(order_id_at(int(AT.timestamp() * 1000)), "usr_1", AT), PI)[:turns][
        -1
    ].order


def told(order, *commands):
    for command in commands:
        for event in decide(order, command):
            order = evolve(order.order_id, order, event)
    return order


def charge(**changes):
    made = StripeObject("ch_1", CHARGE, PI, PRICE_MINOR, "USD", "succeeded", AT, FEE, "USD")
    return replace(made, **changes)


def refund(**changes):
    return replace(StripeObject("re_1", REFUND, PI, 500, "USD", "succeeded", AT, 0, "USD"), **changes)


def dispute(**changes):
    made = StripeObject(
        "dp_1", DISPUTE, PI, PRICE_MINOR, "USD", "needs_response", AT, fees=(("txn_1", 1500),)
    )
    return replace(made, **changes)


def books(order):
    """Every entry that the order and its fee explain."""
    entries = [Booked(capture_entry_key(order.order_id), "USD", capture_postings(order), AT)]
    for movement in movements_of(order):
        at, postings = return_postings(order, movement)
        entries.append(Booked(return_entry_key(order.order_id, movement), "USD", postings, at))
    return [*entries, Booked(fee_entry_key(order.order_id), "USD", fee_postings(FEE), AT)]


def facts(order, objects=None, entries=None, **more):
    objects = [charge()] if objects is None else objects
    entries = books(order) if entries is None else entries
    return Facts(order.order_id, order, objects, entries, {1: "active"} if order.paid_at else {}, **more)


def found(of, settled_before=LATER):
    return examine(of, settled_before).differences


def only(of):
    (difference,) = found(of)
    return difference


def noticed_refund(order, **changes):
    news = dict(zip(("status",), ("succeeded",), strict=True)) | changes
    return told(order, c.NoticeRefund("re_1", "", PI, 500, "USD", news["status"], "", AT))


def noticed_dispute(order, *statuses, fees=(("txn_1", 1500),)):
    return told(
        order,
        *(c.NoticeDispute("dp_1", PI, PRICE_MINOR, "USD", one, "fraudulent", fees, AT) for one in statuses),
    )


def test_what_agrees_is_no_difference():
    order = sold()
    assert not found(facts(order))
    assert not examine(facts(order), LATER).fees
    returned = noticed_refund(order)
    assert not found(facts(returned, [charge(returned_minor=500), refund()]))
    for status in ("needs_response", "under_review", "won", "lost"):
        fought = noticed_dispute(order, "needs_response", status)
        assert not found(facts(fought, [charge(), dispute(status=status)])), status


def test_an_unpaid_order_is_told_of_its_capture():
    order = sold(2)
    difference = only(facts(order, entries=[]))
    assert (difference.kind, difference.actual_minor) == (Kind.CAPTURE_NOT_RECORDED, PRICE_MINOR)
    assert isinstance(difference.fix, TellOrder)
    news = difference.fix.news
    paid = told(order, c.ConfirmPayment(PI, news.event_id, news.amount_minor, news.currency, AT))
    assert paid.paid_at is not None
    waits = facts(order, entries=[], waiting=[("evt_9", PI, True)])
    assert only(waits).fix is None, "a dead letter about it is an operator's matter"
    assert not found(facts(order, [charge(returned_minor=PRICE_MINOR)], [])), "returned by hand"


@pytest.mark.parametrize(
    ("objects", "kind", "amounts"),
    [
        ([], Kind.CAPTURE_MISSING_AT_STRIPE, (PRICE_MINOR, 0)),
        ([charge(amount_minor=1500)], Kind.CAPTURE_DIFFERS, (PRICE_MINOR, 1500)),
        ([charge(currency="EUR")], Kind.CAPTURE_DIFFERS, (PRICE_MINOR, PRICE_MINOR)),
        (
            [charge(), charge(object_id="ch_2", payment_intent_id="pi_2", fee_minor=0)],
            Kind.CAPTURED_TWICE,
            (0, PRICE_MINOR),
        ),
    ],
)
def test_captures_that_differ(objects, kind, amounts):
    entries = [one for one in books(sold()) if objects or not one.entry_key.endswith(":fee")]
    order = sold()
    entries = [replace(one, entry_key=order.order_id + one.entry_key[30:]) for one in entries]
    difference = only(facts(order, objects, entries))
    assert (difference.kind, (difference.expected_minor, difference.actual_minor)) == (kind, amounts)


def test_entries_that_differ():
    order = sold()
    capture, fee = books(order)
    missing = only(facts(order, entries=[fee]))
    assert missing.kind is Kind.NOT_BOOKED
    assert missing.fix == Post(capture.entry_key, "USD", order.paid_at, capture_postings(order))
    (clearing, total), (payable, net), *rest = capture.postings
    wrong = replace(capture, postings=[(clearing, total - 100), (payable, net + 100), *rest])
    difference = only(facts(order, entries=[wrong, fee]))
    assert (difference.kind, difference.actual_minor) == (Kind.BOOKED_DIFFERENTLY, PRICE_MINOR - 100)
    assert isinstance(difference.fix, Rebook)
    other = replace(capture, postings=[(clearing, total), ("seller:other:payable", net), *rest])
    assert only(facts(order, entries=[other, fee])).kind is Kind.BOOKED_DIFFERENTLY
    again = replace(capture, entry_key=f"{order.order_id}:again")
    twice = only(facts(order, entries=[capture, again, fee]))
    assert (twice.kind, twice.fix) == (Kind.BOOKED_TWICE, Reverse(again.entry_key))
    assert only(facts(sold(2), [], [again])).kind is Kind.BOOKED_WITHOUT_ORDER


def test_a_reversed_entry_is_none_and_its_correction_stands_for_it():
    order = sold()
    capture, fee = books(order)
    undone = replace(capture, undone=True)
    reversal = replace(capture, entry_key=f"{capture.entry_key}:reversal", undone=True)
    missing = only(facts(order, entries=[undone, reversal, fee]))
    assert missing.kind is Kind.NOT_BOOKED
    assert isinstance(missing.fix, Post)
    assert missing.fix.entry_key == f"{capture.entry_key}:corrected"
    corrected = replace(capture, entry_key=missing.fix.entry_key)
    assert not found(facts(order, entries=[undone, reversal, corrected, fee]))
    still_wrong = replace(corrected, postings=[("stripe:clearing", 1), ("platform:fees", -1)])
    difference = only(facts(order, entries=[undone, reversal, still_wrong, fee]))
    assert (difference.kind, difference.fix) == (Kind.BOOKED_DIFFERENTLY, None)


def test_fees_are_booked_once_and_compared():
    order = sold()
    capture, fee = books(order)
    assert examine(facts(order, entries=[capture]), LATER).fees == [
        Post(fee.entry_key, "USD", AT, fee_postings(FEE))
    ]
    wrong = replace(fee, postings=fee_postings(100))
    difference = only(facts(order, entries=[capture, wrong]))
    assert (difference.kind, difference.expected_minor, difference.actual_minor) == (
        Kind.FEE_DIFFERS,
        -88,
        -100,
    )
    assert not examine(facts(order, entries=[capture, wrong]), LATER).fees
    settled = charge(fee_currency="EUR")
    assert examine(facts(order, [settled], [capture]), LATER).fees[0].currency == "EUR"
    second = charge(object_id="ch_2", payment_intent_id="pi_2", returned_minor=PRICE_MINOR)
    (extra,) = examine(facts(order, [charge(), second]), LATER).fees
    assert extra.entry_key == f"{order.order_id}:fee:ch_2"


def test_refunds_that_differ():
    order = sold()
    unknown = only(facts(order, [charge(returned_minor=500), refund()]))
    assert unknown.kind is Kind.REFUND_NOT_RECORDED
    assert isinstance(unknown.fix, TellOrder)
    news = unknown.fix.news
    mended = told(
        order,
        c.NoticeRefund(
            news.object_id, news.refund_id, news.payment_intent_id, news.amount_minor, news.currency,
            news.object_status, news.code, AT,
        ),
    )  # fmt: skip
    assert not found(facts(mended, [charge(returned_minor=500), refund()]))
    assert not found(facts(order, [charge(), refund(status="failed")])), "nothing was returned in the end"
    returned = noticed_refund(order)
    assert only(facts(returned, [charge()])).kind is Kind.REFUND_MISSING_AT_STRIPE
    failed = only(facts(returned, [charge(), refund(status="failed")]))
    assert failed.kind is Kind.REFUND_DIFFERS
    assert isinstance(failed.fix, TellOrder)
    amount = only(facts(returned, [charge(), refund(amount_minor=400)]))
    assert (amount.kind, amount.fix) == (Kind.REFUND_DIFFERS, None)
    pending = noticed_refund(order, status="pending")
    assert only(facts(pending, [charge(), refund()])).kind is Kind.REFUND_DIFFERS, "it was never told the end"


def test_disputes_that_differ():
    order = sold()
    unknown = only(facts(order, [charge(), dispute()]))
    assert unknown.kind is Kind.DISPUTE_NOT_RECORDED
    assert isinstance(unknown.fix, TellOrder)
    assert unknown.fix.news.fees == (("txn_1", 1500),)
    assert not found(facts(order, [charge(), dispute(status="warning_needs_response")]))
    fought = noticed_dispute(order, "needs_response")
    assert only(facts(fought, [charge()])).kind is Kind.DISPUTE_MISSING_AT_STRIPE
    lost = only(facts(fought, [charge(), dispute(status="lost")]))
    assert lost.kind is Kind.DISPUTE_DIFFERS
    assert isinstance(lost.fix, TellOrder)
    unpaid = noticed_dispute(order, "needs_response", fees=())
    fee = only(facts(unpaid, [charge(), dispute()]))
    assert fee.kind is Kind.DISPUTE_DIFFERS
    assert isinstance(fee.fix, TellOrder)
    before = only(facts(order, [charge(), dispute(fees=())])).fix
    assert before.news.event_id != fee.fix.news.event_id, "what was told without a fee does not stop the fee"


def test_a_fee_that_is_given_back_or_raised_is_told_to_a_dispute_that_is_over():
    won = noticed_dispute(sold(), "needs_response", "won")
    back = (("txn_1", 1500), ("txn_2", -1500))
    difference = only(facts(won, [charge(), dispute(status="won", fees=back)]))
    assert difference.kind is Kind.DISPUTE_DIFFERS
    assert isinstance(difference.fix, TellOrder)
    after = noticed_dispute(won, "won", fees=difference.fix.news.fees)
    assert not found(facts(after, [charge(), dispute(status="won", fees=back)]))
    raised = (*back, ("txn_3", 700))
    again = only(facts(after, [charge(), dispute(status="won", fees=raised)]))
    assert again.fix.news.event_id != difference.fix.news.event_id
    gone = only(facts(after, [charge(), dispute(status="won")]))
    assert gone.fix is None, "the order knows a fee that Stripe does not: nobody can tell it that"


def test_an_order_that_costs_nothing_has_a_claim_to_its_licences():
    placed = place_command(order_id_at(int(AT.timestamp() * 1000)), "usr_1", AT)
    free = replace(placed, lines=tuple(replace(one, unit_price_minor=0, fee_minor=0) for one in placed.lines))
    order = None
    for event in decide(None, free):
        order = evolve(free.order_id, order, event)
    licensed = Facts(order.order_id, order, [], [], {1: "active"})
    assert not found(replace(licensed, order=replace(order, stage=Status.DELIVERED)))
    assert only(replace(licensed, licences={})).kind is Kind.PAID_WITHOUT_LICENCE


def test_licences_follow_payment():
    order = sold(2)
    unpaid = Facts(order.order_id, order, [], [], {1: "active"})
    assert only(unpaid).kind is Kind.LICENCE_WITHOUT_PAYMENT
    paid = sold(3)
    waits = facts(paid)
    assert not found(waits, settled_before=AT + timedelta(minutes=59))
    assert only(waits).kind is Kind.PAID_WITHOUT_LICENCE


def test_a_payment_that_was_returned_by_hand_is_settled():
    """Of an order that had ended before it was paid: the dead letter says to return it."""
    order = told(sold(2), c.NoticePaymentCancelled(PI, "requested_by_customer", AT))
    returned = [charge(returned_minor=PRICE_MINOR), refund(amount_minor=PRICE_MINOR)]
    assert not found(Facts(order.order_id, order, returned, []))
    partly = [charge(returned_minor=500), refund()]
    assert only(Facts(order.order_id, order, partly, [])).kind is Kind.CAPTURE_NOT_RECORDED


def test_a_refund_that_stripe_made_twice_is_told():
    order = sold()
    asked = told(order, c.RequestRefund("rfd_1", (), 500, "operator", "usr_9", "Twice.", "00", AT))
    refunded = told(asked, c.RecordRefund("rfd_1", "re_1", "succeeded", AT))
    once, again = refund(refund_id="rfd_1"), refund(object_id="re_2", refund_id="rfd_1")
    assert not found(facts(refunded, [charge(returned_minor=500), once]))
    difference = only(facts(refunded, [charge(returned_minor=1000), once, again]))
    assert (difference.kind, difference.subject) == (Kind.REFUND_NOT_RECORDED, "re_2")


def test_a_lost_dispute_that_was_won_after_all_is_told():
    lost = noticed_dispute(sold(), "needs_response", "lost")
    difference = only(facts(lost, [charge(), dispute(status="won")]))
    assert difference.kind is Kind.DISPUTE_DIFFERS
    assert isinstance(difference.fix, TellOrder)
    won = noticed_dispute(lost, difference.fix.news.object_status)
    assert not found(facts(won, [charge(), dispute(status="won")]))


def test_what_is_of_no_order():
    order_id = sold().order_id
    entry = Booked(f"{order_id}:capture", "USD", [("stripe:clearing", 5), ("platform:fees", -5)], AT)
    lost = Facts(order_id, None, [charge()], [entry])
    assert [one.kind for one in found(lost)] == [Kind.CAPTURE_WITHOUT_ORDER, Kind.BOOKED_WITHOUT_ORDER]
    assert not examine(lost, LATER).fees


def test_what_is_young_is_not_judged_and_a_window_judges_its_own():
    order = sold()
    without_charge = facts(order, [])
    assert not found(without_charge, settled_before=AT)
    findings = examine(without_charge, LATER)
    assert suspects(findings, AT, LATER)
    assert not suspects(findings, AT - timedelta(days=1), AT)


def test_a_difference_has_the_same_case_whatever_its_amounts():
    order = sold()
    first = only(facts(order, [charge(amount_minor=1500)]))
    second = only(facts(order, [charge(amount_minor=1600)]))
    assert case_id(first) == case_id(second)
    assert case_id(first) != case_id(only(facts(sold(), [charge(amount_minor=1500)])))
