"""The terms of an order: whatever the cart, the parts sum to the whole, and what goes back adds up to it."""

import random
from collections import Counter
from dataclasses import replace

import orjson
import pytest

from domain.errors import MarketplaceError, RejectedError
from domain.ledger import kind_in_chart
from domain.ledger.entries import Entry, Posting
from domain.money import AMOUNT_MINOR_MAX, smallest_step
from domain.orders import commands as c
from domain.orders.booking import CLEARING, FEES, capture_postings, return_postings
from domain.orders.decide import FREE_QUANTITY_MAX, FULFIL, decide, delivery_id, licence_id, turn_effects
from domain.orders.events import KIND_OF, OrderGranted, decode_event
from domain.orders.parts import is_sound, parts_of_line, shares_of
from domain.orders.returned import left_by_line
from domain.orders.state import Status, evolve, fold
from domain.pricing.terms import Wanted
from domain.proposals.documents import SELLER, RoyaltySplits, Share
from tests.fakes.carts import NOW, cart, line, order_id
from tests.fakes.terms import CURRENCIES, code, held, offer, on_top, priced, rules

OID = order_id(1)
CASES, BLOCKS = 10_400, 8


def random_split(rng):
    payees = rng.sample((SELLER, "seller_0", "seller_1", "author", "a_2", "a_3"), rng.randrange(1, 6))
    cuts = sorted(rng.sample(range(1, 10_000), len(payees) - 1))
    bps = [b - a for a, b in zip([0, *cuts], [*cuts, 10_000], strict=True)]
    return tuple(Share(payee, part) for payee, part in zip(payees, bps, strict=True))


def random_order(rng):
    """Return (cart, currency, lines) of a random sale under random rules."""
    currency = rng.choice(CURRENCIES)
    step = smallest_step(currency)
    wanted = [
        Wanted(
            offer(
                step * rng.choice((0, 1, 3, rng.randrange(100), rng.randrange(1, 20_000))),
                f"seller_{rng.randrange(3)}",
                f"sku_{number}",
                currency,
            ),
            rng.choice((1, 1, 2, rng.randrange(1, 30))),
        )
        for number in range(rng.randrange(1, 7))
    ]
    rules_ = rules(
        rng.choice((0, 1, 850, 1_000, 3_333, 10_000)),
        rng.choice(({}, {currency: rng.randrange(60)})),
        RoyaltySplits(random_split(rng), {f"sku_{number}": random_split(rng) for number in range(2)}),
        rng.choice((0, 33, 100, 100)),
    )
    rates = rng.choice(
        (
            (),
            (held("DE", rng.randrange(300_000)),),
            (on_top("GB", 200_000),),
            (on_top("US_CA", 72_500), on_top("US_CA_LA", 22_500), on_top("US_X", 0)),
            (held("CA", 50_000), held("CA_QC", 99_750)),
        )
    )
    percent = rng.random() < 0.5
    discount = code(
        seller_id=rng.choice((None, "seller_0")),
        percent_bps=rng.choice((1, 999, 5_000, 10_000)) if percent else None,
        amounts_minor={} if percent else {currency: step * rng.randrange(1, 5_000)},
    )
    how = {"rates": rates, "currency": currency, "tax_step": rng.choice((None, 1))}
    try:
        lines = priced(wanted, rules_, discount=discount, **how)
    except RejectedError:  # it takes nothing off this cart
        lines = priced(wanted, rules_, **how)
    return wanted, currency, lines


def check_sale(wanted, currency, lines):
    step = smallest_step(currency)
    for one, asked in zip(lines, wanted, strict=True):
        assert is_sound(one)
        assert one.price_minor == asked.price_minor
        assert one.amount_minor % step == 0
        assert 0 <= one.discount_minor <= one.price_minor
        assert sum(minor for _, minor in parts_of_line(one)) == one.amount_minor
        assert 0 <= (one.fee_minor or 0) <= one.net_minor
        for account, _ in parts_of_line(one):
            assert kind_in_chart(account) is not None, account


def entry(postings):
    """An entry that exists is balanced, and has no posting of zero."""
    return Entry("key", "USD", NOW, "", tuple(Posting(*one) for one in postings))


