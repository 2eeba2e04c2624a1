"""An order's life as its decider tells it, and what Finance would hold of it."""

from collections import Counter

import pytest

from domain.errors import MarketplaceError
from domain.orders import commands as c
from domain.orders.booking import capture_entry_key, capture_postings, return_entry_key, return_postings
from domain.orders.decide import decide, delivery_id, entitled_lines, licence_id, turn_effects
from domain.orders.events import KIND_OF
from domain.orders.state import evolve
from tests.fakes.carts import NOW, cart, line, order_id

OID = order_id(1)
TWO_LINES = (line(1, price_minor=1000), line(2, price_minor=500, seller_id="seller_2"))


class Life:
    """An order with its history and the effects that are due, as a store would have them."""

    def __init__(self, *lines):
        self.state, self.events, self.due, self.at = None, [], set(), NOW
        self.tell(cart(1, *(lines or TWO_LINES)))

    def tell(self, command):
        events = decide(self.state, command)
        starts, ends = turn_effects(events)
        self.due = (self.due - set(ends)) | {effect.step for effect in starts}
        for event in events:
            self.state = evolve(OID, self.state, event)
        self.events += events
        return [KIND_OF[type(event)].removeprefix("order.") for event in events]

    def pay(self):
        self.tell(c.RecordPaymentOpened("pi_1", None, self.at))
        total = self.state.total_minor
        self.tell(c.ConfirmPayment("pi_1", "evt_1", total, "USD", self.at))
        return self

    def book(self):
        total = self.state.total_minor
        self.tell(c.RecordBooking(capture_entry_key(OID), "ent_1", "USD", total, self.at))
        return self

    def fulfil(self):
        lines = [one.line_no for one in entitled_lines(self.state)]
        licences = tuple(licence_id(OID, line_no) for line_no in lines)
        deliveries = tuple(delivery_id(OID, line_no) for line_no in lines)
        return self.tell(c.RecordFulfilment(licences, deliveries, "key_1", self.at))

    def ask(self, refund_id="rfd_1", *lines, amount=None, origin="operator", digest="d", at=None):
        who = "op_1" if origin == "operator" else "buyer_ada"
        return self.tell(
            c.RequestRefund(refund_id, lines, amount, origin, who, "because", digest, at or self.at)
        )

    def answer(self, status="succeeded", refund_id="rfd_1", stripe_id="re_1"):
        return self.tell(c.RecordRefund(refund_id, stripe_id, status, self.at))

    def refused(self, refund_id="rfd_1"):
        return self.tell(c.RecordRefundRefused(refund_id, "refund_refused", "no", self.at))

    def hear(self, amount, status="succeeded", stripe_id="re_1", refund_id="", intent="pi_1"):
        return self.tell(c.NoticeRefund(stripe_id, refund_id, intent, amount, "USD", status, "", self.at))

    def dispute(self, amount=1500, status="needs_response", fee=0, dispute_id="dp_1", fees=()):
        fees = fees or ((("txn_1", fee),) if fee else ())
        return self.tell(
            c.NoticeDispute(dispute_id, "pi_1", amount, "USD", status, "fraudulent", fees, self.at)
        )

    def book_returns(self):
        for step in sorted(self.due):
            kind, _, movement = step.partition(":")
            if kind == "book" and movement:
                _, postings = return_postings(self.state, movement)
                cleared = sum(amount for account, amount in postings if account == "stripe:clearing")
                key = return_entry_key(OID, movement)
                self.tell(c.RecordReturnBooked(movement, key, "ent_x", "USD", cleared, self.at))
        return self

    def balances(self):
        """Finance's accounts, were every entry that was or will be booked posted."""
        accounts = Counter(dict(capture_postings(self.state)))
        movements = {step.partition(":")[2] for step in self.due if step.startswith("book:")}
        for movement in movements | self.state.booked_returns:
            postings = return_postings(self.state, movement)[1]
            assert sum(amount for _, amount in postings) == 0
            assert all(amount for _, amount in postings)
            for account, amount in postings:
                accounts[account] += amount
        return {account: amount for account, amount in accounts.items() if amount}


def delivered_life():
    life = Life().pay().book()
    life.fulfil()
    return life


def code_of(call, *args, **kwargs):
    with pytest.raises(MarketplaceError) as caught:
        call(*args, **kwargs)
    return caught.value.code
