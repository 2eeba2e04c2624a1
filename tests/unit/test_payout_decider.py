"""A payout's life: which step follows, what each result records, and what repeats harmlessly."""

from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import RejectedError
from domain.payouts import entries
from domain.payouts.decide import Booked, Refused, Reversed, Sent, Standing, decide
from domain.payouts.events import PayoutApproved, decode_event, encode_event
from domain.payouts.payees import AccountState
from domain.payouts.state import WAIT_MAX, Status, Step, evolve, fold, next_step

NOW = datetime(2026, 11, 3, 9, 30, tzinfo=UTC)
READY, RESTRICTED = (
    AccountState("active", payouts_enabled=True),
    AccountState("pending", payouts_enabled=True),
)
APPROVED = PayoutApproved(
    "pob_1", "seller_1", "USD", "2026-10", "acct_1", 10_000, 1_000, 500, "operator_2", NOW
)
WAY = {
    Standing(READY, 11_000): (Status.CLEARED, Step.BOOK),
    Booked("ent_1"): (Status.BOOKED, Step.SEND),
    Sent("tr_1", NOW): (Status.SENT, Step.SETTLE),
    Booked("ent_2"): (Status.SETTLED, Step.CHECK),
}


def apply(payout, result):
    for event in decide(payout, result, payout.moved_at + timedelta(seconds=1)):
        payout = evolve(payout.payout_id, payout, event)
    return payout


def until(status):
    payout = fold("po_1", [APPROVED])
    for result in WAY:
        if payout.status is status:
            break
        payout = apply(payout, result)
    assert payout.status is status
    return payout


def test_a_payout_goes_its_way():
    payout = fold("po_1", [APPROVED])
    assert next_step(payout) is Step.CLEAR
    for result, (status, step) in WAY.items():
        payout = apply(payout, result)
        assert (payout.status, next_step(payout)) == (status, step)
    assert (payout.seq, payout.amount_minor, payout.transfer_id) == (5, 10_000, "tr_1")
    assert payout.finished


@pytest.mark.parametrize("late", [Status.BOOKED, Status.SENT, Status.SETTLED])
def test_a_result_that_comes_late_changes_nothing(late):
    payout = until(late)
    assert decide(payout, Standing(READY, 0), NOW) == []
    assert apply(payout, Sent("tr_other", NOW)).transfer_id in (payout.transfer_id, "tr_other")
    assert decide(until(Status.SETTLED), Sent("tr_2", NOW), NOW) == []


@pytest.mark.parametrize(
    ("owed", "amount"), [(11_000, 10_000), (50_000, 10_000), (10_999, 9_999), (1_500, 500)]
)
def test_it_sends_at_most_what_is_owed_less_what_is_held_back(owed, amount):
    assert apply(fold("po_1", [APPROVED]), Standing(READY, owed)).amount_minor == amount


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Standing(READY, 1_499), "balance_short"),
        (Standing(READY, -3), "balance_short"),
        (Refused("payee_account_unknown", "gone"), "payee_account_unknown"),
    ],
)
def test_what_cannot_be_sent_fails_before_anything_is_booked(result, code):
    payout = apply(fold("po_1", [APPROVED]), result)
    assert (payout.status, payout.failure[0], payout.amount_minor) == (Status.FAILED, code, 0)
    assert next_step(payout) is None


def test_a_refusal_is_booked_back():
    payout = apply(until(Status.BOOKED), Refused("account_invalid", "words"))
    assert (payout.status, next_step(payout)) == (Status.REFUSED, Step.REVERSE)
    payout = apply(payout, Booked("ent_9"))
    assert (payout.status, payout.failure) == (Status.FAILED, ("account_invalid", "words"))


SHORT = Refused("balance_insufficient", "words")


@pytest.mark.parametrize("account", [RESTRICTED, AccountState("active", payouts_enabled=False)])
def test_an_account_that_cannot_be_paid_is_waited_for_with_nothing_booked(account):
    payout = apply(fold("po_1", [APPROVED]), Standing(account, 11_000))
    assert (payout.status, payout.waiting[0]) == (Status.AWAITING_ACCOUNT, "account_not_ready")
    assert (next_step(payout), payout.amount_minor, payout.finished) == (Step.CLEAR, 0, False)
    since = payout.waiting_since
    assert decide(payout, Standing(account, 11_000), since + WAIT_MAX - timedelta(seconds=1)) == []
    ready = apply(payout, Standing(READY, 11_000))
    assert (ready.status, ready.amount_minor, ready.waiting) == (Status.CLEARED, 10_000, None)
    assert ready.attempt_key == payout.key, "nothing was booked before"
    (late,) = decide(payout, Standing(account, 11_000), since + WAIT_MAX)
    assert (type(late).__name__, late.code) == ("PayoutFailed", "account_not_ready")