class Sale:
    """An order that is sold and then returned by random refunds and disputes; some come to nothing."""

    def __init__(self, rng, lines, currency, *, random_life=True):
        self.rng, self.currency, self.state, self.books = rng, currency, None, Counter()
        self.tell(cart(1, *lines, currency=currency))
        if self.state is not None and self.state.total_minor:
            if self.state.flagged:
                self.tell(c.NoticeAuthorisation("pi_1", "evt_0", self.state.total_minor, currency, NOW))
                self.tell(c.DecideReview("usr_reviewer", approves=True, reason="known buyer", at=NOW))
            self.tell(c.ConfirmPayment("pi_1", "evt_1", self.state.total_minor, currency, NOW))
            if random_life:
                for number in range(rng.randrange(1, 7)):
                    self.step(number)
                self.finish()

    def tell(self, command):
        try:
            events = decide(self.state, command)
        except MarketplaceError:
            return
        for event in events:
            self.state = evolve(OID, self.state, event)
        for effect in turn_effects(events)[0]:
            kind, _, movement = effect.step.partition(":")
            if kind == "book":
                postings = (
                    return_postings(self.state, movement)[1] if movement else capture_postings(self.state)
                )
                entry(postings)
                for account, amount in postings:
                    self.books[account] += amount

    def hear(self, refund_id, name, amount, status):
        self.tell(c.NoticeRefund(name, refund_id, "pi_1", amount, self.currency, status, "", NOW))

    def step(self, number):
        rng, total, step = self.rng, self.state.total_minor, smallest_step(self.currency)
        amount = rng.choice((1, rng.randrange(1, total + 1), total - self.state.returned_minor or 1))
        what = rng.random()
        if what < 0.55 or rng.random() < 0.7:  # what is done at Stripe by hand may be off the step
            amount = max(step, amount - amount % step)
        if what < 0.55:
            self.refund(f"rfd_{number}", f"re_{number}", amount)
        elif what < 0.75:
            self.hear("", f"re_{number}", amount, "succeeded")
        else:
            for status in ("needs_response", rng.choice(("won", "lost"))):
                dispute = (f"dp_{number}", "pi_1", amount, self.currency, status, "fraud", (), NOW)
                self.tell(c.NoticeDispute(*dispute))

    def refund(self, refund_id, name, amount):
        rng = self.rng
        by_line = rng.random() < 0.5
        asked = ((rng.choice(self.state.lines).line_no, rng.choice((None, amount))),) if by_line else ()
        self.tell(
            c.RequestRefund(refund_id, asked, None if by_line else amount, "operator", "o", "w", "d", NOW)
        )
        if rng.random() < 0.2:
            self.refuse(refund_id)
        if rng.random() < 0.9:
            self.tell(c.RecordRefund(refund_id, name, "succeeded", NOW))
        made = self.state.find_refund(refund_id)
        if made is not None and rng.random() < 0.3:
            self.hear(refund_id, name, made.amount_minor, "failed")

    def refuse(self, refund_id):
        self.tell(c.RecordRefundRefused(refund_id, "refund_refused", "no", NOW))

    def finish(self):
        """Return what is left: then nobody may keep a unit."""
        for refund in self.state.refunds:
            self.refuse(refund.refund_id)
        if left := self.state.total_minor - self.state.returned_minor:
            self.hear("", "re_last", left, "succeeded")


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_is_sold_and_returned_every_unit_has_its_owner(block):
    shapes = Counter()
    for seed in range(block, CASES, BLOCKS):
        rng = random.Random(seed)
        wanted, currency, lines = random_order(rng)
        check_sale(wanted, currency, lines)
        sale = Sale(rng, lines, currency)
        state, books = sale.state, sale.books
        if state is None:
            shapes["refused"] += 1
            total, seats = sum(one.amount_minor for one in lines), max(one.quantity for one in lines)
            assert total > AMOUNT_MINOR_MAX or (total == 0 and seats > FREE_QUANTITY_MAX)
            continue
        assert sum(books.values()) == 0
        if state.total_minor == 0:
            shapes["free"] += 1
            assert not books
            continue
        assert state.returned_minor == state.total_minor
        assert not +books, f"seed {seed}: {books}"
        assert not -books, f"seed {seed}: {books}"
        shapes["sold"] += 1
        shapes["discounted"] += any(one.discount_minor for one in lines)
        shapes["taxed"] += any(one.taxes for one in lines)
        shapes["rounded"] += any(one.rounding_minor for one in lines)
        shapes["shared"] += any(one.payees for one in lines)
        shapes["returned in steps"] += len(state.refunds) + len(state.disputes) > 2
        shapes["won or failed"] += any(not one.returns for one in (*state.refunds, *state.disputes))
    assert sum(shapes[name] for name in ("refused", "free", "sold")) == CASES // BLOCKS
    for name in ("free", "discounted", "taxed", "rounded", "shared", "returned in steps", "won or failed"):
        assert shapes[name] > CASES // BLOCKS // 50, shapes


