"""What was returned is not fulfilled; and thousands of random histories of refunds, disputes and licences."""

import random
from dataclasses import replace

import pytest

from domain.errors import DependencyError, MarketplaceError, RejectedError
from domain.ledger import kind_in_chart
from domain.orders import commands as c
from domain.orders.booking import CLEARING, DISPUTE_FEES, FEES, return_entry_key
from domain.orders.decide import FULFIL, delivery_id, licence_id
from domain.orders.events import FulfilmentEnded, LicencesRestored, LicencesRevoked, LicencesSuspended
from domain.orders.state import Status, fold
from tests.fakes.carts import NOW, line
from tests.fakes.order_life import OID, Life, code_of, delivered_life


@pytest.fixture
def sold():
    return delivered_life()


@pytest.mark.parametrize("booked", [False, True])
def test_nothing_is_licensed_after_a_full_refund(booked):
    life = Life().pay()
    if booked:
        life.book()
    life.ask()
    if booked:
        with pytest.raises(DependencyError, match="fulfilment_held"):
            life.fulfil()
    told = life.answer()
    if not booked:
        life.book()
    assert ("fulfilment_ended" in told) is booked
    assert isinstance(life.events[-1], FulfilmentEnded)
    assert FULFIL not in life.due
    assert life.state.licence_ids == ()
    assert (life.state.stage, life.state.status) == (Status.CANCELLED, Status.REFUNDED)


def test_the_lines_that_were_not_returned_are_licensed():
    life = Life().pay().book()
    life.ask("rfd_1", (1, None))
    life.answer()
    stale = c.RecordFulfilment((licence_id(OID, 1), licence_id(OID, 2)), (), "key_1", NOW)
    with pytest.raises(DependencyError, match="fulfilment_outdated"):
        life.tell(stale)
    assert life.fulfil() == ["licensed", "delivered"]
    assert life.state.licence_ids == (licence_id(OID, 2),)


def test_the_key_of_a_returned_line_is_not_handed_out(sold):
    sold.state = replace(sold.state, delivery=replace(sold.state.delivery, mode="released_key"))
    sold.ask("rfd_1", (1, None))
    assert code_of(sold.tell, c.ReleaseDeliveryKey(delivery_id(OID, 1), NOW)) == "licence_not_active"
    assert sold.tell(c.ReleaseDeliveryKey(delivery_id(OID, 2), NOW)) == ["delivery_key_released"]


def test_finances_answer_must_be_of_the_exact_amount(sold):
    sold.ask()
    sold.answer()
    wrong = c.RecordReturnBooked(
        "refund:rfd_1", return_entry_key(OID, "refund:rfd_1"), "e", "USD", -1499, NOW
    )
    with pytest.raises(RejectedError, match="booking_mismatch"):
        sold.tell(wrong)


class World:
    """Stripe's side of an order at random: what it holds of refunds and disputes, told in any order."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        self.life = Life(
            *(
                line(
                    number,
                    price_minor=rng.choice((0, 1, 7, 99, 1000, 4999)) or (1 if number == 1 else 0),
                    quantity=rng.randrange(1, 4),
                    seller_id=f"seller_{rng.randrange(2)}",
                )
                for number in range(1, rng.randrange(2, 6))
            )
        ).pay()
        self.news = []
        self.refunds, self.count = {}, 0

    def number(self):
        self.count += 1
        return self.count

    def step(self):
        life, rng = self.life, self.rng
        total = life.state.total_minor
        amount = rng.choice((1, rng.randrange(1, total + 1), total))
        choice = rng.randrange(9)
        if choice == 0:
            lines = tuple(
                (one.line_no, rng.choice((None, rng.randrange(1, 100))))
                for one in life.state.lines
                if rng.random() < 0.5
            )
            life.ask(f"rfd_{self.number()}", *lines)
        elif choice == 1:
            life.ask(f"rfd_{self.number()}", amount=amount)
        elif choice == 2:
            asked = [one for one in life.state.refunds if one.stripe_refund_id is None]
            if asked:
                refund = rng.choice(asked)
                if rng.random() < 0.3:
                    life.refused(refund.refund_id)
                else:
                    stripe_id = f"re_{refund.refund_id}"
                    life.answer(rng.choice(("pending", "succeeded")), refund.refund_id, stripe_id)
        elif choice == 3:
            self.news.append((life.hear, amount, f"re_{self.number()}"))
        elif choice == 4:
            self.news.append((life.dispute, amount, f"dp_{self.number()}"))
        elif choice == 5 and self.news:
            tell, amount, name = rng.choice(self.news)
            if tell == life.hear:
                tell(amount, rng.choice(("pending", "succeeded", "failed")), stripe_id=name)
            else:
                fees = (("txn_1", 15), ("txn_2", 5), ("txn_3", -20), ("txn_4", 1))[: rng.randrange(5)]
                status = rng.choice(("needs_response", "under_review", "won", "lost"))
                tell(amount, status, dispute_id=name, fees=fees)
        elif choice == 6:
            taken = [one for one in life.state.refunds if one.stripe_refund_id]
            if taken:
                refund = rng.choice(taken)
                status = rng.choice(("pending", "succeeded", "failed"))
                life.hear(refund.amount_minor, status, stripe_id=refund.stripe_refund_id)
        elif choice == 7:
            life.book()
            life.book_returns()
        elif rng.random() < 0.3:
            life.fulfil()


def check(life):
    state = life.state
    assert 0 <= state.returned_minor <= state.total_minor
    for one in state.lines:
        back = sum(
            share.amount_minor
            for each in (*state.refunds, *state.disputes)
            if each.returns
            for share in each.shares
            if share.line_no == one.line_no
        )
        assert 0 <= back <= one.amount_minor
    fees = sum(dispute.fee_minor for dispute in state.disputes)
    cash = life.balances().get("stripe:clearing", 0)
    refused = sum(one.amount_minor for one in state.refunds if one.returns and one.accepted_at is None)
    assert cash == state.total_minor - state.returned_minor + refused - fees
    if cash == -fees:
        assert not [account for account in life.balances() if account.startswith("seller")]


def standings(events):
    standing = {}
    for event in events:
        for line_no in getattr(event, "line_nos", ()):
            before = standing.get(line_no, "active")
            assert before != "revoked", "revoked is for ever"
            if isinstance(event, LicencesRevoked):
                standing[line_no] = "revoked"
            elif isinstance(event, LicencesSuspended):
                assert before == "active"
                standing[line_no] = "suspended"
            elif isinstance(event, LicencesRestored):
                assert before == "suspended"
                standing[line_no] = "active"
    return standing


@pytest.mark.parametrize("block", range(8))
def test_whatever_happens_the_money_adds_up_and_licences_only_go_one_way(block):
    steps = done = 0
    for seed in range(block * 40, block * 40 + 40):
        world = World(seed)
        for _ in range(45):
            steps += 1
            before = world.life.state
            try:
                world.step()
            except MarketplaceError:
                assert world.life.state is before
            else:
                done += world.life.state is not before
                check(world.life)
        life = world.life
        standing = standings(life.events)
        assert fold(OID, life.events) == life.state
        assert {n for n, word in standing.items() if word == "revoked"} == life.state.revoked_lines
        assert {n for n, word in standing.items() if word == "suspended"} == life.state.suspended_lines
    assert steps == 1800
    assert done > steps // 10


def test_every_account_that_orders_book_to_is_in_finances_chart():
    for account in (CLEARING, FEES, DISPUTE_FEES, "seller:sel_1:payable"):
        assert kind_in_chart(account) is not None, account
