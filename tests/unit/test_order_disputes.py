"""Disputes: suspended while open, restored when won, revoked for good when lost."""

import pytest

from domain.errors import ConflictError
from domain.orders.booking import capture_postings
from domain.orders.state import Status
from tests.fakes.order_life import code_of, delivered_life


@pytest.fixture
def sold():
    return delivered_life()


def test_a_dispute_suspends_and_a_won_one_restores(sold):
    assert sold.dispute(fee=1500) == ["disputed", "licence_suspended"]
    assert sold.state.status is Status.DISPUTED
    assert sold.due == {"book:dispute:dp_1", "book:dispute_fee:dp_1"}
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
    assert sold.dispute(fee=1500) == ["dispute_updated"]
    assert sold.dispute(fee=1500) == []
    sold.book_returns()
    assert sold.state.booked_returns == {"dispute:dp_1", "dispute_fee:dp_1"}
    assert sold.balances() == {"stripe:clearing": -1500, "stripe:dispute_fees": 1500}


def test_a_dispute_may_be_heard_of_only_when_it_is_over(sold):
    assert sold.dispute(status="won") == ["disputed", "dispute_won"]
    assert sold.balances() == dict(capture_postings(sold.state))
    assert sold.due == set()


def test_a_dispute_that_was_won_before_a_refund_is_heard_of_after_it(sold):
    """Found by the simulation: opened and won at Stripe, then refunded in full, and only then told."""
    sold.ask()
    sold.answer()
    assert code_of(sold.dispute) == "dispute_exceeds_captured"
    assert sold.dispute(status="won", fee=1500) == ["disputed", "dispute_won"]
    assert sold.due == {"book:refund:rfd_1", "book:dispute_fee:dp_1"}
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