@pytest.mark.parametrize("seed", range(200))
def test_parts_go_back_in_proportion_whatever_the_steps(seed):
    rng = random.Random(seed)
    _, _, lines = random_order(rng)
    one = max(lines, key=lambda each: each.amount_minor)
    if one.amount_minor == 0:
        return
    whole = [minor for _, minor in parts_of_line(one)]
    returned, given = [], [0] * len(whole)
    left = one.amount_minor
    while left:
        amount = min(left, rng.choice((1, 2, rng.randrange(1, one.amount_minor + 1))))
        if len(returned) > 100:
            amount = left
        (share,) = shares_of([one], returned, [(one.line_no, amount)])
        returned.append(share)
        left -= amount
        parts = [share.fee_minor, *share.taxes]
        parts += share.payees if one.payees else [amount - sum(parts)]
        assert min(parts) >= 0
        given = [had + part for had, part in zip(given, parts, strict=True)]
        back = one.amount_minor - left
        for had, part in zip(given, whole, strict=True):
            assert had <= part
            assert abs(had * one.amount_minor - part * back) < len(whole) * one.amount_minor
    assert given == whole


def test_an_order_that_costs_nothing_is_granted_and_fulfilled_without_a_payment():
    state, events = None, decide(None, cart(1, replace(line(), unit_price_minor=0, fee_minor=0)))
    assert isinstance(events[-1], OrderGranted)
    due, _ = turn_effects(events)
    assert [effect.step for effect in due] == [FULFIL]
    state = fold(OID, events)
    assert state.status is Status.GRANTED
    assert capture_postings(state) == []
    done = decide(state, c.RecordFulfilment((licence_id(OID, 1),), (delivery_id(OID, 1),), "key_1", NOW))
    for event in done:
        state = evolve(OID, state, event)
    assert state.status is Status.DELIVERED
    with pytest.raises(MarketplaceError, match="order_not_refundable"):
        decide(state, c.RequestRefund("rfd_1", (), None, "operator", "o", "w", "d", NOW))
    with pytest.raises(RejectedError, match="quantity_out_of_range"):
        decide(None, cart(1, replace(line(quantity=11), unit_price_minor=0, fee_minor=0)))


@pytest.mark.parametrize(
    "changes",
    [
        {"fee_minor": -1},
        {"fee_minor": 2_000},
        {"discount_minor": 2_000},
        {"fee_minor": 1, "payees": (("a", 1),)},
    ],
)
def test_terms_that_do_not_add_up_are_never_placed(changes):
    with pytest.raises(RejectedError, match="terms_unsound"):
        decide(None, cart(1, replace(line(), **changes)))


def test_a_cart_with_more_payees_than_an_entry_takes_is_refused():
    lines = [
        replace(line(number), fee_minor=9, payees=tuple((f"p{number}_{n}", 199) for n in range(10)))
        for number in range(1, 26)
    ]
    with pytest.raises(RejectedError, match="payees_out_of_range"):
        decide(None, cart(1, *lines))


