"""Refunds: what is asked for, what Stripe answers or tells, and what follows for licences and books."""

from datetime import timedelta

import pytest

from domain.orders import commands as c
from domain.orders.booking import capture_postings
from domain.orders.events import REFUND_WINDOW_S_UNGOVERNED
from domain.orders.returns import REFUNDS_MAX, REFUNDS_OF_BUYER_MAX
from domain.orders.state import Status
from tests.fakes.carts import NOW
from tests.fakes.order_life import Life, code_of, delivered_life


@pytest.fixture
def sold():
    return delivered_life()


def test_a_full_refund_revokes_every_licence_and_gives_the_fee_up(sold):
    assert sold.ask() == ["refund_requested", "licence_suspended"]
    assert sold.state.status is Status.REFUNDING
    assert "refund:rfd_1" in sold.due
    assert sold.answer() == ["refund_accepted", "refunded", "licence_revoked"]
    assert sold.state.status is Status.REFUNDED
    assert sold.state.revoked_lines == {1, 2}
    assert sold.due == {"book:refund:rfd_1"}
    assert sold.balances() == {}
    assert sold.book_returns().due == set()


def test_a_part_of_a_line_leaves_its_licence(sold):
    sold.ask("rfd_1", (1, 400))
    assert sold.answer() == ["refund_accepted", "refunded"]
    assert sold.state.status is Status.DELIVERED
    assert sold.ask("rfd_2", (1, None)) == ["refund_requested", "licence_suspended"]
    assert sold.answer(refund_id="rfd_2", stripe_id="re_2")[-1] == "licence_revoked"
    assert sold.state.revoked_lines == {1}
    assert sold.balances() == {
        "stripe:clearing": 500,
        "seller:seller_2:payable": -450,
        "platform:fees": -50,
    }


def test_an_amount_is_spread_over_what_is_left_of_each_line(sold):
    sold.ask("rfd_1", amount=751)
    assert [(one.line_no, one.amount_minor) for one in sold.state.refunds[0].shares] == [(1, 501), (2, 250)]


def test_a_refused_refund_restores_what_it_had_suspended(sold):
    sold.ask()
    assert sold.refused() == ["refund_failed", "licence_restored"]
    assert (sold.state.returned_minor, sold.due, sold.state.status) == (0, set(), Status.DELIVERED)
    assert sold.refused() == []


def test_a_refund_that_fails_late_is_reversed_and_its_licence_stays_revoked(sold):
    sold.ask()
    sold.answer("pending")
    assert sold.state.suspended_lines == {1, 2}
    sold.hear(1500, "succeeded")
    assert sold.hear(1500, "failed") == ["refund_failed"]
    assert sold.due == {"book:refund:rfd_1", "book:refund_reversal:rfd_1"}
    assert (sold.state.returned_minor, sold.state.revoked_lines) == (0, {1, 2})
    assert sold.balances() == dict(capture_postings(sold.state))
    assert sold.ask("rfd_2") == ["refund_requested"], "the money can be returned another way"


def test_a_pending_refund_that_fails_restores(sold):
    sold.ask()
    sold.answer("pending")
    assert sold.hear(1500, "failed") == ["refund_failed", "licence_restored"]


@pytest.mark.parametrize("news", ["succeeded", "pending"])
def test_our_own_refund_may_be_heard_of_before_stripes_answer(sold, news):
    sold.ask()
    assert sold.hear(1500, news, refund_id="rfd_1")[0] == "refund_accepted"
    assert "refund:rfd_1" not in sold.due
    sold.answer("succeeded")
    assert (sold.hear(1500, "pending"), sold.answer("pending")) == ([], [])
    assert len(sold.state.refunds) == 1


def test_a_refund_made_twice_at_stripe_is_told(sold):
    sold.ask("rfd_1", (1, 100))
    sold.answer()
    assert code_of(sold.hear, 100, stripe_id="re_2", refund_id="rfd_1") == "refund_repeated"


def test_a_refund_from_the_dashboard_is_spread_and_booked(sold):
    assert sold.hear(300, "pending", stripe_id="re_9") == ["refund_requested", "refund_accepted"]
    (refund,) = sold.state.refunds
    assert (refund.origin, refund.amount_minor) == ("dashboard", 300)
    assert sold.due == {f"book:refund:{refund.refund_id}"}
    assert sold.hear(300, "pending", stripe_id="re_9") == []
    assert sold.hear(300, "succeeded", stripe_id="re_9") == ["refunded"]


def test_a_dashboard_refund_that_failed_before_we_heard_of_it_moves_nothing(sold):
    sold.hear(300, "failed", stripe_id="re_9")
    assert sold.hear(300, "succeeded", stripe_id="re_9") == []
    assert (sold.state.returned_minor, sold.due) == (0, set())


def test_news_of_another_payment_is_not_about_this_order(sold):
    assert sold.hear(1500, intent="pi_other") == []


def test_news_before_the_payment_is_put_off():
    life = Life()
    life.tell(c.RecordPaymentOpened("pi_1", None, NOW))
    assert code_of(life.hear, 100) == "payment_not_recorded"
    assert code_of(life.dispute) == "payment_not_recorded"
    life.tell(c.ExpireOrder(NOW))
    life.tell(c.RecordPaymentVoided(NOW))
    assert life.hear(100) == []


def test_refusals_say_why_and_change_nothing(sold):
    before = sold.state
    for code, args in {
        "refund_exceeds_captured": ((1, 1001),),
        "refund_line_unknown": ((3, None),),
        "refund_line_duplicate": ((1, 1), (1, 1)),
        "refund_amount_invalid": ((1, 0),),
    }.items():
        assert code_of(sold.ask, "rfd_1", *args) == code
    assert code_of(sold.ask, "rfd_1", amount=1501) == "refund_exceeds_captured"
    assert code_of(sold.ask, "rfd_1", (1, 5), amount=5) == "refund_amount_invalid"
    assert sold.state is before
    sold.ask("rfd_1", (1, None))
    assert code_of(sold.ask, "rfd_2", (1, None)) == "refund_line_returned"
    assert code_of(sold.ask, "rfd_1", digest="other") == "idempotency_key_reused"
    assert sold.ask("rfd_1", (1, None)) == []
    sold.ask("rfd_2")
    assert code_of(sold.ask, "rfd_3") == "refund_exceeds_captured"
    assert code_of(Life().ask) == "order_not_refundable"


def test_a_buyers_window_closes_and_an_operators_does_not(sold):
    last = NOW + timedelta(seconds=REFUND_WINDOW_S_UNGOVERNED)
    late = last + timedelta(seconds=1)
    assert code_of(sold.ask, origin="buyer", at=late) == "refund_window_closed"
    assert sold.ask(
        "rfd_1", (2, None), origin="buyer", at=NOW + timedelta(seconds=REFUND_WINDOW_S_UNGOVERNED)
    )
    assert sold.ask("rfd_2", origin="operator", at=late)


def test_refunds_of_an_order_are_bounded(sold):
    for number in range(REFUNDS_MAX):
        sold.ask(f"rfd_{number}", (1, 1))
    assert code_of(sold.ask, "rfd_more", (1, 1)) == "refunds_full"


def test_a_buyer_cannot_use_an_operators_refunds_up(sold):
    for number in range(REFUNDS_OF_BUYER_MAX):
        sold.ask(f"rfd_{number}", (1, 1), origin="buyer")
    assert code_of(sold.ask, "rfd_more", (1, 1), origin="buyer") == "refunds_full"
    assert sold.ask("rfd_all")
