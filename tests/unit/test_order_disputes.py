"""Disputes: suspended while open, restored when won, revoked for good when lost."""

import itertools
from dataclasses import replace

import pytest

from domain.errors import ConflictError
from domain.orders import commands as c
from domain.orders.booking import capture_postings
from domain.orders.decide import decide, effects_after
from domain.orders.events import LicencesSuspended, decode_event
from domain.orders.return_invariants import movements_of
from domain.orders.state import Status, evolve
from tests.fakes.carts import NOW
from tests.fakes.order_life import OID, code_of, delivered_life


@pytest.fixture
def sold():
    return delivered_life()


def test_a_dispute_suspends_and_a_won_one_restores(sold):
    assert sold.dispute(fee=1500) == ["disputed", "dispute_fee_changed", "licence_suspended"]
    assert sold.state.status is Status.DISPUTED
    assert sold.due == {"book:dispute:dp_1", "book:dispute_fee:dp_1:txn_1"}
    assert code_of(sold.ask) == "order_disputed"
    assert sold.dispute(status="under_review") == ["dispute_updated"]
    assert sold.dispute(status="needs_response") == [], "older news"
    assert sold.dispute(status="won") == ["dispute_won", "licence_restored"]
    assert sold.state.status is Status.DISPUTE_WON
    expected = dict(capture_postings(sold.state)) | {"stripe:dispute_fees": 1500}
    del expected["stripe:clearing"]  # 1500 were captured, and the fee took as much
    assert sold.balances() == expected
    assert code_of(sold.dispute, status="lost") == "dispute_contradicted"
    assert sold.ask()[0] == "refund_requested"


def test_a_lost_dispute_revokes_for_good(sold):
    sold.dispute()
    assert sold.dispute(status="lost") == ["dispute_lost", "licence_revoked"]
    assert sold.state.status is Status.DISPUTE_LOST
    assert (sold.dispute(), sold.dispute(status="lost")) == ([], [])
    assert sold.balances() == {}


def test_the_fee_may_be_told_later_and_is_booked_once(sold):
    sold.dispute()
    assert sold.dispute(fee=1500) == ["dispute_fee_changed"]
    assert sold.dispute(fee=1500) == []
    sold.book_returns()
    assert sold.state.booked_returns == {"dispute:dp_1", "dispute_fee:dp_1:txn_1"}
    assert sold.balances() == {"stripe:clearing": -1500, "stripe:dispute_fees": 1500}


TAKEN, BACK, RAISED = ("txn_1", 1500), ("txn_2", -1500), ("txn_3", 700)


def test_a_fee_is_given_back_with_a_won_dispute_and_raised_later(sold):
    sold.dispute(fees=(TAKEN,))
    assert sold.dispute(status="won", fees=(TAKEN, BACK)) == [
        "dispute_fee_changed", "dispute_won", "licence_restored"
    ]  # fmt: skip
    sold.book_returns()
    assert sold.state.disputes[0].fee_minor == 0
    assert sold.balances() == dict(capture_postings(sold.state))
    assert sold.dispute(status="won", fees=(TAKEN, BACK, RAISED)) == ["dispute_fee_changed"]
    assert sold.due == {"book:dispute_fee:dp_1:txn_3"}
    assert sold.balances()["stripe:dispute_fees"] == 700


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fees_add_up_in_whatever_order_news_of_them_comes(sold, order):
    told = [(TAKEN,), (TAKEN, BACK), (TAKEN, BACK, RAISED)]
    sold.dispute()
    for number in order:
        sold.dispute(fees=told[number])
    sold.book_returns()
    assert sold.state.disputes[0].fee_minor == 700
    assert len([one for one in sold.state.booked_returns if one.startswith("dispute_fee")]) == 3


def test_a_fee_from_before_transactions_were_told_stands_for_the_first_of_them(sold):
    """Two orders of before: one heard of the fee at the opening, one later."""
    old = {"dispute_id": "dp_1", "reason": "fraudulent", "stage": "needs_response", "at": NOW.isoformat()}
    opened = decode_event("order.disputed", {**old, "shares": [], "fee_minor": 1500})
    later = decode_event("order.disputed", {**old, "shares": [], "fee_minor": 0})
    known = {"dispute_id": "dp_1", "stage": "under_review", "fee_minor": 1500, "at": NOW.isoformat()}
    updated = decode_event("order.dispute_updated", {**known, "fee_added": True})
    suspended = LicencesSuspended((1, 2), "dispute", NOW)
    for history in ([opened, suspended], [later, suspended, updated]):
        state = sold.state
        for event in history:
            state = evolve(OID, state, event)
        assert [step.step for event in history for step in effects_after(event)[0]] == [
            "book:dispute_fee:dp_1"
        ]
        assert movements_of(state) == ["dispute_fee:dp_1"]
        news = c.NoticeDispute("dp_1", "pi_1", 1500, "USD", "needs_response", "f", (("", 1500),), NOW)
        assert decide(state, news) == [], "an older process's row in the inbox"
        assert decide(state, replace(news, fees=(TAKEN,))) == []
        (given_back,) = decide(state, replace(news, fees=(TAKEN, BACK)))
        assert (given_back.transaction_id, given_back.amount_minor) == BACK
        assert decide(evolve(OID, state, given_back), replace(news, fees=(TAKEN, BACK))) == []
    fresh = decide(evolve(OID, evolve(OID, sold.state, later), suspended), news)
    assert [type(event).__name__ for event in fresh] == ["DisputeFeeChanged"]


def test_a_dispute_may_be_heard_of_only_when_it_is_over(sold):
    assert sold.dispute(status="won") == ["disputed", "dispute_won"]
    assert sold.balances() == dict(capture_postings(sold.state))
    assert sold.due == set()


def test_a_dispute_that_was_won_before_a_refund_is_heard_of_after_it(sold):
    """Found by the simulation: opened and won at Stripe, then refunded in full, and only then told."""
    sold.ask()
    sold.answer()
    assert code_of(sold.dispute) == "dispute_exceeds_captured"
    assert sold.dispute(status="won", fee=1500) == ["disputed", "dispute_fee_changed", "dispute_won"]
    assert sold.due == {"book:refund:rfd_1", "book:dispute_fee:dp_1:txn_1"}
    assert sold.dispute() == [], "the dead letter, retried"


def test_an_inquiry_moves_nothing(sold):
    assert sold.dispute(status="warning_needs_response") == []


def test_a_dispute_waits_for_a_refund_that_stripe_may_not_have_made(sold):
    sold.ask("rfd_1", (1, None))
    assert code_of(sold.dispute) == "refund_undecided"
    sold.refused()
    assert sold.dispute() == ["disputed", "licence_suspended"]


def test_a_dispute_of_what_was_refunded_is_an_operators_matter(sold):
    sold.ask("rfd_1", (1, None))
    sold.answer()
    with pytest.raises(ConflictError, match="dispute_exceeds_captured"):
        sold.dispute()
    assert sold.dispute(500) == ["disputed", "licence_suspended"]
    sold.dispute(500, "won")
    assert sold.state.revoked_lines == {1}, "won, and yet refunded"
    assert sold.state.suspended_lines == set()