def test_terms_survive_storage_and_earlier_orders_book_as_they_did():
    _, currency, lines = random_order(random.Random(11))
    events = decide(None, cart(1, *lines, currency=currency, discount_id="dsc_1"))
    stored = [(KIND_OF[type(event)], orjson.loads(orjson.dumps(event))) for event in events]
    assert [decode_event(kind, data) for kind, data in stored] == events
    earlier = decide(None, cart(1, line(1, price_minor=1_999), line(2, price_minor=15)))
    kind, data = KIND_OF[type(earlier[0])], orjson.loads(orjson.dumps(earlier[0]))
    del data["discount_id"]
    for one in data["lines"]:
        for name in ("discount_minor", "taxes", "fee_minor", "payees"):
            del one[name]
    assert decode_event(kind, data) == earlier[0]
    # Ten per cent of 2014, floored once for the seller: not of each line.
    assert dict(capture_postings(fold(OID, earlier))) == {
        CLEARING: 2_014,
        "seller:seller_1:payable": -1_813,
        FEES: -201,
    }


def test_a_refund_that_happens_after_all_gives_up_what_the_others_have_left():
    sale = Sale(random.Random(0), (replace(line(price_minor=10), fee_minor=1),), "USD", random_life=False)
    for refund in ("rfd_1", "rfd_2"):
        sale.tell(c.RequestRefund(refund, (), 5, "operator", "o", "w", "d", NOW))
        if refund == "rfd_1":
            sale.refuse(refund)
    sale.tell(c.RecordRefund("rfd_2", "re_2", "succeeded", NOW))
    assert [refund.shares[0].fee_minor for refund in sale.state.refunds] == [1, 1]
    sale.hear("rfd_1", "re_1", 5, "succeeded")
    assert [refund.shares[0].fee_minor for refund in sale.state.refunds] == [0, 1]
    assert not any(sale.books.values())


def test_a_line_that_stripe_does_not_charge_is_never_placed():
    (sold,) = priced([Wanted(offer(1_000, currency="ISK"), 1)], rules(), currency="ISK")
    odd = replace(sold, unit_price_minor=1_050, fee_minor=sold.fee_minor + 50)
    with pytest.raises(RejectedError, match="terms_unsound"):
        decide(None, cart(1, odd, currency="ISK"))
    assert decide(None, cart(1, sold, currency="ISK"))


@pytest.mark.parametrize(("currency", "odd"), [("ISK", 150), ("KWD", 7), ("USD", 1)])
def test_a_refund_off_the_step_leaves_every_line_refundable(currency, odd):
    """Made at Stripe by hand: all lines but one keep to the step, and the rest of that one goes at once."""
    step = smallest_step(currency)
    wanted = [Wanted(offer(step * 10 * n, sku_id=f"sku_{n}", currency=currency), 1) for n in (1, 2, 3)]
    sale = Sale(random.Random(1), priced(wanted, rules(), currency=currency), currency, random_life=False)
    sale.hear("", "re_odd", odd, "succeeded")
    sale.hear("", "re_odd_2", odd + 10 * step, "succeeded")
    assert sale.state.returned_minor == 2 * odd + 10 * step
    left = left_by_line(sale.state.lines, sale.state.refunds)
    assert sum(minor % step > 0 for minor in left.values()) <= 1
    for line_no in sorted(left, key=lambda one: left[one] % step == 0):
        asked = c.RequestRefund(f"rfd_{line_no}", ((line_no, None),), None, "operator", "o", "w", "d", NOW)
        sale.tell(asked)
        sale.tell(c.RecordRefund(f"rfd_{line_no}", f"re_{line_no}", "succeeded", NOW))
    assert sale.state.returned_minor == sale.state.total_minor
    assert not +sale.books
    assert not -sale.books


def test_news_of_refunds_and_disputes_that_name_a_free_order_are_settled():
    (free,) = priced([Wanted(offer(0), 1)], rules())
    sale = Sale(random.Random(1), (free,), "USD")
    state = sale.state
    assert decide(state, c.NoticeRefund("re_1", "", "pi_1", 5, "USD", "succeeded", "", NOW)) == []
    assert decide(state, c.NoticeDispute("dp_1", "pi_1", 5, "USD", "lost", "f", (), NOW)) == []
    with pytest.raises(RejectedError, match="amount_mismatch"):  # a dead letter: somebody returns it
        decide(state, c.ConfirmPayment("pi_1", "evt_1", 5, "USD", NOW))