def test_stripes_balance_is_waited_for_and_each_try_has_keys_of_its_own():
    payout = apply(until(Status.BOOKED), SHORT)
    assert next_step(payout) is Step.REVERSE
    assert entries.reversal_key(payout) == f"{payout.key}:reversal"
    payout = apply(payout, Booked("ent_9"))
    assert (payout.status, payout.waiting) == (Status.AWAITING_BALANCE, ("balance_insufficient", "words"))
    assert (payout.amount_minor, payout.undone_minor, payout.failure) == (0, (10_000,), None)
    refunded = apply(payout, Standing(READY, 6_000))
    assert refunded.amount_minor == 5_000, "what was refunded meanwhile counts"
    assert refunded.attempt_key == f"{payout.key}:2"
    again = apply(apply(apply(refunded, Booked("ent_10")), SHORT), Booked("ent_11"))
    assert (again.status, again.undone_minor) == (Status.AWAITING_BALANCE, (10_000, 5_000))
    assert again.waiting_since == payout.waiting_since, "the bound is of all waiting"
    sent = apply(apply(apply(again, Standing(READY, 11_000)), Booked("ent_12")), Sent("tr_1", NOW))
    assert (sent.status, sent.attempt_key) == (Status.SENT, f"{payout.key}:3")
    assert entries.settlement_key(sent) == f"{payout.key}:settled"


def test_an_account_that_is_restricted_in_between_is_waited_for():
    payout = apply(until(Status.BOOKED), Refused("insufficient_capabilities_for_transfer", "words"))
    payout = apply(payout, Booked("ent_9"))
    assert (payout.status, payout.waiting) == (Status.AWAITING_ACCOUNT, ("account_not_ready", "words"))
    assert payout.undone_minor == (10_000,)


def test_a_balance_that_stays_short_fails_after_the_bound():
    payout = apply(apply(until(Status.BOOKED), SHORT), Booked("ent_9"))
    at = payout.waiting_since + WAIT_MAX
    for result in (Standing(READY, 11_000), Booked("ent_10"), SHORT, Booked("ent_11")):
        (event,) = decide(payout, result, at)
        payout = evolve("po_1", payout, event)
    assert (payout.status, payout.failure) == (Status.FAILED, ("balance_insufficient", "words"))
    assert next_step(payout) is None


def test_each_thing_that_is_waited_for_is_told():
    payout = apply(fold("po_1", [APPROVED]), Standing(RESTRICTED, 11_000))
    for result in (Standing(READY, 11_000), Booked("ent_1"), SHORT, Booked("ent_2")):
        payout = apply(payout, result)
    assert payout.status is Status.AWAITING_BALANCE
    payout = apply(payout, Standing(RESTRICTED, 11_000))
    assert (payout.status, payout.undone_minor) == (Status.AWAITING_ACCOUNT, (10_000,))


def test_reversals_at_stripe_are_returned_once_each_and_never_more_than_was_sent():
    payout = apply(until(Status.SETTLED), Reversed("trr_1", 4_000, "ent_3"))
    assert (payout.status, payout.returned_minor) == (Status.SETTLED, 4_000)
    assert apply(payout, Reversed("trr_1", 4_000, "ent_3")) == payout
    with pytest.raises(RejectedError, match="payout_over_returned"):
        decide(payout, Reversed("trr_2", 6_001, "ent_4"), NOW)
    payout = apply(payout, Reversed("trr_2", 6_000, "ent_4"))
    assert (payout.status, payout.returned_minor) == (Status.RETURNED, 10_000)


def test_every_entry_sums_to_zero_and_all_of_them_leave_nothing_in_transit():
    payout = until(Status.SETTLED)
    legs = [entries.booking(payout), entries.settlement(payout), entries.returned(payout, 4_000)]
    assert [sum(amount for _, amount in one) for one in legs] == [0, 0, 0]
    sums: dict[str, int] = {}
    for account, amount in (leg for one in legs for leg in one):
        sums[account] = sums.get(account, 0) + amount
    assert sums == {"seller:seller_1:payable": 6_000, "payouts:in_transit": 0, "stripe:clearing": -6_000}


def test_events_survive_storage():
    payout, events = until(Status.BOOKED), [APPROVED]
    for result in (Refused("code", "words"), Sent("tr_1", NOW)):
        events += decide(payout, result, NOW)
    kinds = ("payout.approved", "payout.refused", "payout.sent")
    for kind, event in zip(kinds, events, strict=True):
        assert decode_event(kind, encode_event(event)) == event
